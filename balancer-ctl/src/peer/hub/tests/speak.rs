//! Nodes that know each other.

use super::*;
use crate::peer::{ReplyBody, session::DEAD_AFTER};

fn came(name: &str) -> PeerChange {
    PeerChange::Came {
        name: name.to_owned(),
    }
}

#[test]
fn three_nodes_hear_each_other_and_one_that_ends_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&folder, 1, 3);
    let [first, second, third] = &mut nodes[..] else {
        panic!()
    };
    assert_eq!(first.names(), ["lb2", "lb3"]);
    let seen = first.peer("lb2").unwrap();
    assert_eq!(seen.address, second.address);
    assert_eq!(seen.report.unwrap().name, "lb2");
    assert!(!seen.is_member);
    // Each is told what is new at once.
    third.task.publish(report("0.2.0", false));
    for node in [&*first, &*second] {
        wait_for("the new report", || {
            let report = node.peer("lb3").unwrap().report.unwrap();
            !report.ready && report.version == "0.2.0"
        });
        assert_eq!(node.peer("lb3").unwrap().version.unwrap(), "0.2.0");
    }
    assert_eq!(first.ask("lb3", RequestBody::Ping), Ok(ReplyBody::Pong));
    assert_eq!(
        first.ask("lb9", RequestBody::Ping),
        Err("there is no node `lb9`: the others are lb2, lb3".to_owned())
    );
    let changes = first.changes();
    assert_eq!(
        changes
            .iter()
            .filter(|change| **change == came("lb3"))
            .count(),
        1
    );
    let third = nodes.pop().unwrap();
    let (address, settings) = (third.address, third.settings.clone());
    drop(third);
    for node in &mut nodes {
        wait_for("the end of lb3", || {
            node.peer("lb3").unwrap().state != SessionState::Up
        });
        let view = node.peer("lb3").unwrap();
        assert_eq!((view.address, view.counters.lost), (address, 1));
        assert!(view.report.is_some());
        let end = PeerChange::Went {
            name: "lb3".to_owned(),
            reason: "it ended the connection".to_owned(),
        };
        assert!(node.changes().contains(&end));
        assert!(node.ask("lb3", RequestBody::Ping).is_err());
    }
    let _third = TestNode::start(&folder.path().join("lb3"), settings);
    for node in &nodes {
        wait_for("lb3 again", || node.hears("lb3"));
    }
    assert_eq!(nodes[0].peer("lb2").unwrap().counters.lost, 0);
    assert!(!folder.path().join("lb1/nodes.json").exists());
}

#[test]
fn a_node_that_says_nothing_any_more_is_missed_after_three_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path(), settings("lb1", free(10), &[free(11)]));
    let mut raw = RawNode::dial("127.0.0.11", node.address, &hello("lb2", 7));
    assert!(matches!(raw.next(), Some(Message::Hello(_))));
    wait_for("lb2", || {
        node.peer("lb2").is_some_and(|peer| peer.is_connected())
    });
    let began = Instant::now();
    wait_for("the end of lb2", || {
        !node.peer("lb2").unwrap().is_connected()
    });
    let took = began.elapsed();
    assert!(took > DEAD_AFTER - Duration::from_millis(500), "{took:?}");
    assert!(took < DEAD_AFTER + Duration::from_millis(1500), "{took:?}");
    let trouble = node.peer("lb2").unwrap().trouble;
    let is_said = |text: &str| text.contains("said nothing") || text.contains("refused");
    assert!(trouble.as_deref().is_some_and(is_said), "{trouble:?}");
}

#[test]
fn a_later_version_s_words_are_answered_and_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path(), settings("lb1", free(12), &[free(13)]));
    let mut raw = RawNode::dial("127.0.0.13", node.address, &hello("lb2", 7));
    assert!(matches!(raw.next(), Some(Message::Hello(_))));
    raw.say(r#"{"kind":"song","verses":[1,2]}"#);
    assert_eq!(
        raw.next_answer(),
        Some(Message::NotUnderstood {
            what: "song".to_owned()
        })
    );
    raw.say(r#"{"kind":"request","id":5,"body":{"request":"sing","loud":true}}"#);
    let sentence = "node lb1 has another version and does not understand the request `sing`";
    assert_eq!(
        raw.next_answer(),
        Some(Message::Reply {
            id: 5,
            result: Err(sentence.to_owned()).into()
        })
    );
    raw.say(r#"{"kind":"not-understood","what":"x"}"#);
    raw.say(r#"{"kind":"reply","id":99,"result":{"ok":{"reply":"sung"}}}"#);
    raw.say(r#"{"kind":"report","name":"lb9","version":"10","role":"witness","moon":1}"#);
    raw.say(r#"{"kind":"request","id":6,"body":{"request":"ping"},"new":1}"#);
    assert_eq!(
        raw.next_answer(),
        Some(Message::Reply {
            id: 6,
            result: Ok(ReplyBody::Pong).into()
        })
    );
    let view = node.peer("lb2").unwrap();
    assert_eq!(view.report.as_ref().unwrap().name, "lb2");
    assert_eq!(view.version.as_deref(), Some("10"));
    assert_eq!(view.counters.not_understood, 4);
    raw.say("{");
    assert_eq!(raw.next_answer(), None);
    wait_for("the count", || node.task.refusals().garbage == 1);
}

#[test]
fn services_of_two_mebibytes_are_pushed_and_the_answer_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&folder, 20, 2);
    let [first, second] = &mut nodes[..] else {
        panic!()
    };
    let text = "# services\n".repeat((2 << 20) / 11);
    let mut push = |second: &mut TestNode, answer: Option<Answer>| {
        let (reply, answered) = oneshot::channel();
        let body = RequestBody::Push { text: text.clone() };
        first.task.request("lb2", body.clone(), reply);
        let request = second.inbox.requests.blocking_recv().unwrap();
        assert_eq!(request.from, "lb1");
        assert!(request.body == body);
        if let Some(answer) = answer {
            request.reply.send(answer).unwrap();
        } else {
            drop(request);
        }
        answered.blocking_recv().unwrap()
    };
    let done = Ok(ReplyBody::Done);
    assert_eq!(push(second, Some(done.clone())), done);
    let refused = Err("service web: no such address".to_owned());
    assert_eq!(push(second, Some(refused.clone())), refused);
    assert_eq!(
        push(second, None),
        Err("the daemon of node lb2 did not carry it out".to_owned())
    );
    let too_long = RequestBody::Push {
        text: "a".repeat(5 << 20),
    };
    let sentence = first.ask("lb2", too_long).unwrap_err();
    assert!(
        sentence.contains("are too many for one message"),
        "{sentence}"
    );
    // An answer that is too long, and one whose node is lost.
    for is_lost in [false, true] {
        let (reply, answered) = oneshot::channel();
        first.task.request("lb2", RequestBody::Services, reply);
        let request = second.inbox.requests.blocking_recv().unwrap();
        if is_lost {
            second.task.configure(PeerSettings::default());
        } else {
            let text = "a".repeat(5 << 20);
            request
                .reply
                .send(Ok(ReplyBody::Services { text }))
                .unwrap();
        }
        let sentence = answered.blocking_recv().unwrap().unwrap_err();
        let what = if is_lost {
            "was lost before it answered"
        } else {
            "is too long"
        };
        assert!(sentence.contains(what), "{sentence}");
    }
}

#[test]
fn a_node_that_asks_too_much_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&folder, 24, 2);
    let answers: Vec<_> = (0..40)
        .map(|_| {
            let (reply, answer) = oneshot::channel();
            nodes[0].task.request("lb2", RequestBody::Services, reply);
            answer
        })
        .collect();
    let asked: Vec<_> = (0..8)
        .map(|_| nodes[1].inbox.requests.blocking_recv().unwrap())
        .collect();
    wait_for("refusals", || {
        nodes[0].peer("lb2").unwrap().counters.received > 24
    });
    assert!(nodes[1].inbox.requests.try_recv().is_err());
    for request in asked {
        request.reply.send(Ok(ReplyBody::Done)).unwrap();
    }
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.blocking_recv().unwrap())
        .collect();
    let count = |what: &str| {
        let is_it = |answer: &&Answer| answer.as_ref().is_err_and(|said| said.contains(what));
        answers.iter().filter(is_it).count()
    };
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 8);
    assert_eq!((count("is busy"), count("too much to answer")), (24, 8));
}

#[test]
fn nodes_of_one_name_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other, third) = (free(30), free(31), free(32));
    let start = |name, listen, peers: &[SocketAddr], number: &str| {
        TestNode::start(&folder.path().join(number), settings(name, listen, peers))
    };
    let first = start("lb1", one, &[other, third], "1");
    let same = start("lb1", other, &[one], "2");
    let sentence = "two nodes are called `lb1`: give one of them another `[node] name`";
    for node in [&first, &same] {
        wait_for("the sentence", || {
            let trouble = |peer: &PeerView| peer.trouble.as_deref() == Some(sentence);
            node.task.peers().iter().any(trouble)
        });
    }
    assert!(first.task.refusals().name > 0);
    drop(same);
    let second = start("lb2", other, &[one], "3");
    wait_for("lb2", || first.hears("lb2") && second.hears("lb1"));
    let _third = start("lb2", third, &[one], "4");
    wait_for("the second lb2", || {
        first.task.peers().iter().any(|peer| {
            let trouble = peer.trouble.as_deref().unwrap_or_default();
            peer.address == third && trouble.contains("calls itself `lb2`")
                || trouble.contains("two nodes are called `lb2`")
        })
    });
    assert!(first.hears("lb2"));
    assert_eq!(first.peer("lb2").unwrap().address, other);
    assert_eq!(first.peer("lb2").unwrap().counters.lost, 0);
}

#[test]
fn nodes_that_dial_each_other_at_once_come_to_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let mut nodes = cluster(&folder, 40, 2);
        std::thread::sleep(Duration::from_millis(100));
        for node in &mut nodes {
            let peers = node.task.peers();
            assert_eq!(peers.len(), 1);
            assert!(peers[0].is_connected());
            assert_eq!(peers[0].counters.lost, 0);
            let comings = node.changes();
            let is_coming = |change: &&PeerChange| matches!(change, PeerChange::Came { .. });
            assert_eq!(comings.iter().filter(is_coming).count(), 1, "{comings:?}");
        }
    }
}

#[test]
fn settings_that_change_take_effect_and_those_that_do_not_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&folder, 44, 2);
    let same = nodes[0].settings.clone();
    nodes[0].task.configure(same.clone());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(nodes[1].peer("lb1").unwrap().counters.lost, 0);
    let renamed = PeerSettings {
        name: "new".to_owned(),
        ..same.clone()
    };
    nodes[0].task.configure(renamed);
    wait_for("the new name", || {
        nodes[1].hears("new") && nodes[0].hears("lb2")
    });
    let without = PeerSettings {
        peers: Vec::new(),
        ..same.clone()
    };
    nodes[0].task.configure(without);
    wait_for("no peers", || nodes[0].task.peers().is_empty());
    nodes[0].task.configure(PeerSettings { key: None, ..same });
    wait_for("not listening", || nodes[0].task.listening().is_none());
}

#[test]
fn what_keeps_a_node_from_listening_is_said_until_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.46:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (mut task, _inbox) = PeerTask::start(folder.path()).unwrap();
    task.configure(settings("lb1", address, &[]));
    wait_for("the sentence", || !task.obstacles().is_empty());
    let sentence = task.obstacles().remove(0);
    let begin = format!("cannot listen for other nodes on {address}: ");
    assert!(sentence.starts_with(&begin), "{sentence}");
    drop(taken);
    wait_for("listening", || task.listening() == Some(address));
    assert_eq!(task.obstacles(), Vec::<String>::new());
    task.configure(PeerSettings {
        interface: Some("none-such".to_owned()),
        ..settings("lb1", address, &[])
    });
    wait_for("the interface", || {
        let obstacles = task.obstacles();
        obstacles
            .iter()
            .any(|sentence| sentence.contains(" over none-such: "))
    });
}

#[test]
fn a_node_that_is_in_its_own_list_of_nodes_finds_out_and_leaves_itself_out() {
    let folder = tempfile::tempdir().unwrap();
    let other = free(49);
    let port = free(48).port();
    let own = SocketAddr::from(([127, 0, 0, 48], port));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let mut node = TestNode::start(folder.path(), settings("lb1", everywhere, &[own, other]));
    let addresses = |node: &TestNode| -> Vec<_> {
        let peers = node.task.peers().into_iter();
        peers.map(|peer| peer.address).collect()
    };
    wait_for("only the other node", || addresses(&node) == [other]);
    assert_eq!(node.task.refusals(), RefusalCounters::default());
    assert_eq!(node.changes(), []);
    // Settings that are given once more do not bring it back.
    node.task.configure(node.settings.clone());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(addresses(&node), [other]);
    // Nor does it join itself.
    let (reply, answer) = oneshot::channel();
    node.task
        .join(key(1), folder.path().join("key"), own, reply);
    assert_eq!(
        answer.blocking_recv().unwrap(),
        Err(format!(
            "cannot join the node at {own}: that is this node itself"
        ))
    );
}

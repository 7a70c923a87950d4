//! Nodes that join and leave.

use super::*;
use crate::peer::{NodeRecord, Removal, task::NODES_FILE};

/// A node without a cluster, at an address where nobody listens yet.
fn lone(folder: &TempDir, name: &str, host: u8) -> TestNode {
    let alone = PeerSettings {
        key: None,
        ..settings(name, free(host), &[])
    };
    TestNode::start(&folder.path().join(name), alone)
}

/// The same node with the cluster's key, as the first one has it.
fn keyed(folder: &TempDir, name: &str, host: u8) -> TestNode {
    TestNode::start(&folder.path().join(name), settings(name, free(host), &[]))
}

/// Where a node stores its key.
fn key_file(node: &TestNode) -> PathBuf {
    node.folder.join("cluster.key")
}

type Joined = oneshot::Receiver<Result<Vec<NodeRecord>, String>>;

fn ask_to_join(node: &mut TestNode, key: ClusterKey, target: SocketAddr) -> Joined {
    let (reply, answer) = oneshot::channel();
    let key_file = key_file(node);
    node.task.join(key, key_file, target, reply);
    answer
}

fn join(node: &mut TestNode, target: SocketAddr) -> Result<Vec<String>, String> {
    let answer = ask_to_join(node, key(1), target);
    let nodes = answer.blocking_recv().unwrap()?;
    node.settings.key = Some(key(1));
    let mut names: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
    names.sort();
    Ok(names)
}

fn remove(node: &mut TestNode, name: &str) -> Result<Removal, String> {
    let (reply, answer) = oneshot::channel();
    node.task.remove(name, reply);
    answer.blocking_recv().unwrap()
}

fn restart(folder: &TempDir, node: TestNode) -> TestNode {
    let settings = node.settings.clone();
    drop(node);
    TestNode::start(&folder.path().join(&settings.name), settings)
}

#[test]
fn three_nodes_join_one_after_the_other_leave_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keyed(&folder, "lb1", 70);
    let mut second = lone(&folder, "lb2", 71);
    let mut third = lone(&folder, "lb3", 72);
    assert_eq!(join(&mut second, first.address).unwrap(), ["lb1", "lb2"]);
    wait_for("the pair", || first.hears("lb2") && second.hears("lb1"));
    // By the second: the first hears of it.
    assert_eq!(
        join(&mut third, second.address).unwrap(),
        ["lb1", "lb2", "lb3"]
    );
    wait_for("all three", || {
        first.hears("lb3") && second.hears("lb3") && third.hears("lb1") && third.hears("lb2")
    });
    assert!(first.changes().contains(&PeerChange::Members));
    assert!(third.peer("lb1").unwrap().is_member);

    // All know all after they were started again.
    first = restart(&folder, first);
    second = restart(&folder, second);
    third = restart(&folder, third);
    for node in [&first, &second, &third] {
        wait_for("all three again", || {
            node.task.peers().iter().all(|peer| peer.report.is_some())
        });
        assert_eq!(node.names().len(), 2);
    }

    assert_eq!(remove(&mut first, "lb3"), Ok(Removal::Told));
    wait_for("lb3 out", || {
        first.names() == ["lb2"] && second.names() == ["lb1"] && third.names().is_empty()
    });
    assert!(third.changes().contains(&PeerChange::TakenOut));
    assert!(first.hears("lb2") && second.hears("lb1"));
    assert_eq!(
        remove(&mut first, "lb3"),
        Err("there is no node `lb3`: the others are lb2".to_owned())
    );

    assert_eq!(
        join(&mut third, first.address).unwrap(),
        ["lb1", "lb2", "lb3"]
    );
    wait_for("lb3 again", || first.hears("lb3") && second.hears("lb3"));

    // By its own name a node takes itself out.
    assert_eq!(remove(&mut second, "lb2"), Ok(Removal::Told));
    wait_for("lb2 out", || {
        first.names() == ["lb3"] && third.names() == ["lb1"]
    });
    assert_eq!(second.names(), Vec::<String>::new());
    assert!(remove(&mut second, "lb2").is_err());
    assert_eq!(
        join(&mut second, third.address).unwrap(),
        ["lb1", "lb2", "lb3"]
    );
    wait_for("lb2 again", || first.hears("lb2") && third.hears("lb2"));
}

#[test]
fn a_node_taken_out_while_it_was_away_is_told_when_it_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keyed(&folder, "lb1", 74);
    let mut second = lone(&folder, "lb2", 75);
    join(&mut second, first.address).unwrap();
    wait_for("the pair", || first.hears("lb2"));
    let away = second.settings.clone();
    drop(second);
    wait_for("lb2 away", || !first.hears("lb2"));
    assert_eq!(remove(&mut first, "lb2"), Ok(Removal::Unreached));
    let mut second = TestNode::start(&folder.path().join("lb2"), away);
    wait_for("lb2 alone", || {
        second.changes().contains(&PeerChange::TakenOut)
    });
    assert_eq!(second.names(), Vec::<String>::new());
    assert_eq!(first.names(), Vec::<String>::new());
    join(&mut second, first.address).unwrap();
    wait_for("the pair again", || {
        first.hears("lb2") && second.hears("lb1")
    });
}

#[test]
fn who_cannot_join_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keyed(&folder, "lb1", 76);
    let mut same = lone(&folder, "lb1x", 77);
    same.task.configure(PeerSettings {
        name: "lb1".to_owned(),
        ..same.settings.clone()
    });
    let at = first.address;
    assert_eq!(
        join(&mut same, at),
        Err(format!(
            "cannot join the node at {at}: two nodes are called `lb1`: give one of them another `[node] name`"
        ))
    );
    let mut stranger = lone(&folder, "lb2", 78);
    let answer = ask_to_join(&mut stranger, key(2), at);
    assert_eq!(
        answer.blocking_recv().unwrap(),
        Err(format!("cannot join the node at {at}: it has another key"))
    );
    let nobody = free(79);
    let sentence = join(&mut stranger, nobody).unwrap_err();
    let begin = format!("cannot join the node at {nobody}: ");
    assert!(sentence.starts_with(&begin), "{sentence}");
    assert_eq!(stranger.task.listening(), None);

    for (name, host) in [("lb2", 80), ("lb3", 81), ("lb4", 82)] {
        let mut node = lone(&folder, &format!("{name}-{host}"), host);
        node.task.configure(PeerSettings {
            name: name.to_owned(),
            ..node.settings.clone()
        });
        join(&mut node, at).unwrap();
    }
    let sentence = join(&mut stranger, at).unwrap_err();
    assert!(
        sentence.contains("there is a node `lb2` already, at 127.0.0.80:"),
        "{sentence}"
    );
    stranger.task.configure(PeerSettings {
        name: "lb5".to_owned(),
        ..stranger.settings.clone()
    });
    let sentence = join(&mut stranger, at).unwrap_err();
    assert!(sentence.contains("there are 4 nodes already"), "{sentence}");
    let sentence = join(&mut first, free(83)).unwrap_err();
    assert!(
        sentence.starts_with("this node is in a cluster already, with `lb2`"),
        "{sentence}"
    );
    assert_eq!(first.names(), ["lb2", "lb3", "lb4"]);
}

#[test]
fn a_configured_node_is_taken_out_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&folder, 84, 2);
    let address = nodes[1].address;
    assert_eq!(
        remove(&mut nodes[0], "lb2"),
        Err(format!(
            "node `lb2` is configured as {address}: take it out of the configuration"
        ))
    );
    assert!(nodes[0].hears("lb2"));
}

#[test]
fn a_list_of_nodes_that_is_garbage_is_said_and_mended_by_joining_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = keyed(&folder, "lb1", 86);
    let mut second = lone(&folder, "lb2", 87);
    join(&mut second, first.address).unwrap();
    wait_for("the pair", || first.hears("lb2"));
    let settings = second.settings.clone();
    drop(second);
    let file = folder.path().join("lb2").join(NODES_FILE);
    std::fs::write(&file, "{\"version\":1").unwrap();
    let mut second = TestNode::start(&folder.path().join("lb2"), settings);
    wait_for("the sentence", || !second.task.obstacles().is_empty());
    assert!(second.task.obstacles()[0].contains("cannot be read"));
    assert_eq!(join(&mut second, first.address).unwrap(), ["lb1", "lb2"]);
    wait_for("the pair again", || {
        first.hears("lb2") && second.hears("lb1")
    });
    assert_eq!(second.task.obstacles(), Vec::<String>::new());
}

#[test]
fn the_key_is_stored_once_a_node_has_joined_and_stays_as_it_was_if_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = keyed(&folder, "lb1", 90);
    let mut second = lone(&folder, "lb2", 91);
    let file = key_file(&second);
    // With another key, and where nobody answers: nothing is left, or what was there.
    for old in [None, Some(key(7))] {
        if let Some(old) = &old {
            old.write(&file).unwrap();
        }
        for (key, target) in [(key(2), first.address), (key(1), free(92))] {
            let answer = ask_to_join(&mut second, key, target);
            answer.blocking_recv().unwrap().unwrap_err();
            assert_eq!(ClusterKey::read(&file), Ok(old.clone()));
            assert!(!file.with_extension("key.joining").exists());
        }
    }
    join(&mut second, first.address).unwrap();
    assert_eq!(ClusterKey::read(&file), Ok(Some(key(1))));
    // Where the key cannot be stored, the node does not join.
    let mut third = lone(&folder, "lb3", 93);
    std::fs::create_dir_all(key_file(&third)).unwrap();
    let sentence = join(&mut third, first.address).unwrap_err();
    assert!(sentence.starts_with("the key file "), "{sentence}");
    assert_eq!(first.names(), ["lb2"]);
    assert_eq!(third.names(), Vec::<String>::new());
}

#[test]
fn a_node_joins_one_other_at_a_time_and_lets_nobody_join_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keyed(&folder, "lb1", 94);
    // Somebody who takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.95:0").unwrap();
    let joining = ask_to_join(&mut first, key(3), silent.local_addr().unwrap());
    let _connection = silent.accept().unwrap();
    let again = ask_to_join(&mut first, key(1), free(96));
    assert_eq!(
        again.blocking_recv().unwrap().unwrap_err(),
        "this node joins another one at present: wait until that has ended"
    );
    let mut second = lone(&folder, "lb2", 97);
    let at = first.address;
    assert_eq!(
        join(&mut second, at).unwrap_err(),
        format!(
            "cannot join the node at {at}: node lb1 itself joins another one at present: try again in a few seconds"
        )
    );
    joining.blocking_recv().unwrap().unwrap_err();
    assert_eq!(join(&mut second, at).unwrap(), ["lb1", "lb2"]);
}

#[test]
fn a_node_that_leaves_unheard_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let first = keyed(&folder, "lb1", 98);
    let mut second = lone(&folder, "lb2", 99);
    join(&mut second, first.address).unwrap();
    wait_for("the pair", || first.hears("lb2") && second.hears("lb1"));
    let away = first.settings.clone();
    drop(first);
    wait_for("lb1 away", || !second.hears("lb1"));
    assert_eq!(remove(&mut second, "lb2"), Ok(Removal::LeftUnheard));
    wait_for("lb2 alone", || second.names().is_empty());
    // It joins again as if nothing had been.
    let first = TestNode::start(&folder.path().join("lb1"), away);
    assert_eq!(join(&mut second, first.address).unwrap(), ["lb1", "lb2"]);
    wait_for("the pair again", || {
        first.hears("lb2") && second.hears("lb1")
    });
}

#[test]
fn where_the_configuration_names_the_key_s_file_nobody_joins() {
    let folder = tempfile::tempdir().unwrap();
    let named = PeerSettings {
        can_be_joined: false,
        ..settings("lb1", free(100), &[])
    };
    let first = TestNode::start(&folder.path().join("lb1"), named);
    let mut second = lone(&folder, "lb2", 101);
    let at = first.address;
    assert_eq!(
        join(&mut second, at).unwrap_err(),
        format!(
            "cannot join the node at {at}: the configuration there names the nodes and the file with their key: add this one to both"
        )
    );
    assert_eq!(first.names(), Vec::<String>::new());
}

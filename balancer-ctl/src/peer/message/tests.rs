use proptest::prelude::*;

use super::*;
use crate::os::fuzz;

fn report() -> NodeReport {
    NodeReport {
        name: "lb1".to_owned(),
        version: "0.1.0".to_owned(),
        role: NodeRole::Active,
        ready: true,
        maintenance: false,
        overall: NodeOverall::Limited,
        reasons: vec!["a real server is down".to_owned()],
        services: vec![ServiceSummary {
            name: "web".to_owned(),
            reals_up: 1,
            reals_total: 2,
        }],
        vrrp: vec![RouterSummary {
            name: "outside".to_owned(),
            state: "active".to_owned(),
            priority: 150,
            addresses: vec!["192.168.1.35".to_owned()],
        }],
        tracked: vec![TrackedSummary {
            name: "eth1".to_owned(),
            up: true,
        }],
        services_digest: "abc".to_owned(),
        vrrp_digest: "def".to_owned(),
    }
}

fn decode(text: &str) -> Result<Received, String> {
    Message::decode(text.as_bytes())
}

fn known(message: Message) -> Result<Received, String> {
    Ok(Received::Known(Box::new(message)))
}

#[test]
fn every_message_is_read_as_it_was_written() {
    let record = NodeRecord {
        name: "lb2".to_owned(),
        address: "[2001:db8::2]:4446".parse().unwrap(),
        stamp: 1_700_000_000_000,
        removed: true,
    };
    let request = |body| Message::Request { id: 7, body };
    let reply = |result: Result<ReplyBody, String>| Message::Reply {
        id: u64::MAX,
        result: result.into(),
    };
    let text = || "[[service]]\naddress = \"192.0.2.1:80\"\n".to_owned();
    let messages = [
        Message::Hello(Hello {
            name: "lb1".to_owned(),
            version: "0.1.0".to_owned(),
            protocol: PROTOCOL,
            instance: u64::MAX,
            address: Some(record.address),
            joining: true,
        }),
        Message::Refused(Refused {
            reason: "no".to_owned(),
            removed: true,
        }),
        Message::Report(report()),
        Message::Nodes {
            nodes: vec![record.clone()],
        },
        request(RequestBody::Ping),
        request(RequestBody::Succeed),
        request(RequestBody::GiveUp),
        request(RequestBody::Services),
        request(RequestBody::Push { text: text() }),
        request(RequestBody::Join {
            name: "lb3".to_owned(),
            address: record.address,
            stamp: 7,
        }),
        request(RequestBody::Leave {
            name: "lb3".to_owned(),
        }),
        reply(Ok(ReplyBody::Pong)),
        reply(Ok(ReplyBody::Done)),
        reply(Ok(ReplyBody::Services { text: text() })),
        reply(Ok(ReplyBody::Joined {
            nodes: vec![record],
        })),
        reply(Err("no".to_owned())),
        Message::NotUnderstood {
            what: "dance".to_owned(),
        },
    ];
    for message in messages {
        assert_eq!(Message::decode(&message.encode()), known(message));
    }
}

#[test]
fn a_request_looks_like_this() {
    let request = Message::Request {
        id: 7,
        body: RequestBody::Leave {
            name: "lb3".to_owned(),
        },
    };
    assert_eq!(
        String::from_utf8(request.encode()).unwrap(),
        r#"{"kind":"request","id":7,"body":{"request":"leave","name":"lb3"}}"#
    );
}

#[test]
fn keys_and_values_of_a_later_version_are_passed_over() {
    let later = r#"{"kind":"report","name":"lb1","version":"9.0.0","role":"witness","overall":"splendid","moon":"full","ready":true}"#;
    assert_eq!(
        decode(later),
        known(Message::Report(NodeReport {
            name: "lb1".to_owned(),
            version: "9.0.0".to_owned(),
            ready: true,
            ..NodeReport::default()
        }))
    );
    let later = r#"{"kind":"request","id":1,"body":{"request":"ping","loud":true},"urgent":1}"#;
    assert_eq!(
        decode(later),
        known(Message::Request {
            id: 1,
            body: RequestBody::Ping
        })
    );
}

#[test]
fn kinds_of_a_later_version_are_told_from_garbage() {
    assert_eq!(
        decode(r#"{"kind":"song","verses":3}"#),
        Ok(Received::Unknown {
            what: "song".to_owned()
        })
    );
    assert_eq!(
        decode(r#"{"kind":"request","id":4,"body":{"request":"sing\u001b"}}"#),
        Ok(Received::UnknownRequest {
            id: 4,
            what: "sing\\u{1b}".to_owned()
        })
    );
    assert_eq!(
        decode(r#"{"kind":"reply","id":5,"result":{"ok":{"reply":"sung"}}}"#),
        Ok(Received::UnknownReply { id: 5 })
    );
    for garbage in [
        "",
        "null",
        "[]",
        r#"{"kind":7}"#,
        r#"{"kind":"hello"}"#,
        r#"{"kind":"request","id":4}"#,
        r#"{"kind":"request","id":4,"body":{"request":"push"}}"#,
        r#"{"kind":"request","id":-4,"body":{"request":"ping"}}"#,
        r#"{"kind":"nodes","nodes":[{"name":"a","address":"here","stamp":1}]}"#,
    ] {
        assert!(decode(garbage).is_err(), "{garbage}");
    }
    let deep = format!(r#"{{"kind":"song","a":{}}}"#, "[".repeat(100_000));
    assert!(decode(&deep).is_err());
}

#[test]
fn what_people_are_shown_is_printable_and_short() {
    let mut sent = report();
    sent.reasons = vec!["\u{1b}[31m".to_owned(); 20];
    sent.services[0].name = "a".repeat(10_000);
    sent.vrrp[0].state = "\u{202e}".to_owned();
    let mut seen = report();
    seen.reasons = vec!["\\u{1b}[31m".to_owned(); MAX_REASONS];
    seen.services[0].name = "a".repeat(MAX_SHOWN);
    seen.vrrp[0].state = "\\u{202e}".to_owned();
    assert_eq!(
        Message::decode(&Message::Report(sent).encode()),
        known(Message::Report(seen))
    );
}

#[test]
fn names_have_no_spaces_and_an_end() {
    for good in ["lb1", "lb1.example.com", "\u{fc}ber", &"a".repeat(255)] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        " ",
        "lb 1",
        "lb1\n",
        "\u{1b}[0m",
        "a\u{202e}",
        &"a".repeat(256),
    ] {
        let sentence = check_name(bad).unwrap_err();
        assert!(fuzz::is_printable_line(&sentence), "{sentence}");
    }
}

const SEEDS: &[&[u8]] = &[
    br#"{"kind":"hello","name":"lb1","version":"0.1.0","protocol":1,"instance":5,"joining":false}"#,
    br#"{"kind":"request","id":7,"body":{"request":"join","name":"lb3","address":"192.0.2.1:1"}}"#,
    br#"{"kind":"reply","id":7,"result":{"ok":{"reply":"joined","nodes":[]}}}"#,
    br#"{"kind":"report","name":"lb1","version":"1","vrrp":[{"name":"a","state":"b","priority":1,"addresses":[]}]}"#,
];

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in fuzz::bytes(SEEDS)) {
        if let Err(sentence) = Message::decode(&bytes) {
            prop_assert!(fuzz::is_printable_line(&sentence), "{}", sentence);
        }
    }
}

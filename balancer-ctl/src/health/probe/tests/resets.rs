//! Servers that answer at once and go without having read, so that their kernel resets the connection (as xinetd's do).

use socket2::SockRef;

use super::*;
use crate::{health::RequestedWeight, model::check::AgentProbe};

/// On each connection sends this after a while, and resets the connection.
async fn resetting(address: &str, after: Duration, answer: &'static [u8]) -> Server {
    Server::start_on(address, async move |mut stream| {
        tokio::time::sleep(after).await;
        let _ = stream.write_all(answer).await;
        let socket = SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    })
    .await
}

/// Each family; the reset comes before the probe knows that it is connected, and while it waits.
const WAYS: [(&str, Duration); 4] = [
    ("127.0.0.1:0", Duration::ZERO),
    ("127.0.0.1:0", Duration::from_millis(30)),
    ("[::1]:0", Duration::ZERO),
    ("[::1]:0", Duration::from_millis(30)),
];

#[test]
fn what_was_read_before_a_reset_is_judged_first() {
    run(async {
        for (address, after) in WAYS {
            for send in [&b""[..], b"EHLO x\r\n"] {
                let server = resetting(address, after, b"220 hello\r\n").await;
                assert_eq!(
                    ask(server.address, tcp(send, Some("^220"))).await,
                    pass("answered \"220 hello\"")
                );
                assert_eq!(
                    ask(server.address, tcp(send, Some("^500"))).await,
                    fail("answer \"220 hello\" does not match /^500/")
                );
                let server = resetting(address, after, b"").await;
                assert_eq!(
                    ask(server.address, tcp(send, Some("^220"))).await,
                    fail("connection reset")
                );
            }
        }
    });
}

#[test]
fn an_agents_words_before_a_reset_hold() {
    run(async {
        for (address, after) in WAYS {
            for send in [&b""[..], b"state?\n"] {
                let agent = || Probe::Agent(AgentProbe { send: send.into() });
                let server = resetting(address, after, b"50%").await;
                assert_eq!(
                    ask(server.address, agent()).await,
                    Outcome::Passed {
                        note: "agent: 50%".into(),
                        agent_reply: AgentReply {
                            weight: Some(RequestedWeight::Percent(50)),
                            ..AgentReply::default()
                        },
                    }
                );
                let server = resetting(address, after, b"").await;
                assert_eq!(ask(server.address, agent()).await, fail("connection reset"));
            }
        }
    });
}

#[test]
fn an_http_answer_before_a_reset_is_judged_first() {
    run(async {
        let probe = |body: Option<&str>| {
            http(HttpProbe {
                body: body.and_then(pattern),
                ..HttpProbe::default()
            })
        };
        for (address, after) in WAYS {
            // Without a length, only an orderly end makes a body whole.
            for (answer, body, outcome) in [
                (&b"HTTP/1.0 200 OK\r\n\r\nok"[..], None, pass("http 200")),
                (b"HTTP/1.0 200 OK\r\n\r\nok", Some("ok"), pass("http 200")),
                (b"HTTP/1.0 200 OK\r\n\r\nok", Some("^ok$"), pass("http 200")),
                (
                    b"HTTP/1.0 200 OK\r\n\r\nok",
                    Some("no"),
                    fail("connection reset"),
                ),
                (
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                    Some("no"),
                    fail("body does not match /no/"),
                ),
                (
                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
                    Some("ok"),
                    pass("http 200"),
                ),
                (
                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
                    Some("no"),
                    fail("connection reset"),
                ),
                (b"HTTP/1.1 200", None, fail("connection reset")),
            ] {
                let server = resetting(address, after, answer).await;
                assert_eq!(
                    ask(server.address, probe(body)).await,
                    outcome,
                    "{address} {after:?} {body:?}"
                );
            }
        }
    });
}

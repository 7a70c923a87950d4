//! Datagrams, DNS, agents and gRPC.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata},
};
use hyper::{HeaderMap, Response, body::Bytes};
use tokio::net::UdpSocket;

use super::*;
use crate::{
    health::RequestedWeight,
    model::{
        AdminState,
        check::{AgentProbe, DnsProbe, GrpcProbe},
    },
};

fn udp(send: &[u8], expect: Option<&str>) -> Probe {
    Probe::Udp(exchange(send, expect))
}

/// A UDP server whose answers `answer` makes; `None` = it keeps silent.
async fn udp_server(
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::task::spawn_local(async move {
        let mut question = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            if let Some(answer) = answer(&question[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, task)
}

#[test]
fn a_datagram_is_answered_or_not() {
    run(async {
        let (address, _server) =
            udp_server(|question| Some([b"you said ", question].concat())).await;
        assert_eq!(
            ask(address, udp(b"a\n", Some("^you said a"))).await,
            pass("answered \"you said a\"")
        );
        assert_eq!(
            ask(address, udp(b"a", None)).await,
            pass("answered \"you said a\"")
        );
        assert_eq!(
            ask(address, udp(b"a", Some("b"))).await,
            fail("answer \"you said a\" does not match /b/")
        );
        let (address, _server) = udp_server(|_| None).await;
        times_out(address, udp(b"a", Some("b"))).await;
        // Silence is no refusal; it is waited for until shortly before the timeout.
        let prober = make_prober(&check_target(address, udp(b"a", None))).unwrap();
        assert_eq!(
            timeout(LIMIT, prober.probe()).await,
            Ok(pass("no answer and no icmp error"))
        );
    });
}

#[test]
fn a_port_where_nobody_listens_is_down() {
    run(async {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(any).await.unwrap();
            let address = socket.local_addr().unwrap();
            drop(socket);
            let unreachable = fail("port unreachable");
            assert_eq!(ask(address, udp(b"", None)).await, unreachable);
            assert_eq!(ask(address, udp(b"x", Some("x"))).await, unreachable);
        }
    });
}

fn dns(answer: Option<&str>) -> Probe {
    Probe::Dns(DnsProbe {
        name: "www.example".into(),
        record: "A".into(),
        answer: answer.map(str::to_owned),
    })
}

#[test]
fn a_dns_answer_must_have_no_error_and_what_is_wanted() {
    run(async {
        let (address, _server) = udp_server(|question| {
            let question = Message::from_vec(question).unwrap();
            let name = question.queries[0].name.clone();
            let mut answer = question.clone();
            answer.metadata.message_type = MessageType::Response;
            let data = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
            answer.add_answer(Record::from_rdata(name, 60, data));
            Some(answer.to_vec().unwrap())
        })
        .await;
        assert_eq!(
            ask(address, dns(None)).await,
            pass("dns noerror, 1 answers")
        );
        assert_eq!(
            ask(address, dns(Some("192.0.2.7"))).await,
            pass("dns 192.0.2.7")
        );
        assert_eq!(
            ask(address, dns(Some("192.0.2.8"))).await,
            fail("dns 192.0.2.7, wanted 192.0.2.8")
        );
        let (address, _server) = udp_server(|question| {
            let mut answer = Message::from_vec(question).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = ResponseCode::NXDomain;
            Some(answer.to_vec().unwrap())
        })
        .await;
        assert_eq!(ask(address, dns(None)).await, fail("dns nxdomain"));
        // Not an answer: it has another's number.
        let (address, _server) = udp_server(|question| {
            let mut answer = Message::from_vec(question).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.id = answer.metadata.id.wrapping_add(1);
            Some(answer.to_vec().unwrap())
        })
        .await;
        times_out(address, dns(None)).await;
        let (address, _server) = udp_server(|_| Some(b"hello".to_vec())).await;
        let Outcome::Failed { reason } = ask(address, dns(None)).await else {
            panic!("it passed");
        };
        assert!(reason.starts_with("the answer is not dns: "), "{reason}");
    });
}

#[test]
fn an_agents_words_become_its_reply() {
    run(async {
        let agent = || {
            Probe::Agent(AgentProbe {
                send: b"x\n".into(),
            })
        };
        let server = Server::answering(b"drain 30% down # disk full\n").await;
        assert_eq!(
            ask(server.address, agent()).await,
            Outcome::Passed {
                note: "agent: drain 30% down # disk full".into(),
                agent_reply: AgentReply {
                    weight: Some(RequestedWeight::Percent(30)),
                    state: Some(AdminState::Drain),
                    down: Some("down: disk full".into()),
                },
            }
        );
        let server = Server::answering(b"").await;
        assert_eq!(
            ask(server.address, agent()).await,
            fail("the agent said nothing")
        );
        let server = Server::answering(b"hello there").await;
        assert_eq!(
            ask(server.address, agent()).await,
            fail("the agent said \"hello there\": what is \"hello\"?")
        );
        let server = Server::start(
            async |mut stream| {
                while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
            },
        )
        .await;
        assert_eq!(
            ask(server.address, agent()).await,
            fail("the agent's line is longer than 1024 bytes")
        );
    });
}

#[test]
fn an_agents_last_reply_still_holds() {
    run(async {
        let lines = std::cell::Cell::new(0);
        let server = Server::start(async move |mut stream| {
            let line: &[u8] = [&b"down drain 50%\n"[..], b"nonsense\n", b"up\n"][lines.get()];
            lines.set(lines.get() + 1);
            stream.write_all(line).await.unwrap();
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let prober = make_prober(&check_target(
            server.address,
            Probe::Agent(AgentProbe::default()),
        ))
        .unwrap();
        assert!(matches!(prober.probe().await, Outcome::Passed { .. }));
        assert!(matches!(prober.probe().await, Outcome::Failed { .. }));
        let Outcome::Passed { agent_reply, .. } = prober.probe().await else {
            panic!("it is a word of the language");
        };
        assert_eq!(
            agent_reply,
            AgentReply {
                weight: Some(RequestedWeight::Percent(50)),
                state: Some(AdminState::Drain),
                down: None,
            }
        );
    });
}

fn grpc() -> Probe {
    Probe::Grpc(Box::new(GrpcProbe {
        service: "shop".into(),
        tls: None,
    }))
}

/// A gRPC server that sends this body and then this status.
async fn grpc_server(body: &'static [u8], status: &'static str) -> Server {
    Server::start(async move |stream| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            let mut head = Response::new(());
            if body.is_empty() {
                *head.headers_mut() = trailers;
                respond.send_response(head, true).unwrap();
                continue;
            }
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(body), false).unwrap();
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await
}

#[test]
fn a_grpc_server_says_whether_it_serves() {
    run(async {
        for (body, status, answer) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], "0", pass("grpc SERVING")),
            (b"\0\0\0\0\x02\x08\x02", "0", fail("grpc NOT_SERVING")),
            (b"\0\0\0\0\0", "0", fail("grpc UNKNOWN")),
            (
                b"\0\0\0\0\x02\x08\x09",
                "0",
                fail("the answer is no gRPC health status"),
            ),
            (b"\0\0\0\0\x02\x08\x01", "14", fail("grpc UNAVAILABLE")),
            (
                b"",
                "5",
                fail("grpc NOT_FOUND (it does not know the service)"),
            ),
            (
                b"",
                "12",
                fail("grpc UNIMPLEMENTED (it has no health service)"),
            ),
            (b"", "99", fail("grpc status 99")),
        ] {
            let server = grpc_server(body, status).await;
            assert_eq!(ask(server.address, grpc()).await, answer);
        }
        let server = Server::greeting(b"").await;
        times_out(server.address, grpc()).await;
    });
}

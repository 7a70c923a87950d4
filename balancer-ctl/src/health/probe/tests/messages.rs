//! Datagrams, agents and gRPC.

use hyper::{HeaderMap, Response, body::Bytes};

use super::*;
use crate::{
    health::RequestedWeight,
    model::{
        AdminState,
        check::{AgentProbe, GrpcProbe},
    },
};

fn udp(send: &[u8], expect: Option<&str>) -> Probe {
    Probe::Udp(exchange(send, expect))
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

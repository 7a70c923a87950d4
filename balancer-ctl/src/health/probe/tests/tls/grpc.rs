//! gRPC over TLS: whose certificate is wanted, and what the server is asked.

use std::{cell::RefCell, rc::Rc};

use hyper::{HeaderMap, Response, body::Bytes};

use super::*;
use crate::model::check::GrpcProbe;

/// What a server saw: the name in the handshake, the protocol agreed on, and the request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: Option<String>,
    protocol: Option<Vec<u8>>,
    request: String,
}

/// A gRPC server that serves, with a certificate of these names, and what it sees.
async fn server(
    authority: &Authority,
    names: &[&str],
    protocols: &[&str],
) -> (Server, Rc<RefCell<Vec<Seen>>>) {
    let acceptor = acceptor(&authority.sign(named(names)), None, protocols);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let theirs = seen.clone();
    let server = Server::start(async move |stream| {
        // Clients that do not like the certificate go.
        let Ok(stream) = acceptor.accept(stream).await else {
            return;
        };
        let (_, session) = stream.get_ref();
        let name = session.server_name().map(str::to_owned);
        let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
        // Those to whom the protocol does not matter go too.
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            theirs.borrow_mut().push(Seen {
                name: name.clone(),
                protocol: protocol.clone(),
                request: format!("{} {}", request.method(), request.uri()),
            });
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let serving = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
            stream.send_data(serving, false).unwrap();
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    (server, seen)
}

fn grpc(tls: Tls) -> Probe {
    Probe::Grpc(Box::new(GrpcProbe {
        service: "shop".into(),
        tls: Some(tls),
    }))
}

fn called(name: &str, tls: Tls) -> Tls {
    Tls {
        server_name: Some(name.into()),
        ..tls
    }
}

#[test]
fn the_address_is_the_name_unless_another_is_given() {
    run(async {
        let authority = Authority::new();
        for (certified, tls, host, name) in [
            ("127.0.0.1", authority.tls(), "127.0.0.1", None),
            (
                "www.example",
                called("www.example", authority.tls()),
                "www.example",
                Some("www.example".to_owned()),
            ),
        ] {
            let (server, seen) = server(&authority, &[certified], &["h2", "http/1.1"]).await;
            let answer = ask(server.address, grpc(tls)).await;
            assert_eq!(answer, pass("grpc SERVING"));
            let port = server.address.port();
            let expected = Seen {
                name,
                protocol: Some(b"h2".to_vec()),
                request: format!("POST https://{host}:{port}/grpc.health.v1.Health/Check"),
            };
            assert_eq!(*seen.borrow(), [expected]);
        }
    });
}

#[test]
fn a_certificate_of_another_name_fails() {
    run(async {
        let authority = Authority::new();
        let (server, seen) = server(&authority, &["www.example"], &["h2"]).await;
        for (tls, answer) in [
            (
                authority.tls(),
                fail("certificate is for www.example, not 127.0.0.1"),
            ),
            (
                called("other.example", authority.tls()),
                fail("certificate is for www.example, not other.example"),
            ),
            (Tls::default(), fail("certificate is of an unknown issuer")),
        ] {
            assert_eq!(ask(server.address, grpc(tls)).await, answer);
        }
        assert_eq!(*seen.borrow(), [], "nothing is asked of strangers");
        let tls = called("www.example", authority.tls());
        assert_eq!(ask(server.address, grpc(tls)).await, pass("grpc SERVING"));
    });
}

#[test]
fn a_server_without_http2_fails() {
    run(async {
        let authority = Authority::new();
        let (server, seen) = server(&authority, &["127.0.0.1"], &[]).await;
        assert_eq!(
            ask(server.address, grpc(authority.tls())).await,
            fail("the server does not offer http/2")
        );
        assert_eq!(*seen.borrow(), []);
    });
}

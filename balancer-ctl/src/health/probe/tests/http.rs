//! HTTP, both versions.

mod bodies;

use std::{cell::Cell, rc::Rc};

use hyper::{Response, body::Bytes};
use tokio::{sync::oneshot, task::spawn_local};

use super::*;
use crate::model::check::HttpVersion;

fn wanting(status: &[(u16, u16)], body: Option<&str>) -> HttpProbe {
    HttpProbe {
        status: status.to_vec(),
        body: body.and_then(pattern),
        ..HttpProbe::default()
    }
}

#[test]
fn the_status_decides() {
    run(async {
        let server = Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let probe = |status: &[(u16, u16)]| http(wanting(status, None));
        assert_eq!(
            ask(server.address, http(HttpProbe::default())).await,
            pass("http 200")
        );
        assert_eq!(
            ask(server.address, probe(&[(201, 299), (304, 304)])).await,
            fail("http 200, wanted 201-299,304")
        );
        let server = Server::answering(b"HTTP/1.0 503 Busy\r\n\r\n").await;
        assert_eq!(
            ask(server.address, http(HttpProbe::default())).await,
            fail("http 503, wanted 200-299")
        );
    });
}

#[test]
fn a_redirect_is_an_answer_and_not_followed() {
    run(async {
        let server = Server::answering(
            b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert_eq!(
            ask(server.address, http(HttpProbe::default())).await,
            fail("http 302, wanted 200-299")
        );
        assert_eq!(
            ask(server.address, http(wanting(&[(300, 399)], None))).await,
            pass("http 302")
        );
    });
}

#[test]
fn the_request_is_as_configured() {
    run(async {
        let (heard, hears) = oneshot::channel();
        let heard = Rc::new(Cell::new(Some(heard)));
        let server = Server::start(async move |mut stream| {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            request.truncate(length);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            heard
                .take()
                .unwrap()
                .send(String::from_utf8(request).unwrap())
                .unwrap();
        })
        .await;
        let probe = HttpProbe {
            method: "OPTIONS".into(),
            host: Some("www.example:8080".into()),
            path: "/health?deep=1".into(),
            headers: vec![
                ("X-Probe".into(), "a".into()),
                ("X-Probe".into(), "b".into()),
                ("User-Agent".into(), "monitor".into()),
            ],
            ..HttpProbe::default()
        };
        assert_eq!(ask(server.address, http(probe)).await, pass("http 204"));
        let request = hears.await.unwrap();
        let (first, fields) = request.split_once("\r\n").unwrap();
        assert_eq!(first, "OPTIONS /health?deep=1 HTTP/1.1");
        let mut fields: Vec<_> = fields.trim_end().split("\r\n").collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "accept: */*",
                "connection: close",
                "host: www.example:8080",
                "user-agent: monitor",
                "x-probe: a",
                "x-probe: b",
            ]
        );
    });
}

#[test]
fn the_body_is_searched_however_it_is_framed() {
    run(async {
        let found = http(wanting(&[(200, 200)], Some("status: (ok|fine)$")));
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nstatus: fine"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nstatus: \r\n4\r\nfine\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nstatus: fine",
        ] {
            let server = Server::answering(answer).await;
            assert_eq!(ask(server.address, found.clone()).await, pass("http 200"));
        }
        let server = Server::answering(b"HTTP/1.0 200 OK\r\n\r\nstatus: bad").await;
        assert_eq!(
            ask(server.address, found.clone()).await,
            fail("body does not match /status: (ok|fine)$/")
        );
        // It would match, were it whole.
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nstatus: fine";
        let server = Server::answering(cut).await;
        assert_eq!(
            ask(server.address, found).await,
            fail("connection closed before the answer was whole")
        );
    });
}

#[test]
fn a_large_body_is_not_read_to_its_end() {
    const SIZE: usize = 100 << 20;
    run(async {
        let written = Rc::new(Cell::new(0));
        let count = Rc::clone(&written);
        let server = Server::start(async move |mut stream| {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            count.set(0);
            while stream.write_all(&[b'x'; 65536]).await.is_ok() {
                count.set(count.get() + 65536);
            }
        })
        .await;
        let plain = http(HttpProbe::default());
        assert_eq!(ask(server.address, plain).await, pass("http 200"));
        let searched = http(wanting(&[(200, 200)], Some("y")));
        assert_eq!(
            ask(server.address, searched).await,
            fail("body does not match /y/ (first 256 KiB)")
        );
        // What the kernel holds for us is all that can have been sent.
        assert!(written.get() < SIZE / 4, "{}", written.get());
    });
}

#[test]
fn an_answer_that_is_not_http_fails() {
    run(async {
        for (answer, reason) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "the answer is not http"),
            (b"", "connection closed before the answer was whole"),
            (
                b"HTTP/1.1 200 OK\r\n",
                "connection closed before the answer was whole",
            ),
        ] {
            let server = Server::answering(answer).await;
            let answer = ask(server.address, http(HttpProbe::default())).await;
            assert_eq!(answer, fail(reason));
        }
        let body = HttpProbe {
            body: Some(Pattern::new("a").unwrap()),
            ..HttpProbe::default()
        };
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n";
        let server = Server::answering(answer).await;
        assert_eq!(
            ask(server.address, http(body)).await,
            fail("the answer's Content-Length is \"x\"")
        );
        let server = Server::start(async |mut stream| {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream.write_all(b"Field: value\r\n").await.is_ok() {}
        })
        .await;
        assert_eq!(
            ask(server.address, http(HttpProbe::default())).await,
            fail("the answer's head is larger than 64 KiB")
        );
    });
}

#[test]
fn a_slow_answer_times_out() {
    run(async {
        let server = Server::start(async |mut stream| {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        times_out(server.address, http(wanting(&[(200, 200)], Some("y")))).await;
    });
}

#[test]
fn an_invalid_request_is_refused() {
    let refused = |probe: HttpProbe| {
        let target = "127.0.0.1:80".parse().unwrap();
        make_prober(&check_target(target, http(probe))).unwrap_err()
    };
    assert_eq!(
        refused(HttpProbe {
            path: "/a b".into(),
            ..HttpProbe::default()
        }),
        "`/a b` cannot be asked for: invalid uri character"
    );
    assert_eq!(
        refused(HttpProbe {
            headers: vec![("a b".into(), "c".into())],
            ..HttpProbe::default()
        }),
        "`a b` cannot be the name of a header field"
    );
    assert_eq!(
        refused(HttpProbe {
            headers: vec![("a".into(), "b\nc".into())],
            ..HttpProbe::default()
        }),
        "the header field `a` cannot have this value"
    );
}

/// An HTTP/2 server that answers each request with this status and so many bytes.
async fn http2_server(status: u16, size: usize) -> Server {
    Server::start(async move |stream| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/");
            assert!(request.uri().authority().is_some());
            let head = Response::builder().status(status).body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            spawn_local(async move {
                body.reserve_capacity(size);
                body.send_data(Bytes::from(vec![b'x'; size]), true).unwrap();
            });
        }
    })
    .await
}

#[test]
fn http2_is_spoken_over_plain_tcp() {
    run(async {
        let probe = |body: Option<&str>| {
            http(HttpProbe {
                version: HttpVersion::Http2,
                ..wanting(&[(200, 299)], body)
            })
        };
        let server = http2_server(200, 10).await;
        assert_eq!(ask(server.address, probe(None)).await, pass("http 200"));
        assert_eq!(
            ask(server.address, probe(Some("^x{10}$"))).await,
            pass("http 200")
        );
        let server = http2_server(503, 0).await;
        assert_eq!(
            ask(server.address, probe(None)).await,
            fail("http 503, wanted 200-299")
        );
        let server = http2_server(200, 100 << 20).await;
        assert_eq!(
            ask(server.address, probe(Some("y"))).await,
            fail("body does not match /y/ (first 256 KiB)")
        );
        let server = Server::answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(
            ask(server.address, probe(None)).await,
            fail("the answer is not http/2: frame with invalid size")
        );
    });
}

//! Bodies: of requests, and of answers that do not end.

use std::cell::RefCell;

use super::*;

/// A server that sends this once it was asked, and leaves the connection open.
async fn streaming(address: &str, answer: &'static [u8]) -> Server {
    Server::start_on(address, async move |mut stream| {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(answer).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await
}

/// Probes as the driver does; `None` = it was not done within its timeout.
async fn ask_in_time(address: SocketAddr, body: &str) -> Option<Outcome> {
    let probe = http(wanting(&[(200, 200)], Some(body)));
    let prober = make_prober(&check_target(address, probe)).unwrap();
    timeout(LIMIT, prober.probe()).await.ok()
}

#[test]
fn a_body_that_does_not_end_is_searched_while_it_arrives() {
    run(async {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for answer in [
                &b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ok\n\n"[..],
                b"HTTP/1.0 200 OK\r\n\r\ndata: ok\n\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n6\r\n: ok\n\n\r\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\ndata: ok\n\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ndata: ok\n\n",
            ] {
                let server = streaming(address, answer).await;
                for body in ["ok", "(?m)^data: ok$"] {
                    // Well before the timeout.
                    let probe = http(wanting(&[(200, 200)], Some(body)));
                    let asked = timeout(LIMIT / 2, ask(server.address, probe)).await;
                    assert_eq!(asked, Ok(pass("http 200")), "{body}");
                }
                assert_eq!(ask_in_time(server.address, "bad").await, None);
            }
        }
    });
}

#[test]
fn what_may_still_come_is_waited_for_if_the_pattern_looks_at_it() {
    run(async {
        let server = Server::start(async |mut stream| {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok";
            stream.write_all(head).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            let _ = stream.write_all(b"ay").await;
        })
        .await;
        assert_eq!(
            ask_in_time(server.address, "^ok$").await,
            Some(fail("body does not match /^ok$/"))
        );
        assert_eq!(
            ask_in_time(server.address, "^okay$").await,
            Some(pass("http 200"))
        );
        // Nothing comes: what has come decides shortly before the timeout, unless the head says that it is not all.
        for (answer, expected) in [
            (&b"HTTP/1.0 200 OK\r\n\r\nok"[..], Some(pass("http 200"))),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
                Some(pass("http 200")),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok", None),
        ] {
            let server = streaming("127.0.0.1:0", answer).await;
            assert_eq!(ask_in_time(server.address, "^ok$").await, expected);
        }
    });
}

#[test]
fn a_head_of_many_or_folded_fields_is_read() {
    run(async {
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok",
            "X: y\r\n".repeat(120)
        );
        let folded = "HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length:\r\n 2\r\n\r\nok".to_owned();
        for answer in [many, folded] {
            let server = Server::answering(answer.leak().as_bytes()).await;
            for body in [None, Some("^ok$")] {
                let probe = http(wanting(&[(200, 200)], body));
                assert_eq!(ask(server.address, probe).await, pass("http 200"));
            }
        }
    });
}

#[test]
fn a_length_that_is_none_fails_with_what_it_is() {
    run(async {
        for (fields, reason) in [
            (
                "Content-Length: -2\r\n",
                "the answer's Content-Length is \"-2\"",
            ),
            (
                "Content-Length: 2\r\nContent-Length: 3\r\n",
                "the answer's Content-Length is 2, and then 3",
            ),
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nok");
            let server = Server::answering(answer.leak().as_bytes()).await;
            for body in [None, Some("ok")] {
                let probe = http(wanting(&[(200, 200)], body));
                assert_eq!(ask(server.address, probe).await, fail(reason));
            }
        }
    });
}

/// What an HTTP/1.1 server hears when it is asked with this method and body.
async fn heard(method: &str, body: &str) -> String {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let theirs = heard.clone();
    let server = Server::start(async move |mut stream| {
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        request.truncate(length);
        *theirs.borrow_mut() = request;
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let probe = HttpProbe {
        method: method.into(),
        request_body: body.into(),
        ..HttpProbe::default()
    };
    assert_eq!(ask(server.address, http(probe)).await, pass("http 204"));
    let heard = heard.take();
    String::from_utf8(heard).unwrap()
}

#[test]
fn a_request_states_the_length_of_its_body() {
    run(async {
        for (method, body, length) in [
            ("GET", "", None),
            ("HEAD", "", None),
            ("DELETE", "", None),
            ("POST", "", Some(0)),
            ("PUT", "", Some(0)),
            ("PATCH", "", Some(0)),
            ("POST", "a=b", Some(3)),
            ("GET", "a=b", Some(3)),
        ] {
            let request = heard(method, body).await;
            let (head, sent) = request.split_once("\r\n\r\n").unwrap();
            assert_eq!(sent, body, "{method}");
            let lengths: Vec<_> = head
                .lines()
                .filter_map(|line| line.strip_prefix("content-length: "))
                .collect();
            let expected: Vec<_> = length.iter().map(usize::to_string).collect();
            assert_eq!(lengths, expected, "{method}");
        }
    });
}

#[test]
fn an_http2_request_has_its_body_and_length() {
    run(async {
        for (method, body, length) in [
            ("GET", "", None),
            ("POST", "", Some("0")),
            ("PUT", "a=b", Some("3")),
        ] {
            let heard = Rc::new(RefCell::new(None));
            let theirs = heard.clone();
            let server = Server::start(async move |stream| {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let theirs = theirs.clone();
                    spawn_local(async move {
                        let length = request.headers().get("content-length");
                        let length = length.map(|length| length.to_str().unwrap().to_owned());
                        let mut received = request.into_body();
                        let mut body = Vec::new();
                        while let Some(data) = received.data().await {
                            body.extend_from_slice(&data.unwrap());
                        }
                        *theirs.borrow_mut() = Some((length, String::from_utf8(body).unwrap()));
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            })
            .await;
            let probe = HttpProbe {
                version: HttpVersion::Http2,
                method: method.into(),
                request_body: body.into(),
                ..HttpProbe::default()
            };
            assert_eq!(ask(server.address, http(probe)).await, pass("http 200"));
            let expected = (length.map(str::to_owned), body.to_owned());
            assert_eq!(heard.take(), Some(expected), "{method}");
        }
    });
}

/// An HTTP/2 server that answers with these fields and the beginning of a body, and keeps the stream open.
async fn http2_streaming(fields: &'static [(&str, &str)], start: &'static [u8]) -> Server {
    Server::start(async move |stream| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut head = Response::builder();
            for (name, value) in fields {
                head = head.header(*name, *value);
            }
            let mut body = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            body.send_data(Bytes::from_static(start), false).unwrap();
            open.push(body);
        }
    })
    .await
}

fn http2(body: Option<&str>) -> Probe {
    http(HttpProbe {
        version: HttpVersion::Http2,
        ..wanting(&[(200, 200)], body)
    })
}

#[test]
fn an_http2_body_that_does_not_end_is_searched_while_it_arrives() {
    run(async {
        let server = http2_streaming(&[], b"data: ok\n\n").await;
        for body in ["ok", "(?m)^data: ok$"] {
            let asked = timeout(LIMIT / 2, ask(server.address, http2(Some(body)))).await;
            assert_eq!(asked, Ok(pass("http 200")), "{body}");
        }
    });
}

#[test]
fn an_http2_body_that_is_not_all_is_not_taken_for_the_whole() {
    run(async {
        for (fields, expected) in [
            (&[][..], Some(pass("http 200"))),
            (&[("content-length", "200")], None),
        ] {
            let server = http2_streaming(fields, b"ok").await;
            let probe = http2(Some("^ok$"));
            let prober = make_prober(&check_target(server.address, probe)).unwrap();
            let asked = timeout(LIMIT, prober.probe()).await.ok();
            assert_eq!(asked, expected, "{fields:?}");
        }
    });
}

/// An HTTP/2 server that answers with these fields and this body.
async fn http2_answering(fields: Vec<(&'static str, String)>, body: &'static [u8]) -> Server {
    Server::start(async move |stream| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut head = Response::builder();
            for (name, value) in &fields {
                head = head.header(*name, value);
            }
            let mut sent = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            sent.send_data(Bytes::from_static(body), true).unwrap();
        }
    })
    .await
}

#[test]
fn an_http2_answer_that_breaks_the_rules_fails_with_a_sentence() {
    let wrong_head = "the answer's head breaks the rules of http/2 (its Content-Length?), or is larger than 64 KiB";
    let wrong_body = "the answer's body is not as long as its Content-Length says";
    let length = |value: &str| ("content-length", value.to_owned());
    let large = |size: usize| vec![("x", "y".repeat(size))];
    run(async {
        for (fields, reason) in [
            (vec![length("-2")], wrong_head),
            (vec![length("2"), length("3")], wrong_head),
            (large(65 << 10), wrong_head),
            (large(1 << 20), "the answer's head is larger than 64 KiB"),
            (vec![length("1")], wrong_body),
            (vec![length("3")], wrong_body),
        ] {
            let first: String = fields[0].1.chars().take(9).collect();
            let server = http2_answering(fields, b"ok").await;
            let answer = ask(server.address, http2(Some("^ok$"))).await;
            assert_eq!(answer, fail(reason), "{first}");
        }
    });
}

//! TCP checks, and how their connections end.

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

use socket2::{Domain, Socket, Type};
use tokio::{sync::oneshot, task::spawn_local, time::error::Elapsed};

use super::{
    super::socket::{
        ConnectMode, Endpoint,
        pool::{MAX_PER_FAMILY, tests::may_pool_sockets},
    },
    *,
};

#[test]
fn an_open_port_passes_and_its_program_hears_nothing_of_it() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(ask(address, tcp(b"", None)).await, pass("connected"));
        assert!(timeout(LIMIT, listener.accept()).await.is_err());
    });
}

#[test]
fn a_closed_port_fails() {
    run(async {
        let address = closed_port().await;
        let refused = fail("connection refused");
        assert_eq!(ask(address, tcp(b"", None)).await, refused);
        assert_eq!(ask(address, tcp(b"", Some("x"))).await, refused);
        assert_eq!(ask(address, http(HttpProbe::default())).await, refused);
    });
}

async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_greeting_is_matched_when_it_comes() {
    run(async {
        let server = Server::greeting(b"\r\nSSH-2.0-OpenSSH_9.2\r\n").await;
        let ssh = tcp(b"", Some(r"(?m)^SSH-2\.0"));
        assert_eq!(
            ask(server.address, ssh.clone()).await,
            pass("answered \"SSH-2.0-OpenSSH_9.2\"")
        );
        // The rest of the greeting is waited for until shortly before the timeout.
        let prober = make_prober(&check_target(server.address, tcp(b"", Some("^220 ")))).unwrap();
        assert_eq!(
            timeout(LIMIT, prober.probe()).await,
            Ok(fail(
                "answer \"SSH-2.0-OpenSSH_9.2\" does not match /^220 /"
            ))
        );
        let server = Server::answering(b"500 no\r\n").await;
        assert_eq!(
            ask(server.address, tcp(b"EHLO x\r\n", Some("^220 "))).await,
            fail("answer \"500 no\" does not match /^220 /")
        );
        let server = Server::answering(b"").await;
        assert_eq!(
            ask(server.address, tcp(b"x", Some("y"))).await,
            fail("connection closed without an answer")
        );
    });
}

#[test]
fn bytes_that_are_no_text_are_found_and_shown() {
    run(async {
        let server = Server::greeting(b"\x5a\0\0\0\x0a5.5.5-10.11\0").await;
        assert_eq!(
            ask(
                server.address,
                tcp(b"", Some(r"(?s-u)^.{3}\x00\x0a[0-9.-]+\x00"))
            )
            .await,
            pass("answered \"Z...\"")
        );
    });
}

#[test]
fn an_answer_may_come_in_pieces() {
    run(async {
        let server = Server::start(async |mut stream| {
            for piece in [&b"+PO"[..], b"NG\r", b"\n"] {
                stream.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        assert_eq!(
            ask(server.address, tcp(b"PING\r\n", Some(r"^\+PONG\r\n"))).await,
            pass("answered \"+PONG\"")
        );
    });
}

#[test]
fn what_is_sent_last_arrives_although_nothing_is_waited_for() {
    run(async {
        let (heard, hears) = oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut all = Vec::new();
            let ended = stream.read_to_end(&mut all).await.map_err(|e| e.kind());
            heard.send((ended, all)).unwrap();
        });
        assert_eq!(
            ask(address, tcp(b"QUIT\r\n", None)).await,
            pass("connected and sent")
        );
        assert_eq!(hears.await.unwrap(), (Ok(6), b"QUIT\r\n".to_vec()));
    });
}

#[test]
fn of_an_endless_answer_a_limited_part_is_read() {
    run(async {
        let server = Server::start(
            async |mut stream| {
                while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            },
        )
        .await;
        assert_eq!(
            ask(server.address, tcp(b"", Some("y"))).await,
            fail("answer does not match /y/ (first 256 KiB)")
        );
    });
}

#[test]
fn a_server_that_accepts_and_never_answers_times_out() {
    run(async {
        let server = Server::greeting(b"").await;
        times_out(server.address, tcp(b"hello", Some("x"))).await;
        times_out(server.address, http(HttpProbe::default())).await;
    });
}

#[test]
fn a_slow_answer_is_matched_at_the_timeout() {
    run(async {
        let server = Server::start(async |mut stream| {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let prober = make_prober(&check_target(server.address, tcp(b"", Some("y")))).unwrap();
        let answer = timeout(LIMIT, prober.probe()).await;
        let Ok(Outcome::Failed { reason }) = &answer else {
            panic!("{answer:?}");
        };
        assert!(reason.starts_with("answer \"xxx"), "{reason}");
        assert!(reason.ends_with(" does not match /y/"), "{reason}");
    });
}

#[test]
fn a_server_too_busy_to_accept_times_out() {
    run(async {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // The kernel drops handshakes while those that were made wait for the program.
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(LIMIT, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        assert!(!waiting.is_empty());
        times_out(address, tcp(b"", None)).await;
        drop(waiting);
    });
}

#[test]
fn a_probe_that_is_dropped_resets_its_connection() {
    run(async {
        let (ended, ends) = oneshot::channel();
        let ended = Rc::new(std::cell::RefCell::new(Some(ended)));
        let server = Server::start(async move |mut stream| {
            let end = stream.read(&mut [0]).await.map_err(|error| error.kind());
            ended.borrow_mut().take().unwrap().send(end).unwrap();
        });
        let server = server.await;
        times_out(server.address, tcp(b"", Some("x"))).await;
        let end = timeout(LIMIT, ends).await.unwrap().unwrap();
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn ipv6_is_as_ipv4() {
    run(async {
        let server = Server::start_on("[::1]:0", async |mut stream| {
            stream.write_all(b"220 hello\r\n").await.unwrap();
        })
        .await;
        let answer = ask(server.address, tcp(b"", Some("^220"))).await;
        assert_eq!(answer, pass("answered \"220 hello\""));
    });
}

#[test]
fn a_source_address_of_no_interface_is_an_obstacle() {
    run(async {
        let server = Server::greeting(b"").await;
        let from = |source: Source| {
            let mut check_target = check_target(server.address, tcp(b"", None));
            check_target.check.source = source;
            make_prober(&check_target)
        };
        let address = |address: &str| Source {
            address: Some(address.parse().unwrap()),
            ..Source::default()
        };
        assert_eq!(
            from(address("192.0.2.77")).unwrap().probe().await,
            fail("source address 192.0.2.77 is not on this host")
        );
        assert_eq!(
            from(address("127.0.0.9")).unwrap().probe().await,
            pass("connected")
        );
        let interface = Source {
            interface: Some("nowhere0".into()),
            ..Source::default()
        };
        assert_eq!(
            from(interface).unwrap().probe().await,
            fail("no interface nowhere0")
        );
        assert_eq!(
            from(address("::1")).unwrap_err(),
            "the source address ::1 cannot reach 127.0.0.1: they are not of one family"
        );
    });
}

/// Probes once, with sockets of this pool.
async fn ask_with(check_target: &CheckTarget, pool: &Arc<SocketPool>) -> Result<Outcome, Elapsed> {
    let prober = Prober::new(check_target, pool).expect("a probe");
    timeout(LIMIT, prober.probe()).await
}

#[test]
fn a_connection_that_is_over_leaves_its_socket_to_the_next() {
    if !may_pool_sockets() {
        return;
    }
    run(async {
        let pool = Arc::new(SocketPool::default());
        let ask = async |target, probe| ask_with(&check_target(target, probe), &pool).await;
        let greeting = tcp(b"", Some("^220"));
        let (ends, ended) = oneshot::channel();
        let ends = Rc::new(Cell::new(Some(ends)));
        let server = Server::start(async move |mut stream| {
            stream.write_all(b"220 hello\r\n").await.unwrap();
            let end = stream.read(&mut [0]).await;
            if let Some(ends) = ends.take() {
                ends.send(end).unwrap();
            }
        })
        .await;
        let hello = Ok(pass("answered \"220 hello\""));
        assert_eq!(ask(server.address, greeting.clone()).await, hello);
        let end = ended.await.unwrap().map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
        // The same socket serves another server, a request, and an incomplete handshake.
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let web = Server::answering(answer.as_bytes()).await;
        let body = HttpProbe {
            body: pattern("^ok$"),
            ..HttpProbe::default()
        };
        for _ in 0..2 {
            for probe in [http(HttpProbe::default()), http(body.clone())] {
                assert_eq!(ask(web.address, probe).await, Ok(pass("http 200")));
            }
            let open = ask(web.address, tcp(b"", None)).await;
            assert_eq!(open, Ok(pass("connected")));
            assert_eq!(ask(server.address, greeting.clone()).await, hello);
        }
        let pooled = pool.take(Domain::IPV4).expect("one that is kept");
        assert!(pool.take(Domain::IPV4).is_none());
        assert!(pool.take(Domain::IPV6).is_none());
        // It still reports its last port, and no longer occupies it.
        let had = pooled.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(had.ip(), Ipv4Addr::UNSPECIFIED);
        TcpListener::bind(had).await.unwrap();
        assert_eq!(pooled.linger().unwrap(), Some(Duration::ZERO));
        assert!(pooled.tcp_nodelay().unwrap());
        assert!(pooled.take_error().unwrap().is_none());
    });
}

#[test]
fn a_failure_a_timeout_and_options_of_a_checks_own_leave_no_socket() {
    if !may_pool_sockets() {
        return;
    }
    run(async {
        let pool = Arc::new(SocketPool::default());
        let ask = async |check_target: &CheckTarget| ask_with(check_target, &pool).await;
        let closed = closed_port().await;
        let silent = Server::greeting(b"").await;
        let open = check_target(silent.address, tcp(b"", None));
        assert_eq!(ask(&open).await, Ok(pass("connected")));
        // A check with socket options of its own does not use the pool.
        let mut bound = open;
        bound.check.source.address = Some("127.0.0.9".parse().unwrap());
        assert_eq!(ask(&bound).await, Ok(pass("connected")));
        let pooled = pool.take(Domain::IPV4).expect("the first one's");
        let local = pooled.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.ip(), Ipv4Addr::UNSPECIFIED);
        assert!(pool.take(Domain::IPV4).is_none());
        // A failed probe takes a socket from the pool, and returns none.
        bound.check.source = Source::default();
        assert_eq!(ask(&bound).await, Ok(pass("connected")));
        let refused = ask(&check_target(closed, tcp(b"", None))).await;
        assert_eq!(refused, Ok(fail("connection refused")));
        assert!(pool.take(Domain::IPV4).is_none());
        let answer = ask(&check_target(silent.address, tcp(b"", Some("x")))).await;
        assert!(answer.is_err(), "{answer:?}");
        assert!(pool.take(Domain::IPV4).is_none());
        // A socket that was connected to an IPv4-mapped address stays an IPv4 socket, so it is not pooled.
        let SocketAddr::V4(silent) = silent.address else {
            unreachable!("it listens there")
        };
        let mapped = SocketAddr::from((silent.ip().to_ipv6_mapped(), silent.port()));
        let answer = ask(&check_target(mapped, tcp(b"", None))).await;
        assert_eq!(answer, Ok(pass("connected")));
        assert!(pool.take(Domain::IPV6).is_none());
    });
}

#[test]
fn the_pool_is_limited() {
    if !may_pool_sockets() {
        return;
    }
    run(async {
        for (address, domain) in [("127.0.0.1:0", Domain::IPV4), ("[::1]:0", Domain::IPV6)] {
            let pool = Arc::new(SocketPool::default());
            let server = Server::start_on(address, async |_| {}).await;
            let check_target = check_target(server.address, tcp(b"", None));
            let endpoint = Endpoint::new(&check_target, &pool).unwrap();
            let mut streams = Vec::new();
            for _ in 0..MAX_PER_FAMILY + 1 {
                streams.push(endpoint.connect(ConnectMode::Full).await.unwrap());
            }
            for stream in streams {
                endpoint.reset(stream);
            }
            let kept = std::iter::from_fn(|| pool.take(domain)).count();
            assert_eq!(kept, MAX_PER_FAMILY);
        }
    });
}

#[test]
fn a_pooled_socket_too_never_reaches_the_servers_program() {
    if !may_pool_sockets() {
        return;
    }
    run(async {
        let pool = Arc::new(SocketPool::default());
        let ask = async |target, probe| ask_with(&check_target(target, probe), &pool).await;
        let server = Server::greeting(b"220 hello\r\n").await;
        let greeted = ask(server.address, tcp(b"", Some("^220"))).await;
        assert_eq!(greeted, Ok(pass("answered \"220 hello\"")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..2 {
            let open = ask(address, tcp(b"", None)).await;
            assert_eq!(open, Ok(pass("connected")));
        }
        assert!(pool.take(Domain::IPV4).is_some(), "it served all three");
        assert!(pool.take(Domain::IPV4).is_none());
        assert!(timeout(LIMIT, listener.accept()).await.is_err());
    });
}

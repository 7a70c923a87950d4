//! Checks, good and bad, to the letter.

use super::*;

/// The checks of a service with this `check`, which stands on line 4 from column 9 on.
fn read_checks(vip: &str, check: &str) -> Result<Vec<Check>, Vec<String>> {
    let text = format!(
        "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"{vip}\"\ncheck = {check}\n"
    );
    match model(&text, "lb1") {
        Ok(mut model) => Ok(model.services.remove(0).checks),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn a_check_of_each_type_is_read() {
    let usual = |probe| Check {
        probe,
        target: Target::default(),
        source: Source::default(),
        timing: Timing::default(),
    };
    let pattern = |text| Some(Pattern::new(text).unwrap());
    let http = |http| Probe::Http(Box::new(http));
    for (text, expected) in [
        (
            r#"{ type = "tcp" }"#,
            usual(Probe::Tcp(Exchange::default())),
        ),
        (
            r#"{ type = "tcp", send = "PING\r\n", expect = '^\+PONG' }"#,
            usual(Probe::Tcp(Exchange {
                send: b"PING\r\n".to_vec(),
                expect: pattern("^\\+PONG"),
            })),
        ),
        (
            r#"{ type = "udp", send-hex = "00 ff", expect = '(?-u)\xff' }"#,
            usual(Probe::Udp(Exchange {
                send: vec![0, 255],
                expect: pattern(r"(?-u)\xff"),
            })),
        ),
        (r#"{ type = "http" }"#, usual(http(HttpProbe::default()))),
        (
            r#"{ type = "https", version = "2", method = "OPTIONS", host = "www.example.org:8443", path = "/health?deep=1",
                headers = { Accept = "text/html", X-Check = "a b" }, status = "200-299, 304", body = "(?i)ok",
                server-name = "www.example.org", ca = "/etc/ca.pem", certificate = "/etc/c.pem", key = "/etc/k.pem" }"#,
            usual(http(HttpProbe {
                tls: Some(Tls {
                    server_name: Some("www.example.org".to_owned()),
                    ca: Some("/etc/ca.pem".into()),
                    certificate: Some(("/etc/c.pem".into(), "/etc/k.pem".into())),
                    insecure: false,
                }),
                version: HttpVersion::Http2,
                method: "OPTIONS".to_owned(),
                host: Some("www.example.org:8443".to_owned()),
                path: "/health?deep=1".to_owned(),
                headers: vec![
                    ("Accept".to_owned(), "text/html".to_owned()),
                    ("X-Check".to_owned(), "a b".to_owned()),
                ],
                request_body: String::new(),
                status: vec![(200, 299), (304, 304)],
                body: pattern("(?i)ok"),
            })),
        ),
        (
            r#"{ type = "http", method = "POST", request-body = "a=b" }"#,
            usual(http(HttpProbe {
                method: "POST".to_owned(),
                request_body: "a=b".to_owned(),
                ..HttpProbe::default()
            })),
        ),
        (
            r#"{ type = "dns", name = "www.example.org", record = "AAAA", answer = "2001:db8::1" }"#,
            usual(Probe::Dns(DnsProbe {
                name: "www.example.org".to_owned(),
                record: "AAAA".to_owned(),
                answer: Some("2001:db8::1".to_owned()),
            })),
        ),
        (r#"{ type = "ping" }"#, usual(Probe::Ping)),
        (
            r#"{ type = "grpc", service = "shop", tls = true, insecure = true }"#,
            usual(Probe::Grpc(Box::new(GrpcProbe {
                service: "shop".to_owned(),
                tls: Some(Tls {
                    insecure: true,
                    ..Tls::default()
                }),
            }))),
        ),
        (
            r#"{ type = "exec", run = ["/usr/bin/test", "-e", "/etc/motd"] }"#,
            usual(Probe::Exec(ExecProbe {
                user: None,
                is_monitor: true,
                run: ["/usr/bin/test", "-e", "/etc/motd"]
                    .map(str::to_owned)
                    .to_vec(),
            })),
        ),
        (
            r#"{ type = "agent", port = 8700, send = "state?\n" }"#,
            Check {
                target: Target {
                    address: None,
                    port: Some(8700),
                },
                ..usual(Probe::Agent(AgentProbe {
                    send: b"state?\n".to_vec(),
                }))
            },
        ),
        (
            r#"{ type = "ping", interval = "1s", fast-interval = "100ms", rise = 1, fall = 100, initial = "up",
                address = "2001:db8::9", source = "2001:db8::1", interface = "eth1", mark = 0x10 }"#,
            Check {
                probe: Probe::Ping,
                target: Target {
                    address: Some("2001:db8::9".parse().unwrap()),
                    port: None,
                },
                source: Source {
                    address: Some("2001:db8::1".parse().unwrap()),
                    interface: Some("eth1".to_owned()),
                    mark: Some(16),
                },
                timing: Timing {
                    interval: Duration::from_secs(1),
                    fast_interval: Some(Duration::from_millis(100)),
                    // Of itself as short as the intervals want it.
                    timeout: Duration::from_millis(100),
                    rise: 1,
                    fall: 100,
                    initial: Initial::Up,
                },
            },
        ),
    ] {
        assert_eq!(
            read_checks("192.0.2.80:80", text),
            Ok(vec![expected]),
            "{text}"
        );
    }
}

#[test]
fn several_checks_are_read_in_every_spelling() {
    let kinds = |text: &str| -> Vec<_> {
        let text = format!(
            "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\n{text}"
        );
        let checks = model(&text, "lb1").unwrap().services.remove(0).checks;
        checks.iter().map(|check| check.probe.name()).collect()
    };
    for text in [
        "[[service.check]]\ntype = \"tcp\"\n[[service.check]]\ntype = \"ping\"\n",
        "check = [{ type = \"tcp\" }, { type = \"ping\" }]",
    ] {
        assert_eq!(kinds(text), ["tcp", "ping"]);
    }
    assert_eq!(kinds("check.type = \"ping\""), ["ping"]);
    assert_eq!(kinds("check = []"), [""; 0]);
}

#[test]
fn errors_of_a_check_are_reported_at_their_position() {
    let only = |key: &str, belongs: &str| {
        format!("`{key}` does not belong to a check of type `tcp`: it is for {belongs}")
    };
    let not_execs = |key: &str| {
        format!(
            "`{key}` does not belong to a check of type `exec`: it is for `tcp`, `http`, `https`, `udp`, `dns`, `ping`, \
             `grpc` or `agent`"
        )
    };
    let tls = "`https` or `grpc`";
    let sent = "send-hex";
    for (check, expected) in [
        (r#""http""#, vec!["4:9: check must be a table: write `[service.check]` on a line of its own".to_owned()]),
        ("[7]", vec!["4:10: check must be a table: write `[service.check]` on a line of its own".to_owned()]),
        ("{ rise = 1 }", vec!["4:9: check has no type: add one, as in `type = \"http\"`".to_owned()]),
        (
            r#"{ type = "htp", colour = 1, path = "/" }"#,
            vec![
                "4:18: type `htp` is not known: expected `tcp`, `http`, `https`, `udp`, `dns`, `ping`, `grpc`, `exec` or `agent`".to_owned(),
                "4:25: unknown key `colour` in `check`: expected `type`, `interval`, `fast-interval`, `timeout`, `rise`, `fall`, `initial` or `address`".to_owned(),
            ],
        ),
        (
            r#"{ type = "ping", colour = 1 }"#,
            vec![
                "4:26: unknown key `colour` in `check`: expected `type`, `interval`, `fast-interval`, `timeout`, `rise`, `fall`, `initial`, `address`, `source`, `interface` or `mark`".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", path = "/", run = ["/bin/true"], ca = "/x", name = "a", tls = true }"#,
            vec![
                format!("4:25: {}", only("path", "`http` or `https`")),
                format!("4:37: {}", only("run", "`exec`")),
                format!("4:58: {}", only("ca", tls)),
                format!("4:69: {}", only("name", "`dns`")),
                format!("4:81: {}", only("tls", "`grpc`")),
            ],
        ),
        (
            r#"{ type = "ping", port = 80 }"#,
            vec!["4:26: `port` does not belong to a check of type `ping`: it is for `tcp`, `http`, `https`, `udp`, `dns`, `grpc`, `exec` or `agent`".to_owned()],
        ),
        (
            r#"{ type = "tcp", interval = "0s", timeout = "0s", rise = 0, fall = 101, initial = "maybe" }"#,
            vec![
                "4:36: interval of 0s is out of range: 10ms to 1day".to_owned(),
                "4:52: timeout of 0s is out of range: 1ms to 1day".to_owned(),
                "4:65: rise 0 is out of range: 1..=100".to_owned(),
                "4:75: fall 101 is out of range: 1..=100".to_owned(),
                "4:90: initial `maybe` is not known: expected `down` or `up`".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", interval = "0s" }"#,
            vec!["4:36: interval of 0s is out of range: 10ms to 1day".to_owned()],
        ),
        (
            r#"{ type = "tcp", interval = "0s", timeout = "1s" }"#,
            vec!["4:36: interval of 0s is out of range: 10ms to 1day".to_owned()],
        ),
        (
            r#"{ type = "tcp", fast-interval = "0s" }"#,
            vec!["4:41: fast-interval of 0s is out of range: 10ms to 1day".to_owned()],
        ),
        (
            r#"{ type = "agent", port = 70000 }"#,
            vec!["4:34: port 70000 is out of range: 1..=65535".to_owned()],
        ),
        (
            r#"{ type = "agent", port = "a" }"#,
            vec!["4:34: port must be a whole number".to_owned()],
        ),
        (
            r#"{ type = "tcp", rise = 0, fall = 99999999999999999999 }"#,
            vec![
                "4:32: rise 0 is out of range: 1..=100".to_owned(),
                "4:42: fall 99999999999999999999 is out of range: 1..=100".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", fall = -99_999999999999999999 }"#,
            vec!["4:32: fall -99_999999999999999999 is out of range: 1..=100".to_owned()],
        ),
        (
            r#"{ type = "tcp", path = 99999999999999999999, fall = 18446744073709551616 }"#,
            vec![
                "4:25: `path` does not belong to a check of type `tcp`: it is for `http` or `https`".to_owned(),
                "4:61: fall 18446744073709551616 is out of range: 1..=100".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", interval = "2s", timeout = "3s" }"#,
            vec!["4:52: timeout 3s is longer than interval 2s: a probe must be over when the next begins".to_owned()],
        ),
        (
            r#"{ type = "tcp", interval = "2s", fast-interval = "500ms", timeout = "1s" }"#,
            vec!["4:77: timeout 1s is longer than fast-interval 500ms: a probe must be over when the next begins".to_owned()],
        ),
        (
            r#"{ type = "tcp", interval = "2s", fast-interval = "3s" }"#,
            vec!["4:58: fast-interval 3s is longer than interval 2s: make it shorter, or leave it out".to_owned()],
        ),
        (
            r#"{ type = "tcp", interval = "5", rise = "two" }"#,
            vec![
                "4:36: interval `5` is not a duration: write it with its unit, as in \"15m\" or \"90s\"".to_owned(),
                "4:48: rise must be a whole number".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", port = 0, address = "web", mark = -1, interface = "a b" }"#,
            vec![
                "4:32: port 0 is out of range: 1..=65535".to_owned(),
                "4:45: address `web` is not an address: write `192.0.2.80` or `2001:db8::80` (names are not looked up)".to_owned(),
                "4:59: mark -1 is out of range: 0..=4294967295".to_owned(),
                "4:75: `a b` is no interface name: 1 to 15 bytes without space or `/`".to_owned(),
            ],
        ),
        (
            r#"{ type = "tcp", address = "224.0.0.1", source = "2001:db8::1" }"#,
            vec![
                "4:35: address 224.0.0.1 of a check is a multicast address: use a unicast address".to_owned(),
                "4:57: source 2001:db8::1 of a check is not of the family of what it probes (224.0.0.1): both must be IPv4 or both IPv6".to_owned(),
            ],
        ),
        (
            r#"{ type = "udp", send = "a", send-hex = "0", expect = "" }"#,
            vec![format!("4:48: {sent} `0` is not hexadecimal: write pairs of digits, as in \"0d 0a\"")],
        ),
        (
            r#"{ type = "udp", send = "a", send-hex = "00" }"#,
            vec!["4:48: send and send-hex exclude each other: keep one".to_owned()],
        ),
        // The column is that of the character in the expression, whatever is escaped in front of it.
        (
            r#"{ type = "tcp", expect = "\u00e9\\d(ab" }"#,
            vec!["4:44: expect `é\\d(ab` is no regular expression: at character 4: unclosed group".to_owned()],
        ),
        (
            r#"{ type = "http", body = 'a{2,1}' }"#,
            vec!["4:35: body `a{2,1}` is no regular expression: at character 2: invalid repetition count range, the start must be <= the end".to_owned()],
        ),
        (
            r#"{ type = "http", method = "get", path = "health", host = "a b", status = "2xx", version = "3" }"#,
            vec![
                "4:35: method `get` is no method for a check: write it in capitals, as in \"HEAD\"".to_owned(),
                "4:49: path `health` is no path: it begins with `/`, and what is not plain in it is written as in \"%20\"".to_owned(),
                "4:66: host `a b` is no host: write a name, as in \"www.example.org\"".to_owned(),
                "4:82: status `2xx` is no list of statuses: write statuses from 100 to 599 and ranges of them, as in \"200-299,304\"".to_owned(),
                "4:99: version `3` is not known: expected `1.1` or `2`".to_owned(),
            ],
        ),
        (
            r#"{ type = "http", headers = { Host = "a", "a b" = "c", Accept = 1, Connection = "close" } }"#,
            vec![
                "4:38: the header field Host has a key of its own: write `host`".to_owned(),
                "4:50: `a b` is no name of a header field".to_owned(),
                "4:63: headers must be a table of strings, as in { Accept = \"text/html\" }".to_owned(),
                "4:75: the header field Connection is the connection's own: remove it".to_owned(),
            ],
        ),
        (
            r#"{ type = "http", method = "TRACE", request-body = "a" }"#,
            vec!["4:59: a request of method TRACE has no body: leave request-body out, or name another method".to_owned()],
        ),
        (
            r#"{ type = "http", method = "HEAD", body = "a" }"#,
            vec!["4:50: an answer to method HEAD has no body: leave body out, or name another method".to_owned()],
        ),
        (
            &*format!(r#"{{ type = "http", request-body = "{}" }}"#, "x".repeat(65_537)),
            vec!["4:41: request-body has 65537 bytes, and may have 65536".to_owned()],
        ),
        (
            r#"{ type = "tcp", request-body = "a" }"#,
            vec![format!("4:25: {}", only("request-body", "`http` or `https`"))],
        ),
        (
            r#"{ type = "https", ca = "ca.pem", certificate = "/c.pem", server-name = "a b", insecure = 1 }"#,
            vec![
                "4:32: ca `ca.pem` is no absolute path: write it from `/` on".to_owned(),
                "4:56: certificate needs key beside it: the client shows the one and signs with the other".to_owned(),
                "4:80: server-name `a b` is no name of a server: write it as in \"www.example.org\"".to_owned(),
                "4:98: insecure must be true or false".to_owned(),
            ],
        ),
        (
            r#"{ type = "https", ca = "/ca.pem", insecure = true }"#,
            vec!["4:54: insecure takes any certificate, so ca has no use beside it: keep one".to_owned()],
        ),
        (
            r#"{ type = "grpc", ca = "/ca.pem" }"#,
            vec!["4:26: `ca` needs `tls = true` beside it".to_owned()],
        ),
        (
            r#"{ type = "dns", record = "PTR" }"#,
            vec![
                "4:9: check has no name to ask for: add one, as in `name = \"www.example.org\"`".to_owned(),
                "4:34: record `PTR` is not known: expected `A`, `AAAA`, `CNAME`, `MX`, `NS`, `SOA`, `SRV` or `TXT`".to_owned(),
            ],
        ),
        (
            r#"{ type = "dns", name = "a..b", answer = "::1" }"#,
            vec![
                "4:32: name `a..b` is no name in the DNS: write it as in \"www.example.org\"".to_owned(),
                "4:49: answer `::1` is no IPv4 address, which the answer to record `A` is".to_owned(),
            ],
        ),
        (
            r#"{ type = "exec" }"#,
            vec!["4:9: check has no program: add one, as in `run = [\"/usr/local/bin/alert\", \"--verbose\"]`".to_owned()],
        ),
        (
            r#"{ type = "exec", run = "/bin/true" }"#,
            vec!["4:32: run must be a list of strings, as in [\"/usr/local/bin/alert\", \"--verbose\"]".to_owned()],
        ),
        (
            r#"{ type = "exec", run = ["true"] }"#,
            vec!["4:32: program `true` is no absolute path: write it from `/` on".to_owned()],
        ),
        (
            r#"{ type = "exec", run = ["/bin/true"], source = "192.0.2.1", interface = "eth1", mark = 7 }"#,
            vec![
                format!("4:47: {}", not_execs("source")),
                format!("4:69: {}", not_execs("interface")),
                format!("4:89: {}", not_execs("mark")),
            ],
        ),
        (
            r#"{ type = "agent" }"#,
            vec!["4:18: check of type `agent` has no port: add the agent's, which is not the service's, as in `port = 8700`".to_owned()],
        ),
        (
            r#"[{ type = "tcp" }, { type = "tcp", interval = "5s" }]"#,
            vec!["4:37: check `tcp` is there twice in service tcp/192.0.2.80:80: name it once".to_owned()],
        ),
    ] {
        assert_eq!(read_checks("192.0.2.80:80", check), Err(expected), "{check}");
    }
}

#[test]
fn a_check_in_a_service_on_every_port_names_its_own() {
    assert_eq!(
        read_checks("192.0.2.80:0", r#"[{ type = "tcp" }, { type = "ping" }]"#),
        Err(vec![
            "4:19: check of type `tcp` has no port, and service tcp/192.0.2.80:0 is on every port: add one, as in `port = 80`".to_owned()
        ])
    );
    assert!(
        read_checks(
            "192.0.2.80:0",
            r#"[{ type = "tcp", port = 22 }, { type = "ping" }]"#
        )
        .is_ok()
    );
}

#[test]
fn a_udp_service_may_be_probed_over_tcp() {
    let text = "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:53\"\nprotocol = \"udp\"\n\
                check = { type = \"tcp\" }\n";
    assert!(model(text, "lb1").is_ok());
}

//! The servers that the probes are made for: OpenSSH, MariaDB, Redis, nginx, dnsmasq, gRPC.

use std::fs;

use balancer_ctl::{
    health::Outcome,
    model::check::{DnsProbe, Exchange, GrpcProbe, HttpProbe, HttpVersion, Probe, Source, Tls},
};
use balancer_tests::{privileged, servers::Grpc, topology::page};
use rcgen::CertifiedKey;

use super::{SHORT, Scene, block_on, exchange, fail, http, pass, pattern, tcp};

#[test]
fn banners_and_answers_of_real_servers_are_recognised() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    let real = &mut scene.0.reals[0];
    let log = real.start_sshd();
    real.start_mariadb();
    real.start_redis();
    let lines = || fs::read_to_string(&log).expect("a log").lines().count();
    let before = lines();
    assert_eq!(scene.ask(scene.target(22), tcp()), pass("connected"));
    assert_eq!(lines(), before, "sshd has noticed a plain tcp probe");
    let Outcome::Passed { note, .. } = scene.ask(
        scene.target(22),
        Probe::Tcp(exchange(b"", r"^SSH-2\.0-OpenSSH_[0-9.p]+ Debian")),
    ) else {
        panic!("sshd does not greet");
    };
    assert!(note.starts_with("answered \"SSH-2.0-OpenSSH_"), "{note}");
    assert_eq!(
        scene.ask(
            scene.target(6379),
            Probe::Tcp(exchange(b"PING\r\n", r"^\+PONG\r\n"))
        ),
        pass("answered \"+PONG\"")
    );
    // Length, number 0, protocol 10, version: MariaDB's first packet. An error's has 0xff for the protocol.
    let greeting = exchange(b"", r"(?s-u)^...\x00\x0a[^\x00]*MariaDB[^\x00]*\x00");
    let mysql = Probe::Tcp(greeting);
    for _ in 0..150 {
        let Outcome::Passed { .. } = scene.ask(scene.target(3306), mysql.clone()) else {
            panic!("MariaDB does not greet");
        };
    }
    // It waits for an answer to its greeting, and so does the probe, but not for ever.
    let smtp = Probe::Tcp(exchange(b"", "^220 "));
    let answer = scene.ask_from(Source::default(), scene.target(3306), smtp, SHORT);
    let Some(Outcome::Failed { reason }) = &answer else {
        panic!("{answer:?}");
    };
    assert!(reason.ends_with(" does not match /^220 /"), "{reason}");
}

#[test]
fn nginx_answers_http_in_all_its_forms() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["www.example".to_owned()]).expect("a certificate");
    let folder = scene.0.reals[0].folder().to_owned();
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, cert.pem()).expect("a file");
    fs::write(&key, signing_key.serialize_pem()).expect("a file");
    scene.0.reals[0].start_nginx(&format!(
        "listen 80; listen [::]:80; listen 81 http2; listen 443 ssl http2;
         ssl_certificate {}; ssl_certificate_key {};
         location = /busy {{ return 503; }} {}",
        certificate.display(),
        key.display(),
        page(1)
    ));
    let named = HttpProbe {
        body: pattern("^real1\n$"),
        ..HttpProbe::default()
    };
    let busy = HttpProbe {
        path: "/busy".into(),
        ..HttpProbe::default()
    };
    let version2 = |probe: &HttpProbe| HttpProbe {
        version: HttpVersion::Http2,
        ..probe.clone()
    };
    let secure = |probe: &HttpProbe| HttpProbe {
        host: Some("www.example".into()),
        tls: Some(Tls {
            ca: Some(certificate.clone()),
            ..Tls::default()
        }),
        ..probe.clone()
    };
    let failed = fail("http 503, wanted 200-299");
    for (target, good, bad) in [
        (scene.target(80), named.clone(), busy.clone()),
        (scene.target6(80), named.clone(), busy.clone()),
        (scene.target(81), version2(&named), version2(&busy)),
        (scene.target(443), secure(&named), secure(&busy)),
        (
            scene.target(443),
            secure(&version2(&named)),
            secure(&version2(&busy)),
        ),
    ] {
        assert_eq!(scene.ask(target, http(good)), pass("http 200"));
        assert_eq!(scene.ask(target, http(bad)), failed);
    }
    let other = HttpProbe {
        host: Some("other.example".into()),
        ..secure(&named)
    };
    assert_eq!(
        scene.ask(scene.target(443), http(other)),
        fail("certificate is for www.example, not other.example")
    );
}

#[test]
fn insecure_takes_certificates_of_all_kinds() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    let folder = scene.0.reals[0].folder().to_owned();
    let kinds = [
        ("rsa-1024", include_str!("certificates/rsa-1024.pem")),
        ("p-521", include_str!("certificates/p-521.pem")),
        ("ed448", include_str!("certificates/ed448.pem")),
        ("secp256k1", include_str!("certificates/secp256k1.pem")),
    ];
    for (port, (name, pem)) in (443..).zip(kinds) {
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, pem).expect("a file");
        let file = file.display();
        scene.0.reals[0].start_nginx_on(
            port,
            &format!(
                "listen {port} ssl; listen [::]:{port} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers DEFAULT@SECLEVEL=0;
                 ssl_certificate {file}; ssl_certificate_key {file}; {}",
                page(1)
            ),
        );
        let insecure = HttpProbe {
            tls: Some(Tls {
                insecure: true,
                ..Tls::default()
            }),
            ..HttpProbe::default()
        };
        let outcome = match name {
            // TLS 1.3 has no signature for this curve, and rustls no such group for TLS 1.2.
            "secp256k1" => fail("tls alert from the server: handshake failure"),
            _ => pass("http 200"),
        };
        for target in [scene.target(port), scene.target6(port)] {
            let answer = scene.ask(target, http(insecure.clone()));
            assert_eq!(answer, outcome, "{name}");
        }
    }
}

/// A query for the TXT records of `whoami.test`, as it goes over the wire.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06whoami\x04test\x00\x00\x10\x00\x01";

#[test]
fn dnsmasq_answers_dns_and_plain_datagrams() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    scene.0.reals[0].start_dns("real1");
    let dns = |name: &str, answer: Option<&str>| {
        Probe::Dns(DnsProbe {
            name: name.into(),
            record: "TXT".into(),
            answer: answer.map(str::to_owned),
        })
    };
    for target in [scene.target(53), scene.target6(53)] {
        assert_eq!(
            scene.ask(target, dns("whoami.test", None)),
            pass("dns noerror, 1 answers")
        );
        assert_eq!(
            scene.ask(target, dns("whoami.test", Some("real1"))),
            pass("dns real1")
        );
        assert_eq!(
            scene.ask(target, dns("whoami.test", Some("real2"))),
            fail("dns real1, wanted real2")
        );
        assert_eq!(
            scene.ask(target, dns("nobody.test", None)),
            fail("dns refused")
        );
        assert!(matches!(
            scene.ask(
                target,
                Probe::Udp(exchange(QUERY, r"(?-u)^\x12\x34[\x80-\xff].*real1"))
            ),
            Outcome::Passed { .. }
        ));
    }
    assert_eq!(
        scene.ask(scene.target(54), Probe::Udp(Exchange::default())),
        fail("port unreachable")
    );
}

#[test]
fn a_grpc_server_is_asked_by_service() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let server = Grpc::start(&scene.0.reals[0], 50051);
    block_on(async {
        let serving = tonic_health::ServingStatus::Serving;
        let not_serving = tonic_health::ServingStatus::NotServing;
        server.health.set_service_status("shop", serving).await;
        server.health.set_service_status("stock", not_serving).await;
    });
    let service = |service: &str| {
        Probe::Grpc(Box::new(GrpcProbe {
            service: service.into(),
            tls: None,
        }))
    };
    let target = scene.target(50051);
    assert_eq!(scene.ask(target, service("")), pass("grpc SERVING"));
    assert_eq!(scene.ask(target, service("shop")), pass("grpc SERVING"));
    assert_eq!(
        scene.ask(target, service("stock")),
        fail("grpc NOT_SERVING")
    );
    let Outcome::Failed { reason } = scene.ask(target, service("nothing")) else {
        panic!("there is no such service");
    };
    assert!(
        reason.starts_with("grpc NOT_FOUND (it does not know the service)"),
        "{reason}"
    );
}

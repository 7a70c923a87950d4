//! Certificates, good and bad.

mod grpc;
mod odd;

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::check::{HttpVersion, Tls};

/// A CA, and where its certificate is.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self) -> Tls {
        Tls {
            ca: Some(self.file("ca.pem")),
            ..Tls::default()
        }
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }
}

struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Identity {
    fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

fn named(names: &[&str]) -> CertificateParams {
    CertificateParams::new(
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    )
    .unwrap()
}

/// The server's side of TLS with this certificate; with `clients`, it wants theirs, of that CA.
fn acceptor(identity: &Identity, clients: Option<&Authority>, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = config
        .with_single_cert(vec![identity.certificate.clone()], identity.key())
        .unwrap();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A web server with this certificate; with `clients`, it wants theirs, of that CA. It answers HTTP/2 where that is
/// agreed on.
async fn server(identity: &Identity, clients: Option<&Authority>, protocols: &[&str]) -> Server {
    let acceptor = acceptor(identity, clients, protocols);
    Server::start(async move |stream| {
        // Clients that do not like the certificate go.
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let _ = respond.send_response(hyper::Response::new(()), true);
            }
            return;
        }
        let _ = stream.read(&mut [0; 4096]).await;
        let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await
}

fn https(tls: Tls, host: Option<&str>) -> HttpProbe {
    HttpProbe {
        tls: Some(tls),
        host: host.map(str::to_owned),
        ..HttpProbe::default()
    }
}

#[test]
fn a_good_certificate_passes_by_name_and_by_address() {
    run(async {
        let authority = Authority::new();
        let identity = authority.sign(named(&["www.example", "127.0.0.1"]));
        let server = server(&identity, None, &[]).await;
        let passed = pass("http 200");
        for host in [None, Some("www.example"), Some("www.example:8443")] {
            assert_eq!(
                ask(server.address, http(https(authority.tls(), host))).await,
                passed
            );
        }
        // The server receives the name (SNI).
        let named = Tls {
            server_name: Some("www.example".into()),
            ..authority.tls()
        };
        let probe = HttpProbe {
            body: pattern("^www.example$"),
            ..https(named, Some("other.example"))
        };
        assert_eq!(ask(server.address, http(probe)).await, passed);
    });
}

#[test]
fn a_bad_certificate_fails_with_what_is_bad() {
    run(async {
        let authority = Authority::new();
        let mut expired = named(&["www.example"]);
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        let mut early = named(&["www.example"]);
        early.not_before = date_time_ymd(2090, 1, 1);
        let mut authoritative = named(&["www.example"]);
        authoritative.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for (identity, reason) in [
            (authority.sign(expired), "certificate expired"),
            (authority.sign(early), "certificate is not valid yet"),
            (
                authority.sign(named(&["other.example"])),
                "certificate is for other.example, not www.example",
            ),
            (
                authority.sign(named(&["a", "b", "127.0.0.1", "c", "d"])),
                "certificate is for a, b, 127.0.0.1 and 2 more, not www.example",
            ),
            (
                Identity::self_signed(named(&["www.example"])),
                "certificate is of an unknown issuer",
            ),
            (
                Identity::self_signed(authoritative),
                "certificate is self-signed",
            ),
        ] {
            let server = server(&identity, None, &[]).await;
            let probe = |tls: Tls| http(https(tls, Some("www.example")));
            assert_eq!(
                ask(server.address, probe(authority.tls())).await,
                fail(reason)
            );
            let insecure = Tls {
                insecure: true,
                ..Tls::default()
            };
            assert_eq!(ask(server.address, probe(insecure)).await, pass("http 200"));
        }
    });
}

#[test]
fn the_systems_authorities_are_used_by_default() {
    run(async {
        let authority = Authority::new();
        let identity = authority.sign(named(&["www.example"]));
        let server = server(&identity, None, &[]).await;
        assert_eq!(
            ask(
                server.address,
                http(https(Tls::default(), Some("www.example")))
            )
            .await,
            fail("certificate is of an unknown issuer")
        );
    });
}

#[test]
fn a_self_signed_certificate_can_be_trusted_by_its_file() {
    run(async {
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let authority = Authority::new();
            let mut params = named(&["www.example"]);
            params.is_ca = is_ca;
            let identity = Identity::self_signed(params);
            fs::write(authority.file("ca.pem"), &identity.pem).unwrap();
            let server = server(&identity, None, &[]).await;
            let probe = |host| http(https(authority.tls(), Some(host)));
            assert_eq!(
                ask(server.address, probe("www.example")).await,
                pass("http 200")
            );
            assert_eq!(
                ask(server.address, probe("other.example")).await,
                fail("certificate is for www.example, not other.example")
            );
        }
    });
}

#[test]
fn a_server_may_want_a_certificate_of_its_clients() {
    run(async {
        let authority = Authority::new();
        let identity = authority.sign(named(&["www.example"]));
        let own = authority.sign(named(&["probe.example"]));
        fs::write(authority.file("own.pem"), &own.pem).unwrap();
        fs::write(authority.file("own.key"), own.key.serialize_pem()).unwrap();
        let server = server(&identity, Some(&authority), &[]).await;
        let with = Tls {
            certificate: Some((authority.file("own.pem"), authority.file("own.key"))),
            ..authority.tls()
        };
        let probe = |tls: Tls| http(https(tls, Some("www.example")));
        assert_eq!(ask(server.address, probe(with)).await, pass("http 200"));
        assert_eq!(
            ask(server.address, probe(authority.tls())).await,
            fail("tls alert from the server: certificate required")
        );
    });
}

#[test]
fn http2_must_be_agreed_on() {
    run(async {
        let authority = Authority::new();
        let identity = authority.sign(named(&["www.example"]));
        let probe = || {
            http(HttpProbe {
                version: HttpVersion::Http2,
                ..https(authority.tls(), Some("www.example"))
            })
        };
        let able = server(&identity, None, &["h2", "http/1.1"]).await;
        assert_eq!(ask(able.address, probe()).await, pass("http 200"));
        let silent = server(&identity, None, &[]).await;
        assert_eq!(
            ask(silent.address, probe()).await,
            fail("the server does not offer http/2")
        );
        let old = server(&identity, None, &["http/1.1"]).await;
        assert_eq!(
            ask(old.address, probe()).await,
            fail("tls alert from the server: no application protocol")
        );
    });
}

#[test]
fn an_answer_that_is_not_tls_fails() {
    run(async {
        let probe = || http(https(Tls::default(), Some("www.example")));
        let server = Server::answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(
            ask(server.address, probe()).await,
            fail("the answer is not tls")
        );
        let server = Server::answering(b"").await;
        assert_eq!(
            ask(server.address, probe()).await,
            fail("connection closed in the tls handshake")
        );
        let server = Server::greeting(b"").await;
        times_out(server.address, probe()).await;
    });
}

#[test]
fn files_that_are_no_certificates_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |tls: Tls| {
        let target = "127.0.0.1:443".parse().unwrap();
        make_prober(&check_target(target, http(https(tls, None)))).unwrap_err()
    };
    let missing = folder.path().join("missing.pem");
    let ca = |file: PathBuf| Tls {
        ca: Some(file),
        ..Tls::default()
    };
    assert_eq!(
        refused(ca(missing.clone())),
        format!(
            "cannot read certificates from {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    assert_eq!(
        refused(ca(empty.clone())),
        format!("there is no certificate in {}", empty.display())
    );
    // A pipe that no process writes to.
    let pipe = folder.path().join("pipe.pem");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert_eq!(
        refused(ca(pipe.clone())),
        format!(
            "cannot read certificates from {}: it is not a regular file",
            pipe.display()
        )
    );
    let identity = Identity::self_signed(named(&["x"]));
    let certificate = folder.path().join("x.pem");
    fs::write(&certificate, &identity.pem).unwrap();
    let with_key = |key: PathBuf| Tls {
        certificate: Some((certificate.clone(), key)),
        ..Tls::default()
    };
    let broken = folder.path().join("broken.pem");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_key = "it holds no private key, or one with a passphrase";
    for (text, of_certificates, of_key) in [
        ("", None, no_key),
        (encrypted, None, no_key),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
            Some("the file ends before its END line"),
            "the file ends before its END line",
        ),
        (
            "-----BEGIN CERTIFICATE\nAAAA\n",
            Some("one of its BEGIN lines is not whole"),
            "one of its BEGIN lines is not whole",
        ),
        (
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
            Some("what is between BEGIN and END is not base64"),
            "what is between BEGIN and END is not base64",
        ),
    ] {
        fs::write(&broken, text).unwrap();
        let file = broken.display();
        let expected = match of_certificates {
            None => format!("there is no certificate in {file}"),
            Some(reason) => format!("cannot read certificates from {file}: {reason}"),
        };
        assert_eq!(refused(ca(broken.clone())), expected, "{text}");
        assert_eq!(
            refused(with_key(broken.clone())),
            format!("cannot read a private key from {file}: {of_key}"),
            "{text}"
        );
    }
    let name = Tls {
        server_name: Some("no name".into()),
        ..Tls::default()
    };
    assert_eq!(refused(name), "`no name` is no name for a certificate");
}

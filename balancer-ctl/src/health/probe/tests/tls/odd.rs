//! TLS that is odd: certificates of all kinds, chains that are too long, connections that end without notice.

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::pem::PemObject as _;

use super::*;

/// A certificate of X.509 version 1, as `openssl x509 -req -signkey` makes it, and its key.
const VERSION_1: &[u8] = include_bytes!("x509-version-1.pem");

/// Shows a certificate without a look at it.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// The server's side of TLS with any certificates and a key.
fn showing(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> TlsAcceptor {
    let key = ring::sign::any_supported_type(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key)))));
    TlsAcceptor::from(Arc::new(config))
}

/// Answers each request with these bytes, and closes the connection without `close_notify`.
async fn ending(address: &str, acceptor: TlsAcceptor, answer: &'static [u8]) -> Server {
    Server::start_on(address, async move |stream| {
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return;
        };
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(answer).await;
        let _ = stream.flush().await;
    })
    .await
}

fn insecure() -> Tls {
    Tls {
        insecure: true,
        ..Tls::default()
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn insecure_takes_a_certificate_of_version_1() {
    run(async {
        let certificate = CertificateDer::from_pem_slice(VERSION_1).unwrap();
        let key = PrivateKeyDer::from_pem_slice(VERSION_1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, Identity::self_signed(named(&["x"])).pem).unwrap();
        for version in [&TLS12, &TLS13] {
            let acceptor = showing(vec![certificate.clone()], &key, version);
            let server = ending("127.0.0.1:0", acceptor, OK).await;
            assert_eq!(
                ask(server.address, http(https(insecure(), None))).await,
                pass("http 200")
            );
            let verified = Tls {
                ca: Some(ca.clone()),
                ..Tls::default()
            };
            assert_eq!(
                ask(server.address, http(https(verified, None))).await,
                fail("certificate is older than X.509 version 3")
            );
        }
    });
}

#[test]
fn insecure_takes_a_certificate_whose_key_is_not_the_servers() {
    run(async {
        let [shown, other] = [(); 2].map(|()| Identity::self_signed(named(&["www.example"])));
        for version in [&TLS12, &TLS13] {
            let acceptor = showing(vec![shown.certificate.clone()], &other.key(), version);
            let server = ending("127.0.0.1:0", acceptor, OK).await;
            assert_eq!(
                ask(server.address, http(https(insecure(), None))).await,
                pass("http 200")
            );
        }
    });
}

#[test]
fn a_chain_that_is_too_long_to_read_is_named() {
    run(async {
        let identity = Identity::self_signed(named(&["www.example"]));
        let count = (100 << 10) / identity.certificate.len() + 1;
        for version in [&TLS12, &TLS13] {
            let chain = vec![identity.certificate.clone(); count];
            let acceptor = showing(chain, &identity.key(), version);
            let server = ending("127.0.0.1:0", acceptor, OK).await;
            for tls in [insecure(), Tls::default()] {
                assert_eq!(
                    ask(server.address, http(https(tls, None))).await,
                    fail("the server's certificate chain is larger than 64 KiB")
                );
            }
        }
    });
}

#[test]
fn an_answer_is_whole_although_tls_ends_without_notice() {
    run(async {
        let identity = Identity::self_signed(named(&["www.example"]));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for version in [&TLS12, &TLS13] {
                for (answer, body, outcome) in [
                    (OK, None, pass("http 200")),
                    (OK, Some("^ok$"), pass("http 200")),
                    (OK, Some("no"), fail("body does not match /no/")),
                    (b"HTTP/1.0 200 OK\r\n\r\nok", Some("^ok$"), pass("http 200")),
                    // Without a length, nothing says that this was all.
                    (
                        b"HTTP/1.0 200 OK\r\n\r\nok",
                        Some("no"),
                        fail("connection closed before the answer was whole"),
                    ),
                ] {
                    let acceptor =
                        showing(vec![identity.certificate.clone()], &identity.key(), version);
                    let server = ending(address, acceptor, answer).await;
                    let probe = HttpProbe {
                        body: body.and_then(pattern),
                        ..https(insecure(), None)
                    };
                    assert_eq!(ask(server.address, http(probe)).await, outcome, "{body:?}");
                }
            }
        }
    });
}

//! TLS towards a target: which certificates are trusted, and what is wrong with a certificate, as operators read it.
//!
//! Sessions are not resumed: a resumed session shows no certificate, so an expired one would go unnoticed.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject as _},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::ProbeFailure;
use crate::{model::check::Tls, os::file::read_regular_file};

mod reason;
mod verifier;

pub use reason::failure;

/// The TLS client for one target.
#[derive(Clone)]
pub struct TlsClient {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsClient").field(&self.name).finish()
    }
}

/// The protocol to use over TLS (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, to which the server must agree.
    Http2,
}

impl Alpn {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

impl TlsClient {
    /// `host` is the name that the certificate must have if the check sets no `server-name`.
    ///
    /// # Errors
    /// A sentence: a file cannot be read or has the wrong content, or the name is invalid.
    pub fn new(tls: &Tls, host: &str, application: Alpn) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier(tls, provider)?);
        let mut config = match &tls.certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| {
                    let (certificate, key) = (certificate.display(), key.display());
                    let error = reason::sentence(&error);
                    format!("the certificate {certificate} with the key {key}: {error}")
                })?,
        };
        config.alpn_protocols = vec![application.name().to_vec()];
        config.resumption = Resumption::disabled();
        let name = tls.server_name.as_deref().unwrap_or(host);
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name.to_owned())
                .map_err(|_| format!("`{name}` is no name for a certificate"))?,
        })
    }

    /// Makes the handshake over a TCP connection.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        application: Alpn,
    ) -> Result<TlsStream<TcpStream>, ProbeFailure> {
        let connecting = self.connector.connect(self.name.clone(), stream);
        let stream = connecting.await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "connection closed in the tls handshake".into(),
            _ => failure(&error),
        })?;
        // A server without ALPN selects nothing and speaks HTTP/1.1.
        if application == Alpn::Http2
            && stream.get_ref().1.alpn_protocol() != Some(application.name())
        {
            return Err("the server does not offer http/2".into());
        }
        Ok(stream)
    }
}

/// Finds what would keep a check from using TLS with any target: the settings' key, and a sentence. Each setting is tried
/// by itself, so that the key is known. The system's CA certificates are not tried: they are not part of the check.
pub fn config_problem(tls: &Tls, host: Option<&str>) -> Option<(&'static str, String)> {
    let nothing = Tls {
        insecure: true,
        ..Tls::default()
    };
    let name = Tls {
        server_name: tls.server_name.clone(),
        ..nothing.clone()
    };
    let name_key = match tls.server_name {
        Some(_) => "server-name",
        None => "host",
    };
    let certificate = Tls {
        certificate: tls.certificate.clone(),
        ..nothing.clone()
    };
    let ca = Tls {
        insecure: tls.insecure || tls.ca.is_none(),
        ca: tls.ca.clone(),
        ..nothing
    };
    let any = "192.0.2.1";
    [
        (name_key, name, host.unwrap_or(any)),
        ("ca", ca, any),
        ("certificate", certificate, any),
    ]
    .into_iter()
    .find_map(|(key, part, host)| {
        let made = TlsClient::new(&part, host, Alpn::Http1);
        made.err().map(|sentence| (key, sentence))
    })
}

fn verifier(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if tls.insecure {
        return Ok(Arc::new(verifier::AnyCertificate));
    }
    let (roots, own) = match &tls.ca {
        None => (system_roots()?, Vec::new()),
        Some(file) => {
            let own = certificates(file)?;
            let mut roots = RootCertStore::empty();
            for certificate in &own {
                let added = roots.add(certificate.clone());
                added.map_err(|error| {
                    let error = reason::sentence(&error);
                    format!("the certificate in {}: {error}", file.display())
                })?;
            }
            (Arc::new(roots), own)
        }
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(verifier::Trusted { verifier, own }))
}

/// The system's CA certificates, shared by all probes because they take a megabyte.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static SHARED: Mutex<Weak<RootCertStore>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = shared.upgrade() {
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be parsed are ignored: some systems have a few that nothing uses.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}"));
        return Err(format!(
            "this host has no CA certificates{}; install ca-certificates, or set `ca` or `insecure`",
            why.unwrap_or_default()
        ));
    }
    let roots = Arc::new(roots);
    *shared = Arc::downgrade(&roots);
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable =
        |error: &str| format!("cannot read certificates from {}: {error}", file.display());
    let bytes = read_regular_file(file).map_err(|error| unreadable(&error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(reason::pem_sentence(&error)))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in {}", file.display()));
    }
    Ok(certificates)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let unreadable =
        |error: &str| format!("cannot read a private key from {}: {error}", file.display());
    let bytes = read_regular_file(file).map_err(|error| unreadable(&error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        unreadable(match &error {
            // An encrypted key is another kind of item.
            pem::Error::NoItemsFound => "it holds no private key, or one with a passphrase",
            error => reason::pem_sentence(error),
        })
    })
}

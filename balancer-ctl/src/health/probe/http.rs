//! HTTP checks: HTTP/1.1 requests, and what HTTP/2 requests share with them.

mod body;
mod head;

use std::time::Duration;

pub use body::{Body, BodyEnd, BodyPattern, search};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{self, HeaderName, HeaderValue},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

use super::{
    Passed, ProbeFailure,
    socket::{ConnectMode, Endpoint, in_url},
    tcp::answer_wait,
    tls::{Alpn, TlsClient},
};
use crate::model::check::{HttpProbe, HttpVersion};

/// Largest head (status line and header fields) of an answer, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;

/// An HTTP/1.1 probe.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    encryption: Option<TlsClient>,
    /// The request as bytes on the wire.
    encoded: Vec<u8>,
    /// Whether the method is `HEAD`, to which no answer has a body.
    is_head: bool,
    expectation: Expectation,
}

impl Http {
    /// `limit` is the timeout that the caller enforces.
    pub fn new(endpoint: Endpoint, probe: &HttpProbe, limit: Duration) -> Result<Self, String> {
        let request = request(&endpoint, probe)?;
        Ok(Self {
            encryption: tls_client(&endpoint, probe)?,
            is_head: request.method() == Method::HEAD,
            encoded: head::encode(&request, probe.request_body.as_bytes()),
            expectation: Expectation::new(probe, limit),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let until = self.expectation.until();
        let mut stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => {
                let passed = self.request_over(&mut stream, until).await?;
                self.endpoint.reset(stream);
                Ok(passed)
            }
            Some(encryption) => Box::pin(self.request_over_tls(encryption, stream, until)).await,
        }
    }

    async fn request_over_tls(
        &self,
        encryption: &TlsClient,
        stream: TcpStream,
        until: Instant,
    ) -> Result<Passed, ProbeFailure> {
        let mut stream = encryption.handshake(stream, Alpn::Http1).await?;
        self.request_over(&mut stream, until).await
    }

    async fn request_over(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        until: Instant,
    ) -> Result<Passed, ProbeFailure> {
        let answer = head::exchange(stream, &self.encoded).await?;
        let passed = self.expectation.check_status(answer.status)?;
        match &self.expectation.body {
            None => Ok(passed),
            Some(pattern) => {
                let mut body = answer.body(stream, self.is_head);
                Box::pin(search(&mut body, pattern, until)).await?;
                Ok(passed)
            }
        }
    }
}

/// What a passing answer looks like.
#[derive(Debug)]
pub struct Expectation {
    status: Vec<(u16, u16)>,
    pub body: Option<BodyPattern>,
    /// How long to wait for the rest of a body.
    answer_wait: Duration,
}

impl Expectation {
    /// `limit` is the timeout that the caller enforces.
    pub fn new(probe: &HttpProbe, limit: Duration) -> Self {
        Self {
            status: probe.status.clone(),
            body: probe.body.as_ref().map(BodyPattern::new),
            answer_wait: answer_wait(limit),
        }
    }

    /// Until when the probe that begins now may wait for the rest of a body.
    pub fn until(&self) -> Instant {
        Instant::now() + self.answer_wait
    }

    pub fn check_status(&self, status: StatusCode) -> Result<Passed, ProbeFailure> {
        let status = status.as_u16();
        let is_wanted = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
        if self.status.iter().any(is_wanted) {
            return Ok(Passed::new(format!("http {status}")));
        }
        let ranges: Vec<_> = self
            .status
            .iter()
            .map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            })
            .collect();
        Err(format!("http {status}, wanted {}", ranges.join(",")).into())
    }
}

/// The TLS client of a probe that uses TLS.
pub fn tls_client(endpoint: &Endpoint, probe: &HttpProbe) -> Result<Option<TlsClient>, String> {
    let application = match probe.version {
        HttpVersion::Http1 => Alpn::Http1,
        HttpVersion::Http2 => Alpn::Http2,
    };
    let authority = probe.host.as_deref();
    let host = match authority {
        None => endpoint.target().ip().to_string(),
        Some(host) => without_port(host).to_owned(),
    };
    probe
        .tls
        .as_ref()
        .map(|tls| TlsClient::new(tls, &host, application))
        .transpose()
}

/// A URL's host without its port and brackets.
pub fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
            _ => host,
        },
    }
}

/// Builds the request. HTTP/2 has the host in the URI, HTTP/1.1 in the `Host` field.
pub fn request(endpoint: &Endpoint, probe: &HttpProbe) -> Result<Request<()>, String> {
    let (scheme, usual_port) = match probe.tls {
        None => ("http", 80),
        Some(_) => ("https", 443),
    };
    let target = endpoint.target();
    let authority = match &probe.host {
        Some(host) => host.clone(),
        None if target.port() == usual_port => in_url(target.ip()),
        None => format!("{}:{}", in_url(target.ip()), target.port()),
    };
    let uri = match probe.version {
        HttpVersion::Http1 => probe.path.clone(),
        HttpVersion::Http2 => format!("{scheme}://{authority}{}", probe.path),
    };
    let uri =
        Uri::try_from(&uri).map_err(|error| format!("`{uri}` cannot be asked for: {error}"))?;
    let mut fields = HeaderMap::new();
    fields.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("balancer/", env!("CARGO_PKG_VERSION"))),
    );
    fields.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    if probe.version == HttpVersion::Http1 {
        let host = HeaderValue::try_from(&authority)
            .map_err(|_| format!("`{authority}` cannot be a host"))?;
        fields.insert(header::HOST, host);
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(length) = content_length(probe) {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    // The check's own header fields replace these.
    for (name, _) in &probe.headers {
        fields.remove(name);
    }
    for (name, value) in &probe.headers {
        let name = HeaderName::try_from(name)
            .map_err(|_| format!("`{name}` cannot be the name of a header field"))?;
        let value = HeaderValue::try_from(value)
            .map_err(|_| format!("the header field `{name}` cannot have this value"))?;
        fields.append(name, value);
    }
    let mut request = Request::new(());
    *request.method_mut() = probe
        .method
        .parse()
        .map_err(|_| format!("`{}` cannot be a method", probe.method))?;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    Ok(request)
}

/// The length that a request states: that of its body, and 0 without one if its method is of those to which a body
/// belongs (RFC 9110, section 8.6).
fn content_length(probe: &HttpProbe) -> Option<usize> {
    let has_body = matches!(&*probe.method, "POST" | "PUT" | "PATCH");
    (has_body || !probe.request_body.is_empty()).then_some(probe.request_body.len())
}

pub fn too_large() -> ProbeFailure {
    format!("the answer's head is larger than {} KiB", MAX_HEAD / 1024).into()
}

fn closed_early() -> ProbeFailure {
    "connection closed before the answer was whole".into()
}

fn not_http() -> ProbeFailure {
    "the answer is not http".into()
}

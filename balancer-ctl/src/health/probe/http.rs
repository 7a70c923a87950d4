//! HTTP checks: HTTP/1.1 requests, and what HTTP/2 requests share with them.

mod head;

use std::error::Error as _;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    Passed, ProbeFailure,
    drive_connection::drive_connection,
    reset_on_close::ResetOnClose,
    socket::{ConnectMode, Endpoint, in_url},
    text,
    tls::{Alpn, TlsClient},
};
use crate::model::check::{HttpProbe, HttpVersion, MAX_BODY};

/// Largest head (status line and header fields) of an answer, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;

/// An HTTP/1.1 probe.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    encryption: Option<TlsClient>,
    request: Request<Empty<Bytes>>,
    /// The request as bytes on the wire.
    encoded: Vec<u8>,
    expectation: Expectation,
}

impl Http {
    pub fn new(endpoint: Endpoint, probe: &HttpProbe) -> Result<Self, String> {
        let request = request(&endpoint, probe)?.map(|()| Empty::new());
        Ok(Self {
            encryption: tls_client(&endpoint, probe)?,
            encoded: head::encode(&request),
            request,
            expectation: Expectation::new(probe),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let mut stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => {
                let passed = self.request_over(&mut stream).await?;
                self.endpoint.reset(stream);
                Ok(passed)
            }
            Some(encryption) => Box::pin(self.request_over_tls(encryption, stream)).await,
        }
    }

    async fn request_over_tls(
        &self,
        encryption: &TlsClient,
        stream: TcpStream,
    ) -> Result<Passed, ProbeFailure> {
        let stream = encryption.handshake(stream, Alpn::Http1).await?;
        self.request_over(stream).await
    }

    async fn request_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Passed, ProbeFailure> {
        match &self.expectation.body {
            None => self
                .expectation
                .check_status(head::exchange(stream, &self.encoded).await?),
            Some(pattern) => Box::pin(self.request_body(stream, pattern)).await,
        }
    }

    async fn request_body(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        pattern: &Regex,
    ) -> Result<Passed, ProbeFailure> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(ResetOnClose(stream)))
            .await
            .map_err(|error| failure(&error))?;
        let exchange = async {
            let response = sender.send_request(self.request.clone()).await;
            self.check_response(response.map_err(|error| failure(&error))?, pattern)
                .await
        };
        drive_connection(connection, exchange).await
    }

    async fn check_response(
        &self,
        response: Response<Incoming>,
        pattern: &Regex,
    ) -> Result<Passed, ProbeFailure> {
        let passed = self.expectation.check_status(response.status())?;
        let mut body = response.into_body();
        let mut start = Vec::new();
        while start.len() < MAX_BODY {
            let Some(frame) = body.frame().await else {
                break;
            };
            if let Ok(data) = frame.map_err(|error| failure(&error))?.into_data() {
                start.extend_from_slice(&data);
            }
        }
        match_body(passed, pattern, start)
    }
}

/// What a passing answer looks like.
#[derive(Debug)]
pub struct Expectation {
    status: Vec<(u16, u16)>,
    pub body: Option<Regex>,
}

impl Expectation {
    pub fn new(probe: &HttpProbe) -> Self {
        Self {
            status: probe.status.clone(),
            body: probe.body.as_ref().map(|pattern| pattern.compiled()),
        }
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

/// Passes if the pattern is found in the body, of which only the first [`MAX_BODY`] bytes are looked at.
pub fn match_body(
    passed: Passed,
    pattern: &Regex,
    mut body: Vec<u8>,
) -> Result<Passed, ProbeFailure> {
    let is_cut = body.len() >= MAX_BODY;
    body.truncate(MAX_BODY);
    if pattern.is_match(&body) {
        return Ok(passed);
    }
    let pattern = text::quoted(pattern.as_str().as_bytes());
    let part = if is_cut { " (first 256 KiB)" } else { "" };
    Err(format!("body does not match /{pattern}/{part}").into())
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

fn failure(error: &hyper::Error) -> ProbeFailure {
    if let Some(io) = error.source().and_then(|source| source.downcast_ref()) {
        return super::tls::failure(io);
    }
    if error.is_parse_too_large() {
        return too_large();
    }
    if error.is_parse() {
        return not_http();
    }
    if error.is_incomplete_message() || error.is_canceled() {
        return "connection closed before the answer was whole".into();
    }
    format!("http: {error}").into()
}

fn too_large() -> ProbeFailure {
    format!("the answer's head is larger than {} KiB", MAX_HEAD / 1024).into()
}

fn not_http() -> ProbeFailure {
    "the answer is not http".into()
}

//! HTTP/1.1 requests, and what HTTP/2's have in common with them.

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
    abrupt::ResetOnClose,
    carried::drive_connection,
    socket::{ConnectMode, Endpoint, in_url},
    text,
    tls::{Application, Encryption},
};
use crate::model::check::{HttpProbe, HttpVersion, MAX_BODY};

/// Longest head of an answer, in bytes.
pub const LONGEST_HEAD: usize = 64 * 1024;

/// An HTTP/1.1 probe.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    encryption: Option<Encryption>,
    request: Request<Empty<Bytes>>,
    /// The same as it is sent.
    written: Vec<u8>,
    wanted: Wanted,
}

impl Http {
    pub fn new(endpoint: Endpoint, probe: &HttpProbe) -> Result<Self, String> {
        let request = request(&endpoint, probe)?.map(|()| Empty::new());
        Ok(Self {
            encryption: encryption(&endpoint, probe)?,
            written: head::written(&request),
            request,
            wanted: Wanted::new(probe),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let mut stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => {
                let passed = self.ask(&mut stream).await?;
                self.endpoint.reset(stream);
                Ok(passed)
            }
            Some(encryption) => Box::pin(self.ask_over(encryption, stream)).await,
        }
    }

    async fn ask_over(
        &self,
        encryption: &Encryption,
        stream: TcpStream,
    ) -> Result<Passed, ProbeFailure> {
        let stream = encryption.over(stream, Application::Http1).await?;
        self.ask(stream).await
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Passed, ProbeFailure> {
        match &self.wanted.body {
            None => self.wanted.status(head::ask(stream, &self.written).await?),
            Some(pattern) => Box::pin(self.ask_for_body(stream, pattern)).await,
        }
    }

    async fn ask_for_body(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        pattern: &Regex,
    ) -> Result<Passed, ProbeFailure> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(LONGEST_HEAD);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(ResetOnClose(stream)))
            .await
            .map_err(|error| failure(&error))?;
        let exchange = async {
            let response = sender.send_request(self.request.clone()).await;
            self.judge(response.map_err(|error| failure(&error))?, pattern)
                .await
        };
        drive_connection(connection, exchange).await
    }

    async fn judge(
        &self,
        response: Response<Incoming>,
        pattern: &Regex,
    ) -> Result<Passed, ProbeFailure> {
        let passed = self.wanted.status(response.status())?;
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
        matched(passed, pattern, start)
    }
}

/// What an answer must be.
#[derive(Debug)]
pub struct Wanted {
    status: Vec<(u16, u16)>,
    pub body: Option<Regex>,
}

impl Wanted {
    pub fn new(probe: &HttpProbe) -> Self {
        Self {
            status: probe.status.clone(),
            body: probe.body.as_ref().map(|pattern| pattern.compiled()),
        }
    }

    pub fn status(&self, status: StatusCode) -> Result<Passed, ProbeFailure> {
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

/// Looks for the pattern in a body, or in its beginning.
pub fn matched(passed: Passed, pattern: &Regex, mut body: Vec<u8>) -> Result<Passed, ProbeFailure> {
    let is_cut = body.len() >= MAX_BODY;
    body.truncate(MAX_BODY);
    if pattern.is_match(&body) {
        return Ok(passed);
    }
    let pattern = text::quoted(pattern.as_str().as_bytes());
    let part = if is_cut { " (first 256 KiB)" } else { "" };
    Err(format!("body does not match /{pattern}/{part}").into())
}

/// Encryption as the probe wants it.
pub fn encryption(endpoint: &Endpoint, probe: &HttpProbe) -> Result<Option<Encryption>, String> {
    let application = match probe.version {
        HttpVersion::Http1 => Application::Http1,
        HttpVersion::Http2 => Application::Http2,
    };
    let authority = probe.host.as_deref();
    let host = match authority {
        None => endpoint.target().ip().to_string(),
        Some(host) => without_port(host).to_owned(),
    };
    probe
        .tls
        .as_ref()
        .map(|tls| Encryption::new(tls, &host, application))
        .transpose()
}

/// A host of a URL, without its port and brackets.
pub fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
            _ => host,
        },
    }
}

/// The request. HTTP/2 names the host in its address, HTTP/1.1 in a field.
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
    // The check's own take the place of these.
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
    format!(
        "the answer's head is larger than {} KiB",
        LONGEST_HEAD / 1024
    )
    .into()
}

fn not_http() -> ProbeFailure {
    "the answer is not http".into()
}

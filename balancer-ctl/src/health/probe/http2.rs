//! HTTP checks over HTTP/2, with TLS or over plain TCP with prior knowledge.

use std::time::Duration;

use h2::{Reason, client};
use hyper::{Request, Response, body::Bytes, header};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Passed, ProbeFailure,
    drive_connection::drive_connection,
    http::{self, Body, BodyEnd, Expectation, MAX_HEAD},
    socket::{ConnectMode, Endpoint},
    tls::{self, Alpn, TlsClient},
};
use crate::model::check::{HttpProbe, MAX_BODY};

/// An HTTP/2 probe.
#[derive(Debug)]
pub struct Http2 {
    endpoint: Endpoint,
    encryption: Option<TlsClient>,
    request: Request<()>,
    body: Bytes,
    expectation: Expectation,
}

impl Http2 {
    /// `limit` is the timeout that the caller enforces.
    pub fn new(endpoint: Endpoint, probe: &HttpProbe, limit: Duration) -> Result<Self, String> {
        Ok(Self {
            encryption: http::tls_client(&endpoint, probe)?,
            request: http::request(&endpoint, probe)?,
            body: probe.request_body.clone().into(),
            expectation: Expectation::new(probe, limit),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let until = self.expectation.until();
        let stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => self.request_over(stream, until).await,
            Some(encryption) => {
                self.request_over(encryption.handshake(stream, Alpn::Http2).await?, until)
                    .await
            }
        }
    }

    async fn request_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        until: Instant,
    ) -> Result<Passed, ProbeFailure> {
        let (mut sender, connection) = handshake(stream).await?;
        let exchange = async {
            let (response, mut body) = sender
                .send_request(self.request.clone(), self.body.is_empty())
                .map_err(|error| failure(&error))?;
            if !self.body.is_empty() {
                body.send_data(self.body.clone(), true)
                    .map_err(|error| failure(&error))?;
            }
            let response = response.await.map_err(|error| head_failure(&error))?;
            self.check_response(response, until).await
        };
        drive_connection(connection, exchange).await
    }

    async fn check_response(
        &self,
        response: Response<h2::RecvStream>,
        until: Instant,
    ) -> Result<Passed, ProbeFailure> {
        let passed = self.expectation.check_status(response.status())?;
        if let Some(pattern) = &self.expectation.body {
            let mut body = Http2Body {
                has_length: response.headers().contains_key(header::CONTENT_LENGTH),
                stream: response.into_body(),
            };
            http::search(&mut body, pattern, until).await?;
        }
        Ok(passed)
    }
}

/// The body of an HTTP/2 answer.
struct Http2Body {
    stream: h2::RecvStream,
    /// Whether the head states its length.
    has_length: bool,
}

impl Body for Http2Body {
    async fn next(&mut self) -> Option<Result<Bytes, ProbeFailure>> {
        let data = self.stream.data().await?;
        Some(data.map_err(|error| self.failure(&error)))
    }

    fn end(&self) -> BodyEnd {
        match self.has_length {
            true => BodyEnd::Length,
            false => BodyEnd::Mark,
        }
    }
}

impl Http2Body {
    /// The failure that an error in it stands for. `h2` resets a stream whose data are not as long as the head says.
    fn failure(&self, error: &h2::Error) -> ProbeFailure {
        match self.has_length && error.is_library() && error.is_reset() {
            true => "the answer's body is not as long as its Content-Length says".into(),
            false => failure(error),
        }
    }
}

/// Opens an HTTP/2 connection. Its flow control windows are never enlarged, so a server can send [`MAX_BODY`] bytes at most.
pub async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
) -> Result<(client::SendRequest<Bytes>, client::Connection<T>), ProbeFailure> {
    const WINDOW: u32 = MAX_BODY as u32;
    client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(1)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|error| failure(&error))
}

/// Reads the first [`MAX_BODY`] bytes of a body, or a little more.
pub async fn read_start(body: &mut h2::RecvStream) -> Result<Vec<u8>, ProbeFailure> {
    let mut start = Vec::new();
    while start.len() < MAX_BODY {
        let Some(data) = body.data().await else { break };
        start.extend_from_slice(&data.map_err(|error| failure(&error))?);
    }
    Ok(start)
}

/// The failure that an error in place of an answer's head stands for. `h2` resets a stream whose head is too large as it does one
/// whose head is wrong, and ends the connection if it is far too large.
pub fn head_failure(error: &h2::Error) -> ProbeFailure {
    match (error.is_library(), error.reason()) {
        (true, Some(Reason::ENHANCE_YOUR_CALM)) => http::too_large(),
        (true, _) if error.is_reset() => format!(
            "the answer's head breaks the rules of http/2 (its Content-Length?), or is larger than {} KiB",
            MAX_HEAD / 1024
        )
        .into(),
        _ => failure(error),
    }
}

/// The failure that an error behind an answer's head stands for.
pub fn failure(error: &h2::Error) -> ProbeFailure {
    if let Some(io) = error.get_io() {
        return tls::failure(io);
    }
    match error.reason() {
        Some(reason) if error.is_remote() => {
            format!("the server ended the request: {reason}").into()
        }
        Some(_) if error.is_reset() => "the answer breaks the rules of http/2".into(),
        Some(reason) => format!("the answer is not http/2: {reason}").into(),
        None => format!("http/2: {error}").into(),
    }
}

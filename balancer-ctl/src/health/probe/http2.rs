//! HTTP checks over HTTP/2, with TLS or over plain TCP with prior knowledge.

use h2::client;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Passed, ProbeFailure,
    drive_connection::drive_connection,
    http::{self, Expectation, MAX_HEAD},
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
    expectation: Expectation,
}

impl Http2 {
    pub fn new(endpoint: Endpoint, probe: &HttpProbe) -> Result<Self, String> {
        Ok(Self {
            encryption: http::tls_client(&endpoint, probe)?,
            request: http::request(&endpoint, probe)?,
            expectation: Expectation::new(probe),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => self.request_over(stream).await,
            Some(encryption) => {
                self.request_over(encryption.handshake(stream, Alpn::Http2).await?)
                    .await
            }
        }
    }

    async fn request_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Passed, ProbeFailure> {
        let (mut sender, connection) = handshake(stream).await?;
        let exchange = async {
            let (response, _) = sender
                .send_request(self.request.clone(), true)
                .map_err(|error| failure(&error))?;
            self.check_response(response.await.map_err(|error| failure(&error))?)
                .await
        };
        drive_connection(connection, exchange).await
    }

    async fn check_response(
        &self,
        response: Response<h2::RecvStream>,
    ) -> Result<Passed, ProbeFailure> {
        let passed = self.expectation.check_status(response.status())?;
        let Some(pattern) = &self.expectation.body else {
            return Ok(passed);
        };
        let start = read_start(&mut response.into_body()).await?;
        http::match_body(passed, pattern, start)
    }
}

/// Opens an HTTP/2 connection. Its flow control windows are never enlarged, so a server can send [`MAX_BODY`] bytes at most.
pub async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
) -> Result<
    (
        client::SendRequest<hyper::body::Bytes>,
        client::Connection<T>,
    ),
    ProbeFailure,
> {
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

pub fn failure(error: &h2::Error) -> ProbeFailure {
    if let Some(io) = error.get_io() {
        return tls::failure(io);
    }
    match error.reason() {
        Some(reason) if error.is_remote() => {
            format!("the server ended the request: {reason}").into()
        }
        Some(reason) => format!("the answer is not http/2: {reason}").into(),
        None => format!("http/2: {error}").into(),
    }
}

//! HTTP/2 requests, over TLS or over plain TCP with prior knowledge.

use h2::client;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Passed, ProbeFailure,
    carried::drive_connection,
    http::{self, LONGEST_HEAD, Wanted},
    socket::{ConnectMode, Endpoint},
    tls::{self, Application, Encryption},
};
use crate::model::check::{HttpProbe, MAX_BODY};

/// An HTTP/2 probe.
#[derive(Debug)]
pub struct Http2 {
    endpoint: Endpoint,
    encryption: Option<Encryption>,
    request: Request<()>,
    wanted: Wanted,
}

impl Http2 {
    pub fn new(endpoint: Endpoint, probe: &HttpProbe) -> Result<Self, String> {
        Ok(Self {
            encryption: http::encryption(&endpoint, probe)?,
            request: http::request(&endpoint, probe)?,
            wanted: Wanted::new(probe),
            endpoint,
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => self.ask(stream).await,
            Some(encryption) => {
                self.ask(encryption.over(stream, Application::Http2).await?)
                    .await
            }
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Passed, ProbeFailure> {
        let (mut sender, connection) = handshake(stream).await?;
        let exchange = async {
            let (response, _) = sender
                .send_request(self.request.clone(), true)
                .map_err(|error| failure(&error))?;
            self.judge(response.await.map_err(|error| failure(&error))?)
                .await
        };
        drive_connection(connection, exchange).await
    }

    async fn judge(&self, response: Response<h2::RecvStream>) -> Result<Passed, ProbeFailure> {
        let passed = self.wanted.status(response.status())?;
        let Some(pattern) = &self.wanted.body else {
            return Ok(passed);
        };
        let start = beginning(&mut response.into_body()).await?;
        http::matched(passed, pattern, start)
    }
}

/// Opens an HTTP/2 connection. Its windows are never enlarged: no more than [`MAX_BODY`] can come.
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
        .max_header_list_size(LONGEST_HEAD as u32)
        .max_concurrent_streams(1)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|error| failure(&error))
}

/// Reads a body, up to what is looked at.
pub async fn beginning(body: &mut h2::RecvStream) -> Result<Vec<u8>, ProbeFailure> {
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
        Some(reason) if error.is_remote() => format!("the server ended it: {reason}").into(),
        Some(reason) => format!("the answer is not http/2: {reason}").into(),
        None => format!("http/2: {error}").into(),
    }
}

//! The control socket's client: one request per connection.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::ErrorBody;
use crate::model::view;

/// How long to wait for an answer, or for its next part. The daemon needs a second to compute rates.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers.
    #[error("no balancerd answers on {}: {reason}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Talks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the daemon at `path`; nothing is connected yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Sends a GET request for `target`.
    ///
    /// # Errors
    /// No daemon answers, or it refuses.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.receive(Method::GET, target, Bytes::new()).await
    }

    /// Sends a GET request for `target`, and passes each part of the body to `take` as it arrives, until `take` returns `Break`.
    ///
    /// # Errors
    /// No daemon answers, it refuses, or the answer ends early.
    pub async fn stream(
        &self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let request = self.request(Method::GET, target, Bytes::new());
        let mut response = self.in_time(request).await??;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(refusal(status, &self.body(response.into_body()).await?));
        }
        while let Some(frame) = self.in_time(response.frame()).await? {
            let frame = frame.map_err(|error| self.unreachable(error.to_string()))?;
            if frame.data_ref().is_some_and(|data| take(data).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for `future`, at most [`ANSWER_TIMEOUT`].
    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, ClientError> {
        let timed_out = |_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            self.unreachable(format!("it sent nothing for {seconds} s"))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, future)
            .await
            .map_err(timed_out)
    }

    /// Sends a request with a body in JSON.
    ///
    /// # Errors
    /// No daemon answers, or it refuses.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        let body = match body {
            None => Bytes::new(),
            Some(body) => serde_json::to_vec(body)
                .map_err(|error| ClientError::Refused(error.to_string()))?
                .into(),
        };
        self.receive(method, target, body).await
    }

    /// Follows the events: calls `started` once no event is missed any more, then passes each to `take`, until that returns `false`
    /// or the daemon ends the stream.
    ///
    /// # Errors
    /// No daemon answers, it refuses, or it closed the connection without a last event.
    pub async fn follow(
        &self,
        started: impl FnOnce(),
        mut take: impl FnMut(view::EventRecord) -> bool,
    ) -> Result<(), ClientError> {
        let mut response = self
            .request(Method::GET, "/v1/events", Bytes::new())
            .await?;
        // The daemon subscribes this reader before it answers.
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(refusal(status, &self.body(response.into_body()).await?));
        }
        started();
        let mut line = Vec::new();
        let mut ended = false;
        while let Some(frame) = response.frame().await {
            let Ok(frame) = frame else { break };
            let Some(data) = frame.data_ref() else {
                continue;
            };
            for byte in data {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                let event = line
                    .strip_prefix(b"data: ")
                    .and_then(|json| serde_json::from_slice(json).ok());
                line.clear();
                let Some(event): Option<view::EventRecord> = event else {
                    continue;
                };
                ended = matches!(
                    event.event,
                    view::EventKind::Stopping | view::EventKind::Lost
                );
                if !take(event) {
                    return Ok(());
                }
            }
        }
        if ended {
            return Ok(());
        }
        Err(self.unreachable("it closed the connection"))
    }

    async fn receive<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = async {
            let response = self.request(method, target, body).await?;
            let (parts, body) = response.into_parts();
            let body = self.body(body).await?;
            if parts.status != StatusCode::OK {
                return Err(refusal(parts.status, &body));
            }
            serde_json::from_slice(&body).map_err(|error| {
                ClientError::Refused(format!(
                    "balancerd and balancer-ctl are of different versions: {error}"
                ))
            })
        };
        self.in_time(answer).await?
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| self.unreachable(reason(&error)))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "balancer")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Refused(error.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error.to_string()))
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = body.collect().await;
        Ok(body
            .map_err(|error| self.unreachable(error.to_string()))?
            .to_bytes())
    }

    fn unreachable(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Unreachable {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    ClientError::Refused(serde_json::from_slice(body).map_or_else(
        |_| format!("balancerd answered {status}"),
        |ErrorBody { error }| error,
    ))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "start it, or name its socket with --socket or --instance".to_owned()
        }
        io::ErrorKind::PermissionDenied => "only root may use its socket".to_owned(),
        _ => error.to_string(),
    }
}

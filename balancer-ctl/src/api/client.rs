//! The control socket's client: one request per connection.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::ErrorBody;
use crate::model::view;

/// How long to wait for an answer, or for its next part. The daemon needs a second to compute rates.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer, in bytes, that is waited for within a time; a status of thousands of services is far smaller.
const MAX_SHORT_ANSWER: usize = 16 << 20;

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

    /// As [`Self::get`], but the whole answer must come within `time`, whatever the daemon does, and be at most 16 MiB large.
    ///
    /// # Errors
    /// No daemon answers in time, or it refuses.
    pub async fn get_within<T: DeserializeOwned>(
        &self,
        target: &str,
        time: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.exchange(Method::GET, target, Bytes::new(), MAX_SHORT_ANSWER);
        tokio::time::timeout(time, answer)
            .await
            .unwrap_or_else(|_| {
                let seconds = time.as_secs_f64();
                Err(self.unreachable(format!("its answer did not come within {seconds} s")))
            })
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
            let body = self.body(response.into_body(), usize::MAX).await?;
            return Err(refusal(status, &body));
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

    /// Reads the events at `target`: calls `started` once no event is missed any more, then passes each to `take`, until that returns
    /// `false` or the daemon ends the stream. `goes_on` says whether that only ends with a last event.
    ///
    /// # Errors
    /// No daemon answers, it refuses, or it closed the connection before the end.
    pub async fn events(
        &self,
        target: &str,
        goes_on: bool,
        started: impl FnOnce(),
        mut take: impl FnMut(view::EventRecord) -> bool,
    ) -> Result<(), ClientError> {
        let request = self.request(Method::GET, target, Bytes::new());
        let mut response = self.in_time(request).await??;
        // The daemon subscribes this reader before it answers.
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = self.body(response.into_body(), usize::MAX).await?;
            return Err(refusal(status, &body));
        }
        started();
        let mut line = Vec::new();
        let mut ended = !goes_on;
        loop {
            let frame = response.frame();
            let frame = match goes_on {
                true => frame.await,
                false => self.in_time(frame).await?,
            };
            let Some(frame) = frame else { break };
            let Ok(frame) = frame else {
                ended &= goes_on;
                break;
            };
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
                ended = !goes_on || event.event.ends_stream();
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
        let answer = self.exchange(method, target, body, usize::MAX);
        self.in_time(answer).await?
    }

    /// Sends a request and reads its answer of at most `limit` bytes, however long that takes.
    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        limit: usize,
    ) -> Result<T, ClientError> {
        let response = self.request(method, target, body).await?;
        let (parts, body) = response.into_parts();
        let body = self.body(body, limit).await?;
        if parts.status != StatusCode::OK {
            return Err(refusal(parts.status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| {
            ClientError::Refused(format!(
                "balancerd and balancer-ctl are of different versions: {error}"
            ))
        })
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

    async fn body(&self, body: Incoming, limit: usize) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| {
            self.unreachable(if error.is::<LengthLimitError>() {
                format!("its answer is larger than {} MiB", limit >> 20)
            } else {
                error.to_string()
            })
        })?;
        Ok(body.to_bytes())
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
        // The queue of its socket is full.
        io::ErrorKind::WouldBlock => "it is there, and accepts nobody at present".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_client_from_the_daemon_is_said() {
        for (kind, said) in [
            (
                io::ErrorKind::NotFound,
                "start it, or name its socket with --socket or --instance",
            ),
            (
                io::ErrorKind::PermissionDenied,
                "only root may use its socket",
            ),
            (
                io::ErrorKind::WouldBlock,
                "it is there, and accepts nobody at present",
            ),
            (io::ErrorKind::TimedOut, "timed out"),
        ] {
            assert_eq!(reason(&kind.into()), said);
        }
    }
}

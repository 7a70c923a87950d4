//! TCP checks: a connection, with an optional exchange over it.

use std::{io, time::Duration};

use regex::bytes::Regex;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Passed, ProbeFailure,
    socket::{ConnectMode, Endpoint, close_in_order},
    text,
};
use crate::model::check::{Exchange, MAX_BODY};

/// An answer that does not match yet is given up this long before the timeout, so that the reason can show it.
const MARGIN: Duration = Duration::from_millis(50);
/// Bytes per read.
const READ_BYTES: usize = 4096;

#[derive(Debug)]
pub struct Tcp {
    endpoint: Endpoint,
    send: Vec<u8>,
    expect: Option<Regex>,
    /// How long to wait for the rest of an answer that does not match yet.
    answer_wait: Duration,
}

impl Tcp {
    /// `limit` is the timeout that the caller enforces.
    pub fn new(endpoint: Endpoint, exchange: &Exchange, limit: Duration) -> Self {
        Self {
            answer_wait: answer_wait(limit),
            endpoint,
            send: exchange.send.clone(),
            expect: exchange.expect.as_ref().map(|pattern| pattern.compiled()),
        }
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let until = Instant::now() + self.answer_wait;
        if self.send.is_empty() && self.expect.is_none() {
            let stream = self.endpoint.connect(ConnectMode::HandshakeOnly).await?;
            self.endpoint.reset(stream);
            return Ok(Passed::new("connected"));
        }
        let mut stream = self.endpoint.connect(ConnectMode::Full).await?;
        let sent = stream.write_all(&self.send).await;
        let Some(expect) = &self.expect else {
            sent?;
            close_in_order(&stream)?;
            return Ok(Passed::new("connected and sent"));
        };
        // A server that answers without having read may be gone by now: what it said decides.
        let answer = read_until_match(&stream, expect, until).await;
        let passed = answer.map_err(|failure| match (failure, sent) {
            (NoMatch::Closed, Err(error)) => ProbeFailure::from(error),
            (failure, _) => failure.into(),
        })?;
        self.endpoint.reset(stream);
        Ok(passed)
    }
}

/// How long to wait for the rest of an answer before it is judged as it is; `limit` is the timeout.
pub fn answer_wait(limit: Duration) -> Duration {
    limit - MARGIN.min(limit / 10)
}

/// Why an answer does not match.
enum NoMatch {
    /// The server closed the connection and said nothing.
    Closed,
    Failure(ProbeFailure),
}

impl From<NoMatch> for ProbeFailure {
    fn from(no_match: NoMatch) -> Self {
        match no_match {
            NoMatch::Closed => "connection closed without an answer".into(),
            NoMatch::Failure(failure) => failure,
        }
    }
}

/// How far an answer has been read.
enum Progress {
    /// Nothing more is available now.
    Open,
    /// The server has closed the connection.
    Closed,
    /// The connection has failed, behind what was read.
    Failed(io::Error),
}

/// Reads until the answer matches the pattern, which is tried whenever no more data is available. Fails at `until` with the
/// answer so far, before the caller's timeout would report that there was none. What was read counts before the error
/// that follows it.
async fn read_until_match(
    stream: &TcpStream,
    expect: &Regex,
    until: Instant,
) -> Result<Passed, NoMatch> {
    let failed = |failure: ProbeFailure| Err(NoMatch::Failure(failure));
    let mut answer = Vec::new();
    loop {
        let readable = match answer.is_empty() {
            true => stream.readable().await,
            false => match timeout_at(until, stream.readable()).await {
                Ok(readable) => readable,
                Err(_) => return failed(mismatch(&answer, expect)),
            },
        };
        let progress = match readable {
            Ok(()) => read_available(stream, &mut answer),
            Err(error) => Progress::Failed(error),
        };
        let said_nothing = answer.is_empty() && matches!(progress, Progress::Failed(_));
        if !said_nothing && expect.is_match(&answer) {
            return Ok(Passed::new(answer_note(&answer)));
        }
        if answer.len() >= MAX_BODY {
            let pattern = pattern_text(expect);
            let reason = format!("answer does not match {pattern} (first 256 KiB)");
            return failed(reason.into());
        }
        match progress {
            Progress::Open => {}
            Progress::Failed(error) if answer.is_empty() => return failed(error.into()),
            Progress::Closed if answer.is_empty() => return Err(NoMatch::Closed),
            Progress::Closed | Progress::Failed(_) => return failed(mismatch(&answer, expect)),
        }
    }
}

/// Reads what is available, up to [`MAX_BODY`] bytes in all.
fn read_available(stream: &TcpStream, answer: &mut Vec<u8>) -> Progress {
    while answer.len() < MAX_BODY {
        answer.reserve(READ_BYTES);
        match stream.try_read_buf(answer) {
            Ok(0) => return Progress::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Open,
            Err(error) => return Progress::Failed(error),
        }
    }
    answer.truncate(MAX_BODY);
    Progress::Open
}

/// The note of a passed answer.
pub fn answer_note(answer: &[u8]) -> String {
    text::first_line(answer).map_or_else(|| "answered".into(), |line| format!("answered {line:?}"))
}

/// The failure of an answer that does not match.
pub fn mismatch(answer: &[u8], expect: &Regex) -> ProbeFailure {
    let line = text::first_line(answer).unwrap_or_default();
    format!("answer {line:?} does not match {}", pattern_text(expect)).into()
}

fn pattern_text(expect: &Regex) -> String {
    format!("/{}/", text::quoted(expect.as_str().as_bytes()))
}

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
            answer_wait: limit - MARGIN.min(limit / 10),
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
        stream.write_all(&self.send).await?;
        let Some(expect) = &self.expect else {
            close_in_order(&stream)?;
            return Ok(Passed::new("connected and sent"));
        };
        let passed = read_until_match(&stream, expect, until).await?;
        self.endpoint.reset(stream);
        Ok(passed)
    }
}

/// Reads until the answer matches the pattern, which is tried whenever no more data is available. Fails at `until` with the
/// answer so far, before the caller's timeout would report that there was none.
async fn read_until_match(
    stream: &TcpStream,
    expect: &Regex,
    until: Instant,
) -> Result<Passed, ProbeFailure> {
    let mut answer = Vec::new();
    loop {
        if answer.is_empty() {
            stream.readable().await?;
        } else if let Ok(readable) = timeout_at(until, stream.readable()).await {
            readable?;
        } else {
            return Err(mismatch(&answer, expect));
        }
        let ended = read_available(stream, &mut answer)?;
        if expect.is_match(&answer) {
            return Ok(Passed::new(answer_note(&answer)));
        }
        if answer.len() >= MAX_BODY {
            return Err(format!(
                "answer does not match {} (first 256 KiB)",
                pattern_text(expect)
            )
            .into());
        }
        if ended && answer.is_empty() {
            return Err("connection closed without an answer".into());
        }
        if ended {
            return Err(mismatch(&answer, expect));
        }
    }
}

/// Reads what is available, up to [`MAX_BODY`] bytes in all. Returns whether the server has closed the connection.
fn read_available(stream: &TcpStream, answer: &mut Vec<u8>) -> Result<bool, ProbeFailure> {
    while answer.len() < MAX_BODY {
        answer.reserve(READ_BYTES);
        match stream.try_read_buf(answer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    answer.truncate(MAX_BODY);
    Ok(false)
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

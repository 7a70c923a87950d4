//! A TCP connection, and what is said on it.

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

/// Before the timeout, what came so far is judged.
const MARGIN: Duration = Duration::from_millis(50);
/// Read at once.
const CHUNK: usize = 4096;

#[derive(Debug)]
pub struct Tcp {
    endpoint: Endpoint,
    send: Vec<u8>,
    expect: Option<Regex>,
    /// How long the rest of an answer is waited for that does not match yet.
    patience: Duration,
}

impl Tcp {
    /// `limit` is when the caller gives up.
    pub fn new(endpoint: Endpoint, exchange: &Exchange, limit: Duration) -> Self {
        Self {
            patience: limit - MARGIN.min(limit / 10),
            endpoint,
            send: exchange.send.clone(),
            expect: exchange.expect.as_ref().map(|pattern| pattern.compiled()),
        }
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let until = Instant::now() + self.patience;
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
        let passed = find(&stream, expect, until).await?;
        self.endpoint.reset(stream);
        Ok(passed)
    }
}

/// Reads until the pattern is found. Each time that the server pauses, what has come so far is looked at. Something that
/// does not match is said to be that, before the caller says that there was nothing.
async fn find(stream: &TcpStream, expect: &Regex, until: Instant) -> Result<Passed, ProbeFailure> {
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
            return Ok(Passed::new(noted(&answer)));
        }
        if answer.len() >= MAX_BODY {
            return Err(format!("answer does not match {} (first 256 KiB)", shown(expect)).into());
        }
        if ended && answer.is_empty() {
            return Err("connection closed without an answer".into());
        }
        if ended {
            return Err(mismatch(&answer, expect));
        }
    }
}

/// Reads what is there, up to the limit, and tells whether that was the end.
fn read_available(stream: &TcpStream, answer: &mut Vec<u8>) -> Result<bool, ProbeFailure> {
    while answer.len() < MAX_BODY {
        answer.reserve(CHUNK);
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

/// What an answer that passed is called.
pub fn noted(answer: &[u8]) -> String {
    text::first_line(answer).map_or_else(|| "answered".into(), |line| format!("answered {line:?}"))
}

/// Why an answer failed.
pub fn mismatch(answer: &[u8], expect: &Regex) -> ProbeFailure {
    let line = text::first_line(answer).unwrap_or_default();
    format!("answer {line:?} does not match {}", shown(expect)).into()
}

fn shown(expect: &Regex) -> String {
    format!("/{}/", text::quoted(expect.as_str().as_bytes()))
}

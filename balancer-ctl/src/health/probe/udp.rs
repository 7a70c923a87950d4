//! A datagram.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{MsgFlags, recv};
use regex::bytes::Regex;
use tokio::{io::Interest, net::UdpSocket, time::timeout};

use super::{
    Passed, ProbeFailure,
    socket::Endpoint,
    tcp::{mismatch, noted},
};
use crate::model::check::Exchange;

/// Largest answer.
const LARGEST: usize = 1 << 16;

#[derive(Debug)]
pub struct Udp {
    endpoint: Endpoint,
    send: Vec<u8>,
    expect: Option<Regex>,
    /// How long an ICMP error may take, where no answer is expected.
    patience: Duration,
}

impl Udp {
    /// `limit` is when the caller gives up.
    pub fn new(endpoint: Endpoint, exchange: &Exchange, limit: Duration) -> Self {
        Self {
            endpoint,
            send: exchange.send.clone(),
            expect: exchange.expect.as_ref().map(|pattern| pattern.compiled()),
            // Silence passes, so it must have been waited for before the caller takes it for a timeout.
            patience: limit * 9 / 10,
        }
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let socket = self.endpoint.datagrams()?;
        socket
            .send(&self.send)
            .await
            .map_err(|error| refusal(&error))?;
        let Some(expect) = &self.expect else {
            return match timeout(self.patience, receive(&socket)).await {
                Ok(answer) => Ok(Passed::new(noted(&answer?))),
                Err(_) => Ok(Passed::new("no answer and no icmp error")),
            };
        };
        let answer = receive(&socket).await?;
        match expect.is_match(&answer) {
            true => Ok(Passed::new(noted(&answer))),
            false => Err(mismatch(&answer, expect)),
        }
    }
}

/// Waits for a datagram.
pub async fn receive(socket: &UdpSocket) -> Result<Vec<u8>, ProbeFailure> {
    // An ICMP error makes a socket ready for nothing but its error, which the next call returns.
    let interest = Interest::READABLE | Interest::ERROR;
    let received = socket.async_io(interest, || {
        // Memory is taken when there is something to put there: most probes only wait.
        let mut answer = vec![0; LARGEST];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    });
    received.await.map_err(|error| refusal(&error))
}

/// An error of a connected socket is what an ICMP message said.
pub fn refusal(error: &io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "port unreachable".into(),
        _ => error.into(),
    }
}

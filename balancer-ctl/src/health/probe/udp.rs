//! UDP checks: a datagram, and the answer or ICMP error to it.

use std::{os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{MsgFlags, recv};
use regex::bytes::Regex;
use tokio::{io::Interest, net::UdpSocket, time::timeout};

use super::{
    Passed, ProbeFailure,
    failure::send_failure,
    socket::Endpoint,
    tcp::{answer_note, mismatch},
};
use crate::model::check::Exchange;

/// Largest answer in bytes.
const MAX_DATAGRAM: usize = 1 << 16;

#[derive(Debug)]
pub struct Udp {
    endpoint: Endpoint,
    send: Vec<u8>,
    expect: Option<Regex>,
    /// How long to wait for an ICMP error if no answer is expected.
    error_wait: Duration,
}

impl Udp {
    /// `limit` is the timeout that the caller enforces.
    pub fn new(endpoint: Endpoint, exchange: &Exchange, limit: Duration) -> Self {
        Self {
            endpoint,
            send: exchange.send.clone(),
            expect: exchange.expect.as_ref().map(|pattern| pattern.compiled()),
            // No answer passes, so the wait must end before the timeout, which fails.
            error_wait: limit * 9 / 10,
        }
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let socket = self.endpoint.udp_socket()?;
        self.endpoint.send(&socket, &self.send).await?;
        let Some(expect) = &self.expect else {
            return match timeout(self.error_wait, receive(&socket)).await {
                Ok(answer) => Ok(Passed::new(answer_note(&answer?))),
                // The kernel reports a next hop that does not answer after three seconds, often behind the timeout.
                Err(_) => match self.endpoint.first_hop_failure() {
                    Some(failure) => Err(failure),
                    None => Ok(Passed::new("no answer and no icmp error")),
                },
            };
        };
        let answer = receive(&socket).await?;
        match expect.is_match(&answer) {
            true => Ok(Passed::new(answer_note(&answer))),
            false => Err(mismatch(&answer, expect)),
        }
    }
}

/// Waits for a datagram.
pub async fn receive(socket: &UdpSocket) -> Result<Vec<u8>, ProbeFailure> {
    // After an ICMP error a socket is only error-ready; the next call returns the error.
    let interest = Interest::READABLE | Interest::ERROR;
    let received = socket.async_io(interest, || {
        // Allocated only once there is data: most probes are waiting.
        let mut answer = vec![0; MAX_DATAGRAM];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    });
    received.await.map_err(|error| send_failure(&error))
}

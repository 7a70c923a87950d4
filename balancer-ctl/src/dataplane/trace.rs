//! Asks the loaded packet program which real server a client would get: by a test run of its program `trace`, which changes nothing.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use aya::{TestRun, TestRunOptions, programs::Xdp};
use balancer_common::trace::Answer;

use super::self_test::frame::{Content, Frame, segment};
use crate::model::{Protocol, ServiceKey};

/// How often the question is asked: a packet that comes in on the same CPU meanwhile may spoil an answer.
const TRIES: u32 = 3;

/// Asks about the first packet of a client to an address.
///
/// # Errors
/// The kernel refused the test run.
pub fn ask(program: &Xdp, client: SocketAddr, to: &ServiceKey) -> anyhow::Result<Answer> {
    let content = match to.protocol {
        Protocol::Tcp => segment(true, false, 1, 0),
        Protocol::Udp => Content::Datagram,
    };
    let frame = Frame::new(client, to.address, content, b"").bytes()?;
    let mut tries = 0;
    loop {
        let mut output = vec![0_u8; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        program
            .test_run(options)
            .context("cannot ask the packet program by a test run")?;
        // SAFETY: the buffer is longer, and every bit pattern is an answer.
        let answer = unsafe { output.as_ptr().cast::<Answer>().read_unaligned() };
        tries += 1;
        if answer.port == u32::from(client.port()) {
            return Ok(answer);
        }
        ensure!(
            tries < TRIES,
            "the packet program answered another question: try again"
        );
    }
}

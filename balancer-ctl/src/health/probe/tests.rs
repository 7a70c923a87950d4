//! Probes against well-behaved and misbehaving servers of these tests.

mod dns;
mod exec;
mod http;
mod messages;
mod resets;
mod tcp;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

use super::{Prober, SocketPool};
use crate::{
    health::{AgentReply, CheckTarget, Outcome},
    model::check::{Check, Exchange, HttpProbe, Pattern, Probe, Source, Target, Timing},
};

/// Timeout of probes that are expected to reach it.
const LIMIT: Duration = Duration::from_millis(300);

fn check_target(target: SocketAddr, probe: Probe) -> CheckTarget {
    let timing = Timing {
        timeout: LIMIT,
        ..Timing::default()
    };
    CheckTarget {
        target,
        check: Check {
            probe,
            target: Target::default(),
            source: Source::default(),
            timing,
        },
    }
}

/// Makes a prober with the socket pool of this test.
fn make_prober(check_target: &CheckTarget) -> Result<Prober, String> {
    thread_local! {
        static POOL: Arc<SocketPool> = Arc::default();
    }
    POOL.with(|pool| Prober::new(check_target, pool))
}

/// Probes once; fails the test after 10 s.
async fn ask(target: SocketAddr, probe: Probe) -> Outcome {
    let prober = make_prober(&check_target(target, probe)).expect("a probe");
    timeout(Duration::from_secs(10), prober.probe())
        .await
        .expect("an answer")
}

/// Asserts that a probe reaches its timeout.
async fn times_out(target: SocketAddr, probe: Probe) {
    let prober = make_prober(&check_target(target, probe)).expect("a probe");
    let answer = timeout(LIMIT, prober.probe()).await;
    assert!(answer.is_err(), "{answer:?}");
}

fn pass(note: &str) -> Outcome {
    Outcome::Passed {
        note: note.into(),
        agent_reply: AgentReply::default(),
    }
}

fn fail(reason: &str) -> Outcome {
    Outcome::Failed {
        reason: reason.into(),
    }
}

fn pattern(expression: &str) -> Option<Pattern> {
    Some(Pattern::new(expression).expect("an expression"))
}

fn tcp(send: &[u8], expect: Option<&str>) -> Probe {
    Probe::Tcp(exchange(send, expect))
}

fn exchange(send: &[u8], expect: Option<&str>) -> Exchange {
    Exchange {
        send: send.to_vec(),
        expect: expect.and_then(pattern),
    }
}

fn http(probe: HttpProbe) -> Probe {
    Probe::Http(Box::new(probe))
}

/// A server on a free port, until it is dropped.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Calls `serve` with each connection, one after the other.
    async fn start(serve: impl AsyncFn(TcpStream) + 'static) -> Self {
        Self::start_on("127.0.0.1:0", serve).await
    }

    async fn start_on(address: &str, serve: impl AsyncFn(TcpStream) + 'static) -> Self {
        let listener = TcpListener::bind(address).await.expect("listen");
        let address = listener.local_addr().expect("an address");
        let task = tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                serve(stream).await;
            }
        });
        Self { address, task }
    }

    /// On each connection reads once, sends these bytes, and closes it.
    async fn answering(answer: &'static [u8]) -> Self {
        Self::start(async move |mut stream| {
            let mut question = [0; 4096];
            let _ = stream.read(&mut question).await;
            let _ = stream.write_all(answer).await;
        })
        .await
    }

    /// On each connection sends these bytes at once, then waits until the client closes it.
    async fn greeting(greeting: &'static [u8]) -> Self {
        Self::start(async move |mut stream| {
            let _ = stream.write_all(greeting).await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A UDP server whose answers `answer` makes; `None` = it keeps silent.
async fn udp_server(
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    udp_server_on("127.0.0.1:0", answer).await
}

async fn udp_server_on(
    address: &str,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::task::spawn_local(async move {
        let mut question = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            if let Some(answer) = answer(&question[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, task)
}

#[test]
fn a_waiting_probe_takes_little_memory() {
    let target = "127.0.0.1:80".parse().expect("an address");
    let prober = make_prober(&check_target(target, tcp(b"", None))).expect("a probe");
    let size = size_of_val(&prober.probe());
    assert!(size <= 4096, "{size} bytes");
}

/// Runs a test on one thread, as the driver runs probes.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

//! Probes against servers that are made here, well-behaved and not.

mod exec;
mod http;
mod messages;
mod tcp;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::{Prober, SocketPool};
use crate::{
    health::{AgentReply, Answer, CheckTarget},
    model::check::{Check, Exchange, HttpProbe, Pattern, Probe, Source, Target, Timing},
};

/// When the caller gives up, where that is what is waited for.
const LIMIT: Duration = Duration::from_millis(300);

fn watched(target: SocketAddr, probe: Probe) -> CheckTarget {
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

/// Makes a probe that uses what others of this test have left.
fn made(watched: &CheckTarget) -> Result<Prober, String> {
    thread_local! {
        static SPARES: Arc<SocketPool> = Arc::default();
    }
    SPARES.with(|spares| Prober::new(watched, spares))
}

/// Asks once; a probe that takes ten seconds has hung.
async fn ask(target: SocketAddr, probe: Probe) -> Answer {
    let prober = made(&watched(target, probe)).expect("a probe");
    timeout(Duration::from_secs(10), prober.probe())
        .await
        .expect("an answer")
}

/// Asks once, and is given no answer in time.
async fn asks_in_vain(target: SocketAddr, probe: Probe) {
    let prober = made(&watched(target, probe)).expect("a probe");
    let answer = timeout(LIMIT, prober.probe()).await;
    assert!(answer.is_err(), "{answer:?}");
}

fn pass(note: &str) -> Answer {
    Answer::Pass {
        note: note.into(),
        advice: AgentReply::default(),
    }
}

fn fail(reason: &str) -> Answer {
    Answer::Fail {
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
    /// Lets `serve` have each connection, one after the other.
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

    /// Answers each connection with these bytes once something has been asked, and closes it.
    async fn answering(answer: &'static [u8]) -> Self {
        Self::start(async move |mut stream| {
            let mut question = [0; 4096];
            let _ = stream.read(&mut question).await;
            let _ = stream.write_all(answer).await;
        })
        .await
    }

    /// Says these bytes at once, and nothing more until the other side goes.
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

#[test]
fn a_waiting_probe_takes_little_memory() {
    let target = "127.0.0.1:80".parse().expect("an address");
    let prober = made(&watched(target, tcp(b"", None))).expect("a probe");
    let size = size_of_val(&prober.probe());
    assert!(size <= 4096, "{size} bytes");
}

/// Runs a test as probes are run: on one thread.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

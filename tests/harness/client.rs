//! Clients: one request, and many without a pause.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use xtask::lab::wait_until;

use crate::topology::Topology;

/// Asks for `/` on a connection of its own and returns the answer's body.
///
/// # Errors
/// There is no whole answer with status 200 within two seconds.
pub fn request(to: SocketAddr) -> io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(format!("the answer is cut: {answer:?}")))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("the answer is {head:?}")));
    }
    Ok(body.trim_end().to_owned())
}

/// A running client; see [`Topology::start_load`].
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: Option<JoinHandle<Report>>,
}

/// What a [`Load`] saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were answered.
    pub answered: u32,
    /// What went wrong, by request.
    pub failures: Vec<String>,
    /// The longest that one request took.
    pub slowest: Duration,
    /// How often the client's kernel sent a SYN again.
    pub syns_again: u64,
}

impl Load {
    /// Waits for this many more answers.
    ///
    /// # Panics
    /// They do not come.
    pub fn wait_for(&self, more: u32) {
        let target = self.done.load(Ordering::Relaxed) + more;
        wait_until("the client's requests", Duration::from_secs(20), || {
            Ok(self.done.load(Ordering::Relaxed) >= target)
        })
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Ends it.
    ///
    /// # Panics
    /// A request failed, or a lost SYN had to be sent again.
    pub fn finish(mut self) -> Report {
        let report = self.end().expect("ends once");
        assert!(report.failures.is_empty(), "requests failed: {report:?}");
        // Others in the client's namespace send SYNs too: the second sign is that this client waited for one (1 s).
        assert!(
            report.syns_again == 0 || report.slowest < Duration::from_millis(900),
            "a packet was lost: {report:?}"
        );
        report
    }

    fn end(&mut self) -> Option<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Topology {
    /// Starts a client that makes a new connection for each request, without a pause.
    #[must_use]
    pub fn start_load(&self, to: SocketAddr) -> Load {
        // The thread must outlive this borrow: it enters the namespace by its name.
        let path = self.client.path();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let namespace = File::open(path).expect("the client's namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the client");
            let mut report = Report::default();
            let before = syns_again();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                match request(to) {
                    Ok(_) => report.answered += 1,
                    Err(error) => report.failures.push(error.to_string()),
                }
                report.slowest = report.slowest.max(start.elapsed());
                counted.store(report.answered, Ordering::Relaxed);
            }
            report.syns_again = syns_again() - before;
            report
        });
        Load {
            stop,
            done,
            thread: Some(thread),
        }
    }
}

/// How often a SYN was sent again in this thread's network namespace.
fn syns_again() -> u64 {
    let table =
        std::fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel's counters");
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().expect("names").split_whitespace();
    let numbers = lines.next().expect("numbers").split_whitespace();
    let (_, number) = names
        .zip(numbers)
        .find(|(name, _)| *name == "TCPSynRetrans")
        .expect("TCPSynRetrans is counted");
    number.parse().expect("a number")
}

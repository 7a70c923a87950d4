//! Clients: one request, and many without a pause.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use xtask::lab::{Namespace, wait_until};

use crate::topology::Topology;

/// How long a client waits for a connection, and then for an answer.
const LIMIT: Duration = Duration::from_secs(2);
/// A connection that took so long and sent its SYN again has lost one: Linux sends it again after a second. It does so
/// at once, with nothing lost, when a real server tells that it still remembers an older connection of the same port.
const SYN_AGAIN: Duration = Duration::from_millis(900);

/// Asks for `/` on a connection of its own and returns the answer's body.
///
/// # Errors
/// There is no whole answer with status 200 within two seconds.
pub fn request(to: SocketAddr) -> io::Result<String> {
    ask(TcpStream::connect_timeout(&to, LIMIT)?)
}

/// As [`request`], from this address and port; port 0 = any.
///
/// # Errors
/// As [`request`].
pub fn request_from(from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) -> io::Result<String> {
    ask(connect_from(from, to)?)
}

/// Connects from this address and port; port 0 = any.
///
/// # Errors
/// As `connect(2)`, or after two seconds.
pub fn connect_from(
    from: impl Into<SocketAddr>,
    to: impl Into<SocketAddr>,
) -> io::Result<TcpStream> {
    let (from, to) = (from.into(), to.into());
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    Ok(socket.into())
}

fn ask(stream: TcpStream) -> io::Result<String> {
    ask_within(stream, LIMIT)
}

fn ask_within(mut stream: TcpStream, limit: Duration) -> io::Result<String> {
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
    /// What went wrong, and how often.
    pub failures: BTreeMap<String, u32>,
    /// The longest that one request took.
    pub slowest: Duration,
    /// Connections whose SYN, or its answer, was lost.
    pub lost: u32,
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
        assert_eq!(report.lost, 0, "a packet was lost: {report:?}");
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
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let stream = TcpStream::connect_timeout(&to, LIMIT);
                if let Ok(stream) = &stream
                    && start.elapsed() >= SYN_AGAIN
                {
                    report.lost += u32::from(sent_again(stream).expect("TCP_INFO"));
                }
                match stream.and_then(ask) {
                    Ok(_) => report.answered += 1,
                    Err(error) => *report.failures.entry(error.to_string()).or_default() += 1,
                }
                report.slowest = report.slowest.max(start.elapsed());
                counted.store(report.answered, Ordering::Relaxed);
            }
            report
        });
        Load {
            stop,
            done,
            thread: Some(thread),
        }
    }
}

/// A client that asks again and again, impatiently, and notes how long it got no answer.
pub struct Impatient {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Impatient {
    /// Starts one in a namespace; it has got an answer when this returns.
    ///
    /// # Panics
    /// It gets none.
    #[must_use]
    pub fn start(client: &Namespace, to: SocketAddr) -> Self {
        // No SYN is sent again: a new connection is quicker.
        const PATIENCE: Duration = Duration::from_millis(100);
        // The thread must outlive this borrow: it enters the namespace by its name.
        let path = client.path();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (first, answered) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let namespace = File::open(path).expect("the client's namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the client");
            let mut last = None::<Instant>;
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let answer = TcpStream::connect_timeout(&to, PATIENCE).and_then(|stream| {
                    stream.set_write_timeout(Some(PATIENCE))?;
                    ask_within(stream, PATIENCE)
                });
                if answer.is_ok() {
                    let now = Instant::now();
                    longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                    let _ = first.send(());
                }
                thread::sleep(Duration::from_millis(5));
            }
            longest.max(last.map_or(Duration::MAX, |last| last.elapsed()))
        });
        answered
            .recv_timeout(Duration::from_secs(10))
            .expect("an answer");
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it; returns the longest time from one answer to the next.
    ///
    /// # Panics
    /// It has failed.
    #[must_use]
    pub fn finish(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("its result")
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether this connection's kernel has sent a segment again.
fn sent_again(stream: &TcpStream) -> io::Result<bool> {
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: all zeroes are a value of this struct of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    // SAFETY: the socket is open, and the pointers are to a struct of this length and to the length.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.tcpi_total_retrans > 0)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd as _};

    use nix::{
        errno::Errno,
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, socket,
        },
    };

    use super::*;

    #[test]
    fn a_lost_syn_is_distinguished_from_one_that_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("its address");
        // There is room for one that nobody has accepted; the SYN of another is dropped.
        listen(&listener, Backlog::new(0).expect("a length")).expect("a shorter queue");
        let first = TcpStream::connect(address).expect("connect");
        let second = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_NONBLOCK,
            None,
        )
        .expect("a socket");
        let start = Instant::now();
        let begun = connect(second.as_raw_fd(), &SockaddrStorage::from(address));
        assert_eq!(begun, Err(Errno::EINPROGRESS));
        listener.accept().expect("make room");
        let limit = PollTimeout::try_from(Duration::from_secs(20)).expect("a timeout");
        let mut ready = [PollFd::new(second.as_fd(), PollFlags::POLLOUT)];
        assert_eq!(poll(&mut ready, limit), Ok(1), "it connects");
        assert!(start.elapsed() >= SYN_AGAIN, "{:?}", start.elapsed());
        assert!(sent_again(&TcpStream::from(second)).expect("TCP_INFO"));
        assert!(!sent_again(&first).expect("TCP_INFO"));
    }
}

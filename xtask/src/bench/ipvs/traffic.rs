//! Client and servers inside the guest, the same for every way through the balancer's machine, and the instructions
//! that they and everything between them take.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, setsockopt,
        socket, sockopt,
    },
    time::{ClockId, clock_gettime},
};
use xtask::lab::Namespace;

/// Bytes of a request.
const REQUEST: usize = 64;
/// Bytes of an answer.
const ANSWER: usize = 128;

/// What a client does repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A connection for each request.
    Short,
    /// A request and its answer, on one connection.
    KeepAlive,
}

impl Load {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Short, Self::KeepAlive];

    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::KeepAlive => "keep-alive",
        }
    }

    /// Number of repetitions in a run.
    pub const fn operations(self) -> u32 {
        match self {
            Self::Short => 200,
            Self::KeepAlive => 1000,
        }
    }
}

/// Serves on port 80 until the process ends: an answer for each request, until the client is done.
pub fn serve(namespace: &Namespace) -> Result<()> {
    let listener = namespace
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))?
        .context("cannot listen")?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A failure is reported by the client.
            let _ = stream.and_then(answer);
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    while stream.read_exact(&mut request).is_ok() {
        stream.write_all(&[b'a'; ANSWER])?;
    }
    Ok(())
}

/// A client that uses its source ports one after the other, so that no connection meets what is left of another.
#[derive(Debug)]
pub struct Client<'a> {
    namespace: &'a Namespace,
    address: Ipv4Addr,
    server: SocketAddrV4,
    next_port: u16,
}

impl<'a> Client<'a> {
    /// A client in this namespace with this address.
    pub const fn new(namespace: &'a Namespace, address: Ipv4Addr, server: SocketAddrV4) -> Self {
        Self {
            namespace,
            address,
            server,
            next_port: 10_000,
        }
    }

    /// Runs a load once and returns the instructions that the machine executed for each operation.
    pub fn run(&mut self, load: Load) -> Result<f64> {
        let namespace = self.namespace;
        namespace.run(|| {
            let before = busy()?;
            match load {
                Load::Short => {
                    for _ in 0..load.operations() {
                        let stream = self.connect()?;
                        exchange(&stream)?;
                        stream.shutdown(std::net::Shutdown::Write)?;
                        let rest = (&stream).read(&mut [0; 1])?;
                        ensure!(rest == 0, "the server sent more than the answer");
                    }
                }
                Load::KeepAlive => {
                    let stream = self.connect()?;
                    for _ in 0..load.operations() {
                        exchange(&stream)?;
                    }
                }
            }
            Ok((busy()? - before) / f64::from(load.operations()))
        })?
    }

    fn connect(&mut self) -> Result<TcpStream> {
        let port = self.next_port;
        self.next_port = port.checked_add(1).context("no source port is left")?;
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Tcp,
        )?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
        bind(
            raw,
            &SockaddrIn::from(SocketAddrV4::new(self.address, port)),
        )
        .with_context(|| format!("cannot use port {port}"))?;
        connect(raw, &SockaddrIn::from(self.server))
            .with_context(|| format!("cannot connect to {}", self.server))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        // In virtual time, so that a lost packet becomes an error.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }
}

fn exchange(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(&[b'q'; REQUEST])?;
    stream
        .read_exact(&mut [0; ANSWER])
        .context("no whole answer came")
}

/// Nanoseconds in which the guest's CPU was not idle, which are its instructions.
fn busy() -> Result<f64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let timers = fs::read_to_string("/proc/timer_list").context("cannot read /proc/timer_list")?;
    let idle = idle(&timers).context("/proc/timer_list does not tell the idle time")?;
    Ok(now.as_nanos() as f64 - idle)
}

/// Reads the idle time, in nanoseconds, of the only CPU.
fn idle(timers: &str) -> Option<f64> {
    let rest = timers
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(".idle_sleeptime"))?;
    rest.trim_start_matches([' ', ':'])
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_time_is_read_from_the_timers() {
        let timers = "cpu: 0\n  .nohz_mode      : 2\n  .idle_entrytime : 12 nsecs\n  .idle_sleeptime : 3456789 \
                      nsecs\n  .iowait_sleeptime: 7 nsecs\n";
        assert_eq!(idle(timers), Some(3_456_789.0));
        assert_eq!(idle(""), None);
    }
}

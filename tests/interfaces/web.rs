//! A web server in a thread, and its client.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{Shutdown as Close, shutdown};
use xtask::lab::Namespace;

/// How long a client waits; a virtual machine without hardware support is slow.
const LIMIT: Duration = Duration::from_secs(20);
/// Size in bytes of the answer to `/bulk`.
pub const BULK: usize = 10 << 20;

/// Serves `/`, the server's name, and `/bulk` on port 80, IPv4 and IPv6. Dropped, it ends.
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(namespace: &Namespace, name: &'static str) -> Self {
        let listener = namespace
            .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)))
            .expect("enter the real server")
            .expect("listen");
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                thread::spawn(move || {
                    // A client that goes away is the test's to judge.
                    let _ = answer(stream, name);
                });
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits for a connection is told that there will be none.
        let ended = shutdown(self.listener.as_raw_fd(), Close::Both);
        if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let body = if line.starts_with("GET /bulk ") {
        vec![b'x'; BULK]
    } else {
        format!("{name}\n").into_bytes()
    };
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    stream.shutdown(Shutdown::Write)
}

/// Asks for `path` on a connection of its own and returns the answer's body.
pub fn get(to: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(head) = head.filter(|_| answer.starts_with(b"HTTP/1.0 200 ")) else {
        return Err(io::Error::other("the answer is no page"));
    };
    Ok(answer.split_off(head + 4))
}

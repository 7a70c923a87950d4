//! Real traffic: the daemon between clients and real servers, each in a network namespace of its own.

mod agent;
mod changes;
mod counts;
mod filters;
mod fragments;
mod ftp;
mod full_nat;
mod hairpin;
mod health;
mod host_source;
mod leaving;
mod no_real;
mod path_mtu;
mod persistence;
mod policy;
mod probes;
mod programs;
mod refusals;
mod routing;
mod scale;
mod stalls;
mod survival;
mod table;
mod trace;
mod traffic;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use balancer_tests::topology::{Topology, VIP, socket};

/// V:80 over `rr` with the first two real servers.
const WEB: &str = r#"
[[service]]
address = "192.0.2.80:80"
scheduler = "rr"

[[service.real]]
address = "192.168.0.2:80"

[[service.real]]
address = "192.168.0.3:80"
"#;

/// How often each answer came.
fn shares(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer.as_str()).or_default() += 1;
    }
    shares
}

/// A connection that is kept for many requests.
struct KeepAlive(BufReader<TcpStream>);

impl KeepAlive {
    fn connect(topology: &Topology) -> Self {
        Self::connect_to(topology, socket(VIP, 80))
    }

    fn connect_to(topology: &Topology, to: SocketAddr) -> Self {
        let stream = topology
            .connect(to, Duration::from_secs(5))
            .expect("connect");
        Self::of(stream)
    }

    fn of(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        Self(BufReader::new(stream))
    }

    /// Asks once and returns the answer.
    fn request(&mut self) -> std::io::Result<String> {
        self.0
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other("the connection was closed"));
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    }
}

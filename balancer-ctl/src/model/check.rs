//! Checks: how real servers are probed, how often, and how many results in a row change their state. Equal checks of one
//! target share a checker.

pub mod keys;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use crate::model::{limits::PROBE_TIMEOUT, names::names};

/// One check of a service's real servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Check {
    /// What is sent, and which answers pass.
    pub probe: Probe,
    /// Which address and port are probed.
    pub target: Target,
    /// From which address and interface.
    pub source: Source,
    /// Intervals, timeout and thresholds.
    pub timing: Timing,
}

/// Which address and port a check probes; `None` = the real server's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Another address.
    pub address: Option<IpAddr>,
    /// Another port.
    pub port: Option<u16>,
}

/// From where a check probes; `None` = the kernel chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Source address.
    pub address: Option<IpAddr>,
    /// Interface by name (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
    /// Firewall mark (`SO_MARK`).
    pub mark: Option<u32>,
}

/// How often a check probes, and how many results in a row change the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timing {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// The interval while results disagree with the state; `None` = as `interval`.
    pub fast_interval: Option<Duration>,
    /// Longest time that one probe may take; at most the (fast) interval.
    pub timeout: Duration,
    /// Passed probes in a row after which a real server that was down is up.
    pub rise: u32,
    /// Failed probes in a row after which a real server that was up is down.
    pub fall: u32,
    /// What a real server counts as before its first probe is done.
    pub initial: Initial,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            fast_interval: None,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            initial: Initial::Down,
        }
    }
}

impl Timing {
    /// The timeout of a check that names none: 2 s, or less where probes follow each other faster.
    #[must_use]
    pub fn default_timeout(interval: Duration, fast_interval: Option<Duration>) -> Duration {
        let fastest = fast_interval.map_or(interval, |fast| fast.min(interval));
        // A shorter interval is out of range, which the validator reports.
        let default = Self::default().timeout.min(fastest);
        default.max(*PROBE_TIMEOUT.start())
    }
}

/// What a real server counts as before its first probe is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Initial {
    /// Down; the first result decides.
    #[default]
    Down,
    /// Up, until `fall` probes in a row failed.
    Up,
}

names!(Initial {
    Down = "down",
    Up = "up",
});

/// What is sent, and which answers pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// A TCP connection, and optionally bytes to send and a pattern that the answer must match.
    Tcp(Exchange),
    /// An HTTP request, over TLS if `tls` is set.
    Http(Box<HttpProbe>),
    /// A datagram.
    Udp(Exchange),
    /// A DNS query over UDP, and over TCP for an answer that is cut.
    Dns(DnsProbe),
    /// An ICMP echo request.
    Ping,
    /// The gRPC health protocol, `grpc.health.v1`.
    Grpc(Box<GrpcProbe>),
    /// A program's exit status.
    Exec(ExecProbe),
    /// A line from an agent on the real server, which may set weight, drain and maintenance (as HAProxy's agent-check).
    Agent(AgentProbe),
}

impl Probe {
    /// Its name in files and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Http(http) if http.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Ping => "ping",
            Self::Grpc(_) => "grpc",
            Self::Exec(_) => "exec",
            Self::Agent(_) => "agent",
        }
    }

    /// Whether it is an agent check: only the agent's own report makes its real server down.
    #[must_use]
    pub const fn is_agent(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    /// Its TLS settings, if it uses TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Http(http) => http.tls.as_ref(),
            Self::Grpc(grpc) => grpc.tls.as_ref(),
            Self::Tcp(_)
            | Self::Udp(_)
            | Self::Dns(_)
            | Self::Ping
            | Self::Exec(_)
            | Self::Agent(_) => None,
        }
    }
}

/// What is sent, and what the answer must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exchange {
    /// Sent first, if not empty.
    pub send: Vec<u8>,
    /// Pattern that the answer must match.
    pub expect: Option<Pattern>,
}

/// A regular expression over bytes that is known to compile.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(String);

impl Pattern {
    /// Accepts an expression that compiles.
    ///
    /// # Errors
    /// It does not compile: what is wrong, and at which character (from 1).
    pub fn new(expression: &str) -> Result<Self, PatternError> {
        compiled(expression)?;
        Ok(Self(expression.to_owned()))
    }

    /// The expression.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The compiled expression.
    ///
    /// # Panics
    /// Never: `new` compiled the same expression.
    #[must_use]
    pub fn compiled(&self) -> regex::bytes::Regex {
        compiled(&self.0).expect("it compiled before")
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.0)
    }
}

/// An expression that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Its syntax is wrong.
    #[error("at character {position}: {reason}")]
    Syntax {
        /// Character, from 1.
        position: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The compiled form would be too large.
    #[error("it needs more than {limit} bytes when compiled")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// Largest compiled expression, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

fn compiled(expression: &str) -> Result<regex::bytes::Regex, PatternError> {
    // The error of `regex` is a drawing of several lines; that of its parser contains the position.
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    parser.parse(expression).map_err(|error| {
        let (offset, reason) = match &error {
            regex_syntax::Error::Parse(error) => {
                (error.span().start.offset, error.kind().to_string())
            }
            regex_syntax::Error::Translate(error) => {
                (error.span().start.offset, error.kind().to_string())
            }
            _ => (0, error.to_string().replace('\n', " ")),
        };
        let position = expression
            .get(..offset)
            .map_or(0, |before| before.chars().count())
            + 1;
        PatternError::Syntax { position, reason }
    })?;
    regex::bytes::RegexBuilder::new(expression)
        .size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|_| PatternError::TooLarge {
            limit: MAX_COMPILED_BYTES,
        })
}

/// An HTTP request and the answer that passes. Redirects are answers like any other and are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpProbe {
    /// TLS settings; `None` = plain TCP.
    pub tls: Option<Tls>,
    /// HTTP version.
    pub version: HttpVersion,
    /// Method, in capitals.
    pub method: String,
    /// Host name for the request and, over TLS, for the certificate; `None` = the target's address.
    pub host: Option<String>,
    /// Path with its query.
    pub path: String,
    /// Additional header fields.
    pub headers: Vec<(String, String)>,
    /// Body of the request; empty = none.
    pub request_body: String,
    /// Statuses that pass, as ranges of both ends: `[(200, 299)]`.
    pub status: Vec<(u16, u16)>,
    /// Pattern that the first [`MAX_BODY`] bytes of the body must match.
    pub body: Option<Pattern>,
}

/// Formats HTTP statuses as in the file: "200-299,304".
#[must_use]
pub fn from_statuses(statuses: &[(u16, u16)]) -> String {
    let parts: Vec<_> = statuses
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    parts.join(",")
}

/// How much of an HTTP body, or of any other answer, is read to look for a pattern, in bytes.
pub const MAX_BODY: usize = 256 * 1024;

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            tls: None,
            version: HttpVersion::Http1,
            method: "GET".to_owned(),
            host: None,
            path: "/".to_owned(),
            headers: Vec::new(),
            request_body: String::new(),
            status: vec![(200, 299)],
            body: None,
        }
    }
}

/// Version of HTTP. Over plain TCP, HTTP/2 is spoken with prior knowledge (RFC 9113 section 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
}

names!(HttpVersion {
    Http1 = "1.1",
    Http2 = "2",
});

/// TLS: the server's certificate is verified, unless `insecure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tls {
    /// Name for SNI and the certificate; `None` = the probe's host.
    pub server_name: Option<String>,
    /// File of CA certificates in PEM; `None` = the system's.
    pub ca: Option<PathBuf>,
    /// Files of the client's certificate chain and of its key, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate is accepted.
    pub insecure: bool,
}

/// A DNS query and the answer that passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsProbe {
    /// Name to query.
    pub name: String,
    /// Record type, in capitals: A, AAAA, CNAME, MX, NS, SOA, SRV, TXT.
    pub record: String,
    /// Text that one of the answers must equal; `None` = any answer without an error passes.
    pub answer: Option<String>,
}

/// A request of the gRPC health protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrpcProbe {
    /// Name of the gRPC service; empty = the whole server.
    pub service: String,
    /// TLS settings; `None` = plain TCP.
    pub tls: Option<Tls>,
}

/// A program: exit status 0 is up, 1 down.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecProbe {
    /// The program by its absolute path, then its arguments; not a shell's line.
    pub run: Vec<String>,
    /// The user that it runs as; `None` = root.
    pub user: Option<String>,
    /// As mon's monitors: it is given the address to ask as its last argument, and exit status 2..=255 is up with weight = status - 2.
    /// Otherwise it has the arguments of `run` alone, and only status 0 is up.
    pub is_monitor: bool,
}

/// A request to an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentProbe {
    /// Sent first, if not empty.
    pub send: Vec<u8>,
}

//! Probes: one attempt each, nothing remembered from one to the next but what an agent has said. Whether an answer
//! makes a real server up or down is the checker's affair, and so is the timeout: a probe that is dropped closes its
//! sockets and kills its program.

mod abrupt;
mod agent;
mod carried;
mod dns;
mod exec;
mod failure;
mod grpc;
mod http;
mod http2;
mod ping;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod udp;

use std::sync::Arc;

use failure::ProbeFailure;
use socket::Endpoint;
pub use socket::SocketPool;

use super::{AgentReply, Answer, CheckTarget, Probing};
use crate::model::check::{Check, HttpVersion, Probe};

/// A probe made ready: patterns compiled, certificates read.
#[derive(Debug)]
pub struct Prober {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(tcp::Tcp),
    Http(http::Http),
    Http2(http2::Http2),
    Udp(udp::Udp),
    Dns(dns::Dns),
    Ping(ping::Ping),
    Grpc(grpc::Grpc),
    Exec(exec::Exec),
    Agent(agent::Agent),
}

/// What in a check's TLS settings would keep it from being made for any target: the key, and a sentence. Reads its files.
#[must_use]
pub fn tls_problem(check: &Check) -> Option<(&'static str, String)> {
    let host = match &check.probe {
        Probe::Http(http) => http.host.as_deref().map(http::without_port),
        _ => None,
    };
    tls::problem(check.probe.tls()?, host)
}

/// What a probe that passed found.
#[derive(Debug, Default)]
struct Passed {
    note: String,
    advice: AgentReply,
}

impl Passed {
    fn new(note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            advice: AgentReply::default(),
        }
    }
}

impl Prober {
    /// Makes a probe ready. Reads certificate files.
    ///
    /// # Errors
    /// A sentence: a file that cannot be read or holds no certificate, a name that is none, or a source address of
    /// the other family.
    pub fn new(watched: &CheckTarget, spares: &Arc<SocketPool>) -> Result<Self, String> {
        let endpoint = Endpoint::new(watched, spares)?;
        let kind = match &watched.check.probe {
            Probe::Tcp(exchange) => Kind::Tcp(tcp::Tcp::new(
                endpoint,
                exchange,
                watched.check.timing.timeout,
            )),
            Probe::Http(http) => match http.version {
                HttpVersion::Http1 => Kind::Http(http::Http::new(endpoint, http)?),
                HttpVersion::Http2 => Kind::Http2(http2::Http2::new(endpoint, http)?),
            },
            Probe::Udp(exchange) => Kind::Udp(udp::Udp::new(
                endpoint,
                exchange,
                watched.check.timing.timeout,
            )),
            Probe::Dns(dns) => Kind::Dns(dns::Dns::new(endpoint, dns)?),
            Probe::Ping => Kind::Ping(ping::Ping::new(endpoint)),
            Probe::Grpc(grpc) => Kind::Grpc(grpc::Grpc::new(endpoint, grpc)?),
            Probe::Exec(exec) => Kind::Exec(exec::Exec::new(watched, exec)?),
            Probe::Agent(agent) => Kind::Agent(agent::Agent::new(endpoint, agent)),
        };
        Ok(Self { kind })
    }

    /// The same, for a target that asked for this before: an agent's word holds until it says another.
    #[must_use]
    pub fn remembering(mut self, advice: &AgentReply) -> Self {
        if let Kind::Agent(agent) = &mut self.kind {
            agent.remember(advice.clone());
        }
        self
    }

    /// Asks once. It may take for ever: the caller drops it at its timeout, which frees all that it holds.
    ///
    /// # Panics
    /// Outside a tokio runtime with its IO and time drivers.
    pub async fn probe(&self) -> Answer {
        // A probe that waits takes as much memory as the largest that stands here: those that need more, and are not
        // run by the ten thousand, have theirs to themselves.
        let outcome = match &self.kind {
            Kind::Tcp(tcp) => tcp.probe().await,
            Kind::Http(http) => http.probe().await,
            Kind::Http2(http2) => Box::pin(http2.probe()).await,
            Kind::Udp(udp) => udp.probe().await,
            Kind::Dns(dns) => Box::pin(dns.probe()).await,
            Kind::Ping(ping) => ping.probe().await,
            Kind::Grpc(grpc) => Box::pin(grpc.probe()).await,
            Kind::Exec(exec) => Box::pin(exec.probe()).await,
            Kind::Agent(agent) => Box::pin(agent.probe()).await,
        };
        match outcome {
            Ok(Passed { note, advice }) => Answer::Pass { note, advice },
            Err(ProbeFailure::Target(reason)) => Answer::Fail { reason },
            Err(ProbeFailure::Local(reason)) => Answer::Void { reason },
        }
    }
}

impl Probing for Prober {
    fn probe(&self) -> impl Future<Output = Answer> + Send {
        Self::probe(self)
    }
}

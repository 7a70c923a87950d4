//! Probes: one attempt each. Nothing is kept from one attempt to the next, except what an agent last said. The checker
//! decides whether a result makes a real server up or down. The driver enforces the timeout: dropping a probe closes its
//! sockets and kills its program.

mod agent;
mod dns;
mod drive_connection;
mod exec;
mod failure;
mod grpc;
mod http;
mod http2;
mod neighbour;
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

use super::{AgentReply, CheckTarget, Outcome, Probing};
use crate::{
    model::check::{Check, HttpVersion, Probe},
    os::printable::printable,
};

/// A probe that is ready to run: patterns compiled, certificates read.
#[derive(Debug)]
pub struct Prober {
    kind: ProberKind,
    /// Where it sends; `None` = it is a program that does.
    endpoint: Option<Endpoint>,
}

#[derive(Debug)]
enum ProberKind {
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

/// Finds what in a check's TLS settings would keep it from probing any target: the settings' key, and a sentence that says
/// why. Reads the certificate files.
#[must_use]
pub fn tls_problem(check: &Check) -> Option<(&'static str, String)> {
    let host = match &check.probe {
        Probe::Http(http) => http.host.as_deref().map(http::without_port),
        _ => None,
    };
    tls::config_problem(check.probe.tls()?, host)
}

/// The result of a passed probe.
#[derive(Debug, Default)]
struct Passed {
    note: String,
    agent_reply: AgentReply,
}

impl Passed {
    fn new(note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            agent_reply: AgentReply::default(),
        }
    }
}

impl Prober {
    /// Prepares a probe. Reads certificate files.
    ///
    /// # Errors
    /// A sentence that names a file that cannot be read or contains no certificate, an invalid name, or a source address
    /// of the other address family.
    pub fn new(check_target: &CheckTarget, pool: &Arc<SocketPool>) -> Result<Self, String> {
        let endpoint = Endpoint::new(check_target, pool)?;
        let limit = check_target.check.timing.timeout;
        let is_program = matches!(check_target.check.probe, Probe::Exec(_));
        let own_endpoint = (!is_program).then(|| endpoint.clone());
        let kind = match &check_target.check.probe {
            Probe::Tcp(exchange) => ProberKind::Tcp(tcp::Tcp::new(endpoint, exchange, limit)),
            Probe::Http(http) => match http.version {
                HttpVersion::Http1 => ProberKind::Http(http::Http::new(endpoint, http, limit)?),
                HttpVersion::Http2 => ProberKind::Http2(http2::Http2::new(endpoint, http, limit)?),
            },
            Probe::Udp(exchange) => ProberKind::Udp(udp::Udp::new(endpoint, exchange, limit)),
            Probe::Dns(dns) => ProberKind::Dns(dns::Dns::new(endpoint, dns)?),
            Probe::Ping => ProberKind::Ping(ping::Ping::new(endpoint)),
            Probe::Grpc(grpc) => ProberKind::Grpc(grpc::Grpc::new(endpoint, grpc)?),
            Probe::Exec(exec) => ProberKind::Exec(exec::Exec::new(check_target, exec)?),
            Probe::Agent(agent) => ProberKind::Agent(agent::Agent::new(endpoint, agent)),
        };
        Ok(Self {
            kind,
            endpoint: own_endpoint,
        })
    }

    /// Continues from what the target requested last: what an agent has said holds until it says otherwise.
    #[must_use]
    pub fn with_last_reply(mut self, agent_reply: &AgentReply) -> Self {
        if let ProberKind::Agent(agent) = &mut self.kind {
            agent.set_last_reply(agent_reply.clone());
        }
        self
    }

    /// Makes one attempt. It has no time limit of its own: the caller drops the future at the timeout, which frees its
    /// sockets and processes.
    ///
    /// # Panics
    /// Outside a tokio runtime with its IO and time drivers.
    pub async fn probe(&self) -> Outcome {
        // This future is as large as the largest of these. Kinds that need more memory and are rarely run by the ten
        // thousand are boxed.
        let outcome = match &self.kind {
            ProberKind::Tcp(tcp) => tcp.probe().await,
            ProberKind::Http(http) => http.probe().await,
            ProberKind::Http2(http2) => Box::pin(http2.probe()).await,
            ProberKind::Udp(udp) => udp.probe().await,
            ProberKind::Dns(dns) => Box::pin(dns.probe()).await,
            ProberKind::Ping(ping) => ping.probe().await,
            ProberKind::Grpc(grpc) => Box::pin(grpc.probe()).await,
            ProberKind::Exec(exec) => Box::pin(exec.probe()).await,
            ProberKind::Agent(agent) => Box::pin(agent.probe()).await,
        };
        match outcome {
            Ok(Passed { note, agent_reply }) => Outcome::Passed {
                note: printable(&note),
                agent_reply,
            },
            Err(ProbeFailure::Target(reason)) => Outcome::Failed {
                reason: printable(&reason),
            },
            Err(ProbeFailure::Local(reason)) => Outcome::Inconclusive {
                obstacle: Some(printable(&reason)),
            },
        }
    }
}

impl Probing for Prober {
    fn probe(&self) -> impl Future<Output = Outcome> + Send {
        Self::probe(self)
    }

    fn obstacle(&self) -> Option<String> {
        // TCP does not report a packet that could not be sent for want of a neighbour.
        self.endpoint.as_ref()?.full_table()
    }
}

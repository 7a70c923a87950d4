//! What the commands that show connections, and clients that keep a server, are given.

use std::net::IpAddr;

use clap::Args;

use super::ServiceOption;
use crate::model::{
    address::{self, RealRef},
    connections::ClientRef,
    enumeration::listed,
    prefix::Prefix,
};

#[derive(Debug, Args)]
pub struct Connections {
    /// Show which server each client keeps instead, as `persistence` does
    #[arg(long, conflicts_with = "state")]
    pub persistence: bool,
    /// Only those of this client, or of the clients in this prefix: `ADDRESS[:PORT]` or `ADDRESS/LENGTH`
    #[arg(long, value_name = "CLIENT")]
    pub client: Option<ClientRef>,
    #[command(flatten)]
    pub service: ServiceOption,
    /// Only this real server's: `ADDRESS[:PORT]`
    #[arg(long, value_name = "REAL")]
    pub real: Option<RealRef>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<&'static str>,
    /// Stop after this many, 0 = never [default: 1000; with --close: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = limit)]
    pub limit: Option<usize>,
    /// Close these connections: the next packet of a TCP client is answered with a reset
    #[arg(long, conflicts_with = "persistence")]
    pub close: bool,
    /// With --close: close all connections
    #[arg(long, requires = "close", conflicts_with_all = ["client", "service", "tcp", "udp", "real", "state", "limit"])]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Persistence {
    /// Only this client, or those in this prefix: `ADDRESS[/LENGTH]`
    #[arg(long, value_name = "CLIENT")]
    pub client: Option<Prefix>,
    #[command(flatten)]
    pub service: ServiceOption,
    /// Only clients of the services of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only clients that keep this server: its address
    #[arg(long, value_name = "ADDRESS", value_parser = address::server)]
    pub real: Option<IpAddr>,
    /// Stop after this many, 0 = never [default: 1000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = limit)]
    pub limit: Option<usize>,
    /// Forget these clients: their next connections go where the scheduler says, those they have go on
    #[arg(long, conflicts_with = "limit")]
    pub delete: bool,
    /// With --delete: forget all clients
    #[arg(long, requires = "delete", conflicts_with_all = ["client", "service", "tcp", "udp", "group", "real"])]
    pub all: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| "expected a whole number, 0 or more".to_owned())
}

fn state(name: &str) -> Result<&'static str, String> {
    let names = balancer_common::tcp::State::ALL.map(balancer_common::tcp::State::name);
    names
        .into_iter()
        .find(|known| *known == name)
        .ok_or_else(|| format!("expected {}", listed(&names)))
}

//! The command line's syntax. Each command's help ends with an example.

mod connections;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use clap_complete::Shell;

pub use self::connections::{Client, Connections, Persistence};
use super::{
    CommandError,
    planned::{PlannedCommand, PlannedRealOptions},
};
use crate::{
    model::{
        Protocol, RealSettings, ServiceKey, ServiceSettings,
        address::{self, RealRef, ServiceRef},
        enumeration::listed,
        toml_json,
    },
    os::paths::Instance,
};

/// Sets up and shows the load balancer that `balancerd` runs.
///
/// SERVICE is `[tcp/|udp/]ADDRESS:PORT` (IPv6 in brackets, port 0 for every port) or a service's name; left out, it
/// is the only service there is. REAL is `ADDRESS[:PORT]`; without a port it has the service's.
#[derive(Debug, Parser)]
#[command(
    name = "balancer-ctl",
    version,
    max_term_width = 100,
    override_usage = "balancer-ctl [OPTIONS] <COMMAND>",
    after_help = "Example:\n  balancer-ctl add-service 192.168.1.35:80 -s rr\n  \
                  balancer-ctl add-real 192.168.0.2:80\n  balancer-ctl list\n\n\
                  Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon"
)]
pub struct Arguments {
    /// The daemon's control socket [default: /run/balancer/control.sock]
    #[arg(
        long,
        global = true,
        env = "BALANCER_SOCKET",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub socket: Option<PathBuf>,
    /// Which of several daemons on this host
    #[arg(long, global = true, value_name = "NAME")]
    pub instance: Option<Instance>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a virtual service
    #[command(
        after_help = "Example:\n  balancer-ctl add-service 192.168.1.35:80 --scheduler rr --name web --check http"
    )]
    AddService(ChangeService),
    /// Change a virtual service; what is not named keeps its value
    ///
    /// With --check, the checks given replace all that the service had.
    #[command(
        after_help = "Example:\n  balancer-ctl edit-service web --scheduler wrr --slow-start 30s"
    )]
    EditService(ChangeService),
    /// Delete a virtual service; its connections go on until they end
    #[command(after_help = "Example:\n  balancer-ctl del-service 192.168.1.35:80")]
    DelService(DelService),
    /// Add a real server to a virtual service
    #[command(
        after_help = "Example:\n  balancer-ctl add-real 192.168.0.2:80 --service 192.168.1.35:80 --weight 3"
    )]
    AddReal(ChangeReal),
    /// Change a real server; what is not named keeps its value
    #[command(after_help = "Example:\n  balancer-ctl edit-real 192.168.0.2:80 --weight 0")]
    EditReal(ChangeReal),
    /// Delete a real server; its connections go on until they end
    #[command(after_help = "Example:\n  balancer-ctl del-real 192.168.0.2:80 --service web")]
    DelReal(DelReal),
    /// Give a real server no new connections; those it has go on until they end
    #[command(after_help = "Example:\n  balancer-ctl drain 192.168.0.2:80 --service web")]
    Drain(SetState),
    /// Take a real server out of service
    ///
    /// It is not probed and gets no new connections; its old ones go as the service's on-down says.
    #[command(after_help = "Example:\n  balancer-ctl maintenance 192.168.0.2:80 --service web")]
    Maintenance(SetState),
    /// Take a real server back after drain or maintenance
    #[command(after_help = "Example:\n  balancer-ctl ready 192.168.0.2:80 --service web")]
    Ready(SetState),
    /// Show services and real servers
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  balancer-ctl list --stats"
    )]
    List(List),
    /// Show what the checks of real servers found
    #[command(after_help = "Example:\n  balancer-ctl health web --history")]
    Health(Health),
    /// Show the connection table
    #[command(
        after_help = "Example:\n  balancer-ctl connections --service web --state established --limit 20"
    )]
    Connections(Connections),
    /// Show which real server a client would get, and why
    ///
    /// The loaded packet program is asked. Nothing is sent and nothing changes.
    #[command(after_help = "Example:\n  balancer-ctl trace --client 198.51.100.7:40000 web")]
    Trace(Trace),
    /// Show which server each client of a service with persistence keeps, or forget that
    #[command(
        after_help = "Example:\n  balancer-ctl persistence --client 198.51.100.0/24\n  \
                      balancer-ctl persistence --delete --service web --real 192.168.0.2"
    )]
    Persistence(Persistence),
    /// Show the whole node on one screen
    #[command(after_help = "Example:\n  balancer-ctl status --check")]
    Status(Status),
    /// Give this node's VIPs up, to another node that takes them
    ///
    /// The VIPs stay here until another node has taken over. If none does, they stay, and the command fails.
    #[command(after_help = "Example:\n  balancer-ctl failover")]
    Failover(Failover),
    /// Make nodes a pair, take one out, or keep this one from being Active
    #[command(
        subcommand,
        after_help = "Example:\n  balancer-ctl node key\n  balancer-ctl node join bk1-...@192.168.9.1"
    )]
    Node(Node),
    /// Show what another node's services have other than this node's
    #[command(after_help = "Example:\n  balancer-ctl diff lb2")]
    Diff(OtherNode),
    /// Send this node's services to another node, which takes all of them or none
    #[command(after_help = "Example:\n  balancer-ctl push lb2")]
    Push(OtherNode),
    /// Follow changes of state as they happen
    ///
    /// A line on standard error says from when on none is missed.
    #[command(after_help = "Example:\n  balancer-ctl events --json")]
    Events,
    /// Check a configuration file without a daemon
    #[command(after_help = "Example:\n  balancer-ctl check /etc/balancer/balancer.toml")]
    Check(Check),
    /// Load the configuration file again
    #[command(after_help = "Example:\n  balancer-ctl reload")]
    Reload,
    /// Set the counters to zero, of one service or all
    #[command(after_help = "Example:\n  balancer-ctl zero web")]
    Zero(Zero),
    /// Delete all services
    #[command(after_help = "Example:\n  balancer-ctl clear")]
    Clear(RuntimeOption),
    /// Print what completes commands and options in a shell
    #[command(
        after_help = "Example:\n  balancer-ctl completions bash > /etc/bash_completion.d/balancer-ctl"
    )]
    Completions(Completions),
    /// Print the manual's page, of the whole tool or of one command
    #[command(
        after_help = "Example:\n  balancer-ctl man | man -l -\n  balancer-ctl man add-real | man -l -"
    )]
    Man(ManPage),
    #[command(flatten)]
    Planned(PlannedCommand),
}

/// To whom the VIPs go.
#[derive(Debug, Args)]
pub struct Failover {
    /// The node that takes over; without it, the one with the highest priority
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
}

/// Another node.
#[derive(Debug, Args)]
pub struct OtherNode {
    /// Its name; left out, it is the only other node there is
    #[arg(value_name = "NODE")]
    pub node: Option<String>,
}

/// The node that this one joins.
#[derive(Debug, Args)]
pub struct JoinNode {
    /// What `node key` printed there, and its address; the port is 4446 if none is named
    #[arg(value_name = "KEY@ADDRESS")]
    pub target: String,
}

/// A node that is taken out.
#[derive(Debug, Args)]
pub struct RemoveNode {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// What is done with nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Give the VIPs up and stay away from them, also after a restart, until `ready`
    #[command(after_help = "Example:\n  balancer-ctl node maintenance")]
    Maintenance,
    /// Print the key with which other nodes join; makes one if there is none
    ///
    /// Whoever has the key can be one of the nodes.
    #[command(after_help = "Example:\n  balancer-ctl node key")]
    Key,
    /// Make this node one of those that the node at ADDRESS belongs to
    #[command(after_help = "Example:\n  balancer-ctl node join bk1-...@192.168.9.1")]
    Join(JoinNode),
    /// Take a node out: it forgets the others, and they forget it
    #[command(after_help = "Example:\n  balancer-ctl node remove lb2")]
    Remove(RemoveNode),
    /// Take part again after maintenance
    #[command(after_help = "Example:\n  balancer-ctl node ready")]
    Ready,
}

/// A service as the command's first argument.
#[derive(Debug, Args)]
pub struct ServiceArgument {
    /// `[tcp/|udp/]ADDRESS:PORT`, or a name
    #[arg(value_name = "SERVICE", conflicts_with_all = ["tcp", "udp"])]
    service: Option<ServiceRef>,
    #[command(flatten)]
    address: ServiceAddress,
}

/// A service as an option, where the first argument is a real server.
#[derive(Debug, Args)]
pub struct ServiceOption {
    /// The virtual service: `[tcp/|udp/]ADDRESS:PORT`, or a name
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["tcp", "udp"])]
    service: Option<ServiceRef>,
    #[command(flatten)]
    address: ServiceAddress,
}

/// A service as ipvsadm spells it.
#[derive(Debug, Args)]
struct ServiceAddress {
    /// The TCP service at this address
    #[arg(short = 't', value_name = "ADDRESS:PORT", value_parser = address::service_address, conflicts_with = "udp")]
    tcp: Option<SocketAddr>,
    /// The UDP service at this address
    #[arg(short = 'u', value_name = "ADDRESS:PORT", value_parser = address::service_address)]
    udp: Option<SocketAddr>,
}

impl ServiceAddress {
    fn key(&self) -> Option<ServiceKey> {
        let key = |protocol| move |address| ServiceKey { protocol, address };
        self.tcp
            .map(key(Protocol::Tcp))
            .or_else(|| self.udp.map(key(Protocol::Udp)))
    }

    /// The service that was named with `-t` or `-u`, else `service`.
    fn or(&self, service: Option<&ServiceRef>) -> Result<Option<ServiceRef>, CommandError> {
        if service == Some(&ServiceRef::Only) {
            return Err(CommandError::Usage(
                "`-` is no service: leave it out for the only service there is".to_owned(),
            ));
        }
        Ok(self.key().map(ServiceRef::Key).or_else(|| service.cloned()))
    }
}

impl ServiceArgument {
    /// The service that was named, if any.
    pub fn named(&self) -> Result<Option<ServiceRef>, CommandError> {
        self.address.or(self.service.as_ref())
    }

    /// The service that was named, or the only one.
    pub fn or_only(&self) -> Result<ServiceRef, CommandError> {
        Ok(self.named()?.unwrap_or(ServiceRef::Only))
    }

    /// The address of a service that does not exist yet.
    pub fn new_key(&self) -> Result<ServiceKey, CommandError> {
        match self.named()? {
            Some(ServiceRef::Key(key)) => Ok(key),
            Some(ServiceRef::Name(name)) => Err(CommandError::Usage(format!(
                "a new service needs its address: `add-service ADDRESS:PORT --name {name}`"
            ))),
            Some(ServiceRef::Only) | None => Err(CommandError::Usage(
                "a new service needs its address, as in `add-service 192.0.2.80:80`".to_owned(),
            )),
        }
    }
}

impl ServiceOption {
    /// The service that was named, or the only one.
    pub fn or_only(&self) -> Result<ServiceRef, CommandError> {
        Ok(self.named()?.unwrap_or(ServiceRef::Only))
    }

    /// The service that was named, if any.
    pub fn named(&self) -> Result<Option<ServiceRef>, CommandError> {
        self.address.or(self.service.as_ref())
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub struct RuntimeOption {
    /// Apply without writing to the configuration file: it lasts until `reload` or a restart of the daemon
    #[arg(long)]
    runtime: bool,
}

impl RuntimeOption {
    /// The query of a request with this option.
    pub fn query(self) -> String {
        format!("runtime={}", self.runtime)
    }
}

#[derive(Debug, Args)]
pub struct ChangeService {
    #[command(flatten)]
    pub service: ServiceArgument,
    #[command(flatten)]
    pub settings: ServiceSettings<serde_json::Value>,
    #[command(flatten)]
    pub checks: Checks,
    #[command(flatten)]
    pub runtime: RuntimeOption,
}

/// All checks of a service; the help lists them after `--no-real`.
#[derive(Debug, Args)]
pub struct Checks {
    /// How to probe each real server: a type (tcp, http, https, udp, dns, ping, grpc, exec, agent), or a table in the
    /// file's words, as in '{ type = "http", path = "/health" }'; several times for several, which must all pass. The
    /// checks given are all that the service has then: those it had are replaced, and what is not named of one has its
    /// default
    #[arg(long, value_name = "CHECK", value_parser = check, conflicts_with = "no_check", display_order = 8)]
    pub check: Vec<serde_json::Value>,
    /// Remove all checks
    #[arg(long, display_order = 9)]
    pub no_check: bool,
}

#[derive(Debug, Args)]
pub struct DelService {
    #[command(flatten)]
    pub service: ServiceArgument,
    #[command(flatten)]
    pub runtime: RuntimeOption,
}

#[derive(Debug, Args)]
pub struct ChangeReal {
    /// The real server: `ADDRESS[:PORT]`
    pub real: RealRef,
    #[command(flatten)]
    pub service: ServiceOption,
    #[command(flatten)]
    pub settings: RealSettings,
    /// It serves as the others do (default)
    #[arg(long)]
    pub no_backup: bool,
    #[command(flatten)]
    pub runtime: RuntimeOption,
    #[command(flatten)]
    pub planned: PlannedRealOptions,
}

#[derive(Debug, Args)]
pub struct DelReal {
    /// The real server: `ADDRESS[:PORT]`
    pub real: RealRef,
    #[command(flatten)]
    pub service: ServiceOption,
    /// Delete its connections at once
    #[arg(long)]
    pub purge: bool,
    #[command(flatten)]
    pub runtime: RuntimeOption,
}

#[derive(Debug, Args)]
pub struct SetState {
    /// The real server: `ADDRESS[:PORT]`
    pub real: RealRef,
    #[command(flatten)]
    pub service: ServiceOption,
    #[command(flatten)]
    pub runtime: RuntimeOption,
}

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    pub service: ServiceArgument,
    /// Show past changes of state, and how long each state lasted
    #[arg(long)]
    pub history: bool,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub service: ServiceArgument,
    /// Show connections, packets and bytes so far
    #[arg(long, conflicts_with = "rate")]
    pub stats: bool,
    /// Show connections, packets and bytes per second, over the next second
    #[arg(long)]
    pub rate: bool,
    /// Print numbers in full, not as 1.23K
    #[arg(long)]
    pub exact: bool,
    /// Print addresses as numbers, which is always so
    #[arg(short = 'n', long, hide = true)]
    pub numeric: bool,
}

#[derive(Debug, Args)]
pub struct Trace {
    /// The client: `ADDRESS:PORT`
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address::client)]
    pub client: SocketAddr,
    #[command(flatten)]
    pub service: ServiceArgument,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Print one line and exit with 0 running, 1 limited, 2 down, 3 unknown, as monitoring systems want it
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The file
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Zero {
    #[command(flatten)]
    pub service: ServiceArgument,
}

/// A check in the file's words, as JSON.
fn check(text: &str) -> Result<serde_json::Value, String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(serde_json::json!({ "type": text }));
    }
    let example =
        "write a type, as in `http`, or a table, as in `{ type = \"http\", interval = \"1s\" }`";
    match text.trim().parse::<toml_edit::Value>() {
        Ok(value) if value.is_inline_table() => Ok(toml_json::to_json(&value)),
        Ok(_) => Err(example.to_owned()),
        Err(error) => {
            let error = error.to_string();
            let reason = error.trim_end().lines().last().unwrap_or_default();
            Err(format!("{reason}: {example}"))
        }
    }
}

#[cfg(test)]
mod tests;

/// Reads a shell's name.
///
/// # Errors
/// It is none of those that there are completions for: a sentence.
fn shell(name: &str) -> Result<Shell, String> {
    let known = Shell::value_variants();
    let found = known.iter().find(|shell| shell.to_string() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = known.iter().map(ToString::to_string).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        format!("expected {}", listed(&names))
    })
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL", value_parser = shell)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManPage {
    /// The command; all of the tool if left out
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

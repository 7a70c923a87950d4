//! The command line's syntax. Each command's help ends with an example.

mod connections;
mod nodes;
mod service;

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum as _};
use clap_complete::Shell;

pub use self::{
    connections::{Connections, Persistence},
    nodes::{Failover, JoinNode, MaintainNode, Node, OtherNode},
    service::{RuntimeOption, ServiceArgument, ServiceOption},
};
use super::planned::{PlannedCommand, PlannedRealOptions};
use crate::{
    model::{
        RealSettings, ServiceSettings,
        address::{self, RealRef},
        enumeration::listed,
        since::Since,
        toml_json,
    },
    os::paths::Instance,
};

/// Above the options that every command has.
const GLOBAL: &str = "Global options";

/// Marks arguments as required that a command refuses to be without, so that help and usage show them so. When the command line is
/// read they are not, as the command's own refusal says more.
pub fn with_required(tool: clap::Command) -> clap::Command {
    tool.mut_subcommands(|command| match command.get_name() {
        "add-service" | "del-service" => {
            command.mut_arg("service", |argument| argument.required(true))
        }
        _ => command,
    })
}

/// Sets up and shows the load balancer that `balancerd` runs.
///
/// SERVICE is `[tcp/|udp/]ADDRESS:PORT` (IPv6 in brackets, port 0 for every port) or a service's name; where it may be
/// left out, it is the only service there is. REAL is `ADDRESS[:PORT]`; without a port it has the service's.
#[derive(Debug, Parser)]
#[command(
    name = "balancer-ctl",
    version,
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true,
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
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    pub socket: Option<PathBuf>,
    /// Which of several daemons on this host
    #[arg(long, global = true, value_name = "NAME", help_heading = GLOBAL)]
    pub instance: Option<Instance>,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Print help; --help prints more where there is more
    #[arg(id = "help", short = 'h', long = "help", global = true, action = ArgAction::Help, help_heading = GLOBAL)]
    _help: Option<bool>,
    /// Print version
    #[arg(id = "version", short = 'V', long = "version", action = ArgAction::Version, help_heading = GLOBAL)]
    _version: Option<bool>,
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
    /// Delete a virtual service, which must be named; its connections go on until they end
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
        after_help = "Example:\n  balancer-ctl list --stats\n  balancer-ctl list --problems"
    )]
    List(List),
    /// Show what the checks of real servers found
    #[command(after_help = "Example:\n  balancer-ctl health web --history")]
    Health(Health),
    /// Show the connection table, or close connections
    ///
    /// A closed connection is deleted from the table, and the next packet of its TCP client is answered with a reset. Where the
    /// scheduler hashes (sh, dh, mh), which would open it again, it is listed no more but counted until that packet has come. Who only
    /// receives hears nothing. A UDP client's next datagram goes where the scheduler says.
    #[command(
        after_help = "Example:\n  balancer-ctl connections --service web --state established --limit 20\n  \
                      balancer-ctl connections --close --client 198.51.100.0/24"
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
    #[command(
        after_help = "Example:\n  balancer-ctl status --check\n  balancer-ctl status --problems"
    )]
    Status(Status),
    /// Give this node's VIPs up, to another node that takes them
    ///
    /// The VIPs stay here until another node has taken over. If none does, they stay, and the command fails.
    #[command(after_help = "Example:\n  balancer-ctl failover")]
    Failover(Failover),
    /// Make nodes a pair, take one out, or keep this one from being Active
    #[command(
        subcommand,
        after_help = "Example:\n  balancer-ctl node key\n  balancer-ctl node join -@192.168.9.1"
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
    /// A line on standard error says from when on none is missed. With --json each event is a JSON document on a line of its own.
    #[command(
        after_help = "Example:\n  balancer-ctl events --json\n  balancer-ctl events --since 1h --no-follow"
    )]
    Events(Events),
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
    ///
    /// On a terminal it asks first. Their connections go on until they end. As after every command that changes the
    /// configuration file, the file as it was before stays beside it, with a `~` behind its name, and it says how the services
    /// come back from there.
    #[command(after_help = "Example:\n  balancer-ctl clear --yes")]
    Clear(Clear),
    /// Print the services as `ipvsadm -S -n` does
    ///
    /// A line for each service and each real server. What these lines have no place for, such as names, checks and backups,
    /// is said on standard error; the configuration file has all of it.
    #[command(after_help = "Example:\n  balancer-ctl save > services.txt")]
    Save(Save),
    /// Make the services those of lines of `ipvsadm -S -n`, read from standard input
    ///
    /// All or nothing: each line that cannot be restored is named, and then nothing is changed. Services and real servers that
    /// are in no line are deleted; so nothing has to be cleared before, as with ipvsadm, which only adds. What lines have no place
    /// for, such as names, checks and backups, stays on services and real servers that there are before and after; all else is
    /// as the lines say, with ipvsadm's defaults. It prints what it changes.
    #[command(
        after_help = "Example:\n  balancer-ctl restore --dry-run < services.txt\n  ipvsadm -S -n | balancer-ctl restore"
    )]
    Restore(Restore),
    /// Print what completes commands and options in a shell
    #[command(
        after_help = "Example:\n  balancer-ctl completions bash > /etc/bash_completion.d/balancer-ctl"
    )]
    Completions(Completions),
    /// Print a page of the manual
    #[command(
        after_help = "Example:\n  balancer-ctl man | man -l -\n  balancer-ctl man balancer.toml | man -l -"
    )]
    Man(ManPage),
    #[command(flatten)]
    Planned(PlannedCommand),
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
pub struct Clear {
    /// Do not ask; without a terminal, nothing is deleted without it
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub runtime: RuntimeOption,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Print addresses as numbers, which is always so
    #[arg(short = 'n', long, hide = true)]
    pub numeric: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
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
    /// Forward by full NAT: to it clients have an address of the balancer, so that it needs no route through it
    #[arg(long, conflicts_with = "forwarding")]
    pub full_nat: bool,
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
    /// Show the services' filters: each prefix and limit with the packets that it has let in or refused
    #[arg(long, conflicts_with_all = ["stats", "rate"])]
    pub filters: bool,
    /// Show the packets to each service that were dropped or answered in its stead, by the reason
    #[arg(long, conflicts_with_all = ["stats", "rate", "filters"])]
    pub discards: bool,
    /// Print numbers in full, not as 1.23K
    #[arg(long)]
    pub exact: bool,
    /// Show only what is not well: services that cannot serve, and real servers that are not up; quorums are in the status
    #[arg(long)]
    pub problems: bool,
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
    /// Print one line within 5 s and exit with 0 running, 1 limited, 2 down, 3 unknown, as monitoring systems want it
    #[arg(long)]
    pub check: bool,
    /// Show only what is not well
    #[arg(long, conflicts_with = "check")]
    pub problems: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Begin with what happened since then: a duration ago, as in 10m, or a time in UTC, as in 2026-11-22T03:14:08Z. The daemon
    /// remembers up to 4096 events since its start
    #[arg(long, value_name = "SINCE")]
    pub since: Option<Since>,
    /// With --since: end after what has happened
    #[arg(long, requires = "since")]
    pub no_follow: bool,
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
    /// A command, `balancerd`, `balancer.toml`, or a subject: `balancer`, `balancer-services`, `balancer-health`, `balancer-pair`,
    /// `balancer-interfaces`; the whole tool if left out
    #[arg(value_name = "PAGE")]
    pub page: Option<String>,
    /// Write all pages to this folder, under the names that `man` looks for
    #[arg(long, value_name = "FOLDER", conflicts_with = "page")]
    pub all: Option<PathBuf>,
}

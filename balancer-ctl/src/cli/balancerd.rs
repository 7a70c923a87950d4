//! The syntax of the daemon's command line. It lies here for the manual, which `balancer-ctl` prints.

use std::path::PathBuf;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::os::paths::{DEFAULT_CONFIG, Instance};

/// The load balancer's daemon: owns the packet program and the control socket.
///
/// Stopping or killing it never stops forwarding; `--detach` does. SIGHUP loads the configuration file again.
#[derive(Debug, Parser)]
#[command(
    name = "balancerd",
    version,
    max_term_width = 100,
    after_help = "Example:\n  balancerd --config /etc/balancer/balancer.toml\n  balancerd --interface eth0 --interface eth1"
)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, env = "BALANCER_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG, hide_env_values = true)]
    pub config: PathBuf,
    /// Run without a configuration file, on this interface (may be repeated); no change outlives the daemon
    #[arg(long, value_name = "NAME", conflicts_with = "check")]
    pub interface: Vec<String>,
    /// Which of several daemons on this host, each in its own network namespace
    #[arg(long, value_name = "NAME")]
    pub instance: Option<Instance>,
    /// The control socket [default: /run/balancer/control.sock]
    #[arg(
        long,
        env = "BALANCER_SOCKET",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub socket: Option<PathBuf>,
    /// Check the configuration file and whether this kernel (Linux 6.1 or newer) can run it, and exit: 0 good, 1 bad
    #[arg(long, conflicts_with = "detach")]
    pub check: bool,
    /// Take the data plane down and exit: packets are no longer balanced
    #[arg(long)]
    pub detach: bool,
    /// What the log shows: error, warn, info, debug, trace, off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,
    /// What the packet program logs; anything but off costs each packet
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    pub packet_log: LevelFilter,
}

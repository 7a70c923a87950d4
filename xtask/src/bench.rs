//! `cargo xtask bench`: measures the project, always as a ratio to references in the same run.

mod busy;
mod driver;
mod failover;
mod health;
mod ipvs;
mod lab;
mod packet;
mod report;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::ebpf;

use crate::{
    cargo,
    kernel::release::Release,
    privilege,
    setup::{self, Purpose},
};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// The packet program alone, by test runs on one CPU
    Packet,
    /// Live frames from a driver's hook to the far end of a cable, beside the kernel's routing and its NAT
    Driver,
    /// Requests and downloads between network namespaces, beside other balancers
    Lab,
    /// Ten thousand checks of real servers: their cost, and how evenly they are spread
    Health,
    /// How long a VIP is without a node when the one that has it dies or gives up, beside keepalived
    Failover,
    /// Guest instructions for a connection and a round trip, beside IPVS, on a stock kernel in QEMU
    Ipvs,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to measure [default: everything]
    suites: Vec<Suite>,

    /// Rounds; every round measures every row once [default: 5; failover: 10]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Measure these rows only, by name, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// packet, driver: packets per row and round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    packets: u32,

    /// packet, driver: measure this object's program `balancer` instead of the one built
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,

    /// lab: seconds per row and round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// health: seconds per round and program, after it has settled
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..))]
    health_seconds: u32,

    /// failover: instead, keep all CPUs busy for this long, and count nodes that take over in vain
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "10m", value_parser = humantime::parse_duration)]
    soak: Option<Duration>,

    /// ipvs: the kernel, one of Debian's
    #[arg(long, default_value_t = Release::V6_12)]
    kernel: Release,

    /// Folder with the packet programs: everything is built already (set for the part that runs as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

impl Options {
    /// Whether a row is wanted.
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row)
    }

    /// Rounds of all suites but `failover`.
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(5)
    }

    /// Rounds of suite `failover`: when an event happens within the advertisement interval decides much.
    fn failover_rounds(&self) -> u32 {
        self.rounds.unwrap_or(10)
    }

    /// Whether a suite is wanted that has these rows.
    fn wants_suite(&self, suite: Suite, rows: &[String]) -> bool {
        (self.suites.is_empty() || self.suites.contains(&suite))
            && rows.iter().any(|row| self.wants(row))
    }
}

/// Builds what is measured, and measures it as root.
///
/// # Errors
/// Something does not build, a named row does not exist, a measurement failed or was void, or a figure is beyond its aim.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (packet_rows, lab_rows, health_rows) = (packet::rows()?, lab::rows(), health::rows());
    let (driver_rows, failover_rows, ipvs_rows) = (driver::rows(), failover::rows(), ipvs::rows());
    let all = [
        &packet_rows,
        &driver_rows,
        &lab_rows,
        &health_rows,
        &failover_rows,
        &ipvs_rows,
    ];
    ensure_known(&options.only, &all.map(|rows| rows.join(", ")).join(", "))?;
    let packet = options.wants_suite(Suite::Packet, &packet_rows);
    let driver = options.wants_suite(Suite::Driver, &driver_rows);
    let lab = options.wants_suite(Suite::Lab, &lab_rows);
    let health = options.wants_suite(Suite::Health, &health_rows);
    let failover = options.wants_suite(Suite::Failover, &failover_rows);
    let ipvs = options.wants_suite(Suite::Ipvs, &ipvs_rows);
    if options.soak.is_some() {
        ensure!(
            options.suites == [Suite::Failover],
            "--soak is of suite `failover` alone: cargo xtask bench failover --soak"
        );
    }
    if ipvs && !(packet || driver || lab || health || failover) {
        // Emulation needs no root, and the load of other programs does not change the counted instructions.
        build_daemon()?;
        return finish(options, &ipvs::run(options)?);
    }
    let built = match &options.built {
        Some(folder) => folder.clone(),
        None => build(lab || health || failover || ipvs)?,
    };
    if !privilege::is_root() {
        return as_root(&built);
    }
    crate::interrupt::listen()?;
    busy::warn()?;
    if let Some(duration) = options.soak {
        // Without a higher priority, which what it starts would have too.
        return soak(options, duration);
    }
    let _first = busy::raise_priority()?;
    let mut rows = Vec::new();
    if packet {
        rows.extend(packet::run(options, &built)?);
    }
    if driver {
        rows.extend(driver::run(options, &built)?);
    }
    if lab {
        rows.extend(lab::run(options)?);
    }
    if failover {
        rows.extend(failover::run(options)?);
    }
    let mut missed = None;
    if health {
        let (of_health, beyond) = health::run(options)?;
        rows.extend(of_health);
        missed = beyond;
    }
    if ipvs {
        rows.extend(ipvs::run(options)?);
    }
    let code = finish(options, &rows)?;
    if let Some(missed) = missed {
        bail!("{missed}");
    }
    Ok(code)
}

/// Counts false failovers; none is a success.
fn soak(options: &Options, duration: Duration) -> Result<ExitCode> {
    let row = failover::soak::run(duration)?;
    let is_missed = row.median > 0.0;
    let code = finish(options, &[row])?;
    Ok(if is_missed { ExitCode::FAILURE } else { code })
}

/// Refuses names that are not among `rows`, which commas separate.
fn ensure_known(names: &[String], rows: &str) -> Result<()> {
    for name in names {
        ensure!(
            rows.split(", ").any(|row| row == name),
            "there is no row `{name}`; there are: {rows}"
        );
    }
    Ok(())
}

/// Runs in the guest of suite `ipvs`.
///
/// # Errors
/// This is not such a guest, or something failed in it.
pub fn run_ipvs_guest(options: &IpvsGuestOptions) -> Result<ExitCode> {
    ipvs::guest::run(options)
}

pub use self::ipvs::guest::Options as IpvsGuestOptions;

fn finish(options: &Options, rows: &[report::Row]) -> Result<ExitCode> {
    if let Some(path) = &options.json {
        report::write_json(path, rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the packet programs, and for the other suites the daemon, and returns the former's folder.
fn build(daemon: bool) -> Result<PathBuf> {
    setup::ensure(&[Purpose::Bench], setup::consent(false))?;
    let built = ebpf::build(&cargo::ebpf_request())?;
    if daemon {
        build_daemon()?;
    }
    Ok(built.folder)
}

/// Builds the release build of daemon and tool.
fn build_daemon() -> Result<()> {
    let mut build = cargo::cargo();
    build
        .args(["build", "--quiet", "--release"])
        .args(["--package", "balancer-ctl", "--bins"])
        .args(cargo::locked());
    let status = build.status().context("running cargo")?;
    ensure!(
        status.success(),
        "the daemon did not compile: see what cargo says above"
    );
    Ok(())
}

/// Runs this command again, as root.
fn as_root(built: &Path) -> Result<ExitCode> {
    let mut command: Command = privilege::as_root("measuring", env::current_exe()?, &[])?;
    let status = command
        .args(env::args_os().skip(1))
        .arg("--built")
        .arg(built)
        .status()
        .context("running as root")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! `cargo xtask run`: shows the whole project, from the command line to balanced packets, on this machine, in
//! network namespaces; or, with `--config`, `balancerd` on this host.

mod daemon;
mod demonstration;
mod live;
mod network;
mod page;
mod pair;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result, ensure};

pub use self::page::{Options as PageOptions, run as page};
use self::{daemon::Daemon, demonstration::Demonstration, network::Network};
use crate::{
    cargo::{cargo, locked, target},
    interrupt,
    privilege::as_root,
    setup::{self, Purpose},
};

/// The configuration at the start. balancer-ctl adds the rest, which the daemon writes to the file.
const CONFIG: &str = "\
# Written by `cargo xtask run`; the services below come from balancer-ctl.
[dataplane]
interfaces = [\"outside\", \"inside\"]
";

/// Builds everything and shows it at work: a client, the balancer and two real servers in network namespaces.
///
/// Installs what the build lacks (says what, and asks first on a terminal), shows the commands of the old LVS
/// tutorial and their effect, then keeps running with a live view until Ctrl-C. Leaves nothing behind. With `--pair` there are
/// two balancers: the Active one is killed while a client asks all the time.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// End after the demonstration, with status 0 only if all of it held
    #[arg(long, conflicts_with = "config")]
    once: bool,
    /// Show two balancers that share their addresses instead, and how one takes over from the other
    #[arg(long, conflicts_with = "config")]
    pair: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Run balancerd with this configuration on this host instead, in the foreground
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The part of `run` that needs root.
#[derive(Debug, clap::Args)]
pub struct LabOptions {
    /// Folder with balancerd and balancer-ctl
    #[arg(long)]
    programs: PathBuf,
    /// As in `run`
    #[arg(long)]
    once: bool,
    /// As in `run`
    #[arg(long)]
    pair: bool,
}

/// Builds, then runs the lab or the daemon as root.
pub fn run(options: &Options) -> Result<ExitCode> {
    interrupt::listen()?;
    let purposes: &[Purpose] = if options.config.is_some() {
        &[]
    } else {
        &[Purpose::Run]
    };
    setup::ensure(purposes, setup::consent(options.yes))?;
    println!(
        "Building balancerd, balancer-ctl and the packet program; the first time takes a few minutes."
    );
    let mut build = cargo();
    build
        .args(["build", "--package", "balancer-ctl", "--bins"])
        .args(locked());
    let status = build.status().context("cannot run cargo")?;
    ensure!(
        status.success(),
        "the build failed: see what cargo says above"
    );
    let programs = target().join("debug");

    let mut command = if let Some(config) = &options.config {
        let mut command = as_root("balancerd", programs.join("balancerd"), &variables())?;
        command.arg("--config").arg(config);
        command
    } else {
        let own = env::current_exe().context("cannot find this program")?;
        let mut command = as_root("the lab", own, &variables())?;
        command
            .arg("lab")
            .arg("--programs")
            .arg(&programs)
            .args(options.once.then_some("--once"))
            .args(options.pair.then_some("--pair"));
        command
    };
    // Ctrl-C also reaches the child, which cleans up and ends; this process only waits for it.
    Ok(exit_code(wait(&mut command)?))
}

/// Makes the lab and shows the demonstration. Everything that is made is a guard, so that it is removed however this ends.
pub fn lab(options: &LabOptions) -> Result<ExitCode> {
    interrupt::listen()?;
    let result = match options.pair {
        true => pair::show(options),
        false => show(options),
    };
    if interrupt::happened() {
        println!("\nStopped; everything is cleaned up.");
    }
    match result {
        Ok(code) => Ok(code),
        // Ended by Ctrl-C: not an error.
        Err(_) if interrupt::happened() => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        Err(error) => Err(error),
    }
}

fn show(options: &LabOptions) -> Result<ExitCode> {
    let network = Network::new()?;
    network.explain();
    let mut daemon = Daemon::prepare("balancer", CONFIG, &options.programs)?;
    println!("\n== The daemon, in the balancer's namespace\n");
    daemon.explain()?;
    daemon.start(&network.balancer)?;
    let demonstration = Demonstration {
        network: &network,
        daemon: &daemon,
        ctl: daemon.ctl(),
    };
    if let Err(error) = demonstration.run() {
        if !interrupt::happened() {
            eprintln!("\nbalancerd's log:\n{}", daemon.log());
        }
        return Err(error);
    }
    if options.once {
        println!("\nAll of it held. Cleaning up.");
        return Ok(ExitCode::SUCCESS);
    }
    explain_further(&network, daemon.ctl(), &options.programs);
    live::view(&demonstration)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what else can be tried while the lab runs.
fn explain_further(network: &Network, ctl: &daemon::Ctl, programs: &Path) {
    let sudo = if env::var_os("SUDO_UID").is_some() {
        "sudo -E "
    } else {
        ""
    };
    println!("\nThe lab keeps running until Ctrl-C. In another terminal:");
    println!("  export BALANCER_SOCKET={}", ctl.socket().display());
    for command in [
        "status",
        "connections",
        "events",
        "edit-real 192.168.0.2:80 -w 0",
    ] {
        println!("  {sudo}{}/balancer-ctl {command}", programs.display());
    }
    println!(
        "  {sudo}nsenter --net={} curl http://{}/",
        network.client.path().display(),
        network::VIP
    );
}

/// Returns the variables that the child must also have under sudo.
fn variables() -> Vec<(String, String)> {
    env::vars()
        .filter(|(name, _)| ["PATH", "RUST_BACKTRACE", "RUST_LOG", "TERM"].contains(&name.as_str()))
        .collect()
}

fn wait(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    child.wait().context("cannot wait for the child")
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

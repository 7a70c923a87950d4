//! Runs commands as root.

use std::{ffi::OsStr, process::Command};

use anyhow::{Result, bail};
use nix::unistd::geteuid;
use xtask::ebpf::program;

/// Tells whether this program runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Returns a command that runs `name` as root: directly, or through sudo. If sudo is needed, `what` is printed first, because sudo
/// may ask for a password. The program gets `variables` either way; sudo drops all others.
pub fn as_root(
    what: &str,
    name: impl AsRef<OsStr>,
    variables: &[(String, String)],
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(name);
        command.envs(variables.iter().map(|(key, value)| (key, value)));
        return Ok(command);
    }
    let Some(sudo) = program("sudo") else {
        bail!("{what} needs root, and sudo is not installed: run this as root");
    };
    println!("{what} needs root: running it through sudo, which may ask for your password");
    let mut command = Command::new(sudo);
    command
        .arg("env")
        .args(
            variables
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        )
        .arg(name);
    Ok(command)
}

//! Debian's and Ubuntu's package manager.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;
use xtask::ebpf::program;

use super::{install_with, tools};
use crate::privilege::as_root;

/// Packages that start a service when they are installed, with the service's name.
const SERVICES: [(&str, &str); 6] = [
    ("nginx-light", "nginx.service"),
    ("haproxy", "haproxy.service"),
    ("keepalived", "keepalived.service"),
    ("openssh-server", "ssh.service"),
    ("redis-server", "redis-server.service"),
    ("vsftpd", "vsftpd.service"),
];

/// Whether apt is installed.
pub fn is_there() -> bool {
    tools::is_installed("apt-get") && tools::is_installed("apt-cache")
}

/// Updates the package lists. A failure is only printed: the present lists may be enough.
pub fn update() {
    let updated = as_root("apt-get", "apt-get", &[])
        .and_then(|mut apt| install_with(apt.args(["update", "-qq"])));
    if let Err(error) = updated {
        eprintln!("warning: {error:#}");
    }
}

/// Installs packages. A service that comes with one is neither started nor left enabled: the lab starts its own
/// servers, in its namespaces.
pub fn install(packages: &[&str], what: &str) -> Result<()> {
    let services: Vec<&str> = SERVICES
        .iter()
        .filter(|(package, service)| packages.contains(package) && !knows(service))
        .map(|(_, service)| *service)
        .collect();
    hold_back(&services, "mask");
    let variables = [("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")]
        .map(|(k, v)| (k.into(), v.into()));
    let installed =
        as_root(&format!("installing {what}"), "apt-get", &variables).and_then(|mut apt| {
            install_with(
                apt.args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
                    .args(packages),
            )
        });
    hold_back(&services, "unmask");
    if installed.is_ok() {
        systemctl(&["disable"], &services);
    }
    installed
}

/// Keeps systemd from starting services until they are installed. `RUNLEVEL=1` does the same where another init
/// runs. The marks are gone after a reboot, should this program be killed in between.
fn hold_back(services: &[&str], verb: &str) {
    systemctl(&[verb, "--runtime"], services);
}

fn systemctl(arguments: &[&str], services: &[&str]) {
    if services.is_empty() || !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let done = as_root("systemctl", "systemctl", &[]).and_then(|mut command| {
        Ok(command
            .args(arguments)
            .arg("--quiet")
            .args(services)
            .status()?)
    });
    if !done.is_ok_and(|status| status.success()) {
        eprintln!(
            "warning: systemctl {} {} failed",
            arguments.join(" "),
            services.join(" ")
        );
    }
}

/// Whether systemd has such a service already, whose state must then not be changed.
fn knows(service: &str) -> bool {
    [
        "/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/etc/systemd/system",
    ]
    .iter()
    .any(|folder| Path::new(folder).join(service).exists())
}

/// Returns the version of a package that would be installed, or that is.
pub fn candidate(package: &str) -> Option<String> {
    let apt = program("apt-cache")?;
    let output = Command::new(apt)
        .args(["policy", package])
        .env("LC_ALL", "C")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_candidate(&String::from_utf8_lossy(&output.stdout))
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_string())
}

/// Returns the minor version of Rust in a package's version (`1.96.0+dfsg1-1~deb12u2`).
pub fn rust_minor(version: &str) -> Option<u32> {
    let upstream = version
        .split_once(':')
        .map_or(version, |(_epoch, upstream)| upstream);
    let mut numbers = upstream.split(['.', '+', '-', '~']);
    (numbers.next()? == "1").then_some(())?;
    numbers.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(
            parse_candidate(policy).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(
            parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn the_rust_version_is_read_from_the_packages() {
        assert_eq!(rust_minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(rust_minor("1:1.100.0-1"), Some(100));
        assert_eq!(rust_minor("2.0-1"), None);
        assert_eq!(rust_minor(""), None);
    }
}

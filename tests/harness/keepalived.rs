//! keepalived as the other node: another make of VRRP.

use std::{fs, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use xtask::{
    ebpf::program,
    lab::{Namespace, Process},
};

/// A running keepalived. Dropped, it ends as on SIGTERM: it removes its VIPs and sends priority 0.
pub struct Keepalived {
    process: Process,
    folder: tempfile::TempDir,
}

impl Keepalived {
    /// Whether it is installed.
    #[must_use]
    pub fn is_installed() -> bool {
        program("keepalived").is_some() || Path::new("/usr/sbin/keepalived").exists()
    }

    /// Starts it with one `vrrp_instance` of this content.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(namespace: &Namespace, instance: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(
            path("keepalived.conf"),
            format!(
                "global_defs {{\n  vrrp_version 3\n  vrrp_garp_master_delay 0\n  script_user root\n}}\n\
                 vrrp_instance other {{\n{instance}\n}}\n"
            ),
        )
        .expect("write its configuration");
        let log = fs::File::create(path("log")).expect("a log");
        let mut command = namespace.command("/usr/sbin/keepalived");
        command.args(["--vrrp", "--dont-fork", "--log-console", "--log-detail"]);
        command.arg("--use-file").arg(path("keepalived.conf"));
        command.arg("--pid").arg(path("pid"));
        command.arg("--vrrp_pid").arg(path("vrrp.pid"));
        command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null());
        let process =
            Process::spawn("keepalived", &mut command).unwrap_or_else(|e| panic!("{e:#}"));
        Self { process, folder }
    }

    /// Kills all its processes at once: its VIPs stay where they are.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(mut self) {
        let group = Pid::from_raw(self.process.id().cast_signed());
        killpg(group, Signal::SIGKILL).expect("it runs");
        self.process
            .wait(Duration::from_secs(5))
            .expect("it is gone");
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("keepalived's log:\n{log}");
        }
    }
}

//! What runs inside a virtual machine: a file system with busybox and a few of this machine's programs, and a script that runs
//! the project's programs one after the other and reports each on the second serial port.
//!
//! ```text
//!  @@ starts NAME
//!  …                        what the program writes
//!  @@ ended NAME STATUS
//!  @@ done                  all programs have run; that the machine ends does not show that
//! ```

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::ebpf::program;

use super::{Parts, initramfs::Initramfs, modules};

/// Path of busybox in Debian's package busybox-static.
pub const BUSYBOX: &str = "bin/busybox";

/// Programs of this machine that tests call.
const PROGRAMS: [&str; 5] = ["bpftool", "curl", "ethtool", "ip", "nsenter"];

/// Kernel modules that tests use, and those that the kernel would load by itself where there is a modprobe. Not every
/// kernel has each.
pub const ALL_MODULES: [&str; 37] = [
    "crc32c_generic",
    "crc32c-intel",
    "af_packet",
    "unix",
    "ipv6",
    "veth",
    "dummy",
    "bonding",
    "team",
    "team_mode_activebackup",
    "8021q",
    "bridge",
    "macvlan",
    "ipvlan",
    "vrf",
    "tun",
    "ipip",
    "ip6_tunnel",
    "sit",
    "ip_gre",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_nat",
    "nft_chain_nat",
    "nft_ct",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "net_failover",
    "virtio_net",
];

/// Arguments for modules that would otherwise make devices on their own.
const ARGUMENTS: [(&str, &str); 2] = [("bonding", "max_bonds=0"), ("dummy", "numdummies=0")];

/// A program that the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// The command line for the guest's shell.
    pub command: String,
}

/// The guest's file system and what it runs.
#[derive(Debug)]
pub struct Guest {
    files: Initramfs,
    libraries: Vec<PathBuf>,
    programs: Vec<Program>,
}

impl Guest {
    /// Starts with busybox, the programs that tests call, and these modules, where the kernel has them, with those that
    /// they need.
    ///
    /// # Errors
    /// Something is not on this machine.
    pub fn new(parts: &Parts, modules: &[&str]) -> Result<Self> {
        let mut files = Initramfs::new();
        files.program("bin/busybox", &parts.unpacked.join(BUSYBOX));
        files.directory("usr/busybox");
        files.link("bin/sh", "busybox");
        files.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
        files.file("etc/group", 0o644, "root:x:0:\n");
        files.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n");
        let mut order = String::new();
        for module in modules::load_order(&parts.kernel.modules, modules)? {
            let arguments = ARGUMENTS
                .iter()
                .find_map(|(name, arguments)| (*name == module.name).then_some(*arguments))
                .unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(order, "insmod /modules/{}.ko {arguments}", module.name);
            files.file(
                &format!("modules/{}.ko", module.name),
                0o644,
                module.content,
            );
        }
        files.file("modules/load", 0o644, order);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| parts.unpacked.join(folder));
        let mut guest = Self {
            files,
            libraries: libraries.into(),
            programs: Vec::new(),
        };
        for name in PROGRAMS {
            guest.add(&format!("usr/bin/{name}"), &find(name)?)?;
        }
        Ok(guest)
    }

    /// Copies a program with its libraries to `path`.
    ///
    /// # Errors
    /// A library is not on this machine.
    pub fn add(&mut self, path: &str, program: &Path) -> Result<()> {
        self.files.program(path, program);
        self.files.libraries_of(program, &self.libraries)
    }

    /// Adds a program to those that run, in the order of the calls.
    pub fn run(&mut self, name: &str, command: &str) {
        self.programs.push(Program {
            name: name.into(),
            command: command.into(),
        });
    }

    /// Writes the file system to `path`.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write(&mut self, path: &Path) -> Result<()> {
        self.files.file("init", 0o755, INIT);
        self.files.file("programs", 0o755, script(&self.programs));
        self.files.write(path)
    }
}

/// The first process. Its own messages go to the console with the kernel's.
///
/// `ip netns` needs `/run` to be a mount of its own. busybox stands behind Debian's programs in `PATH`; only its own shell
/// prefers what it has itself (`ip`).
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/usr/busybox HOME=/root TMPDIR=/tmp
/bin/busybox --install -s /usr/busybox
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracing /sys/kernel/tracing
ulimit -l unlimited
ulimit -n 65536
. /modules/load
ip link set lo up
stty -F /dev/ttyS1 raw -echo
sh /programs >/dev/ttyS1 2>&1 </dev/null
# The port's own buffer is on its way while it is closed.
sync
poweroff -f
"#;

fn script(programs: &[Program]) -> String {
    let mut script = String::new();
    for Program { name, command } in programs {
        // Writing to a string does not fail.
        let _ = write!(
            script,
            "echo '@@ starts {name}'\n{command}\necho \"@@ ended {name} $?\"\n"
        );
    }
    script.push_str("echo '@@ done'\n");
    script
}

/// A line that the guest has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A program begins.
    Starts(&'a str),
    /// A program ended with this status.
    Ended(&'a str, i32),
    /// All programs have ended.
    Done,
    /// Anything else: what a program wrote.
    Text(&'a str),
}

impl<'a> Line<'a> {
    /// Parses a line. A program's last line may lack its line break: then the script's line begins after it.
    pub fn parse(line: &'a str) -> Self {
        let Some((_, rest)) = line.split_once("@@ ") else {
            return Self::Text(line);
        };
        if rest == "done" {
            return Self::Done;
        }
        if let Some(name) = rest.strip_prefix("starts ") {
            return Self::Starts(name);
        }
        rest.strip_prefix("ended ")
            .and_then(|rest| rest.rsplit_once(' '))
            .and_then(|(name, status)| Some(Self::Ended(name, status.parse().ok()?)))
            .unwrap_or(Self::Text(line))
    }
}

/// Copies a program without its debug information into `folder`: the guest's file system is in memory.
///
/// # Errors
/// There is no such program.
pub fn strip(program: &Path, name: &str, folder: &Path) -> Result<PathBuf> {
    let stripped = folder.join(name);
    let status = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&stripped)
        .arg(program)
        .status()
        .context("cannot run strip (Debian's package binutils)")?;
    ensure!(status.success(), "strip cannot read {}", program.display());
    Ok(stripped)
}

/// A program of this machine, also where only root's `PATH` looks.
fn find(name: &str) -> Result<PathBuf> {
    let found = program(name).or_else(|| {
        ["/usr/sbin", "/sbin", "/usr/local/sbin"]
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.is_file())
    });
    let Some(path) = found else {
        bail!("{name} is not installed: `cargo xtask setup` does it");
    };
    // Debian's alternatives are links.
    path.canonicalize()
        .with_context(|| format!("cannot resolve {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_says_is_read_back() {
        let programs = ["dataplane", "interfaces"].map(|name| Program {
            name: name.into(),
            command: format!("/tests/{name}"),
        });
        assert_eq!(
            script(&programs),
            "echo '@@ starts dataplane'\n/tests/dataplane\necho \"@@ ended dataplane $?\"\n\
             echo '@@ starts interfaces'\n/tests/interfaces\necho \"@@ ended interfaces $?\"\n\
             echo '@@ done'\n"
        );
        assert_eq!(
            Line::parse("@@ starts dataplane"),
            Line::Starts("dataplane")
        );
        assert_eq!(
            Line::parse("no end of line@@ ended a b 101"),
            Line::Ended("a b", 101)
        );
        assert_eq!(Line::parse("@@ done"), Line::Done);
        for text in ["test a ... ok", "@@ ended x", "@@ ended x y", "@@ else", ""] {
            assert_eq!(Line::parse(text), Line::Text(text));
        }
    }
}

//! Sysctls under /proc/sys: set for forwarding, and restored by a clean stop.
//!
//! The host's values are noted in a file before any is changed, so that a daemon that is started after a kill does not
//! take the balancer's values for the host's. The note is valid for one boot and one network namespace: after a reboot,
//! or in a new namespace, the values are the kernel's again.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::namespace::Namespace;
use crate::{
    model::PortRange,
    os::{boot_note::BootNote, clock, printable::printable},
};

/// Settings of an interface: directory, name, value.
///
/// `accept_local`: a reply that the kernel forwards is already translated, so its source is the VIP, an address of this
/// host, and would be dropped otherwise. `send_redirects`: the kernel must not point real servers to a route around the
/// balancer.
const PER_INTERFACE: [(&str, &str, &str); 5] = [
    ("net/ipv4/conf", "forwarding", "1"),
    ("net/ipv6/conf", "forwarding", "1"),
    // Linux 6.17: lets one interface forward IPv6 where the host as a whole does not.
    ("net/ipv6/conf", "force_forwarding", "1"),
    ("net/ipv4/conf", "accept_local", "1"),
    ("net/ipv4/conf", "send_redirects", "0"),
];

/// The kernel sends redirects if this *or* the interface's own setting is 1; other interfaces keep theirs.
const FOR_ALL_INTERFACES: (&str, &str) = ("net/ipv4/conf/all/send_redirects", "0");

/// The setting of an interface that decides whether it takes router advertisements.
const ADVERTISEMENTS: (&str, &str) = ("net/ipv6/conf", "accept_ra");

/// The ports from which the kernel chooses for sockets that name none: `FIRST LAST`, of both families.
const LOCAL_PORTS: &str = "net/ipv4/ip_local_port_range";

/// How often it is looked whether somebody else has changed [`LOCAL_PORTS`].
const PORTS_CHECKED_EVERY: Duration = Duration::from_secs(10);

/// The settings changed so far.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    note: BootNote,
    namespace: Namespace,
    /// The namespace of a note that was written in another one.
    noted_namespace: Option<String>,
    /// The host's own values, by path under /proc/sys.
    original_values: BTreeMap<String, String>,
    /// The most that is left of [`LOCAL_PORTS`]; `None` = the host's value.
    local_ports: Option<RangeInclusive<u16>>,
    /// What was written there last.
    ports_written: Option<String>,
    /// When it was looked at last.
    ports_checked: Option<Instant>,
}

impl Sysctls {
    /// Reads the note of an instance from its state directory.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        let note = BootNote::of(instance, "sysctl")?;
        let namespace = Namespace::current().context("cannot tell the network namespace")?;
        Self::at(Path::new("/proc/sys"), note, namespace)
    }

    fn at(root: &Path, note: BootNote, namespace: Namespace) -> anyhow::Result<Self> {
        let (written_in, mut found) = parse_note(&note.read()?).unwrap_or_default();
        found.retain(|path, value| {
            let numbers = if path == LOCAL_PORTS { 2 } else { 1 };
            let is_own = is_own(path)
                && value.split_whitespace().count() == numbers
                && value
                    .split_whitespace()
                    .all(|number| number.parse::<i32>().is_ok());
            if !is_own {
                tracing::warn!(
                    "the note {note} names `{}`, which balancerd never sets: it is left as it is",
                    printable(&format!("{path} = {value}"))
                );
            }
            is_own
        });
        let is_here = written_in == namespace.to_string();
        // What an earlier daemon left stays until this one knows what it needs.
        let ports_written = (is_here && found.contains_key(LOCAL_PORTS))
            .then(|| fs::read_to_string(root.join(LOCAL_PORTS)).ok())
            .flatten()
            .map(|text| text.trim().to_owned());
        Ok(Self {
            root: root.to_path_buf(),
            note,
            namespace,
            noted_namespace: (!is_here && !found.is_empty()).then_some(written_in),
            original_values: if is_here { found } else { BTreeMap::new() },
            local_ports: ports_written.as_deref().and_then(parse_ports),
            ports_written,
            ports_checked: None,
        })
    }

    /// Whether there are values to restore, here or in another namespace.
    pub fn has_note(&self) -> bool {
        !self.original_values.is_empty() || self.noted_namespace.is_some()
    }

    /// The file of the namespace whose values are noted, if it is another one and can be found. A namespace that is
    /// gone needs no restoring.
    pub fn other_namespace(&self) -> Option<PathBuf> {
        Namespace::find_file(self.noted_namespace.as_ref()?, &self.namespace)
    }

    /// Leaves the host's own sockets that name no port these ones, or what they have; `None` where that is so already.
    ///
    /// # Errors
    /// The value cannot be written or noted.
    pub fn leave_local_ports(
        &mut self,
        ports: Option<RangeInclusive<u16>>,
    ) -> Option<anyhow::Result<()>> {
        let now = clock::now();
        let is_due = ports.is_some()
            && self
                .ports_checked
                .is_none_or(|last| now - last >= PORTS_CHECKED_EVERY);
        if self.local_ports == ports && !is_due {
            return None;
        }
        self.ports_checked = Some(now);
        Some(self.set_local_ports(ports))
    }

    fn set_local_ports(&mut self, ports: Option<RangeInclusive<u16>>) -> anyhow::Result<()> {
        let noted = self.original_values.get(LOCAL_PORTS).cloned();
        let Some(left) = &ports else {
            if let Some(value) = noted {
                // Somebody else's value stays.
                if self.read(LOCAL_PORTS)? == self.ports_written {
                    self.write_if_present(LOCAL_PORTS, &value)?;
                }
                self.original_values.remove(LOCAL_PORTS);
                self.write_note()?;
            }
            (self.local_ports, self.ports_written) = (None, None);
            return Ok(());
        };
        let Some(found) = self.read(LOCAL_PORTS)? else {
            self.local_ports = ports;
            return Ok(());
        };
        // Another value than the one that was written is the host's new one.
        let noted = noted.filter(|_| self.ports_written.as_ref() == Some(&found));
        let hosts = noted.as_ref().unwrap_or(&found);
        let range = parse_ports(hosts).map_or_else(|| left.clone(), |hosts| narrowed(&hosts, left));
        let value = format!("{}\t{}", range.start(), range.end());
        if found == value {
            self.local_ports = ports;
            return Ok(());
        }
        if noted.is_none() {
            self.original_values
                .insert(LOCAL_PORTS.to_owned(), found.clone());
        }
        let written = self
            .write_note()
            .and_then(|()| self.write(LOCAL_PORTS, &value));
        if written.is_ok() {
            (self.local_ports, self.ports_written) = (ports, Some(value));
        } else if noted.is_none() {
            self.original_values.remove(LOCAL_PORTS);
            self.write_note()?;
        }
        written
    }

    /// Sets what these interfaces need, and restores what others no longer need.
    ///
    /// # Errors
    /// A value cannot be written or noted.
    pub fn set<'a>(&mut self, interfaces: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let mut wanted = BTreeMap::from([(FOR_ALL_INTERFACES.0.to_owned(), FOR_ALL_INTERFACES.1)]);
        for interface in interfaces {
            for (directory, name, value) in PER_INTERFACE {
                wanted.insert(format!("{directory}/{interface}/{name}"), value);
            }
            // An interface that forwards ignores router advertisements unless this is 2.
            let (directory, name) = ADVERTISEMENTS;
            let advertisements = format!("{directory}/{interface}/{name}");
            let accepted = self
                .read(&advertisements)?
                .is_some_and(|value| value != "0");
            if accepted || self.original_values.contains_key(&advertisements) {
                wanted.insert(advertisements, "2");
            }
        }
        let mut unwanted = Vec::new();
        for (path, value) in &self.original_values {
            if !wanted.contains_key(path) && path != LOCAL_PORTS {
                unwanted.push((path.clone(), value.clone()));
            }
        }
        let mut changes = Vec::new();
        for (path, value) in wanted {
            // The diagnosis warns about sysctls that this kernel lacks.
            let Some(found) = self.read(&path)? else {
                continue;
            };
            if found != value {
                self.original_values.entry(path.clone()).or_insert(found);
                changes.push((path, value));
            }
        }
        self.write_note()?;
        for (path, value) in changes {
            self.write(&path, value)?;
        }
        for (path, value) in unwanted {
            self.write_if_present(&path, &value)?;
            self.original_values.remove(&path);
        }
        self.write_note()
    }

    /// Restores all values.
    ///
    /// # Errors
    /// A value cannot be written.
    pub fn restore(&mut self) -> anyhow::Result<()> {
        for (path, value) in std::mem::take(&mut self.original_values) {
            self.write_if_present(&path, &value)?;
        }
        self.write_note()
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<String>> {
        match fs::read_to_string(self.root.join(path)) {
            Ok(value) => Ok(Some(value.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read /proc/sys/{path}")),
        }
    }

    fn write(&self, path: &str, value: &str) -> anyhow::Result<()> {
        fs::write(self.root.join(path), value).with_context(|| {
            format!("cannot set /proc/sys/{path} to {value}: is /proc/sys mounted read-only?")
        })
    }

    /// Writes a value, unless its interface is gone.
    fn write_if_present(&self, path: &str, value: &str) -> anyhow::Result<()> {
        if self.read(path)?.is_some() {
            self.write(path, value)
        } else {
            Ok(())
        }
    }

    fn write_note(&self) -> anyhow::Result<()> {
        self.note
            .write(&format_note(&self.original_values, &self.namespace))
    }
}

/// The ports of [`LOCAL_PORTS`]' text.
fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

/// What is left of the host's ports: those of `left`, unless these are so few of the host's that it would run short; then all of `left`.
fn narrowed(hosts: &RangeInclusive<u16>, left: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let both = *hosts.start().max(left.start())..=*hosts.end().min(left.end());
    if both.len() < usize::from(PortRange::LEFT) {
        left.clone()
    } else {
        both
    }
}

/// Whether the daemon itself sets this, a path under /proc/sys: what a note says is written there.
fn is_own(path: &str) -> bool {
    let of_interface = PER_INTERFACE.map(|(directory, name, _)| (directory, name));
    let own = of_interface.into_iter().chain([ADVERTISEMENTS]);
    let mut interfaces = own.filter_map(|(directory, name)| {
        let rest = path.strip_prefix(directory)?.strip_prefix('/')?;
        rest.strip_suffix(name)?.strip_suffix('/')
    });
    // The directories `all` and `default` stand for other interfaces, too.
    let is_one = |interface: &str| {
        !interface.contains('/') && !["", ".", "..", "all", "default"].contains(&interface)
    };
    path == FOR_ALL_INTERFACES.0 || path == LOCAL_PORTS || interfaces.any(is_one)
}

/// The text of a note of values that were found in a namespace; empty if there are none.
pub(super) fn format_note(found: &BTreeMap<String, String>, namespace: &Namespace) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut text = format!("namespace {namespace}\n");
    for (path, value) in found {
        text.push_str(&format!("{path} = {value}\n"));
    }
    text
}

/// Parses a note: the namespace and the values; `None` when it is empty.
pub(super) fn parse_note(text: &str) -> Option<(String, BTreeMap<String, String>)> {
    let mut lines = text.lines();
    let namespace = lines.next()?.strip_prefix("namespace ")?;
    let values = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(path, value)| (path.to_owned(), value.to_owned()));
    Some((namespace.to_owned(), values.collect()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::os::state_file::StateFile;

    fn boot_note(path: &Path, boot: &str) -> BootNote {
        BootNote::at(StateFile::at(path), boot)
    }

    /// A /proc/sys made of plain files.
    fn world() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for interface in ["all", "eth0", "eth1"] {
            for (family, name, value) in [
                ("ipv4", "forwarding", "0"),
                ("ipv4", "accept_local", "0"),
                ("ipv4", "send_redirects", "1"),
                ("ipv6", "forwarding", "0"),
                ("ipv6", "accept_ra", "1"),
            ] {
                let path = directory
                    .path()
                    .join(format!("net/{family}/conf/{interface}"));
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join(name), format!("{value}\n")).unwrap();
            }
        }
        let note = directory.path().join("state/sysctl");
        (directory, note)
    }

    fn here() -> Namespace {
        Namespace::new(4, 100, 7)
    }

    fn values(root: &Path, interface: &str) -> String {
        [
            "ipv4/conf/I/forwarding",
            "ipv4/conf/I/accept_local",
            "ipv4/conf/I/send_redirects",
            "ipv6/conf/I/forwarding",
            "ipv6/conf/I/accept_ra",
        ]
        .map(|path| {
            fs::read_to_string(root.join("net").join(path.replace('I', interface)))
                .unwrap()
                .trim()
                .to_owned()
        })
        .join("")
    }

    #[test]
    fn values_are_set_and_restored() {
        let (directory, note) = world();
        let root = directory.path();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        sysctls.set(["eth0"].into_iter()).unwrap();
        assert_eq!(
            (
                values(root, "eth0"),
                values(root, "eth1"),
                values(root, "all")
            ),
            ("11012".into(), "00101".into(), "00001".into())
        );
        sysctls.restore().unwrap();
        assert_eq!(
            (values(root, "eth0"), values(root, "all")),
            ("00101".into(), "00101".into())
        );
        assert!(!note.parent().unwrap().exists());
    }

    #[test]
    fn a_daemon_that_was_killed_does_not_take_its_own_values_for_the_hosts() {
        let (directory, note) = world();
        let root = directory.path();
        Sysctls::at(root, boot_note(&note, "b"), here())
            .unwrap()
            .set(["eth0"].into_iter())
            .unwrap();
        let mut again = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        again.set(["eth0"].into_iter()).unwrap();
        again.restore().unwrap();
        assert_eq!(values(root, "eth0"), "00101");
    }

    #[test]
    fn an_interface_that_is_not_configured_any_more_gets_its_values_back() {
        let (directory, note) = world();
        let root = directory.path();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        sysctls.set(["eth0", "eth1"].into_iter()).unwrap();
        sysctls.set(["eth1"].into_iter()).unwrap();
        assert_eq!(
            (values(root, "eth0"), values(root, "eth1")),
            ("00101".into(), "11012".into())
        );
        sysctls.restore().unwrap();
        assert_eq!(values(root, "eth1"), "00101");
    }

    #[test]
    fn the_hosts_own_sockets_keep_off_ports_as_long_as_that_is_wanted() {
        let (directory, note) = world();
        let root = directory.path();
        let file = root.join(LOCAL_PORTS);
        let ports = || fs::read_to_string(&file).unwrap().trim().to_owned();
        for (hosts, left, narrowed) in [
            ("32768\t60999", 60_536..=65_535, "60536\t65535"),
            ("32768\t60999", 4096..=14_999, "4096\t14999"),
            ("10000\t20000", 4096..=14_999, "10000\t14999"),
            ("14500\t60999", 4096..=14_999, "4096\t14999"),
            ("5000\t9999", 4096..=14_999, "5000\t9999"),
        ] {
            fs::write(&file, format!("{hosts}\n")).unwrap();
            let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
            assert!(sysctls.leave_local_ports(None).is_none());
            let left = Some(left);
            sysctls.leave_local_ports(left.clone()).unwrap().unwrap();
            assert!(sysctls.leave_local_ports(left.clone()).is_none());
            assert_eq!(ports(), narrowed, "{hosts}");
            sysctls.set(["eth0"].into_iter()).unwrap();
            assert_eq!(ports(), narrowed, "{hosts}");
            // Somebody else sets it: that is the host's value now.
            if narrowed != hosts {
                fs::write(&file, "1024\t65535\n").unwrap();
                sysctls.ports_checked = None;
                sysctls.leave_local_ports(left.clone()).unwrap().unwrap();
                let both = left.clone().unwrap();
                assert_eq!(ports(), format!("{}\t{}", both.start(), both.end()));
                fs::write(&file, format!("{hosts}\n")).unwrap();
                sysctls.ports_checked = None;
                sysctls.leave_local_ports(left.clone()).unwrap().unwrap();
                assert_eq!(ports(), narrowed, "{hosts}");
            }
            // After a kill: what an earlier daemon left stays until this one knows what it needs.
            let mut again = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
            again.set(["eth0"].into_iter()).unwrap();
            assert_eq!(ports(), narrowed, "{hosts}");
            let other = Some(2000..=9999);
            again.leave_local_ports(other).unwrap().unwrap();
            if narrowed != hosts {
                again.leave_local_ports(None).unwrap().unwrap();
            }
            assert_eq!(ports(), hosts);
            again.restore().unwrap();
            assert!(!note.exists());
        }
    }

    #[test]
    fn ports_that_cannot_be_set_leave_no_note() {
        let (directory, note) = world();
        let root = directory.path();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        // A kernel without the setting.
        assert!(sysctls.leave_local_ports(Some(1..=2)).unwrap().is_ok());
        assert!(!note.exists());
    }

    #[test]
    fn a_note_restores_only_what_the_daemon_itself_sets() {
        for own in [
            "net/ipv4/conf/eth0/forwarding",
            "net/ipv6/conf/eth0.100/force_forwarding",
            "net/ipv6/conf/eth0/accept_ra",
            "net/ipv4/conf/all/send_redirects",
        ] {
            assert!(is_own(own), "{own}");
        }
        for other in [
            "kernel/core_pattern",
            "net/ipv4/conf/eth0/rp_filter",
            "net/ipv4/conf/all/forwarding",
            "net/ipv6/conf/default/accept_ra",
            "net/ipv4/conf/../forwarding",
            "net/ipv4/conf/../../../kernel/forwarding",
            "net/ipv4/conf/eth0/../eth1/forwarding",
            "net/ipv4/conf//forwarding",
            "net/ipv4/conf/forwarding",
            "/net/ipv4/conf/eth0/forwarding",
            "net/ipv4/conf/all/send_redirects/",
            "",
        ] {
            assert!(!is_own(other), "{other}");
        }
        let (directory, note) = world();
        let root = directory.path();
        fs::create_dir_all(root.join("kernel")).unwrap();
        fs::write(root.join("kernel/core_pattern"), "core\n").unwrap();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        sysctls.set(["eth0"].into_iter()).unwrap();
        let text = fs::read_to_string(&note).unwrap();
        let forged = text.replace("eth0/accept_local = 0", "eth0/accept_local = a b");
        fs::write(&note, forged + "kernel/core_pattern = |/tmp/x\n").unwrap();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), here()).unwrap();
        sysctls.restore().unwrap();
        assert_eq!(values(root, "eth0"), "01101");
        let pattern = fs::read_to_string(root.join("kernel/core_pattern")).unwrap();
        assert_eq!(pattern, "core\n");
        assert!(!note.exists());
    }

    #[test]
    fn a_note_is_root_s_alone() {
        let (directory, note) = world();
        let mut sysctls = Sysctls::at(directory.path(), boot_note(&note, "b"), here()).unwrap();
        sysctls.set(["eth0"].into_iter()).unwrap();
        let mode = fs::metadata(&note).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_note_of_another_boot_does_not_count() {
        let (directory, note) = world();
        let root = directory.path();
        Sysctls::at(root, boot_note(&note, "b"), here())
            .unwrap()
            .set(["eth0"].into_iter())
            .unwrap();
        // After the reboot the operator has set a value.
        fs::write(root.join("net/ipv4/conf/eth0/accept_local"), "0").unwrap();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "c"), here()).unwrap();
        sysctls.set(["eth0"].into_iter()).unwrap();
        sysctls.restore().unwrap();
        assert_eq!(values(root, "eth0"), "10012");
    }

    #[test]
    fn a_note_of_another_namespace_does_not_count() {
        let (directory, note) = world();
        let root = directory.path();
        Sysctls::at(root, boot_note(&note, "b"), here())
            .unwrap()
            .set(["eth0"].into_iter())
            .unwrap();
        // The same inode, reused for a new namespace.
        let anew = Namespace::new(4, 100, 8);
        fs::write(root.join("net/ipv4/conf/eth0/accept_local"), "0").unwrap();
        let mut sysctls = Sysctls::at(root, boot_note(&note, "b"), anew).unwrap();
        assert!(sysctls.has_note());
        assert_eq!(sysctls.other_namespace(), None, "it is gone");
        sysctls.set(["eth0"].into_iter()).unwrap();
        sysctls.restore().unwrap();
        assert_eq!(values(root, "eth0"), "10012");
    }
}

//! Switches of interfaces (`ethtool -K`) that the data plane needs off: turned off, and put back on a clean stop.
//!
//! What is turned off is noted in a file first, so that a daemon that was killed and started again puts it back all the
//! same. The note is for one boot and one network namespace, like that of kernel settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    ethtool::{self, Switch},
    namespace::Namespace,
    sysctl,
};

/// An interface's name and one of its switches.
pub type Setting = (String, Switch);

/// How switches are read and turned; a test has its own.
pub trait Switches {
    /// As [`ethtool::ask`].
    fn ask(&self, interface: &str, switch: Switch) -> io::Result<Option<bool>>;
    /// As [`ethtool::set`].
    fn set(&self, interface: &str, switch: Switch, on: bool) -> io::Result<()>;
}

/// The kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Switches for Kernel {
    fn ask(&self, interface: &str, switch: Switch) -> io::Result<Option<bool>> {
        ethtool::ask(interface, switch)
    }

    fn set(&self, interface: &str, switch: Switch, on: bool) -> io::Result<()> {
        ethtool::set(interface, switch, on)
    }
}

/// What was turned off so far.
#[derive(Debug)]
pub struct Offloads {
    note: PathBuf,
    boot: String,
    namespace: Namespace,
    /// Those that were on before.
    off: BTreeSet<Setting>,
}

impl Offloads {
    /// Reads the note of an instance.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        let mut state = PathBuf::from("/var/lib/balancer");
        state.extend(instance);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot read the boot's id")?;
        let namespace = Namespace::current().context("cannot tell the network namespace")?;
        Self::at(&state.join("offloads"), boot.trim(), namespace)
    }

    fn at(note: &Path, boot: &str, namespace: Namespace) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(note) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", note.display()));
            }
        };
        let noted = sysctl::parse(&text, boot)
            .filter(|(written_in, _)| *written_in == namespace.to_string());
        let (_, noted) = noted.unwrap_or_default();
        let settings = noted.keys().filter_map(|line| {
            let (interface, switch) = line.split_once(' ')?;
            Some((interface.to_owned(), Switch::named(switch)?))
        });
        Ok(Self {
            note: note.to_path_buf(),
            boot: boot.to_owned(),
            namespace,
            off: settings.collect(),
        })
    }

    /// Turns these off where they are on, and puts back what is not among them any more. Returns those that stay on.
    ///
    /// # Errors
    /// What is turned off cannot be noted.
    pub fn turn_off(
        &mut self,
        switches: &impl Switches,
        wanted: &BTreeSet<Setting>,
    ) -> anyhow::Result<Vec<Setting>> {
        let unwanted: Vec<_> = self.off.difference(wanted).cloned().collect();
        for setting in unwanted {
            put_back(switches, &setting);
            self.off.remove(&setting);
        }
        // An interface may go meanwhile: then nothing of it is on.
        let is_on = |(interface, switch): &&Setting| {
            matches!(switches.ask(interface, *switch), Ok(Some(true)))
        };
        let on: Vec<_> = wanted.iter().filter(is_on).cloned().collect();
        self.off.extend(on.iter().cloned());
        self.write_note()?;
        let mut stay = Vec::new();
        for setting in on {
            let (interface, switch) = &setting;
            match switches.set(interface, *switch, false) {
                Ok(()) => {
                    tracing::info!(interface, switch = switch.name(), "offload switched off");
                }
                Err(error) => {
                    tracing::debug!(%error, interface, switch = switch.name(), "offload stays on");
                    self.off.remove(&setting);
                    stay.push(setting);
                }
            }
        }
        if !stay.is_empty() {
            self.write_note()?;
        }
        Ok(stay)
    }

    /// Turns on again what was turned off.
    ///
    /// # Errors
    /// The note cannot be removed.
    pub fn put_back(&mut self, switches: &impl Switches) -> anyhow::Result<()> {
        for setting in std::mem::take(&mut self.off) {
            put_back(switches, &setting);
        }
        self.write_note()
    }

    fn write_note(&self) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            if self.off.is_empty() {
                match fs::remove_file(&self.note) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // What else an instance keeps there stays, and then so does the directory.
                let _ = self.note.parent().map(fs::remove_dir);
                return Ok(());
            }
            let lines = self
                .off
                .iter()
                .map(|(interface, switch)| (format!("{interface} {}", switch.name()), "on".into()));
            let text = sysctl::print(&BTreeMap::from_iter(lines), &self.boot, &self.namespace);
            if fs::read_to_string(&self.note).is_ok_and(|old| old == text) {
                return Ok(());
            }
            if let Some(directory) = self.note.parent() {
                fs::create_dir_all(directory)?;
            }
            // Never half a note: a crash leaves the old one or the new one.
            let fresh = self.note.with_extension("new");
            fs::write(&fresh, text)?;
            fs::rename(&fresh, &self.note)
        };
        write().with_context(|| format!("cannot write {}", self.note.display()))
    }
}

/// The interface may be gone.
fn put_back(switches: &impl Switches, (interface, switch): &Setting) {
    match switches.set(interface, *switch, true) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            tracing::warn!(%error, interface, switch = switch.name(), "offload cannot be switched on again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Interfaces whose switches are on; those named `fixed…` refuse.
    #[derive(Default)]
    struct Fake(RefCell<BTreeSet<Setting>>);

    impl Switches for Fake {
        fn ask(&self, interface: &str, switch: Switch) -> io::Result<Option<bool>> {
            Ok(Some(self.0.borrow().contains(&(interface.into(), switch))))
        }

        fn set(&self, interface: &str, switch: Switch, on: bool) -> io::Result<()> {
            if interface.starts_with("fixed") {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            let setting = (interface.to_owned(), switch);
            if on {
                self.0.borrow_mut().insert(setting);
            } else {
                self.0.borrow_mut().remove(&setting);
            }
            Ok(())
        }
    }

    fn settings(names: &[&str]) -> BTreeSet<Setting> {
        let named = names.iter().map(|name| ((*name).to_owned(), Switch::Gro));
        named.collect()
    }

    fn open(note: &Path) -> Offloads {
        Offloads::at(note, "b", Namespace::of(4, 100, 7)).unwrap()
    }

    #[test]
    fn switches_are_turned_off_and_put_back_by_another_daemon_too() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("state/offloads");
        let fake = Fake(RefCell::new(settings(&["eth0", "eth1", "fixed0"])));
        let all = settings(&["eth0", "eth1", "eth2", "fixed0"]);
        let stay = open(&note).turn_off(&fake, &all).unwrap();
        assert_eq!(stay, [("fixed0".to_owned(), Switch::Gro)]);
        assert_eq!(*fake.0.borrow(), settings(&["fixed0"]));
        // Killed; the next one needs only one of them.
        let mut next = open(&note);
        next.turn_off(&fake, &settings(&["eth1"])).unwrap();
        assert_eq!(*fake.0.borrow(), settings(&["eth0", "fixed0"]));
        let mut last = open(&note);
        last.put_back(&fake).unwrap();
        // What was off before stays off.
        assert_eq!(*fake.0.borrow(), settings(&["eth0", "eth1", "fixed0"]));
        assert!(!note.parent().unwrap().exists());
    }

    #[test]
    fn a_note_of_another_boot_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("offloads");
        let fake = Fake(RefCell::new(settings(&["eth0"])));
        open(&note).turn_off(&fake, &settings(&["eth0"])).unwrap();
        let mut other = Offloads::at(&note, "c", Namespace::of(4, 100, 7)).unwrap();
        other.put_back(&fake).unwrap();
        assert_eq!(*fake.0.borrow(), settings(&[]));
    }
}

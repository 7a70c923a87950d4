//! Offloads (`ethtool -K`) that the data plane needs off: switched off, and restored by a clean stop.
//!
//! They are noted in a file before they are switched off, so that a daemon that is started after a kill restores them,
//! too. The note is valid for one boot and one network namespace, like that of the sysctls.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use anyhow::Context;

use super::{
    ethtool::{self, Offload},
    namespace::Namespace,
    sysctl,
};
use crate::os::boot_note::BootNote;

/// An interface's name and one of its offloads.
pub type OffloadSetting = (String, Offload);

/// How offloads are queried and set; tests have their own implementation.
pub trait OffloadControl {
    /// As [`ethtool::query`].
    fn query(&self, interface: &str, switch: Offload) -> io::Result<Option<bool>>;
    /// As [`ethtool::set`].
    fn set(&self, interface: &str, switch: Offload, on: bool) -> io::Result<()>;
}

/// By the kernel's ioctl.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl OffloadControl for Kernel {
    fn query(&self, interface: &str, switch: Offload) -> io::Result<Option<bool>> {
        ethtool::query(interface, switch)
    }

    fn set(&self, interface: &str, switch: Offload, on: bool) -> io::Result<()> {
        ethtool::set(interface, switch, on)
    }
}

/// The offloads that were switched off.
#[derive(Debug)]
pub struct Offloads {
    note: BootNote,
    namespace: Namespace,
    /// Those that were on before, and were switched off.
    turned_off: BTreeSet<OffloadSetting>,
}

impl Offloads {
    /// Reads the note of an instance from its state directory.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        let note = BootNote::of(instance, "offloads")?;
        let namespace = Namespace::current().context("cannot tell the network namespace")?;
        Self::at(note, namespace)
    }

    fn at(note: BootNote, namespace: Namespace) -> anyhow::Result<Self> {
        let noted = sysctl::parse_note(&note.read()?)
            .filter(|(written_in, _)| *written_in == namespace.to_string());
        let (_, noted) = noted.unwrap_or_default();
        let settings = noted.keys().filter_map(|line| {
            let (interface, switch) = line.split_once(' ')?;
            Some((interface.to_owned(), Offload::from_name(switch)?))
        });
        Ok(Self {
            note,
            namespace,
            turned_off: settings.collect(),
        })
    }

    /// Switches off those of `wanted` that are on, and restores those that are no longer wanted off. Returns those that
    /// stay on.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn turn_off(
        &mut self,
        switches: &impl OffloadControl,
        wanted: &BTreeSet<OffloadSetting>,
    ) -> anyhow::Result<Vec<OffloadSetting>> {
        let unwanted: Vec<_> = self.turned_off.difference(wanted).cloned().collect();
        for setting in unwanted {
            turn_on(switches, &setting);
            self.turned_off.remove(&setting);
        }
        // An interface that has gone meanwhile has no offload on.
        let is_on = |(interface, switch): &&OffloadSetting| {
            matches!(switches.query(interface, *switch), Ok(Some(true)))
        };
        let on: Vec<_> = wanted.iter().filter(is_on).cloned().collect();
        self.turned_off.extend(on.iter().cloned());
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
                    self.turned_off.remove(&setting);
                    stay.push(setting);
                }
            }
        }
        if !stay.is_empty() {
            self.write_note()?;
        }
        Ok(stay)
    }

    /// Switches on again what was switched off.
    ///
    /// # Errors
    /// The note cannot be removed.
    pub fn restore(&mut self, switches: &impl OffloadControl) -> anyhow::Result<()> {
        for setting in std::mem::take(&mut self.turned_off) {
            turn_on(switches, &setting);
        }
        self.write_note()
    }

    fn write_note(&self) -> anyhow::Result<()> {
        let lines = self
            .turned_off
            .iter()
            .map(|(interface, switch)| (format!("{interface} {}", switch.name()), "on".into()));
        let text = sysctl::format_note(&BTreeMap::from_iter(lines), &self.namespace);
        if !text.is_empty() && self.note.read().is_ok_and(|old| old == text) {
            return Ok(());
        }
        self.note.write(&text)
    }
}

/// Switches an offload on again; the interface may be gone.
fn turn_on(switches: &impl OffloadControl, (interface, switch): &OffloadSetting) {
    match switches.set(interface, *switch, true) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            tracing::warn!(%error, interface, switch = switch.name(), "offload cannot be switched on again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::Path};

    use super::*;
    use crate::os::state_file::StateFile;

    /// The offloads that are on; interfaces named `fixed…` refuse changes.
    #[derive(Default)]
    struct Fake(RefCell<BTreeSet<OffloadSetting>>);

    impl OffloadControl for Fake {
        fn query(&self, interface: &str, switch: Offload) -> io::Result<Option<bool>> {
            Ok(Some(self.0.borrow().contains(&(interface.into(), switch))))
        }

        fn set(&self, interface: &str, switch: Offload, on: bool) -> io::Result<()> {
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

    fn settings(names: &[&str]) -> BTreeSet<OffloadSetting> {
        let named = names.iter().map(|name| ((*name).to_owned(), Offload::Gro));
        named.collect()
    }

    fn open(note: &Path) -> Offloads {
        Offloads::at(
            BootNote::at(StateFile::at(note), "b"),
            Namespace::new(4, 100, 7),
        )
        .unwrap()
    }

    #[test]
    fn offloads_are_switched_off_and_restored_by_a_later_daemon_too() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("state/offloads");
        let fake = Fake(RefCell::new(settings(&["eth0", "eth1", "fixed0"])));
        let all = settings(&["eth0", "eth1", "eth2", "fixed0"]);
        let stay = open(&note).turn_off(&fake, &all).unwrap();
        assert_eq!(stay, [("fixed0".to_owned(), Offload::Gro)]);
        assert_eq!(*fake.0.borrow(), settings(&["fixed0"]));
        // The first daemon was killed; the next one needs only one of them off.
        let mut next = open(&note);
        next.turn_off(&fake, &settings(&["eth1"])).unwrap();
        assert_eq!(*fake.0.borrow(), settings(&["eth0", "fixed0"]));
        let mut last = open(&note);
        last.restore(&fake).unwrap();
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
        let mut other = Offloads::at(
            BootNote::at(StateFile::at(&note), "c"),
            Namespace::new(4, 100, 7),
        )
        .unwrap();
        other.restore(&fake).unwrap();
        assert_eq!(*fake.0.borrow(), settings(&[]));
    }
}

//! When groups of virtual routers failed, kept for the next daemon: what fails and restarts often is not stable.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{os::state_file::StateFile, vrrp::fsm::INSTABILITY};

/// The failures of all groups.
#[derive(Debug, Default)]
pub struct Failures {
    /// `None` in tests.
    file: Option<StateFile>,
    stored: Stored,
}

/// What the file says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// Virtual routers run: a daemon that finds this has not been stopped but killed, or the host lost its power.
    running: bool,
    /// By the group's name, the latest last, in milliseconds since 1970.
    failures: BTreeMap<String, Vec<u64>>,
}

/// A moment by both clocks: that of the virtual routers, and the time of day, which lasts over restarts.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock that counts the time that the host was suspended.
    pub instant: Instant,
    /// The time of day.
    pub time: SystemTime,
}

impl Moment {
    fn milliseconds(self, instant: Instant) -> u64 {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH);
        let ago = self.instant.saturating_duration_since(instant);
        let at = since.unwrap_or_default().saturating_sub(ago);
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
    }

    /// When it was; `None` if that is so long ago that it no longer counts. What the time of day says to be yet to come has just been:
    /// somebody has set the clock.
    fn instant(self, milliseconds: u64) -> Option<Instant> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let ago = self.time.duration_since(at).unwrap_or_default();
        (ago < INSTABILITY).then(|| self.instant.checked_sub(ago).unwrap_or(self.instant))
    }
}

impl Failures {
    /// Those that an earlier daemon has stored.
    #[must_use]
    pub fn read(file: Option<StateFile>) -> Self {
        let text = file.as_ref().map(StateFile::read_if_there);
        let stored = match text {
            None | Some(Ok(None)) => Stored::default(),
            // A file that was cut short, or is empty, by a power failure says that there was one.
            Some(Ok(Some(text))) => serde_json::from_str(&text).unwrap_or(Stored {
                running: true,
                failures: BTreeMap::new(),
            }),
            Some(Err(error)) => {
                tracing::warn!(
                    "cannot read when virtual routers failed, so it counts as never: {error}"
                );
                Stored::default()
            }
        };
        Self { file, stored }
    }

    /// Virtual routers of these groups begin; returns when each failed within the last hour, the latest last. An earlier daemon that was
    /// not stopped has failed.
    pub fn begin(&mut self, groups: &[&str], now: Moment) -> BTreeMap<String, Vec<Instant>> {
        let was_killed = std::mem::replace(&mut self.stored.running, true);
        let stored = std::mem::take(&mut self.stored.failures);
        let mut failures: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
        for (group, times) in stored {
            let recent: Vec<_> = times.iter().filter_map(|at| now.instant(*at)).collect();
            if !recent.is_empty() {
                failures.insert(group, recent);
            }
        }
        for group in groups.iter().filter(|_| was_killed) {
            failures
                .entry((*group).to_owned())
                .or_default()
                .push(now.instant);
        }
        for (group, failures) in &failures {
            self.keep(group, failures, now);
        }
        self.store();
        failures
    }

    /// A group has failed at these times.
    pub fn note(&mut self, group: &str, failures: &[Instant], now: Moment) {
        self.keep(group, failures, now);
        self.store();
    }

    /// Virtual routers end as they should.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.stored.running) {
            self.store();
        }
    }

    fn keep(&mut self, group: &str, failures: &[Instant], now: Moment) {
        let times = failures.iter().map(|at| now.milliseconds(*at)).collect();
        self.stored.failures.insert(group.to_owned(), times);
    }

    fn store(&self) {
        let Some(file) = &self.file else { return };
        let written = file.replace(|writer| Ok(serde_json::to_writer(writer, &self.stored)?));
        if let Err(error) = written {
            tracing::warn!("cannot write {file}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn failures_are_remembered_for_an_hour_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::at(&folder.path().join("vrrp.json"));
        let read = || Failures::read(Some(file.clone()));
        let start = Moment {
            instant: Instant::now() + 100 * MINUTE,
            time: SystemTime::UNIX_EPOCH + 1_000_000 * MINUTE,
        };
        let after = |minutes: u32| Moment {
            instant: start.instant + minutes * MINUTE,
            time: start.time + minutes * MINUTE,
        };
        let failed = |group: &str, minutes: &[u32]| {
            let times = minutes.iter().map(|minutes| after(*minutes).instant);
            (group.to_owned(), times.collect::<Vec<_>>())
        };
        let mut first = read();
        assert_eq!(first.begin(&["a", "b"], start), BTreeMap::new());
        let times = [after(1).instant, after(2).instant];
        first.note("a", &times, after(2));
        first.end();
        // It was stopped.
        let mut second = read();
        let known = BTreeMap::from([failed("a", &[1, 2])]);
        assert_eq!(second.begin(&["a", "b"], after(3)), known);
        // It was killed, which each group has failed by that runs again.
        let mut third = read();
        let known = BTreeMap::from([failed("a", &[1, 2, 4]), failed("b", &[4])]);
        assert_eq!(third.begin(&["a", "b"], after(4)), known);
        third.end();
        assert_eq!(
            read().begin(&["a", "b"], after(62)),
            BTreeMap::from([failed("a", &[4]), failed("b", &[4])])
        );
        read().end();
        assert_eq!(read().begin(&[], after(100)), BTreeMap::new());
        // The clock was set back.
        let mut fourth = read();
        fourth.note("a", &[after(101).instant], after(101));
        fourth.end();
        let set_back = Moment {
            instant: after(102).instant,
            time: start.time,
        };
        assert_eq!(
            read().begin(&[], set_back),
            BTreeMap::from([failed("a", &[102])])
        );
        // It was being written when the power failed.
        for written in ["{\"running\":tr", ""] {
            file.replace(|file| write!(file, "{written}")).unwrap();
            assert_eq!(
                read().begin(&["a"], after(110)),
                BTreeMap::from([failed("a", &[110])])
            );
        }
    }
}

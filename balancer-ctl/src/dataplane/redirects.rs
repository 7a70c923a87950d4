//! Redirects of the packet program that the kernel gives up: counted by a tracepoint program while the daemon runs, and told
//! while they go on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{Program, ProgramError, RawTracePoint},
};
use balancer_common::redirect::RedirectError;

/// How long after the last failure `status` says so.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// The counters, and what was found in them.
#[derive(Debug)]
pub struct Redirects {
    counters: HashMap<MapData, RedirectError, u64>,
    found: Found,
}

impl Redirects {
    /// Attaches the tracepoint program, for as long as `ebpf` lives, and begins to count failures of redirects through the map
    /// whose kernel's id is `devices`.
    ///
    /// # Errors
    /// The kernel has no such tracepoint, or refused.
    pub fn start(ebpf: &mut Ebpf, devices: u32) -> anyhow::Result<Self> {
        let Some(Program::RawTracePoint(program)) = ebpf.program_mut("redirect_error") else {
            bail!("the embedded object has no tracepoint program redirect_error");
        };
        attach(program)?;
        let map = ebpf
            .take_map("REDIRECT_MAP")
            .context("the embedded object has no map REDIRECT_MAP")?;
        Array::try_from(map)?.set(0, devices, 0)?;
        let counters = ebpf
            .take_map("REDIRECT_ERRORS")
            .context("the embedded object has no map REDIRECT_ERRORS")?;
        Ok(Self {
            counters: HashMap::try_from(counters)?,
            found: Found::default(),
        })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read(&mut self, now: Instant) -> anyhow::Result<()> {
        let counts = self.counters.iter().collect::<Result<_, _>>();
        let counts = counts.context("cannot read the counters of failed redirects")?;
        self.found.take(counts, now);
        Ok(())
    }

    /// Sets the counters to zero.
    pub fn reset(&mut self) {
        for error in self.found.counts.keys() {
            // It may have gone with another reset.
            let _ = self.counters.remove(error);
        }
        self.found = Found::default();
    }

    /// How many redirects have failed.
    pub fn total(&self) -> u64 {
        self.found.counts.values().sum()
    }

    /// A sentence for each way in which redirects fail now. `name` tells an interface's.
    pub fn reasons(&self, now: Instant, name: impl Fn(u32) -> String) -> Vec<String> {
        self.found.reasons(now, name)
    }
}

fn attach(program: &mut RawTracePoint) -> anyhow::Result<()> {
    match program.load() {
        Ok(()) => {}
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            tracing::debug!("{verifier_log}");
            return Err(io_error).context("the kernel refused the tracepoint program");
        }
        Err(error) => return Err(error).context("cannot load the tracepoint program"),
    }
    program
        .attach("xdp_redirect_err")
        .context("the kernel does not tell of them")?;
    Ok(())
}

/// What the counters said, and when each of them has grown. Pure.
#[derive(Debug, Default)]
struct Found {
    counts: BTreeMap<RedirectError, u64>,
    grown: BTreeMap<RedirectError, Instant>,
}

impl Found {
    fn take(&mut self, counts: BTreeMap<RedirectError, u64>, now: Instant) {
        for (error, count) in &counts {
            if self.counts.get(error) != Some(count) {
                self.grown.insert(*error, now);
            }
        }
        self.counts = counts;
    }

    fn reasons(&self, now: Instant, name: impl Fn(u32) -> String) -> Vec<String> {
        let grow = self
            .grown
            .iter()
            .filter(|(_, last)| now.saturating_duration_since(**last) < TOLD_FOR);
        grow.map(|(error, _)| {
            let count = self.counts.get(error).copied().unwrap_or(0);
            let frames = if count == 1 { "frame" } else { "frames" };
            let name = name(error.interface);
            format!(
                "frames towards {name} are lost ({count} {frames} so far): {}",
                words(error.errno, &name)
            )
        })
        .collect()
    }
}

/// What the kernel's error means for the operator.
fn words(errno: u32, name: &str) -> String {
    let errno = i32::try_from(errno).unwrap_or(0);
    match errno {
        libc::EOPNOTSUPP => {
            "it takes no redirected frames; `balancer-ctl reload` chooses again how the program runs, and mode = \"generic\" always works".to_owned()
        }
        libc::ENETDOWN => format!("it is down (ip link set dev {name} up)"),
        libc::EMSGSIZE => {
            "they are longer than it carries; give all interfaces the same MTU, and switch merging of received packets off (ethtool -K \
             DEV gro off lro off)".to_owned()
        }
        libc::EINVAL => "it is not among the ways out".to_owned(),
        _ => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(interface: u32, errno: i32) -> RedirectError {
        RedirectError {
            interface,
            errno: errno.unsigned_abs(),
        }
    }

    #[test]
    fn failures_are_told_while_they_go_on() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut found = Found::default();
        let name = |index: u32| format!("eth{index}");
        let down = error(1, libc::ENETDOWN);
        let refused = error(2, libc::EOPNOTSUPP);
        found.take(BTreeMap::from([(down, 1)]), start);
        let first =
            "frames towards eth1 are lost (1 frame so far): it is down (ip link set dev eth1 up)";
        assert_eq!(found.reasons(after(9), name), [first]);
        assert_eq!(found.reasons(after(10), name), [""; 0]);
        found.take(BTreeMap::from([(down, 1), (refused, 7)]), after(20));
        assert_eq!(
            found.reasons(after(20), name),
            [
                "frames towards eth2 are lost (7 frames so far): it takes no redirected frames; `balancer-ctl reload` chooses again how \
                 the program runs, and mode = \"generic\" always works"
            ]
        );
        found.take(BTreeMap::from([(down, 2), (refused, 7)]), after(25));
        assert_eq!(found.reasons(after(26), name).len(), 2);
    }
}

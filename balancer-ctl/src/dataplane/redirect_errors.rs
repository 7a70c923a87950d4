//! Redirects of the packet program that fail in the kernel: a tracepoint program counts them while the daemon runs, and
//! `status` shows them while they go on.

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

/// How long after the last failure `status` shows it.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// The counters, and what was last read from them.
#[derive(Debug)]
pub struct RedirectErrors {
    counters: HashMap<MapData, RedirectError, u64>,
    history: ErrorHistory,
}

impl RedirectErrors {
    /// Attaches the tracepoint program, for as long as `ebpf` lives, and counts failed redirects through the map with
    /// the kernel's id `devices`.
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
            history: ErrorHistory::default(),
        })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read(&mut self, now: Instant) -> anyhow::Result<()> {
        let counts = self.counters.iter().collect::<Result<_, _>>();
        let counts = counts.context("cannot read the counters of failed redirects")?;
        self.history.record(counts, now);
        Ok(())
    }

    /// Sets the counters to zero.
    pub fn reset(&mut self) {
        for error in self.history.counts.keys() {
            // Its absence is no error.
            let _ = self.counters.remove(error);
        }
        self.history = ErrorHistory::default();
    }

    /// How many redirects have failed since the start or the last reset.
    pub fn total(&self) -> u64 {
        self.history.counts.values().sum()
    }

    /// One sentence for each interface and error with recent failures. `name` returns an interface's name by its index.
    pub fn reasons(&self, now: Instant, name: impl Fn(u32) -> String) -> Vec<String> {
        self.history.reasons(now, name)
    }
}

fn attach(program: &mut RawTracePoint) -> anyhow::Result<()> {
    match program.load() {
        Ok(()) => {}
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            for line in verifier_log.to_string().lines() {
                tracing::debug!("{line}");
            }
            return Err(io_error).context("the kernel refused the tracepoint program");
        }
        Err(error) => return Err(error).context("cannot load the tracepoint program"),
    }
    program
        .attach("xdp_redirect_err")
        .context("cannot attach to the tracepoint xdp_redirect_err")?;
    Ok(())
}

/// The counters as last read, and when each of them grew last. Pure.
#[derive(Debug, Default)]
struct ErrorHistory {
    counts: BTreeMap<RedirectError, u64>,
    grew_at: BTreeMap<RedirectError, Instant>,
}

impl ErrorHistory {
    fn record(&mut self, counts: BTreeMap<RedirectError, u64>, now: Instant) {
        for (error, count) in &counts {
            if self.counts.get(error) != Some(count) {
                self.grew_at.insert(*error, now);
            }
        }
        self.counts = counts;
    }

    fn reasons(&self, now: Instant, name: impl Fn(u32) -> String) -> Vec<String> {
        let recent = self
            .grew_at
            .iter()
            .filter(|(_, last)| now.saturating_duration_since(**last) < SHOWN_FOR);
        recent
            .map(|(error, _)| {
                let count = self.counts.get(error).copied().unwrap_or(0);
                let frames = if count == 1 { "frame" } else { "frames" };
                let name = name(error.interface);
                format!(
                    "frames towards {name} are lost ({count} {frames} so far): {}",
                    explain(error.errno, &name)
                )
            })
            .collect()
    }
}

/// What the kernel's error means, with the remedy.
fn explain(errno: u32, name: &str) -> String {
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
        libc::EINVAL => "it is not in the table of redirect targets".to_owned(),
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
    fn failures_are_shown_while_they_go_on() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut history = ErrorHistory::default();
        let name = |index: u32| format!("eth{index}");
        let down = error(1, libc::ENETDOWN);
        let refused = error(2, libc::EOPNOTSUPP);
        history.record(BTreeMap::from([(down, 1)]), start);
        let first =
            "frames towards eth1 are lost (1 frame so far): it is down (ip link set dev eth1 up)";
        assert_eq!(history.reasons(after(9), name), [first]);
        assert_eq!(history.reasons(after(10), name), [""; 0]);
        history.record(BTreeMap::from([(down, 1), (refused, 7)]), after(20));
        assert_eq!(
            history.reasons(after(20), name),
            [
                "frames towards eth2 are lost (7 frames so far): it takes no redirected frames; `balancer-ctl reload` chooses again how \
                 the program runs, and mode = \"generic\" always works"
            ]
        );
        history.record(BTreeMap::from([(down, 2), (refused, 7)]), after(25));
        assert_eq!(history.reasons(after(26), name).len(), 2);
    }
}

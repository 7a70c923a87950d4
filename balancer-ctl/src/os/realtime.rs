//! Makes a thread run before others, and keeps the process in memory, as far as this is allowed.

use std::{fs, io};

use nix::sys::mman::{MlockAllFlags, mlockall};

/// The bit of `CAP_IPC_LOCK` in a set of capabilities.
const CAP_IPC_LOCK: u32 = 14;

/// Gives the calling thread a priority of the class `SCHED_RR`, 1 to 99: it runs before all threads without one. Its children do not
/// inherit that.
///
/// # Errors
/// The kernel refused, as it does for a process without `CAP_SYS_NICE`, or in a control group without real-time budget.
pub fn run_first(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter is a valid struct; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps all memory that the process uses, now and later, from being swapped out, if it may lock without a limit. Returns whether it may:
/// with a limit, later allocations would fail.
///
/// # Errors
/// The kernel refused.
pub fn stay_in_memory() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    if !has_capability(&status, CAP_IPC_LOCK) {
        return Ok(false);
    }
    let on_use = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_use)?;
    Ok(true)
}

/// Whether a process has a capability in effect, by its `/proc/PID/status`.
fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_a_status() {
        let status = "Name:\tbalancerd\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000004000\n";
        assert!(has_capability(status, CAP_IPC_LOCK));
        assert!(!has_capability(status, 13));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }
}

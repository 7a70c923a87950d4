//! Jiffies, the packet program's clock.

use std::time::Duration;

use anyhow::{Context, ensure};
use aya::{TestRun, TestRunOptions, programs::Xdp};
use balancer_common::conntrack::{TimeoutSettings, Timeouts};

use crate::model;

/// How long a handshake may take.
pub const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time that a UDP connection without an answer stays; clients with forged addresses fill the table with
/// those.
pub const UDP_UNREPLIED_TIMEOUT: Duration = Duration::from_secs(30);

/// The kernel's tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Jiffies per second.
    hz: u32,
}

impl Tick {
    /// Asks the kernel: the coarse clock's resolution is one jiffy.
    ///
    /// # Errors
    /// There is no such clock.
    pub fn read() -> anyhow::Result<Self> {
        let mut resolution = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the struct outlives the call.
        let result =
            unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
        ensure!(
            result == 0 && resolution.tv_nsec > 0,
            "the kernel does not say how long a tick is"
        );
        let nanoseconds = resolution.tv_nsec as u64;
        Ok(Self {
            hz: ((1_000_000_000 + nanoseconds / 2) / nanoseconds) as u32,
        })
    }

    /// A clock of `hz` jiffies per second.
    #[cfg(test)]
    pub const fn with_hz(hz: u32) -> Self {
        Self { hz }
    }

    /// A duration in jiffies: at least 1, and at most `i32::MAX`, so that wrapping comparisons work.
    pub fn jiffies(self, duration: Duration) -> u32 {
        let jiffies = duration.as_nanos() * u128::from(self.hz) / 1_000_000_000;
        jiffies.clamp(1, i32::MAX as u128) as u32
    }

    /// Jiffies as a duration.
    pub fn duration(self, jiffies: u32) -> Duration {
        Duration::from_secs(u64::from(jiffies)) / self.hz
    }

    /// The configured timeouts in jiffies.
    pub fn timeouts(self, timeouts: &model::Timeouts) -> Timeouts {
        Timeouts::new(&TimeoutSettings {
            established: self.jiffies(timeouts.tcp),
            closing: self.jiffies(timeouts.tcp_fin),
            udp: self.jiffies(timeouts.udp),
            udp_unreplied: self.jiffies(timeouts.udp.min(UDP_UNREPLIED_TIMEOUT)),
            half_open: self.jiffies(HALF_OPEN_TIMEOUT),
        })
    }
}

/// The low 32 bits of jiffies now, by a test run of the program `clock`: user space has no other way to read them.
pub fn now(program: &Xdp) -> anyhow::Result<u32> {
    let mut frame = [0_u8; 64];
    let input = [0_u8; 64];
    let options = TestRunOptions {
        data_in: Some(&input),
        data_out: Some(&mut frame),
        ..TestRunOptions::default()
    };
    let result = program
        .test_run(options)
        .context("cannot read the kernel's clock by a test run")?;
    let bytes = frame.first_chunk::<8>();
    let jiffies = bytes
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .filter(|_| result.data_size_out >= 16);
    // Entries hold the low half.
    jiffies
        .map(|jiffies| jiffies as u32)
        .context("the clock program returned no time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_jiffies_and_come_back() {
        let tick = Tick { hz: 250 };
        assert_eq!(tick.jiffies(Duration::from_secs(900)), 225_000);
        assert_eq!(tick.duration(225_000), Duration::from_secs(900));
        assert_eq!(tick.jiffies(Duration::ZERO), 1);
        assert_eq!(tick.jiffies(Duration::MAX), i32::MAX as u32);
    }

    #[test]
    fn this_kernel_ticks_at_a_usual_rate() {
        let tick = Tick::read().unwrap();
        assert!([100, 250, 300, 1000].contains(&tick.hz), "{tick:?}");
    }
}

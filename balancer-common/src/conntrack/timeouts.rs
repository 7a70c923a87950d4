//! When a connection has been idle for too long.

use crate::tcp::State;

/// How many jiffies may pass before a packet writes `last_seen` again: a hot entry's cache line stays clean,
/// and no timeout is shorter than seconds.
pub const REFRESH_JIFFIES: u32 = 64;

/// Whether more than `timeout` jiffies have passed between `then` and `now`, low 32 bits of a clock that wraps. A
/// `then` that lies a little ahead was written after `now` was read.
#[inline(always)]
#[must_use]
pub const fn is_older(now: u32, then: u32, timeout: u32) -> bool {
    let idle = idle(now, then);
    idle > timeout
}

/// Jiffies between `then` and `now`; 0 where `then` lies a little ahead.
#[inline(always)]
#[must_use]
pub const fn idle(now: u32, then: u32) -> u32 {
    // Nobody holds a reading of the clock for so long, not even a process that was stopped: 3 days at 1,000 jiffies a second.
    const AHEAD: u32 = u32::MAX - (1 << 28);
    let idle = now.wrapping_sub(then);
    if idle < AHEAD { idle } else { 0 }
}

/// Idle timeouts in jiffies, by a connection's state. A table, since the packet program asks for them where each branch
/// would make the verifier follow two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Timeouts {
    by_state: [u32; 16],
}

/// What a connection's state waits for: idle timeouts in jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// TCP, handshake complete.
    pub established: u32,
    /// TCP, a FIN or RST was seen.
    pub closing: u32,
    /// UDP, answered.
    pub udp: u32,
    /// UDP, never answered.
    pub udp_unreplied: u32,
    /// TCP, handshake not complete.
    pub half_open: u32,
}

impl Timeouts {
    /// The timeouts of all states.
    #[must_use]
    pub fn new(settings: &TimeoutSettings) -> Self {
        let mut by_state = [0; 16];
        for state in State::ALL {
            by_state[state as usize] = match state {
                State::SynSent | State::SynReceived | State::PickedUp => settings.half_open,
                State::Established => settings.established,
                State::FinOriginal
                | State::FinReply
                | State::Closing
                | State::Closed
                | State::ClosedOriginal
                | State::TimeWait => settings.closing,
                State::Udp | State::UdpUnconfirmed => settings.udp,
                State::UdpUnreplied => settings.udp_unreplied,
            };
        }
        Self { by_state }
    }

    /// The timeout for a [`State`] given as a number.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, state: u8) -> u32 {
        self.by_state[(state & 0xf) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Class, class};

    const TIMEOUTS: TimeoutSettings = TimeoutSettings {
        established: 900,
        closing: 120,
        udp: 300,
        udp_unreplied: 30,
        half_open: 60,
    };

    #[test]
    fn every_state_has_its_timeout_and_its_class() {
        for (state, timeout, class_of) in [
            (State::SynSent, 60, Class::Opening),
            (State::SynReceived, 60, Class::Opening),
            (State::Established, 900, Class::Assured),
            (State::FinOriginal, 120, Class::Assured),
            (State::FinReply, 120, Class::Assured),
            (State::Closing, 120, Class::Assured),
            (State::Closed, 120, Class::Spent),
            (State::Udp, 300, Class::Confirmed),
            (State::UdpUnreplied, 30, Class::Opening),
            (State::UdpUnconfirmed, 300, Class::Opening),
            (State::ClosedOriginal, 120, Class::Opening),
            (State::TimeWait, 120, Class::Spent),
            (State::PickedUp, 60, Class::Opening),
        ] {
            assert_eq!(
                Timeouts::new(&TIMEOUTS).of(state as u8),
                timeout,
                "{state:?}"
            );
            assert_eq!(class(state as u8), class_of, "{state:?}");
        }
    }

    #[test]
    fn time_passes_across_the_wrap_of_the_clock() {
        let then = u32::MAX - 10;
        assert!(!is_older(then.wrapping_add(60), then, 60));
        assert!(is_older(then.wrapping_add(61), then, 60));
        // Half the clock and more does not bring anything back to life.
        for idle in [1_u32 << 31, (1 << 31) + 5, u32::MAX - (1 << 28) - 1] {
            assert!(is_older(idle, 0, 900), "{idle}");
        }
        // What was written just after the clock was read is not old.
        assert!(!is_older(4, 5, 900));
        assert!(!is_older(0, 100_000_000, 900));
        assert_eq!(idle(4, 5), 0);
    }
}

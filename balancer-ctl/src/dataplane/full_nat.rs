//! Whether connections have full NAT, for which this host's own sockets keep off some ports.

/// Sweeps in a row that find no connection with full NAT before there is none: the first may have begun earlier, and an entry that moves to
/// its other bucket may be missed once.
const EMPTY_SWEEPS: u8 = 3;

/// Whether connections may have full NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullNatUse {
    /// A service gives it to new ones.
    Given,
    /// None does, as far as is known, but there may be connections that have it: until so many sweeps have found none.
    Ending(u8),
    /// None has it.
    Ended,
}

impl Default for FullNatUse {
    /// At the start it is not known yet.
    fn default() -> Self {
        Self::Ending(EMPTY_SWEEPS)
    }
}

impl FullNatUse {
    /// After a change of the services.
    #[must_use]
    pub const fn given(self, is_given: bool) -> Self {
        match self {
            _ if is_given => Self::Given,
            Self::Given => Self::Ending(EMPTY_SWEEPS),
            other => other,
        }
    }

    /// After a sweep; `found` any connection with full NAT.
    #[must_use]
    pub const fn swept(self, found: bool) -> Self {
        match self {
            Self::Ending(_) if found => Self::Ending(EMPTY_SWEEPS),
            Self::Ending(left) if left > 1 => Self::Ending(left - 1),
            Self::Ending(_) => Self::Ended,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_no_sweep_has_found_any_for_some_time() {
        let mut now = FullNatUse::default();
        for found in [false, false, true, false, false] {
            now = now.swept(found);
            assert_ne!(now, FullNatUse::Ended);
        }
        assert_eq!(now.swept(false), FullNatUse::Ended);
        assert_eq!(FullNatUse::Ended.given(false), FullNatUse::Ended);
        let given = FullNatUse::Ended.given(true);
        assert_eq!(given.swept(false).swept(false).swept(false), given);
        assert_eq!(given.given(false), FullNatUse::Ending(EMPTY_SWEEPS));
    }
}

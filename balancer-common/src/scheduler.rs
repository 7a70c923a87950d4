//! The in-kernel pick: a counter becomes a place in a service's ring.

use crate::plain_data;

/// Capacity of `RINGS` in slots, shared by all services.
pub const RING_SLOTS: u32 = 1 << 20;

/// Longest ring of one service, in slots.
pub const MAX_RING: u32 = 1 << 15;

/// Where a service's ring lies in `RINGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ring {
    /// First slot.
    pub offset: u32,
    /// Number of slots; 0 = no real server takes new connections.
    pub length: u32,
}

const _: () = assert!(size_of::<Ring>() == 8);
plain_data!(Ring);

impl Ring {
    /// The slot for the `turn`-th new connection, or `None` where the ring is empty.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self, turn: u64) -> Option<u32> {
        if self.length == 0 {
            return None;
        }
        Some(self.offset + (turn % self.length as u64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_walk_the_ring_in_order_and_wrap() {
        let ring = Ring {
            offset: 10,
            length: 3,
        };
        let slots: Vec<_> = (0..7).map(|turn| ring.slot(turn)).collect();
        let expected = [10, 11, 12, 10, 11, 12, 10].map(Some);
        assert_eq!(slots, expected);
        assert_eq!(Ring::default().slot(5), None);
    }
}

//! What the daemon tells the packet program, and what the program counts for all services together.

use crate::{conntrack::Timeouts, plain_data};

/// Settings that may change while packets flow: the one value of `SETTINGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// 1 while a service listens on every port, so that only then a second lookup is made.
    pub any_port: u32,
    /// Idle timeouts in jiffies.
    pub timeouts: Timeouts,
    /// Most connections of both families together.
    pub max_connections: u64,
    /// Connections that the daemon has deleted since the maps were made. See [`Usage`].
    pub removed_by_daemon: u64,
    /// Random, so that nobody outside can aim at one bucket of half-open connections.
    pub seed: u64,
}

const _: () = assert!(size_of::<Settings>() == 48);
plain_data!(Settings);

/// How many connections the packet program has made and deleted: the one value of `USAGE`, changed only by
/// the program, by atomic additions. Those that exist are `added - removed - Settings::removed_by_daemon`;
/// each side writes its own counter, so neither needs a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Usage {
    /// Connections (pairs of rows) inserted.
    pub added: u64,
    /// Connections deleted by the program itself.
    pub removed: u64,
}

const _: () = assert!(size_of::<Usage>() == 16);
plain_data!(Usage);

impl Usage {
    /// The number of connections that exist.
    #[inline(always)]
    #[must_use]
    pub const fn connections(&self, settings: &Settings) -> u64 {
        let removed = self.removed.wrapping_add(settings.removed_by_daemon);
        let count = self.added.wrapping_sub(removed);
        // A reader between the two sides' updates may see more removed than added.
        if count as i64 > 0 { count } else { 0 }
    }
}

/// An interface on which the program runs: a value of `INTERFACES`, indexed by interface index. Everything that a
/// packet of an established connection asks of the daemon lies in this one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Interface {
    /// Its MAC address as the first 48 bits of a frame, see [`Interface::mac_bits`]; a frame to another one is not for
    /// this machine. 0 = not configured.
    pub mac: u64,
    /// The route generation, never 0. The daemon raises it when a route, link or neighbour changes; every egress
    /// looked up under another one is looked up again.
    pub generation: u32,
    /// Of [`interface_flags`].
    pub flags: u16,
    /// The interface that its frames come in by, as routes name it: its own index, or that of the bond whose slave it is. Below
    /// [`MAX_INTERFACES`].
    pub index: u16,
}

const _: () = assert!(size_of::<Interface>() == 16);
const _: () = assert!(MAX_INTERFACES <= 1 << u16::BITS);
plain_data!(Interface);

/// What an interface's packets must know beside its address.
pub mod interface_flags {
    /// The connections of some real server are to be reset, so that each packet of a client asks for its real server's
    /// state. The same on all interfaces.
    pub const RESETS: u16 = 1;
    /// What leaves where it came in is redirected there. veth does not wake its peer for `XDP_TX` unless that runs
    /// an XDP program too (`veth_xdp_flush` in the kernel's `drivers/net/veth.c`), so frames would lie there until others follow.
    pub const REDIRECTS: u16 = 2;
}

/// The bits of a frame's first word that hold the destination's MAC address.
const MAC_BITS: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

impl Interface {
    /// A configured interface, whose frames come in by the interface `index`, which is below [`MAX_INTERFACES`].
    #[must_use]
    pub const fn new(mac: [u8; 6], generation: u32, index: u32) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self {
            mac: u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]),
            generation,
            flags: 0,
            index: index as u16,
        }
    }

    /// The MAC address in a frame's first eight bytes, as [`Interface::mac`] holds it.
    #[inline(always)]
    #[must_use]
    pub const fn mac_bits(start_of_frame: u64) -> u64 {
        start_of_frame & MAC_BITS
    }
}

/// Highest interface index plus one that `INTERFACES` can be sized to.
pub const MAX_INTERFACES: u32 = 65_536;

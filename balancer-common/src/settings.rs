//! What the daemon tells the packet program.

use crate::{conntrack::Timeouts, flow_hash::Seed, plain_data, snat::SnatPorts};

/// Settings: the one value of `SETTINGS`. All but the first two may change while packets flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// Random, so that nobody outside can aim at a bucket of the connection tables.
    pub seed: Seed,
    /// Number of buckets of the connection tables: IPv4, IPv6.
    pub buckets: [u32; 2],
    /// Idle timeouts in jiffies.
    pub timeouts: Timeouts,
    /// 1 while a service listens on every port, so that only then a second lookup is made.
    pub any_port: u32,
    /// 1 where a real server's packet that belongs to no connection is answered with a reset or that the port is
    /// unreachable; 0 where it is passed.
    pub answer_stray_replies: u32,
    /// Jiffies for which a client's first connection to a persistent service, while it is not complete, decides about the client's next
    /// ones; below 2^16.
    pub pending: u32,
    /// The ports of sources of connections with full NAT.
    pub snat_ports: SnatPorts,
}

const _: () = assert!(size_of::<Settings>() == 128);
plain_data!(Settings);

/// An interface on which the program runs: a value of `INTERFACES`, indexed by interface index. Everything that a
/// packet of an established connection asks of the daemon lies in this one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Interface {
    /// Its MAC address as the first 48 bits of a frame, see [`Interface::mac_bits`]; a frame to another one is not for
    /// this machine. 0 = not configured.
    pub mac: u64,
    /// Always zero.
    pub zero: u32,
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
    /// What leaves where it came in is redirected there. veth does not wake its peer for `XDP_TX` unless that runs
    /// an XDP program too (`veth_xdp_flush` in the kernel's `drivers/net/veth.c`), so frames would lie there until others follow.
    pub const REDIRECTS: u16 = 2;
}

/// The bits of a frame's first word that hold the destination's MAC address.
const MAC_BITS: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

impl Interface {
    /// A configured interface, whose frames come in by the interface `index`, which is below [`MAX_INTERFACES`].
    #[must_use]
    pub const fn new(mac: [u8; 6], index: u32) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self {
            mac: u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]),
            zero: 0,
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

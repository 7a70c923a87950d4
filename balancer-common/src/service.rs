//! Virtual services as the packet program sees them.

use crate::{load::Measure, plain_data, scheduler::Ring};

/// Most virtual services; capacity of `SERVICES_V4`, `SERVICES_V6` and `TURNS`.
pub const MAX_SERVICES: u32 = 4_096;

/// Most counters of discards by service and reason; capacity of `SERVICE_DISCARDS`. Others count in total only.
pub const MAX_SERVICE_DISCARDS: u32 = 1 << 14;

/// What a packet must match: VIP, port and protocol, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct ServiceKey<A> {
    /// The virtual address.
    pub address: A,
    /// The port; 0 = every port.
    pub port: u16,
    /// IP protocol number, 6 or 17, in host byte order.
    pub protocol: u16,
}

/// Key of an IPv4 service, 8 bytes.
pub type ServiceKeyV4 = ServiceKey<u32>;
/// Key of an IPv6 service, 20 bytes.
pub type ServiceKeyV6 = ServiceKey<[u32; 4]>;

const _: () = assert!(size_of::<ServiceKeyV4>() == 8);
const _: () = assert!(size_of::<ServiceKeyV6>() == 20);
plain_data!(ServiceKeyV4, ServiceKeyV6);

/// Flag: with no real server the client is answered (TCP RST, ICMP port unreachable). Without it the packet is dropped.
pub const REJECT: u16 = 1;
/// Flag: clients keep their real server, see [`crate::persistence`].
pub const PERSISTENT: u16 = 2;
/// Flag: it has rules about its clients, see [`crate::filter`].
pub const FILTERED: u16 = 4;
/// Flag: its clients may open so many connections in a second, see [`crate::filter`].
pub const LIMITED: u16 = 8;
/// Flag: a client whom the real server would answer past the balancer gets full NAT; without it such clients are refused.
pub const HAIRPIN: u16 = 16;

/// A virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// The slots among which turns, hashes and chance choose. Those of a hash may name real servers that take no new connections.
    pub ring: Ring,
    /// The real servers that take new connections, each once, in the scheduler's order.
    pub available: Ring,
    /// Its id: the index in `TURNS` and `STICKINESS`.
    pub id: u32,
    /// [`REJECT`], [`PERSISTENT`], [`FILTERED`], [`LIMITED`], [`HAIRPIN`].
    pub flags: u16,
    /// One of [`pick`](crate::scheduler::pick).
    pub pick: u8,
    /// One of [`hashed`](crate::scheduler::hashed).
    pub hash: u8,
    /// How loads are compared.
    pub measure: Measure,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Service>() == 32);
plain_data!(Service);

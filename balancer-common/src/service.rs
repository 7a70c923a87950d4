//! Virtual services as the packet program sees them.

use crate::{plain_data, scheduler::Ring};

/// Most virtual services; capacity of `SERVICES_V4`, `SERVICES_V6` and `TURNS`.
pub const MAX_SERVICES: u32 = 4_096;

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
pub const REJECT: u32 = 1;

/// A virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// Which real server the next new connection gets.
    pub ring: Ring,
    /// Index of the service's turn counter in `TURNS`.
    pub id: u32,
    /// [`REJECT`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Service>() == 16);
plain_data!(Service);

//! Real servers as the packet program sees them.

use crate::{
    addr::Addr,
    checksum::{Delta, DeltaSum},
    plain_data,
};

/// Most real servers over all services together; capacity of `REALS` and `REAL_STATS`.
pub const MAX_REALS: u32 = 32_768;

/// What may happen to a real id; a value of [`RealServer::state`].
pub mod state {
    /// No real server has this id.
    pub const FREE: u32 = 0;
    /// The real server takes new connections.
    pub const TAKES_NEW: u32 = 1;
    /// The real server takes new connections of the clients that it has, and no others.
    pub const TAKES_KNOWN: u32 = 2;
    /// The real server keeps its connections and takes no new ones (weight 0).
    pub const DRAINING: u32 = 3;
    /// The real server was removed from its service; its connections go on until they end.
    pub const REMOVED: u32 = 4;
    /// The real server has failed: the next packet of each of its clients ends the connection (see `balancer-ebpf`'s
    /// `track`). It takes no new ones.
    pub const RESET: u32 = 5;
    /// The real server was removed after it had failed: what [`RESET`] says goes on.
    pub const REMOVED_RESET: u32 = 6;

    /// Whether a client that keeps this real server gets it for a new connection.
    #[inline(always)]
    #[must_use]
    pub const fn takes_known(state: u32) -> bool {
        matches!(state, TAKES_NEW | TAKES_KNOWN)
    }

    /// Whether the clients' connections are to end at their next packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_reset(state: u32) -> bool {
        state >= RESET
    }

    /// Whether the real server was removed from its service.
    #[inline(always)]
    #[must_use]
    pub const fn is_removed(state: u32) -> bool {
        matches!(state, REMOVED | REMOVED_RESET)
    }
}

/// A real server of one virtual service, and what all its connections share. Addresses and port in network byte order.
///
/// Its index in `REALS`, the real id, belongs to one (service, real) pair; it is given to another only when
/// no connection refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct RealServer {
    /// The server's address.
    pub address: Addr,
    /// Its service's address.
    pub vip: Addr,
    /// Mask of the server's network, where this host is in that network too: of IPv4 the last word; zeroes = it is not. A
    /// client of the same network would be answered directly, past the balancer.
    pub network_mask: Addr,
    /// The server's port; 0 = the packet's destination port stays (services on every port).
    pub port: u16,
    /// What replacing the VIP by the server's address does to a checksum: see [`RealServer::between`].
    pub delta: Delta,
    /// One of [`state`].
    pub state: u32,
    /// Id of the service it belongs to (the index in `TURNS`).
    pub service: u32,
    /// The service's port, network byte order; 0 = every port.
    pub service_port: u16,
    /// How packets reach it: one of [`forwarding`](crate::conntrack::forwarding).
    pub forwarding: u8,
    /// Which of `SNAT_ADDRESSES` may be the source of packets to it, a bit each; 0 = none, so that it cannot have full NAT.
    pub snat_addresses: u8,
}

const _: () = assert!(size_of::<RealServer>() == 64);
const _: () = assert!(core::mem::offset_of!(RealServer, vip) == 16);
plain_data!(RealServer);

impl RealServer {
    /// What replaces the VIP in original packets, which is the server's address, or that in replies, which is the VIP.
    #[inline(always)]
    #[must_use]
    pub const fn other_side(&self, direction: u8) -> &Addr {
        // SAFETY: the VIP follows the address, and the direction is 0 or 1 by the mask. No branch, which the verifier would
        // follow both ways.
        unsafe { &*(&raw const self.address).add((direction & 1) as usize) }
    }

    /// Whether it can have full NAT: it has source addresses, and its service's port follows from its own.
    #[inline(always)]
    #[must_use]
    pub const fn may_have_full_nat(&self) -> bool {
        self.snat_addresses != 0 && (self.service_port != 0 || self.port == 0)
    }

    /// Its port for packets to this port of the service, both in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn port_of(&self, service_port: u16) -> u16 {
        if self.port == 0 {
            service_port
        } else {
            self.port
        }
    }

    /// The service's port for packets from this port of the server, both in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn service_port_of(&self, port: u16) -> u16 {
        if self.service_port == 0 {
            port
        } else {
            self.service_port
        }
    }

    /// The difference between a header with `vip` and one with `address` in its place: of the IPv4 header checksum and of
    /// the TCP and UDP checksums alike, since their pseudo header holds the addresses.
    #[must_use]
    pub const fn between(vip: &Addr, address: &Addr) -> Delta {
        const fn sum(address: &Addr) -> u64 {
            let [a, b, c, d] = address.0;
            if address.is_v4() {
                d as u64
            } else {
                a as u64 + b as u64 + c as u64 + d as u64
            }
        }
        DeltaSum::new().words(sum(vip), sum(address)).fold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_first_packet_case_come_out() {
        // Case 1 of the conformance list: 4e41 -> 50e7 includes TTL 64 -> 63, a difference of +0100.
        let v4 = |address: [u8; 4]| Addr::from_v4(u32::from_ne_bytes(address));
        let delta = RealServer::between(&v4([192, 0, 2, 80]), &v4([192, 168, 0, 2]));
        assert_eq!(delta.apply(0x4e41_u16.to_be()), 0x4fe7_u16.to_be());
        let with_port = DeltaSum::from(delta)
            .half(80_u16.to_be(), 8080_u16.to_be())
            .fold();
        assert_eq!(with_port.apply(0x27eb_u16.to_be()), 0x0a51_u16.to_be());
    }
}

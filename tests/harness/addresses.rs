//! The set-up of the packet cases: who has which address.
//!
//! ```text
//!  client C ── router T ──(outside)── balancer ──(inside)── real servers R, R2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The client.
pub const C: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// The VIP.
pub const V: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80));
/// The first real server.
pub const R: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2));
/// The second real server.
pub const R2: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 3));
/// The balancer towards the real servers.
pub const S: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
/// The router towards the clients.
pub const T: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// The client, IPv6.
pub const C6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10));
/// The VIP, IPv6.
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x80));
/// The first real server, IPv6.
pub const R6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2));
/// The second real server, IPv6.
pub const R26: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3));
/// The balancer towards the real servers, IPv6.
pub const S6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1));
/// The router towards the clients, IPv6.
pub const T6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1));

/// A MAC address.
pub type Mac = [u8; 6];

/// The balancer's outside interface ("a" in the cases).
pub const LB_OUTSIDE: Mac = [2, 0, 0, 0, 0, 0x0a];
/// The balancer's inside interface ("b").
pub const LB_INSIDE: Mac = [2, 0, 0, 0, 0, 0x0b];
/// The router ("g").
pub const GATEWAY: Mac = [2, 0, 0, 0, 0, 0x01];
/// The first real server ("r").
pub const REAL: Mac = [2, 0, 0, 0, 0, 0x12];
/// The second real server.
pub const REAL2: Mac = [2, 0, 0, 0, 0, 0x13];

/// The MAC address of a real server.
///
/// # Panics
/// `address` is not one of the set-up's real servers.
#[must_use]
pub fn mac_of(address: IpAddr) -> Mac {
    match address {
        R | R6 => REAL,
        R2 | R26 => REAL2,
        C | C6 | T | T6 => GATEWAY,
        other => panic!("the set-up has no MAC address for {other}"),
    }
}

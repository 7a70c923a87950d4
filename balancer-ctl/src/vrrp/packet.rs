//! Advertisements on the wire (RFC 9568 section 5.2), and their checksum. Pure.
//!
//! All fields are in network byte order; the IP header before them is not part of the message.
//!
//! ```text
//!   0                   1                   2                   3
//!   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!  ┌───────┬───────┬───────────────┬───────────────┬───────────────┐
//!  │version│ type  │   router id   │   priority    │ address count │
//!  ├───────┼───────┴───────────────┼───────────────┴───────────────┤
//!  │ zero  │ interval, 0.01 s each │           checksum            │
//!  ├───────┴───────────────────────┴───────────────────────────────┤
//!  │ the addresses, 4 or 16 bytes each; no authentication behind   │
//!  └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! The checksum is that of RFC 1071 over the message, for IPv6 with the pseudo-header (RFC 8200 section 8.1). For IPv4
//! RFC 9568 has none, but RFC 5798 was read as having one, and keepalived and FRR send it: both forms are received.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::checksum::{PseudoHeader, checksum as sum};
pub use crate::model::vrrp::Checksum;
use crate::model::{duration, names::names};

/// The IP protocol of advertisements.
pub const PROTOCOL: u8 = 112;
/// The hop limit (TTL) that advertisements are sent with. Routers lower it, so one that arrives with it is from this
/// link.
pub const HOP_LIMIT: u8 = 255;

/// Bytes before the addresses.
const HEADER_LENGTH: usize = 8;
/// The version in the upper half of the first byte, and the type "advertisement" in the lower.
const VERSION_AND_TYPE: u8 = 0x31;

/// The time from one advertisement to the next: whole centiseconds, from 0.01 s to 40.95 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u16);

impl Interval {
    /// The shortest.
    pub const MIN: Self = Self(1);
    /// The longest: 12 bits.
    pub const MAX: Self = Self(4095);

    /// An interval in centiseconds; `None` for 0 and above 4095.
    #[must_use]
    pub const fn from_centiseconds(centiseconds: u16) -> Option<Self> {
        match centiseconds {
            1..=4095 => Some(Self(centiseconds)),
            _ => None,
        }
    }

    /// This duration as an interval; `None` if it is out of range, or not a whole number of centiseconds.
    #[must_use]
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let centiseconds = u16::try_from(duration.as_millis() / 10).ok()?;
        Self::from_centiseconds(centiseconds).filter(|interval| interval.duration() == duration)
    }

    /// The interval as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * 10)
    }

    /// The interval in centiseconds.
    #[must_use]
    pub const fn centiseconds(self) -> u16 {
        self.0
    }
}

impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.duration()
    }
}

impl fmt::Display for Interval {
    /// As in `1s` or `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::exact(self.duration()))
    }
}

/// The IP version that a virtual router is of: that of its VIPs, and of its advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The multicast group of advertisements over IPv4.
    pub const GROUP_IPV4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
    /// The multicast group of advertisements over IPv6.
    pub const GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The multicast group of its advertisements.
    #[must_use]
    pub const fn group(self) -> IpAddr {
        match self {
            Self::Ipv4 => IpAddr::V4(Self::GROUP_IPV4),
            Self::Ipv6 => IpAddr::V6(Self::GROUP_IPV6),
        }
    }
}

/// What the Active router of a virtual router says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// Which virtual router, of those on this link and of this family: 1 to 255.
    pub router_id: u8,
    /// The sender's priority: 1 to 255, or 0 for "I am leaving".
    pub priority: u8,
    /// How often the sender advertises.
    pub interval: Interval,
    /// The VIPs, all of one family: 1 to 255.
    pub addresses: Vec<IpAddr>,
}

/// Between which addresses a message travels, which the pseudo-header contains. Both are of one family, which is also
/// that of the message's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The sender's own address, not a VIP.
    pub source: IpAddr,
    /// The multicast group, or the peer's address.
    pub destination: IpAddr,
}

/// Why a message is not an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// It may be from beyond this link.
    #[error("it did not arrive with hop limit (TTL) 255")]
    HopLimit,
    /// Shorter than its header.
    #[error("it is shorter than 8 bytes")]
    Short,
    /// Version 2.
    #[error("it is of VRRP version 2: set its sender to version 3")]
    Version2,
    /// Another version, which nobody knows.
    #[error("it is not of VRRP version 3")]
    Version,
    /// Another type, which version 3 does not have.
    #[error("its type is not 1 (advertisement)")]
    Type,
    /// No addresses.
    #[error("it has no address")]
    NoAddress,
    /// Longer or shorter than its addresses.
    #[error("its length is not that of the number of addresses that it states")]
    Length,
    /// Changed on the way, or by a sender who reads the checksum differently.
    #[error("its checksum is wrong")]
    Checksum,
    /// Router id 0.
    #[error("its router id is 0: ids are 1 to 255")]
    RouterId,
    /// Interval 0.
    #[error("its interval is 0: intervals are 0.01 s to 40.95 s")]
    Interval,
}

names!(Malformed {
    HopLimit = "hop-limit",
    Short = "short",
    Version2 = "version-2",
    Version = "version",
    Type = "type",
    NoAddress = "no-address",
    Length = "length",
    Checksum = "checksum",
    RouterId = "router-id",
    Interval = "interval",
});

impl Advertisement {
    /// The message, without an IP header. `checksum` counts for IPv4 only.
    #[must_use]
    pub fn encode(&self, endpoints: Endpoints, checksum: Checksum) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let mut message = vec![
            VERSION_AND_TYPE,
            self.router_id,
            self.priority,
            count,
            0,
            0,
            0,
            0,
        ];
        message[4..6].copy_from_slice(&self.interval.0.to_be_bytes());
        for address in self.addresses.iter().take(count.into()) {
            match address {
                IpAddr::V4(v4) => message.extend(v4.octets()),
                IpAddr::V6(v6) => message.extend(v6.octets()),
            }
        }
        let with_pseudo_header = endpoints.source.is_ipv6() || checksum == Checksum::PseudoHeader;
        let pseudo_header = with_pseudo_header.then(|| pseudo_header(endpoints));
        let sum = sum(&message, pseudo_header);
        message[6..8].copy_from_slice(&sum);
        message
    }

    /// Reads a message that arrived with this hop limit. `message` is all that the IP packet holds by its own length,
    /// without the padding of the frame.
    ///
    /// # Errors
    /// It is not an advertisement of version 3 from this link.
    pub fn decode(message: &[u8], endpoints: Endpoints, hop_limit: u8) -> Result<Self, Malformed> {
        if hop_limit != HOP_LIMIT {
            return Err(Malformed::HopLimit);
        }
        let Some((header, rest)) = message.split_first_chunk::<HEADER_LENGTH>() else {
            return Err(Malformed::Short);
        };
        let [
            version_and_type,
            router_id,
            priority,
            count,
            high,
            low,
            _,
            _,
        ] = *header;
        match (version_and_type >> 4, version_and_type & 0x0f) {
            (3, 1) => {}
            (3, _) => return Err(Malformed::Type),
            (2, _) => return Err(Malformed::Version2),
            _ => return Err(Malformed::Version),
        }
        if count == 0 {
            return Err(Malformed::NoAddress);
        }
        let is_ipv4 = endpoints.source.is_ipv4();
        if rest.len() != usize::from(count) * if is_ipv4 { 4 } else { 16 } {
            return Err(Malformed::Length);
        }
        if !has_valid_checksum(message, endpoints) {
            return Err(Malformed::Checksum);
        }
        if router_id == 0 {
            return Err(Malformed::RouterId);
        }
        // The upper four bits are reserved: whatever is in them is ignored.
        let centiseconds = u16::from_be_bytes([high, low]) & 0x0fff;
        let interval = Interval::from_centiseconds(centiseconds).ok_or(Malformed::Interval)?;
        Ok(Self {
            router_id,
            priority,
            interval,
            addresses: addresses(rest, is_ipv4),
        })
    }
}

/// The addresses that these bytes are.
fn addresses(bytes: &[u8], is_ipv4: bool) -> Vec<IpAddr> {
    if is_ipv4 {
        let (addresses, _) = bytes.as_chunks::<4>();
        addresses.iter().copied().map(IpAddr::from).collect()
    } else {
        let (addresses, _) = bytes.as_chunks::<16>();
        addresses.iter().copied().map(IpAddr::from).collect()
    }
}

/// Whether the checksum is right: over IPv4 in either form, over IPv6 with the pseudo-header.
fn has_valid_checksum(message: &[u8], endpoints: Endpoints) -> bool {
    let holds = |pseudo_header| sum(message, pseudo_header) == [0, 0];
    holds(Some(pseudo_header(endpoints))) || endpoints.source.is_ipv4() && holds(None)
}

const fn pseudo_header(endpoints: Endpoints) -> PseudoHeader {
    PseudoHeader {
        source: endpoints.source,
        destination: endpoints.destination,
        protocol: PROTOCOL,
    }
}

#[cfg(test)]
mod tests;

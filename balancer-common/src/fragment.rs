//! Fragments (RFC 791 section 3.2, RFC 8200 section 4.5): only the first of a datagram has its ports. What became of it is remembered, for
//! the later ones.

use crate::plain_data;

/// What the fragments of one datagram have in common: a key of `FRAGMENTS_V4` and `FRAGMENTS_V6`, which hold the datagrams of connections
/// that are assured or confirmed, and of `UNPROVEN_FRAGMENTS_V4` and `UNPROVEN_FRAGMENTS_V6`, which hold the others: who forges senders pushes none of the
/// former out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address, network byte order.
    pub source: A,
    /// Destination address, network byte order.
    pub destination: A,
    /// The identification as it lies in the packet: 32 bits in IPv6, in IPv4 16.
    pub id: u32,
    /// IP protocol number of what is fragmented, in host byte order; in IPv6 that of what follows the fragment header.
    pub protocol: u32,
}

/// Key of an IPv4 datagram, 16 bytes.
pub type FragmentKeyV4 = FragmentKey<u32>;
/// Key of an IPv6 datagram, 40 bytes.
pub type FragmentKeyV6 = FragmentKey<[u32; 4]>;

/// What became of a datagram's first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Fragment {
    /// Where its entry stands in the connection table: the bucket's index times [`WAYS`](crate::conntrack::WAYS), and the way;
    /// [`PASSED`] = it belongs to no connection and was left to the host.
    pub place: u64,
    /// When it came, nanoseconds of `CLOCK_MONOTONIC`.
    pub seen: u64,
    /// The entry's word then: later fragments follow as long as it is the same entry.
    pub word: u32,
    /// 1 where the host's stack got the first fragment, translated, to send it on: later ones go the same way, since a host that puts
    /// datagrams together for its packet filter wants all of one.
    pub by_host: u32,
}

/// See [`Fragment::place`].
pub const PASSED: u64 = u64::MAX;

/// For how long later fragments follow the first one, in nanoseconds: as long as a receiver waits (RFC 791 section 3.2 and RFC 8200
/// section 4.5 say 15 and 60 s; Linux waits for 30 and 60 s).
pub const TIMEOUT: u64 = 30_000_000_000;

/// Datagrams that each of these maps remembers; where more are under way, those that were asked for longest ago give way, more or less.
pub const MAX_FRAGMENTED: u32 = 8_192;

const _: () = assert!(size_of::<FragmentKeyV4>() == 16);
const _: () = assert!(size_of::<FragmentKeyV6>() == 40);
const _: () = assert!(size_of::<Fragment>() == 24);
plain_data!(FragmentKeyV4, FragmentKeyV6, Fragment);

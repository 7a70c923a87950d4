//! The connection table: one per address family, for all of a connection's life.
//!
//! A connection is two entries, one per direction, each found by its own packets' 5-tuple. Entries lie in buckets of
//! [`WAYS`], and an entry is in one of two buckets that [`crate::flow_hash`] names. What all connections of a real
//! server share (address, VIP, checksum constants, forwarding method) stands in its
//! [`RealServer`], what all packets to a next hop share in its
//! [`NextHop`](crate::next_hop::NextHop).
//!
//! # Rules
//! - One word of each entry ([`Word`]) says what the entry is. It changes by compare-exchange only, so that each
//!   change has one winner. The original entry's word is the connection's: who ends a connection or brings it to another
//!   state changes that one first, and then the reply entry's after it.
//! - Whoever wants a place takes a free one, else a spent connection's, else that of the oldest opening one
//!   ([`Class`]); an assured connection is never displaced. Who takes one entry of a connection takes the other as well.
//! - An entry is written while its word says [`TAKEN`], the word last, the reply's before the original's; each taking counts the
//!   word's serial number on. Who has read an entry's fields reads the word again before it uses them.
//! - Where all eight places are assured, an entry moves to its other bucket if that has room: a copy is made before the old
//!   place is given to the newcomer, so whoever finds nothing looks again before it takes an entry for gone.
//! - The daemon frees entries by the same compare-exchange, and holds no lock: it may be killed at any instruction. A reply
//!   entry that it leaves behind without its original serves its real server's packets until it is idle, or somebody wants
//!   the place or the key.
//!
//! # Full NAT
//! - The client's address and port are replaced as well: by an address of `SNAT_ADDRESSES`, which the word names, and a port that the reply
//!   entry reserves by being there. The original entry's `port` is that port; the real server's own is what its row says, or the packet's.
//! - The reply entry is found by the real server's address, the balancer's and that port. It keeps the client: the port in `port`, the
//!   address ([`ConntrackEntry::client`]) in `extra`, which no reply entry of TCP uses; an IPv6 address takes up the next hop's place and the spare words as
//!   well, so that IPv6 replies ask the kernel's FIB each time.
//!
//! # Room for what is next
//! - SYN cookies: `extra` of the reply entry, which is free but for full NAT, is the shift of the sequence numbers.
//! - Direct routing and tunnels: the two bits of [`Word::forwarding`].
//! - Mixed families: see below.
//! - Replication: an entry without node-local numbers is its key, its state and the real server's address and VIP; real id,
//!   next hop and serial are each node's own. The daemon inserts as it frees, by compare-exchange.
//!
//! # Mixed families, on paper
//! A virtual service of one family whose real servers have the other (RFC 7915 translates such packets, RFC 6146 keeps their state). Not built:
//! it needs full NAT first, since a real server cannot see an address of the other family, and a second way through the packet program.
//! - Entries. The original one lies in the table of the client's family, the reply's in that of the real server's. The original entry is as in
//!   full NAT: `port` is the source port that was reserved for it, the real id says both addresses towards the real server. The reply entry
//!   cannot hold an IPv6 client: of its 32 bytes `source` (4, the real id says it) and `extra` (4) are free. It names the original entry by its
//!   place, 32 bits, and 16 bits of its serial instead. So a reply reads two entries, and looking for a partner reads a place instead of
//!   hashing a key. An original entry that moves to its other bucket writes its new place into the reply's.
//! - Headers. The frame becomes 20 bytes longer or shorter (`bpf_xdp_adjust_head`, which not every driver has). Traffic class and hop count
//!   carry over, options and extension headers do not; towards IPv4 the packet says DF and identification 0 where it has 1,280 bytes or
//!   more, and is one that routers may fragment where it has fewer (RFC 7915 section 5.1).
//! - Checksums. TCP and UDP: the difference of both pairs of addresses. That between VIP and real server is a constant of the real server, as
//!   now; that between client and source address is four additions a packet. The pseudo header's length and protocol count alike. UDP without a
//!   checksum, which only IPv4 has, would be summed up whole (RFC 7915 section 4.5): dropped with its reason above 1,500 bytes.
//! - MTU. A packet of 1,500 bytes from an IPv4 real server becomes one of 1,520: it is answered with "fragmentation needed" and the MTU of
//!   the way out less 20 where it says DF, else it would have to be fragmented here, which XDP cannot: dropped. "Packet too big" from the
//!   client's side is passed on with 20 less, the other way with 20 more.
//! - ICMP. Types and codes change (RFC 7915 sections 4.2 and 5.2), and the quoted header's length with them: the tail is cut or the head is
//!   grown twice. Echo requests are the host's.
//! - Fragments. The fragment header is made of the IPv4 header's fields, or the other way round; later fragments follow as they do now, by a
//!   record in the family in which they come.
//! - What it takes: the rewrite and forward steps of another kind (`translate`, in a program of its own, called where the real server's family
//!   is another), the partner's place in the reply entry, ICMP's tables, some 600 lines, and each test of full NAT again in two directions.

mod displacement;
mod timeouts;
mod word;

pub use self::{
    displacement::{Class, class, prefers_first, rank},
    timeouts::{REFRESH_JIFFIES, TimeoutSettings, Timeouts, idle, is_older},
    word::{FREE, TAKEN, Word, forwarding},
};
use core::mem::offset_of;

use crate::{addr::Address, next_hop::NextHopRef, plain_data, real_server::RealServer};

/// Entries per bucket.
pub const WAYS: usize = 4;

/// Ports as they lie in a transport header: source, then destination, each in network byte order; read as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Ports(pub u32);

impl Ports {
    /// Joins two ports, both in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: u16, destination: u16) -> Self {
        if cfg!(target_endian = "little") {
            Self(source as u32 | (destination as u32) << 16)
        } else {
            Self((source as u32) << 16 | destination as u32)
        }
    }

    /// The source port, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u16 {
        if cfg!(target_endian = "little") {
            self.0 as u16
        } else {
            (self.0 >> 16) as u16
        }
    }

    /// The destination port, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u16 {
        if cfg!(target_endian = "little") {
            (self.0 >> 16) as u16
        } else {
            self.0 as u16
        }
    }
}

/// One direction's 5-tuple, in network byte order: what an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Both ports.
    pub ports: Ports,
    /// IP protocol number, 6 or 17, in host byte order.
    pub protocol: u32,
}

/// Key of an IPv4 flow, 16 bytes.
pub type FlowKeyV4 = FlowKey<u32>;
/// Key of an IPv6 flow, 40 bytes.
pub type FlowKeyV6 = FlowKey<[u32; 4]>;

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
plain_data!(FlowKeyV4, FlowKeyV6);

/// An entry: one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct ConntrackEntry<A: Address> {
    /// Source address of the packets as they come in, network byte order.
    pub source: A,
    /// Destination address of the packets as they come in, network byte order.
    pub destination: A,
    /// Both ports of the packets as they come in, network byte order.
    pub ports: Ports,
    /// A [`Word`].
    pub word: Word,
    /// Low 32 bits of the kernel's jiffies at the last packet of this direction, refreshed at most every
    /// [`REFRESH_JIFFIES`].
    pub last_seen: u32,
    /// Index of the real server in `REALS`.
    pub real: u16,
    /// What replaces the service's port (original) or the real server's (reply); of full NAT what replaces the client's port (original)
    /// or the reserved one (reply). Network byte order.
    pub port: u16,
    /// Its next hop; zero = it was not looked up. Not of IPv6 replies with full NAT, see [`ConntrackEntry::client`].
    pub next_hop: NextHopRef,
    /// Of an original entry of TCP: the number that [`next_number`](crate::tcp::next_number) keeps, host byte order.
    pub extra: u32,
    /// Zero but for IPv6 replies with full NAT, see [`ConntrackEntry::client`].
    pub spare: A::Spare,
}

/// [`WAYS`] entries. IPv4: one pair of cache lines, since the map begins at a page. No greater alignment is stated, for which LLVM
/// (22) has no copies on this target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Bucket<A: Address> {
    /// The entries.
    pub entries: [ConntrackEntry<A>; WAYS],
}

/// An IPv4 entry, 32 bytes.
pub type ConntrackEntryV4 = ConntrackEntry<u32>;
/// An IPv6 entry, 64 bytes.
pub type ConntrackEntryV6 = ConntrackEntry<[u32; 4]>;
/// An IPv4 bucket, 128 bytes.
pub type BucketV4 = Bucket<u32>;
/// An IPv6 bucket, 256 bytes.
pub type BucketV6 = Bucket<[u32; 4]>;

const _: () = assert!(size_of::<ConntrackEntryV4>() == 32);
const _: () = assert!(size_of::<ConntrackEntryV6>() == 64);
const _: () = assert!(size_of::<BucketV4>() == 128);
const _: () = assert!(size_of::<BucketV6>() == 256);
plain_data!(ConntrackEntryV4, ConntrackEntryV6, BucketV4, BucketV6);

impl<A: Address> ConntrackEntry<A> {
    /// What this entry, which has the word `word`, is found by.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, word: Word) -> FlowKey<A> {
        FlowKey {
            source: self.source,
            destination: self.destination,
            ports: self.ports,
            protocol: word.protocol(),
        }
    }

    /// What the connection's other entry is found by, `word` being this one's. `snat_address` is the address that stands in
    /// `SNAT_ADDRESSES` at the word's place; of no meaning without full NAT.
    #[inline(always)]
    #[must_use]
    pub fn other_key(&self, real: &RealServer, snat_address: A, word: Word) -> FlowKey<A> {
        let protocol = word.protocol();
        let (source, destination, ports) = match (word.is_original(), word.is_full_nat()) {
            (true, false) => (
                A::narrow(real.address),
                self.source,
                Ports::new(self.port, self.ports.source()),
            ),
            (true, true) => (
                A::narrow(real.address),
                snat_address,
                Ports::new(real.port_of(self.ports.destination()), self.port),
            ),
            (false, false) => (
                self.destination,
                A::narrow(real.vip),
                Ports::new(self.ports.destination(), self.port),
            ),
            (false, true) => (
                self.client(),
                A::narrow(real.vip),
                Ports::new(self.port, real.service_port_of(self.ports.source())),
            ),
        };
        FlowKey {
            source,
            destination,
            ports,
            protocol,
        }
    }

    /// Of a reply entry with full NAT: the client's address.
    #[inline(always)]
    #[must_use]
    pub fn client(&self) -> A {
        // SAFETY: the address's place is inside of the entry and aligned, see `client_place`; all of it is plain numbers.
        unsafe { core::ptr::read(Self::client_place((&raw const *self).cast_mut())) }
    }

    /// Where a reply entry with full NAT has the client's address: the last words that fit it.
    #[inline(always)]
    #[must_use]
    pub const fn client_place(entry: *mut Self) -> *mut A {
        const {
            let end = size_of::<Self>();
            assert!(
                size_of::<A>() == 4 && end - 4 == offset_of!(Self, extra)
                    || end - size_of::<A>() == offset_of!(Self, next_hop)
            );
        }
        // SAFETY: inside of the entry.
        unsafe {
            entry
                .cast::<u8>()
                .add(size_of::<Self>() - size_of::<A>())
                .cast()
        }
    }

    /// Whether an entry with this word remembers its next hop.
    #[inline(always)]
    #[must_use]
    pub const fn has_next_hop(word: Word) -> bool {
        size_of::<A>() == 4 || word.is_original() || !word.is_full_nat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{addr::Addr, direction, tcp::State};

    #[test]
    fn the_entries_of_a_connection_name_each_other() {
        let (client, vip, real) = (1_u32, 2, 3);
        let (client_port, port, real_port) = (40, 80, 8080);
        let row = RealServer {
            address: Addr::from_v4(real),
            vip: Addr::from_v4(vip),
            port: real_port,
            service_port: port,
            ..Default::default()
        };
        let word = |direction| Word::new(Word(0), State::SynSent as u8, direction, false);
        let original = ConntrackEntryV4 {
            source: client,
            destination: vip,
            ports: Ports::new(client_port, port),
            word: word(direction::ORIGINAL),
            port: real_port,
            ..Default::default()
        };
        let reply = ConntrackEntryV4 {
            source: real,
            destination: client,
            ports: Ports::new(real_port, client_port),
            word: word(direction::REPLY),
            port,
            ..Default::default()
        };
        assert_eq!(
            original.other_key(&row, 0, original.word),
            reply.key(reply.word)
        );
        assert_eq!(
            reply.other_key(&row, 0, reply.word),
            original.key(original.word)
        );
    }

    #[test]
    fn the_entries_of_a_connection_with_full_nat_name_each_other() {
        names::<u32>([1, 2, 3, 4]);
        let address = |last| [0xfd00, 7, 8, last];
        names::<[u32; 4]>([address(1), address(2), address(3), address(4)]);
    }

    /// With and without ports of their own, for client, VIP, real server and source address.
    fn names<A: Address + Default + core::fmt::Debug>([client, vip, real, source]: [A; 4]) {
        for (service_port, real_port) in [(80, 8080), (0, 0)] {
            let row = RealServer {
                address: real.widen(),
                vip: vip.widen(),
                port: real_port,
                service_port,
                ..Default::default()
            };
            let (client_port, source_port) = (40, 50_000);
            let port = row.service_port_of(443);
            let word = |direction| {
                Word::new(Word(0), State::SynSent as u8, direction, false).with_full_nat(5)
            };
            let original = ConntrackEntry::<A> {
                source: client,
                destination: vip,
                ports: Ports::new(client_port, port),
                word: word(direction::ORIGINAL),
                port: source_port,
                ..Default::default()
            };
            let mut reply = ConntrackEntry::<A> {
                source: real,
                destination: source,
                ports: Ports::new(row.port_of(port), source_port),
                word: word(direction::REPLY),
                port: client_port,
                ..Default::default()
            };
            // SAFETY: a place in a local.
            unsafe { ConntrackEntry::client_place(&raw mut reply).write(client) };
            assert_eq!(reply.client(), client);
            assert_eq!(
                (reply.last_seen, reply.real, reply.port),
                (0, 0, client_port)
            );
            assert_eq!(
                original.other_key(&row, source, original.word),
                reply.key(reply.word)
            );
            assert_eq!(
                reply.other_key(&row, source, reply.word),
                original.key(original.word)
            );
        }
    }
}

//! What the steps of a packet's slow path tell each other. Keys of IPv6 are too long for a BPF stack of 512 bytes, and what
//! lies on a caller's stack no subprogram may decide on (see CONTRIBUTING.md).

use aya_ebpf::maps::lpm_trie::Key;
use balancer_common::{
    addr::{Addr, Address},
    conntrack::{ConntrackEntry, FlowKey},
    filter::ClientKey,
    fragment::{Fragment, FragmentKey},
    load::Measure,
    next_hop::NextHop,
    persistence::{MemberKey, PersistenceEntry, PersistenceKey},
    scheduler::Ring,
    service::Service,
    tcp::Segment,
    verdict::Discard,
};

/// What only a packet without an entry is asked for, in host byte order.
///
/// Aligned to 8 bytes, in this order: LLVM may join neighbouring stores, since unaligned packet access is allowed, and
/// the verifier wants them aligned on the stack.
#[repr(C, align(8))]
pub struct Facts {
    /// TCP flags; 0 for UDP.
    pub flags: u32,
    /// Why the packet must not be forwarded even if it is ours. Traffic that is not ours passes all the same.
    pub fault: Option<Discard>,
}

/// No real server.
pub const NONE: u64 = u64::MAX;

/// What the scheduler's steps tell each other.
#[repr(C)]
pub struct Choice {
    /// The ids of the two least loaded real servers, or [`NONE`].
    pub least: [u64; 2],
    /// The real servers that are compared, the word of `RINGS` to begin with, counted from their first, and how they are compared.
    pub available: Ring,
    /// See above.
    pub first: u32,
    /// See above.
    pub measure: Measure,
    /// 1 where a real server was full.
    pub full: u32,
    /// 1 where nothing is to change: the choice is only asked for.
    pub is_trace: u32,
    /// The slot of the ring that was looked at last; all ones where it is one of those that take new connections.
    pub slot: u32,
    /// 1 where the client keeps its real server by a connection that is not complete yet.
    pub is_pending: u32,
}

/// A segment that may change its connection, and what it changes: in memory, for `track::transition`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Transition {
    /// The segment.
    pub segment: Segment,
    /// The original entry's `Word` before it, and after it.
    pub words: [u32; 2],
    /// The number that the connection waited for, and the one that it waits for then; see `tcp::next_number`.
    pub numbers: [u32; 2],
    /// 1 where it has shown that the client exists.
    pub is_complete: u32,
}

/// Where a packet's transport header is, and what is known of its fragmentation.
#[repr(C)]
pub struct Walk {
    /// Offset in bytes of the transport header from the frame's start.
    pub l4_offset: u32,
    /// IP protocol number of the transport header; 0 = there is none, as in later fragments.
    pub protocol: u32,
    /// One of `walk`'s numbers.
    pub fragment: u32,
}

/// What an ICMP error that answers a packet says beside its kind.
#[repr(C)]
pub struct IcmpAnswer<A: Address> {
    /// Its source: the address of the packet's service.
    pub source: A,
    /// Where the packet was too big: the MTU in bytes of its way out.
    pub mtu: u32,
}

/// The source of a new connection with full NAT.
#[repr(C)]
pub struct Source {
    /// 1 where the connection has full NAT. Its address and port are those of `reply_key`'s destination.
    pub is_full_nat: u32,
    /// The address's place in its family's part of `SNAT_ADDRESSES`.
    pub address: u32,
    /// Where all that were tried are taken: the one that gives way first, its `balancer_common::conntrack::rank` (0 = none does), its
    /// address's place, and its port in network byte order.
    pub oldest: [u32; 3],
}

/// What replaces the client in a packet to the real server, or the source of full NAT in one from there.
#[repr(C)]
pub struct Peer<A: Address> {
    /// The address.
    pub address: A,
    /// The port, network byte order.
    pub port: u32,
}

/// One CPU's scratch.
#[repr(C)]
pub struct Scratch<A: Address> {
    /// The packet's key.
    pub key: FlowKey<A>,
    /// What a packet without an entry is asked for.
    pub facts: Facts,
    /// The key under which answers to the packet would arrive.
    pub reply_key: FlowKey<A>,
    /// The key of a connection's other entry, which is being looked for.
    pub other_key: FlowKey<A>,
    /// The key under which the packet's source is looked up among this host's addresses. Its second field lies at an odd
    /// half of a whole word, where LLVM may write whole words, which the verifier refuses on a stack.
    pub host_key: Key<Addr>,
    /// The service of a packet that opens a connection.
    pub service: Service,
    /// What the client's entry in `PERSISTENCE` is found by.
    pub client_key: PersistenceKey,
    /// That entry, to be written.
    pub kept: PersistenceEntry,
    /// The server that the client keeps, and the service that it asks for.
    pub member: MemberKey,
    /// By which offer the real server was found, see `schedule`.
    pub offer: u32,
    /// What the scheduler's steps tell each other.
    pub choice: Choice,
    /// The hash of the client alone.
    pub client: u64,
    /// The hash of `key`.
    pub hash: u64,
    /// The hash of `reply_key`.
    pub reply_hash: u64,
    /// The place that was taken for a new connection's reply entry, see `table::Place`.
    pub reply_place: u64,
    /// When the connection is opened, jiffies.
    pub now: u32,
    /// 1 where an entry has a new connection's key, or its answers', whose connection is to end first.
    pub has_predecessor: u32,
    /// A new connection's `State`.
    pub state: u32,
    /// What a segment changes of its connection.
    pub transition: Transition,
    /// The real server chosen for a new connection: its id.
    pub real: u32,
    /// The real server's port for a new connection, network byte order.
    pub real_port: u32,
    /// Where the entry that was looked for last is, or the place that was taken for a new connection's original entry; see
    /// `table::Place`.
    pub place: u64,
    /// The best place to take from another connection, see `table::compare`.
    pub best: u64,
    /// The entry of a packet that is translated without one in the table.
    pub passing: ConntrackEntry<A>,
    /// Why no real server has taken a new connection so far: a `Discard`.
    pub reason: u32,
    /// Where the packet's transport header is. Not of packets that `balancer` takes the whole way.
    pub walk: Walk,
    /// What the packet's fragments have in common, if it is one.
    pub fragment_key: FragmentKey<A>,
    /// What is remembered of the first.
    pub fragment: Fragment,
    /// The ICMP error that answers the packet, where one does.
    pub icmp_answer: IcmpAnswer<A>,
    /// The way out that the kernel's FIB gave.
    pub hop: NextHop,
    /// The source of a new connection with full NAT.
    pub source: Source,
    /// Of a packet with full NAT: what its client's side becomes.
    pub peer: Peer<A>,
    /// What the service's filter knows of the client, see `filter`.
    pub screening: Screening,
}

/// What the steps of a service's filter tell each other.
#[repr(C)]
pub struct Screening {
    /// What the client's bucket holds, to be written.
    pub bucket: u64,
    /// What that is found by.
    pub bucket_key: ClientKey,
    /// What the client's rule is found by.
    pub rule_key: Key<ClientKey>,
    /// The id of the rule that the client falls under, or of the limit that refuses it; 0 = none.
    pub rule: u32,
}

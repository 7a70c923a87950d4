//! Every map of the packet program. The daemon sets some capacities at load.

use aya_ebpf::{
    helpers::bpf_jiffies64,
    macros::map,
    maps::{
        Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray,
        lpm_trie::Key,
    },
    programs::XdpContext,
};
use balancer_common::{
    addr::{Addr, Address},
    address_filter,
    conntrack::{BucketV4, BucketV6},
    failover::FailoverReal,
    filter::{self, ClientKey, MAX_RULE_IDS, MAX_RULES, RateLimit, Rule},
    fragment::{Fragment, FragmentKeyV4, FragmentKeyV6, MAX_FRAGMENTED},
    host_address::MAX_HOST_PREFIXES,
    load::{Ending, RealLoad},
    next_hop::{NEXT_HOPS as MAX_NEXT_HOPS, NextHop, RouteVersions},
    persistence::{MemberKey, PENDING_WORDS, PersistenceEntry, PersistenceKey, Stickiness},
    programs,
    real_server::{MAX_REALS, RealServer},
    redirect::RedirectError,
    scheduler::RING_WORDS,
    service::{MAX_SERVICE_DISCARDS, MAX_SERVICES, Service, ServiceKeyV4, ServiceKeyV6},
    settings::{Interface, Settings},
    snat::{self, MAX_SNAT_ADDRESSES},
    stats::RealStats,
    verdict::Discard,
};

use crate::{atomic, scratch::Scratch};

/// `BPF_F_MMAPABLE` (kernel commit fc9702273e2e): the daemon reads and writes the map as memory, and its values begin at
/// a page, so that a value of a cache line's size is one.
const MAPPED: u32 = 1 << 10;

/// `BPF_F_NO_PREALLOC`: the map takes memory for the values that it has.
const ON_DEMAND: u32 = 1;

/// What the daemon tells the program. One value.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The programs that others hand packets to, in the order of `programs::CALLED`. Pinned like all others: the kernel empties such a map
/// when nobody in user space holds it.
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(programs::CALLED.len() as u32, 0);

/// Configured interfaces by interface index; sized at load.
#[map]
pub static INTERFACES: Array<Interface> = Array::with_max_entries(1024, 0);

/// Interfaces that packets may be redirected to, by interface index.
#[map]
pub static DEVICES: DevMapHash = DevMapHash::with_max_entries(256, 0);

/// IPv4 services. A map of their own with an 8-byte key: traffic that is not ours pays for this look-up.
#[map]
pub static SERVICES_V4: HashMap<ServiceKeyV4, Service> = HashMap::with_max_entries(MAX_SERVICES, 0);

/// IPv6 services.
#[map]
pub static SERVICES_V6: HashMap<ServiceKeyV6, Service> = HashMap::with_max_entries(MAX_SERVICES, 0);

/// Addresses of VIPs and real servers, a bit each; see `balancer_common::address_filter`.
#[map]
static ADDRESSES: Array<u64> = Array::with_max_entries(address_filter::WORDS, 0);

/// This host's own addresses and the broadcast addresses of its networks; see `balancer_common::host_address`.
#[map]
static HOST_ADDRESSES: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(MAX_HOST_PREFIXES, 0);

/// A bit for each of them, as in `ADDRESSES`; all bits where a prefix is among them.
#[map]
static HOST_FILTER: Array<u64> = Array::with_max_entries(address_filter::WORDS, 0);

/// Real servers by real id. A line each.
#[map]
pub static REALS: Array<RealServer> = Array::with_max_entries(MAX_REALS, MAPPED);

/// Addresses, ports and protocols of the IPv4 real servers; port 0 where packets keep theirs.
#[map]
pub static REAL_PORTS_V4: HashMap<ServiceKeyV4, u32> = HashMap::with_max_entries(MAX_REALS, 0);

/// Addresses, ports and protocols of the IPv6 real servers.
#[map]
pub static REAL_PORTS_V6: HashMap<ServiceKeyV6, u32> = HashMap::with_max_entries(MAX_REALS, 0);

/// IPv4 real servers whose segments may belong to connections of another node, by address, port and protocol.
#[map]
pub static FAILOVER_REALS_V4: HashMap<ServiceKeyV4, FailoverReal> =
    HashMap::with_max_entries(MAX_REALS, ON_DEMAND);

/// IPv6 real servers whose segments may belong to connections of another node.
#[map]
pub static FAILOVER_REALS_V6: HashMap<ServiceKeyV6, FailoverReal> =
    HashMap::with_max_entries(MAX_REALS, ON_DEMAND);

/// Loads and limits of the real servers, by real id. One value: where many are compared, one look-up finds them all.
#[map]
static REAL_LOADS: Array<[RealLoad; MAX_REALS as usize]> = Array::with_max_entries(1, MAPPED);

/// The connection that the daemon is about to end. The daemon's own: it is here to be pinned with the rest. One value.
#[map]
static ENDING: Array<Ending> = Array::with_max_entries(1, MAPPED);

/// The services' rings, one after the other: four real ids a word, see `balancer_common::scheduler`.
#[map]
pub static RINGS: Array<u64> = Array::with_max_entries(RING_WORDS, MAPPED);

/// What services say of their clients' persistence, by service id.
#[map]
pub static STICKINESS: Array<Stickiness> = Array::with_max_entries(MAX_SERVICES, 0);

/// Real ids by service and server, for the services of a group.
#[map]
pub static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(MAX_REALS, 0);

/// Which real server each client keeps that has completed a handshake; sized at load. Where it is full the client that was not heard of for
/// longest goes.
#[map]
pub static PERSISTENCE: LruHashMap<PersistenceKey, PersistenceEntry> =
    LruHashMap::with_max_entries(65_536, 0);

/// The same of clients that have sent a datagram after an answer, which forged ones can do: a map of their own, so that they push nobody out
/// of the other one. Sized at load.
#[map]
pub static PERSISTENCE_UDP: LruHashMap<PersistenceKey, PersistenceEntry> =
    LruHashMap::with_max_entries(65_536, 0);

/// Which real server a client's first connection got, while that is not complete; see `balancer_common::persistence::Pending`.
#[map]
pub static PENDING: Array<u64> = Array::with_max_entries(PENDING_WORDS, 0);

/// The addresses of this host that sources of connections with full NAT may have: IPv4 ones, then as many IPv6 ones. Zero = none.
#[map]
static SNAT_ADDRESSES: Array<Addr> = Array::with_max_entries(2 * MAX_SNAT_ADDRESSES, MAPPED);

/// How many sources were drawn for connections with full NAT; see `balancer_common::snat`.
#[map]
static SNAT_COUNTERS: Array<u64> = Array::with_max_entries(snat::COUNTERS, 0);

/// What each service says of its clients, by service and prefix: see `balancer_common::filter`.
#[map]
pub static FILTER_RULES: LpmTrie<ClientKey, Rule> = LpmTrie::with_max_entries(MAX_RULES, 0);

/// Packets that rules have let in or refused, and those that limits have refused, by rule id. The daemon makes the places.
#[map]
pub static FILTER_COUNTS: PerCpuHashMap<u32, u64> =
    PerCpuHashMap::with_max_entries(MAX_RULE_IDS, ON_DEMAND);

/// How many connections the clients of each service may open, by service id.
#[map]
pub static RATE_LIMITS: Array<RateLimit> = Array::with_max_entries(MAX_SERVICES, 0);

/// The clients' token buckets. Where it is full the one that was asked for longest ago goes.
#[map]
pub static RATE_BUCKETS: LruHashMap<ClientKey, u64> =
    LruHashMap::with_max_entries(filter::RATE_BUCKETS, 0);

/// How many connections each service has scheduled, by service id.
#[map]
pub static TURNS: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);

/// IPv4 connections; sized at load. See `balancer_common::conntrack`.
#[map]
pub static CONNTRACK_V4: Array<BucketV4> = Array::with_max_entries(163_840, MAPPED);

/// IPv6 connections; sized at load.
#[map]
pub static CONNTRACK_V6: Array<BucketV6> = Array::with_max_entries(40_960, MAPPED);

/// Number of locks, a power of two.
pub const LOCK_COUNT: u32 = 1 << 14;

/// Held, one for many clients, while a client's connection is opened: 1, else 0.
#[map]
pub static LOCKS: Array<u32> = Array::with_max_entries(LOCK_COUNT, 0);

/// Next hops. See `balancer_common::next_hop`.
#[map]
pub static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(MAX_NEXT_HOPS, MAPPED);

/// Versions of the routes. One value.
#[map]
static ROUTE_VERSIONS: Array<RouteVersions> = Array::with_max_entries(1, MAPPED);

/// Counters by real id.
#[map]
pub static REAL_STATS: PerCpuArray<RealStats> = PerCpuArray::with_max_entries(MAX_REALS, 0);

/// Counters of real servers that are gone, by service id. The daemon's own: it is here to be pinned with the rest.
#[map]
static SERVICE_STATS: Array<RealStats> = Array::with_max_entries(MAX_SERVICES, 0);

/// What became of the first fragments of IPv4 datagrams whose connections are assured or confirmed.
#[map]
pub static FRAGMENTS_V4: LruHashMap<FragmentKeyV4, Fragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// What became of other IPv4 datagrams' first fragments.
#[map]
pub static UNPROVEN_FRAGMENTS_V4: LruHashMap<FragmentKeyV4, Fragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// What became of the first fragments of IPv6 datagrams whose connections are assured or confirmed.
#[map]
pub static FRAGMENTS_V6: LruHashMap<FragmentKeyV6, Fragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// What became of other IPv6 datagrams' first fragments.
#[map]
pub static UNPROVEN_FRAGMENTS_V6: LruHashMap<FragmentKeyV6, Fragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// What the steps of an IPv4 packet's slow path tell each other.
#[map]
pub static SCRATCH_V4: PerCpuArray<Scratch<u32>> = PerCpuArray::with_max_entries(1, 0);

/// What the steps of an IPv6 packet's slow path tell each other.
#[map]
pub static SCRATCH_V6: PerCpuArray<Scratch<[u32; 4]>> = PerCpuArray::with_max_entries(1, 0);

/// When each CPU's next answer would be due; see `balancer_common::answer`.
#[map]
pub static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Packets to each service that were dropped or answered in its stead, by service id and reason, see `Discard::of_service`. Packets make the
/// places.
#[map]
pub static SERVICE_DISCARDS: PerCpuHashMap<u32, u64> =
    PerCpuHashMap::with_max_entries(MAX_SERVICE_DISCARDS, 0);

/// Packets that left early, by reason.
#[map]
pub static DISCARDS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Discard::COUNT, 0);

/// Redirects that the kernel gave up. Not pinned: they are counted while a daemon runs.
#[map]
pub static REDIRECT_ERRORS: HashMap<RedirectError, u64> = HashMap::with_max_entries(4096, 0);

/// The kernel's id of `DEVICES`, which the daemon writes: failures of other maps' redirects are not ours. One value.
#[map]
static REDIRECT_MAP: Array<u32> = Array::with_max_entries(1, 0);

/// The map whose redirects are counted when they fail; 0 = none.
#[inline(always)]
pub fn watched_map() -> u32 {
    REDIRECT_MAP.get(0).copied().unwrap_or(0)
}

/// Goes on with the program at this place of `programs::CALLED`; returns only where the daemon has not put it there.
#[inline(always)]
pub fn call(ctx: &XdpContext, program: u32) {
    // SAFETY: the program takes the same context.
    unsafe { PROGRAMS.tail_call(ctx, program) };
}

/// The loads of all real servers.
#[inline(always)]
pub fn loads() -> Option<*mut RealLoad> {
    REAL_LOADS.get_ptr_mut(0).map(<*mut _>::cast)
}

/// That of one real server, of the loads of all.
#[inline(always)]
pub fn one_of(loads: *mut RealLoad, id: u32) -> *mut RealLoad {
    const { assert!(MAX_REALS.is_power_of_two()) };
    // SAFETY: the id is below their number.
    unsafe { loads.add((id & (MAX_REALS - 1)) as usize) }
}

/// The load of a real server.
#[inline(always)]
pub fn load_of(id: u32) -> Option<*mut RealLoad> {
    loads().map(|loads| one_of(loads, id))
}

/// The settings.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whether an address may be a VIP or a real server's; `false` is certain.
#[inline(always)]
pub fn may_be_ours<A: Address>(address: A) -> bool {
    has_bit(&ADDRESSES, address)
}

/// Whether an address may be this host's own or a broadcast address; `false` is certain.
#[inline(always)]
pub fn may_be_hosts<A: Address>(address: A) -> bool {
    has_bit(&HOST_FILTER, address)
}

#[inline(always)]
fn has_bit<A: Address>(filter: &Array<u64>, address: A) -> bool {
    let bit = address_filter::bit(address);
    match filter.get(bit.word) {
        Some(word) => word & bit.mask != 0,
        None => false,
    }
}

/// Whether an address is this host's own or a broadcast address. It is looked up by the scratch.
#[inline(always)]
pub fn is_hosts<A: Address>(scratch: &mut Scratch<A>, address: A) -> bool {
    if !may_be_hosts(address) {
        return false;
    }
    scratch.host_key = Key::new(128, address.widen());
    is_host_key(scratch) != 0
}

/// Whether the scratch's `host_key` is among this host's addresses: 1 or 0. A number, since LLVM leaves half of a returned
/// `bool`'s word undefined.
#[inline(never)]
fn is_host_key<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    u64::from(HOST_ADDRESSES.get(&scratch.host_key).is_some())
}

/// The address at a place of one family's part of `SNAT_ADDRESSES`.
#[inline(always)]
pub fn snat_address<A: Address>(place: u32) -> Option<&'static Addr> {
    SNAT_ADDRESSES.get(snat::index::<A>(place))
}

/// The next number of the draws that real servers with this hash have in common.
#[inline(always)]
pub fn draw_source(hash: u32) -> u64 {
    match SNAT_COUNTERS.get_ptr_mut(hash & (snat::COUNTERS - 1)) {
        Some(counter) => atomic::fetch_add(counter, 1),
        None => 0,
    }
}

/// The versions of the routes.
#[inline(always)]
pub fn route_versions() -> Option<&'static RouteVersions> {
    ROUTE_VERSIONS.get(0)
}

/// The clock of all timeouts: the low 32 bits of jiffies.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper only reads a counter.
    unsafe { bpf_jiffies64() as u32 }
}

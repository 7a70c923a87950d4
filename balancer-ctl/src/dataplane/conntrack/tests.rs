//! Tables in plain memory, written as the packet program writes them.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use balancer_common::{
    addr::Addr,
    conntrack::{ConntrackEntry, FREE, FlowKey, Ports, TimeoutSettings, Word, direction},
    flow_hash::{Seed, buckets_for},
    real_server::state,
};

use super::*;
use crate::{
    dataplane::{
        Connection, ConnectionFilter, clock::Tick, list::Lister, sweep::Sweep, table::EntrySlot,
    },
    model::{Protocol, ServiceKey},
};

const SEED: Seed = Seed {
    ports: [0x1357_9bdf, 0x2468_ace0],
    addresses: [
        0x0fed_cba9,
        0x8765_4321,
        0x1111_2222,
        0x3333_4444,
        0x5555_6666,
        0x7777_8888,
        0x9999_aaaa,
        0xbbbb_cccc,
    ],
};

const TIMEOUTS: TimeoutSettings = TimeoutSettings {
    established: 90_000,
    closing: 12_000,
    udp: 30_000,
    udp_unreplied: 3_000,
    half_open: 6_000,
};

/// The present time in jiffies.
const JIFFIES: u32 = 1_000_000;

fn at(jiffies: u32) -> ExpiryClock {
    ExpiryClock {
        jiffies,
        timeouts: Timeouts::new(&TIMEOUTS),
    }
}

const REALS: u32 = 16;
const REAL_PORT: u16 = 8080;

fn vip<A: Address>() -> A {
    A::narrow(addr("192.0.2.80", "2001:db8::80", size_of::<A>()))
}

fn addr(v4: &str, v6: &str, size: usize) -> Addr {
    let text = if size == 4 { v4 } else { v6 };
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// The address of a real id: even ones are of IPv4.
fn real_address(id: u32) -> Addr {
    let text = if id.is_multiple_of(2) {
        format!("10.0.0.{id}")
    } else {
        format!("fd00::{id:x}")
    };
    Addr::from(text.parse::<IpAddr>().unwrap())
}

fn tables(connections: u32) -> Conntrack {
    let reals = MappedMemory::<RealServer>::anonymous(REALS).unwrap();
    for id in 0..REALS {
        let address = real_address(id);
        let vip = if address.is_v4() {
            vip::<u32>().widen()
        } else {
            vip::<[u32; 4]>().widen()
        };
        let row = RealServer {
            address,
            vip,
            port: REAL_PORT.to_be(),
            state: state::TAKES_NEW,
            ..RealServer::default()
        };
        // SAFETY: the memory is this function's alone.
        unsafe { reals.pointer(id as usize).unwrap().write(row) };
    }
    let buckets = buckets_for(connections);
    Conntrack {
        v4: EntryTable::new(MappedMemory::anonymous(buckets).unwrap(), SEED),
        v6: EntryTable::new(MappedMemory::anonymous(buckets).unwrap(), SEED),
        reals,
    }
}

/// A connection that a test opens.
#[derive(Clone, Copy, Debug)]
struct Flow<A> {
    client: A,
    port: u16,
    real: u16,
    state: State,
    /// How long each direction has been idle, in jiffies.
    idle: [u32; 2],
}

impl<A: Address> Flow<A> {
    const fn is_udp(&self) -> bool {
        matches!(
            self.state,
            State::Udp | State::UdpUnreplied | State::UdpUnconfirmed
        )
    }

    fn keys(&self) -> [FlowKey<A>; 2] {
        let protocol = if self.is_udp() { 17 } else { 6 };
        let client = self.port.to_be();
        [
            FlowKey {
                source: self.client,
                destination: vip(),
                ports: Ports::new(client, 80_u16.to_be()),
                protocol,
            },
            FlowKey {
                source: A::narrow(real_address(u32::from(self.real))),
                destination: self.client,
                ports: Ports::new(REAL_PORT.to_be(), client),
                protocol,
            },
        ]
    }
}

/// Takes a free slot for a key.
fn take<'a, A: Address>(table: &'a EntryTable<A>, key: &FlowKey<A>) -> Option<EntrySlot<'a, A>>
where
    Bucket<A>: Pod,
{
    table.candidate_slots(key).find(|slot| {
        let word = slot.word();
        word.state() == FREE && slot.compare_exchange(word, word.taken())
    })
}

/// Writes an entry into a slot that was taken, and lets packets use it.
fn publish<A: Address + Default>(slot: EntrySlot<'_, A>, flow: &Flow<A>, direction: u8, extra: u32)
where
    Bucket<A>: Pod,
{
    let key = flow.keys()[usize::from(direction)];
    let port = if direction == direction::ORIGINAL {
        REAL_PORT
    } else {
        80
    };
    slot.write(&ConntrackEntry {
        source: key.source,
        destination: key.destination,
        ports: key.ports,
        last_seen: JIFFIES - flow.idle[usize::from(direction)],
        real: flow.real,
        port: port.to_be(),
        extra,
        ..ConntrackEntry::default()
    });
    let taken = slot.word();
    let word = Word::new(taken, flow.state as u8, direction, flow.is_udp());
    assert!(
        slot.compare_exchange(taken, word),
        "no one else changes a taken slot"
    );
}

fn open<A: Address + Default>(table: &EntryTable<A>, flow: &Flow<A>)
where
    Bucket<A>: Pod,
{
    for direction in [direction::REPLY, direction::ORIGINAL] {
        let key = flow.keys()[usize::from(direction)];
        publish(take(table, &key).unwrap(), flow, direction, 0);
    }
}

fn found<'a, A: Address>(table: &'a EntryTable<A>, key: &FlowKey<A>) -> Option<EntrySnapshot<'a, A>>
where
    Bucket<A>: Pod,
{
    table.candidate_slots(key).find_map(|slot| {
        let found = slot.read()?;
        (found.entry.key(found.entry.word) == *key).then_some(found)
    })
}

/// Which directions of a flow have entries.
fn entries<A: Address>(table: &EntryTable<A>, flow: &Flow<A>) -> [bool; 2]
where
    Bucket<A>: Pod,
{
    flow.keys().map(|key| found(table, &key).is_some())
}

fn v4(client: u8, state: State, idle: [u32; 2]) -> Flow<u32> {
    Flow {
        client: u32::from_ne_bytes([198, 51, 100, client]),
        port: 40_000,
        real: 2,
        state,
        idle,
    }
}

/// A pass over all buckets at once.
fn sweep(conntrack: &Conntrack) -> SweepResult {
    let mut result = SweepResult::empty(REALS as usize);
    conntrack.sweep(&conntrack.v4, 0, 0..usize::MAX, &at(JIFFIES), &mut result);
    conntrack.sweep(&conntrack.v6, 1, 0..usize::MAX, &at(JIFFIES), &mut result);
    result
}

#[test]
fn a_connection_ends_when_both_directions_were_silent_for_longer_than_its_state_allows() {
    const LONG: u32 = TIMEOUTS.established + EXPIRY_SLACK;
    for (state, idle, stays) in [
        (State::Established, [LONG, LONG], true),
        (State::Established, [LONG + 1, LONG], true),
        (State::Established, [LONG, LONG + 1], true),
        (State::Established, [LONG + 1, LONG + 1], false),
        (State::SynSent, [TIMEOUTS.half_open + EXPIRY_SLACK; 2], true),
        (
            State::SynSent,
            [TIMEOUTS.half_open + EXPIRY_SLACK + 1; 2],
            false,
        ),
        (
            State::SynReceived,
            [TIMEOUTS.half_open + EXPIRY_SLACK + 1; 2],
            false,
        ),
        (
            State::FinReply,
            [TIMEOUTS.closing + EXPIRY_SLACK + 1; 2],
            false,
        ),
        (State::Closed, [TIMEOUTS.closing + EXPIRY_SLACK; 2], true),
        (
            State::ClosedOriginal,
            [TIMEOUTS.closing + EXPIRY_SLACK + 1; 2],
            false,
        ),
        (State::Udp, [TIMEOUTS.udp + EXPIRY_SLACK; 2], true),
        (State::Udp, [TIMEOUTS.udp + EXPIRY_SLACK + 1; 2], false),
        (
            State::UdpUnreplied,
            [TIMEOUTS.udp_unreplied + EXPIRY_SLACK + 1, 0],
            true,
        ),
        (
            State::UdpUnreplied,
            [TIMEOUTS.udp_unreplied + EXPIRY_SLACK + 1; 2],
            false,
        ),
    ] {
        let conntrack = tables(8);
        let flow = v4(1, state, idle);
        open(&conntrack.v4, &flow);
        let result = sweep(&conntrack);
        assert_eq!(
            entries(&conntrack.v4, &flow),
            [stays; 2],
            "{state:?} {idle:?}"
        );
        let active = u64::from(stays && state == State::Established);
        let inactive = u64::from(stays) - active;
        assert_eq!(result.counts.families, [u64::from(stays), 0]);
        assert_eq!(result.counts.reals[2], [active, inactive]);
        assert_eq!(result.referenced[2], stays);
        assert_eq!(result.expired, u64::from(!stays));
        assert_eq!(conntrack.count(), result.counts);
    }
}

#[test]
fn the_reply_entrys_own_state_does_not_matter() {
    let conntrack = tables(8);
    let idle = [TIMEOUTS.closing + EXPIRY_SLACK + 1; 2];
    let flow = v4(1, State::Closing, idle);
    open(&conntrack.v4, &flow);
    let reply = found(&conntrack.v4, &flow.keys()[1]).unwrap();
    let established = reply.entry.word.with_state(State::Established as u8);
    assert!(reply.slot.compare_exchange(reply.entry.word, established));
    assert_eq!(sweep(&conntrack).expired, 1);
    assert_eq!(entries(&conntrack.v4, &flow), [false; 2]);
    // And the reverse.
    let flow = v4(1, State::Established, idle);
    open(&conntrack.v4, &flow);
    let reply = found(&conntrack.v4, &flow.keys()[1]).unwrap();
    let opening = reply.entry.word.with_state(State::SynSent as u8);
    assert!(reply.slot.compare_exchange(reply.entry.word, opening));
    assert_eq!(sweep(&conntrack).expired, 0);
    assert_eq!(entries(&conntrack.v4, &flow), [true; 2]);
}

#[test]
fn an_entry_that_is_alone_goes_when_it_is_silent_and_not_before() {
    let idle = TIMEOUTS.established + EXPIRY_SLACK + 1;
    for alone in [direction::ORIGINAL, direction::REPLY] {
        for silent in [false, true] {
            let conntrack = tables(8);
            let flow = v4(1, State::Established, [if silent { idle } else { 0 }; 2]);
            open(&conntrack.v4, &flow);
            let other = usize::from(1 - alone);
            assert!(found(&conntrack.v4, &flow.keys()[other]).unwrap().free());
            let result = sweep(&conntrack);
            let mut expected = [false; 2];
            expected[usize::from(alone)] = !silent;
            assert_eq!(entries(&conntrack.v4, &flow), expected);
            assert_eq!(
                result.referenced[2], !silent,
                "its real id is in use as long as it is"
            );
            let is_original = alone == direction::ORIGINAL;
            assert_eq!(
                result.counts.families,
                [u64::from(!silent && is_original), 0]
            );
            assert_eq!(result.expired, u64::from(silent && is_original));
        }
    }
}

#[test]
fn a_sweep_finds_removed_real_servers_that_no_entry_refers_to() {
    let conntrack = tables(5_000);
    let of = |real, idle| Flow {
        real,
        ..v4(real as u8, State::Established, [idle; 2])
    };
    open(&conntrack.v4, &of(2, 0));
    open(
        &conntrack.v4,
        &of(4, TIMEOUTS.established + EXPIRY_SLACK + 1),
    );
    let v6 = Flow {
        client: [1, 2, 3, 4],
        port: 1,
        real: 7,
        state: State::SynSent,
        idle: [0; 2],
    };
    open(&conntrack.v6, &v6);
    let mut sweep = Sweep::start([2, 4, 6, 7].into(), REALS as usize);
    let outcome = std::iter::repeat_with(|| sweep.step(&conntrack, &at(JIFFIES))).find_map(|it| it);
    let outcome = outcome.unwrap();
    assert_eq!(
        BTreeSet::from_iter(outcome.unreferenced),
        BTreeSet::from([4, 6])
    );
    assert_eq!(outcome.counts, conntrack.count());
    assert_eq!(outcome.counts.families, [1, 1]);
    assert_eq!(outcome.counts.reals[7], [0, 1]);
}

fn service(text: &str, protocol: Protocol) -> ServiceKey {
    ServiceKey {
        protocol,
        address: text.parse().unwrap(),
    }
}

#[test]
fn a_purge_ends_the_connections_of_one_real_server_of_one_service() {
    let conntrack = tables(64);
    let flows: Vec<_> = (1..=8)
        .map(|client| Flow {
            real: 2 * u16::from(client % 3),
            ..v4(client, State::ALL[usize::from(client)], [0; 2])
        })
        .collect();
    flows.iter().for_each(|flow| open(&conntrack.v4, flow));
    let purge = |service: ServiceKey, real: &str| {
        let real: SocketAddr = real.parse().unwrap();
        let reals = &conntrack.reals;
        let v4 = EntryFilter::for_real(&service, real, reals);
        let v6 = EntryFilter::for_real(&service, real, reals);
        conntrack.purge(v4.as_ref(), v6.as_ref())
    };
    let tcp = service("192.0.2.80:80", Protocol::Tcp);
    assert_eq!(purge(tcp, "10.0.0.2:8081"), 0);
    assert_eq!(
        purge(service("192.0.2.80:81", Protocol::Tcp), "10.0.0.2:8080"),
        0
    );
    assert_eq!(
        purge(service("[2001:db8::80]:80", Protocol::Tcp), "10.0.0.2:8080"),
        0
    );
    // Of the clients 1, 4 and 7, the last one speaks UDP.
    assert_eq!(purge(tcp, "10.0.0.2:8080"), 2);
    let stays = |flow: &Flow<u32>| flow.real != 2 || flow.is_udp();
    for flow in &flows {
        assert_eq!(entries(&conntrack.v4, flow), [stays(flow); 2], "{flow:?}");
    }
    assert_eq!(
        purge(service("192.0.2.80:0", Protocol::Udp), "10.0.0.2:8080"),
        1
    );
    assert_eq!(conntrack.count().families, [5, 0]);
}

fn list(conntrack: &Arc<Conntrack>, filter: ConnectionFilter) -> Vec<Connection> {
    let lister = Lister {
        conntrack: Arc::clone(conntrack),
        filter,
        tick: Tick::with_hz(100),
        now: at(JIFFIES),
    };
    let mut all = Vec::new();
    lister.each(&mut |connection| {
        all.push(connection);
        ControlFlow::Continue(())
    });
    all
}

#[test]
fn connections_are_listed_as_filters_ask() {
    let conntrack = tables(64);
    open(&conntrack.v4, &v4(1, State::Established, [500, 100]));
    open(&conntrack.v4, &v4(2, State::Closed, [100, 500]));
    open(&conntrack.v4, &v4(3, State::ClosedOriginal, [0, 0]));
    let other = Flow {
        real: 4,
        ..v4(4, State::Udp, [0, 0])
    };
    open(&conntrack.v4, &other);
    // Expired, though its slot is not reused yet.
    open(
        &conntrack.v4,
        &v4(5, State::Closed, [TIMEOUTS.closing + 1; 2]),
    );
    let v6 = Flow {
        client: addr("", "2001:db8:1::7", 16).0,
        port: 40_000,
        real: 3,
        state: State::Established,
        idle: [0; 2],
    };
    open(&conntrack.v6, &v6);
    let conntrack = Arc::new(conntrack);
    let all = ConnectionFilter::default();
    let mut listed = list(&conntrack, all.clone());
    listed.sort_by_key(|connection| connection.client);
    let expected = |client: &str, protocol, state, real: &str, expires_in: u64| {
        let client: SocketAddr = client.parse().unwrap();
        let vip = if client.is_ipv4() {
            "192.0.2.80:80"
        } else {
            "[2001:db8::80]:80"
        };
        Connection {
            virtual_address: service(vip, protocol),
            client,
            real: real.parse().unwrap(),
            state,
            expires_in: Duration::from_millis(10 * expires_in),
        }
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let a = "10.0.0.2:8080";
    let expected = [
        expected("198.51.100.1:40000", tcp, State::Established, a, 89_900),
        expected("198.51.100.2:40000", tcp, State::Closed, a, 11_900),
        expected("198.51.100.3:40000", tcp, State::ClosedOriginal, a, 12_000),
        expected(
            "198.51.100.4:40000",
            udp,
            State::Udp,
            "10.0.0.4:8080",
            30_000,
        ),
        expected(
            "[2001:db8:1::7]:40000",
            tcp,
            State::Established,
            "[fd00::3]:8080",
            90_000,
        ),
    ];
    assert_eq!(listed, expected);

    let client = |text: &str, port| ConnectionFilter {
        client: Some((text.parse().unwrap(), port)),
        ..all.clone()
    };
    let real = |text: &str, port| ConnectionFilter {
        real: Some((text.parse().unwrap(), port)),
        ..all.clone()
    };
    let of = |text: &str, protocol| ConnectionFilter {
        service: Some(service(text, protocol)),
        ..all.clone()
    };
    let state = |state| ConnectionFilter {
        state: Some(state),
        ..all.clone()
    };
    for (filter, indices) in [
        (client("198.51.100.2", None), &[1][..]),
        (client("198.51.100.2", Some(40_000)), &[1]),
        (client("198.51.100.2", Some(1)), &[]),
        (client("198.51.100.9", None), &[]),
        (client("2001:db8:1::7", None), &[4]),
        (real("10.0.0.2", None), &[0, 1, 2]),
        (real("10.0.0.2", Some(8080)), &[0, 1, 2]),
        (real("10.0.0.2", Some(80)), &[]),
        (real("fd00::3", None), &[4]),
        (real("198.51.100.2", None), &[]),
        (of("192.0.2.80:80", tcp), &[0, 1, 2]),
        (of("192.0.2.80:0", tcp), &[0, 1, 2]),
        (of("192.0.2.80:80", udp), &[3]),
        (of("192.0.2.80:81", tcp), &[]),
        (of("[2001:db8::80]:80", tcp), &[4]),
        (state(State::Closed), &[1]),
        (state(State::ClosedOriginal), &[2]),
        (state(State::Established), &[0, 4]),
        (state(State::SynSent), &[]),
        (
            ConnectionFilter {
                state: Some(State::Closed),
                ..client("198.51.100.1", None)
            },
            &[],
        ),
    ] {
        let mut listed = list(&conntrack, filter.clone());
        listed.sort_by_key(|connection| connection.client);
        let wanted: Vec<_> = indices.iter().map(|slot| expected[*slot]).collect();
        assert_eq!(listed, wanted, "{filter:?}");
    }
    for (limit, count) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5)] {
        let filter = ConnectionFilter {
            limit: Some(limit),
            ..all.clone()
        };
        assert_eq!(list(&conntrack, filter).len(), count);
    }
}

/// Plays the packet program on one table: opens connections, ends them, and opens others with the same addresses and
/// ports in the same slots.
struct Program<'a> {
    table: &'a EntryTable<u32>,
    random: Cell<u64>,
}

impl Program<'_> {
    fn random(&self, below: u32) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random.set(next);
        ((next >> 33) as u32) % below
    }

    /// Takes the slot of a spent entry with this key, or a free one.
    fn take(&self, key: &FlowKey<u32>) -> EntrySlot<'_, u32> {
        loop {
            if let Some(old) = found(self.table, key) {
                let word = old.slot.word();
                if word.is_same_entry(old.entry.word)
                    && word.is_used()
                    && old.slot.compare_exchange(word, word.taken())
                {
                    return old.slot;
                }
            } else if let Some(slot) = take(self.table, key) {
                return slot;
            }
        }
    }

    /// Opens the connection `number`, replacing what is left of an earlier one with the same keys.
    fn open(&self, flow: &Flow<u32>, number: u32) {
        let [key, reply_key] = flow.keys();
        // The original entry's word first, as the rules demand; only the winner goes on to the reply's.
        if let Some(old) = found(self.table, &key)
            && old
                .slot
                .compare_exchange(old.entry.word, old.entry.word.freed())
            && let Some(reply) = found(self.table, &reply_key)
        {
            reply.free();
        }
        let reply = self.take(&reply_key);
        let original = self.take(&key);
        publish(reply, flow, direction::REPLY, number);
        publish(original, flow, direction::ORIGINAL, number);
    }

    /// Whether both entries of the connection `number` exist.
    fn lives(&self, flow: &Flow<u32>, number: u32) -> bool {
        flow.keys()
            .iter()
            .all(|key| found(self.table, key).is_some_and(|found| found.entry.extra == number))
    }

    /// Makes the connection expire.
    fn forget(&self, flow: &Flow<u32>) {
        for key in flow.keys().iter().rev() {
            if let Some(found) = found(self.table, key) {
                found.slot.set_last_seen(JIFFIES - 2 * TIMEOUTS.established);
            }
        }
    }

    /// Brings the connection to another state.
    fn advance(&self, flow: &Flow<u32>, state: State) {
        for key in flow.keys() {
            if let Some(found) = found(self.table, &key) {
                let word = found.entry.word;
                found
                    .slot
                    .compare_exchange(word, word.with_state(state as u8));
            }
        }
    }
}

#[test]
fn no_living_connection_is_lost_while_the_daemon_ends_others_in_the_same_places() {
    const FLOWS: usize = 24;
    const ROUNDS: u32 = 2_000_000;
    // More than there are CPUs, so that they are interrupted everywhere in their work.
    const DAEMONS: usize = 6;
    // Room for all, so that no connection is displaced.
    let conntrack = tables(4 * FLOWS as u32);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let daemon = || {
            let (mut expired, mut purged) = (0, 0);
            // The connections of real server 4 are purged all the time.
            let service = service("192.0.2.80:80", Protocol::Tcp);
            let real = "10.0.0.4:8080".parse().unwrap();
            let wanted = EntryFilter::for_real(&service, real, &conntrack.reals).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                expired += sweep(&conntrack).expired;
                purged += conntrack.purge(Some(&wanted), None);
            }
            [expired, purged]
        };
        let daemons: [_; DAEMONS] = std::array::from_fn(|_| threads.spawn(daemon));
        let program = Program {
            table: &conntrack.v4,
            random: Cell::new(1),
        };
        let flows: [Flow<u32>; FLOWS] = std::array::from_fn(|index| Flow {
            real: if index % 6 == 0 { 4 } else { 2 },
            ..v4(index as u8, State::Established, [0; 2])
        });
        // Stops the daemons also when a round fails.
        let end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        let opened = rounds(&program, &flows, ROUNDS);
        drop(end);
        let ended = daemons.map(|daemon| daemon.join().unwrap());
        let ended = ended
            .into_iter()
            .fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        assert!(opened > ROUNDS / 10, "{opened}");
        assert!(
            ended.iter().all(|ended| *ended > 1_000),
            "the daemon was at it: {ended:?}"
        );
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Opens, uses and expires connections. Returns how many were opened.
fn rounds(program: &Program<'_>, flows: &[Flow<u32>], rounds: u32) -> u32 {
    // The number of each flow's connection, while it exists.
    let mut living = vec![None; flows.len()];
    let mut opened = 0;
    for round in 0..rounds {
        let index = program.random(flows.len() as u32) as usize;
        let flow = &flows[index];
        match living[index] {
            None => {
                program.open(flow, round);
                opened += 1;
                living[index] = Some(round);
            }
            // It may be purged at any time, and then nothing of it is left.
            Some(_) if flow.real == 4 => {
                if program.random(4) == 0 {
                    living[index] = None;
                } else {
                    program.advance(flow, State::FinReply);
                }
            }
            Some(number) => {
                assert!(
                    program.lives(flow, number),
                    "round {round}: {flow:?} is lost"
                );
                match program.random(4) {
                    0 => {
                        program.forget(flow);
                        living[index] = None;
                    }
                    1 => program.advance(flow, State::Established),
                    _ => {}
                }
            }
        }
    }
    opened
}

/// How long a million connections take: `cargo test --release -p balancer-ctl --lib -- --ignored --nocapture a_million`.
#[test]
#[ignore = "a measurement"]
fn a_million_connections() {
    const COUNT: u32 = 1 << 20;
    let conntrack = tables(COUNT);
    let flow = |number: u32, idle| Flow {
        client: (0xc612_0000 + number / 50_000).to_be(),
        port: 10_000 + (number % 50_000) as u16,
        real: 2,
        state: State::Established,
        idle: [idle; 2],
    };
    let mut refused = 0;
    for number in 0..COUNT {
        let flow = flow(number, 100);
        let [original, reply] = flow.keys();
        if let (Some(a), Some(b)) = (take(&conntrack.v4, &original), take(&conntrack.v4, &reply)) {
            publish(b, &flow, direction::REPLY, 0);
            publish(a, &flow, direction::ORIGINAL, 0);
        } else {
            refused += 1;
        }
    }
    println!("{refused} of {COUNT} were refused");
    let conntrack = Arc::new(conntrack);
    let timed = |what: &str, f: &mut dyn FnMut() -> u64| {
        let start = Instant::now();
        let result = f();
        println!("{what}: {:?} ({result})", start.elapsed());
    };
    for _ in 0..3 {
        timed("count", &mut || conntrack.count().families[0]);
        timed("a pass over connections that live", &mut || {
            let mut sweep = Sweep::start([].into(), REALS as usize);
            let mut steps = 1;
            while sweep.step(&conntrack, &at(JIFFIES)).is_none() {
                steps += 1;
            }
            steps
        });
        timed("a list without a match", &mut || {
            let filter = ConnectionFilter {
                client: Some(("203.0.113.1".parse().unwrap(), None)),
                ..ConnectionFilter::default()
            };
            list(&conntrack, filter).len() as u64
        });
        timed("a list of all", &mut || {
            list(&conntrack, ConnectionFilter::default()).len() as u64
        });
    }
    let late = at(JIFFIES + 2 * TIMEOUTS.established);
    timed("a pass that ends all", &mut || {
        let mut sweep = Sweep::start([].into(), REALS as usize);
        let (mut steps, mut longest) = (1, Duration::ZERO);
        loop {
            let start = Instant::now();
            let is_over = sweep.step(&conntrack, &late).is_some();
            longest = longest.max(start.elapsed());
            if is_over {
                break;
            }
            steps += 1;
        }
        println!("the longest step took {longest:?}");
        steps
    });
    assert_eq!(conntrack.count().families, [0, 0]);
}

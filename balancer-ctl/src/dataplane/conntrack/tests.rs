//! Tables in plain memory, written as the packet program writes them.

mod concurrency;
mod list;
mod running;

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
};

use balancer_common::{
    addr::Addr,
    conntrack::{ConntrackEntry, FREE, FlowKey, Ports, TimeoutSettings, Word},
    direction,
    flow_hash::{Seed, buckets_for},
    real_server::state,
    snat::MAX_SNAT_ADDRESSES,
    tcp::State,
};

use super::*;
use crate::{
    dataplane::{sweep::Sweep, table::EntrySlot},
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
        snat_addresses: MappedMemory::anonymous(2 * MAX_SNAT_ADDRESSES).unwrap(),
        loads: Loads::anonymous(REALS),
        ends: Mutex::new(()),
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
    let mut result = SweepResult::empty(REALS as usize, HashMap::new());
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
        conntrack.loads.count(2, FREE, state as u8);
        let result = sweep(&conntrack);
        assert_eq!(
            entries(&conntrack.v4, &flow),
            [stays; 2],
            "{state:?} {idle:?}"
        );
        let active = u64::from(stays && state == State::Established);
        let inactive = u64::from(stays && state != State::Closed) - active;
        assert_eq!(result.counts.families, [u64::from(stays), 0]);
        assert_eq!(conntrack.loads.counts(2), [active, inactive]);
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
    let mut sweep = Sweep::start([2, 4, 6, 7].into(), REALS as usize, HashMap::new());
    let mut step = || {
        let renew = |clients: &[_]| {
            assert_eq!(clients, [], "no service is persistent");
            Ok(())
        };
        sweep.step(&conntrack, &at(JIFFIES), renew)
    };
    let outcome = std::iter::repeat_with(&mut step).find_map(|it| it).unwrap();
    assert_eq!(
        BTreeSet::from_iter(outcome.unreferenced),
        BTreeSet::from([4, 6])
    );
    assert_eq!(outcome.counts, conntrack.count());
    assert_eq!(outcome.counts.families, [1, 1]);
}

#[test]
fn a_daemon_that_was_killed_while_it_ended_a_connection_leaves_no_count_wrong() {
    // Killed before and after each of the two changes of the word.
    for killed_at in 0..4 {
        let conntrack = tables(8);
        let flow = v4(1, State::Established, [0; 2]);
        open(&conntrack.v4, &flow);
        conntrack.loads.count(2, FREE, flow.state as u8);
        let [key, _] = flow.keys();
        let original = found(&conntrack.v4, &key).unwrap();
        let (slot, word) = (original.slot, original.entry.word);
        let place = [0, conntrack.v4.number(slot)];
        assert_eq!(conntrack.v4.slot(place[1]).unwrap().word(), word);
        let step = Cell::new(0);
        let die = || {
            let now = step.replace(step.get() + 1);
            assert_ne!(now, killed_at, "killed");
        };
        let end = || {
            conntrack.loads.end(place, word, 2, |old, new| {
                die();
                let is_mine = slot.compare_exchange(old, new);
                die();
                is_mine
            })
        };
        std::panic::catch_unwind(AssertUnwindSafe(end)).unwrap_err();
        conntrack.finish_ending();
        let stays = killed_at == 0;
        assert_eq!(
            conntrack.loads.counts(2),
            [u64::from(stays), 0],
            "{killed_at}"
        );
        assert_eq!(slot.word().is_used(), stays);
        assert_eq!(slot.word().state() == FREE, !stays);
        conntrack.finish_ending();
        assert_eq!(
            conntrack.loads.counts(2),
            [u64::from(stays), 0],
            "once is enough"
        );
    }
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

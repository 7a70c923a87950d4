//! How many connections each real server has: exact, whatever happens to them. The harness compares the counts with the tables after each
//! test, and after each step; here are the ways on which a connection's count may change.

use std::net::IpAddr;

use balancer_common::real_server::state;
use balancer_tests::{
    addresses::{R, R2, R6, R26, V, V6},
    cpus::{Frames, Pace},
    dataplane::{
        Dataplane, Options, Side,
        Side::{Inside, Outside},
        TIMEOUTS, run, run_with,
    },
    emulated::rounds,
    packet::{
        Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};

use crate::{establish, syn, syn_ack, two_reals, two_reals6};

/// A packet of the connection that [`syn`] opens: who sends it, its flags and numbers, and what its real server counts then.
type Step = (Side, u8, [u32; 2], [u32; 2]);

/// Takes connections of both families along these steps.
#[track_caller]
fn follow(steps: &[Step]) {
    run(|lb| {
        let web = lb.web();
        for (first, real, address) in [(syn(), web.real, R), (syn().v6(), web.real6, R6)] {
            for (at, (side, flags, [sequence, acknowledgement], counts)) in steps.iter().enumerate()
            {
                let packet = match side {
                    Outside => first.clone(),
                    Inside => first.answered(address, 8080),
                };
                let mut packet = packet.segment(*flags, *sequence, *acknowledgement);
                if flags & PSH != 0 {
                    packet = packet.data(b"data");
                }
                lb.pass_through(*side, &packet);
                assert_eq!(lb.counts_of(real), *counts, "step {at} of {address}");
                lb.assert_loads_are_exact();
            }
        }
    });
}

const HANDSHAKE: [Step; 3] = [
    (Outside, SYN, [1000, 0], [0, 1]),
    (Inside, SYN | ACK, [9000, 1001], [0, 1]),
    (Outside, ACK, [1001, 9001], [1, 0]),
];

/// A handshake, and these steps.
#[track_caller]
fn follow_established(steps: &[Step]) {
    follow(&[&HANDSHAKE, steps].concat());
}

#[test]
fn a_connection_is_active_while_it_is_established() {
    follow_established(&[
        (Outside, SYN, [1000, 0], [1, 0]),
        (Inside, SYN | ACK, [9000, 1001], [1, 0]),
        (Outside, PSH | ACK, [1001, 9001], [1, 0]),
        (Inside, PSH | ACK, [9001, 1005], [1, 0]),
        (Outside, FIN | ACK, [1005, 9005], [0, 1]),
        (Inside, FIN | ACK, [9005, 1006], [0, 0]),
        (Outside, ACK, [1006, 9006], [0, 0]),
        // The same port again.
        (Outside, SYN, [77_000, 0], [0, 1]),
        (Inside, SYN | ACK, [4_000, 77_001], [0, 1]),
        (Outside, ACK, [77_001, 4_001], [1, 0]),
    ]);
}

#[test]
fn a_connection_that_the_real_server_closes_first_counts_alike() {
    follow_established(&[
        (Inside, FIN | ACK, [9001, 1001], [0, 1]),
        (Outside, PSH | ACK, [1001, 9002], [0, 1]),
        (Outside, FIN | ACK, [1005, 9002], [0, 1]),
        (Inside, ACK, [9002, 1006], [0, 0]),
    ]);
}

#[test]
fn a_connection_that_the_real_server_has_reset_counts_no_more() {
    follow_established(&[
        (Inside, RST, [9001, 0], [0, 0]),
        (Outside, SYN, [77_000, 0], [0, 1]),
        (Inside, RST | ACK, [0, 77_001], [0, 0]),
        (Outside, SYN, [78_000, 0], [0, 1]),
    ]);
}

/// Nobody takes their places while there are free ones, and the daemon may be dead.
#[test]
fn connections_that_are_over_leave_room_below_the_limit() {
    run(|lb| {
        let web = lb.web();
        lb.set_limits(web.real, 2, 0);
        for port in 20_000..20_100 {
            let syn = syn().client_port(port);
            establish(lb, &syn, R, 8080);
            let answer = syn.answered(R, 8080);
            lb.pass_through(Outside, &syn.segment(FIN | ACK, 1001, 9001));
            lb.pass_through(Inside, &answer.segment(FIN | ACK, 9001, 1002));
            assert_eq!(lb.counts_of(web.real), [0, 0]);
        }
        assert_eq!(lb.snapshot().discards["reals-full"], 0);
    });
}

#[test]
fn what_is_undone_counts_again() {
    follow_established(&[
        // A FIN in the client's name.
        (Outside, FIN | ACK, [5, 9001], [0, 1]),
        (Outside, PSH | ACK, [3_000_000_000, 9001], [1, 0]),
        // A reset, which neither believes.
        (Outside, RST, [1, 0], [0, 1]),
        (Outside, ACK, [1001, 9001], [0, 1]),
        (Outside, ACK, [1001, 9001], [0, 1]),
        (Inside, ACK, [9001, 1001], [1, 0]),
        // The client begins anew, and the real server says so.
        (Outside, SYN, [50_000, 0], [1, 0]),
        (Inside, SYN | ACK, [60_000, 50_001], [0, 1]),
        (Outside, ACK, [50_001, 60_001], [1, 0]),
    ]);
}

#[test]
fn handshakes_that_come_to_nothing_count_once() {
    follow(&[
        (Outside, SYN, [1000, 0], [0, 1]),
        (Outside, SYN, [1000, 0], [0, 1]),
        (Outside, ACK, [1001, 5], [0, 1]),
        (Inside, SYN | ACK, [9000, 1001], [0, 1]),
        (Outside, ACK, [1001, 5], [0, 1]),
        (Outside, RST, [1001, 0], [0, 1]),
        (Inside, RST, [5, 0], [0, 1]),
        (Inside, RST, [9001, 0], [0, 0]),
        (Outside, SYN, [1000, 0], [0, 1]),
    ]);
}

#[test]
fn datagrams_are_never_active() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping");
        for (ping, real, address) in [(ping.clone(), dns.real, R), (ping.v6(), dns.real6, R6)] {
            let pong = ping.answered(address, 8053);
            for (side, packet) in [
                (Outside, &ping),
                (Outside, &ping),
                (Inside, &pong),
                (Outside, &ping),
                (Inside, &pong),
            ] {
                lb.pass_through(side, packet);
                assert_eq!(lb.counts_of(real), [0, 1]);
            }
            let other = ping.client_port(7);
            lb.pass_through(Outside, &other);
            assert_eq!(lb.counts_of(real), [0, 2]);
            lb.delete_connection(&other);
            assert_eq!(lb.counts_of(real), [0, 1]);
        }
    });
}

#[test]
fn a_connection_that_begins_anew_at_another_real_server_leaves_the_first() {
    run(|lb| {
        let scenes = [(two_reals(lb), syn(), R), (two_reals6(lb), syn().v6(), R6)];
        for ((_, first, second), syn, address) in scenes {
            establish(lb, &syn, address, 8080);
            lb.pass_through(Inside, &syn.answered(address, 8080).segment(RST, 9001, 0));
            assert_eq!(
                [lb.counts_of(first), lb.counts_of(second)],
                [[0, 0], [0, 0]]
            );
            lb.pass_through(Outside, &syn);
            assert_eq!(
                [lb.counts_of(first), lb.counts_of(second)],
                [[0, 0], [0, 1]]
            );
        }
    });
}

#[test]
fn the_connections_of_a_real_server_that_fails_or_goes_end_one_by_one() {
    for (state, left) in [
        (state::DRAINING, [2, 1]),
        (state::REMOVED, [2, 1]),
        (state::RESET, [0, 0]),
        (state::REMOVED_RESET, [0, 0]),
    ] {
        run(|lb| {
            let (service, first, second) = two_reals(lb);
            lb.set_ring(service, &[first]);
            let syns = [20_000, 20_001, 20_002].map(|port| syn().client_port(port));
            for syn in &syns[..2] {
                establish(lb, syn, R, 8080);
            }
            lb.pass_through(Outside, &syns[2]);
            lb.pass_through(Inside, &syn_ack(&syns[2], R, 8080));
            assert_eq!(lb.counts_of(first), [2, 1]);
            lb.set_ring(service, &[second]);
            lb.set_real_state(first, state);
            for syn in &syns {
                let _ = lb.send(Outside, &syn.clone().segment(ACK, 1001, 7).bytes());
            }
            assert_eq!(lb.counts_of(first), left, "state {state}");
            assert_eq!(lb.counts_of(second), [0, 0]);
        });
    }
}

#[test]
fn the_next_datagram_of_a_removed_real_servers_client_counts_elsewhere() {
    run(|lb| {
        let [first, second] = [R, R2].map(|address| lb.add_real(address, 8053));
        let service = lb.add_service(17, V, 53, &[first]);
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        lb.set_ring(service, &[second]);
        lb.set_real_state(first, state::REMOVED);
        assert_eq!(
            [lb.counts_of(first), lb.counts_of(second)],
            [[0, 1], [0, 0]]
        );
        lb.pass_through(Outside, &ping);
        assert_eq!(
            [lb.counts_of(first), lb.counts_of(second)],
            [[0, 0], [0, 1]]
        );
    });
}

#[test]
fn a_connection_that_has_expired_counts_until_somebody_finds_it() {
    for side in [Outside, Inside] {
        run(|lb| {
            let web = lb.web();
            establish(lb, &syn(), R, 8080);
            let past = (lb.jiffies() as u32).wrapping_sub(TIMEOUTS.established + 1);
            lb.change_rows_v4(|row| row.last_seen = past);
            assert_eq!(lb.counts_of(web.real), [1, 0]);
            let packet = match side {
                Outside => syn().segment(ACK, 1001, 9001),
                Inside => syn().answered(R, 8080).segment(ACK, 9001, 1001),
            };
            let _ = lb.send(side, &packet.bytes());
            assert_eq!(lb.counts_of(web.real), [0, 0]);
        });
    }
}

#[test]
fn who_is_displaced_by_a_flood_counts_no_more() {
    let small = Options {
        max_connections: 64,
        ..Options::default()
    };
    run_with(small, |lb| {
        let (web, dns) = (lb.web(), lb.dns());
        for (first, real, dns, address) in [
            (syn(), web.real, dns.real, R),
            (syn().v6(), web.real6, dns.real6, R6),
        ] {
            establish(lb, &first, address, 8080);
            for port in 1..=5_000 {
                lb.pass_through(Outside, &first.clone().client_port(port));
                let mut ping = Packet::udp(b"ping").client_port(port);
                (ping.source, ping.destination) = (first.source, first.destination);
                lb.pass_through(Outside, &ping);
                if port % 500 == 0 {
                    lb.assert_loads_are_exact();
                }
            }
            let [active, handshakes] = lb.counts_of(real);
            let [none, datagrams] = lb.counts_of(dns);
            assert_eq!([active, none], [1, 0]);
            assert!(handshakes > 0 && datagrams > 0 && handshakes + datagrams < 128);
        }
    });
}

#[test]
fn a_connection_that_moves_to_its_other_bucket_counts_once() {
    let small = Options {
        max_connections: 256,
        ..Options::default()
    };
    run_with(small, |lb| {
        let web = lb.web();
        let IpAddr::V4(vip) = V else { unreachable!() };
        let vip = u32::from_ne_bytes(vip.octets());
        let (mut connections, mut moved) = (0, [0; 2]);
        for port in 41_000..42_000 {
            let before = lb.places_v4();
            let syn = syn().client_port(port);
            let (_, out) = lb.send(Outside, &syn.bytes());
            if out != syn.delivered(R, 8080).bytes() {
                break;
            }
            lb.pass_through(Inside, &syn_ack(&syn, R, 8080));
            lb.pass_through(Outside, &syn.segment(ACK, 1001, 9001));
            connections += 1;
            assert_eq!(lb.counts_of(web.real), [connections, 0]);
            lb.assert_loads_are_exact();
            let after = lb.places_v4();
            for (key, place) in before {
                let is_original = key.destination == vip;
                moved[usize::from(is_original)] += u32::from(after[&key] != place);
            }
        }
        assert!(
            moved.iter().all(|moved| *moved > 0),
            "replies and originals that moved: {moved:?}"
        );
        // The table is full: who is refused counts nowhere.
        assert!(lb.snapshot().discards["table-full"] > 0);
        assert_eq!(lb.counts_of(web.real), [connections, 0]);
        lb.assert_loads_are_exact();
    });
}

#[test]
fn connections_that_two_cpus_open_and_complete_at_once_are_all_counted() {
    // Often, since which CPU comes last is chance.
    for _ in 0..rounds(24) {
        open_complete_and_end(500);
    }
}

/// As often on each CPU.
fn open_complete_and_end(each: u16) {
    // Never two full buckets for one connection: an opening one of the other CPU would give way there.
    run_with(Options::ROOMY, |lb| {
        let web = lb.web();
        let of = |cpu: u16| (0..each).map(move |at| syn().client_port(10_000 + cpu * each + at));
        let frames = |cpu| -> Frames {
            of(cpu)
                .flat_map(|syn| {
                    [
                        (Outside, syn.bytes()),
                        (Inside, syn_ack(&syn, R, 8080).bytes()),
                        (Outside, syn.segment(ACK, 1001, 9001).bytes()),
                    ]
                })
                .collect()
        };
        run_on_two_cpus(lb, Pace::Free, [&frames(0), &frames(1)]);
        assert_eq!(lb.counts_of(web.real), [2 * u32::from(each), 0]);
        // Now one CPU ends them, and the other one begins to close them.
        let both = || of(0).chain(of(1));
        let resets: Frames = both()
            .map(|syn| (Inside, syn.answered(R, 8080).segment(RST, 9001, 0).bytes()))
            .collect();
        let fins: Frames = both()
            .map(|syn| (Outside, syn.segment(FIN | ACK, 1001, 9001).bytes()))
            .collect();
        run_on_two_cpus(lb, Pace::Together, [&resets, &fins]);
        assert_eq!(lb.counts_of(web.real), [0, 0]);
        // Both entries of each have one state, whichever CPU was last: the harness refuses others.
        assert_eq!(lb.snapshot().rows_v4, 4 * i64::from(each));
    });
}

/// The verdict's number.
const DROP: u32 = 1;

/// Runs frames on two CPUs at once. A frame may be refused because its CPU waited in vain for the other one, which the
/// hypervisor had stopped: the CPU's frames are then sent once more, in their order, as their senders would. How many
/// are refused is the machine's doing; that what comes again is counted exactly is ours.
fn run_on_two_cpus(lb: &Dataplane, pace: Pace, frames: [&Frames; 2]) {
    let busy = || lb.snapshot().discards["busy"];
    let before = busy();
    let outcomes = lb.on_two_cpus(pace, frames);
    let refused = outcomes.map(|outcomes| {
        outcomes
            .iter()
            .filter(|(verdict, _)| *verdict == DROP)
            .count()
    });
    assert_eq!(
        busy() - before,
        refused.iter().sum::<usize>() as u64,
        "no frame is dropped for another reason"
    );
    for (frames, refused) in frames.into_iter().zip(refused) {
        if refused > 0 {
            for (side, frame) in frames {
                let _ = lb.send(*side, frame);
            }
        }
    }
}

/// Any packet of a few connections, most of which make sense.
fn any_packet(random: &mut impl FnMut(u32) -> u32) -> (Side, Vec<u8>) {
    let is_v6 = random(2) == 1;
    let real = match (is_v6, random(2)) {
        (false, 0) => R,
        (false, _) => R2,
        (true, 0) => R6,
        (true, _) => R26,
    };
    let port = 20_000 + random(24) as u16;
    let of_family = |packet: Packet| {
        if is_v6 { packet.v6() } else { packet }
    };
    if random(4) == 0 {
        let ping = of_family(Packet::udp(b"ping").client_port(port));
        return if random(2) == 0 {
            (Outside, ping.bytes())
        } else {
            (Inside, ping.answered(real, 8053).bytes())
        };
    }
    let syn = of_family(syn().client_port(port));
    let answer = syn.answered(real, 8080);
    let (side, packet) = match random(16) {
        0..4 => (Outside, syn),
        4..7 => (Inside, answer.segment(SYN | ACK, 9000, 1001)),
        7..10 => (Outside, syn.segment(ACK, 1001, 9001)),
        10 => (Outside, syn.segment(PSH | ACK, 1001, 9001).data(b"data")),
        11 => (Inside, answer.segment(ACK, 9001, 1002)),
        12 => (Outside, syn.segment(FIN | ACK, 1001, 9001)),
        13 => (Inside, answer.segment(FIN | ACK, 9001, 1002)),
        14 => (Outside, syn.segment(RST, 1001, 0)),
        _ => (Inside, answer.segment(RST, 9001, 0)),
    };
    (side, packet.bytes())
}

#[test]
fn whatever_two_cpus_do_to_the_same_few_connections_is_counted_exactly() {
    let packets = rounds(8_000_usize);
    // Tables in which the connections displace each other, and ones with room for all.
    for max_connections in [8, 64] {
        let options = Options {
            max_connections,
            ..Options::default()
        };
        run_with(options, |lb| {
            two_reals(lb);
            two_reals6(lb);
            for (vip, reals) in [(V, [R, R2]), (V6, [R6, R26])] {
                let reals = reals.map(|real| lb.add_real(real, 8053));
                lb.add_service(17, vip, 53, &reals);
            }
            let mut state = u64::from(max_connections);
            let mut random = |end: u32| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((state >> 33) % u64::from(end)) as u32
            };
            let mut frames =
                || -> Frames { (0..packets).map(|_| any_packet(&mut random)).collect() };
            let both = [frames(), frames()];
            for pace in [Pace::Free, Pace::Together] {
                let _ = lb.on_two_cpus(pace, [&both[0], &both[1]]);
                lb.assert_loads_are_exact();
                assert!(has_active(lb));
            }
        });
    }
}

/// Whether any real server has an active connection.
fn has_active(lb: &Dataplane) -> bool {
    (0..8).any(|real| lb.counts_of(real)[0] > 0)
}

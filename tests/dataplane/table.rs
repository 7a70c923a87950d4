//! The connection table: full, expired, and two CPUs at once.

use crate::{establish, syn, syn_ack};
use balancer_common::{direction, tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, R6, V},
    cpus::Pace,
    dataplane::{
        Dataplane, Options, Side,
        Side::{Inside, Outside},
        TIMEOUTS, Verdict, run, run_with,
    },
    emulated::rounds,
    expected::{answered, dropped, redirected},
    packet::{
        Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};

/// How many connections of a table for a few have found a place, and a SYN of the first that did not.
fn fill(lb: &mut Dataplane) -> (Vec<Packet>, Packet) {
    let mut established = Vec::new();
    for port in 41_000..42_000 {
        let syn = syn().client_port(port);
        let (_, out) = lb.send(Outside, &syn.bytes());
        if out != syn.delivered(R, 8080).bytes() {
            return (established, syn);
        }
        lb.pass_through(Inside, &syn_ack(&syn, R, 8080));
        lb.pass_through(Outside, &syn.clone().segment(ACK, 1001, 9001));
        established.push(syn);
    }
    panic!("the table is never full");
}

#[test]
fn case_72_a_full_table_refuses_new_connections_and_serves_the_old() {
    run_with(
        Options {
            max_connections: 8,
            ..Options::default()
        },
        |lb| {
            let web = lb.web();
            lb.dns();
            let (established, refused) = fill(lb);
            assert!(established.len() >= 6, "{}", established.len());
            // The service's turn was taken, but nobody has displaced an assured connection.
            lb.step(
                Outside,
                &refused,
                dropped(Discard::TableFull).passed_over(web.service, 1),
            );
            for syn in &established {
                let data = syn.clone().segment(PSH | ACK, 1001, 9001).data(b"more");
                let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
                lb.step(Outside, &data, expected);
                let page = syn
                    .answered(R, 8080)
                    .segment(PSH | ACK, 9001, 1005)
                    .data(b"page");
                let expected = redirected(&page.returned(V, 80)).reply(web.real, &page);
                lb.step(Inside, &page, expected);
            }
            // The other family has its own table.
            let v6 = refused.clone().v6();
            lb.step(
                Outside,
                &v6,
                redirected(&v6.delivered(R6, 8080))
                    .original(web.real6, &v6)
                    .selected(web.service6, web.real6)
                    .half_open(1),
            );
            // The daemon deletes connections: there is room again.
            for syn in &established {
                lb.delete_connection(syn);
            }
            lb.step(
                Outside,
                &refused,
                redirected(&refused.delivered(R, 8080))
                    .original(web.real, &refused)
                    .selected(web.service, web.real)
                    .half_open(1),
            );
        },
    );
}

#[test]
fn connections_that_were_closed_give_their_places_to_new_ones_without_the_daemon() {
    run_with(
        Options {
            max_connections: 64,
            ..Options::default()
        },
        |lb| {
            lb.web();
            for port in 1_000..6_000 {
                let syn = syn().client_port(port);
                establish(lb, &syn, R, 8080);
                let fin = syn.clone().segment(FIN | ACK, 1001, 9001);
                lb.pass_through(Outside, &fin);
                lb.pass_through(
                    Inside,
                    &fin.answered(R, 8080).segment(FIN | ACK, 9001, 1002),
                );
                lb.pass_through(Outside, &syn.segment(ACK, 1002, 9002));
            }
            assert_eq!(lb.snapshot().discards["table-full"], 0);
        },
    );
}

#[test]
fn honest_questions_by_datagram_are_answered_at_any_rate() {
    run_with(
        Options {
            max_connections: 64,
            ..Options::default()
        },
        |lb| {
            lb.dns();
            for port in 1_000..6_000 {
                let ping = Packet::udp(b"ping").client_port(port);
                lb.pass_through(Outside, &ping);
                lb.pass_through(Inside, &ping.answered(R, 8053));
            }
            assert_eq!(lb.snapshot().discards["table-full"], 0);
        },
    );
}

#[test]
fn forged_datagrams_displace_only_each_other() {
    run_with(
        Options {
            max_connections: 1_024,
            ..Options::default()
        },
        |lb| {
            let web = lb.web();
            let dns = lb.dns();
            establish(lb, &syn(), R, 8080);
            let known = Packet::udp(b"ping");
            lb.pass_through(Outside, &known);
            lb.pass_through(Inside, &known.answered(R, 8053));
            lb.pass_through(Outside, &known);
            // The real server answers each: that makes no client of whoever sends in others' names.
            for port in 1..=8_000 {
                let forged = Packet::udp(b"ping").client_port(port);
                lb.pass_through(Outside, &forged);
                lb.pass_through(Inside, &forged.answered(R, 8053));
            }
            let expected = redirected(&known.delivered(R, 8053)).original(dns.real, &known);
            lb.step(Outside, &known, expected);
            let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
            let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
            lb.step(Outside, &data, expected);
            // Who sends twice confirms blindly, and still refuses nobody a place.
            for port in 10_000..=18_000 {
                let forged = Packet::udp(b"ping").client_port(port);
                lb.pass_through(Outside, &forged);
                lb.pass_through(Inside, &forged.answered(R, 8053));
                lb.pass_through(Outside, &forged);
            }
            let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
            let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
            lb.step(Outside, &data, expected);
            // Another service's clients find room.
            for port in 50_000..50_100 {
                establish(lb, &syn().client_port(port), R, 8080);
            }
            assert_eq!(lb.snapshot().discards["table-full"], 0);
        },
    );
}

#[test]
fn an_expired_connection_is_none() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.established + 1));
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"late");
        lb.step(
            Outside,
            &data,
            answered(Discard::NoConnection, &data.reset(RST, 9001, 0)).pair_v4_deleted(),
        );
    });
}

#[test]
fn a_connection_lives_while_one_direction_does() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| {
            if row.direction == direction::ORIGINAL {
                row.last_seen = now.wrapping_sub(TIMEOUTS.established + 1);
            }
        });
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
        let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
        lb.step(Outside, &data, expected);
    });
}

#[test]
fn a_flow_without_answers_is_not_taken_for_an_expired_one() {
    run(|lb| {
        lb.web();
        let shared = lb.add_real(R, 8080);
        let service = lb.add_service(6, V, 443, &[shared]);
        establish(lb, &syn(), R, 8080);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| {
            if row.direction == direction::REPLY {
                row.last_seen = now.wrapping_sub(TIMEOUTS.established + 1);
            }
        });
        // The same client port to another service with the same real server: the old connection is still in use.
        let other = syn().to_port(443);
        lb.step(
            Outside,
            &other,
            dropped(Discard::Collision).passed_over(service, 1),
        );
    });
}

#[test]
fn each_state_has_its_own_timeout() {
    let age = |state: State| match state {
        State::Established => TIMEOUTS.established,
        State::Udp => TIMEOUTS.udp,
        _ => TIMEOUTS.closing,
    };
    for state in [
        State::Established,
        State::FinOriginal,
        State::FinReply,
        State::Closing,
        State::Closed,
        State::ClosedOriginal,
        State::TimeWait,
    ] {
        run(|lb| {
            lb.web();
            establish(lb, &syn(), R, 8080);
            let ack = syn().segment(ACK, 1001, 9001);
            let mut at = |age: u32| {
                let now = lb.jiffies() as u32;
                lb.change_rows_v4(|row| {
                    row.state = state as u8;
                    row.last_seen = now.wrapping_sub(age);
                });
                (lb.send(Outside, &ack.bytes()), lb.rows_v4().len())
            };
            // The clock runs while the test does: a second of room on the living side.
            let ((_, alive), rows) = at(age(state) - 1000);
            assert_eq!(
                (alive, rows),
                (ack.delivered(R, 8080).bytes(), 2),
                "{state:?}"
            );
            let ((_, expired), rows) = at(age(state) + 1);
            let reset = ack.reset(RST, 9001, 0).bytes();
            assert_eq!((expired, rows), (reset, 0), "{state:?}");
        });
    }
}

#[test]
fn an_expired_connection_gives_its_port_to_a_new_one() {
    run(|lb| {
        let first = lb.add_real(R, 8080);
        let second = lb.add_real(R2, 8080);
        let service = lb.add_service(6, V, 80, &[first, second]);
        establish(lb, &syn(), R, 8080);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.established + 1));
        lb.step(
            Outside,
            &syn(),
            redirected(&syn().delivered(R2, 8080))
                .original(second, &syn())
                .selected(service, second)
                .half_open(1)
                .pair_v4_deleted(),
        );
    });
}

#[test]
fn a_flood_of_syns_harms_no_connection() {
    run_with(
        Options {
            max_connections: 64,
            ..Options::default()
        },
        |lb| {
            let web = lb.web();
            establish(lb, &syn(), R, 8080);
            for port in 1..=20_000 {
                lb.pass_through(Outside, &syn().client_port(port));
            }
            assert_eq!(lb.rows_v4().len(), 2);
            let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
            let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
            lb.step(Outside, &data, expected);
            // And a handshake that begins now completes.
            establish(lb, &syn().client_port(30_001), R, 8080);
            assert_eq!(lb.rows_v4().len(), 4);
            assert_eq!(lb.snapshot().discards["table-full"], 0);
        },
    );
}

/// Runs the same frames on two CPUs at the same moment. Returns by frame what became of its copies: one or two
/// outcomes that are alike.
///
/// A copy may be missing because its CPU waited in vain for the other one, which the hypervisor had stopped: it is
/// counted as busy. How many are is the machine's doing; that each goes the way of the other when it is sent again
/// is ours.
fn at_once(lb: &Dataplane, from: Side, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let busy = || lb.snapshot().discards["busy"];
    let busy_before = busy();
    let both = frames.iter().map(|frame| (from, frame.clone())).collect();
    let [one, two] = lb.on_two_cpus(Pace::Together, [&both, &both]);
    let mut refused = Vec::new();
    let outcomes: Vec<_> = one
        .into_iter()
        .zip(two)
        .enumerate()
        .map(|(frame, (one, two))| match (one.0, two.0) {
            (REDIRECT, REDIRECT) => {
                assert_eq!(one.1, two.1, "both copies go to one real server");
                one.1
            }
            (REDIRECT, DROP) => {
                refused.push(frame);
                one.1
            }
            (DROP, REDIRECT) => {
                refused.push(frame);
                two.1
            }
            other => panic!("verdicts {other:?}"),
        })
        .collect();
    assert_eq!(
        busy() - busy_before,
        refused.len() as u64,
        "no copy is dropped for another reason"
    );
    for frame in refused {
        let (verdict, bytes) = lb.send(from, &frames[frame]);
        assert_eq!((verdict, &bytes), (Verdict::Redirect, &outcomes[frame]));
    }
    outcomes
}

const DROP: u32 = 1;
const REDIRECT: u32 = 4;

/// There are so many connections whose handshake is over; that every entry has its other half, the harness asserts.
#[track_caller]
fn assert_pairs(lb: &Dataplane, pairs: u16) {
    assert_eq!(lb.rows_v4().len(), 2 * usize::from(pairs));
}

#[test]
fn case_73_the_same_first_syn_on_two_cpus_makes_one_connection() {
    let number = rounds(2000_u16);
    run_with(Options::ROOMY, |lb| {
        let first = lb.add_real(R, 8080);
        let second = lb.add_real(R2, 8080);
        lb.add_service(6, V, 80, &[first, second]);
        let syns: Vec<_> = (0..number)
            .map(|port| syn().client_port(10_000 + port))
            .collect();
        let frames: Vec<_> = syns.iter().map(Packet::bytes).collect();
        let mut answers = Vec::new();
        let mut acks = Vec::new();
        for (syn, out) in syns.iter().zip(at_once(lb, Outside, &frames)) {
            let real = if out == syn.delivered(R, 8080).bytes() {
                R
            } else {
                R2
            };
            assert_eq!(out, syn.delivered(real, 8080).bytes());
            answers.push(syn_ack(syn, real, 8080).bytes());
            acks.push(syn.clone().segment(ACK, 1001, 9001).bytes());
        }
        let snapshot = lb.snapshot();
        assert_eq!(
            snapshot.turns[&0],
            u64::from(number),
            "one turn for each connection"
        );
        let connections = |id: u32| snapshot.reals[&id].connections;
        let half = u64::from(number) / 2;
        assert_eq!([connections(first), connections(second)], [half; 2]);

        // The handshakes complete on both CPUs at once too.
        at_once(lb, Inside, &answers);
        at_once(lb, Outside, &acks);
        assert_pairs(lb, number);
    });
}

#[test]
fn the_same_first_datagram_on_two_cpus_makes_one_connection() {
    let number = rounds(2000_u16);
    run_with(Options::ROOMY, |lb| {
        let first = lb.add_real(R, 8053);
        let second = lb.add_real(R2, 8053);
        lb.add_service(17, V, 53, &[first, second]);
        let pings: Vec<_> = (0..number)
            .map(|port| Packet::udp(b"ping").client_port(10_000 + port))
            .collect();
        let frames: Vec<_> = pings.iter().map(Packet::bytes).collect();
        at_once(lb, Outside, &frames);
        assert_pairs(lb, number);
    });
}

#[test]
fn ports_used_again_on_two_cpus_at_once_leave_no_row_behind() {
    let number = rounds(1000_u16);
    run_with(Options::ROOMY, |lb| {
        lb.web();
        let syns: Vec<_> = (0..number)
            .map(|port| syn().client_port(10_000 + port))
            .collect();
        for syn in &syns {
            establish(lb, syn, R, 8080);
            lb.pass_through(Inside, &syn.answered(R, 8080).segment(RST, 9001, 0));
        }
        let again: Vec<_> = syns
            .iter()
            .map(|syn| syn.clone().segment(SYN, 77_000, 0).bytes())
            .collect();
        at_once(lb, Outside, &again);
        assert_pairs(lb, 0);
        assert_eq!(lb.half_open().len(), usize::from(number));
    });
}

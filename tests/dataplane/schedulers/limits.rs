//! Real servers that are full.

use balancer_common::{
    load::Measure,
    scheduler::{hashed, pick},
    service,
    verdict::Discard,
};
use balancer_tests::{
    dataplane::{Dataplane, Side::Outside, run},
    expected::{Expected, answered, dropped},
    packet::{
        Packet,
        flag::{ACK, RST},
    },
    services::Schedule,
};

use super::{Farm, LEAST, farms};
use crate::{establish, syn};

/// Every way to choose.
fn schedules() -> impl Iterator<Item = Schedule> {
    let others = [
        Schedule::TURN,
        Schedule::hashing(hashed::CLIENT),
        Schedule::hashing(hashed::CLIENT_PORT),
        Schedule::hashing(hashed::DESTINATION),
        Schedule {
            pick: pick::RANDOM,
            ..Schedule::TURN
        },
    ];
    others.into_iter().chain(LEAST.map(Schedule::least))
}

/// With the turn that a service takes which chooses like this.
fn turn(expected: Expected, farm: &Farm, schedule: Schedule) -> Expected {
    if schedule.pick == pick::TURN {
        expected.passed_over(farm.service, 1)
    } else {
        expected
    }
}

/// A farm for TCP and one for UDP, of each family.
fn all_farms(lb: &mut Dataplane) -> [Farm; 4] {
    let ping = Packet::udp(b"ping");
    [syn(), syn().v6(), ping.clone(), ping.v6()].map(|first| Farm::new(lb, 2, first))
}

#[test]
fn a_full_real_server_is_passed_over_however_it_is_chosen() {
    for schedule in schedules() {
        run(|lb| {
            for farm in all_farms(lb) {
                lb.set_schedule(farm.service, schedule);
                for (full, other) in [(0, 1), (1, 0)] {
                    lb.set_load(farm.reals[full], 1, 2);
                    lb.set_limits(farm.reals[full], 3, 0);
                    lb.set_limits(farm.reals[other], 0, 0);
                    // Far more loaded, but not full.
                    lb.set_load(
                        farm.reals[other],
                        if schedule.measure == Measure::OVF {
                            1
                        } else {
                            9_000
                        },
                        0,
                    );
                    let base = 20_000 + 100 * full as u16;
                    for port in base..base + 4 {
                        let packet = farm.syn(port);
                        let expected = farm.opened(other, &packet);
                        lb.step(Outside, &packet, turn(expected, &farm, schedule));
                    }
                    lb.set_load(farm.reals[full], 0, 0);
                }
            }
        });
    }
}

#[test]
fn where_all_are_full_it_is_as_where_there_is_none_and_told_apart() {
    for schedule in schedules() {
        run(|lb| {
            for farm in all_farms(lb) {
                lb.set_schedule(farm.service, schedule);
                for real in &farm.reals {
                    lb.set_load(*real, 0, 3);
                    lb.set_limits(*real, 3, 0);
                }
                let packet = farm.syn(20_000);
                let expected = dropped(Discard::RealsFull);
                lb.step(Outside, &packet, turn(expected, &farm, schedule));
                lb.update_service(farm.service, |value| value.flags |= service::REJECT);
                let answer = if packet.protocol() == 17 {
                    packet.port_unreachable()
                } else {
                    packet.reset(RST | ACK, 0, 1001)
                };
                let expected = answered(Discard::RealsFullReject, &answer);
                lb.step(Outside, &packet, turn(expected, &farm, schedule));
                // One of both takes connections again.
                lb.set_load(farm.reals[1], 0, 2);
                let expected = farm.opened(1, &packet);
                lb.step(Outside, &packet, turn(expected, &farm, schedule));
            }
        });
    }
}

#[test]
fn a_real_server_that_was_full_takes_new_ones_below_its_lower_limit() {
    // Three quarters, where the operator names none.
    for (lower, resume) in [(0, 6), (3, 3), (8, 8), (1, 1)] {
        run(|lb| {
            for farm in farms(lb, 1) {
                let real = farm.reals[0];
                lb.set_limits(real, 8, lower);
                for port in 20_000..20_008 {
                    assert_eq!(lb.load_of(real).full, 0);
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.in_turn(0, &syn));
                }
                assert_eq!(lb.load_of(real).full, 1);
                let mut connections = 8;
                while connections >= resume {
                    let late = farm.syn(21_000);
                    let refused = dropped(Discard::RealsFull);
                    lb.step(Outside, &late, refused.passed_over(farm.service, 1));
                    connections -= 1;
                    lb.delete_connection(&farm.syn(20_000 + connections as u16));
                    assert_eq!(lb.counts_of(real), [0, connections]);
                }
                // It fills up again, to the upper limit.
                for port in 22_000..22_000 + (8 - connections) as u16 {
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.in_turn(0, &syn));
                }
                let late = farm.syn(21_000);
                let refused = dropped(Discard::RealsFull);
                lb.step(Outside, &late, refused.passed_over(farm.service, 1));
            }
        });
    }
}

#[test]
fn a_limit_counts_established_connections_and_handshakes_and_may_change() {
    run(|lb| {
        for farm in farms(lb, 1) {
            let real = farm.reals[0];
            lb.set_limits(real, 2, 0);
            establish(lb, &farm.syn(20_000), farm.address, super::FIRST_PORT);
            lb.pass_through(Outside, &farm.syn(20_001));
            assert_eq!(lb.counts_of(real), [1, 1]);
            let late = farm.syn(20_002);
            let refused = || dropped(Discard::RealsFull).passed_over(farm.service, 1);
            lb.step(Outside, &late, refused());
            // It was full, and is above what the new limit lets it resume at.
            lb.set_limits(real, 3, 2);
            lb.step(Outside, &late, refused());
            lb.set_limits(real, 3, 3);
            lb.step(Outside, &late, farm.in_turn(0, &late));
            let later = farm.syn(20_003);
            lb.step(Outside, &later, refused());
            lb.set_limits(real, 0, 0);
            lb.step(Outside, &later, farm.in_turn(0, &later));
            // What it has goes on, whatever the limit.
            lb.set_limits(real, 1, 0);
            let data = farm.syn(20_000).segment(ACK, 1001, 9001).data(b"more");
            lb.step(Outside, &data, farm.delivered(0, &data));
            let again = farm.syn(20_001);
            lb.step(Outside, &again, farm.delivered(0, &again));
        }
    });
}

#[test]
fn a_full_real_server_keeps_its_clients() {
    for schedule in schedules() {
        run(|lb| {
            for (farm, prefix) in farms(lb, 2).into_iter().zip([32, 128]) {
                lb.set_schedule(farm.service, schedule);
                lb.set_persistence(farm.service, 50_000, prefix, prefix.into());
                // Only the first one is not full.
                lb.set_limits(farm.reals[1], 1, 0);
                lb.set_load(farm.reals[1], 0, 1);
                establish(lb, &farm.syn(20_000), farm.address, super::FIRST_PORT);
                lb.set_limits(farm.reals[0], 1, 0);
                lb.set_load(farm.reals[1], 0, 0);
                // What was full stays so until it has less than one.
                for port in 20_001..20_004 {
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.opened(0, &syn));
                }
                let mut other = farm.syn(20_000);
                other.source = crate::persistence::client(other.source, 1);
                let expected = farm.opened(1, &other);
                lb.step(Outside, &other, turn(expected, &farm, schedule));
                let mut refused = farm.syn(20_000);
                refused.source = crate::persistence::client(refused.source, 2);
                let expected = dropped(Discard::RealsFull);
                lb.step(Outside, &refused, turn(expected, &farm, schedule));
                // While the first connection of that client is not complete, its next ones go there, too.
                other.source_port += 1;
                lb.step(Outside, &other, farm.opened(1, &other));
            }
        });
    }
}

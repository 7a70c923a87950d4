//! `lc`, `wlc`, `sed`, `nq`, `fo`, `ovf`: the least loaded.

use balancer_common::{
    load::{MOST_COMPARED, Measure},
    verdict::Discard,
};
use balancer_tests::{
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        run, run_with,
    },
    expected::dropped,
    packet::flag::ACK,
    services::Schedule,
};

use super::{
    Farm, LEAST, farms,
    ipvs::{self, Destination},
};
use crate::syn_ack;

/// Gives the real servers of a farm these loads and weights.
fn set(lb: &mut Dataplane, farm: &Farm, destinations: &[Destination]) {
    let ids = farm.reals.iter().copied();
    let loads = destinations.iter().map(|one| [one.active, one.inactive]);
    lb.set_loads(ids.clone().zip(loads));
    let mut weights = destinations.iter().map(|one| one.weight);
    lb.update_loads(ids, |load| {
        load.weight = weights.next().expect("a weight for each")
    });
}

/// What IPVS would see of a farm.
fn seen(lb: &Dataplane, farm: &Farm) -> Vec<Destination> {
    let destination = |id: &u32| {
        let load = lb.load_of(*id);
        let [active, inactive] = load.counts();
        Destination {
            active,
            inactive,
            weight: load.weight,
        }
    };
    farm.reals.iter().map(destination).collect()
}

/// Numbers that look random, the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one, below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.0 >> 33) % u64::from(end)) as u32
    }
}

#[test]
fn each_chooses_as_ipvs_does() {
    const ROUNDS: u16 = 60;
    run_with(Options::ROOMY, |lb| {
        let mut numbers = Numbers(7);
        for farm in farms(lb, 6) {
            let mut port = 10_000;
            for measure in LEAST {
                lb.set_schedule(farm.service, Schedule::least(measure));
                for round in 0..ROUNDS {
                    // Few different numbers, so that many are equal; and larger ones.
                    let most = if round % 2 == 0 { 4 } else { 100_000 };
                    let heaviest = if round % 4 < 2 { 4 } else { 2_000 };
                    let mut destinations = [Destination {
                        active: 0,
                        inactive: 0,
                        weight: 0,
                    }; 6];
                    for destination in &mut destinations {
                        destination.active = numbers.below(most);
                        destination.inactive = numbers.below(300 * most);
                        destination.weight = numbers.below(heaviest);
                    }
                    if measure.is_in_order() {
                        // As the daemon lists them.
                        destinations.sort_by_key(|one| std::cmp::Reverse(one.weight));
                    }
                    set(lb, &farm, &destinations);
                    let seen = seen(lb, &farm);
                    port += 1;
                    assert_eq!(
                        farm.choice(lb, port),
                        ipvs::choice(measure, &seen),
                        "{measure:?} {seen:?}"
                    );
                }
            }
        }
    });
}

#[test]
fn of_equal_ones_the_first_is_taken_and_what_it_gets_counts_at_once() {
    run(|lb| {
        for farm in farms(lb, 3) {
            let mut port = 20_000;
            for (measure, order) in [
                (Measure::LC, [0, 1, 2, 0, 1, 2]),
                (Measure::WLC, [0, 1, 2, 0, 1, 2]),
                // Handshakes are not active.
                (Measure::SED, [0; 6]),
                (Measure::NQ, [0; 6]),
                (Measure::FO, [0; 6]),
                (Measure::OVF, [0; 6]),
            ] {
                lb.set_schedule(farm.service, Schedule::least(measure));
                let first = port;
                for at in order {
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.opened(at, &syn));
                    port += 1;
                }
                for port in first..port {
                    lb.delete_connection(&farm.syn(port));
                }
            }
        }
    });
}

#[test]
fn established_connections_weigh_more_than_handshakes() {
    run(|lb| {
        for farm in farms(lb, 2) {
            for (measure, order) in [
                (Measure::LC, [0, 1, 1, 1, 1]),
                (Measure::WLC, [0, 1, 1, 1, 1]),
                (Measure::SED, [0, 1, 1, 1, 1]),
                (Measure::NQ, [0, 1, 1, 1, 1]),
                (Measure::FO, [0; 5]),
                // Weight 1: with more than one active connection it is over.
                (Measure::OVF, [0; 5]),
            ] {
                lb.set_schedule(farm.service, Schedule::least(measure));
                for (port, at) in (20_000..).zip(order) {
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.opened(at, &syn));
                    if port == 20_000 {
                        let answer = syn_ack(&syn, farm.address, super::FIRST_PORT);
                        lb.pass_through(Inside, &answer);
                        lb.pass_through(Outside, &syn.segment(ACK, 1001, 9001));
                    }
                }
                for port in 20_000..20_005 {
                    lb.delete_connection(&farm.syn(port));
                }
            }
        }
    });
}

#[test]
fn ovf_refuses_where_all_have_more_active_connections_than_their_weight() {
    run(|lb| {
        for farm in farms(lb, 2) {
            lb.set_schedule(farm.service, Schedule::least(Measure::OVF));
            let destination = |active, weight| Destination {
                active,
                inactive: 9_999,
                weight,
            };
            set(lb, &farm, &[destination(6, 5), destination(3, 3)]);
            let syn = farm.syn(20_000);
            lb.step(Outside, &syn, farm.opened(1, &syn));
            set(lb, &farm, &[destination(6, 5), destination(4, 3)]);
            lb.step(Outside, &farm.syn(20_001), dropped(Discard::NoReal));
        }
    });
}

#[test]
fn where_the_least_loaded_takes_nobody_the_next_one_is_taken() {
    run(|lb| {
        for farm in farms(lb, 3) {
            lb.set_schedule(farm.service, Schedule::least(Measure::LC));
            for (real, inactive) in farm.reals.iter().zip([9, 0, 5]) {
                lb.set_load(*real, 0, inactive);
            }
            // The list is not new yet.
            lb.set_real_state(farm.reals[1], balancer_common::real_server::state::DRAINING);
            let syn = farm.syn(20_000);
            lb.step(Outside, &syn, farm.opened(2, &syn));
        }
    });
}

#[test]
fn of_more_than_are_compared_at_once_all_have_their_turn() {
    const COUNT: u16 = 300;
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, COUNT) {
            let mut port = 20_000;
            for measure in [Measure::LC, Measure::WLC, Measure::SED, Measure::NQ] {
                lb.set_schedule(farm.service, Schedule::least(measure));
                for idle in [0, 1, 127, 128, 129, 255, 256, 298, 299] {
                    let load =
                        |(at, real): (usize, &u32)| (*real, [u32::from(at != idle) << 10; 2]);
                    lb.set_loads(farm.reals.iter().enumerate().map(load));
                    let rounds = u32::from(COUNT).div_ceil(MOST_COMPARED);
                    let choices: Vec<_> = (0..rounds)
                        .map(|_| {
                            port += 1;
                            farm.choice(lb, port)
                        })
                        .collect();
                    assert!(
                        choices.contains(&Some(idle)),
                        "{measure:?}: {idle} is idle, but chosen are {choices:?}"
                    );
                }
            }
        }
    });
}

#[test]
fn of_many_the_first_in_the_list_goes_before_all_others_whatever_the_turn() {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 300) {
            for measure in [Measure::FO, Measure::OVF] {
                lb.set_schedule(farm.service, Schedule::least(measure));
                let base = 20_000 + u16::from(measure == Measure::FO) * 1_000;
                for port in base..base + 10 {
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.opened(0, &syn));
                }
            }
        }
    });
}

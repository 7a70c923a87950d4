//! `twos`: the less loaded of two random ones.

use balancer_common::{
    real_server::{MAX_REALS, state},
    scheduler::pick,
};
use balancer_tests::{
    addresses::{R, V},
    dataplane::{Dataplane, Options, run_with},
    services::Schedule,
};

use super::{Farm, farms};

const TWOS: Schedule = Schedule {
    pick: pick::RANDOM,
    ..Schedule::TURN
};

const ROUNDS: u16 = 2_000;

/// How many of [`ROUNDS`] new connections, in percent, each real server of a farm gets. What it gets weighs little beside the loads of these
/// tests.
fn shares(lb: &Dataplane, farm: &Farm) -> Vec<u32> {
    let mut counts = vec![0; farm.reals.len()];
    for port in 10_000..10_000 + ROUNDS {
        counts[farm.choice(lb, port).expect("a real server")] += 1;
    }
    let counts = counts.into_iter();
    counts
        .map(|count| count * 100 / u32::from(ROUNDS))
        .collect()
}

/// Each share is so many of all draws of two, give or take five percent of all: five times what chance would.
#[track_caller]
fn assert_shares(shares: &[u32], draws: &[u32]) {
    let all: u32 = draws.iter().sum();
    assert_eq!(shares.len(), draws.len());
    for (share, draws) in shares.iter().zip(draws) {
        assert!(share.abs_diff(draws * 100 / all) <= 5, "{shares:?}");
    }
}

#[test]
fn twos_takes_the_less_loaded_of_two() {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 3) {
            lb.set_schedule(farm.service, TWOS);
            for (real, active) in farm.reals.iter().zip([300_000, 200_000, 100_000]) {
                lb.set_load(*real, active, 0);
            }
            // The first where it is drawn twice, the second where it is not drawn with the third.
            assert_shares(&shares(lb, &farm), &[1, 3, 5]);
        }
    });
}

#[test]
fn twos_compares_loads_per_weight_and_draws_by_the_ring() {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 2) {
            lb.set_schedule(farm.service, TWOS);
            let [first, second] = [farm.reals[0], farm.reals[1]];
            lb.set_ring(farm.service, &[first, first, second]);
            for (real, active, weight) in [(first, 300_000, 2), (second, 200_000, 1)] {
                lb.set_load(real, active, 0);
                lb.set_weight(real, weight);
            }
            assert_shares(&shares(lb, &farm), &[8, 1]);
        }
    });
}

#[test]
fn twos_takes_the_other_one_where_one_of_two_is_full() {
    run_with(Options::ROOMY, |lb| {
        // The last real id is another service's, which has no connections.
        lb.set_real(MAX_REALS - 1, R, 8080, state::TAKES_NEW);
        lb.add_service(6, V, 443, &[MAX_REALS - 1]);
        for farm in farms(lb, 3) {
            lb.set_schedule(farm.service, TWOS);
            for (real, active) in farm.reals.iter().zip([200_000, 300_000, 100_000]) {
                lb.set_load(*real, active, 0);
            }
            lb.set_limits(farm.reals[1], 1, 0);
            // The full one is drawn twice: the least loaded of all.
            assert_shares(&shares(lb, &farm), &[3, 0, 6]);
            assert_eq!(lb.counts_of(farm.reals[1]), [300_000, 0]);
        }
    });
}

//! Shares of many real servers, and what moves when one of them comes or goes.

use std::time::{Duration, Instant};

use super::super::*;

/// How many slots change hands, in parts of all: those that were, or become, the real server's that goes or comes; and others.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    own: f64,
    others: f64,
}

/// A network of real servers: one address after the other, or far apart.
#[derive(Clone, Copy, Debug)]
enum Network {
    V4,
    V6,
    Scattered,
}

const NETWORKS: [Network; 3] = [Network::V4, Network::V6, Network::Scattered];

fn reals(network: Network, weights: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
    let address = |id: u32| match network {
        Network::V4 => SocketAddr::from(((0x0a00_0000 + id).to_be_bytes(), 80)),
        Network::V6 => {
            let low = [(id >> 16) as u16, id as u16];
            SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, low[0], low[1]], 80))
        }
        // An odd factor: no two are the same.
        Network::Scattered => {
            let bits = id.wrapping_mul(0x9e37_79b1);
            SocketAddr::from((bits.to_be_bytes(), (bits >> 7) as u16))
        }
    };
    let candidate = |(id, weight)| Candidate {
        id,
        address: address(id),
        weight,
        hash_weight: weight,
    };
    (1..).zip(weights).map(candidate).collect()
}

fn ring(kind: RingKind, reals: &[Candidate]) -> Vec<u32> {
    build(kind, reals, Longest::Short)
}

/// What moves between two rings one of which has a real server more.
fn moved(before: &[u32], after: &[u32], one: u32) -> Moved {
    let changed = || before.iter().zip(after).filter(|(a, b)| a != b);
    let own = changed().filter(|(a, b)| **a == one || **b == one).count();
    let others = changed().count() - own;
    let part = |count| count as f64 / before.len() as f64;
    Moved {
        own: part(own),
        others: part(others),
    }
}

/// Weights from 1 to `most`, without a pattern.
fn mixed(count: u32, most: u32) -> impl Iterator<Item = u32> {
    (1..=count).map(move |id| 1 + (id.wrapping_mul(2_654_435_769) >> 8) % most)
}

/// The largest error of a share: in slots, and in parts of the exact share.
fn largest_error(reals: &[Candidate]) -> (f64, f64) {
    let ring = ring(RingKind::Maglev, reals);
    let total: f64 = reals.iter().map(|real| f64::from(real.hash_weight)).sum();
    let mut largest = (0.0_f64, 0.0_f64);
    for real in reals {
        let count = ring.iter().filter(|id| **id == real.id).count() as f64;
        let exact = f64::from(real.hash_weight) * f64::from(MAGLEV_SLOTS) / total;
        let error = (count - exact).abs();
        largest = (largest.0.max(error), largest.1.max(error / exact));
    }
    largest
}

#[test]
fn shares_of_600_real_servers_are_within_one_percent() {
    for network in NETWORKS {
        let (slots, part) = largest_error(&reals(network, [1; 600]));
        assert!(slots < 1.0 && part < 0.01, "equal: {slots} {part}");
        // From 78 to 156 slots each.
        let weights = mixed(600, 1_000).map(|weight| weight + 1_000);
        let (slots, part) = largest_error(&reals(network, weights));
        assert!(slots < 1.0 && part < 0.01, "1 to 2: {slots} {part}");
        // From 7 to 195: what is left is that slots are whole.
        let weights = mixed(600, 2_000).map(|weight| weight + 75);
        let (slots, _) = largest_error(&reals(network, weights));
        assert!(slots < 1.0, "1 to 27: {slots}");
    }
}

/// The worst removal of one of the first hundred.
fn worst_removal(kind: RingKind, reals: &[Candidate]) -> Moved {
    let before = ring(kind, reals);
    let mut worst = Moved::default();
    for index in 0..reals.len().min(100) {
        let mut rest = reals.to_vec();
        let gone = rest.remove(index).id;
        let moved = moved(&before, &ring(kind, &rest), gone);
        if moved.others > worst.others {
            worst = moved;
        }
    }
    worst
}

#[test]
fn without_one_of_100_hardly_more_moves_than_its_own_slots() {
    for network in NETWORKS {
        let reals = reals(network, [1; 100]);
        let Moved { own, others } = worst_removal(RingKind::Maglev, &reals);
        assert!(
            (0.0099..0.0101).contains(&own) && others <= 0.01,
            "{own} {others}"
        );
        let Moved { own, others } = worst_removal(RingKind::Source, &reals);
        assert!(
            (0.0097..0.0103).contains(&own) && others <= 0.04,
            "{own} {others}"
        );
    }
}

#[test]
fn with_one_more_of_100_hardly_more_moves_than_its_own_slots() {
    for network in NETWORKS {
        let mut reals = reals(network, [1; 100]);
        let new = reals.remove(42);
        for (kind, most) in [(RingKind::Maglev, 0.01), (RingKind::Source, 0.04)] {
            let before = ring(kind, &reals);
            let mut more = reals.clone();
            more.push(new);
            let Moved { own, others } = moved(&before, &ring(kind, &more), new.id);
            assert!(
                (0.0097..0.0103).contains(&own) && others <= most,
                "{own} {others}"
            );
        }
    }
}

#[test]
#[ignore = "prints figures: run it with --release, --ignored and --nocapture"]
fn figures() {
    let lists: [(&str, Vec<Candidate>); 7] = [
        ("10 equal", reals(Network::V4, [1; 10])),
        ("100 equal", reals(Network::V4, [1; 100])),
        (
            "100 of weights 1 to 100",
            reals(Network::V4, mixed(100, 100)),
        ),
        ("600 equal", reals(Network::V4, [1; 600])),
        (
            "600 of weights 1 to 100",
            reals(Network::V4, mixed(600, 100)),
        ),
        ("1,000 equal", reals(Network::V4, [1; 1_000])),
        (
            "1,000 of weights 1 to 65,535",
            reals(Network::V4, mixed(1_000, 65_535)),
        ),
    ];
    for (name, reals) in lists {
        for kind in [RingKind::Source, RingKind::Maglev] {
            let fastest = (0..20)
                .map(|_| {
                    let start = Instant::now();
                    std::hint::black_box(ring(kind, &reals));
                    start.elapsed()
                })
                .min()
                .unwrap_or(Duration::ZERO);
            let worst = worst_removal(kind, &reals);
            println!(
                "{name}, {kind:?}: {fastest:?}; without one of the first 100 {:.2} % of its own and {:.2} % of others move",
                100.0 * worst.own,
                100.0 * worst.others
            );
        }
        let (slots, part) = largest_error(&reals);
        println!(
            "{name}: shares within {slots:.2} slots, {:.2} %",
            100.0 * part
        );
    }
}

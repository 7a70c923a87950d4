//! The least loaded under connections of mixed length: the program against a simulation of IPVS that keeps books of its own.

use std::collections::VecDeque;

use balancer_common::load::Measure;
use balancer_tests::{
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        run_with,
    },
    packet::{
        Packet,
        flag::{ACK, FIN, RST},
    },
    services::Schedule,
};

use super::{
    FIRST_PORT, Farm, farms,
    ipvs::{self, Destination},
    least::Numbers,
};
use crate::syn_ack;

/// Connections of each run.
const CONNECTIONS: u16 = 2_000;

/// A connection that goes on.
struct Open {
    syn: Packet,
    at: usize,
    /// By which arrival it closes.
    until: u16,
}

/// How many arrivals a connection outlasts: most are short, one in eight is long.
fn length(numbers: &mut Numbers) -> u16 {
    let most = if numbers.below(8) == 0 { 400 } else { 30 };
    1 + numbers.below(most) as u16
}

/// The client's handshake, but for its SYN.
fn complete(lb: &Dataplane, farm: &Farm, at: usize, syn: &Packet) {
    lb.pass_through(Inside, &syn_ack(syn, farm.address, FIRST_PORT + at as u16));
    lb.pass_through(Outside, &syn.clone().segment(ACK, 1001, 9001));
}

/// Runs the connections, and returns how many each real server got. Each choice is the simulation's.
fn shares(lb: &mut Dataplane, farm: &Farm, measure: Measure, weights: &[u32]) -> Vec<u32> {
    let mut numbers = Numbers(11);
    let mut books: Vec<_> = weights
        .iter()
        .map(|weight| Destination {
            active: 0,
            inactive: 0,
            weight: *weight,
        })
        .collect();
    let mut got = vec![0; weights.len()];
    let mut open: Vec<Open> = Vec::new();
    let mut closing = VecDeque::new();
    for number in 0..CONNECTIONS {
        let syn = farm.syn(10_000 + number);
        let at = ipvs::choice(measure, &books).expect("somebody");
        assert_eq!(
            farm.choice_for(lb, &syn),
            Some(at),
            "{measure:?}, connection {number}: {books:?}"
        );
        got[at] += 1;
        books[at].inactive += 1;
        // Some do not complete their handshake: they are inactive.
        if numbers.below(10) == 0 {
            closing.push_back((syn, at));
        } else {
            complete(lb, farm, at, &syn);
            books[at].inactive -= 1;
            books[at].active += 1;
            let until = number + length(&mut numbers);
            open.push(Open { syn, at, until });
        }
        for over in open.extract_if(.., |one| one.until <= number) {
            let fin = over.syn.clone().segment(FIN | ACK, 1001, 9001);
            lb.pass_through(Outside, &fin);
            books[over.at].active -= 1;
            books[over.at].inactive += 1;
            closing.push_back((over.syn, over.at));
        }
        while closing.len() > 20 {
            let (syn, at): (Packet, usize) = closing.pop_front().expect("more than twenty");
            let answer = syn.answered(farm.address, FIRST_PORT + at as u16);
            lb.pass_through(Inside, &answer.segment(RST | ACK, 9001, 1002));
            books[at].inactive -= 1;
        }
    }
    for (real, book) in farm.reals.iter().zip(&books) {
        assert_eq!(lb.counts_of(*real), [book.active, book.inactive]);
    }
    got
}

#[test]
fn connections_of_mixed_length_go_where_ipvs_would_have_them() {
    const WEIGHTS: [u32; 5] = [1, 1, 2, 3, 5];
    for measure in [Measure::LC, Measure::WLC, Measure::SED, Measure::NQ] {
        run_with(Options::ROOMY, |lb| {
            for farm in farms(lb, 5) {
                let mut weights = WEIGHTS.into_iter();
                lb.update_loads(farm.reals.iter().copied(), |load| {
                    load.weight = weights.next().expect("a weight for each");
                });
                lb.set_schedule(farm.service, Schedule::least(measure));
                let got = shares(lb, &farm, measure, &WEIGHTS);
                println!("{measure:?}: {got:?} of {CONNECTIONS} by weights {WEIGHTS:?}");
                // So that the simulation itself is no nonsense: the heavier, the more, but for `lc`.
                let (lightest, heaviest) = (got[0].min(got[1]), got[4]);
                assert_eq!(heaviest > 2 * lightest, measure != Measure::LC, "{got:?}");
            }
        });
    }
}

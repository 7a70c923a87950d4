//! When a client's real server keeps it, and when it yields.

use balancer_common::{real_server::state, verdict::Discard};
use balancer_tests::{
    dataplane::{Dataplane, Side::Outside, run},
    expected::dropped,
};

use super::{Scene, of_client, scenes};

impl Scene {
    /// The client keeps the first real server.
    #[track_caller]
    fn keeps_first(&self, lb: &mut Dataplane) {
        let syn = self.syn(40_000);
        lb.step(Outside, &syn, self.scheduled(0, &syn));
        self.completes(lb, 0, &syn);
    }
}

#[test]
fn a_real_server_that_takes_only_the_clients_that_it_has_gets_those_and_no_others() {
    run(|lb| {
        for scene in scenes(lb) {
            let [first, second] = scene.reals;
            scene.keeps_first(lb);
            lb.forget_pending();
            lb.set_real_state(first, state::TAKES_KNOWN);
            // Before the ring is new, and then.
            for available in [&[first, second][..], &[second]] {
                lb.set_ring(scene.service, available);
                for at in 1..3 {
                    let base = 41_000 + 10 * available.len() as u16;
                    let known = scene.syn(base + at);
                    lb.step(Outside, &known, scene.kept(0, &known));
                    scene.completes(lb, 0, &known);
                    let other = of_client(&known, u32::from(base + at));
                    lb.step(Outside, &other, scene.scheduled(1, &other));
                }
            }
        }
    });
}

#[test]
fn the_clients_of_a_real_server_that_takes_nobody_get_another_and_stay_there() {
    for gone in [
        state::DRAINING,
        state::REMOVED,
        state::RESET,
        state::REMOVED_RESET,
        state::FREE,
    ] {
        run(|lb| {
            for scene in scenes(lb) {
                let [first, second] = scene.reals;
                scene.keeps_first(lb);
                lb.forget_pending();
                lb.set_real_state(first, gone);
                lb.set_ring(scene.service, &[second]);
                let next = scene.syn(40_001);
                lb.step(Outside, &next, scene.scheduled(1, &next));
                scene.completes(lb, 1, &next);
                // It is there again, and the client stays where it is.
                lb.set_real_state(first, state::TAKES_NEW);
                lb.set_ring(scene.service, &[first, second]);
                let next = scene.syn(40_002);
                lb.step(Outside, &next, scene.kept(1, &next));
            }
        });
    }
}

#[test]
fn a_client_whose_real_server_takes_nobody_keeps_it_until_another_handshake_is_complete() {
    run(|lb| {
        for scene in scenes(lb) {
            let [first, second] = scene.reals;
            scene.keeps_first(lb);
            lb.set_real_state(first, state::DRAINING);
            lb.set_ring(scene.service, &[second]);
            let next = scene.syn(40_001);
            lb.step(Outside, &next, scene.scheduled(1, &next));
            lb.set_real_state(first, state::TAKES_NEW);
            let next = scene.syn(40_002);
            lb.step(Outside, &next, scene.kept(0, &next));
        }
    });
}

#[test]
fn connections_that_a_client_opens_at_once_go_to_one_real_server_when_its_own_yields() {
    run(|lb| {
        for scene in scenes(lb) {
            let [first, second] = scene.reals;
            scene.keeps_first(lb);
            lb.forget_pending();
            let third = lb.add_real(scene.addresses[0], 8081);
            lb.set_real_state(first, state::DRAINING);
            // This turn is the second's, and the next one the third's.
            lb.set_ring(scene.service, &[third, second]);
            let next = scene.syn(40_001);
            lb.step(Outside, &next, scene.scheduled(1, &next));
            for port in 40_002..40_006 {
                let next = scene.syn(port);
                lb.step(Outside, &next, scene.kept(1, &next));
            }
        }
    });
}

#[test]
fn where_nobody_takes_the_client_it_is_as_without_persistence() {
    run(|lb| {
        for scene in scenes(lb) {
            scene.keeps_first(lb);
            for real in scene.reals {
                lb.set_real_state(real, state::DRAINING);
            }
            lb.set_slots(scene.service, &[], &[]);
            let next = scene.syn(40_001);
            let expected = dropped(Discard::NoReal).passed_over(scene.service, 1);
            lb.step(Outside, &next, expected);
        }
    });
}

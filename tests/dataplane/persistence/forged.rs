//! What somebody who sends in others' names, and sees no answers, does to what clients keep: nothing.

use balancer_tests::{
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    emulated::rounds,
    packet::flag::{ACK, FIN, PSH, RST, SYN},
};

use super::{of_client, scenes, scenes_with_clients};
use crate::{establish, syn_ack};

#[test]
fn a_flood_of_forged_syns_makes_no_entry_and_displaces_none() {
    let forged = rounds(50_000_u32);
    run(|lb| {
        let (scenes, before) = scenes_with_clients(lb);
        for scene in &scenes {
            for number in 1..=forged {
                lb.pass_through(Outside, &of_client(&scene.syn, number));
            }
        }
        assert_eq!(lb.all_kept(), before);
        for scene in &scenes {
            establish(lb, &scene.syn(40_001), scene.addresses[0], 8080);
            let kept = lb.kept(scene.client(scene.syn.source));
            assert_eq!(kept.expect("an entry").real, scene.reals[0]);
        }
        assert_eq!(lb.all_kept().len(), 2);
    });
}

#[test]
fn what_comes_blindly_in_a_handshake_makes_no_entry() {
    run(|lb| {
        for scene in scenes(lb) {
            let syn = scene.syn(40_000);
            lb.step(Outside, &syn, scene.scheduled(0, &syn));
            lb.pass_through(Inside, &syn_ack(&syn, scene.addresses[0], 8080));
            for flags in [
                FIN,
                FIN | ACK,
                FIN | PSH | ACK,
                RST,
                RST | ACK,
                SYN,
                SYN | ACK,
                SYN | FIN,
                ACK,
            ] {
                let forged = syn.clone().segment(flags, 1001, 77);
                lb.step(Outside, &forged, scene.delivered(0, &forged));
            }
            // With the right number it says nothing either where it does not acknowledge.
            for flags in [FIN, RST, RST | ACK, SYN, PSH] {
                let forged = syn.clone().segment(flags, 1001, 9001);
                lb.step(Outside, &forged, scene.delivered(0, &forged));
            }
            scene.completes(lb, 0, &syn);
        }
    });
}

/// An acknowledgement a little beyond the SYN|ACK completes the connection, as with TCP Fast Open, but whoever guesses must not be remembered.
#[test]
fn an_acknowledgement_that_is_guessed_nearly_makes_no_entry() {
    run(|lb| {
        for scene in scenes(lb) {
            for (port, beyond) in (40_000..).zip([1, 2, 1460, (1 << 16) - 1]) {
                let syn = scene.syn(port);
                lb.pass_through(Outside, &syn);
                lb.pass_through(Inside, &syn_ack(&syn, scene.addresses[0], 8080));
                let forged = syn.clone().segment(ACK, 1001, 9001 + beyond);
                let established = scene.delivered(0, &forged).pair_of(&forged).half_open(-1);
                lb.step(Outside, &forged, established);
            }
        }
        assert!(lb.all_kept().is_empty());
    });
}

#[test]
fn nothing_in_a_connection_makes_or_renews_an_entry() {
    run(|lb| {
        for scene in scenes(lb) {
            let syn = scene.syn(40_000);
            establish(lb, &syn, scene.addresses[0], 8080);
            lb.age_kept(scene.client(syn.source), 10_000);
            let before = lb.all_kept();
            for (flags, sequence) in [
                (ACK, 1001),
                (PSH | ACK, 1001),
                (SYN, 77_000),
                (FIN, 5),
                (FIN | ACK, 1001),
                (RST, 77_000),
                (ACK, 1001),
            ] {
                lb.pass_through(Outside, &syn.clone().segment(flags, sequence, 9001));
                let answer = syn.answered(scene.addresses[0], 8080);
                lb.pass_through(Inside, &answer.segment(ACK, 9001, 1001));
                assert_eq!(lb.all_kept(), before, "flags {flags:#x}");
            }
        }
    });
}

#[test]
fn a_real_servers_refusal_makes_no_entry() {
    run(|lb| {
        for scene in scenes(lb) {
            let syn = scene.syn(40_000);
            for answered in [false, true] {
                lb.pass_through(Outside, &syn);
                if answered {
                    lb.pass_through(Inside, &syn_ack(&syn, scene.addresses[0], 8080));
                }
                let sequence = if answered { 9001 } else { 0 };
                let refusal = syn.answered(scene.addresses[0], 8080);
                lb.pass_through(Inside, &refusal.segment(RST | ACK, sequence, 1001));
                lb.pass_through(Outside, &syn.clone().segment(ACK, 1001, 9001));
            }
        }
        assert!(lb.all_kept().is_empty());
    });
}

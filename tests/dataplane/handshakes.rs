//! TCP handshakes: their entries, what completes them, what ends them.

use balancer_common::{real_server::state, tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, V},
    dataplane::{
        Side::{Inside, Outside},
        TIMEOUTS, run,
    },
    expected::{answered, dropped, passed, redirected},
    packet::flag::{ACK, FIN, PSH, RST, SYN},
};

use crate::{assert_state, reaches_client, reaches_real, syn, syn_ack, two_reals};

#[test]
fn the_handshake_has_its_entries_from_the_syn_on_and_the_last_ack_completes_it() {
    run(|lb| {
        let web = lb.web();
        let syn = syn();
        lb.pass_through(Outside, &syn);
        let [record] = lb.half_open()[..] else {
            panic!("one handshake")
        };
        assert_eq!(record.state, State::SynSent as u8);
        assert_eq!(record.real_id, web.real);
        lb.pass_through(Inside, &syn_ack(&syn, R, 8080));
        let [record] = lb.half_open()[..] else {
            panic!("one handshake")
        };
        assert_eq!(
            (record.state, record.sequence),
            (State::SynReceived as u8, 9000)
        );
        let ack = syn.segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8080))
                .original(web.real, &ack)
                .pair_v4()
                .half_open(-1),
        );
        assert_state(lb, State::Established);
    });
}

#[test]
fn a_retransmitted_syn_ack_and_duplicate_acks_change_nothing() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        let answer = syn_ack(&syn(), R, 8080);
        let out = answer.returned(V, 80);
        lb.step(Inside, &answer, redirected(&out).reply(web.real, &answer));
        lb.step(Inside, &answer, redirected(&out).reply(web.real, &answer));
        let ack = syn().segment(ACK, 1001, 9001);
        lb.pass_through(Outside, &ack);
        for _ in 0..3 {
            let out = ack.delivered(R, 8080);
            lb.step(Outside, &ack, redirected(&out).original(web.real, &ack));
        }
        // The real server did not hear the first ACK and says its SYN|ACK again.
        lb.step(Inside, &answer, redirected(&out).reply(web.real, &answer));
        assert_state(lb, State::Established);
    });
}

#[test]
fn an_ack_with_a_wrong_number_does_not_complete_the_handshake() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        // Before the real server has answered no number is right.
        let early = syn().segment(ACK, 1001, 9001);
        let out = early.delivered(R, 8080);
        lb.step(Outside, &early, redirected(&out).original(web.real, &early));
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        for number in [0, 9000, 8999, 9001 + (1 << 16), u32::MAX] {
            let wrong = syn().segment(ACK, 1001, number);
            let out = wrong.delivered(R, 8080);
            lb.step(Outside, &wrong, redirected(&out).original(web.real, &wrong));
        }
        assert_eq!(lb.half_open()[0].state, State::SynReceived as u8);
    });
}

#[test]
fn a_fast_open_server_may_send_data_before_the_handshake_ends() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn().data(b"GET /"));
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        let page = syn()
            .answered(R, 8080)
            .segment(PSH | ACK, 9001, 1006)
            .data(&[3; 1400]);
        reaches_client(lb, web.real, &page);
        let ack = syn().segment(ACK, 1006, 9001 + 1400);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8080))
                .original(web.real, &ack)
                .pair_v4()
                .half_open(-1),
        );
    });
}

#[test]
fn a_forged_syn_does_not_keep_a_real_server_with_cookies_from_its_client() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        // It answers each SYN with another number, and remembers none.
        lb.pass_through(Outside, &syn().segment(SYN, 5, 0));
        lb.pass_through(
            Inside,
            &syn().answered(R, 8080).segment(SYN | ACK, 1_000_000, 6),
        );
        lb.pass_through(Outside, &syn().segment(ACK, 1001, 9001));
        let page = syn().answered(R, 8080).segment(PSH | ACK, 9001, 1001);
        lb.pass_through(Inside, &page.data(b"hello"));
        let ack = syn().segment(ACK, 1001, 9006);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8080))
                .original(web.real, &ack)
                .pair_v4()
                .half_open(-1),
        );
    });
}

#[test]
fn a_fin_that_completes_the_handshake_begins_the_closing() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        let fin = syn().segment(FIN | ACK, 1001, 9001);
        lb.step(
            Outside,
            &fin,
            redirected(&fin.delivered(R, 8080))
                .original(web.real, &fin)
                .pair_v4()
                .half_open(-1),
        );
        assert_state(lb, State::FinOriginal);
    });
}

#[test]
fn a_reset_by_the_real_server_ends_the_handshake() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        let refusal = syn().answered(R, 8080).segment(RST | ACK, 0, 1001);
        lb.step(
            Inside,
            &refusal,
            redirected(&refusal.returned(V, 80))
                .reply(web.real, &refusal)
                .pair_v4()
                .half_open(-1),
        );
        assert_state(lb, State::Closed);
        // The client tries again at once, on the same port.
        let again = syn().segment(SYN, 2000, 0);
        lb.step(
            Outside,
            &again,
            redirected(&again.delivered(R, 8080))
                .original(web.real, &again)
                .selected(web.service, web.real)
                .pair_v4_deleted()
                .half_open(1),
        );
        let answer = again.answered(R, 8080).segment(SYN | ACK, 5000, 2001);
        reaches_client(lb, web.real, &answer);
        let ack = again.clone().segment(ACK, 2001, 5001);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8080))
                .original(web.real, &ack)
                .pair_v4()
                .half_open(-1),
        );
    });
}

#[test]
fn a_reset_by_the_client_leaves_the_handshake_to_its_timeout() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        let reset = syn().segment(RST, 1001, 0);
        reaches_real(lb, web.real, &reset);
        // Its time is over: nothing is known of the connection any more.
        let past = (lb.jiffies() as u32).wrapping_sub(TIMEOUTS.half_open + 1);
        lb.change_half_open(|row| row.last_seen = past);
        lb.step(Outside, &reset, dropped(Discard::StrayReset).half_open(-1));
        let late = syn_ack(&syn(), R, 8080);
        lb.step(Inside, &late, passed(Discard::NoService, &late.bytes()));
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_forgotten() {
    run(|lb| {
        let (service, _, second) = two_reals(lb);
        lb.pass_through(Outside, &syn());
        let past = lb.jiffies() as u32;
        lb.change_half_open(|record| {
            record.last_seen = past.wrapping_sub(TIMEOUTS.half_open + 1);
        });
        let answer = syn_ack(&syn(), R, 8080);
        lb.step(
            Inside,
            &answer,
            passed(Discard::NoService, &answer.bytes()).half_open(-1),
        );
        let ack = syn().segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            answered(Discard::NoConnection, &ack.reset(RST, 9001, 0)),
        );
        lb.step(
            Outside,
            &syn(),
            redirected(&syn().delivered(R2, 8080))
                .original(second, &syn())
                .selected(service, second)
                .half_open(1),
        );
    });
}

#[test]
fn case_06_a_retransmitted_syn_goes_to_the_same_real_server() {
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        lb.pass_through(Outside, &syn());
        let again = redirected(&syn().delivered(R, 8080)).original(first, &syn());
        lb.step(Outside, &syn(), again);
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        let again = redirected(&syn().delivered(R, 8080)).original(first, &syn());
        lb.step(Outside, &syn(), again);
        // The handshake still completes.
        let ack = syn().segment(ACK, 1001, 9001);
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8080))
                .original(first, &ack)
                .pair_v4()
                .half_open(-1),
        );
    });
}

#[test]
fn a_syn_sent_again_leaves_a_real_server_that_takes_no_more() {
    for gone in [
        state::DRAINING,
        state::REMOVED,
        state::FREE,
        state::RESET,
        state::REMOVED_RESET,
    ] {
        run(|lb| {
            let first = lb.add_real(R, 8080);
            let second = lb.add_real(R2, 8080);
            let service = lb.add_service(6, V, 80, &[first, second]);
            lb.pass_through(Outside, &syn());
            lb.set_real_state(first, gone);
            lb.set_ring(service, &[second]);
            let (_, frame) = lb.send(Outside, &syn().bytes());
            assert_eq!(frame, syn().delivered(R2, 8080).bytes(), "state {gone}");
            assert_eq!(lb.half_open().len(), 1);
        });
    }
}

#[test]
fn a_reset_for_a_wrong_acknowledgement_leaves_the_handshake() {
    run(|lb| {
        lb.web();
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        // Somebody else's acknowledgement: the real server resets it and goes on waiting (RFC 9293 3.10.7.4).
        lb.pass_through(Outside, &syn().segment(ACK, 5, 77));
        lb.pass_through(Inside, &syn().answered(R, 8080).segment(RST, 77, 0));
        lb.pass_through(Outside, &syn().segment(ACK, 1001, 9001));
        assert_eq!(lb.rows_v4().len(), 2);
    });
}

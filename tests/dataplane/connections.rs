//! The life of a TCP connection after its handshake: closing, resets, and ports that are used again.

use balancer_common::{tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, V},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::{dropped, passed, redirected},
    packet::flag::{ACK, FIN, PSH, RST, SYN},
};

use crate::{assert_state, establish, reaches_client, reaches_real, syn, syn_ack, two_reals};

#[test]
fn case_07_the_same_client_port_on_two_services_makes_two_connections() {
    run(|lb| {
        let web = lb.web();
        let secure = lb.add_real(R, 8443);
        let service = lb.add_service(6, V, 443, &[secure]);
        establish(lb, &syn(), R, 8080);
        let other = syn().to_port(443);
        lb.step(
            Outside,
            &other,
            redirected(&other.delivered(R, 8443))
                .original(secure, &other)
                .selected(service, secure)
                .half_open(1),
        );
        let answer = syn_ack(&other, R, 8443);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V, 443)).reply(secure, &answer),
        );
        let ack = other.clone().segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R, 8443))
                .original(secure, &ack)
                .pair_v4()
                .half_open(-1),
        );
        // Each goes on by itself.
        let page = syn().answered(R, 8080).segment(ACK, 9001, 1001).data(b"a");
        reaches_client(lb, web.real, &page);
        let page = syn().answered(R, 8443).segment(ACK, 9001, 1001).data(b"b");
        lb.step(
            Inside,
            &page,
            redirected(&page.returned(V, 443)).reply(secure, &page),
        );
    });
}

#[test]
fn two_services_never_share_a_real_servers_answers() {
    run(|lb| {
        // Both services end at R:8080: with one client port the answers could not be told apart.
        lb.web();
        let shared = lb.add_real(R, 8080);
        let service = lb.add_service(6, V, 443, &[shared]);
        let other = syn().to_port(443);
        lb.pass_through(Outside, &syn());
        // While the first handshake is under way, and when it is a connection.
        lb.step(
            Outside,
            &other,
            dropped(Discard::Collision).passed_over(service, 1),
        );
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.pass_through(Outside, &syn().segment(ACK, 1001, 9001));
        lb.step(
            Outside,
            &other,
            dropped(Discard::Collision).passed_over(service, 1),
        );
        // Another real server is taken where there is one: the turn is the shared one's, which is also the first of the least loaded.
        let free = lb.add_real(R2, 8080);
        lb.set_ring(service, &[shared, free]);
        lb.step(
            Outside,
            &other,
            redirected(&other.delivered(R2, 8080))
                .original(free, &other)
                .selected(service, free)
                .half_open(1),
        );
    });
}

#[test]
fn a_closed_connection_of_another_service_makes_room() {
    run(|lb| {
        let web = lb.web();
        let shared = lb.add_real(R, 8080);
        let service = lb.add_service(6, V, 443, &[shared]);
        establish(lb, &syn(), R, 8080);
        let reset = syn().answered(R, 8080).segment(RST, 9001, 0);
        reaches_client(lb, web.real, &reset);
        let other = syn().to_port(443);
        lb.step(
            Outside,
            &other,
            redirected(&other.delivered(R, 8080))
                .original(shared, &other)
                .selected(service, shared)
                .half_open(1)
                .pair_v4_deleted(),
        );
        let answer = syn_ack(&other, R, 8080);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V, 443)).reply(shared, &answer),
        );
    });
}

#[test]
fn case_10_a_connection_that_both_sides_close_stays_for_the_grace_time() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let fin = syn().segment(FIN | ACK, 1001, 9001);
        reaches_real(lb, web.real, &fin);
        assert_state(lb, State::FinOriginal);
        // Half-closed: the real server's last data still comes through.
        let data = syn()
            .answered(R, 8080)
            .segment(PSH | ACK, 9001, 1002)
            .data(b"last");
        reaches_client(lb, web.real, &data);
        assert_state(lb, State::FinOriginal);
        let fin = syn().answered(R, 8080).segment(FIN | ACK, 9005, 1002);
        reaches_client(lb, web.real, &fin);
        assert_state(lb, State::TimeWait);
        let ack = syn().segment(ACK, 1002, 9006);
        reaches_real(lb, web.real, &ack);
        assert_state(lb, State::TimeWait);
        // The last acknowledgement was lost, and both send again: it stays over.
        reaches_client(lb, web.real, &fin);
        reaches_real(lb, web.real, &ack);
        assert_state(lb, State::TimeWait);
    });
}

#[test]
fn a_connection_that_the_real_server_closes_first_ends_alike() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let fin = syn().answered(R, 8080).segment(FIN | ACK, 9001, 1001);
        reaches_client(lb, web.real, &fin);
        assert_state(lb, State::FinReply);
        let fin = syn().segment(FIN | ACK, 1001, 9002);
        reaches_real(lb, web.real, &fin);
        assert_state(lb, State::Closing);
        let ack = syn().answered(R, 8080).segment(ACK, 9002, 1002);
        reaches_client(lb, web.real, &ack);
        assert_state(lb, State::TimeWait);
    });
}

#[test]
fn what_is_sent_again_behind_the_clients_fin_does_not_open_its_side_again() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        // The data before it was lost on the way here.
        let fin = syn().segment(FIN | ACK, 1005, 9001);
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"last");
        for segment in [fin, data] {
            reaches_real(lb, web.real, &segment);
            assert_state(lb, State::FinOriginal);
        }
        // The real server repeats its SYN|ACK where it waits for data before it accepts (TCP_DEFER_ACCEPT).
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        assert_state(lb, State::FinOriginal);
        let fin = syn().answered(R, 8080).segment(FIN | ACK, 9001, 1006);
        reaches_client(lb, web.real, &fin);
        assert_state(lb, State::TimeWait);
    });
}

#[test]
fn a_connection_that_both_sides_close_at_once_ends_alike() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let fin = syn().segment(FIN | ACK, 1001, 9001).data(b"last");
        reaches_real(lb, web.real, &fin);
        let answer = syn().answered(R, 8080);
        for (segment, state) in [
            (
                answer.clone().segment(FIN | ACK, 9001, 1001),
                State::Closing,
            ),
            (answer.segment(ACK, 9002, 1006), State::TimeWait),
        ] {
            reaches_client(lb, web.real, &segment);
            assert_state(lb, state);
        }
    });
}

#[test]
fn case_11_a_reset_by_the_client_closes_the_connection() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let reset = syn().segment(RST, 1001, 0);
        reaches_real(lb, web.real, &reset);
        assert_state(lb, State::ClosedOriginal);
    });
}

#[test]
fn case_12_a_reset_by_the_real_server_closes_the_connection() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let reset = syn().answered(R, 8080).segment(RST | ACK, 9001, 1001);
        reaches_client(lb, web.real, &reset);
        assert_state(lb, State::Closed);
    });
}

#[test]
fn case_13_a_syn_on_a_connection_that_is_over_selects_anew() {
    for state in [State::TimeWait, State::Closed] {
        run(|lb| {
            let (service, first, second) = two_reals(lb);
            establish(lb, &syn(), R, 8080);
            lb.change_rows_v4(|row| row.state = state as u8);
            let again = syn().segment(SYN, 77_000, 0);
            lb.step(
                Outside,
                &again,
                redirected(&again.delivered(R2, 8080))
                    .original(second, &again)
                    .selected(service, second)
                    .half_open(1)
                    .pair_v4_deleted(),
            );
            let answer = again.answered(R2, 8080).segment(SYN | ACK, 4000, 77_001);
            reaches_client(lb, second, &answer);
            let ack = again.clone().segment(ACK, 77_001, 4001);
            lb.step(
                Outside,
                &ack,
                redirected(&ack.delivered(R2, 8080))
                    .original(second, &ack)
                    .pair_v4()
                    .half_open(-1),
            );
            assert_state(lb, State::Established);
            assert!(
                lb.rows_v4().iter().all(|(_, row)| row.real == second),
                "{first} is forgotten"
            );
            // What the old real server still says is no connection's any more.
            let stale = syn().answered(R, 8080).segment(ACK, 9001, 1001);
            lb.step(Inside, &stale, passed(Discard::NoService, &stale.bytes()));
        });
    }
}

#[test]
fn case_14_a_syn_before_the_clients_fin_is_acknowledged_goes_to_the_same_real_server() {
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        establish(lb, &syn(), R, 8080);
        lb.pass_through(
            Inside,
            &syn().answered(R, 8080).segment(FIN | ACK, 9001, 1001),
        );
        lb.pass_through(Outside, &syn().segment(FIN | ACK, 1001, 9002));
        let again = syn().segment(SYN, 77_000, 0);
        reaches_real(lb, first, &again);
        assert_state(lb, State::Closing);
        // Its answer tells that the client has begun anew.
        let answer = again.answered(R, 8080).segment(SYN | ACK, 50_000, 77_001);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V, 80))
                .reply(first, &answer)
                .pair_v4_deleted()
                .half_open(1),
        );
        lb.pass_through(Outside, &again.segment(ACK, 77_001, 50_001));
        assert_state(lb, State::Established);
    });
}

#[test]
fn case_14_a_syn_on_an_established_connection_goes_to_the_same_real_server() {
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        establish(lb, &syn(), R, 8080);
        let again = syn().segment(SYN, 77_000, 0);
        reaches_real(lb, first, &again);
        assert_state(lb, State::Established);
    });
}

#[test]
fn case_16_a_reset_without_a_connection_is_dropped() {
    run(|lb| {
        lb.web();
        for flags in [RST, RST | ACK] {
            lb.step(
                Outside,
                &syn().segment(flags, 1, 7000),
                dropped(Discard::StrayReset),
            );
            lb.step(
                Outside,
                &syn().v6().segment(flags, 1, 7000),
                dropped(Discard::StrayReset),
            );
        }
    });
}

#[test]
fn case_17_a_syn_ack_without_a_connection_is_dropped() {
    run(|lb| {
        lb.web();
        let packet = syn().segment(SYN | ACK, 1, 7000);
        lb.step(Outside, &packet, dropped(Discard::StraySynAck));
        lb.step(Outside, &packet.v6(), dropped(Discard::StraySynAck));
    });
}

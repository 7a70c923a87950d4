//! What somebody who sends in a client's name, and sees no answers, does to that client's connection: nothing.

use balancer_common::{real_server::state, tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R6, V, V6},
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        TIMEOUTS, run, run_with,
    },
    expected::{answered, dropped, passed, redirected},
    packet::{
        Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
};

use crate::{assert_state, establish, reaches_real, syn, syn_ack, two_reals};

/// The client goes on, and the real server answers.
#[track_caller]
fn goes_on(lb: &mut Dataplane, real: u32, syn: &Packet) {
    let (address, vip) = if syn.source.is_ipv4() {
        (R, V)
    } else {
        (R6, V6)
    };
    let data = syn.clone().segment(PSH | ACK, 1001, 9001).data(b"more");
    lb.step(
        Outside,
        &data,
        redirected(&data.delivered(address, 8080)).original(real, &data),
    );
    let page = syn
        .answered(address, 8080)
        .segment(PSH | ACK, 9001, 1005)
        .data(b"page");
    lb.step(
        Inside,
        &page,
        redirected(&page.returned(vip, 80)).reply(real, &page),
    );
}

/// The client's acknowledgement completes the handshake with the real server at `R`:8080.
#[track_caller]
fn completes(lb: &mut Dataplane, real: u32, ack: &Packet) {
    lb.step(
        Outside,
        ack,
        redirected(&ack.delivered(R, 8080))
            .original(real, ack)
            .pair_v4()
            .half_open(-1),
    );
    assert_state(lb, State::Established);
}

#[test]
fn no_combination_of_flags_ends_an_established_connection() {
    for flags in [
        SYN,
        SYN | RST,
        SYN | FIN,
        SYN | FIN | RST | ACK,
        RST,
        RST | ACK,
        FIN,
        FIN | ACK,
    ] {
        run(|lb| {
            let web = lb.web();
            for (syn, real) in [(syn(), web.real), (syn().v6(), web.real6)] {
                establish(lb, &syn, if syn.source.is_ipv4() { R } else { R6 }, 8080);
                lb.pass_through(Outside, &syn.clone().segment(flags, 555, 777));
                lb.pass_through(Outside, &syn.clone().segment(SYN, 556, 0));
                // What the real server says to that (RFC 5961 section 4): an acknowledgement.
                let challenge = syn
                    .answered(if syn.source.is_ipv4() { R } else { R6 }, 8080)
                    .segment(ACK, 9001, 1001);
                lb.pass_through(Inside, &challenge);
                goes_on(lb, real, &syn);
                goes_on(lb, real, &syn);
            }
            assert_state(lb, State::Established);
        });
    }
}

#[test]
fn a_syn_on_a_connection_goes_to_its_real_server_whatever_that_is_doing() {
    for real_state in [state::DRAINING, state::REMOVED] {
        run(|lb| {
            let (service, first, second) = two_reals(lb);
            establish(lb, &syn(), R, 8080);
            lb.set_real_state(first, real_state);
            lb.set_ring(service, &[second]);
            for state in [
                State::Established,
                State::FinOriginal,
                State::FinReply,
                State::ClosedOriginal,
            ] {
                lb.change_rows_v4(|row| row.state = state as u8);
                let again = syn().segment(SYN, 77_000, 0);
                reaches_real(lb, first, &again);
                assert_state(lb, state);
            }
        });
    }
}

#[test]
fn a_client_that_begins_anew_on_its_port_is_believed_when_its_real_server_is() {
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        establish(lb, &syn(), R, 8080);
        lb.pass_through(Outside, &syn().segment(RST, 1001, 0));
        assert_state(lb, State::ClosedOriginal);
        let again = syn().segment(SYN, 77_000, 0);
        lb.pass_through(Outside, &again);
        let answer = again.answered(R, 8080).segment(SYN | ACK, 50_000, 77_001);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V, 80))
                .reply(first, &answer)
                .pair_v4_deleted()
                .half_open(1),
        );
        let ack = again.segment(ACK, 77_001, 50_001);
        completes(lb, first, &ack);
    });
}

#[test]
fn traffic_of_one_side_does_not_undo_a_reset() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        lb.pass_through(Outside, &syn().segment(RST, 1001, 0));
        for _ in 0..3 {
            lb.pass_through(Inside, &syn().answered(R, 8080).segment(ACK, 9001, 1001));
        }
        assert_state(lb, State::ClosedOriginal);
        // What only says that there is no such connection is no sign of life.
        lb.pass_through(Outside, &syn().segment(RST, 1001, 0));
        assert_state(lb, State::ClosedOriginal);
    });
}

#[test]
fn a_forged_fin_is_undone_by_the_clients_next_data() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.pass_through(Outside, &syn().segment(FIN | ACK, 1, 2));
        assert_state(lb, State::FinOriginal);
        goes_on(lb, web.real, &syn());
        assert_state(lb, State::Established);
    });
}

#[test]
fn an_upload_goes_on_after_its_real_servers_fin_whatever_is_forged_in_the_clients_name() {
    run_with(
        Options {
            max_connections: 64,
            ..Options::default()
        },
        |lb| {
            let (_, first, second) = two_reals(lb);
            establish(lb, &syn(), R, 8080);
            let answer = syn().answered(R, 8080);
            lb.pass_through(Inside, &answer.clone().segment(FIN | ACK, 9001, 1001));
            assert_state(lb, State::FinReply);
            // A FIN that the client has not sent, and what the real server says to it (RFC 9293 section 3.10.7.4).
            lb.pass_through(Outside, &syn().segment(FIN | ACK, 3_000_000_000, 9002));
            lb.pass_through(Inside, &answer.clone().segment(ACK, 9002, 1001));
            assert_state(lb, State::Closing);
            let again = syn().segment(SYN, 77_000, 0);
            reaches_real(lb, first, &again);
            lb.pass_through(Inside, &answer.segment(ACK, 9002, 1001));
            assert_state(lb, State::Closing);
            // A flood of handshakes takes no assured connection's place.
            for port in 1_000..3_000 {
                let _ = lb.send(Outside, &syn().client_port(port).bytes());
            }
            let data = syn().segment(PSH | ACK, 1001, 9002).data(b"more");
            reaches_real(lb, first, &data);
            let mine: Vec<_> = lb
                .rows_v4()
                .into_iter()
                .filter(|(_, row)| row.state == State::FinReply as u8)
                .collect();
            assert_eq!(mine.len(), 2, "{second} has none of it: {mine:?}");
        },
    );
}

#[test]
fn a_reset_connection_is_displaced_only_after_what_is_over() {
    run_with(
        Options {
            max_connections: 64,
            ..Options::default()
        },
        |lb| {
            let web = lb.web();
            establish(lb, &syn(), R, 8080);
            lb.pass_through(Outside, &syn().segment(RST, 1, 0));
            for port in 1_000..3_000 {
                let other = syn().client_port(port);
                establish(lb, &other, R, 8080);
                lb.pass_through(Inside, &other.answered(R, 8080).segment(RST, 9001, 0));
            }
            goes_on(lb, web.real, &syn());
        },
    );
}

#[test]
fn a_datagram_of_a_removed_real_server_goes_to_another() {
    for removed in [state::REMOVED, state::REMOVED_RESET, state::RESET] {
        run(|lb| {
            let first = lb.add_real(R, 8053);
            let second = lb.add_real(balancer_tests::addresses::R2, 8053);
            let service = lb.add_service(17, V, 53, &[first, second]);
            let ping = Packet::udp(b"ping");
            lb.pass_through(Outside, &ping);
            lb.pass_through(Inside, &ping.answered(R, 8053));
            lb.pass_through(Outside, &ping);
            lb.set_ring(service, &[second]);
            lb.set_real_state(first, removed);
            lb.step(
                Outside,
                &ping,
                redirected(&ping.delivered(balancer_tests::addresses::R2, 8053))
                    .original(second, &ping)
                    .selected(service, second)
                    .pair_v4_deleted()
                    .pair_v4(),
            );
        });
    }
}

#[test]
fn the_datagrams_of_a_removed_real_server_keep_no_connection() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        lb.set_real_state(dns.real, state::REMOVED);
        let old = lb.jiffies() as u32 - 1_000;
        lb.change_rows_v4(|row| row.last_seen = old);
        lb.pass_through(Inside, &ping.answered(R, 8053));
        assert!(lb.rows_v4().iter().all(|(_, row)| row.last_seen == old));
    });
}

#[test]
fn only_an_established_connection_is_answered_without_a_limit() {
    run(|lb| {
        let web = lb.web();
        // Neither needs an answer of the real server.
        lb.pass_through(Outside, &syn());
        lb.pass_through(Outside, &syn().segment(RST, 1001, 0));
        lb.fail_real(web.real);
        lb.exhaust_answers(true);
        let data = syn().segment(ACK, 1001, 9001);
        lb.step(Outside, &data, dropped(Discard::Unanswered).half_open(-1));
    });
}

#[test]
fn a_real_server_that_speaks_without_a_connection_is_passed_or_answered() {
    run(|lb| {
        lb.web();
        lb.dns();
        let page = syn().answered(R, 8080).segment(PSH | ACK, 9001, 1001);
        let page = page.data(b"late");
        let pong = Packet::udp(b"ping").answered(R, 8053);
        lb.step(Inside, &page, passed(Discard::NoService, &page.bytes()));
        lb.step(Inside, &pong, passed(Discard::NoService, &pong.bytes()));
        lb.change_settings(|settings| settings.answer_stray_replies = 1);
        lb.step(
            Inside,
            &page,
            answered(Discard::StrayReply, &page.reset(RST, 1001, 0)),
        );
        lb.step(
            Inside,
            &pong,
            answered(Discard::StrayReply, &pong.port_unreachable()),
        );
        let reset = syn().answered(R, 8080).segment(RST, 9001, 0);
        lb.step(Inside, &reset, dropped(Discard::StrayReset));
        // Another port of the same machine is nobody's business here.
        let other = syn().answered(R, 22).segment(ACK, 9001, 1001);
        lb.step(Inside, &other, passed(Discard::NoService, &other.bytes()));
        let late = syn_ack(&syn(), R, 8080);
        lb.step(
            Inside,
            &late,
            answered(Discard::StrayReply, &late.reset(RST, 1001, 0)),
        );
    });
}

#[test]
fn an_idle_connection_whose_real_server_speaks_too_late_is_a_stray() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        lb.change_settings(|settings| settings.answer_stray_replies = 1);
        // The clock wraps five minutes after the machine's start.
        let past = (lb.jiffies() as u32).wrapping_sub(TIMEOUTS.established + 1);
        lb.change_rows_v4(|row| row.last_seen = past);
        let page = syn()
            .answered(R, 8080)
            .segment(PSH | ACK, 9001, 1001)
            .data(b"late");
        lb.step(
            Inside,
            &page,
            answered(Discard::StrayReply, &page.reset(RST, 1001, 0)).pair_v4_deleted(),
        );
    });
}

#[test]
fn no_forged_frames_in_the_middle_of_a_handshake_end_it() {
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.pass_through(Outside, &syn().segment(RST, 555, 0));
        lb.pass_through(Outside, &syn().segment(ACK, 1001, 4_000_000));
        // The real server's reset for the wrong acknowledgement (RFC 9293 section 3.10.7.4).
        lb.pass_through(Inside, &syn().answered(R, 8080).segment(RST, 4_000_000, 0));
        let again = syn().segment(SYN, 77_000, 0);
        reaches_real(lb, first, &again);
        let ack = syn().segment(ACK, 1001, 9001);
        completes(lb, first, &ack);
        goes_on(lb, first, &syn());
    });
}

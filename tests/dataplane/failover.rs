//! Connections that another balancer has begun: picked up by the client's segments where a hash names the real server, and those of real
//! servers passed on for as long as the daemon says.

use balancer_common::{scheduler::pick, tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, R6, S, V, V6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        TIMEOUTS, run,
    },
    expected::{answered, dropped, passed, redirected},
    packet::{
        Icmp, Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    services::{Schedule, ServiceHandle},
};

use crate::{assert_state, syn, syn_ack};

const HASH: Schedule = Schedule {
    pick: pick::HASH,
    ..Schedule::TURN
};

/// A service with one real server that a hash chooses.
fn hashed(lb: &mut Dataplane) -> (ServiceHandle, u32) {
    let web = lb.web();
    lb.set_schedule(web.service, HASH);
    (web.service, web.real)
}

/// A client's segment in the middle of a connection.
fn middle() -> Packet {
    syn().segment(PSH | ACK, 5_000, 70_000).data(b"GET /")
}

/// The real server's next segment of that connection.
fn answer() -> Packet {
    syn()
        .answered(R, 8080)
        .segment(PSH | ACK, 70_000, 5_005)
        .data(&[7; 1_200])
}

/// There is one connection, which is not complete, in this state.
#[track_caller]
fn assert_opening(lb: &Dataplane, state: State) {
    let [connection] = lb.half_open()[..] else {
        panic!("one connection")
    };
    assert_eq!(State::from_number(connection.state), Some(state));
}

/// The client's segment picks the connection up.
fn pick_up(lb: &mut Dataplane, real: u32, segment: &Packet) {
    let expected = redirected(&segment.delivered(R, 8080))
        .original(real, segment)
        .connected(real)
        .half_open(1);
    lb.step(Outside, segment, expected);
    assert_opening(lb, State::PickedUp);
}

#[test]
fn a_clients_segment_picks_up_the_connection_that_its_hash_names() {
    run(|lb| {
        let (_, real) = hashed(lb);
        let segment = middle();
        pick_up(lb, real, &segment);
        // Sent again it is of the same connection.
        let out = segment.delivered(R, 8080);
        lb.step(Outside, &segment, redirected(&out).original(real, &segment));
        assert_opening(lb, State::PickedUp);
        // The real server goes on with it.
        let out = answer().returned(V, 80);
        let expected = redirected(&out).reply(real, &answer()).pair_v4();
        lb.step(Inside, &answer(), expected.half_open(-1));
        assert_state(lb, State::Established);
    });
}

#[test]
fn a_real_server_that_knows_no_such_connection_ends_it() {
    run(|lb| {
        let (_, real) = hashed(lb);
        pick_up(lb, real, &middle());
        let reset = syn().answered(R, 8080).segment(RST, 70_000, 0);
        lb.pass_through(Inside, &reset);
        assert_state(lb, State::Closed);
        // The client may begin anew at once.
        lb.pass_through(Outside, &syn());
        assert_opening(lb, State::SynSent);
    });
}

#[test]
fn a_real_server_that_is_just_ending_the_connection_ends_it_here_as_well() {
    run(|lb| {
        let (_, real) = hashed(lb);
        pick_up(lb, real, &middle());
        let fin = syn().answered(R, 8080).segment(FIN | ACK, 70_000, 5_005);
        lb.pass_through(Inside, &fin);
        assert_state(lb, State::FinReply);
        lb.pass_through(Outside, &syn().segment(FIN | ACK, 5_005, 70_001));
        assert_state(lb, State::Closing);
        let ack = syn().answered(R, 8080).segment(ACK, 70_001, 5_006);
        lb.pass_through(Inside, &ack);
        assert_state(lb, State::TimeWait);
    });
}

#[test]
fn whatever_a_client_sends_alone_proves_nothing() {
    run(|lb| {
        let (_, real) = hashed(lb);
        pick_up(lb, real, &middle());
        for segment in [
            syn().segment(ACK, 5_005, 71_200),
            syn().segment(FIN | ACK, 5_005, 71_200),
            syn().segment(RST, 5_005, 0),
            syn(),
        ] {
            lb.pass_through(Outside, &segment);
            assert_opening(lb, State::PickedUp);
        }
        // A handshake that the last of them has begun.
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        assert_opening(lb, State::SynReceived);
    });
}

#[test]
fn only_a_segment_of_a_running_connection_is_picked_up() {
    run(|lb| {
        hashed(lb);
        let reset = syn().segment(RST | ACK, 5_000, 70_000);
        lb.step(Outside, &reset, dropped(Discard::StrayReset));
        let syn_ack = syn().segment(SYN | ACK, 5_000, 70_000);
        lb.step(Outside, &syn_ack, dropped(Discard::StraySynAck));
        // Without ACK no segment of a running connection is valid (RFC 9293 section 3.10.7.4).
        let bare = syn().segment(PSH, 5_000, 0);
        let answer = bare.reset(RST | ACK, 0, 5_000);
        lb.step(Outside, &bare, answered(Discard::NoConnection, &answer));
    });
}

#[test]
fn schedulers_without_a_hash_reset_what_they_do_not_know() {
    run(|lb| {
        lb.web();
        let answer = middle().reset(RST, 70_000, 0);
        lb.step(Outside, &middle(), answered(Discard::NoConnection, &answer));
    });
}

#[test]
fn a_picked_up_connection_is_forgotten_like_a_handshake() {
    run(|lb| {
        let (_, real) = hashed(lb);
        pick_up(lb, real, &middle());
        let past = (lb.jiffies() as u32).wrapping_sub(TIMEOUTS.half_open + 1);
        lb.change_half_open(|row| row.last_seen = past);
        // It is picked up again.
        let segment = middle();
        let expected = redirected(&segment.delivered(R, 8080))
            .original(real, &segment)
            .connected(real);
        lb.step(Outside, &segment, expected);
        assert_opening(lb, State::PickedUp);
    });
}

#[test]
fn the_client_of_a_failed_real_server_is_answered_within_limits() {
    run(|lb| {
        let (_, real) = hashed(lb);
        pick_up(lb, real, &middle());
        lb.fail_real(real);
        lb.exhaust_answers(true);
        let expected = dropped(Discard::Unanswered).half_open(-1);
        lb.step(Outside, &middle(), expected);
    });
}

#[test]
fn a_real_servers_segment_goes_to_the_client_while_connections_are_taken_over() {
    run(|lb| {
        let web = lb.web();
        // Of a direct connection, for all that is known.
        lb.step(
            Inside,
            &answer(),
            passed(Discard::NoService, &answer().bytes()),
        );
        lb.add_failover_real(web.service, web.real, u64::MAX);
        for _ in 0..2 {
            let expected = redirected(&answer().returned(V, 80)).reply(web.real, &answer());
            lb.step(Inside, &answer(), expected);
        }
        // Its answer tells whether the client has the connection; a scheduler without a hash resets it.
        let ack = syn().segment(ACK, 5_005, 71_200);
        let reset = ack.reset(RST, 71_200, 0);
        lb.step(Outside, &ack, answered(Discard::NoConnection, &reset));
        lb.step(
            Outside,
            &syn().segment(RST, 5_005, 0),
            dropped(Discard::StrayReset),
        );
    });
}

#[test]
fn with_a_hash_the_clients_answer_goes_on_with_the_connection() {
    run(|lb| {
        let (service, real) = hashed(lb);
        lb.add_failover_real(service, real, u64::MAX);
        let out = answer().returned(V, 80);
        lb.step(Inside, &answer(), redirected(&out).reply(real, &answer()));
        pick_up(lb, real, &syn().segment(ACK, 5_005, 71_200));
        let out = answer().returned(V, 80);
        let expected = redirected(&out).reply(real, &answer()).half_open(-1);
        lb.step(Inside, &answer(), expected.pair_v4());
        assert_state(lb, State::Established);
    });
}

#[test]
fn the_same_in_ipv6() {
    run(|lb| {
        let syn6 = || syn().v6();
        let real = lb.add_real(R6, 8080);
        let service = lb.add_service(6, V6, 80, &[real]);
        lb.set_schedule(service, HASH);
        lb.add_failover_real(service, real, u64::MAX);
        let answer = syn6()
            .answered(R6, 8080)
            .segment(PSH | ACK, 70_000, 5_005)
            .data(&[7; 1_200]);
        let out = answer.returned(V6, 80);
        lb.step(Inside, &answer, redirected(&out).reply(real, &answer));
        let ack = syn6().segment(ACK, 5_005, 71_200);
        lb.pass_through(Outside, &ack);
        assert_opening(lb, State::PickedUp);
        lb.pass_through(Inside, &answer);
        let states = lb.rows_v6().into_iter().map(|(_, row)| row.state);
        assert_eq!(states.collect::<Vec<_>>(), [State::Established as u8; 2]);
    });
}

#[test]
fn after_its_time_a_real_servers_segment_is_its_own_again() {
    run(|lb| {
        let web = lb.web();
        // The clock has passed the first nanosecond.
        lb.add_failover_real(web.service, web.real, 1);
        lb.step(
            Inside,
            &answer(),
            passed(Discard::NoService, &answer().bytes()),
        );
        lb.change_settings(|settings| settings.answer_stray_replies = 1);
        let reset = answer().reset(RST, 5_005, 0);
        lb.step(Inside, &answer(), answered(Discard::StrayReply, &reset));
    });
}

#[test]
fn what_a_real_server_opens_or_resets_is_its_own() {
    run(|lb| {
        let web = lb.web();
        lb.add_failover_real(web.service, web.real, u64::MAX);
        for flags in [SYN, SYN | ACK, RST, RST | ACK] {
            let segment = syn().answered(R, 8080).segment(flags, 70_000, 5_005);
            lb.step(
                Inside,
                &segment,
                passed(Discard::NoService, &segment.bytes()),
            );
        }
        // From another port, and from another real server.
        for (address, port) in [(R, 8081), (R2, 8080)] {
            let segment = syn().answered(address, port).segment(ACK, 70_000, 5_005);
            lb.step(
                Inside,
                &segment,
                passed(Discard::NoService, &segment.bytes()),
            );
        }
    });
}

#[test]
fn what_a_real_server_sends_to_this_host_is_the_hosts() {
    run(|lb| {
        let web = lb.web();
        lb.add_failover_real(web.service, web.real, u64::MAX);
        lb.set_host_addresses(&[(S, 32)]);
        // Answers to a probe of the balancer's own: the page, and what comes before and after it.
        let mut probe = syn();
        probe.source = S;
        let answers = [
            (SYN | ACK, Discard::NoService),
            (PSH | ACK, Discard::NoService),
            (RST, Discard::NoService),
        ];
        for resets in [0, 1] {
            lb.change_settings(|settings| settings.answer_stray_replies = resets);
            for (flags, reason) in answers {
                let answer = probe.answered(R, 8080).segment(flags, 70_000, 5_005);
                lb.step(Inside, &answer, passed(reason, &answer.bytes()));
            }
        }
    });
}

#[test]
fn a_real_servers_segment_that_may_go_no_further_does_not() {
    run(|lb| {
        let web = lb.web();
        lb.add_failover_real(web.service, web.real, u64::MAX);
        let mut late = answer();
        late.hops = 1;
        let mut error = late.error_in_its_stead(Icmp::TimeExceeded);
        error.source = V;
        error.sum_icmp();
        lb.step(Inside, &late, answered(Discard::TimeExceeded, &error));
    });
}

//! What becomes of connections whose real server drains, was removed, or has failed.

use std::net::IpAddr;

use balancer_common::{real_server::state, tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, R6, R26, V, V6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        run,
    },
    expected::{answered, dropped, passed, redirected},
    packet::{
        Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    services::ServiceHandle,
};

use crate::{establish, reaches_client, reaches_real, syn, syn_ack, two_reals, two_reals6};

/// Puts a real server into a state.
fn turn(lb: &mut Dataplane, real: u32, state: u32) {
    if state::is_reset(state) {
        lb.fail_real(real);
    }
    lb.set_real_state(real, state);
}

const FAILED: [u32; 2] = [state::RESET, state::REMOVED_RESET];

#[test]
fn case_14_a_syn_selects_anew_when_the_real_server_has_failed() {
    for state in FAILED {
        run(|lb| {
            let (service, first, second) = two_reals(lb);
            let (service6, first6, second6) = two_reals6(lb);
            establish(lb, &syn(), R, 8080);
            establish(lb, &syn().v6(), R6, 8080);
            for (service, first, second) in [(service, first, second), (service6, first6, second6)]
            {
                turn(lb, first, state);
                lb.set_ring(service, &[second]);
            }
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
            let again = again.v6();
            lb.step(
                Outside,
                &again,
                redirected(&again.delivered(R26, 8080))
                    .original(second6, &again)
                    .selected(service6, second6)
                    .half_open(1)
                    .pair_v6_deleted(),
            );
        });
    }
}

#[test]
fn case_14_the_old_connection_goes_only_when_another_real_server_was_found() {
    for state in FAILED {
        run(|lb| {
            let (service, first, second) = two_reals(lb);
            establish(lb, &syn(), R, 8080);
            turn(lb, first, state);
            lb.set_ring(service, &[]);
            let again = syn().segment(SYN, 77_000, 0);
            lb.step(
                Outside,
                &again,
                dropped(Discard::NoReal).passed_over(service, 1),
            );
            lb.reject_without_reals(service, &[]);
            let reset = again.reset(RST | ACK, 0, 77_001);
            lb.step(
                Outside,
                &again,
                answered(Discard::NoRealReject, &reset).passed_over(service, 1),
            );
            assert_eq!(lb.rows_v4().len(), 2);
            lb.set_ring(service, &[second]);
            lb.step(
                Outside,
                &again,
                redirected(&again.delivered(R2, 8080))
                    .original(second, &again)
                    .selected(service, second)
                    .half_open(1)
                    .pair_v4_deleted(),
            );
        });
    }
}

#[test]
fn case_14_a_connection_that_is_over_keeps_its_rows_too_until_another_is_scheduled() {
    run(|lb| {
        let (service, first, second) = two_reals(lb);
        establish(lb, &syn(), R, 8080);
        lb.change_rows_v4(|row| row.state = State::TimeWait as u8);
        lb.set_ring(service, &[]);
        let again = syn().segment(SYN, 77_000, 0);
        lb.step(
            Outside,
            &again,
            dropped(Discard::NoReal).passed_over(service, 1),
        );
        // The last acknowledgement, sent again, still arrives.
        let ack = syn().segment(ACK, 1002, 9002);
        reaches_real(lb, first, &ack);
        lb.set_ring(service, &[second]);
        lb.step(
            Outside,
            &again,
            redirected(&again.delivered(R2, 8080))
                .original(second, &again)
                .selected(service, second)
                .half_open(1)
                .pair_v4_deleted(),
        );
    });
}

#[test]
fn case_14_a_new_connection_to_the_same_real_server_takes_the_old_ones_place() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.pass_through(Inside, &syn().answered(R, 8080).segment(RST, 9001, 0));
        let again = syn().segment(SYN, 77_000, 0);
        lb.step(
            Outside,
            &again,
            redirected(&again.delivered(R, 8080))
                .original(web.real, &again)
                .selected(web.service, web.real)
                .half_open(1)
                .pair_v4_deleted(),
        );
    });
}

#[test]
fn case_19_an_old_connection_goes_on_while_its_real_server_drains() {
    run(|lb| {
        let (service, first, second) = two_reals(lb);
        let (service6, first6, second6) = two_reals6(lb);
        establish(lb, &syn(), R, 8080);
        establish(lb, &syn().v6(), R6, 8080);
        let both = [
            (syn(), service, first, second, R, R2, V),
            (syn().v6(), service6, first6, second6, R6, R26, V6),
        ];
        for (syn, service, first, second, old, new, vip) in both {
            lb.set_real_state(first, state::DRAINING);
            lb.set_ring(service, &[second]);
            let data = syn.clone().segment(PSH | ACK, 1001, 9001).data(b"more");
            lb.step(
                Outside,
                &data,
                redirected(&data.delivered(old, 8080)).original(first, &data),
            );
            let page = data.answered(old, 8080).segment(ACK, 9001, 1005);
            lb.step(
                Inside,
                &page,
                redirected(&page.returned(vip, 80)).reply(first, &page),
            );
            for port in 40010..40013 {
                let fresh = syn.clone().client_port(port);
                lb.step(
                    Outside,
                    &fresh,
                    redirected(&fresh.delivered(new, 8080))
                        .original(second, &fresh)
                        .selected(service, second)
                        .half_open(1),
                );
            }
        }
    });
}

#[test]
fn a_client_of_a_failed_real_server_is_answered_with_a_reset() {
    for state in [state::RESET, state::REMOVED_RESET] {
        for (flags, reset) in [
            (PSH | ACK, (RST, 9001, 0)),
            (ACK, (RST, 9001, 0)),
            (FIN | ACK, (RST, 9001, 0)),
            (PSH, (RST | ACK, 0, 1005)),
        ] {
            run(|lb| {
                let web = lb.web();
                establish(lb, &syn(), R, 8080);
                establish(lb, &syn().v6(), R6, 8080);
                turn(lb, web.real, state);
                turn(lb, web.real6, state);
                // Nobody can ask for these in another's name: they are not limited.
                lb.exhaust_answers(true);
                let data = syn().segment(flags, 1001, 9001).data(b"more");
                let (reset_flags, sequence, acknowledgement) = reset;
                let answer = data.reset(reset_flags, sequence, acknowledgement);
                lb.step(
                    Outside,
                    &data,
                    answered(Discard::RealReset, &answer).pair_v4_deleted(),
                );
                let data = data.v6();
                let answer = data.reset(reset_flags, sequence, acknowledgement);
                lb.step(
                    Outside,
                    &data,
                    answered(Discard::RealReset, &answer).pair_v6_deleted(),
                );
                // Nothing is left: the next packet is a stranger's.
                lb.step(Outside, &data, dropped(Discard::Unanswered));
                assert!(lb.rows_v4().is_empty() && lb.rows_v6().is_empty());
            });
        }
    }
}

#[test]
fn a_reset_to_a_failed_real_server_ends_the_connection_without_an_answer() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.fail_real(web.real);
        lb.step(
            Outside,
            &syn().segment(RST, 1001, 0),
            dropped(Discard::StrayReset).pair_v4_deleted(),
        );
    });
}

#[test]
fn a_failed_real_server_still_answers_until_its_client_asks() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.fail_real(web.real);
        let page = syn().answered(R, 8080).segment(PSH | ACK, 9001, 1001);
        reaches_client(lb, web.real, &page);
        let ack = syn().segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            answered(Discard::RealReset, &ack.reset(RST, 9001, 0)).pair_v4_deleted(),
        );
        lb.step(Inside, &page, passed(Discard::NoService, &page.bytes()));
    });
}

#[test]
fn connections_that_saw_nothing_of_the_failure_go_on_when_the_real_server_is_back() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.fail_real(web.real);
        lb.set_real_state(web.real, state::TAKES_NEW);
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"more");
        reaches_real(lb, web.real, &data);
    });
}

#[test]
fn connections_of_other_real_servers_go_on() {
    run(|lb| {
        let (_, first, second) = two_reals(lb);
        establish(lb, &syn(), R, 8080);
        let other = syn().client_port(40010);
        establish(lb, &other, R2, 8080);
        lb.fail_real(first);
        let data = other.clone().segment(PSH | ACK, 1001, 9001).data(b"more");
        lb.step(
            Outside,
            &data,
            redirected(&data.delivered(R2, 8080)).original(second, &data),
        );
    });
}

#[test]
fn a_handshake_with_a_failed_real_server_is_ended_or_begun_anew() {
    run(|lb| {
        let (service, first, second) = two_reals(lb);
        // The SYN was answered, and is sent again.
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.fail_real(first);
        lb.set_ring(service, &[second]);
        lb.step(
            Outside,
            &syn(),
            redirected(&syn().delivered(R2, 8080))
                .original(second, &syn())
                .selected(service, second),
        );
    });
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        // The client believes the connection open.
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.fail_real(first);
        let ack = syn().segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            answered(Discard::RealReset, &ack.reset(RST, 9001, 0)).half_open(-1),
        );
        assert!(lb.half_open().is_empty());
    });
    run(|lb| {
        let (_, first, _) = two_reals(lb);
        lb.pass_through(Outside, &syn());
        lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
        lb.fail_real(first);
        lb.step(
            Outside,
            &syn().segment(RST, 1001, 0),
            dropped(Discard::StrayReset).half_open(-1),
        );
    });
}

#[test]
fn only_an_acknowledgement_of_a_failed_real_servers_syn_ack_is_answered_without_limit() {
    for (is_answered, acknowledgement, is_limited) in [
        (false, 9001, true),
        (true, 5000, true),
        (true, 9000, true),
        (true, 9001, false),
    ] {
        run(|lb| {
            let web = lb.web();
            lb.pass_through(Outside, &syn());
            lb.pass_through(Outside, &syn().v6());
            if is_answered {
                lb.pass_through(Inside, &syn_ack(&syn(), R, 8080));
                lb.pass_through(Inside, &syn_ack(&syn().v6(), R6, 8080));
            }
            lb.fail_real(web.real);
            lb.fail_real(web.real6);
            let ack = syn().segment(ACK, 1001, acknowledgement);
            for ack in [ack.clone(), ack.v6()] {
                lb.exhaust_answers(true);
                let expected = if is_limited {
                    dropped(Discard::Unanswered)
                } else {
                    let reset = ack.reset(RST, acknowledgement, 0);
                    answered(Discard::RealReset, &reset)
                };
                lb.step(Outside, &ack, expected.half_open(-1));
                lb.exhaust_answers(false);
                let reset = ack.reset(RST, acknowledgement, 0);
                lb.step(Outside, &ack, answered(Discard::NoConnection, &reset));
            }
            assert!(lb.half_open().is_empty());
        });
    }
}

/// A service with its two real servers.
type Pair = (ServiceHandle, u32, u32);

/// V:53 with R and R2, and the same in IPv6.
fn two_resolvers(lb: &mut Dataplane) -> [Pair; 2] {
    [(V, R, R2), (V6, R6, R26)].map(|(vip, one, two)| {
        let first = lb.add_real(one, 8053);
        let second = lb.add_real(two, 8053);
        (lb.add_service(17, vip, 53, &[first, second]), first, second)
    })
}

/// A datagram of each family, what serves it, and the second real server's address.
fn pings([four, six]: [Pair; 2]) -> [(Packet, Pair, IpAddr); 2] {
    let ping = Packet::udp(b"ping");
    [(ping.clone(), four, R2), (ping.v6(), six, R26)]
}

#[test]
fn case_31_datagrams_to_a_failed_real_server_go_to_another() {
    for state in [state::RESET, state::REMOVED_RESET] {
        run(|lb| {
            let services = two_resolvers(lb);
            for (ping, (service, first, second), new) in pings(services) {
                lb.pass_through(Outside, &ping);
                turn(lb, first, state);
                lb.set_ring(service, &[second]);
                lb.step(
                    Outside,
                    &ping,
                    redirected(&ping.delivered(new, 8053))
                        .original(second, &ping)
                        .selected(service, second)
                        .pair_of_deleted(&ping)
                        .pair_of(&ping),
                );
                lb.step(
                    Outside,
                    &ping,
                    redirected(&ping.delivered(new, 8053)).original(second, &ping),
                );
            }
        });
    }
}

#[test]
fn case_31_datagrams_to_a_removed_and_purged_real_server_go_to_another() {
    run(|lb| {
        let services = two_resolvers(lb);
        for (ping, (service, first, second), new) in pings(services) {
            lb.pass_through(Outside, &ping);
            lb.set_ring(service, &[second]);
            lb.set_real_state(first, state::REMOVED);
            lb.delete_connection(&ping);
            lb.step(
                Outside,
                &ping,
                redirected(&ping.delivered(new, 8053))
                    .original(second, &ping)
                    .selected(service, second)
                    .pair_of(&ping),
            );
        }
    });
}

#[test]
fn case_31_with_no_real_server_left_the_client_is_told() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping");
        for (ping, service, real) in [
            (ping.clone(), dns.service, dns.real),
            (ping.v6(), dns.service6, dns.real6),
        ] {
            lb.pass_through(Outside, &ping);
            lb.fail_real(real);
            lb.reject_without_reals(service, &[]);
            let error = ping.port_unreachable();
            lb.step(
                Outside,
                &ping,
                answered(Discard::NoRealReject, &error)
                    .pair_of_deleted(&ping)
                    .passed_over(service, 1),
            );
        }
    });
}

//! UDP datagrams.

use balancer_common::{tcp::State, verdict::Discard};
use balancer_tests::{
    addresses::{R, R6, V, V6},
    dataplane::{
        Side::{Inside, Outside},
        TIMEOUTS, run,
    },
    expected::{dropped, passed, redirected},
    packet::{Checksum, Packet},
};

#[test]
fn case_26_a_datagram_is_translated_and_makes_a_connection() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping");
        let out = ping.delivered(R, 8053);
        assert_eq!(
            (ping.ip_checksum(), ping.transport_checksum()),
            (0x4e3e, 0x9800)
        );
        assert_eq!(
            (out.ip_checksum(), out.transport_checksum()),
            (0x50e4, 0x7a66)
        );
        lb.step(
            Outside,
            &ping,
            redirected(&out)
                .original(dns.real, &ping)
                .selected(dns.service, dns.real)
                .pair_v4(),
        );
        assert!(
            lb.rows_v4()
                .iter()
                .all(|(_, row)| row.state == State::UdpUnreplied as u8)
        );
        // The second datagram finds the row.
        lb.step(Outside, &ping, redirected(&out).original(dns.real, &ping));
    });
}

#[test]
fn case_27_a_checksum_of_zero_stays_zero() {
    run(|lb| {
        let dns = lb.dns();
        let mut ping = Packet::udp(b"ping");
        ping.checksum = Checksum::Given(0);
        let out = ping.delivered(R, 8053);
        assert_eq!(
            (out.ip_checksum(), out.transport_checksum()),
            (0x50e4, 0x0000)
        );
        lb.step(
            Outside,
            &ping,
            redirected(&out)
                .original(dns.real, &ping)
                .selected(dns.service, dns.real)
                .pair_v4(),
        );
        let mut answer = ping.answered(R, 8053);
        answer.checksum = Checksum::Given(0);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V, 53)).reply(dns.real, &answer),
        );
    });
}

#[test]
fn case_28_a_checksum_that_folds_to_zero_is_sent_as_all_ones() {
    run(|lb| {
        let dns = lb.dns();
        let datagram = Packet::udp(&[0x70, 0x69, 0xe8, 0xcd]);
        let out = datagram.delivered(R, 8053);
        assert_eq!(
            (datagram.transport_checksum(), out.transport_checksum()),
            (0x1d9a, 0xffff)
        );
        lb.step(
            Outside,
            &datagram,
            redirected(&out)
                .original(dns.real, &datagram)
                .selected(dns.service, dns.real)
                .pair_v4(),
        );
    });
}

#[test]
fn case_29_the_reply_comes_back_from_the_vip() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        let pong = ping.answered(R, 8053).data(b"pong!");
        lb.step(
            Inside,
            &pong,
            redirected(&pong.returned(V, 53)).reply(dns.real, &pong),
        );
    });
}

#[test]
fn a_datagram_that_nobody_answered_is_forgotten_soon() {
    run(|lb| {
        let dns = lb.dns();
        let states = |lb: &balancer_tests::dataplane::Dataplane| -> Vec<_> {
            let v4 = lb.rows_v4().into_iter().map(|(_, row)| row.state);
            let v6 = lb.rows_v6().into_iter().map(|(_, row)| row.state);
            v4.chain(v6).map(State::from_number).collect()
        };
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        lb.pass_through(Outside, &ping);
        lb.pass_through(Outside, &ping.clone().v6());
        assert_eq!(states(lb), [Some(State::UdpUnreplied); 4]);
        // A second less than an unanswered one may be silent, and a little more.
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.udp_unreplied - 1000));
        lb.step(
            Outside,
            &ping,
            redirected(&ping.delivered(R, 8053)).original(dns.real, &ping),
        );
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.udp_unreplied + 1));
        lb.step(
            Outside,
            &ping,
            redirected(&ping.delivered(R, 8053))
                .original(dns.real, &ping)
                .selected(dns.service, dns.real)
                .pair_v4_deleted()
                .pair_v4(),
        );
        // The answer makes it a connection for the whole timeout.
        for (pong, real, vip) in [
            (ping.answered(R, 8053), dns.real, V),
            (ping.clone().v6().answered(R6, 8053), dns.real6, V6),
        ] {
            lb.step(
                Inside,
                &pong,
                redirected(&pong.returned(vip, 53)).reply(real, &pong),
            );
        }
        assert_eq!(states(lb), [Some(State::UdpUnconfirmed); 4]);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.udp - 1000));
        lb.step(
            Outside,
            &ping,
            redirected(&ping.delivered(R, 8053)).original(dns.real, &ping),
        );
        // And the client's next datagram shows that it has heard the answer.
        let confirmed = lb.rows_v4().into_iter().map(|(_, row)| row.state);
        assert!(confirmed.eq([State::Udp as u8; 2]));
    });
}

#[test]
fn case_30_a_reply_after_the_connection_expired_is_passed_untouched() {
    run(|lb| {
        lb.dns();
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.udp + 1));
        let pong = ping.answered(R, 8053);
        lb.step(
            Inside,
            &pong,
            passed(Discard::NoService, &pong.bytes()).pair_v4_deleted(),
        );
    });
}

#[test]
fn a_datagram_after_the_connection_expired_makes_a_new_one() {
    run(|lb| {
        let first = lb.add_real(R, 8053);
        let second = lb.add_real(balancer_tests::addresses::R2, 8053);
        let service = lb.add_service(17, V, 53, &[first, second]);
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        let now = lb.jiffies() as u32;
        lb.change_rows_v4(|row| row.last_seen = now.wrapping_sub(TIMEOUTS.udp + 1));
        lb.step(
            Outside,
            &ping,
            redirected(&ping.delivered(balancer_tests::addresses::R2, 8053))
                .original(second, &ping)
                .selected(service, second)
                .pair_v4_deleted()
                .pair_v4(),
        );
        assert!(lb.rows_v4().iter().all(|(_, row)| row.real == second));
    });
}

#[test]
fn case_32_a_wrong_udp_length_is_dropped() {
    run(|lb| {
        lb.dns();
        for length in [0, 7, 13, 0xffff] {
            let mut ping = Packet::udp(b"ping");
            ping.udp_length = Some(length);
            lb.step(Outside, &ping, dropped(Discard::UdpLength));
        }
        // The same on an existing connection.
        let ping = Packet::udp(b"ping");
        lb.pass_through(Outside, &ping);
        let mut short = ping;
        short.udp_length = Some(7);
        lb.step(Outside, &short, dropped(Discard::UdpLength));
        // What is no service's is nobody's business.
        let mut other = short.to_port(5353);
        other.udp_length = Some(7);
        lb.step(Outside, &other, passed(Discard::NoService, &other.bytes()));
    });
}

#[test]
fn case_33_a_datagram_without_data_is_translated() {
    run(|lb| {
        let dns = lb.dns();
        let empty = Packet::udp(b"");
        assert_eq!(empty.ip_length(), 28);
        lb.step(
            Outside,
            &empty,
            redirected(&empty.delivered(R, 8053))
                .original(dns.real, &empty)
                .selected(dns.service, dns.real)
                .pair_v4(),
        );
    });
}

#[test]
fn case_55_an_ipv6_datagram_is_translated_and_none_goes_without_checksum() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping").v6();
        let out = ping.delivered(R6, 8053);
        assert_eq!(
            (ping.transport_checksum(), out.transport_checksum()),
            (0x2801, 0x3a76)
        );
        let mut unsummed = ping.clone();
        unsummed.checksum = Checksum::Given(0);
        lb.step(Outside, &unsummed, dropped(Discard::UdpNoChecksum));
        lb.step(
            Outside,
            &ping,
            redirected(&out)
                .original(dns.real6, &ping)
                .selected(dns.service6, dns.real6)
                .pair_v6(),
        );
        lb.step(Outside, &unsummed, dropped(Discard::UdpNoChecksum));
    });
}

#[test]
fn an_ipv6_reply_comes_back_from_the_vip() {
    run(|lb| {
        let dns = lb.dns();
        let ping = Packet::udp(b"ping").v6();
        lb.pass_through(Outside, &ping);
        let pong = ping.answered(R6, 8053).data(b"pong");
        lb.step(
            Inside,
            &pong,
            redirected(&pong.returned(V6, 53)).reply(dns.real6, &pong),
        );
    });
}

#[test]
fn an_ipv6_checksum_that_folds_to_zero_is_sent_as_all_ones() {
    run(|lb| {
        lb.dns();
        // Search the payload whose translated checksum is zero, by the full sum.
        let datagram = (0..=u16::MAX)
            .map(|word| Packet::udp(&word.to_be_bytes()).v6())
            .find(|datagram| datagram.delivered(R6, 8053).transport_checksum() == 0xffff)
            .expect("one of all words");
        let (_, out) = lb.send(Outside, &datagram.bytes());
        assert_eq!(out, datagram.delivered(R6, 8053).bytes());
    });
}

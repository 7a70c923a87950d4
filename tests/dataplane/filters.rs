//! Filters in front of services: who may open connections, and how many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::{
    filter::RATE_BUCKETS,
    scheduler::hashed,
    service::{FILTERED, LIMITED},
    trace::offer,
    verdict::Discard,
};
use balancer_tests::{
    addresses::{C, C6, R, R6, V},
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        Verdict, run, run_with,
    },
    expected::{Expected, dropped, passed, redirected},
    filters::{NEVER, RuleHandle},
    packet::{
        Packet,
        flag::{ACK, PSH, SYN},
    },
    services::{Schedule, ServiceHandle},
};

use crate::{establish, syn, syn_ack};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service with one real server, and a client of it.
#[derive(Clone)]
struct Scene {
    service: ServiceHandle,
    real: u32,
    at: IpAddr,
    port: u16,
    /// The client's first packet.
    first: Packet,
    /// Prefixes that contain the client: its network, itself.
    network: (IpAddr, u32),
    host: (IpAddr, u32),
    /// A client of the same network, and one of another.
    neighbour: IpAddr,
    stranger: IpAddr,
}

impl Scene {
    /// The first packet from another client.
    fn from(&self, client: IpAddr) -> Packet {
        Packet {
            source: client,
            ..self.first.clone()
        }
    }

    fn is_udp(&self) -> bool {
        self.service.protocol == 17
    }

    /// A first packet opens a connection.
    fn opens(&self, packet: &Packet) -> Expected {
        let delivered = packet.delivered(self.at, self.port);
        let expected = redirected(&delivered)
            .original(self.real, packet)
            .selected(self.service, self.real);
        if self.is_udp() {
            expected.pair_of(packet)
        } else {
            expected.half_open(1)
        }
    }

    /// A packet of a connection that is there already.
    fn goes_on(&self, packet: &Packet) -> Expected {
        redirected(&packet.delivered(self.at, self.port)).original(self.real, packet)
    }
}

/// TCP and UDP in both families.
fn scenes(lb: &mut Dataplane) -> [Scene; 4] {
    let (web, dns) = (lb.web(), lb.dns());
    let v4 = |service, real, port, first| Scene {
        service,
        real,
        at: R,
        port,
        first,
        network: (address("198.51.100.0"), 24),
        host: (C, 32),
        neighbour: address("198.51.100.11"),
        stranger: address("203.0.113.7"),
    };
    let v6 = |service, real, port, first: Packet| Scene {
        service,
        real,
        at: R6,
        port,
        first: first.v6(),
        network: (address("2001:db8:c::"), 64),
        host: (C6, 128),
        neighbour: address("2001:db8:c::11"),
        stranger: address("2001:db8:d::7"),
    };
    let ping = Packet::udp(b"ping");
    [
        v4(web.service, web.real, 8080, syn()),
        v6(web.service6, web.real6, 8080, syn()),
        v4(dns.service, dns.real, 8053, ping.clone()),
        v6(dns.service6, dns.real6, 8053, ping),
    ]
}

#[test]
fn a_denied_client_opens_nothing_and_is_not_answered() {
    run(|lb| {
        for scene in scenes(lb) {
            let rule = lb.add_rule(scene.service, Some(scene.network), false);
            for client in [scene.first.source, scene.neighbour] {
                let packet = scene.from(client);
                for _ in 0..2 {
                    lb.step(Outside, &packet, dropped(Discard::Denied).counted(rule));
                }
            }
            let other = scene.from(scene.stranger);
            lb.step(Outside, &other, scene.opens(&other));
        }
    });
}

#[test]
fn where_only_some_are_let_in_all_others_are_refused() {
    run(|lb| {
        for scene in scenes(lb) {
            let allow = lb.add_rule(scene.service, Some(scene.network), true);
            let others = lb.add_rule(scene.service, None, false);
            let packet = scene.first.clone();
            lb.step(Outside, &packet, scene.opens(&packet).counted(allow));
            let other = scene.from(scene.stranger);
            lb.step(Outside, &other, dropped(Discard::Denied).counted(others));
        }
    });
}

#[test]
fn of_several_prefixes_the_longest_decides() {
    run(|lb| {
        for scene in scenes(lb) {
            let all = lb.add_rule(scene.service, Some((unspecified(&scene), 0)), false);
            let network = lb.add_rule(scene.service, Some(scene.network), true);
            let host = lb.add_rule(scene.service, Some(scene.host), false);
            let [own, neighbour, other] = [scene.first.source, scene.neighbour, scene.stranger]
                .map(|client| scene.from(client));
            lb.step(Outside, &own, dropped(Discard::Denied).counted(host));
            lb.step(
                Outside,
                &neighbour,
                scene.opens(&neighbour).counted(network),
            );
            lb.step(Outside, &other, dropped(Discard::Denied).counted(all));
        }
    });
}

const fn unspecified(scene: &Scene) -> IpAddr {
    match scene.at {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Against the plain meaning of the lists: two hundred rules of any lengths, and a thousand clients near them.
#[test]
fn any_rules_mean_what_is_said_of_them() {
    run_with(Options::ROOMY, |lb| {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let [v4, v6, ..] = scenes(lb);
        for scene in [v4, v6] {
            let bits = if scene.at.is_ipv4() { 32 } else { 128 };
            // In the first 16 bits of the client's network few addresses differ, so that rules lie within each other.
            let any = |numbers: &mut Numbers| {
                let few = numbers.next() & numbers.next() & numbers.next();
                match scene.first.source {
                    IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() ^ few as u32 & 0x3ff_ffff).into(),
                    IpAddr::V6(v6) => {
                        let few = u128::from(few) << 50 | u128::from(few >> 20);
                        Ipv6Addr::from_bits(v6.to_bits() ^ few).into()
                    }
                }
            };
            let first_of = |address: IpAddr, length: u32| -> IpAddr {
                match address {
                    IpAddr::V4(v4) => {
                        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                        Ipv4Addr::from(v4.to_bits() & mask).into()
                    }
                    IpAddr::V6(v6) => {
                        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                        Ipv6Addr::from_bits(v6.to_bits() & mask).into()
                    }
                }
            };
            let mut rules: Vec<((IpAddr, u32), bool, RuleHandle)> = Vec::new();
            while rules.len() < 200 {
                let length = numbers.next() as u32 % (bits + 1);
                let prefix = (first_of(any(&mut numbers), length), length);
                if rules.iter().all(|(other, ..)| *other != prefix) {
                    let lets_in = numbers.next() & 1 == 0;
                    let rule = lb.add_rule(scene.service, Some(prefix), lets_in);
                    rules.push((prefix, lets_in, rule));
                }
            }
            for port in 0..1_000 {
                let client = any(&mut numbers);
                let packet = scene.from(client).client_port(1_000 + port);
                let matching = rules
                    .iter()
                    .filter(|((first, length), ..)| first_of(client, *length) == *first);
                let longest = matching.max_by_key(|((_, length), ..)| *length);
                let before = longest.map(|(_, _, rule)| lb.counted(rule.id));
                let (verdict, _) = lb.send(Outside, &packet.bytes());
                let is_let_in = longest.is_none_or(|(_, lets_in, _)| *lets_in);
                let wanted = if is_let_in {
                    Verdict::Redirect
                } else {
                    Verdict::Drop
                };
                assert_eq!(verdict, wanted, "{client}: {longest:?}");
                let after = longest.map(|(_, _, rule)| lb.counted(rule.id) - 1);
                assert_eq!(after, before, "{client}: {longest:?}");
            }
        }
    });
}

#[test]
fn connections_under_way_go_on_and_new_ones_do_not() {
    run(|lb| {
        let [v4, v6, ..] = scenes(lb);
        for scene in [v4, v6] {
            let syn = scene.first.clone();
            establish(lb, &syn, scene.at, scene.port);
            let other = syn.clone().client_port(40_002);
            lb.pass_through(Outside, &other);
            let rule = lb.add_rule(scene.service, Some(scene.host), false);
            let data = syn.clone().segment(ACK | PSH, 1001, 9001);
            lb.step(Outside, &data, scene.goes_on(&data));
            let answer = syn.answered(scene.at, scene.port).segment(ACK, 9001, 1001);
            let vip = scene.service.vip;
            lb.step(
                Inside,
                &answer,
                redirected(&answer.returned(vip, 80)).reply(scene.real, &answer),
            );
            // So does a handshake; a SYN that is sent again belongs to it.
            lb.step(Outside, &other, scene.goes_on(&other));
            let answer = syn_ack(&other, scene.at, scene.port);
            lb.step(
                Inside,
                &answer,
                redirected(&answer.returned(vip, 80)).reply(scene.real, &answer),
            );
            let new = syn.clone().client_port(40_003);
            lb.step(Outside, &new, dropped(Discard::Denied).counted(rule));
        }
    });
}

#[test]
fn datagrams_of_connections_under_way_go_on() {
    run(|lb| {
        let [.., v4, v6] = scenes(lb);
        for scene in [v4, v6] {
            let ping = scene.first.clone();
            lb.step(Outside, &ping, scene.opens(&ping));
            let rule = lb.add_rule(scene.service, Some(scene.host), false);
            lb.step(Outside, &ping, scene.goes_on(&ping));
            let new = ping.clone().client_port(40_003);
            lb.step(Outside, &new, dropped(Discard::Denied).counted(rule));
        }
    });
}

/// A hash says which real server another node has given a connection to, and the filter whether it goes on here.
#[test]
fn connections_that_are_picked_up_are_asked_for_as_new_ones_are() {
    run(|lb| {
        let [v4, v6, ..] = scenes(lb);
        for scene in [v4, v6] {
            lb.set_schedule(scene.service, Schedule::hashing(hashed::CLIENT));
            let rule = lb.add_rule(scene.service, Some(scene.host), false);
            let segment = scene.first.clone().segment(ACK, 5, 7);
            lb.step(Outside, &segment, dropped(Discard::Denied).counted(rule));
            let other = Packet {
                source: scene.neighbour,
                ..segment
            };
            lb.step(
                Outside,
                &other,
                scene.goes_on(&other).connected(scene.real).half_open(1),
            );
        }
    });
}

#[test]
fn a_service_that_does_not_say_so_has_no_filter() {
    run(|lb| {
        for scene in scenes(lb) {
            lb.add_rule(scene.service, Some(scene.host), false);
            lb.set_limit(scene.service, 1, 0);
            lb.set_bucket(scene.service, unspecified(&scene), u64::MAX / 2);
            lb.update_service(scene.service, |value| value.flags &= !(FILTERED | LIMITED));
            let packet = scene.first.clone();
            lb.step(Outside, &packet, scene.opens(&packet));
        }
    });
}

/// What opens no connection is treated as if there were no filter.
#[test]
fn what_opens_nothing_is_not_asked_for() {
    run(|lb| {
        let [v4, ..] = scenes(lb);
        lb.add_rule(v4.service, Some(v4.host), false);
        let stray = v4.first.clone().segment(SYN | ACK, 5, 7);
        lb.step(Outside, &stray, dropped(Discard::StraySynAck));
        // To a port without a service, too.
        let elsewhere = v4.first.to_port(22);
        lb.step(
            Outside,
            &elsewhere,
            passed(Discard::NoService, &elsewhere.bytes()),
        );
    });
}

#[test]
fn services_have_rules_and_limits_of_their_own() {
    run(|lb| {
        let [web, ..] = scenes(lb);
        let real = lb.add_real(R, 0);
        let every = lb.add_service(6, V, 0, &[real]);
        lb.change_settings(|settings| settings.any_port = 1);
        let denied = lb.add_rule(every, Some(web.host), false);
        let limited = lb.set_limit(web.service, 1, 32);
        let own = web.first.clone();
        lb.step(Outside, &own, web.opens(&own).bucket(web.service, C));
        let again = own.clone().client_port(40_002);
        lb.step(
            Outside,
            &again,
            dropped(Discard::RateLimited).counted(limited),
        );
        let other = own.clone().to_port(81);
        lb.step(Outside, &other, dropped(Discard::Denied).counted(denied));
        // The neighbour is not concerned by the rule, nor by the other service's limit.
        for port in [81, 82] {
            let packet = web.from(web.neighbour).to_port(port);
            lb.step(
                Outside,
                &packet,
                redirected(&packet.delivered(R, port))
                    .original(real, &packet)
                    .selected(every, real)
                    .half_open(1),
            );
        }
    });
}

#[test]
fn a_client_opens_as_many_connections_as_it_may() {
    run(|lb| {
        for scene in scenes(lb) {
            let limit = lb.set_limit(scene.service, 3, scene.host.1);
            let client = scene.first.source;
            for port in 0..3 {
                let packet = scene.first.clone().client_port(1_000 + port);
                lb.step(
                    Outside,
                    &packet,
                    scene.opens(&packet).bucket(scene.service, client),
                );
                // What is sent again has its connection, and costs nothing.
                lb.step(Outside, &packet, scene.goes_on(&packet));
            }
            for port in 3..5 {
                let packet = scene.first.clone().client_port(1_000 + port);
                let refused = dropped(Discard::RateLimited).counted(limit);
                lb.step(Outside, &packet, refused);
            }
            let other = scene.from(scene.neighbour);
            lb.step(
                Outside,
                &other,
                scene.opens(&other).bucket(scene.service, scene.neighbour),
            );
            // A token that has come back.
            lb.set_bucket(scene.service, client, 0);
            let packet = scene.first.clone().client_port(1_003);
            lb.step(Outside, &packet, scene.opens(&packet));
        }
    });
}

#[test]
fn networks_of_clients_share_their_connections() {
    run(|lb| {
        for scene in scenes(lb) {
            let (network, bits) = scene.network;
            let limit = lb.set_limit(scene.service, 1, bits);
            let packet = scene.first.clone();
            let opens = scene.opens(&packet).bucket(scene.service, network);
            lb.step(Outside, &packet, opens);
            let neighbour = scene.from(scene.neighbour);
            let refused = dropped(Discard::RateLimited).counted(limit);
            lb.step(Outside, &neighbour, refused);
            let other = scene.from(scene.stranger);
            let stranger = match scene.stranger {
                IpAddr::V4(_) => address("203.0.113.0"),
                IpAddr::V6(_) => address("2001:db8:d::"),
            };
            let opens = scene.opens(&other).bucket(scene.service, stranger);
            lb.step(Outside, &other, opens);
        }
    });
}

/// A limit of all clients together is one of a prefix of no bits.
#[test]
fn all_clients_may_share_a_limit() {
    run(|lb| {
        let [v4, v6, ..] = scenes(lb);
        for (scene, network) in [(v4, "0.0.0.0"), (v6, "::")] {
            let limit = lb.set_limit(scene.service, 1, 0);
            let packet = scene.first.clone();
            let opens = scene.opens(&packet).bucket(scene.service, address(network));
            lb.step(Outside, &packet, opens);
            let other = scene.from(scene.stranger);
            let refused = dropped(Discard::RateLimited).counted(limit);
            lb.step(Outside, &other, refused);
        }
    });
}

#[test]
fn rules_come_before_limits() {
    run(|lb| {
        for scene in scenes(lb) {
            let deny = lb.add_rule(scene.service, Some(scene.host), false);
            let allow = lb.add_rule(scene.service, Some(scene.network), true);
            let limit = lb.set_limit(scene.service, 1, scene.network.1);
            // Who is refused takes no token.
            let packet = scene.first.clone();
            lb.step(Outside, &packet, dropped(Discard::Denied).counted(deny));
            let neighbour = scene.from(scene.neighbour);
            let opens = scene.opens(&neighbour).counted(allow);
            lb.step(
                Outside,
                &neighbour,
                opens.bucket(scene.service, scene.network.0),
            );
            // Who is let in is limited all the same.
            let again = neighbour.client_port(40_009);
            let refused = dropped(Discard::RateLimited).counted(allow).counted(limit);
            lb.step(Outside, &again, refused);
        }
    });
}

/// A flood from any number of sources fills the table of buckets and no more. Who sends too much meanwhile stays refused, since its bucket
/// is asked for; a bucket that nobody asks for goes, and its client begins with a full one.
#[test]
fn a_flood_of_sources_does_not_help_who_sends_too_much() {
    run_with(Options::ROOMY, |lb| {
        let [scene, ..] = scenes(lb);
        lb.set_limit(scene.service, 1, 32);
        let own = scene.first.clone();
        lb.pass_through(Outside, &own);
        lb.pass_through(Outside, &scene.from(scene.neighbour));
        let mut again = own.clone();
        let flood = 3 * RATE_BUCKETS / 2;
        for number in 0..flood {
            let forged = scene.from(Ipv4Addr::from(0x0b00_0000 + number).into());
            lb.pass_through(Outside, &forged);
            if number % 256 == 0 {
                again = again.client_port(1_000 + (number / 256) as u16);
                let (verdict, _) = lb.send(Outside, &again.bytes());
                assert_eq!(verdict, Verdict::Drop, "after {number}");
            }
        }
        let buckets = lb.token_buckets();
        assert!(buckets.len() <= RATE_BUCKETS as usize);
        assert!(buckets.len() > RATE_BUCKETS as usize / 2);
        assert!(buckets.contains(&(scene.service.id, own.source)));
        assert!(!buckets.contains(&(scene.service.id, scene.neighbour)));
        let silent = scene.from(scene.neighbour).client_port(40_002);
        lb.pass_through(Outside, &silent);
    });
}

#[test]
fn mapped_addresses_are_no_clients_of_ipv6() {
    run(|lb| {
        let [_, scene, ..] = scenes(lb);
        lb.add_rule(scene.service, None, false);
        let mapped = scene.from(address("::ffff:198.51.100.10"));
        lb.step(
            Outside,
            &mapped,
            passed(Discard::MappedAddress, &mapped.bytes()),
        );
    });
}

/// A rule whose counter is not there yet, or not any more, decides all the same.
#[test]
fn a_rule_without_a_counter_decides() {
    run(|lb| {
        for scene in scenes(lb) {
            let rule = lb.add_rule(scene.service, Some(scene.host), false);
            lb.forget_count(rule);
            let packet = scene.first.clone();
            lb.step(Outside, &packet, dropped(Discard::Denied));
        }
    });
}

#[test]
fn who_asks_what_would_become_of_a_packet_changes_nothing() {
    run(|lb| {
        let packets = scenes(lb).map(|scene| {
            let allow = lb.add_rule(scene.service, Some(scene.network), true);
            let deny = lb.add_rule(scene.service, Some(scene.host), false);
            let others = lb.add_rule(scene.service, None, false);
            let limit = lb.set_limit(scene.service, 1, scene.network.1);
            (scene, allow, deny, others, limit)
        });
        for (scene, allow, deny, others, limit) in packets {
            let before = lb.snapshot();
            let [own, neighbour, other] = [scene.first.source, scene.neighbour, scene.stranger]
                .map(|client| lb.ask(&scene.from(client)));
            let refused = Discard::Denied as u32;
            assert_eq!((own.reason, own.rule), (refused, deny.id));
            assert_eq!((other.reason, other.rule), (refused, others.id));
            let found = (
                neighbour.reason,
                neighbour.rule,
                neighbour.real,
                neighbour.offer,
            );
            let none = Discard::COUNT;
            assert_eq!(found, (none, allow.id, scene.real, offer::SCHEDULER));
            // Asking takes no token.
            assert_eq!(lb.ask(&scene.from(scene.neighbour)), neighbour);
            assert_eq!(lb.snapshot(), before);

            let packet = scene.from(scene.neighbour);
            lb.pass_through(Outside, &packet);
            let before = lb.snapshot();
            let has_one = lb.ask(&packet);
            assert_eq!(
                (has_one.reason, has_one.has_connection, has_one.rule),
                (none, 1, 0)
            );
            let one_more = lb.ask(&packet.client_port(40_002));
            let limited = Discard::RateLimited as u32;
            assert_eq!((one_more.reason, one_more.rule), (limited, limit.id));
            assert_eq!(lb.snapshot(), before);
        }
    });
}

/// The bucket is the time at which the next connection would be due.
#[test]
fn a_bucket_that_is_not_empty_is_as_full_as_it_says() {
    run(|lb| {
        let [scene, ..] = scenes(lb);
        let limit = lb.set_limit(scene.service, 4, 32);
        // Two tokens are out, and nearly an hour passes until the first is back.
        let now = lb.nanoseconds();
        lb.set_bucket(scene.service, C, now + 2 * NEVER);
        for port in 0..2 {
            let packet = scene.first.clone().client_port(1_000 + port);
            lb.step(Outside, &packet, scene.opens(&packet));
        }
        let packet = scene.first.clone().client_port(1_002);
        let refused = dropped(Discard::RateLimited).counted(limit);
        lb.step(Outside, &packet, refused);
    });
}

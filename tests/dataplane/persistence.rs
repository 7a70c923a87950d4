//! Clients that keep their real server.

mod datagrams;
mod forged;
mod groups;
mod renewal;
mod yielding;

use std::{collections::BTreeMap, net::IpAddr};

use balancer_common::persistence::{PENDING_WORDS, Pending, PersistenceKey, hash};
use balancer_tests::{
    addresses::{R, R2, R6, R26, V},
    dataplane::{
        Dataplane, Options, SEED,
        Side::{Inside, Outside},
        run, run_with,
    },
    expected::{Expected, redirected},
    packet::{
        Packet,
        flag::{ACK, SYN},
    },
    persistence::{Client, Kept},
    services::ServiceHandle,
};

use crate::{establish, syn, syn_ack, two_reals, two_reals6};

/// Jiffies for which a client keeps its real server.
const TIMEOUT: u32 = 50_000;

/// A service with two real servers in turn, whose clients keep theirs, and a client.
struct Scene {
    service: ServiceHandle,
    reals: [u32; 2],
    addresses: [IpAddr; 2],
    group: u64,
    syn: Packet,
}

/// One of each family, in which clients with so many leading bits in common are one.
fn scenes_with(lb: &mut Dataplane, prefixes: [u32; 2]) -> [Scene; 2] {
    let (service, first, second) = two_reals(lb);
    let (service6, first6, second6) = two_reals6(lb);
    lb.set_persistence(service, TIMEOUT, prefixes[0], 7);
    lb.set_persistence(service6, TIMEOUT, prefixes[1], 8);
    let scenes = [
        Scene {
            service,
            reals: [first, second],
            addresses: [R, R2],
            group: 7,
            syn: syn(),
        },
        Scene {
            service: service6,
            reals: [first6, second6],
            addresses: [R6, R26],
            group: 8,
            syn: syn().v6(),
        },
    ];
    for real in scenes.iter().flat_map(|scene| scene.reals) {
        lb.add_member(real);
    }
    scenes
}

/// One of each family, in which every address is a client.
fn scenes(lb: &mut Dataplane) -> [Scene; 2] {
    scenes_with(lb, [32, 128])
}

/// As [`scenes`], and the client of each keeps its real server, as returned.
fn scenes_with_clients(lb: &mut Dataplane) -> ([Scene; 2], BTreeMap<Client, Kept>) {
    let scenes = scenes(lb);
    for scene in &scenes {
        establish(lb, &scene.syn, scene.addresses[0], 8080);
    }
    let kept = lb.all_kept();
    assert_eq!(kept.len(), 2);
    (scenes, kept)
}

impl Scene {
    /// The client's SYN from another port.
    fn syn(&self, port: u16) -> Packet {
        self.syn.clone().client_port(port)
    }

    /// A client's packet goes to the first or the second real server.
    fn delivered(&self, at: usize, packet: &Packet) -> Expected {
        redirected(&packet.delivered(self.addresses[at], 8080)).original(self.reals[at], packet)
    }

    /// The scheduler gives a client's SYN to a real server.
    fn scheduled(&self, at: usize, syn: &Packet) -> Expected {
        let expected = self.delivered(at, syn).half_open(1);
        expected.selected(self.service, self.reals[at])
    }

    /// A client's SYN goes to the real server that the client keeps.
    fn kept(&self, at: usize, syn: &Packet) -> Expected {
        let expected = self.delivered(at, syn).half_open(1);
        expected.connected(self.reals[at])
    }

    /// An acknowledgement completes a handshake with a real server, which the client keeps then.
    fn completed(&self, at: usize, ack: &Packet) -> Expected {
        let expected = self.delivered(at, ack).pair_of(ack).half_open(-1);
        expected.keeps(self.client(ack.source), self.addresses[at], self.reals[at])
    }

    /// The client, or network of clients, with this address.
    fn client(&self, address: IpAddr) -> Client {
        Client {
            protocol: self.service.protocol,
            group: self.group,
            address,
        }
    }

    /// The rest of the handshake with a real server, which the client keeps then.
    #[track_caller]
    fn completes(&self, lb: &mut Dataplane, at: usize, syn: &Packet) {
        lb.pass_through(Inside, &syn_ack(syn, self.addresses[at], 8080));
        let ack = syn.clone().segment(ACK, 1001, 9001);
        lb.step(Outside, &ack, self.completed(at, &ack));
    }

    /// What the client keeps.
    fn last_used(&self, lb: &Dataplane) -> u32 {
        let kept = lb.kept(self.client(self.syn.source));
        kept.expect("what the client keeps").last_used
    }
}

/// The client `number` addresses behind this one.
pub fn client(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + number).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + u128::from(number)).into()),
    }
}

/// The same packet of that client.
fn of_client(packet: &Packet, number: u32) -> Packet {
    Packet {
        source: client(packet.source, number),
        ..packet.clone()
    }
}

/// The client of a network, by its first address.
fn network(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            IpAddr::V4((u32::from(address) >> (32 - prefix) << (32 - prefix)).into())
        }
        IpAddr::V6(address) => {
            IpAddr::V6((u128::from(address) >> (128 - prefix) << (128 - prefix)).into())
        }
    }
}

#[test]
fn a_client_keeps_its_real_server_when_the_handshake_is_complete_and_not_before() {
    run(|lb| {
        for scene in scenes(lb) {
            let syn = scene.syn(40_000);
            lb.step(Outside, &syn, scene.scheduled(0, &syn));
            let early = syn.clone().segment(ACK, 1001, 9001);
            lb.step(Outside, &early, scene.delivered(0, &early));
            let answer = syn_ack(&syn, scene.addresses[0], 8080);
            let returned = redirected(&answer.returned(scene.service.vip, 80));
            lb.step(Inside, &answer, returned.reply(scene.reals[0], &answer));
            for number in [0, 9000, 9001 + (1 << 16), u32::MAX] {
                let wrong = syn.clone().segment(ACK, 1001, number);
                lb.step(Outside, &wrong, scene.delivered(0, &wrong));
            }
            let before = lb.jiffies() as u32;
            let ack = syn.clone().segment(ACK, 1001, 9001);
            lb.step(Outside, &ack, scene.completed(0, &ack));
            let after = lb.jiffies() as u32;
            let age = after.wrapping_sub(scene.last_used(lb));
            assert!(age <= after.wrapping_sub(before), "{age}");
        }
    });
}

#[test]
fn the_next_connections_of_a_client_go_to_the_same_real_server() {
    run(|lb| {
        for scene in scenes(lb) {
            // Clients take turns; the connections of one that keeps its real server take none.
            for (number, at) in [(0, 0), (1, 1), (2, 0)] {
                let syn = of_client(&scene.syn(40_000), number);
                lb.step(Outside, &syn, scene.scheduled(at, &syn));
                scene.completes(lb, at, &syn);
            }
            for port in 40_001..40_004 {
                for (number, at) in [(0, 0), (1, 1), (2, 0)] {
                    let syn = of_client(&scene.syn(port), number);
                    lb.step(Outside, &syn, scene.kept(at, &syn));
                    scene.completes(lb, at, &syn);
                }
            }
        }
    });
}

#[test]
fn clients_of_one_network_keep_one_real_server() {
    const PREFIXES: [u32; 2] = [24, 64];
    run(|lb| {
        for (scene, prefix) in scenes_with(lb, PREFIXES).into_iter().zip(PREFIXES) {
            let keeps = |expected: Expected, at: usize, packet: &Packet| {
                let network = scene.client(network(packet.source, prefix));
                expected.keeps(network, scene.addresses[at], scene.reals[at])
            };
            let completes = |lb: &mut Dataplane, at: usize, syn: &Packet| {
                lb.pass_through(Inside, &syn_ack(syn, scene.addresses[at], 8080));
                let ack = syn.clone().segment(ACK, 1001, 9001);
                let expected = scene.delivered(at, &ack).pair_of(&ack).half_open(-1);
                lb.step(Outside, &ack, keeps(expected, at, &ack));
            };
            let first = scene.syn(40_000);
            lb.step(Outside, &first, scene.scheduled(0, &first));
            completes(lb, 0, &first);
            let beside = of_client(&first, 200);
            lb.step(Outside, &beside, scene.kept(0, &beside));
            completes(lb, 0, &beside);
            let mut elsewhere = first;
            elsewhere.source = match elsewhere.source {
                IpAddr::V4(_) => client(elsewhere.source, 256),
                IpAddr::V6(address) => IpAddr::V6((u128::from(address) + (1 << 64)).into()),
            };
            lb.step(Outside, &elsewhere, scene.scheduled(1, &elsewhere));
            completes(lb, 1, &elsewhere);
        }
    });
}

#[test]
fn connections_that_a_client_opens_at_once_go_to_one_real_server() {
    run(|lb| {
        for scene in scenes(lb) {
            let first = scene.syn(40_000);
            lb.step(Outside, &first, scene.scheduled(0, &first));
            for port in 40_001..40_006 {
                let next = scene.syn(port);
                lb.step(Outside, &next, scene.kept(0, &next));
            }
            let other = of_client(&first, 1);
            lb.step(Outside, &other, scene.scheduled(1, &other));
            for port in 40_000..40_006 {
                scene.completes(lb, 0, &scene.syn(port));
            }
        }
    });
}

#[test]
fn a_first_connection_that_is_never_completed_decides_for_a_short_time() {
    run(|lb| {
        for scene in scenes(lb) {
            let first = scene.syn(40_000);
            lb.step(Outside, &first, scene.scheduled(0, &first));
            // No time at all, as if it were over.
            lb.change_settings(|settings| settings.pending = 0);
            let next = scene.syn(40_001);
            lb.step(Outside, &next, scene.scheduled(1, &next));
            // The new choice decides, from now on.
            lb.change_settings(|settings| settings.pending = balancer_tests::persistence::PENDING);
            let next = scene.syn(40_002);
            lb.step(Outside, &next, scene.kept(1, &next));
            scene.completes(lb, 1, &next);
        }
    });
}

#[test]
fn first_connections_of_clients_that_share_a_place_are_told_apart() {
    run(|lb| {
        for scene in scenes(lb) {
            let index = |packet: &Packet| {
                let key = PersistenceKey {
                    client: packet.source.into(),
                    group: scene.group,
                };
                Pending::index(hash(&key, &SEED))
            };
            let first = scene.syn(40_000);
            let other = (1..).map(|number| of_client(&first, number));
            let other = other
                .take(10 * PENDING_WORDS as usize)
                .find(|other| index(other) == index(&first))
                .expect("a client with the same place");
            lb.step(Outside, &first, scene.scheduled(0, &first));
            let place = lb.pending().into_iter().map(|(index, _)| index);
            assert!(place.into_iter().any(|place| place == index(&first)));
            lb.step(Outside, &other, scene.scheduled(1, &other));
            // The word is the other one's now.
            let next = scene.syn(40_001);
            lb.step(Outside, &next, scene.scheduled(0, &next));
            let next = scene.syn(40_002);
            lb.step(Outside, &next, scene.kept(0, &next));
        }
    });
}

#[test]
fn what_a_client_keeps_is_forgotten_after_its_time_and_each_use_renews_it() {
    run(|lb| {
        for scene in scenes(lb) {
            let client = scene.client(scene.syn.source);
            let first = scene.syn(40_000);
            lb.step(Outside, &first, scene.scheduled(0, &first));
            scene.completes(lb, 0, &first);
            lb.forget_pending();
            // The clock runs while the test does: a second of room, at 1,000 jiffies a second.
            for port in 40_001..40_004 {
                lb.age_kept(client, TIMEOUT - 1_000);
                let old = scene.last_used(lb);
                let next = scene.syn(port);
                lb.step(Outside, &next, scene.kept(0, &next));
                assert_eq!(scene.last_used(lb), old, "anybody can have sent the SYN");
                scene.completes(lb, 0, &next);
                let age = (lb.jiffies() as u32).wrapping_sub(scene.last_used(lb));
                assert!(age < 1_000, "{age}");
            }
            lb.age_kept(client, TIMEOUT + 1);
            let late = scene.syn(40_010);
            lb.step(Outside, &late, scene.scheduled(1, &late));
            scene.completes(lb, 1, &late);
            let next = scene.syn(40_011);
            lb.step(Outside, &next, scene.kept(1, &next));
        }
    });
}

#[test]
fn the_connections_of_a_service_that_is_not_persistent_leave_no_trace() {
    run(|lb| {
        let persistent = lb.add_real(R, 8443);
        let service = lb.add_service(6, V, 443, &[persistent]);
        lb.set_persistence(service, TIMEOUT, 32, 7);
        lb.web();
        lb.dns();
        for (syn, real) in [(syn(), R), (syn().v6(), R6)] {
            for port in 40_000..40_003 {
                establish(lb, &syn.clone().client_port(port), real, 8080);
            }
        }
        let ping = Packet::udp(b"ping");
        for (ping, real) in [(ping.clone(), R), (ping.v6(), R6)] {
            lb.pass_through(Outside, &ping);
            lb.pass_through(Inside, &ping.answered(real, 8053));
            lb.pass_through(Outside, &ping);
        }
        assert!(lb.all_kept().is_empty());
        assert_eq!(lb.pending(), []);
    });
}

#[test]
fn where_no_more_clients_have_room_the_longest_unheard_gives_way() {
    const CLIENTS: u32 = 1_024;
    run_with(
        Options {
            max_connections: 1_024,
            max_clients: CLIENTS,
            ..Options::default()
        },
        |lb| {
            let [scene, _] = scenes(lb);
            let reset = |lb: &Dataplane, syn: &Packet| {
                let answer = syn.answered(R, 8080);
                lb.pass_through(
                    Inside,
                    &answer.segment(balancer_tests::packet::flag::RST, 9001, 0),
                );
            };
            lb.set_ring(scene.service, &[scene.reals[0]]);
            let (faithful, once) = (scene.syn(40_000), of_client(&scene.syn(40_000), 1));
            establish(lb, &once, R, 8080);
            reset(lb, &once);
            for number in 2..4 * CLIENTS {
                let syn = of_client(&faithful, number);
                establish(lb, &syn, R, 8080);
                reset(lb, &syn);
                if number % 100 == 2 {
                    let syn = faithful.clone().segment(SYN, 1000, 0);
                    establish(lb, &syn, R, 8080);
                    reset(lb, &syn);
                }
            }
            let kept = lb.all_kept();
            let keeps = |number| {
                let address = client(faithful.source, number);
                kept.contains_key(&scene.client(address))
            };
            assert!(kept.len() <= CLIENTS as usize, "{}", kept.len());
            assert!(kept.len() > CLIENTS as usize / 2, "{}", kept.len());
            assert!(keeps(0), "who comes again is kept");
            assert!(!keeps(1), "who came once, first, is not");
            assert!(
                (4 * CLIENTS - 64..4 * CLIENTS).all(keeps),
                "the last ones are"
            );
        },
    );
}

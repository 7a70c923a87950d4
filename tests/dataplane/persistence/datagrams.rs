//! UDP, where a client exists once it has sent again after an answer.

use std::collections::BTreeMap;

use balancer_tests::{
    addresses::{R, R2, R6, R26, V, V6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        run,
    },
    expected::redirected,
    packet::Packet,
};

use super::{Scene, TIMEOUT, of_client, scenes_with_clients};

/// As `scenes`, with datagrams.
pub fn dns(lb: &mut Dataplane) -> [Scene; 2] {
    let ping = Packet::udp(b"ping");
    [
        (V, [R, R2], ping.clone(), 32),
        (V6, [R6, R26], ping.v6(), 128),
    ]
    .map(|(vip, addresses, ping, prefix)| {
        let reals = addresses.map(|address| lb.add_real(address, 8080));
        let service = lb.add_service(17, vip, 53, &reals);
        lb.set_persistence(service, TIMEOUT, prefix, 7);
        Scene {
            service,
            reals,
            addresses,
            group: 7,
            syn: ping,
        }
    })
}

#[test]
fn a_client_keeps_its_real_server_once_it_has_sent_again_after_an_answer() {
    run(|lb| {
        for scene in dns(lb) {
            let ping = scene.syn(40_000);
            let real = scene.reals[0];
            lb.step(
                Outside,
                &ping,
                scene
                    .delivered(0, &ping)
                    .selected(scene.service, real)
                    .pair_of(&ping),
            );
            lb.step(Outside, &ping, scene.delivered(0, &ping));
            let pong = ping.answered(scene.addresses[0], 8080);
            for _ in 0..2 {
                let returned = redirected(&pong.returned(scene.service.vip, 53));
                lb.step(Inside, &pong, returned.reply(real, &pong));
            }
            let client = scene.client(ping.source);
            let keeps = scene
                .delivered(0, &ping)
                .keeps(client, scene.addresses[0], real);
            lb.step(Outside, &ping, keeps);
            let next = scene.syn(40_001);
            let kept = scene.delivered(0, &next).connected(real).pair_of(&next);
            lb.step(Outside, &next, kept);
            let other = of_client(&ping, 1);
            lb.step(
                Outside,
                &other,
                scene
                    .delivered(1, &other)
                    .selected(scene.service, scene.reals[1])
                    .pair_of(&other),
            );
        }
    });
}

#[test]
fn datagrams_that_a_client_sends_from_several_ports_at_once_go_to_one_real_server() {
    run(|lb| {
        for scene in dns(lb) {
            let first = scene.syn(40_000);
            lb.pass_through(Outside, &first);
            for port in 40_001..40_005 {
                let next = scene.syn(port);
                let kept = scene.delivered(0, &next).pair_of(&next);
                lb.step(Outside, &next, kept.connected(scene.reals[0]));
            }
        }
    });
}

/// Who sees no answers can still send twice in each name, a moment apart: of TCP's clients that pushes nobody out.
#[test]
fn datagrams_sent_twice_in_many_names_leave_what_tcp_clients_keep() {
    const FORGED: u32 = 4_000;
    run(|lb| {
        let (_, before) = scenes_with_clients(lb);
        for scene in dns(lb) {
            lb.set_ring(scene.service, &scene.reals[..1]);
            for number in 0..FORGED {
                let ping = of_client(&scene.syn, number);
                lb.pass_through(Outside, &ping);
                lb.pass_through(Inside, &ping.answered(scene.addresses[0], 8080));
                lb.pass_through(Outside, &ping);
            }
        }
        let (of_tcp, of_udp): (BTreeMap<_, _>, BTreeMap<_, _>) = lb
            .all_kept()
            .into_iter()
            .partition(|(client, _)| client.protocol == 6);
        assert_eq!(of_tcp, before);
        assert!(of_udp.len() > 500, "{}", of_udp.len());
    });
}

#[test]
fn datagrams_in_many_names_make_no_entry_though_the_real_server_answers_them() {
    run(|lb| {
        let scenes = dns(lb);
        for scene in &scenes {
            for number in 0..5_000 {
                let ping = of_client(&scene.syn, number);
                let (_, out) = lb.send(Outside, &ping.bytes());
                for address in scene.addresses {
                    if out == ping.delivered(address, 8080).bytes() {
                        lb.pass_through(Inside, &ping.answered(address, 8080));
                    }
                }
            }
        }
        assert!(lb.all_kept().is_empty());
    });
}

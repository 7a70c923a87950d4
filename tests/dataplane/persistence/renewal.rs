//! What clients with a connection keep is renewed at the daemon's word.

use balancer_common::persistence::MAX_RUNNING_CLIENTS;
use balancer_tests::{
    addresses::{R, R2},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    persistence::Client,
};

use super::{client, datagrams::dns, scenes};
use crate::establish;

#[test]
fn what_a_client_keeps_is_renewed_in_place_and_only_while_it_is_that_server() {
    run(|lb| {
        let (of_tcp, of_udp) = (scenes(lb), dns(lb));
        for scene in of_tcp.into_iter().chain(of_udp) {
            let address = scene.syn.source;
            let kept = scene.client(address);
            let [first, second] = scene.addresses;
            let syn = scene.syn(40_000);
            if kept.protocol == 6 {
                establish(lb, &syn, first, 8080);
            } else {
                lb.pass_through(Outside, &syn);
                lb.pass_through(Inside, &syn.answered(first, 8080));
                lb.pass_through(Outside, &syn);
            }
            lb.age_kept(kept, 30_000);
            let before = lb.all_kept();
            let other_protocol = Client {
                protocol: 23 - kept.protocol,
                group: 55,
                ..kept
            };
            let unknown = scene.client(client(address, 1));
            lb.renew(&[(kept, second), (other_protocol, first), (unknown, first)]);
            assert_eq!(lb.all_kept(), before);
            lb.renew(&[(kept, first)]);
            let age = (lb.jiffies() as u32).wrapping_sub(scene.last_used(lb));
            assert!(age < 1_000, "{age}");
            let mut after = lb.all_kept();
            after.get_mut(&kept).unwrap().last_used = before[&kept].last_used;
            assert_eq!(after, before);
        }
    });
}

#[test]
fn as_many_clients_are_renewed_as_there_are() {
    const CLIENTS: u32 = 2 * MAX_RUNNING_CLIENTS as u32 + 1;
    run(|lb| {
        let [scene, _] = scenes(lb);
        lb.set_ring(scene.service, &scene.reals[..1]);
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            establish(lb, &super::of_client(&scene.syn, number), R, 8080);
            let kept = scene.client(client(scene.syn.source, number));
            lb.age_kept(kept, 30_000);
            clients.push((kept, R));
        }
        // The last one but two has left that server.
        clients[CLIENTS as usize - 3].1 = R2;
        lb.renew(&clients);
        let now = lb.jiffies() as u32;
        let kept = lb.all_kept();
        let is_new: Vec<_> = clients
            .iter()
            .map(|(client, _)| now.wrapping_sub(kept[client].last_used) < 10_000)
            .collect();
        let mut expected = vec![true; CLIENTS as usize];
        expected[CLIENTS as usize - 3] = false;
        assert_eq!(is_new, expected);
    });
}

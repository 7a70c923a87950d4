//! This host's addresses and networks in the packet program's maps.

use balancer_common::{addr::Addr, real_server::RealServer};
use balancer_ctl::dataplane::Dataplane;

use crate::scene::{Scene, all, both, maintain_until};

/// The IPv4 prefix lengths of the first two real servers' network masks.
fn masks(scene: &Scene) -> [u32; 2] {
    let reals = scene.array::<RealServer>("REALS");
    [0, 1].map(|id| {
        let Addr([a, b, c, mask]) = reals.get(&id, 0).unwrap().network_mask;
        assert_eq!([a, b, c], [0; 3]);
        u32::from_be(mask).leading_ones()
    })
}

#[test]
fn real_servers_follow_the_networks_that_this_host_is_in() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(masks(&scene), [24, 24]);
        let mut until = |wanted: [u32; 2]| {
            maintain_until(dataplane, |_| masks(&scene) == wanted);
        };
        scene
            .balancer
            .ip("address add 10.0.2.200/30 dev port2")
            .unwrap();
        scene
            .balancer
            .ip("address add 10.0.2.7/28 dev port2")
            .unwrap();
        until([24, 28]);
        // Behind a gateway the second real server is in another network, whatever its address.
        scene
            .balancer
            .ip("route add 10.0.2.2/32 via 10.0.1.2")
            .unwrap();
        until([24, 0]);
        scene.balancer.ip("route del 10.0.2.2/32").unwrap();
        until([24, 28]);
        scene
            .balancer
            .ip("address del 10.0.1.1/24 dev port1")
            .unwrap();
        until([0, 28]);
    });
    // A later daemon updates what changed meanwhile.
    scene.balancer.address("port1", "10.0.1.1/16").unwrap();
    scene.with(all(), |_| assert_eq!(masks(&scene), [16, 28]));
}

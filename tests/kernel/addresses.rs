//! This host's addresses and networks in the packet program's maps.

use aya::maps::{Array, Map, MapData};
use balancer_common::{addr::Addr, real_server::RealServer};
use balancer_ctl::dataplane::Dataplane;
use xtask::lab::wait_until;

use crate::scene::{Scene, all, both};

/// The IPv4 prefix lengths of the first two real servers' network masks.
fn masks(scene: &Scene) -> [u32; 2] {
    let pin = scene
        .pins()
        .join(format!("v{}/REALS", balancer_common::ABI_VERSION));
    let map = Map::Array(MapData::from_pin(pin).unwrap());
    let reals: Array<_, RealServer> = map.try_into().unwrap();
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
            let reached = wait_until("the masks", std::time::Duration::from_secs(10), || {
                dataplane.run_maintenance().unwrap();
                Ok(masks(&scene) == wanted)
            });
            assert!(reached.is_ok(), "{:?}, not {wanted:?}", masks(&scene));
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

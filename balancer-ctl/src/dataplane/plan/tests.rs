//! Applies plans to a model of the kernel's maps: the result is the desired state, and each service is in its old or
//! its new state after every change.

mod model;

use balancer_common::{address_filter::bit_of, scheduler::Ring, service::Service};
use proptest::prelude::*;

use self::model::{REALS, World, address, key, service};
use super::*;
use crate::{
    dataplane::{self, Connections},
    model::{Protocol, Scheduler},
    netlink::{address::Networks, local::Prefix},
};

#[test]
fn each_real_server_gets_its_network_mask_and_another_when_that_changes() {
    let networks = |lengths: &[u8]| -> Networks {
        let address = "192.168.0.0".parse().unwrap();
        lengths
            .iter()
            .map(|length| Prefix::of(address, *length))
            .collect()
    };
    let mut tables = Tables {
        networks: networks(&[16, 25]),
        ..Tables::empty(8, 64)
    };
    let reported = |tables: &Tables| {
        let known = tables.reals.iter().filter(|real| real.state != state::FREE);
        let last = known.map(|real| u32::from_be(real.network_mask.0[3]));
        last.map(u32::leading_ones).collect::<Vec<_>>()
    };
    let desired = [service(1, &[(2, 1), (200, 1)])];
    for change in plan(&desired, &tables).unwrap() {
        tables.apply(&change);
    }
    assert_eq!(reported(&tables), [25, 16]);
    assert_eq!(plan_network_masks(&tables), []);
    tables.networks = networks(&[25]);
    let changes = plan_network_masks(&tables);
    assert_eq!(changes.len(), 1, "{changes:?}");
    for change in &changes {
        tables.apply(change);
    }
    assert_eq!(reported(&tables), [25, 0]);
    // A real server behind a gateway is in another network, whatever its address is.
    tables.routed.insert(address(2).ip());
    for change in &plan_network_masks(&tables) {
        tables.apply(change);
    }
    assert_eq!(reported(&tables), [0, 0]);
}

#[test]
fn a_new_service_is_written_from_the_bottom_up() {
    let changes = World::new()
        .change_to(vec![service(1, &[(2, 1), (3, 0)])])
        .unwrap();
    let vip = Addr::from(key(1).address.ip());
    let real = |number, state| RealServer {
        address: Addr::from(address(number).ip()),
        vip,
        network_mask: Addr::default(),
        port: 8080_u16.to_be(),
        delta: RealServer::between(&vip, &Addr::from(address(number).ip())),
        state,
        service: 0,
        zero: 0,
    };
    let ports = [2, 3].map(|number| ServiceKey {
        protocol: Protocol::Tcp,
        address: address(number),
    });
    let value = Service {
        ring: Ring {
            offset: 0,
            length: 1,
        },
        id: 0,
        flags: REJECT,
    };
    let mut words: Vec<_> = [key(1).address, address(2), address(3)]
        .map(|address| bit_of(address.ip()))
        .map(|bit| (bit.word, bit.mask))
        .into();
    words.sort_unstable();
    assert_eq!(
        changes,
        [
            TableChange::SetAddresses { words },
            TableChange::ResetService { id: 0 },
            TableChange::SetReal {
                id: 0,
                real: real(2, state::TAKES_NEW)
            },
            TableChange::SetReal {
                id: 1,
                real: real(3, state::DRAINING)
            },
            TableChange::AddRealPorts {
                ports: ports.to_vec()
            },
            TableChange::WriteRing {
                offset: 0,
                reals: vec![0]
            },
            TableChange::SetService {
                key: key(1),
                service: value,
                reals: vec![0]
            },
        ]
    );
}

#[test]
fn a_port_is_known_as_long_as_any_service_has_a_real_server_there() {
    let mut world = World::new();
    world
        .change_to(vec![service(1, &[(2, 1)]), service(2, &[(2, 1), (3, 0)])])
        .unwrap();
    let ports = |number| ServiceKey {
        protocol: Protocol::Tcp,
        address: address(number),
    };
    let changes = world.change_to(vec![service(2, &[(2, 1)])]).unwrap();
    let last = TableChange::RemoveRealPorts {
        ports: vec![ports(3)],
    };
    assert!(changes.contains(&last), "{changes:?}");
    let changes = world.change_to(vec![service(2, &[(4, 1)])]).unwrap();
    let place = |wanted: &dyn Fn(&TableChange) -> bool| changes.iter().position(wanted).unwrap();
    let added = place(&|change| {
        *change
            == TableChange::AddRealPorts {
                ports: vec![ports(4)],
            }
    });
    let points = place(&|change| matches!(change, TableChange::SetService { .. }));
    let removed = place(&|change| {
        *change
            == TableChange::RemoveRealPorts {
                ports: vec![ports(2)],
            }
    });
    assert!(added < points && points < removed, "{changes:?}");
}

#[test]
fn a_removed_real_server_keeps_its_id_and_comes_back_under_it() {
    let mut world = World::new();
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    let id = world.id(1, 3);
    world.change_to(vec![service(1, &[(2, 1)])]).unwrap();
    assert_eq!(world.tables.reals[id as usize].state, state::REMOVED);
    world
        .change_to(vec![service(1, &[(4, 1), (2, 1)])])
        .unwrap();
    assert_ne!(world.id(1, 4), id);
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    assert_eq!(world.id(1, 3), id);
}

/// The service 1 with the real server 2 up and 3 failed.
fn one_failed() -> Vec<dataplane::Service> {
    let mut failed = service(1, &[(2, 1), (3, 0)]);
    failed.reals[1].connections = Connections::Reset;
    vec![failed]
}

#[test]
fn a_real_server_that_fails_leaves_the_ring_first() {
    let mut world = World::new();
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    let id = world.id(1, 3);
    let changes = world.change_to(one_failed()).unwrap();
    let real = world.tables.reals[id as usize];
    assert_eq!(real.state, state::RESET);
    assert!(
        matches!(
            &changes[..],
            [
                TableChange::WriteRing { .. },
                TableChange::SetService { .. },
                TableChange::SetReal { .. },
            ]
        ),
        "{changes:?}"
    );
    assert_eq!(changes[2], TableChange::SetReal { id, real });
    let changes = world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    assert!(
        matches!(
            &changes[..],
            [
                TableChange::SetReal { .. },
                TableChange::WriteRing { .. },
                TableChange::SetService { .. },
            ]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_real_server_that_is_removed_after_it_failed_stays_failed() {
    let mut world = World::new();
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    let id = world.id(1, 3);
    world.change_to(one_failed()).unwrap();
    world.change_to(vec![service(1, &[(2, 1)])]).unwrap();
    assert_eq!(world.tables.reals[id as usize].state, state::REMOVED_RESET);
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    assert_eq!(world.id(1, 3), id);
    // Also when its whole service is removed.
    world.change_to(one_failed()).unwrap();
    world.change_to(Vec::new()).unwrap();
    assert_eq!(world.tables.reals[id as usize].state, state::REMOVED_RESET);
}

#[test]
fn a_service_id_is_not_given_to_another_while_its_real_servers_have_connections() {
    let mut world = World::new();
    world.change_to(vec![service(1, &[(2, 1)])]).unwrap();
    world.change_to(vec![service(2, &[(2, 1)])]).unwrap();
    assert_eq!(world.tables.services[&key(2)].service.id, 1);
    world.tables.reals[0] = RealServer::default();
    world.maps.reals[0] = RealServer::default();
    let used = world.tables.service_ids_in_use();
    assert!(!used[0] && used[1] && !used[2]);
    world
        .change_to(vec![service(2, &[(2, 1)]), service(3, &[])])
        .unwrap();
    assert_eq!(world.tables.services[&key(3)].service.id, 0);
}

#[test]
fn changing_a_weight_keeps_ids_and_moves_the_ring() {
    let mut world = World::new();
    world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    let changes = world
        .change_to(vec![service(1, &[(2, 3), (3, 1)])])
        .unwrap();
    let value = Service {
        ring: Ring {
            offset: 2,
            length: 4,
        },
        id: 0,
        flags: REJECT,
    };
    assert_eq!(
        changes,
        [
            TableChange::WriteRing {
                offset: 2,
                reals: vec![0, 0, 1, 0]
            },
            TableChange::SetService {
                key: key(1),
                service: value,
                reals: vec![0, 0, 1, 0]
            },
        ]
    );
}

#[test]
fn a_full_table_is_reported_before_anything_is_changed() {
    let mut world = World::new();
    let many: Vec<_> = (0..REALS as u8).map(|number| (number, 1)).collect();
    world.change_to(vec![service(1, &many)]).unwrap();
    let full = world
        .change_to(vec![service(1, &many), service(2, &[(1, 1)])])
        .unwrap_err();
    assert_eq!(
        full.to_string(),
        "65 real servers do not fit: the table holds 64 over all services together (0 places are held by connections \
         of removed real servers)"
    );
    let full = World::new()
        .change_to(vec![service(1, &[(1, 500), (2, 499)])])
        .unwrap_err();
    assert_eq!(
        full.to_string(),
        "the ring of service tcp/192.0.2.1:80 needs 999 slots in one piece and 512 of 1048576 are free: use weights \
         with a smaller sum or a common divisor"
    );
}

#[test]
fn a_ring_of_finer_parts_for_which_there_is_no_room_is_made_of_whole_units() {
    let mut world = World::new();
    let other = service(1, &[(1, 299), (2, 1)]);
    world.change_to(vec![other.clone()]).unwrap();
    // 20 for each unit of weight: a real server of weight 20, one of weight 2, and one of 1 that has grown to 35 %.
    let reals = [(3, 400), (4, 40), (5, 7), (6, 0)];
    let of_unit = |unit| {
        let growing = dataplane::Service {
            unit,
            ..service(2, &reals)
        };
        vec![other.clone(), growing]
    };
    assert!(matches!(
        plan(&of_unit(1), &world.tables),
        Err(CapacityError::Ring { wanted: 447, .. })
    ));
    let changes = plan(&of_unit(20), &world.tables).unwrap();
    for change in &changes {
        world.tables.apply(change);
    }
    let id = |number| world.id(2, number);
    let weighted = [(id(3), 20), (id(4), 2), (id(5), 1)];
    assert_eq!(
        world.tables.services[&key(2)].ring,
        ring::build(Scheduler::Wrr, &weighted)
    );
    assert_eq!(plan(&of_unit(20), &world.tables), Ok(vec![]));
    // With room the ring is as fine as desired.
    let alone = dataplane::Service {
        unit: 20,
        ..service(2, &[(3, 200), (5, 7)])
    };
    let mut world = World::new();
    world.change_to(vec![alone]).unwrap();
    assert_eq!(world.tables.services[&key(2)].ring.len(), 207);
}

#[test]
fn services_of_finer_parts_leave_room_for_all_others() {
    // 113 slots each, or 5 of whole units.
    let finer = |number, grown| dataplane::Service {
        unit: 20,
        ..service(number, &[(3, grown), (4, 80)])
    };
    let plain = service(20, &[(1, 79), (2, 1)]);
    let mut world = World::new();
    let mut go = |desired: &[dataplane::Service]| {
        let changes = plan(desired, &world.tables).unwrap();
        for change in &changes {
            world.tables.apply(change);
        }
        world.tables.set_planned(desired);
        world.grace();
        let lengths = desired.iter().map(|service| &service.key);
        let lengths = lengths.map(|key| world.tables.services[key].ring.len());
        lengths.collect::<Vec<_>>()
    };
    // All at once, and a service of whole units after them.
    let mut all: Vec<_> = (1..=10).map(|number| finer(number, 33)).collect();
    all.push(plain.clone());
    assert_eq!(go(&all), [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 80]);
    // One after the other; they leave room to write all rings anew.
    go(&[]);
    for number in 1..=4 {
        go(&all[..number]);
    }
    assert_eq!(go(&all)[10], 80);
}

#[test]
fn ring_space_comes_back_after_a_grace_period() {
    let mut world = World::new();
    let ring = |weight| vec![service(1, &[(1, weight), (2, 1)])];
    world.change_to(ring(299)).unwrap();
    world.change_to(ring(199)).unwrap();
    assert!(matches!(
        world.change_to(ring(298)),
        Err(CapacityError::Ring { .. })
    ));
    world.grace();
    world.change_to(ring(298)).unwrap();
}

fn services() -> impl Strategy<Value = Vec<dataplane::Service>> {
    let reals = proptest::collection::btree_map(0_u8..6, 0_u32..4, 0..5);
    let one = (
        reals,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    proptest::collection::btree_map(0_u8..5, one, 0..4).prop_map(|services| {
        services
            .into_iter()
            .map(|(number, (reals, rr, reject, reverse, resets))| {
                let mut reals: Vec<_> = reals.into_iter().collect();
                if reverse {
                    reals.reverse();
                }
                let mut service = service(number, &reals);
                for real in service.reals.iter_mut().filter(|real| real.weight == 0) {
                    if resets {
                        real.connections = Connections::Reset;
                    }
                }
                service.scheduler = if rr { Scheduler::Rr } else { Scheduler::Wrr };
                service.no_real = if reject { NoReal::Reject } else { NoReal::Drop };
                service
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_moment_is_old_or_new(history in proptest::collection::vec((services(), any::<bool>()), 1..8)) {
        let mut world = World::new();
        for (desired, grace) in history {
            match world.change_to(desired) {
                Ok(_) | Err(CapacityError::Reals { .. }) => {}
                Err(full) => return Err(TestCaseError::fail(full.to_string())),
            }
            if grace {
                world.grace();
            }
        }
    }
}

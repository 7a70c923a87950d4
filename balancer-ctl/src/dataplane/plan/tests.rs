//! Applies plans to a model of the kernel's maps: the result is the desired state, and each service is in its old or
//! its new state after every change.

mod filters;
mod model;
mod rings;

use balancer_common::{
    addr::Addr,
    address_filter::bit_of,
    conntrack::forwarding,
    load::Measure,
    service::{REJECT, Service},
};
use proptest::prelude::*;

pub use self::model::service;
use self::model::{MANY_SLOTS, REALS, SLOTS, World, address, key, ring};
use super::*;
use crate::{
    dataplane::{
        self, Connections,
        jiffies::Tick,
        plan::tables::{Affinity, Limits},
    },
    model::{NoReal, Persistence, Protocol, Scheduler, prefix::Prefix},
    netlink::address::Networks,
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
        ..Tables::empty(8, 16, Tick::with_hz(250))
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
    assert_eq!(plan_host_changes(&tables), []);
    tables.networks = networks(&[25]);
    let changes = plan_host_changes(&tables);
    assert_eq!(changes.len(), 1, "{changes:?}");
    for change in &changes {
        tables.apply(change);
    }
    assert_eq!(reported(&tables), [25, 0]);
    // A real server behind a gateway is in another network, whatever its address is.
    tables.routed.insert(address(2).ip());
    for change in &plan_host_changes(&tables) {
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
        service_port: key(1).address.port().to_be(),
        forwarding: forwarding::NAT,
        snat_addresses: 0,
    };
    let ports = [2, 3].map(|number| ServiceKey {
        protocol: Protocol::Tcp,
        address: address(number),
    });
    let value = Service {
        ring: ring(0, 1),
        available: ring(4, 1),
        id: 0,
        flags: REJECT,
        measure: Measure::WLC,
        ..Service::default()
    };
    let limits = Limits {
        weight: 1,
        ..Limits::default()
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
            TableChange::SetLimits { id: 0, limits },
            TableChange::AddRealPorts {
                ports: ports.to_vec()
            },
            TableChange::WriteRing {
                ring: ring(0, 1),
                reals: vec![0]
            },
            TableChange::WriteRing {
                ring: ring(4, 1),
                reals: vec![0]
            },
            TableChange::SetService {
                key: key(1),
                service: value,
                reals: vec![0],
                available: vec![0]
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
                TableChange::WriteRing { .. },
                TableChange::SetService { .. },
                TableChange::SetReal { .. },
                TableChange::SetLimits { .. },
            ]
        ),
        "{changes:?}"
    );
    assert_eq!(changes[3], TableChange::SetReal { id, real });
    let changes = world
        .change_to(vec![service(1, &[(2, 1), (3, 1)])])
        .unwrap();
    assert!(
        matches!(
            &changes[..],
            [
                TableChange::SetReal { .. },
                TableChange::SetLimits { .. },
                TableChange::WriteRing { .. },
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
        ring: ring(8, 4),
        available: ring(4, 2),
        id: 0,
        flags: REJECT,
        measure: Measure::WLC,
        ..Service::default()
    };
    let limits = Limits {
        weight: 3,
        ..Limits::default()
    };
    assert_eq!(
        changes,
        [
            TableChange::SetLimits { id: 0, limits },
            TableChange::WriteRing {
                ring: ring(8, 4),
                reals: vec![0, 0, 1, 0]
            },
            TableChange::SetService {
                key: key(1),
                service: value,
                reals: vec![0, 0, 1, 0],
                available: vec![0, 1]
            },
        ]
    );
}

#[test]
fn what_a_killed_daemon_has_left_of_a_removed_services_persistence_is_removed() {
    let mut service = service(1, &[(0, 1), (1, 1)]);
    service.persistence = Some(Persistence::default());
    let mut tables = Tables::empty(REALS, SLOTS / 4, Tick::with_hz(250));
    let apply = |tables: &mut Tables, changes: &[TableChange]| {
        for change in changes {
            tables.apply(change);
        }
    };
    let addition = plan(&[service], &tables).unwrap();
    apply(&mut tables, &addition);
    let removal = plan(&[], &tables).unwrap();
    let says_nothing = |tables: &Tables| {
        let mut affinities = tables.affinities.values();
        affinities.all(|affinity| *affinity == Affinity::default())
    };
    let mut left = false;
    for made in 0..=removal.len() {
        let mut tables = tables.clone();
        apply(&mut tables, &removal[..made]);
        left |= !says_nothing(&tables) && tables.services.is_empty();
        let rest = plan(&[], &tables).unwrap();
        apply(&mut tables, &rest);
        assert!(says_nothing(&tables), "killed after {made} changes");
        assert_eq!(plan(&[], &tables).unwrap(), []);
    }
    assert!(
        left,
        "there is a moment without the service and with what it said"
    );
}

fn services() -> impl Strategy<Value = Vec<dataplane::Service>> {
    let reals = proptest::collection::btree_map(0_u8..6, 0_u32..4, 0..5);
    // Maglev's tables are too large for so many cases.
    let schedulers = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Wlc,
        Scheduler::Fo,
        Scheduler::Twos,
        Scheduler::Sh,
        Scheduler::Dh,
    ];
    let one = (
        reals,
        proptest::sample::select(schedulers.to_vec()),
        proptest::option::of(proptest::option::of(0_u8..2)),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    proptest::collection::btree_map(0_u8..5, one, 0..4).prop_map(|services| {
        services
            .into_iter()
            .map(
                |(number, (reals, scheduler, persistent, reject, reverse, resets))| {
                    let mut reals: Vec<_> = reals.into_iter().collect();
                    if reverse {
                        reals.reverse();
                    }
                    let mut service = service(number, &reals);
                    for real in service.reals.iter_mut().filter(|real| real.weight == 0) {
                        if resets {
                            real.connections = Connections::Reset;
                        } else {
                            real.takes_persistent = persistent.is_some();
                        }
                        // Drained, it keeps its slots; with weight 0 it has those of the lightest.
                        real.hash_weight = 1;
                    }
                    service.scheduler = scheduler;
                    service.persistence = persistent.map(|group| Persistence {
                        group: group.map(|number| format!("g{number}")),
                        ..Persistence::default()
                    });
                    service.no_real = if reject { NoReal::Reject } else { NoReal::Drop };
                    service
                },
            )
            .collect()
    })
}

proptest! {
    #[test]
    fn every_moment_is_old_or_new(history in proptest::collection::vec((services(), any::<bool>()), 1..8)) {
        let mut world = World::with_slots(MANY_SLOTS);
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

//! Rings: how long they are, where they lie, and what is left of the slots.

use super::{
    super::{service::candidate, *},
    model::{MANY_SLOTS, REALS, World, key, service},
};
use crate::{
    dataplane::ring::{self, Longest, RingKind},
    model::Scheduler,
};

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
        "the ring of service tcp/192.0.2.1:80 needs 999 slots in one piece and 512 of 8388608 are free: use weights \
         with a smaller sum or a common divisor, or fewer services with mh"
    );
}

#[test]
fn a_ring_of_finer_parts_for_which_there_is_no_room_is_made_of_whole_units() {
    let mut world = World::new();
    let other = service(1, &[(1, 299), (2, 1)]);
    world.change_to(vec![other.clone()]).unwrap();
    // 200 slots and a word are free. 20 for each unit of weight: a real server of weight 20, one of weight 2, and one of 1 that has grown to 35 %.
    let reals = [(3, 400), (4, 40), (5, 7), (6, 0)];
    let of_unit = |unit| {
        let growing = Service {
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
    let weighted = [(3, 20), (4, 2), (5, 1)].map(|(number, weight)| {
        let service = service(2, &[(number, weight)]);
        candidate(id(number), &service.reals[0])
    });
    assert_eq!(
        world.tables.services[&key(2)].ring,
        ring::build(RingKind::Weighted, &weighted, Longest::Short)
    );
    assert_eq!(plan(&of_unit(20), &world.tables), Ok(vec![]));
    // With room the ring is as fine as desired.
    let alone = Service {
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
    let finer = |number, grown| Service {
        unit: 20,
        ..service(number, &[(3, grown), (4, 80)])
    };
    let plain = service(20, &[(1, 79), (2, 1)]);
    let mut world = World::new();
    let mut go = |desired: &[Service]| {
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

#[test]
fn a_maglev_table_is_rewritten_where_it_is_and_only_where_it_changes() {
    let mut world = World::with_slots(MANY_SLOTS);
    let maglev = |reals: &[(u8, u32)]| {
        let mut service = service(1, reals);
        service.scheduler = Scheduler::Mh;
        service
    };
    let many: Vec<_> = (0..20).map(|number| (number, 1)).collect();
    world.change_to(vec![maglev(&many)]).unwrap();
    let before = world.tables.services[&key(1)].service;
    assert_eq!(before.ring.length, 65_537);
    // One drains: its slots stay, and only the list of those that take new connections changes.
    let mut drained = maglev(&many);
    drained.reals[7].weight = 0;
    let changes = world.change_to(vec![drained]).unwrap();
    let rewritten = |changes: &[TableChange]| {
        let words = changes.iter().filter_map(|change| match change {
            TableChange::RewriteRing { words, .. } => Some(words.len()),
            _ => None,
        });
        words.collect::<Vec<_>>()
    };
    assert_eq!(rewritten(&changes), [0; 0]);
    // It leaves: a word holds four slots, of 20 real servers.
    let fewer = maglev(&[&many[..7], &many[8..]].concat());
    let changes = world.change_to(vec![fewer]).unwrap();
    let words = rewritten(&changes);
    assert!(words.len() == 1 && words[0] < 5_000, "{words:?}");
    let after = world.tables.services[&key(1)].service;
    assert_eq!(after.ring, before.ring);
    assert!(!changes.iter().any(|change| {
        matches!(change, TableChange::WriteRing { ring, .. } if ring.length > 20)
    }));
}

#[test]
fn weights_are_exact_as_long_as_half_of_all_slots_is_free() {
    let mut world = World::with_slots(6_000);
    let weights = [(1, 1_000), (2, 999), (3, 1)];
    world.change_to(vec![service(1, &weights)]).unwrap();
    let slots = |world: &World, number: u8| {
        let row = &world.tables.services[&key(number)];
        let of = |real| {
            let id = world.id(number, real);
            row.ring.iter().filter(|slot| **slot == id).count()
        };
        [of(1), of(2), of(3)]
    };
    assert_eq!(slots(&world, 1), [1_000, 999, 1]);
    // Not both: then the new one is shorter.
    let both = [service(1, &weights), service(2, &weights)];
    for change in plan(&both, &world.tables).unwrap() {
        world.tables.apply(&change);
    }
    assert_eq!(slots(&world, 1), [1_000, 999, 1]);
    assert_eq!(slots(&world, 2), [512, 511, 1]);
}

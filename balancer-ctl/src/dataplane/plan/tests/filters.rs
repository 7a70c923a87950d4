//! A filter turns into another without a moment in which a client is treated as by neither.

use balancer_common::filter::{ClientKey, RateLimit};

use super::{model::lets_in, *};
use crate::model::{
    Filter,
    filter::{FilterRule, Prefixes, Rate},
};
use filter::rule_of;

fn list(text: &str) -> Prefixes {
    Prefixes::from_argument(text).unwrap()
}

fn filtered(number: u8, allow: &str, deny: &str) -> dataplane::Service {
    dataplane::Service {
        filter: Filter {
            allow: list(allow),
            deny: list(deny),
            rate: None,
        },
        ..service(number, &[(2, 1)])
    }
}

/// The changes that concern filters, in words.
fn in_words(changes: &[TableChange]) -> Vec<String> {
    let words = |change: &TableChange| match change {
        TableChange::AddRuleCounts { ids } => Some(format!("counts {ids:?}")),
        TableChange::SetRules { rules } => {
            let rules = rules.iter().map(|(prefix, rule)| {
                let length = prefix.length as i32 - ClientKey::BITS_BEFORE[1] as i32;
                format!("/{length} {} {}", rule.verdict, rule.id)
            });
            Some(format!("set {}", rules.collect::<Vec<_>>().join(", ")))
        }
        TableChange::RemoveRules { prefixes } => {
            let lengths = prefixes.iter();
            let lengths = lengths.map(|prefix| prefix.length as i32 - 128);
            Some(format!("remove {:?}", lengths.collect::<Vec<_>>()))
        }
        TableChange::RemoveRuleCounts { ids } => Some(format!("no counts {ids:?}")),
        TableChange::SetRateLimit { service, limit } => {
            Some(format!("limit of {service}: {} {}", limit.each, limit.id))
        }
        TableChange::SetService { service, .. } => Some(format!("service {}", service.flags)),
        TableChange::RemoveService { .. } => Some("no service".to_owned()),
        _ => None,
    };
    changes.iter().filter_map(words).collect()
}

#[test]
fn rules_are_there_before_the_service_asks_for_them_and_until_it_does_not() {
    let mut world = World::new();
    let mut change_to = |services| in_words(&world.change_to(services).unwrap());
    // The rule for others stands 96 bits in front of an IPv4 prefix of no bits.
    assert_eq!(
        change_to(vec![filtered(1, "10.0.0.0/8", "10.1.0.0/16,10.1.2.3")]),
        [
            "counts [1, 2, 3, 4]",
            "set /32 1 1, /16 1 2, /8 0 3, /-96 1 4",
            "service 5"
        ]
    );
    assert_eq!(
        change_to(vec![service(1, &[(2, 1)])]),
        [
            "service 1",
            "remove [-96, 8, 16, 32]",
            "no counts [4, 3, 2, 1]"
        ]
    );
}

#[test]
fn another_verdict_is_one_write_and_a_count_of_its_own() {
    let mut world = World::new();
    world
        .change_to(vec![filtered(1, "", "10.0.0.0/8,10.1.0.0/16")])
        .unwrap();
    let changes = world
        .change_to(vec![filtered(1, "10.1.0.0/16", "10.0.0.0/8")])
        .unwrap();
    assert_eq!(
        in_words(&changes),
        ["counts [3, 4]", "set /16 0 3, /-96 1 4", "no counts [1]"]
    );
    // Another order of the same prefixes is no change.
    world
        .change_to(vec![filtered(1, "10.1.0.0/16,10.2.0.0/16", "")])
        .unwrap();
    let changes = world
        .change_to(vec![filtered(1, "10.2.0.0/16,10.1.0.0/16", "")])
        .unwrap();
    assert_eq!(in_words(&changes), [""; 0]);
}

#[test]
fn a_limit_keeps_its_count_while_it_changes() {
    let mut world = World::new();
    let limited = |per_second, length| dataplane::Service {
        filter: Filter {
            rate: Some(Rate { per_second, length }),
            ..Filter::default()
        },
        ..service(1, &[(2, 1)])
    };
    let mut change_to = |services| in_words(&world.change_to(services).unwrap());
    assert_eq!(
        change_to(vec![limited(100, None)]),
        ["counts [1]", "limit of 0: 10000000 1", "service 9"]
    );
    assert_eq!(
        change_to(vec![limited(10, Some(24))]),
        ["limit of 0: 100000000 1"]
    );
    assert_eq!(
        change_to(vec![service(1, &[(2, 1)])]),
        ["service 1", "limit of 0: 0 0", "no counts [1]"]
    );
    assert_eq!(
        change_to(vec![limited(1, None)]),
        ["counts [1]", "limit of 0: 1000000000 1", "service 9"]
    );
    assert_eq!(
        change_to(Vec::new()),
        ["no service", "limit of 0: 0 0", "no counts [1]"]
    );
}

#[test]
fn what_a_killed_daemon_left_of_a_filter_goes_before_its_id_is_used() {
    let mut world = World::new();
    world
        .change_to(vec![
            filtered(1, "", "10.0.0.0/8"),
            filtered(2, "", "11.0.0.0/8"),
        ])
        .unwrap();
    // Of the second service only the rules are left.
    world.tables.services.remove(&key(2));
    world.maps.services.remove(&key(2));
    world.tables.planned.clear();
    world.desired.pop();
    for (id, real) in (0..).zip(&mut world.tables.reals) {
        if real.service == 1 {
            *real = RealServer::default();
            world.maps.reals[id] = *real;
        }
    }
    let changes = world.change_to(vec![
        filtered(1, "", "10.0.0.0/8"),
        filtered(3, "", "12.0.0.0/8"),
    ]);
    assert_eq!(
        in_words(&changes.unwrap()),
        [
            "counts [3]",
            "set /8 1 3",
            "remove [8]",
            "no counts [2]",
            "service 5"
        ]
    );
    // And where nobody uses the id, with the next change.
    world.maps.services.remove(&key(3));
    world.tables.services.remove(&key(3));
    world.tables.planned.clear();
    world.desired.pop();
    for (id, real) in (0..).zip(&mut world.tables.reals) {
        if real.service == 1 {
            *real = RealServer::default();
            world.maps.reals[id] = *real;
        }
    }
    let changes = world
        .change_to(vec![filtered(1, "", "10.0.0.0/8")])
        .unwrap();
    assert_eq!(in_words(&changes), ["remove [8]", "no counts [3]"]);
}

#[test]
fn rules_are_told_from_their_prefixes() {
    let of = |allow: &str, deny: &str, address: &str| {
        let filter = Filter {
            allow: list(allow),
            deny: list(deny),
            rate: None,
        };
        let mut world = World::new();
        let service = dataplane::Service {
            key: ServiceKey {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
            },
            filter: filter.clone(),
            ..service(1, &[])
        };
        let changes = plan(&[service], &world.tables).unwrap();
        for change in &changes {
            world.tables.apply(change);
        }
        let rows = world
            .tables
            .filters
            .values()
            .flat_map(|row| row.rules.keys());
        let rules: Vec<_> = rows.map(|prefix| rule_of(prefix, &filter)).collect();
        rules
    };
    let prefix = |text: &str| FilterRule::Prefix(text.parse().unwrap());
    assert_eq!(
        of("10.0.0.0/8", "0.0.0.0/0,10.1.2.3", "192.0.2.80:80"),
        [
            FilterRule::Others,
            prefix("0.0.0.0/0"),
            prefix("10.0.0.0/8"),
            prefix("10.1.2.3")
        ]
    );
    assert_eq!(
        of("2001:db8::/32", "", "[2001:db8::80]:80"),
        [FilterRule::Others, prefix("2001:db8::/32")]
    );
    // All addresses are a prefix where others would stand, of which there are none.
    assert_eq!(
        of("2001:db8::/32", "::/0", "[2001:db8::80]:80"),
        [prefix("::/0"), prefix("2001:db8::/32")]
    );
    assert_eq!(
        of("::/0", "2001:db8::7", "[2001:db8::80]:80"),
        [prefix("::/0"), prefix("2001:db8::7")]
    );
}

#[test]
fn clients_of_ipv6_count_by_their_network_unless_it_is_said() {
    let limit = |address: &str, length: Option<u8>| {
        let desired = dataplane::Service {
            key: ServiceKey {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
            },
            filter: Filter {
                rate: Some(Rate {
                    per_second: 5,
                    length,
                }),
                ..Filter::default()
            },
            ..service(1, &[])
        };
        let changes = plan(&[desired], &World::new().tables).unwrap();
        let limits = changes.iter().find_map(|change| match change {
            TableChange::SetRateLimit { limit, .. } => Some(*limit),
            _ => None,
        });
        limits.unwrap()
    };
    for (address, length, ones) in [
        ("192.0.2.80:80", None, 128),
        ("192.0.2.80:80", Some(24), 120),
        ("192.0.2.80:80", Some(0), 96),
        ("[2001:db8::80]:80", None, 64),
        ("[2001:db8::80]:80", Some(128), 128),
        ("[2001:db8::80]:80", Some(0), 0),
    ] {
        let mask = affinity::mask(ones, 128);
        assert_eq!(
            limit(address, length),
            RateLimit::new(5, mask, 1),
            "{address} {length:?}"
        );
    }
}

#[test]
fn ten_thousand_prefixes_are_planned_at_once() {
    let world = World::new();
    let prefixes = |from: u32| -> Prefixes {
        let all = from..from + 10_000;
        all.map(|number| Prefix::of(std::net::Ipv4Addr::from(number << 8).into(), 24))
            .collect()
    };
    let with = |deny| dataplane::Service {
        filter: Filter {
            deny,
            ..Filter::default()
        },
        ..service(1, &[(2, 1)])
    };
    let mut tables = world.tables;
    for (from, written) in [(100_000, 10_000), (105_000, 5_000)] {
        let desired = [with(prefixes(from))];
        let changes = plan(&desired, &tables).unwrap();
        let rules = changes.iter().map(|change| match change {
            TableChange::SetRules { rules } => rules.len(),
            _ => 0,
        });
        assert_eq!(rules.sum::<usize>(), written);
        for change in &changes {
            tables.apply(change);
        }
        tables.set_planned(&desired);
        assert_eq!(plan(&desired, &tables), Ok(Vec::new()));
    }
}

prop_compose! {
    /// Prefixes of the first bits of IPv4 addresses, which the clients of the model tell apart.
    fn filter_of_few_bits()(rules in proptest::collection::btree_map((0..32_u32, 0..6_u8), 0..3_u8, 0..10)) -> Filter {
        let mut verdicts = BTreeMap::new();
        for ((bits, length), verdict) in rules {
            let prefix = Prefix::of(std::net::Ipv4Addr::from(bits << 27).into(), length);
            verdicts.insert(prefix, verdict);
        }
        let with = |wanted: u8| -> Prefixes {
            let prefixes = verdicts.iter().filter(|(_, verdict)| **verdict == wanted);
            prefixes.map(|(prefix, _)| *prefix).collect()
        };
        let rate = verdicts.len() % 3 == 1;
        Filter {
            allow: with(0),
            deny: with(1),
            rate: rate.then_some(Rate { per_second: 1 + verdicts.len() as u32, length: None }),
        }
    }
}

proptest! {
    /// [`World::change_to`] asks for each client after every single write.
    #[test]
    fn every_client_is_treated_as_before_or_as_after(
        history in proptest::collection::vec((filter_of_few_bits(), filter_of_few_bits(), any::<bool>()), 1..8),
    ) {
        let mut world = World::new();
        for (one, other, has_other) in history {
            let mut desired = vec![service(1, &[(2, 1)])];
            desired[0].filter = one;
            if has_other {
                desired.push(dataplane::Service { filter: other, ..service(2, &[(3, 1)]) });
            }
            world.change_to(desired).unwrap();
            world.grace();
        }
    }
}

#[test]
fn the_longest_prefix_decides() {
    let filter = |allow, deny| Filter {
        allow: list(allow),
        deny: list(deny),
        rate: None,
    };
    for (allow, deny, client, is_let_in) in [
        ("", "", "10.1.2.3", true),
        ("", "10.0.0.0/8", "10.1.2.3", false),
        ("", "10.0.0.0/8", "11.1.2.3", true),
        ("10.0.0.0/8", "", "11.1.2.3", false),
        ("10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", true),
        ("10.1.0.0/16", "10.1.2.3", "10.1.2.3", false),
        ("0.0.0.0/0", "10.0.0.0/8", "10.1.2.3", false),
        ("0.0.0.0/0", "10.0.0.0/8", "11.1.2.3", true),
    ] {
        assert_eq!(
            lets_in(&filter(allow, deny), client.parse().unwrap()),
            is_let_in
        );
    }
}

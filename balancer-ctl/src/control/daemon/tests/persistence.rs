//! Which server each client keeps: listed, counted and forgotten by the names that operators use.

use std::sync::Arc;

use super::*;
use crate::dataplane::KeptClient;

const SHOP: &str = r#"
[dataplane]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.80:80"
persistence = { timeout = "5m", group = "shop" }

[[service]]
address = "192.0.2.80:443"
persistence = { timeout = "5m", group = "shop" }

[[service]]
name = "mail"
address = "192.0.2.80:25"
persistence = { netmask = 24 }

[[service]]
name = "plain"
address = "192.0.2.80:21"
"#;

fn client(client: &str, services: &[&str], server: &str) -> KeptClient {
    let services = services.iter().map(|key| service_key(key).unwrap());
    KeptClient {
        client: client.parse().unwrap(),
        services: services.collect::<Vec<_>>().into(),
        server: server.parse().unwrap(),
        expires_in: Duration::from_micros(299_999_999),
    }
}

fn shop() -> Scene {
    let scene = Scene::with_file(SHOP);
    let both = ["192.0.2.80:80", "192.0.2.80:443"];
    scene.dataplane.state().kept_clients = vec![
        client("198.51.100.7", &both, "10.0.0.2"),
        client("198.51.100.8", &both, "10.0.0.3"),
        client("198.51.100.0/24", &["192.0.2.80:25"], "10.0.0.2"),
    ];
    scene
}

fn query() -> PersistenceQuery {
    PersistenceQuery::default()
}

/// The clients that are listed, and whether there are more.
fn listed(scene: &mut Scene, query: PersistenceQuery) -> (Vec<String>, bool) {
    let report = scene.ask(|reply| Message::Persistence(query, reply));
    let (entries, more) = report.unwrap().finished().unwrap();
    let clients = entries.into_iter().map(|entry| entry.client);
    (clients.collect(), more)
}

#[test]
fn clients_are_listed_by_the_names_of_their_services() {
    let mut scene = shop();
    let report = scene.ask(|reply| Message::Persistence(query(), reply));
    let (entries, more) = report.unwrap().finished().unwrap();
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| {
            let group = entry.group.as_deref().unwrap_or("none");
            format!("{} {group} {}", entry.client, entry.services.join(","))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "198.51.100.7 shop web,tcp/192.0.2.80:443",
            "198.51.100.8 shop web,tcp/192.0.2.80:443",
            "198.51.100.0/24 none mail"
        ]
    );
    assert!(!more);
    assert_eq!(entries[0].expires_in_ms, 299_999);
}

#[test]
fn each_filter_leaves_out_what_differs() {
    let mut scene = shop();
    let service = |name: &str| Some(named(name));
    let group = || Some("shop".to_owned());
    for (query, clients, more) in [
        (
            PersistenceQuery {
                client: "198.51.100.8".parse().ok(),
                ..query()
            },
            &["198.51.100.8", "198.51.100.0/24"][..],
            false,
        ),
        (
            PersistenceQuery {
                service: service("192.0.2.80:443"),
                ..query()
            },
            &["198.51.100.7", "198.51.100.8"],
            false,
        ),
        (
            PersistenceQuery {
                group: group(),
                ..query()
            },
            &["198.51.100.7", "198.51.100.8"],
            false,
        ),
        (
            PersistenceQuery {
                group: group(),
                service: service("web"),
                server: "10.0.0.3".parse().ok(),
                ..query()
            },
            &["198.51.100.8"],
            false,
        ),
        (
            PersistenceQuery {
                service: service("plain"),
                ..query()
            },
            &[],
            false,
        ),
        (
            PersistenceQuery {
                limit: Some(2),
                ..query()
            },
            &["198.51.100.7", "198.51.100.8"],
            true,
        ),
        (
            PersistenceQuery {
                limit: Some(3),
                ..query()
            },
            &["198.51.100.7", "198.51.100.8", "198.51.100.0/24"],
            false,
        ),
    ] {
        let shown = format!("{query:?}");
        let (found, is_more) = listed(&mut scene, query);
        assert_eq!(found, clients, "{shown}");
        assert_eq!(is_more, more, "{shown}");
    }
}

#[test]
fn names_that_mean_nothing_are_refused_and_nobody_is_forgotten() {
    let mut scene = shop();
    for (query, sentence) in [
        (
            PersistenceQuery {
                service: Some(named("shop")),
                ..query()
            },
            "there is no service `shop`: `list` shows all",
        ),
        (
            PersistenceQuery {
                group: Some("store".to_owned()),
                ..query()
            },
            "no service is in a group `store`: `list` shows all",
        ),
        (
            PersistenceQuery {
                group: Some("shop".to_owned()),
                service: Some(named("mail")),
                ..query()
            },
            "the service is not in group `shop`: name the service or the group",
        ),
    ] {
        let refused = scene.ask(|reply| Message::Persistence(query.clone(), reply));
        assert_eq!(refused.unwrap_err().sentence, sentence);
        let refused = scene.ask(|reply| Message::Forget(query, reply));
        assert_eq!(refused.unwrap_err().sentence, sentence);
    }
    assert_eq!(scene.dataplane.state().kept_clients.len(), 3);
}

#[test]
fn clients_are_forgotten_apart_from_the_daemon_whatever_the_limit() {
    let mut scene = shop();
    let query = PersistenceQuery {
        group: Some("shop".to_owned()),
        limit: Some(1),
        ..query()
    };
    let report = scene.ask(|reply| Message::Forget(query, reply)).unwrap();
    assert_eq!(scene.dataplane.state().kept_clients.len(), 3);
    assert_eq!(report.finished().unwrap().deleted, 2);
    assert_eq!(
        listed(&mut scene, PersistenceQuery::default()).0,
        ["198.51.100.0/24"]
    );
}

#[test]
fn services_with_persistence_are_listed_with_the_number_of_their_clients() {
    let mut scene = shop();
    let services = scene.ask(|reply| Message::Services(None, reply)).unwrap();
    let counts = services
        .services
        .iter()
        .map(|service| service.persistence_entries);
    assert_eq!(
        counts.collect::<Vec<_>>(),
        [Some(2), Some(2), Some(1), None]
    );
}

#[test]
fn a_service_that_the_model_does_not_have_is_shown_by_its_key() {
    let mut scene = shop();
    let key: Arc<[ServiceKey]> = vec![service_key("192.0.2.80:8080").unwrap()].into();
    scene.dataplane.state().kept_clients[0].services = key;
    let report = scene.ask(|reply| Message::Persistence(query(), reply));
    let (entries, _) = report.unwrap().finished().unwrap();
    assert_eq!(entries[0].services, ["tcp/192.0.2.80:8080"]);
    assert_eq!(entries[0].group, None);
}

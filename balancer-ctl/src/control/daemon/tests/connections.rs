//! The connection table: how it is listed, and that it is full.

use super::*;

#[test]
fn connections_are_read_apart_from_the_daemon() {
    let mut scene = Scene::with_file(FILE);
    let filter = || ConnectionFilter {
        limit: Some(1),
        ..ConnectionFilter::default()
    };
    let report = scene
        .ask(|reply| Message::Connections(None, filter(), reply))
        .unwrap();
    // Whatever the daemon does meanwhile.
    let connection = |client: u16| Connection {
        virtual_address: service_key("192.0.2.80:80").unwrap(),
        client: ([198, 51, 100, 1], client).into(),
        real: "10.0.0.2:80".parse().unwrap(),
        source: None,
        state: balancer_common::tcp::State::Established,
        expires_in: Duration::from_secs(900),
    };
    scene.dataplane.state().connections = vec![connection(1), connection(2)];
    let (connections, more) = report.finished().unwrap();
    assert!(more);
    let clients: Vec<_> = connections.iter().map(|one| one.client).collect();
    assert_eq!(clients, [([198, 51, 100, 1], 1).into()]);
}

#[test]
fn a_full_table_is_an_event_when_it_begins_and_when_it_ends() {
    let mut scene = Scene::new();
    if let Some(settings) = &mut scene.dataplane.state().settings {
        settings.max_connections = 100;
        settings.max_connections_ipv6 = 10;
    }
    let connection = |number: u16| Connection {
        virtual_address: service_key("192.0.2.80:80").unwrap(),
        client: ([198, 51, 100, 1], number).into(),
        real: "10.0.0.2:80".parse().unwrap(),
        source: None,
        state: balancer_common::tcp::State::Established,
        expires_in: Duration::from_secs(900),
    };
    for (discards, connections, events) in [
        (0, 10, &[][..]),
        // Full of connections whose places others may take.
        (0, 110, &[]),
        (
            5,
            100,
            &["table-full 100 of 100 IPv4 connections, 0 of 10 IPv6 connections"],
        ),
        (9, 100, &[]),
        (9, 100, &[]),
        (
            9,
            99,
            &["table-recovered 99 of 100 IPv4 connections, 0 of 10 IPv6 connections"],
        ),
        (9, 100, &[]),
        (
            10,
            99,
            &["table-full 99 of 100 IPv4 connections, 0 of 10 IPv6 connections"],
        ),
        (
            10,
            98,
            &["table-recovered 98 of 100 IPv4 connections, 0 of 10 IPv6 connections"],
        ),
        // The counters were set to zero.
        (0, 98, &[]),
    ] {
        let mut state = scene.dataplane.state();
        state.discards = vec![(Discard::TableFull, discards)];
        state.connections = (0..connections).map(connection).collect();
        drop(state);
        scene.daemon.check_table();
        assert_eq!(scene.events(), events, "{discards} {connections}");
    }
}

//! Connections are listed as filters ask.

use std::{collections::HashSet, net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use super::*;
use crate::{
    dataplane::{Connection, ConnectionFilter, jiffies::Tick, list::Lister},
    model::connections::ClientRef,
};

fn lister(conntrack: &Arc<Conntrack>, filter: ConnectionFilter) -> Lister {
    Lister {
        conntrack: Arc::clone(conntrack),
        filter,
        tick: Tick::with_hz(100),
        now: at(JIFFIES),
        hashing: HashSet::new(),
    }
}

fn list(conntrack: &Arc<Conntrack>, filter: ConnectionFilter) -> Vec<Connection> {
    let mut all = Vec::new();
    lister(conntrack, filter).each(&mut |connection| {
        all.push(connection);
        ControlFlow::Continue(())
    });
    all
}

#[test]
fn connections_are_listed_as_filters_ask() {
    let conntrack = tables(64);
    open(&conntrack.v4, &v4(1, State::Established, [500, 100]));
    open(&conntrack.v4, &v4(2, State::Closed, [100, 500]));
    open(&conntrack.v4, &v4(3, State::ClosedOriginal, [0, 0]));
    let other = Flow {
        real: 4,
        ..v4(4, State::Udp, [0, 0])
    };
    open(&conntrack.v4, &other);
    // Expired, though its slot is not reused yet.
    open(
        &conntrack.v4,
        &v4(5, State::Closed, [TIMEOUTS.closing + 1; 2]),
    );
    let v6 = Flow {
        client: addr("", "2001:db8:1::7", 16).0,
        port: 40_000,
        real: 3,
        state: State::Established,
        idle: [0; 2],
    };
    open(&conntrack.v6, &v6);
    let conntrack = Arc::new(conntrack);
    let all = ConnectionFilter::default();
    let mut listed = list(&conntrack, all.clone());
    listed.sort_by_key(|connection| connection.client);
    let expected = |client: &str, protocol, state, real: &str, expires_in: u64| {
        let client: SocketAddr = client.parse().unwrap();
        let vip = if client.is_ipv4() {
            "192.0.2.80:80"
        } else {
            "[2001:db8::80]:80"
        };
        Connection {
            virtual_address: service(vip, protocol),
            client,
            real: real.parse().unwrap(),
            source: None,
            state,
            expires_in: Duration::from_millis(10 * expires_in),
        }
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let a = "10.0.0.2:8080";
    let expected = [
        expected("198.51.100.1:40000", tcp, State::Established, a, 89_900),
        expected("198.51.100.2:40000", tcp, State::Closed, a, 11_900),
        expected("198.51.100.3:40000", tcp, State::ClosedOriginal, a, 12_000),
        expected(
            "198.51.100.4:40000",
            udp,
            State::Udp,
            "10.0.0.4:8080",
            30_000,
        ),
        expected(
            "[2001:db8:1::7]:40000",
            tcp,
            State::Established,
            "[fd00::3]:8080",
            90_000,
        ),
    ];
    assert_eq!(listed, expected);

    let client = |text: &str, port| ConnectionFilter {
        client: Some(ClientRef {
            port,
            ..text.parse().unwrap()
        }),
        ..all.clone()
    };
    let real = |text: &str, port| ConnectionFilter {
        real: Some((text.parse().unwrap(), port)),
        ..all.clone()
    };
    let of = |text: &str, protocol| ConnectionFilter {
        service: Some(service(text, protocol)),
        ..all.clone()
    };
    let state = |state| ConnectionFilter {
        state: Some(state),
        ..all.clone()
    };
    for (filter, indices) in [
        (client("198.51.100.2", None), &[1][..]),
        (client("198.51.100.2", Some(40_000)), &[1]),
        (client("198.51.100.2", Some(1)), &[]),
        (client("198.51.100.9", None), &[]),
        (client("2001:db8:1::7", None), &[4]),
        (client("198.51.100.0/24", None), &[0, 1, 2, 3]),
        (client("198.51.100.2/31", None), &[1, 2]),
        (client("198.51.100.128/25", None), &[]),
        (client("0.0.0.0/0", None), &[0, 1, 2, 3]),
        (client("2001:db8::/32", None), &[4]),
        (client("2001:db9::/32", None), &[]),
        (client("::/0", None), &[4]),
        (real("10.0.0.2", None), &[0, 1, 2]),
        (real("10.0.0.2", Some(8080)), &[0, 1, 2]),
        (real("10.0.0.2", Some(80)), &[]),
        (real("fd00::3", None), &[4]),
        (real("198.51.100.2", None), &[]),
        (of("192.0.2.80:80", tcp), &[0, 1, 2]),
        (of("192.0.2.80:0", tcp), &[0, 1, 2]),
        (of("192.0.2.80:80", udp), &[3]),
        (of("192.0.2.80:81", tcp), &[]),
        (of("[2001:db8::80]:80", tcp), &[4]),
        (state(State::Closed), &[1]),
        (state(State::ClosedOriginal), &[2]),
        (state(State::Established), &[0, 4]),
        (state(State::SynSent), &[]),
        (
            ConnectionFilter {
                state: Some(State::Closed),
                ..client("198.51.100.1", None)
            },
            &[],
        ),
    ] {
        let mut listed = list(&conntrack, filter.clone());
        listed.sort_by_key(|connection| connection.client);
        let wanted: Vec<_> = indices.iter().map(|slot| expected[*slot]).collect();
        assert_eq!(listed, wanted, "{filter:?}");
    }
    for (limit, count) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5)] {
        let filter = ConnectionFilter {
            limit: Some(limit),
            ..all.clone()
        };
        assert_eq!(list(&conntrack, filter).len(), count);
    }
}

/// Four connections to each of two real servers, clients 1 to 8, and what the packet program has counted of them.
fn two_reals() -> (Arc<Conntrack>, Vec<Flow<u32>>) {
    let states = [
        State::Established,
        State::SynSent,
        State::Closing,
        State::Udp,
    ];
    let flows: Vec<_> = (1..=8)
        .map(|client| Flow {
            real: if client % 2 == 0 { 2 } else { 4 },
            ..v4(client, states[usize::from(client - 1) / 2], [0; 2])
        })
        .collect();
    let conntrack = tables(64);
    for flow in &flows {
        open(&conntrack.v4, flow);
        let real = u32::from(flow.real);
        conntrack.loads.count(real, FREE, flow.state as u8);
    }
    (Arc::new(conntrack), flows)
}

#[test]
fn what_is_closed_is_gone_in_both_directions_and_counted_and_the_others_stay() {
    let client = |text: &str| ConnectionFilter {
        client: Some(text.parse().unwrap()),
        ..ConnectionFilter::default()
    };
    // The clients that are left, and the loads of real ids 2 and 4.
    for (filter, left, loads) in [
        (
            client("198.51.100.1"),
            &[2, 3, 4, 5, 6, 7, 8][..],
            [[1, 3], [0, 3]],
        ),
        (
            client("198.51.100.1:40000"),
            &[2, 3, 4, 5, 6, 7, 8],
            [[1, 3], [0, 3]],
        ),
        (
            client("198.51.100.1:1"),
            &[1, 2, 3, 4, 5, 6, 7, 8],
            [[1, 3], [1, 3]],
        ),
        (
            client("198.51.100.0/30"),
            &[4, 5, 6, 7, 8],
            [[0, 3], [0, 2]],
        ),
        (client("::/0"), &[1, 2, 3, 4, 5, 6, 7, 8], [[1, 3], [1, 3]]),
        (
            ConnectionFilter {
                real: Some(("10.0.0.2".parse().unwrap(), None)),
                ..ConnectionFilter::default()
            },
            &[1, 3, 5, 7],
            [[0, 0], [1, 3]],
        ),
        (
            ConnectionFilter {
                state: Some(State::Established),
                ..ConnectionFilter::default()
            },
            &[3, 4, 5, 6, 7, 8],
            [[0, 3], [0, 3]],
        ),
        (
            ConnectionFilter {
                service: Some(service("192.0.2.80:80", Protocol::Udp)),
                ..ConnectionFilter::default()
            },
            &[1, 2, 3, 4, 5, 6],
            [[1, 2], [1, 2]],
        ),
        (ConnectionFilter::default(), &[], [[0, 0], [0, 0]]),
    ] {
        let (conntrack, flows) = two_reals();
        let listed = list(&conntrack, filter.clone()).len() as u64;
        assert_eq!(lister(&conntrack, filter.clone()).close(), listed);
        for (number, flow) in (1..).zip(&flows) {
            let stays = left.contains(&number);
            assert_eq!(
                entries(&conntrack.v4, flow),
                [stays; 2],
                "{filter:?} {flow:?}"
            );
        }
        let counted = [2, 4].map(|real| conntrack.loads.counts(real));
        assert_eq!(counted, loads, "{filter:?}");
        assert_eq!(lister(&conntrack, filter).close(), 0);
    }
}

#[test]
fn a_connection_that_its_client_would_open_again_stays_until_the_client_has_heard_and_is_listed_no_more()
 {
    let (conntrack, flows) = two_reals();
    let all = ConnectionFilter::default();
    let hashing = Lister {
        hashing: HashSet::from([RealServer::default().service]),
        ..lister(&conntrack, all.clone())
    };
    assert_eq!(hashing.close(), 8);
    assert_eq!(list(&conntrack, all), []);
    assert_eq!(hashing.close(), 0);
    // Of the states in the order of the clients: established, syn-sent, closing, udp.
    for (flow, stays) in flows.iter().zip([1, 1, 0, 0, 1, 1, 0, 0]) {
        assert_eq!(entries(&conntrack.v4, flow), [stays == 1; 2], "{flow:?}");
    }
    let counted = [2, 4].map(|real| conntrack.loads.counts(real));
    assert_eq!(counted, [[1, 1], [1, 1]]);
}

#[test]
fn no_more_are_closed_than_the_limit_and_none_that_has_expired() {
    for (limit, closed) in [(0, 0), (1, 1), (7, 7), (8, 8), (9, 8)] {
        let (conntrack, _) = two_reals();
        let expired = v4(9, State::Closed, [TIMEOUTS.closing + 1; 2]);
        open(&conntrack.v4, &expired);
        let filter = ConnectionFilter {
            limit: Some(limit),
            ..ConnectionFilter::default()
        };
        assert_eq!(lister(&conntrack, filter).close(), closed);
        assert_eq!(conntrack.count().families, [9 - closed, 0]);
        assert_eq!(entries(&conntrack.v4, &expired), [true; 2]);
    }
}

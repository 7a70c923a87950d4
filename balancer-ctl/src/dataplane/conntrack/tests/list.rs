//! Connections are listed as filters ask.

use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use super::*;
use crate::dataplane::{Connection, ConnectionFilter, jiffies::Tick, list::Lister};

fn list(conntrack: &Arc<Conntrack>, filter: ConnectionFilter) -> Vec<Connection> {
    let lister = Lister {
        conntrack: Arc::clone(conntrack),
        filter,
        tick: Tick::with_hz(100),
        now: at(JIFFIES),
    };
    let mut all = Vec::new();
    lister.each(&mut |connection| {
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
        client: Some((text.parse().unwrap(), port)),
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

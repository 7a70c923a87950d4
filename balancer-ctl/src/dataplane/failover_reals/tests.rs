use std::net::SocketAddr;

use balancer_common::{addr::Addr, real_server::RealServer, service::Service};

use super::*;
use crate::dataplane::{jiffies::Tick, plan::tables::ServiceRow};

const VIP: &str = "192.0.2.80";
const OTHER_VIP: &str = "192.0.2.81";

fn key(protocol: Protocol, address: &str) -> ServiceKey {
    let address: SocketAddr = address.parse().unwrap();
    ServiceKey { protocol, address }
}

/// Addresses and states.
type Reals<'a> = &'a [(&'a str, u32)];

/// Services in the order of their ids, each with its real servers.
fn tables(services: &[(Protocol, &str, Reals)]) -> Tables {
    let mut tables = Tables::empty(16, 16, Tick::with_hz(250));
    let mut next = 0;
    for (id, (protocol, address, reals)) in (0_u32..).zip(services) {
        let row = ServiceRow {
            service: Service {
                id,
                ..Service::default()
            },
            ..ServiceRow::default()
        };
        tables.services.insert(key(*protocol, address), row);
        for (real, state) in *reals {
            let address: SocketAddr = real.parse().unwrap();
            tables.reals[next] = RealServer {
                address: Addr::from(address.ip()),
                port: address.port().to_be(),
                state: *state,
                service: id,
                ..RealServer::default()
            };
            next += 1;
        }
    }
    tables
}

/// Real server, real id, port of the service, and time; sorted.
fn content(tables: &Tables, vips: &[(&str, u64)]) -> Vec<(String, u32, u16, u64)> {
    let vips = vips
        .iter()
        .map(|(vip, until)| (vip.parse().unwrap(), *until));
    let wanted = wanted(tables, &vips.collect());
    let rows = wanted.into_iter().map(|(key, real)| {
        assert_eq!((key.protocol, real.zero), (Protocol::Tcp, 0));
        let port = u16::from_be(real.port);
        (key.address.to_string(), real.real, port, real.until)
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

#[test]
fn the_real_servers_of_the_vips_that_another_node_has_are_there() {
    let tables = tables(&[
        (
            Protocol::Tcp,
            "192.0.2.80:80",
            &[
                ("10.0.0.1:8080", state::TAKES_NEW),
                ("10.0.0.2:8080", state::DRAINING),
                ("10.0.0.3:8080", state::REMOVED),
            ],
        ),
        (
            Protocol::Udp,
            "192.0.2.80:53",
            &[("10.0.0.1:53", state::TAKES_NEW)],
        ),
        (
            Protocol::Tcp,
            "192.0.2.80:0",
            &[("10.0.0.1:0", state::TAKES_NEW)],
        ),
        (
            Protocol::Tcp,
            "192.0.2.81:80",
            &[("10.0.0.9:80", state::TAKES_NEW)],
        ),
    ]);
    let row = |real: &str, id, until| (real.to_owned(), id, 80, until);
    assert_eq!(content(&tables, &[]), []);
    assert_eq!(
        content(&tables, &[(VIP, 7)]),
        [row("10.0.0.1:8080", 0, 7), row("10.0.0.2:8080", 1, 7)]
    );
    assert_eq!(
        content(&tables, &[(VIP, 7), (OTHER_VIP, u64::MAX)]),
        [
            row("10.0.0.1:8080", 0, 7),
            row("10.0.0.2:8080", 1, 7),
            row("10.0.0.9:80", 5, u64::MAX)
        ]
    );
}

#[test]
fn of_services_with_the_same_real_server_the_first_has_it() {
    let real = &[("10.0.0.1:8080", state::TAKES_NEW)];
    let tables = tables(&[
        (Protocol::Tcp, "192.0.2.81:80", real),
        (Protocol::Tcp, "192.0.2.80:81", real),
    ]);
    assert_eq!(
        content(&tables, &[(VIP, 7), (OTHER_VIP, 7)]),
        [("10.0.0.1:8080".to_owned(), 1, 81, 7)]
    );
    // One of the VIPs is here for good, with connections that nobody else has begun.
    assert_eq!(content(&tables, &[(OTHER_VIP, 7)]), []);
    assert_eq!(content(&tables, &[(VIP, 7)]), []);
}

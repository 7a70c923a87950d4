//! Messages of the kernel, and the changes in them.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute},
};

use super::*;

const HOP: NextHop = (3, IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)));

fn neighbour(state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = HOP.0;
    message.header.state = state;
    let address = NeighbourAddress::Inet([192, 168, 0, 2].into());
    message
        .attributes
        .push(NeighbourAttribute::Destination(address));
    message
        .attributes
        .extend(mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last])));
    message
}

#[test]
fn a_neighbour_has_changed_when_its_address_appears_changes_or_goes() {
    use NeighbourState::{Failed, Incomplete, Probe, Reachable, Stale};
    let mut known = KnownState::default();
    let changes = || NetlinkChanges::of_neighbour(HOP);
    for (state, mac, changes) in [
        (Incomplete, None, NetlinkChanges::default()),
        (Reachable, Some(1), changes()),
        (Stale, Some(1), NetlinkChanges::default()),
        (Probe, Some(1), NetlinkChanges::default()),
        (Reachable, Some(2), changes()),
        (Failed, Some(2), changes()),
        (Failed, None, NetlinkChanges::default()),
        (Reachable, Some(2), changes()),
    ] {
        let message = RouteNetlinkMessage::NewNeighbour(neighbour(state, mac));
        assert_eq!(known.apply(&message), changes, "{state:?} {mac:?}");
    }
    let gone = RouteNetlinkMessage::DelNeighbour(neighbour(Stale, Some(2)));
    assert_eq!(known.apply(&gone), changes());
    assert_eq!(known.apply(&gone), NetlinkChanges::default());
}

#[test]
fn a_link_has_changed_when_its_mac_mtu_carrier_or_master_changes() {
    let of = |mac: u8, mtu, flags, master| {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac]),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Controller(master),
        ];
        message
    };
    let link = |mac, mtu, flags| of(mac, mtu, flags, 0);
    let up = LinkFlags::Up | LinkFlags::LowerUp;
    let mut known = KnownState::default();
    for (message, changes) in [
        (link(1, 1500, up), NetlinkChanges::of_link()),
        (link(1, 1500, up), NetlinkChanges::default()),
        (
            link(1, 1500, up | LinkFlags::Promisc),
            NetlinkChanges::default(),
        ),
        (link(2, 1500, up), NetlinkChanges::of_link()),
        (link(2, 1400, up), NetlinkChanges::of_link()),
        (link(2, 1400, LinkFlags::Up), NetlinkChanges::of_link()),
        (of(2, 1400, LinkFlags::Up, 7), NetlinkChanges::of_link()),
        (of(2, 1400, LinkFlags::Up, 7), NetlinkChanges::default()),
        (link(2, 1400, LinkFlags::Up), NetlinkChanges::of_link()),
    ] {
        assert_eq!(known.apply(&RouteNetlinkMessage::NewLink(message)), changes);
    }
    assert_eq!(
        known.apply(&RouteNetlinkMessage::DelLink(link(2, 1400, up))),
        NetlinkChanges::of_link()
    );
}

fn route(destination: Option<RouteAddress>, length: u8, kind: RouteType) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.kind = kind;
    route.header.destination_prefix_length = length;
    route.header.address_family = match destination {
        Some(RouteAddress::Inet6(_)) => AddressFamily::Inet6,
        _ => AddressFamily::Inet,
    };
    route
        .attributes
        .extend(destination.map(RouteAttribute::Destination));
    route
}

#[test]
fn a_route_changes_its_prefix_and_one_to_this_host_changes_addresses() {
    let v4 = || Some(RouteAddress::Inet([10, 1, 0, 0].into()));
    let v6 = || Some(RouteAddress::Inet6("2001:db8::".parse().unwrap()));
    let prefix = |text: &str, length| Prefix::of(text.parse().unwrap(), length);
    let mut known = KnownState::default();
    for (route, prefix, addresses) in [
        (
            route(v4(), 16, RouteType::Unicast),
            prefix("10.1.0.0", 16),
            false,
        ),
        (
            route(v6(), 32, RouteType::BlackHole),
            prefix("2001:db8::", 32),
            false,
        ),
        (
            route(None, 0, RouteType::Unicast),
            prefix("0.0.0.0", 0),
            false,
        ),
        (
            route(v4(), 32, RouteType::Local),
            prefix("10.1.0.0", 32),
            true,
        ),
        (
            route(v4(), 32, RouteType::Broadcast),
            prefix("10.1.0.0", 32),
            true,
        ),
        (
            route(v6(), 128, RouteType::Anycast),
            prefix("2001:db8::", 128),
            true,
        ),
    ] {
        let changes = NetlinkChanges {
            routes: RouteChanges::To([prefix].into()),
            addresses,
            ..NetlinkChanges::default()
        };
        for message in [
            RouteNetlinkMessage::NewRoute(route.clone()),
            RouteNetlinkMessage::DelRoute(route),
        ] {
            assert_eq!(known.apply(&message), changes);
        }
    }
    // Of an unknown family: anything may have changed.
    let strange = RouteNetlinkMessage::NewRoute(RouteMessage::default());
    assert_eq!(known.apply(&strange).routes, RouteChanges::All);
}

#[test]
fn an_address_that_was_seen_before_does_not_change_routes() {
    let mut message = AddressMessage::default();
    message.header.index = 3;
    message.header.prefix_len = 64;
    message
        .attributes
        .push(AddressAttribute::Address("2001:db8::1".parse().unwrap()));
    let changes = |routes| NetlinkChanges {
        routes,
        addresses: true,
        ..NetlinkChanges::default()
    };
    let mut known = KnownState::default();
    let new = RouteNetlinkMessage::NewAddress(message.clone());
    assert_eq!(known.apply(&new), changes(RouteChanges::All));
    assert_eq!(known.apply(&new), changes(RouteChanges::NONE));
    let gone = RouteNetlinkMessage::DelAddress(message);
    assert_eq!(known.apply(&gone), changes(RouteChanges::All));
    assert_eq!(known.apply(&new), changes(RouteChanges::All));
    assert_eq!(
        known.apply(&RouteNetlinkMessage::NewAddress(AddressMessage::default())),
        changes(RouteChanges::All)
    );
}

#[test]
fn changes_add_up() {
    let prefix = |text: &str, length| Prefix::of(text.parse().unwrap(), length);
    let to = |prefixes: &[Prefix]| NetlinkChanges {
        routes: RouteChanges::To(prefixes.iter().copied().collect()),
        ..NetlinkChanges::default()
    };
    let (one, two) = (prefix("10.1.0.0", 16), prefix("10.2.0.0", 16));
    let mut changes = NetlinkChanges::default();
    assert!(changes.is_empty());
    changes.add(to(&[one]));
    changes.add(to(&[two, one]));
    assert_eq!(changes, to(&[one, two]));
    changes.add(NetlinkChanges::of_neighbour(HOP));
    assert!(!changes.is_empty() && changes.neighbours.contains(&HOP));
    changes.add(NetlinkChanges::of_link());
    changes.add(to(&[one]));
    assert_eq!(
        (&changes.routes, changes.links, changes.addresses),
        (&RouteChanges::All, true, false)
    );
    // A whole table of routes.
    let mut changes = NetlinkChanges::default();
    for number in 0..=MAX_PREFIXES as u32 {
        assert_ne!(changes.routes, RouteChanges::All);
        let address = IpAddr::V4(Ipv4Addr::from_bits(number << 12));
        changes.add(to(&[Prefix::of(address, 20)]));
    }
    assert_eq!(changes.routes, RouteChanges::All);
}

//! Refuses virtual routers on interfaces that this host does not have, or that have no address which advertisements could come from.
//! Pure: the caller passes the host's interfaces.

use std::net::IpAddr;

use super::{Place, Problem};
use crate::{
    model::{Model, VirtualRouter},
    netlink::{address::InterfaceAddress, link::Link},
};

/// The virtual routers of `wanted` that cannot run. Those that run already are not refused: what they miss may have gone later, which
/// `status` reports.
#[must_use]
pub fn problems(
    wanted: &Model,
    running: Option<&Model>,
    links: &[Link],
    addresses: &[InterfaceAddress],
) -> Vec<Problem> {
    let present = running.map_or(&[][..], |model| &model.vrrp);
    let runs = |router: &VirtualRouter| {
        let is_same = |known: &VirtualRouter| {
            known.interface == router.interface && known.is_ipv4() == router.is_ipv4()
        };
        present.iter().any(is_same)
    };
    let routers = wanted.vrrp.iter().enumerate();
    let known = present.iter().flat_map(|router| &router.track_interfaces);
    let known: Vec<_> = known.collect();
    let problems = routers.flat_map(|(index, router)| {
        let found = if runs(router) {
            None
        } else {
            problem(router, links, addresses)
        };
        let of_router = found.map(|sentence| Problem {
            place: Place::Vrrp(index, "interface"),
            sentence,
        });
        let peers = &router.unicast_peers;
        let is_same =
            |known: &VirtualRouter| known.name == router.name && known.unicast_peers == *peers;
        let is_known = present.iter().any(is_same);
        let is_own = |peer: &IpAddr| addresses.iter().any(|own| own.address == *peer);
        let only_own = !peers.is_empty() && !is_known && peers.iter().all(is_own);
        let of_peers = only_own.then(|| Problem {
            place: Place::Vrrp(index, "unicast-peers"),
            sentence:
                "unicast-peers has only addresses of this node: name those of the other nodes"
                    .to_owned(),
        });
        let tracked = router.track_interfaces.iter().enumerate();
        let missing = tracked.filter(|(_, name)| {
            links.iter().all(|link| link.name != **name) && !known.contains(name)
        });
        let of_tracked = missing.map(move |(number, name)| Problem {
            place: Place::VrrpEntry(index, "track-interfaces", number),
            sentence: no_interface(name),
        });
        of_router.into_iter().chain(of_peers).chain(of_tracked)
    });
    problems.collect()
}

fn no_interface(name: &str) -> String {
    format!("there is no interface `{name}`: `ip link` lists them")
}

fn problem(
    router: &VirtualRouter,
    links: &[Link],
    addresses: &[InterfaceAddress],
) -> Option<String> {
    let name = &router.interface;
    let Some(link) = links.iter().find(|link| link.name == *name) else {
        return Some(no_interface(name));
    };
    let is_ipv4 = router.is_ipv4()?;
    let is_vip = |address: IpAddr| router.addresses.iter().any(|vip| vip.address == address);
    let has_own = addresses.iter().any(|one| {
        let is_source = match one.address {
            IpAddr::V4(_) => is_ipv4,
            // One that the kernel still tests will do.
            IpAddr::V6(address) => !is_ipv4 && address.is_unicast_link_local(),
        };
        one.index == link.index && is_source && !is_vip(one.address)
    });
    (!has_own).then(|| {
        let what = if is_ipv4 {
            "IPv4 address of its own"
        } else {
            "link-local IPv6 address"
        };
        format!(
            "interface {name} has no {what} that advertisements of {} could come from: give it one",
            router.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::read, netlink::address::AddressFlags};

    fn model(address: &str) -> Model {
        let text = format!(
            "[dataplane]\ninterfaces = [\"eth0\"]\n[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\n\
             addresses = [\"{address}\"]\ntrack-interfaces = [\"eth1\"]\n"
        );
        read::model(&text, "lb1").unwrap()
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        }
    }

    fn address(index: u32, address: &str) -> InterfaceAddress {
        InterfaceAddress {
            index,
            address: address.parse().unwrap(),
            length: 24,
            lifetime: None,
            protocol: 0,
            flags: AddressFlags::Tentative,
        }
    }

    #[test]
    fn virtual_routers_need_their_interface_and_an_address_of_it() {
        let both = [link(2, "eth0"), link(3, "eth1")];
        let sentences = |vip: &str, links: &[Link], addresses: &[InterfaceAddress]| -> Vec<_> {
            let problems = problems(&model(vip), None, links, addresses);
            problems.into_iter().map(|one| one.sentence).collect()
        };
        let none = |name: &str| format!("there is no interface `{name}`: `ip link` lists them");
        let bare = |what: &str| {
            format!(
                "interface eth0 has no {what} that advertisements of outside could come from: give it one"
            )
        };
        let (vip, vip6) = ("192.0.2.80/24", "2001:db8::80/64");
        assert_eq!(sentences(vip, &[], &[]), [none("eth0"), none("eth1")]);
        let ipv4 = "IPv4 address of its own";
        assert_eq!(sentences(vip, &both, &[]), [bare(ipv4)]);
        assert_eq!(
            sentences(vip, &both, &[address(2, "192.0.2.80")]),
            [bare(ipv4)]
        );
        assert_eq!(
            sentences(vip, &both, &[address(3, "192.0.2.2")]),
            [bare(ipv4)]
        );
        assert_eq!(sentences(vip, &both, &[address(2, "192.0.2.2")]), [""; 0]);
        assert_eq!(
            sentences(
                vip6,
                &both,
                &[address(2, "192.0.2.2"), address(2, "2001:db8::2")]
            ),
            [bare("link-local IPv6 address")]
        );
        assert_eq!(sentences(vip6, &both, &[address(2, "fe80::2")]), [""; 0]);
    }

    #[test]
    fn peers_are_other_nodes() {
        let both = [link(2, "eth0"), link(3, "eth1")];
        let addresses = [address(2, "192.0.2.2"), address(3, "198.51.100.2")];
        let peers = |peers: &[&str]| {
            let mut wanted = model("192.0.2.80/24");
            wanted.vrrp[0].unicast_peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
            wanted
        };
        let own = peers(&["192.0.2.2", "198.51.100.2"]);
        assert_eq!(
            problems(&own, None, &both, &addresses),
            [Problem {
                place: Place::Vrrp(0, "unicast-peers"),
                sentence:
                    "unicast-peers has only addresses of this node: name those of the other nodes"
                        .to_owned()
            }]
        );
        // The same list on all nodes; and one whose other node's address has come here since.
        let all = peers(&["192.0.2.2", "192.0.2.3"]);
        assert_eq!(problems(&all, None, &both, &addresses), []);
        assert_eq!(problems(&own, Some(&own), &both, &addresses), []);
    }

    #[test]
    fn those_that_run_already_are_not_refused() {
        let running = model("192.0.2.80/24");
        let count = |wanted: &Model| problems(wanted, Some(&running), &[], &[]).len();
        assert_eq!(count(&model("192.0.2.81/24")), 0);
        // The other family needs an address of its own.
        assert_eq!(count(&model("2001:db8::80/64")), 1);
        // What is tracked now for the first time has to be there.
        let mut misspelt = model("192.0.2.80/24");
        misspelt.vrrp[0].track_interfaces = vec!["eht1".to_owned()];
        assert_eq!(count(&misspelt), 1);
    }
}

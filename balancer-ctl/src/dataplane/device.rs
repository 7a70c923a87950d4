//! Which kinds of interfaces can carry the packet program. Pure.

use crate::netlink::link::Link;

/// How an interface can carry the packet program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Its driver may run it natively.
    Driver,
    /// The slaves' drivers may run it natively.
    Bond,
    /// Only the generic hook runs it; what the interface is, with its article (`a bridge`).
    Software(&'static str),
}

/// Classifies `link`; `all` are all interfaces of its namespace.
///
/// # Errors
/// It cannot carry the packet program: a sentence that names what can.
pub fn classify(link: &Link, all: &[Link]) -> Result<Device, String> {
    let name = &link.name;
    if link.is_loopback {
        return Err(format!(
            "the interface {name} is the loopback interface, which no packet of a client comes in by: name the interfaces towards \
             clients and real servers"
        ));
    }
    if let Some(master) = link.master {
        let master = all.iter().find(|other| other.index == master);
        if let Some(refusal) = port_refusal(name, master) {
            return Err(refusal);
        }
    }
    let kind = link.kind.as_deref();
    if link.mac.is_none() {
        let what = kind.map_or("not an Ethernet interface".to_owned(), |kind| {
            format!("not an Ethernet interface but of the kind {kind}")
        });
        return Err(format!(
            "the interface {name} is {what}, and the packet program needs Ethernet frames: name an Ethernet interface (a tunnel that \
             carries Ethernet works: vxlan, geneve, gretap, tap)"
        ));
    }
    if link.is_balance_alb {
        return Err(format!(
            "the bond {name} has the mode balance-alb, in which frames for this host carry its slaves' addresses and not its own: use \
             active-backup, 802.3ad, balance-xor or balance-rr"
        ));
    }
    Ok(match kind {
        Some("ipvlan" | "ipvtap") => {
            return Err(format!(
                "the interface {name} is an ipvlan, which is given packets to its own addresses only and none from real servers to \
                 clients: name the interface that it lies on, or use a macvlan"
            ));
        }
        Some("vrf") => {
            return Err(format!(
                "the interface {name} is a VRF, which packets do not come in by: name its members"
            ));
        }
        Some("bond") => Device::Bond,
        Some("vlan") => Device::Software("a VLAN device"),
        Some("bridge") => Device::Software("a bridge"),
        Some("openvswitch") => Device::Software("an Open vSwitch bridge"),
        Some("team") => Device::Software("a team"),
        Some("macvlan" | "macvtap") => Device::Software("a macvlan"),
        Some("vxlan" | "geneve" | "gretap" | "ip6gretap" | "erspan" | "ip6erspan") => {
            Device::Software("a tunnel")
        }
        // Other kinds may support XDP: the driver is asked.
        _ => Device::Driver,
    })
}

/// Why the port of a `master` cannot carry the program; `None` for members of a VRF, which receive frames of their own.
fn port_refusal(name: &str, master: Option<&Link>) -> Option<String> {
    let Some(master) = master else {
        return Some(format!(
            "the interface {name} is a port of another interface: name that one"
        ));
    };
    let what = match master.kind.as_deref() {
        Some("vrf") => return None,
        Some("openvswitch") => {
            return Some(format!(
                "{name} is a port of an Open vSwitch bridge: name the bridge (`ovs-vsctl iface-to-br {name}` says which)"
            ));
        }
        Some("bond") => "slave of the bond ",
        Some("bridge") => "port of the bridge ",
        Some("team") => "port of the team ",
        _ => "port of ",
    };
    Some(format!("{name} is a {what}{0}: name {0}", master.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            kind: (!kind.is_empty()).then(|| kind.into()),
            ..Link::default()
        }
    }

    fn below_of(master: u32, link: Link) -> Link {
        Link {
            master: Some(master),
            ..link
        }
    }

    #[test]
    fn ports_are_refused_with_what_to_name_instead() {
        let all = [
            link(1, "br0", "bridge"),
            link(2, "bond0", "bond"),
            link(3, "team0", "team"),
            link(4, "ovs-system", "openvswitch"),
            link(5, "vrf-red", "vrf"),
            link(6, "hsr0", "hsr"),
            link(7, "eth0", ""),
        ];
        for (master, classified) in [
            (1, Err("eth9 is a port of the bridge br0: name br0")),
            (2, Err("eth9 is a slave of the bond bond0: name bond0")),
            (3, Err("eth9 is a port of the team team0: name team0")),
            (
                4,
                Err(
                    "eth9 is a port of an Open vSwitch bridge: name the bridge (`ovs-vsctl iface-to-br eth9` says which)",
                ),
            ),
            (5, Ok(Device::Driver)),
            (6, Err("eth9 is a port of hsr0: name hsr0")),
            // A virtual function below its synthetic interface, as on Hyper-V.
            (7, Err("eth9 is a port of eth0: name eth0")),
            (
                8,
                Err("the interface eth9 is a port of another interface: name that one"),
            ),
        ] {
            assert_eq!(
                classify(&below_of(master, link(9, "eth9", "")), &all),
                classified.map_err(str::to_owned),
                "{master}"
            );
        }
    }

    #[test]
    fn what_has_no_ethernet_is_refused_and_what_has_no_driver_is_generic() {
        let classified = |kind: &str| classify(&link(9, "x0", kind), &[]);
        for (kind, device) in [
            ("", Device::Driver),
            ("veth", Device::Driver),
            ("tun", Device::Driver),
            ("bond", Device::Bond),
            ("vlan", Device::Software("a VLAN device")),
            ("bridge", Device::Software("a bridge")),
            ("macvlan", Device::Software("a macvlan")),
            ("team", Device::Software("a team")),
            ("vxlan", Device::Software("a tunnel")),
            ("openvswitch", Device::Software("an Open vSwitch bridge")),
        ] {
            assert_eq!(classified(kind), Ok(device), "{kind}");
        }
        for (kind, reported) in [
            (
                "ipvlan",
                "name the interface that it lies on, or use a macvlan",
            ),
            ("vrf", "name its members"),
        ] {
            let refusal = classified(kind).unwrap_err();
            assert!(refusal.ends_with(reported), "{refusal}");
        }
        let told_apart = Link {
            is_balance_alb: true,
            ..link(9, "bond0", "bond")
        };
        assert_eq!(
            classify(&told_apart, &[]).unwrap_err(),
            "the bond bond0 has the mode balance-alb, in which frames for this host carry its slaves' addresses and not its own: use \
             active-backup, 802.3ad, balance-xor or balance-rr"
        );
        let tunnel = Link {
            mac: None,
            ..link(9, "wg0", "wireguard")
        };
        assert_eq!(
            classify(&tunnel, &[]).unwrap_err(),
            "the interface wg0 is not an Ethernet interface but of the kind wireguard, and the packet program needs Ethernet frames: \
             name an Ethernet interface (a tunnel that carries Ethernet works: vxlan, geneve, gretap, tap)"
        );
        let loopback = Link {
            is_loopback: true,
            ..link(1, "lo", "")
        };
        assert_eq!(
            classify(&loopback, &[]).unwrap_err(),
            "the interface lo is the loopback interface, which no packet of a client comes in by: name the interfaces towards clients \
             and real servers"
        );
    }
}

//! Which interfaces are stacked on which. Pure.

use super::link::Link;

/// The interfaces by which frames of `link` arrive with an interface index of their own: the slaves of a bond, the
/// virtual function below a synthetic interface of Hyper-V. Ports of a bridge and members of a VRF are no slaves: they
/// have frames of their own.
pub fn slaves<'a>(link: &Link, all: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    let of_their_own = matches!(
        link.kind.as_deref(),
        Some("bridge" | "openvswitch" | "team" | "vrf")
    );
    let index = (!of_their_own).then_some(link.index);
    all.iter()
        .filter(move |link| index.is_some() && link.master == index)
}

/// All interfaces below `link`, by which its frames arrive: the parent of a VLAN device or a macvlan, the ports of a
/// bridge, a bond or a team, and theirs in turn.
pub fn lower_links<'a>(link: &Link, all: &'a [Link]) -> Vec<&'a Link> {
    let mut found: Vec<&Link> = Vec::new();
    let mut wanted = vec![link.clone()];
    while let Some(upper) = wanted.pop() {
        let kind = upper.kind.as_deref();
        let lies_on = match kind {
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") => {
                upper.peer.filter(|_| upper.peer_namespace.is_none())
            }
            _ => None,
        };
        let has_ports = matches!(kind, Some("bridge" | "bond" | "team"));
        for lower in all {
            let is_below =
                lies_on == Some(lower.index) || has_ports && lower.master == Some(upper.index);
            if is_below && !found.iter().any(|known| known.index == lower.index) {
                found.push(lower);
                wanted.push(lower.clone());
            }
        }
    }
    found
}

/// The VLAN devices whose parent is `link`, in the same namespace.
pub fn vlans<'a>(link: &Link, all: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    let index = link.index;
    all.iter().filter(move |other| {
        other.kind.as_deref() == Some("vlan")
            && other.peer == Some(index)
            && other.peer_namespace.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
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

    fn on(lower: u32, link: Link) -> Link {
        Link {
            peer: Some(lower),
            ..link
        }
    }

    #[test]
    fn lower_interfaces_are_found_recursively() {
        let all = [
            link(1, "eth0", ""),
            below_of(3, link(2, "eth1", "")),
            below_of(5, link(3, "bond0", "bond")),
            on(3, link(4, "bond0.10", "vlan")),
            link(5, "br0", "bridge"),
            on(5, link(6, "br0.20", "vlan")),
            Link {
                peer_namespace: Some(0),
                ..on(1, link(7, "moved", "macvlan"))
            },
        ];
        let names = |index: usize| {
            let below = lower_links(&all[index], &all);
            below.iter().map(|l| l.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), [""; 0]);
        assert_eq!(names(2), ["eth1"]);
        assert_eq!(names(3), ["bond0", "eth1"]);
        assert_eq!(names(5), ["br0", "bond0", "eth1"]);
        assert_eq!(names(6), [""; 0], "it lies in another namespace");
        let slaves: Vec<_> = slaves(&all[2], &all).map(|l| l.index).collect();
        assert_eq!(slaves, [2]);
        assert_eq!(
            super::slaves(&all[4], &all).count(),
            0,
            "a bridge's ports are none"
        );
        let vlans: Vec<_> = vlans(&all[4], &all).map(|l| l.name.as_str()).collect();
        assert_eq!(vlans, ["br0.20"]);
    }
}

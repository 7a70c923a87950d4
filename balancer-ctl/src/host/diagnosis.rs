//! What will not work on this host as it stands: a sentence each, with the mend.

use std::{collections::BTreeSet, fs};

use anyhow::Context;

use super::{
    ethtool::{self, Switch},
    offload::Setting,
    peer::{self, Peer},
};
use crate::netlink::{
    Netlink, layers,
    link::{self, Link},
};

/// What was found on the host.
#[derive(Debug, Default)]
pub struct Findings {
    /// What will not work: a sentence each.
    pub warnings: Vec<String>,
    /// Offloads that hide something from the packet program where they are on.
    pub hiding: BTreeSet<Setting>,
    /// Interfaces whose other end cannot be seen from here.
    pub unseen: Vec<String>,
}

/// Examines the configured interfaces.
///
/// # Errors
/// The kernel refused to list interfaces.
pub fn examine(netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<Findings> {
    let all = link::list(netlink)?;
    // The caller's list is older than the attachment; flags and MTUs may have changed.
    let now = |link: &Link| {
        let same = all.iter().find(|other| other.index == link.index);
        same.unwrap_or(link).clone()
    };
    let links: Vec<_> = links.iter().map(now).collect();
    let mut warnings = Vec::new();
    let mut unseen = Vec::new();
    for link in &links {
        warnings.extend(lro(link)?);
        // What is sent to a bridge's veth ports reaches the program, too.
        let below = layers::below(link, &all).into_iter();
        for cable in below.chain([link]).filter(is_veth) {
            match peer::find(netlink, cable, &all)
                .with_context(|| format!("cannot examine the other end of {}", cable.name))?
            {
                Some(peer) => {
                    warnings.extend(other_end(cable, &peer, takes_redirected(cable, link)))
                }
                None => unseen.push(cable.name.clone()),
            }
            if let Some(vlan) = layers::vlans(link, &all).next()
                && let Some(peer) = peer::find(netlink, cable, &all)?
                && peer.tx_vlan
            {
                warnings.push(untagged_by_peer(cable, &peer, vlan));
            }
        }
        if is_merged(link) {
            let configured = |vlan: &Link| links.iter().any(|other| other.index == vlan.index);
            let vlans = layers::vlans(link, &all).filter(|vlan| !configured(vlan));
            warnings.extend(vlans.map(|vlan| untagged(link, vlan)));
        }
        warnings.extend(paths(&link.name));
    }
    warnings.extend(mtus(&links));
    Ok(Findings {
        warnings,
        hiding: hiding(&links, &all),
        unseen,
    })
}

fn is_veth(link: &&Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

/// Whether frames are redirected to `cable`, which is `link` or lies below it: natively, and then only to an interface itself or
/// through a bond.
fn takes_redirected(cable: &Link, link: &Link) -> bool {
    let is_native = link.xdp.is_none_or(|xdp| xdp.native);
    is_native && (cable.index == link.index || link.kind.as_deref() == Some("bond"))
}

/// Whether the kernel takes VLAN tags out of frames before they reach the generic hook of `link`: those that another interface
/// has received.
fn is_merged(link: &Link) -> bool {
    let is_native = link.xdp.is_some_and(|xdp| xdp.native);
    !is_native && matches!(link.kind.as_deref(), Some("bridge" | "bond" | "team"))
}

/// The offloads that hide something from the program on `links`.
///
/// The kernel does not merge packets (GRO) on an interface that runs a generic program, but it does on those below it; what
/// is merged is too large to be forwarded. A tag that the hardware has taken out of a frame is not in the frame that the
/// program sees, so that it takes another VLAN's frames for its own.
fn hiding(links: &[Link], all: &[Link]) -> BTreeSet<Setting> {
    let mut hiding = BTreeSet::new();
    for link in links {
        let below = layers::below(link, all);
        let lowest = |link: &&&Link| layers::below(link, all).is_empty();
        if link.xdp.is_some_and(|xdp| !xdp.native) {
            let merging = below
                .iter()
                .filter(lowest)
                .filter(|lower| lower.xdp.is_none());
            hiding.extend(merging.map(|lower| (lower.name.clone(), Switch::Gro)));
        }
        if layers::vlans(link, all).next().is_some() && !is_merged(link) {
            let receivers = if link.kind.as_deref() == Some("bond") {
                below
            } else {
                vec![link]
            };
            hiding.extend(
                receivers
                    .iter()
                    .map(|link| (link.name.clone(), Switch::RxVlan)),
            );
        }
    }
    hiding
}

/// What comes of an offload that cannot be switched off.
pub fn hides((interface, switch): &Setting) -> String {
    let what = match switch {
        Switch::Gro => {
            "merges received packets (GRO), and what is merged is too large to be forwarded"
        }
        Switch::RxVlan => {
            "takes VLAN tags out of frames, so that the packet program takes another VLAN's frames for its own"
        }
        Switch::Lro | Switch::TxChecksum | Switch::TxVlan => "hides something of its frames",
    };
    let name = switch.name();
    format!(
        "{interface} {what}, and it cannot be switched off here: ethtool -K {interface} {name} off"
    )
}

/// A veth hands a tag on beside the frame, as the sender has left it.
fn untagged_by_peer(link: &Link, peer: &Peer, vlan: &Link) -> String {
    format!(
        "{}, the other end of {}, leaves VLAN tags beside its frames, so that the packet program takes those of {} for untagged ones: {}",
        peer.name,
        link.name,
        vlan.name,
        peer.ethtool("txvlan off")
    )
}

/// The kernel takes tags out before a bridge's generic hook.
fn untagged(link: &Link, vlan: &Link) -> String {
    format!(
        "frames of {} look untagged to the packet program on {}, so that connections of its clients are answered by no interface of the \
         data plane: add {} to the interfaces",
        vlan.name, link.name, vlan.name
    )
}

/// Receive merging in hardware.
fn lro(link: &Link) -> anyhow::Result<Option<String>> {
    let name = &link.name;
    let on = ethtool::ask(name, Switch::Lro)
        .with_context(|| format!("cannot ask {name} for its offloads"))?;
    Ok((on == Some(true)).then(|| {
        format!("{name} merges received packets in hardware (LRO), and what is merged cannot be forwarded: ethtool -K {name} lro off")
    }))
}

/// What a veth's other end does that the program cannot handle.
fn other_end(link: &Link, peer: &Peer, takes_redirected: bool) -> Vec<String> {
    let (name, peer_name) = (&link.name, &peer.name);
    let mut warnings = Vec::new();
    if peer.tx_checksum {
        warnings.push(format!(
            "{peer_name}, the other end of {name}, leaves checksums to hardware that a veth does not have, so receivers drop what is \
             forwarded: {}",
            peer.ethtool("tx off")
        ));
    }
    if !peer.polls && takes_redirected {
        warnings.push(format!(
            "{peer_name}, the other end of {name}, does not poll, so frames that are redirected to it are lost: {}",
            peer.ethtool("gro on")
        ));
    }
    warnings
}

/// Kernel settings in the way of packets that the kernel itself forwards while a next hop's MAC address is unknown.
fn paths(interface: &str) -> Vec<String> {
    let read = |path: &str| {
        fs::read_to_string(format!("/proc/sys/net/{path}"))
            .map(|value| value.trim().to_owned())
            .ok()
    };
    let number = |path: &str| {
        read(path)
            .and_then(|value| value.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let mut warnings = Vec::new();
    let filter = format!("ipv4/conf/{interface}/rp_filter");
    if number("ipv4/conf/all/rp_filter").max(number(&filter)) == 1 {
        warnings.push(format!(
            "strict reverse path filtering on {interface} drops answers while a next hop's MAC address is unknown: sysctl -w \
             net.ipv4.conf.{interface}.rp_filter=2"
        ));
    }
    let forced = read(&format!("ipv6/conf/{interface}/force_forwarding"));
    if forced.is_none() && read("ipv6/conf/all/forwarding").as_deref() == Some("0") {
        warnings.push(format!(
            "this kernel forwards IPv6 on {interface} only when the whole host does, so IPv6 packets are lost while a next hop's MAC address \
             is unknown: sysctl -w net.ipv6.conf.all.forwarding=1"
        ));
    }
    warnings
}

/// Interfaces that do not carry each other's packets.
fn mtus(links: &[Link]) -> Option<String> {
    let least = links.iter().min_by_key(|link| link.mtu)?;
    // The first of equals, which is the last the other way round.
    let most = links.iter().rev().max_by_key(|link| link.mtu)?;
    (least.mtu != most.mtu).then(|| {
        format!(
            "{} carries packets of {} bytes and {} only {}: larger ones towards it are not forwarded; give both the same MTU (ip link \
             set dev {} mtu {})",
            most.name, most.mtu, least.name, least.mtu, most.name, least.mtu
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::Xdp;

    fn link(name: &str, mtu: u32) -> Link {
        Link {
            name: name.into(),
            mtu,
            ..Link::default()
        }
    }

    fn with(name: &str, index: u32, kind: &str, native: Option<bool>) -> Link {
        Link {
            index,
            kind: (!kind.is_empty()).then(|| kind.into()),
            xdp: native.map(|native| Xdp { program: 1, native }),
            ..link(name, 1500)
        }
    }

    #[test]
    fn merging_below_a_generic_hook_and_tags_beside_the_frame_are_to_be_switched_off() {
        let port = |link: Link, master| Link {
            master: Some(master),
            ..link
        };
        let vlan = |name, index, on, native| Link {
            peer: Some(on),
            ..with(name, index, "vlan", native)
        };
        let judge = |configured: &[usize], all: &[Link]| {
            let links: Vec<_> = configured.iter().map(|index| all[*index].clone()).collect();
            let hiding = hiding(&links, all).into_iter();
            hiding
                .map(|(name, switch)| format!("{name} {}", switch.name()))
                .collect::<Vec<_>>()
        };
        let bridge = [
            with("eth0", 1, "", Some(false)),
            with("br0", 2, "bridge", Some(false)),
            port(with("tap1", 3, "tun", None), 2),
            port(with("eth1", 4, "", None), 2),
        ];
        assert_eq!(judge(&[0, 1], &bridge), ["eth1 gro", "tap1 gro"]);
        let bond = |native| {
            [
                with("bond0", 1, "bond", Some(native)),
                port(with("eth0", 2, "", native.then_some(true)), 1),
                vlan("bond0.7", 3, 1, None),
            ]
        };
        assert_eq!(judge(&[0], &bond(true)), ["eth0 rxvlan"]);
        assert_eq!(judge(&[0], &bond(false)), ["eth0 gro"]);
        let upper = [
            with("eth0", 1, "", None),
            vlan("eth0.10", 2, 1, Some(false)),
        ];
        assert_eq!(judge(&[1], &upper), ["eth0 gro"]);
        let lower = [with("eth0", 1, "", Some(true)), vlan("eth0.10", 2, 1, None)];
        assert_eq!(judge(&[0], &lower), ["eth0 rxvlan"]);
        assert_eq!(judge(&[0], &lower[..1]), [""; 0]);
    }

    #[test]
    fn different_mtus_are_told() {
        assert_eq!(mtus(&[]), None);
        assert_eq!(mtus(&[link("a", 1500), link("b", 1500)]), None);
        assert_eq!(
            mtus(&[link("a", 9000), link("b", 1500), link("c", 1500)]).unwrap(),
            "a carries packets of 9000 bytes and b only 1500: larger ones towards it are not forwarded; give both the same MTU \
             (ip link set dev a mtu 1500)"
        );
    }
}

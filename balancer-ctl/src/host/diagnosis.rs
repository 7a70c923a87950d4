//! What does not work on this host as it is configured: one sentence each, with the remedy.

use std::{collections::BTreeSet, fs};

use anyhow::Context;

use super::{
    ethtool::{self, Offload},
    offload::OffloadSetting,
    peer::{self, Peer},
};
use crate::{
    netlink::{
        Netlink, layers,
        link::{self, Link},
    },
    os::shell,
};

/// The result of an examination.
#[derive(Debug, Default)]
pub struct Findings {
    /// What does not work: one sentence each.
    pub warnings: Vec<String>,
    /// What does not work for packets of one family only: IPv4, IPv6.
    pub family_warnings: [Vec<String>; 2],
    /// Offloads that hide parts of frames from the packet program if they are on.
    pub hiding: BTreeSet<OffloadSetting>,
    /// Veths whose peer is in a namespace that cannot be found.
    pub unseen_peers: Vec<String>,
}

/// Examines the configured interfaces.
///
/// # Errors
/// The kernel refused to list interfaces.
pub fn examine(netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<Findings> {
    let all = link::list(netlink)?;
    // The caller's list may be older than the attachment and later changes.
    let now = |link: &Link| {
        let same = all.iter().find(|other| other.index == link.index);
        same.unwrap_or(link).clone()
    };
    let links: Vec<_> = links.iter().map(now).collect();
    let mut warnings = Vec::new();
    let [mut ipv4, mut ipv6] = [Vec::new(), Vec::new()];
    let mut unseen = Vec::new();
    for link in &links {
        warnings.extend(lro_warning(link)?);
        // Frames from a bridge's veth ports reach the program, too.
        let below = layers::lower_links(link, &all).into_iter();
        for cable in below.chain([link]).filter(is_veth) {
            match peer::find(netlink, cable, &all)
                .with_context(|| format!("cannot examine the other end of {}", cable.name))?
            {
                Some(peer) => {
                    warnings.extend(peer_warnings(cable, &peer, takes_redirected(cable, link)))
                }
                None => unseen.push(cable.name.clone()),
            }
            if let Some(vlan) = layers::vlans(link, &all).next()
                && let Some(peer) = peer::find(netlink, cable, &all)?
                && peer.tx_vlan
            {
                warnings.push(peer_tag_warning(cable, &peer, vlan));
            }
        }
        if loses_vlan_tags(link) {
            let configured = |vlan: &Link| links.iter().any(|other| other.index == vlan.index);
            let vlans = layers::vlans(link, &all).filter(|vlan| !configured(vlan));
            warnings.extend(vlans.map(|vlan| untagged_vlan_warning(link, vlan)));
        }
        ipv4.extend(ipv4_warnings(&link.name));
        ipv6.extend(ipv6_warning(&link.name));
    }
    warnings.extend(mtu_warning(&links));
    Ok(Findings {
        warnings,
        family_warnings: [ipv4, ipv6],
        hiding: hiding_offloads(&links, &all),
        unseen_peers: unseen,
    })
}

fn is_veth(link: &&Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

/// Whether native frames are redirected to `cable`, which is `link` itself or an interface below it: only to `link`,
/// and through a bond to its slaves.
fn takes_redirected(cable: &Link, link: &Link) -> bool {
    let is_native = link.xdp.is_none_or(|xdp| xdp.native);
    is_native && (cable.index == link.index || link.kind.as_deref() == Some("bond"))
}

/// Whether the kernel removes VLAN tags before frames reach the generic hook of `link`. It does for frames that another
/// interface has received.
fn loses_vlan_tags(link: &Link) -> bool {
    let is_native = link.xdp.is_some_and(|xdp| xdp.native);
    !is_native && matches!(link.kind.as_deref(), Some("bridge" | "bond" | "team"))
}

/// The offloads that hide parts of frames from the program on `links`.
///
/// The kernel does not merge packets (GRO) on an interface that runs a generic program, but it does on those below it,
/// and merged packets are too large to be forwarded. A VLAN tag that the hardware has removed is not in the frame that
/// the program sees, so the program takes another VLAN's frames for its own.
fn hiding_offloads(links: &[Link], all: &[Link]) -> BTreeSet<OffloadSetting> {
    let mut hiding = BTreeSet::new();
    for link in links {
        let below = layers::lower_links(link, all);
        let lowest = |link: &&&Link| layers::lower_links(link, all).is_empty();
        if link.xdp.is_some_and(|xdp| !xdp.native) {
            let merging = below
                .iter()
                .filter(lowest)
                .filter(|lower| lower.xdp.is_none());
            hiding.extend(merging.map(|lower| (lower.name.clone(), Offload::Gro)));
        }
        if layers::vlans(link, all).next().is_some() && !loses_vlan_tags(link) {
            let receivers = if link.kind.as_deref() == Some("bond") {
                below
            } else {
                vec![link]
            };
            hiding.extend(
                receivers
                    .iter()
                    .map(|link| (link.name.clone(), Offload::RxVlan)),
            );
        }
    }
    hiding
}

/// The warning about an offload that cannot be switched off.
pub fn hiding_warning((interface, switch): &OffloadSetting) -> String {
    let what = match switch {
        Offload::Gro => {
            "merges received packets (GRO), and what is merged is too large to be forwarded"
        }
        Offload::RxVlan => {
            "takes VLAN tags out of frames, so that the packet program takes another VLAN's frames for its own"
        }
        Offload::Lro | Offload::TxChecksum | Offload::TxVlan => "hides something of its frames",
    };
    let name = switch.name();
    format!(
        "{interface} {what}, and it cannot be switched off here: ethtool -K {} {name} off",
        shell::word(interface)
    )
}

/// The warning about a peer that sends VLAN tags beside the frame; a veth passes them on so.
fn peer_tag_warning(link: &Link, peer: &Peer, vlan: &Link) -> String {
    format!(
        "{}, the other end of {}, leaves VLAN tags beside its frames, so that the packet program takes those of {} for untagged ones: {}",
        peer.name,
        link.name,
        vlan.name,
        peer.ethtool("txvlan off")
    )
}

/// The warning about a VLAN device on an interface whose frames lose their tags before the generic hook.
fn untagged_vlan_warning(link: &Link, vlan: &Link) -> String {
    format!(
        "frames of {} look untagged to the packet program on {}, so that connections of its clients are answered by no interface of the \
         data plane: add {} to the interfaces",
        vlan.name, link.name, vlan.name
    )
}

/// The warning about receive merging in hardware (LRO).
fn lro_warning(link: &Link) -> anyhow::Result<Option<String>> {
    let name = &link.name;
    let on = ethtool::query(name, Offload::Lro)
        .with_context(|| format!("cannot ask {name} for its offloads"))?;
    Ok((on == Some(true)).then(|| {
        format!(
            "{name} merges received packets in hardware (LRO), and what is merged cannot be forwarded: ethtool -K {} lro off",
            shell::word(name)
        )
    }))
}

/// The warnings about a veth's peer.
fn peer_warnings(link: &Link, peer: &Peer, takes_redirected: bool) -> Vec<String> {
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

/// A sysctl below `/proc/sys/net`; `None` if this kernel does not have it.
fn sysctl(path: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/net/{path}"));
    value.map(|value| value.trim().to_owned()).ok()
}

/// The warnings about sysctls that drop IPv4 packets, all or those that the kernel itself forwards while a next hop is unresolved.
fn ipv4_warnings(interface: &str) -> Vec<String> {
    let number = |path: &str| sysctl(path).and_then(|value| value.parse::<u32>().ok());
    let mut warnings = Vec::new();
    // Set at the start; somebody may have switched it off since.
    if number(&format!("ipv4/conf/{interface}/forwarding")) == Some(0) {
        warnings.push(format!(
            "IPv4 forwarding is off on {interface}, so IPv4 packets that come in there are dropped (forwarding-off): sysctl -w \
             net.ipv4.conf.{interface}.forwarding=1"
        ));
    }
    let filter = format!("ipv4/conf/{interface}/rp_filter");
    // The larger of the two is in force.
    if number("ipv4/conf/all/rp_filter").max(number(&filter)) == Some(1) {
        warnings.push(format!(
            "strict reverse path filtering on {interface} drops answers while a next hop's MAC address is unknown: sysctl -w \
             net.ipv4.conf.{interface}.rp_filter=2"
        ));
    }
    warnings
}

/// The warning about a kernel that does not forward IPv6 packets while a next hop is unresolved.
fn ipv6_warning(interface: &str) -> Option<String> {
    let is_forced = sysctl(&format!("ipv6/conf/{interface}/force_forwarding")).is_some();
    let is_off = sysctl("ipv6/conf/all/forwarding").as_deref() == Some("0");
    (!is_forced && is_off).then(|| {
        format!(
            "this kernel forwards IPv6 on {interface} only when the whole host does, so IPv6 packets are lost while a next hop's MAC address \
             is unknown: sysctl -w net.ipv6.conf.all.forwarding=1"
        )
    })
}

/// The warning about interfaces with different MTUs.
fn mtu_warning(links: &[Link]) -> Option<String> {
    let least = links.iter().min_by_key(|link| link.mtu)?;
    // `max_by_key` returns the last of equals, so in reverse order the first.
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
            xdp: native.map(|native| Xdp {
                program_id: 1,
                native,
            }),
            ..link(name, 1500)
        }
    }

    #[test]
    fn gro_below_a_generic_hook_and_vlan_offload_are_to_be_switched_off() {
        let port = |link: Link, master| Link {
            master: Some(master),
            ..link
        };
        let vlan = |name, index, on, native| Link {
            peer: Some(on),
            ..with(name, index, "vlan", native)
        };
        let findings = |configured: &[usize], all: &[Link]| {
            let links: Vec<_> = configured.iter().map(|index| all[*index].clone()).collect();
            let hiding = hiding_offloads(&links, all).into_iter();
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
        assert_eq!(findings(&[0, 1], &bridge), ["eth1 gro", "tap1 gro"]);
        let bond = |native| {
            [
                with("bond0", 1, "bond", Some(native)),
                port(with("eth0", 2, "", native.then_some(true)), 1),
                vlan("bond0.7", 3, 1, None),
            ]
        };
        assert_eq!(findings(&[0], &bond(true)), ["eth0 rxvlan"]);
        assert_eq!(findings(&[0], &bond(false)), ["eth0 gro"]);
        let upper = [
            with("eth0", 1, "", None),
            vlan("eth0.10", 2, 1, Some(false)),
        ];
        assert_eq!(findings(&[1], &upper), ["eth0 gro"]);
        let lower = [with("eth0", 1, "", Some(true)), vlan("eth0.10", 2, 1, None)];
        assert_eq!(findings(&[0], &lower), ["eth0 rxvlan"]);
        assert_eq!(findings(&[0], &lower[..1]), [""; 0]);
    }

    #[test]
    fn different_mtus_are_reported() {
        assert_eq!(mtu_warning(&[]), None);
        assert_eq!(mtu_warning(&[link("a", 1500), link("b", 1500)]), None);
        assert_eq!(
            mtu_warning(&[link("a", 9000), link("b", 1500), link("c", 1500)]).unwrap(),
            "a carries packets of 9000 bytes and b only 1500: larger ones towards it are not forwarded; give both the same MTU \
             (ip link set dev a mtu 1500)"
        );
    }
}

//! What will not work on this host as it stands: a sentence each, with the mend.

use std::fs;

use anyhow::Context;

use super::{
    ethtool::{self, Question},
    peer::{self, Peer},
};
use crate::netlink::{
    Netlink,
    link::{self, Link},
};

/// What was found on the host.
#[derive(Debug, Default)]
pub struct Findings {
    /// What will not work: a sentence each.
    pub warnings: Vec<String>,
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
        if link.kind.as_deref() == Some("veth") {
            match peer::find(netlink, link, &all)
                .with_context(|| format!("cannot examine the other end of {}", link.name))?
            {
                Some(peer) => warnings.extend(other_end(link, &peer)),
                None => unseen.push(link.name.clone()),
            }
        }
        warnings.extend(paths(&link.name));
    }
    warnings.extend(mtus(&links));
    Ok(Findings { warnings, unseen })
}

/// Receive merging in hardware.
fn lro(link: &Link) -> anyhow::Result<Option<String>> {
    let name = &link.name;
    let on = ethtool::ask(name, Question::Lro)
        .with_context(|| format!("cannot ask {name} for its offloads"))?;
    Ok((on == Some(true)).then(|| {
        format!("{name} merges received packets in hardware (LRO), and what is merged cannot be forwarded: ethtool -K {name} lro off")
    }))
}

/// What a veth's other end does that the program cannot handle.
fn other_end(link: &Link, peer: &Peer) -> Vec<String> {
    let (name, peer_name) = (&link.name, &peer.name);
    let mut warnings = Vec::new();
    if peer.tx_checksum {
        warnings.push(format!(
            "{peer_name}, the other end of {name}, leaves checksums to hardware that a veth does not have, so receivers drop what is \
             forwarded: {}",
            peer.ethtool("tx off")
        ));
    }
    if !peer.polls {
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

    fn link(name: &str, mtu: u32) -> Link {
        Link {
            index: 1,
            name: name.into(),
            mac: None,
            mtu,
            running: true,
            kind: None,
            peer: None,
            peer_namespace: None,
            xdp: None,
        }
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

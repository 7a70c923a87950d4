//! Network interfaces.

use std::io;

use anyhow::Context;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BondMode, InfoBond, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, LinkXdp, XdpAttached,
    },
};

use super::Netlink;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; `None` on links without one.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes: the largest IP packet that it carries.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Its kind (`veth`, `vlan`, …); `None` for hardware.
    pub kind: Option<String>,
    /// Whether it is a bond in mode `balance-alb`, which announces its slaves' MAC addresses to its neighbours.
    pub is_balance_alb: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Index of the interface that it is a port or a member of: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    /// Index of a veth's peer, or of the parent of a VLAN device or a macvlan, in that interface's namespace.
    pub peer: Option<u32>,
    /// The peer's namespace, when it is another one: the id (nsid) that this namespace has for it.
    pub peer_namespace: Option<i32>,
    /// The XDP program on it.
    pub xdp: Option<Xdp>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// Kernel's id of the program.
    pub program_id: u32,
    /// Whether it runs in the driver, not in the generic hook.
    pub native: bool,
}

/// Lists all interfaces of the namespace.
///
/// # Errors
/// The kernel refused.
pub fn list(netlink: &mut Netlink) -> anyhow::Result<Vec<Link>> {
    let answers = netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .context("cannot list the network interfaces")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => parse(&message),
            _ => None,
        })
        .collect())
}

/// Whether the kernel asks for the addresses of neighbours on an interface, by ARP or neighbour discovery.
///
/// # Errors
/// The kernel refused; `ENODEV` when there is no such interface.
pub fn asks_neighbours(netlink: &mut Netlink, index: u32) -> io::Result<bool> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let answers = netlink.request(RouteNetlinkMessage::GetLink(message), 0)?;
    Ok(answers.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => has_neighbours(message.header.flags),
        _ => false,
    }))
}

fn has_neighbours(flags: LinkFlags) -> bool {
    !flags.intersects(LinkFlags::Noarp | LinkFlags::Pointopoint | LinkFlags::Loopback)
}

/// Reads an interface from a message.
pub(super) fn parse(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        running: message.header.flags.contains(LinkFlags::LowerUp),
        is_loopback: message.header.link_layer_type == LinkLayerType::Loopback,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master).filter(|i| *i != 0),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Bond(bond)) => {
                            link.is_balance_alb =
                                bond.contains(&InfoBond::Mode(BondMode::BalanceAlb));
                        }
                        _ => {}
                    }
                }
            }
            LinkAttribute::Xdp(parts) => link.xdp = xdp(parts),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn xdp(parts: &[LinkXdp]) -> Option<Xdp> {
    let mut program = None;
    let mut native = false;
    for part in parts {
        match part {
            LinkXdp::Attached(XdpAttached::None) => return None,
            LinkXdp::Attached(mode) => native = !matches!(mode, XdpAttached::SocketBuffer),
            LinkXdp::ProgId(id) => program = Some(*id),
            // With programs in both hooks the kernel reports no common id.
            LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                program = program.or(Some(*id))
            }
            _ => {}
        }
    }
    program.map(|program_id| Xdp { program_id, native })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_neighbours_to_ask_for_on_links_without_arp() {
        let up = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
        for (flags, expected) in [
            (LinkFlags::Broadcast | LinkFlags::Multicast, true),
            (LinkFlags::Broadcast | LinkFlags::Noarp, false),
            (LinkFlags::Pointopoint | LinkFlags::Noarp, false),
            (LinkFlags::Pointopoint, false),
            (LinkFlags::Loopback, false),
        ] {
            assert_eq!(has_neighbours(up | flags), expected, "{flags:?}");
        }
    }
}

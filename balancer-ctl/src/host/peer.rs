//! The other end of a veth pair, also in another network namespace if that has a name.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::sched::{CloneFlags, setns};

use super::ethtool::{self, Offload};
use crate::{
    netlink::{
        Netlink,
        link::{self, Link},
    },
    os::shell,
};

/// The directory of the namespaces that `ip netns` knows by name.
const NAMED: &str = "/run/netns";

/// The other end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in its namespace.
    pub name: String,
    /// The name of its namespace, if it is another one.
    pub namespace: Option<String>,
    /// Whether it sends frames with unfinished checksums.
    pub tx_checksum: bool,
    /// Whether it sends VLAN tags beside its frames.
    pub tx_vlan: bool,
    /// Whether it uses NAPI (GRO or an XDP program), and so receives frames that are redirected to this end.
    pub polls: bool,
}

impl Peer {
    /// The `ethtool -K` command for it; `switch` is for example `gro on`.
    pub fn ethtool(&self, switch: &str) -> String {
        let name = shell::word(&self.name);
        match &self.namespace {
            Some(namespace) => format!(
                "ip netns exec {} ethtool -K {name} {switch}",
                shell::word(namespace)
            ),
            None => format!("ethtool -K {name} {switch}"),
        }
    }
}

/// Finds the other end of `link`; `None` where its namespace has no name.
///
/// # Errors
/// The kernel refused a query.
pub fn find(netlink: &mut Netlink, link: &Link, all: &[Link]) -> io::Result<Option<Peer>> {
    let Some(index) = link.peer else {
        return Ok(None);
    };
    let Some(id) = link.peer_namespace else {
        let peer = all.iter().find(|other| other.index == index);
        return peer.map(|peer| describe(peer, None)).transpose();
    };
    let Some((name, file)) = named_namespace(netlink, id) else {
        return Ok(None);
    };
    // In a thread of its own, so that the caller stays in its namespace.
    let look = || -> io::Result<Option<Peer>> {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let all = Netlink::open()
            .and_then(|mut netlink| link::list(&mut netlink))
            .map_err(io::Error::other)?;
        let peer = all.iter().find(|other| other.index == index);
        peer.map(|peer| describe(peer, Some(name.clone())))
            .transpose()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("peer".into())
            .spawn_scoped(scope, look)?;
        thread.join().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that looked at a veth's other end died",
            ))
        })
    })
}

/// Queries the offloads of a link in the namespace of the calling thread.
fn describe(peer: &Link, namespace: Option<String>) -> io::Result<Peer> {
    Ok(Peer {
        name: peer.name.clone(),
        namespace,
        tx_checksum: ethtool::query(&peer.name, Offload::TxChecksum)? == Some(true),
        tx_vlan: ethtool::query(&peer.name, Offload::TxVlan)? == Some(true),
        polls: peer.xdp.is_some() || ethtool::query(&peer.name, Offload::Gro)? != Some(false),
    })
}

/// The named namespace that has the nsid `id` here.
fn named_namespace(netlink: &mut Netlink, id: i32) -> Option<(String, File)> {
    for entry in fs::read_dir(NAMED).ok()?.flatten() {
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        let mut message = NsidMessage::default();
        message
            .attributes
            .push(NsidAttribute::Fd(file.as_raw_fd().cast_unsigned()));
        // The kernel refuses a name whose namespace is gone.
        let Ok(answers) = netlink.request(RouteNetlinkMessage::GetNsId(message), 0) else {
            continue;
        };
        let is_it = answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => {
                message.attributes.contains(&NsidAttribute::Id(id))
            }
            _ => false,
        });
        if is_it {
            return Some((entry.file_name().to_string_lossy().into_owned(), file));
        }
    }
    None
}

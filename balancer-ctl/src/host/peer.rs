//! The other end of a veth pair, also where it lies in another network namespace that has a name.

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

use super::ethtool::{self, Switch};
use crate::netlink::{
    Netlink,
    link::{self, Link},
};

/// Where `ip netns` keeps namespaces by name.
const NAMED: &str = "/run/netns";

/// What is known of the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name there.
    pub name: String,
    /// Its namespace's name, when that is another one.
    pub namespace: Option<String>,
    /// It leaves checksums unfinished.
    pub tx_checksum: bool,
    /// It leaves VLAN tags beside its frames.
    pub tx_vlan: bool,
    /// It takes redirected frames.
    pub polls: bool,
}

impl Peer {
    /// The ethtool command that switches one of its offloads.
    pub fn ethtool(&self, switch: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!(
                "ip netns exec {namespace} ethtool -K {} {switch}",
                self.name
            ),
            None => format!("ethtool -K {} {switch}", self.name),
        }
    }
}

/// Finds the other end of `link`; none where it cannot be seen from here.
///
/// # Errors
/// The kernel refused a question.
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
    // A thread of its own: this one stays where it is.
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

/// What a link, in the namespace of the calling thread, does with frames.
fn describe(peer: &Link, namespace: Option<String>) -> io::Result<Peer> {
    Ok(Peer {
        name: peer.name.clone(),
        namespace,
        tx_checksum: ethtool::ask(&peer.name, Switch::TxChecksum)? == Some(true),
        tx_vlan: ethtool::ask(&peer.name, Switch::TxVlan)? == Some(true),
        polls: peer.xdp.is_some() || ethtool::ask(&peer.name, Switch::Gro)? != Some(false),
    })
}

/// The named namespace that this one knows by `id`.
fn named_namespace(netlink: &mut Netlink, id: i32) -> Option<(String, File)> {
    for entry in fs::read_dir(NAMED).ok()?.flatten() {
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        let mut message = NsidMessage::default();
        message
            .attributes
            .push(NsidAttribute::Fd(file.as_raw_fd().cast_unsigned()));
        // A name whose namespace is gone is refused.
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

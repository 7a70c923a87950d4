//! Asks the kernel how far the drivers of interfaces support XDP, for the decision in `mode_choice`.

use anyhow::Context;

use super::{
    device::{self, Device},
    mode_choice::XdpSupport,
};
use crate::{
    host::{
        ethtool,
        peer::{self, Peer},
    },
    netlink::{Netlink, layers, link::Link, xdp_features::XdpFeatureSocket},
};

/// Drivers that run programs natively and lack `ndo_xdp_xmit`. Used only where the kernel does not report features
/// (before Linux 6.3).
const WITHOUT_XMIT: [&str; 4] = ["ixgbevf", "mlx4_en", "nfp", "nicvf"];

/// Whether the program already runs natively on the interfaces that are asked about. Some drivers report `ndo_xdp_xmit`
/// only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It does not yet.
    Before,
    /// It does.
    Running,
}

/// The XDP support of each of `links`; `all` are all interfaces of the namespace.
///
/// # Errors
/// The kernel refused a query.
pub fn query_all(
    netlink: &mut Netlink,
    links: &[Link],
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<Vec<XdpSupport>> {
    let socket = XdpFeatureSocket::open().context("cannot query drivers' XDP features")?;
    let mut supports = Vec::new();
    for link in links {
        let support = query_one(netlink, socket.as_ref(), link, all, stage)
            .with_context(|| format!("cannot query the XDP support of {}", link.name))?;
        supports.push(support);
    }
    Ok(supports)
}

fn query_one(
    netlink: &mut Netlink,
    socket: Option<&XdpFeatureSocket>,
    link: &Link,
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<XdpSupport> {
    let name = &link.name;
    let mut supports = XdpSupport {
        name: name.clone(),
        redirects_back: link.kind.as_deref() == Some("veth"),
        ..XdpSupport::default()
    };
    let device = device::classify(link, all).map_err(anyhow::Error::msg)?;
    match device {
        Device::Software(what) => {
            supports.native_obstacle = Some(format!(
                "{name} is {what}, which runs the packet program in generic mode only"
            ));
            return Ok(supports);
        }
        Device::Bond => {
            let slaves: Vec<_> = layers::slaves(link, all).collect();
            // The kernel refuses the bond a slave that does not run its program.
            if slaves.is_empty() {
                return Ok(supports);
            }
            for slave in slaves {
                let slave = query_driver(netlink, socket, slave, all, stage)?;
                supports.native_obstacle = supports.native_obstacle.or(slave.0);
                supports.redirect_obstacle = supports.redirect_obstacle.or(slave.1);
            }
            // A bond, like some slaves' drivers, reports this only once the program runs.
            if let (Some(socket), Stage::Running) = (socket, stage)
                && !socket.query(link.index)?.takes_redirected()
            {
                let reason = format!("the bond {name} takes no redirected frames");
                supports.redirect_obstacle = supports.redirect_obstacle.or(Some(reason));
            }
        }
        Device::Driver => {
            (supports.native_obstacle, supports.redirect_obstacle) =
                query_driver(netlink, socket, link, all, stage)?
        }
    }
    Ok(supports)
}

/// Why a driver does not run the program natively, and why it takes no redirected frames; `None` where it does.
fn query_driver(
    netlink: &mut Netlink,
    socket: Option<&XdpFeatureSocket>,
    link: &Link,
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<(Option<String>, Option<String>)> {
    let name = &link.name;
    let is_veth = link.kind.as_deref() == Some("veth");
    let Some(socket) = socket else {
        if is_veth {
            let peer = peer::find(netlink, link, all)?;
            return Ok((
                None,
                peer.filter(|peer| !peer.polls)
                    .map(|peer| no_polling_reason(name, Some(&peer))),
            ));
        }
        let driver = ethtool::driver(name)?;
        let lacks = WITHOUT_XMIT.contains(&driver.as_str());
        return Ok((None, lacks.then(|| no_xmit_reason(name))));
    };
    let features = socket.query(link.index)?;
    if !features.runs_programs() {
        // A veth reports this also when its peer has more queues.
        return Ok((
            Some(format!(
                "{name} has a driver that runs no packet program natively"
            )),
            None,
        ));
    }
    if features.takes_redirected() {
        return Ok((None, None));
    }
    if is_veth {
        let peer = peer::find(netlink, link, all)?;
        return Ok((None, Some(no_polling_reason(name, peer.as_ref()))));
    }
    Ok((
        None,
        (stage == Stage::Running).then(|| no_xmit_reason(name)),
    ))
}

fn no_xmit_reason(name: &str) -> String {
    format!("{name} has a driver that takes no redirected frames (it lacks ndo_xdp_xmit)")
}

/// A veth delivers redirected frames only to a peer with NAPI (GRO on, or an XDP program).
fn no_polling_reason(name: &str, peer: Option<&Peer>) -> String {
    match peer {
        Some(peer) => format!(
            "{name} takes no redirected frames, since its other end {} does not poll (`{}`, then `balancer-ctl reload`)",
            peer.name,
            peer.ethtool("gro on")
        ),
        None => format!(
            "{name} takes no redirected frames, since its other end does not poll (`ethtool -K DEV gro on` there, then \
             `balancer-ctl reload`)"
        ),
    }
}

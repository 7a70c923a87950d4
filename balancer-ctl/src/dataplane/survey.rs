//! Asks the kernel what the drivers of interfaces can do, for the decision in `choice`.

use anyhow::Context;

use super::{
    choice::Facts,
    device::{self, Device},
};
use crate::{
    host::{
        ethtool,
        peer::{self, Peer},
    },
    netlink::{Netlink, features::Asker, layers, link::Link},
};

/// Drivers that run programs natively and have no `ndo_xdp_xmit`. Asked only where the kernel does not say (before 6.3).
const WITHOUT_XMIT: [&str; 4] = ["ixgbevf", "mlx4_en", "nfp", "nicvf"];

/// Whether the program runs natively on the interfaces that are asked about. Some drivers take redirected frames only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet.
    Before,
    /// It does.
    Running,
}

/// What is known of `links`, of which each can carry the program, among `all` interfaces.
///
/// # Errors
/// The kernel refused a question.
pub fn facts(
    netlink: &mut Netlink,
    links: &[Link],
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<Vec<Facts>> {
    let asker = Asker::open().context("cannot ask for drivers' XDP features")?;
    let mut facts = Vec::new();
    for link in links {
        let one = one(netlink, asker.as_ref(), link, all, stage)
            .with_context(|| format!("cannot ask what {} can do", link.name))?;
        facts.push(one);
    }
    Ok(facts)
}

fn one(
    netlink: &mut Netlink,
    asker: Option<&Asker>,
    link: &Link,
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<Facts> {
    let name = &link.name;
    let mut facts = Facts {
        name: name.clone(),
        redirects_back: link.kind.as_deref() == Some("veth"),
        ..Facts::default()
    };
    let device = device::judge(link, all).map_err(anyhow::Error::msg)?;
    match device {
        Device::Software(what) => {
            facts.not_native = Some(format!(
                "{name} is {what}, which runs the packet program in generic mode only"
            ));
            return Ok(facts);
        }
        Device::Bond => {
            let slaves: Vec<_> = layers::slaves(link, all).collect();
            // The kernel refuses the bond a slave that does not run its program.
            if slaves.is_empty() {
                return Ok(facts);
            }
            for slave in slaves {
                let slave = driver(netlink, asker, slave, all, stage)?;
                facts.not_native = facts.not_native.or(slave.0);
                facts.takes_none = facts.takes_none.or(slave.1);
            }
            // The bond itself says so only once the program runs, as the slaves' drivers may.
            if let (Some(asker), Stage::Running) = (asker, stage)
                && !asker.ask(link.index)?.takes_redirected()
            {
                let reason = format!("the bond {name} takes no redirected frames");
                facts.takes_none = facts.takes_none.or(Some(reason));
            }
        }
        Device::Driver => {
            (facts.not_native, facts.takes_none) = driver(netlink, asker, link, all, stage)?
        }
    }
    Ok(facts)
}

/// Why a driver does not run the program natively, and why it takes no redirected frames.
fn driver(
    netlink: &mut Netlink,
    asker: Option<&Asker>,
    link: &Link,
    all: &[Link],
    stage: Stage,
) -> anyhow::Result<(Option<String>, Option<String>)> {
    let name = &link.name;
    let is_veth = link.kind.as_deref() == Some("veth");
    let Some(asker) = asker else {
        if is_veth {
            let peer = peer::find(netlink, link, all)?;
            return Ok((
                None,
                peer.filter(|peer| !peer.polls)
                    .map(|peer| no_polling(name, Some(&peer))),
            ));
        }
        let driver = ethtool::driver(name)?;
        let lacks = WITHOUT_XMIT.contains(&driver.as_str());
        return Ok((None, lacks.then(|| no_xmit(name))));
    };
    let features = asker.ask(link.index)?;
    if !features.runs_programs() {
        // A veth whose other end has more queues says so too.
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
        return Ok((None, Some(no_polling(name, peer.as_ref()))));
    }
    Ok((None, (stage == Stage::Running).then(|| no_xmit(name))))
}

fn no_xmit(name: &str) -> String {
    format!("{name} has a driver that takes no redirected frames (it lacks ndo_xdp_xmit)")
}

/// A veth hands redirected frames only to an end that polls.
fn no_polling(name: &str, peer: Option<&Peer>) -> String {
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

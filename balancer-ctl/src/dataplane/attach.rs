//! The packet program on interfaces: XDP links, pinned, one per interface.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, bail, ensure};
use balancer_common::settings::MAX_INTERFACES;

use super::{
    AttachedInterface,
    pins::{self, PinnedLink, Pins},
    syscall,
    table::Table,
};
use crate::{
    model::Mode,
    netlink::{
        Netlink,
        link::{self, Link},
    },
};

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// An interface that the program runs on.
#[derive(Debug)]
pub struct Attached {
    /// What is known of it.
    pub link: Link,
    /// The XDP link.
    fd: OwnedFd,
    /// In the driver.
    pub native: bool,
    /// Why it is not, where that was not asked for.
    pub warning: Option<String>,
}

impl Attached {
    /// What `status` shows.
    pub fn describe(&self) -> anyhow::Result<AttachedInterface> {
        let info = syscall::link_info(self.fd.as_fd())
            .with_context(|| format!("cannot ask about the program on {}", self.link.name))?;
        Ok(AttachedInterface {
            name: self.link.name.clone(),
            native: self.native,
            program_id: info.program,
        })
    }
}

/// The interfaces called `names`, checked: each exists and can carry the program, and none carries another's.
///
/// # Errors
/// A sentence that names the interface.
pub fn resolve(
    netlink: &mut Netlink,
    names: &[String],
    pinned: &[PinnedLink],
) -> anyhow::Result<Vec<Link>> {
    let ours: BTreeSet<_> = pinned
        .iter()
        .map(|link| (link.info.ifindex, link.info.program))
        .collect();
    let all = link::list(netlink)?;
    let mut found = Vec::new();
    for name in names {
        let Some(link) = all.iter().find(|link| link.name == *name) else {
            bail!("the interface {name} does not exist: see `ip link` for the names there are");
        };
        ensure!(
            link.index < MAX_INTERFACES,
            "the interface {name} has the index {}, and only indices below {MAX_INTERFACES} fit the table: create the \
             interface anew after a reboot",
            link.index
        );
        ensure!(
            link.mac.is_some(),
            "the interface {name} is not an Ethernet interface: the packet program needs one"
        );
        if let Some(xdp) = link.xdp
            && !ours.contains(&(link.index, xdp.program))
        {
            bail!(
                "the interface {name} carries another XDP program (id {}): it is not replaced; detach it first (`ip link set dev \
                 {name} xdp off`, or stop what attached it)",
                xdp.program
            );
        }
        found.push(link.clone());
    }
    Ok(found)
}

/// Puts `program` on the interfaces `wanted`, taking up links that are pinned, and takes it off all others.
///
/// # Errors
/// An interface could not be attached; those that were attached before still are.
pub fn attach(
    program: BorrowedFd<'_>,
    wanted: &[Link],
    mode: Mode,
    pins: &Pins,
    pinned: Vec<PinnedLink>,
) -> anyhow::Result<Vec<Attached>> {
    let mut attached: Vec<Attached> = Vec::new();
    let mut leftover = Vec::new();
    for pinned in pinned {
        let target = wanted.iter().find(|link| link.index == pinned.info.ifindex);
        match target {
            Some(link)
                if fits(link, mode) && attached.iter().all(|a| a.link.index != link.index) =>
            {
                attached.push(take_up(program, link, pins, pinned)?);
            }
            // Of another mode: the kernel takes one program at a time.
            Some(_) => remove(pinned)?,
            None => leftover.push(pinned),
        }
    }
    let taken_up = attached.len();
    for link in wanted {
        if attached.iter().any(|a| a.link.index == link.index) {
            continue;
        }
        match create(program, link, mode, pins) {
            Ok(created) => attached.push(created),
            Err(error) => {
                for created in attached.drain(taken_up..) {
                    pins::unpin(&pins.link_path(created.link.index))?;
                }
                return Err(error);
            }
        }
    }
    // Last, so that after a failure the interfaces that were attached before still are.
    for pinned in leftover {
        remove(pinned)?;
    }
    // In the operator's order.
    attached.sort_by_key(|a| wanted.iter().position(|link| link.index == a.link.index));
    Ok(attached)
}

/// Takes the program off an interface.
fn remove(pinned: PinnedLink) -> anyhow::Result<()> {
    // Explicitly: this daemon may hold the link a second time. The kernel has done it where the interface is gone.
    if pinned.info.ifindex != 0 {
        syscall::detach_link(pinned.link.as_fd())
            .context("cannot take the packet program off an interface")?;
    }
    pins::unpin(&pinned.path)
}

/// Whether a link that is there is of the wanted mode. In mode auto what was found out once stays.
fn fits(link: &Link, mode: Mode) -> bool {
    match (mode, link.xdp) {
        (_, None) => false,
        (Mode::Auto, Some(_)) => true,
        (Mode::Native, Some(xdp)) => xdp.native,
        (Mode::Generic, Some(xdp)) => !xdp.native,
    }
}

/// Puts the program under a pinned link: packets see the old one or the new one.
fn take_up(
    program: BorrowedFd<'_>,
    link: &Link,
    pins: &Pins,
    pinned: PinnedLink,
) -> anyhow::Result<Attached> {
    syscall::update_link(pinned.link.as_fd(), program)
        .with_context(|| format!("cannot replace the packet program on {}", link.name))?;
    let path = pins.link_path(link.index);
    if path != pinned.path {
        // From the directory of another layout.
        pin(&pinned.link, link, pins)?;
        pins::unpin(&pinned.path)?;
    }
    let native = link.xdp.is_some_and(|xdp| xdp.native);
    let warning = (!native).then(|| {
        format!(
            "the packet program runs in generic mode on {}, which is slower",
            link.name
        )
    });
    Ok(Attached {
        link: link.clone(),
        fd: pinned.link,
        native,
        warning,
    })
}

fn create(
    program: BorrowedFd<'_>,
    link: &Link,
    mode: Mode,
    pins: &Pins,
) -> anyhow::Result<Attached> {
    let name = &link.name;
    let native = |flags| syscall::create_link(program, link.index, flags);
    let refused = |error: &std::io::Error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            format!(
                "another XDP program has just been attached to the interface {name}: it is not replaced"
            )
        }
        _ => format!("cannot attach the packet program to {name}"),
    };
    let (fd, is_native, warning) = match mode {
        Mode::Generic => {
            let fd = native(XDP_FLAGS_SKB_MODE).map_err(|error| (refused(&error), error));
            (
                fd.map_err(|(sentence, error)| anyhow::Error::new(error).context(sentence))?,
                false,
                None,
            )
        }
        Mode::Native | Mode::Auto => match native(XDP_FLAGS_DRV_MODE) {
            Ok(fd) => (fd, true, None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                bail!(refused(&error));
            }
            Err(error) => {
                let why = format!(
                    "{name} does not take the packet program natively ({error}): its driver may lack XDP, or its MTU of {} may be too \
                     large for it",
                    link.mtu
                );
                if mode == Mode::Native {
                    bail!("{why}; mode = \"auto\" or \"generic\" works there too");
                }
                let fd = native(XDP_FLAGS_SKB_MODE).with_context(|| refused(&error))?;
                (
                    fd,
                    false,
                    Some(format!(
                        "{why}; it runs in generic mode there, which is slower"
                    )),
                )
            }
        },
    };
    pin(&fd, link, pins)?;
    Ok(Attached {
        link: link.clone(),
        fd,
        native: is_native,
        warning,
    })
}

fn pin(fd: &OwnedFd, link: &Link, pins: &Pins) -> anyhow::Result<()> {
    let path = pins.link_path(link.index);
    // The pin of an interface that is gone, whose index was given out again.
    pins::unpin(&path)?;
    syscall::pin(fd.as_fd(), &path).with_context(|| {
        format!(
            "cannot pin the program of {} at {}",
            link.name,
            path.display()
        )
    })
}

/// Tells the program where frames may leave.
///
/// # Errors
/// The kernel refused a map call.
pub fn allow_ways_out(devices: &Table<u32, [u32; 2]>, wanted: &[Link]) -> anyhow::Result<()> {
    ensure!(
        wanted.len() <= devices.capacity() as usize,
        "{} interfaces do not fit: the table of ways out holds {}",
        wanted.len(),
        devices.capacity()
    );
    for link in wanted {
        devices
            .set(&link.index, &[link.index, 0])
            .with_context(|| format!("cannot add {} to the table of ways out", link.name))?;
    }
    Ok(())
}

/// Takes interfaces out of the table of ways out.
///
/// # Errors
/// The kernel refused a map call.
pub fn forbid_ways_out(
    devices: &Table<u32, [u32; 2]>,
    gone: impl Iterator<Item = u32>,
) -> anyhow::Result<()> {
    for index in gone {
        devices.delete(&index).context("cannot remove a way out")?;
    }
    Ok(())
}

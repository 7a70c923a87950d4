//! The packet program on interfaces: XDP links, pinned, one per interface.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, bail, ensure};
use balancer_common::settings::MAX_INTERFACES;

use super::{
    AttachedInterface, InterfaceError,
    pins::{self, PinnedLink, Pins},
    syscall,
    table::Table,
};
use crate::{
    model::Mode,
    netlink::{
        Netlink,
        link::{self, Link, Xdp},
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
    /// What `status` shows; nothing when the interface is gone or the program was taken off it.
    pub fn describe(&self) -> anyhow::Result<Option<AttachedInterface>> {
        let info = self.info()?;
        Ok((info.ifindex != 0).then(|| AttachedInterface {
            name: self.link.name.clone(),
            native: self.native,
            program_id: info.program,
        }))
    }

    /// Whether the interface is there and carries the program.
    pub fn stands(&self) -> anyhow::Result<bool> {
        Ok(self.info()?.ifindex != 0)
    }

    /// Goes on with the link that is pinned, where that was made anew.
    pub fn follow(&mut self, pinned: &mut Vec<PinnedLink>) {
        let position = pinned
            .iter()
            .position(|pinned| pinned.info.ifindex == self.link.index);
        if let Some(position) = position {
            self.fd = pinned.swap_remove(position).link;
        }
    }

    fn info(&self) -> anyhow::Result<syscall::LinkInfo> {
        syscall::link_info(self.fd.as_fd())
            .with_context(|| format!("cannot ask about the program on {}", self.link.name))
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
    let all = link::list(netlink)?;
    let find = |name: &String| {
        find(name, &all, pinned).map_err(|error| {
            anyhow::Error::from(InterfaceError {
                name: name.clone(),
                sentence: error.to_string(),
            })
        })
    };
    names.iter().map(find).collect()
}

/// Those of `names` that exist and can carry the program, and a sentence for each other.
///
/// # Errors
/// The kernel refused to list interfaces.
pub fn resolve_some(
    netlink: &mut Netlink,
    names: &[String],
    pinned: &[PinnedLink],
) -> anyhow::Result<(Vec<Link>, Vec<String>)> {
    let all = link::list(netlink)?;
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        match find(name, &all, pinned) {
            Ok(link) => found.push(link),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    Ok((found, problems))
}

fn find(name: &str, all: &[Link], pinned: &[PinnedLink]) -> anyhow::Result<Link> {
    let Some(link) = all.iter().find(|link| link.name == name) else {
        bail!("the interface {name} does not exist: see `ip link` for the names there are");
    };
    ensure!(
        link.index < MAX_INTERFACES,
        "the interface {name} has the index {}, and only indices below {MAX_INTERFACES} fit the table: create the interface anew \
         after a reboot",
        link.index
    );
    ensure!(
        link.mac.is_some(),
        "the interface {name} is not an Ethernet interface: the packet program needs one"
    );
    let ours = |xdp: &Xdp| {
        let mut infos = pinned.iter().map(|pinned| pinned.info);
        infos.any(|info| (info.ifindex, info.program) == (link.index, xdp.program))
    };
    if let Some(xdp) = link.xdp.filter(|xdp| !ours(xdp)) {
        bail!(
            "the interface {name} carries another XDP program (id {}): it is not replaced; detach it first (`ip link set dev {name} \
             xdp off`, or stop what attached it)",
            xdp.program
        );
    }
    Ok(link.clone())
}

/// Puts `program` on the interfaces `wanted`, taking up links that are pinned, and takes it off all others.
///
/// # Errors
/// An interface could not be attached; all are as they were.
pub fn attach(
    program: BorrowedFd<'_>,
    wanted: &[Link],
    mode: Mode,
    pins: &Pins,
    pinned: Vec<PinnedLink>,
) -> anyhow::Result<Vec<Attached>> {
    let mut pinned = by_interface(pinned)?;
    let mut done: Vec<(Attached, Before)> = Vec::new();
    for link in wanted {
        match bring(program, link, mode, pins, pinned.remove(&link.index)) {
            Ok(step) => done.push(step),
            Err(error) => {
                for (attached, before) in done.into_iter().rev() {
                    undo(attached, before, pins);
                }
                return Err(error);
            }
        }
    }
    // Last, so that after a failure the interfaces that were attached before still are.
    for leftover in pinned.into_values() {
        remove(leftover)?;
    }
    Ok(done.into_iter().map(|(attached, _)| attached).collect())
}

/// As [`attach`], for each interface on its own: with a sentence for each that could not be attached.
///
/// # Errors
/// The program could not be taken off another interface.
pub fn attach_some(
    program: BorrowedFd<'_>,
    wanted: &[Link],
    mode: Mode,
    pins: &Pins,
    pinned: Vec<PinnedLink>,
) -> anyhow::Result<(Vec<Attached>, Vec<String>)> {
    let mut pinned = by_interface(pinned)?;
    let mut attached = Vec::new();
    let mut problems = Vec::new();
    for link in wanted {
        match bring(program, link, mode, pins, pinned.remove(&link.index)) {
            Ok((done, _)) => attached.push(done),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    for leftover in pinned.into_values() {
        remove(leftover)?;
    }
    Ok((attached, problems))
}

/// Pinned links by their interface's index. Pins without one go.
fn by_interface(pinned: Vec<PinnedLink>) -> anyhow::Result<BTreeMap<u32, PinnedLink>> {
    let mut links = BTreeMap::new();
    for pinned in pinned {
        if pinned.info.ifindex == 0 {
            pins::unpin(&pinned.path)?;
        } else if let Some(same) = links.insert(pinned.info.ifindex, pinned) {
            // An interface has one link; this is a second pin of it, in the directory of another layout.
            pins::unpin(&same.path)?;
        }
    }
    Ok(links)
}

/// What an interface carried before, so that it can be put back.
#[derive(Debug)]
enum Before {
    /// Nothing of ours.
    Nothing,
    /// This program, on the link that is there now.
    Program(OwnedFd),
    /// This program in the other mode, on a link that is gone.
    OtherMode { program: OwnedFd, native: bool },
}

/// Puts the program on one interface.
///
/// # Errors
/// It could not be attached; what the interface carried before is back.
fn bring(
    program: BorrowedFd<'_>,
    link: &Link,
    mode: Mode,
    pins: &Pins,
    pinned: Option<PinnedLink>,
) -> anyhow::Result<(Attached, Before)> {
    let Some(pinned) = pinned else {
        return Ok((create(program, link, mode, pins)?, Before::Nothing));
    };
    let old = syscall::program(pinned.info.program)
        .with_context(|| format!("cannot open the packet program on {}", link.name))?;
    if fits(link, mode) {
        let attached = take_up(program, link, mode, pins, pinned)?;
        return Ok((attached, Before::Program(old)));
    }
    // Of another mode: the kernel takes one program at a time.
    let before = Before::OtherMode {
        program: old,
        native: link.xdp.is_some_and(|xdp| xdp.native),
    };
    syscall::detach_link(pinned.link.as_fd())
        .with_context(|| format!("cannot take the packet program off {}", link.name))?;
    match create(program, link, mode, pins) {
        Ok(attached) => Ok((attached, before)),
        Err(error) => {
            put_back(link, before, pins);
            Err(error)
        }
    }
}

/// Takes back what [`bring`] has done.
fn undo(attached: Attached, before: Before, pins: &Pins) {
    let Attached { link, fd, .. } = attached;
    let result = match &before {
        Before::Program(program) => syscall::update_link(fd.as_fd(), program.as_fd()),
        Before::Nothing | Before::OtherMode { .. } => syscall::detach_link(fd.as_fd()),
    };
    if let Err(error) = result {
        tracing::error!(%error, interface = %link.name, "the packet program that ran before cannot be put back");
    }
    if !matches!(before, Before::Program(_))
        && let Err(error) = pins::unpin(&pins.link_path(link.index))
    {
        tracing::error!("{error:#}");
    }
    put_back(&link, before, pins);
}

/// Makes the link anew that another mode has replaced.
fn put_back(link: &Link, before: Before, pins: &Pins) {
    let Before::OtherMode { program, native } = before else {
        return;
    };
    let flag = if native {
        XDP_FLAGS_DRV_MODE
    } else {
        XDP_FLAGS_SKB_MODE
    };
    let back = syscall::create_link(program.as_fd(), link.index, flag)
        .context("the packet program that ran before cannot be put back")
        .and_then(|fd| pin(&fd, link, pins));
    if let Err(error) = back {
        tracing::error!(interface = %link.name, "{error:#}");
    }
}

/// Takes the program off an interface.
fn remove(pinned: PinnedLink) -> anyhow::Result<()> {
    // Explicitly: this daemon may hold the link a second time.
    syscall::detach_link(pinned.link.as_fd())
        .context("cannot take the packet program off an interface")?;
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
    mode: Mode,
    pins: &Pins,
    pinned: PinnedLink,
) -> anyhow::Result<Attached> {
    // From the directory of another layout, which goes with all its pins in the end.
    if pins.link_path(link.index) != pinned.path {
        pin(&pinned.link, link, pins)?;
    }
    syscall::update_link(pinned.link.as_fd(), program)
        .with_context(|| format!("cannot replace the packet program on {}", link.name))?;
    let native = link.xdp.is_some_and(|xdp| xdp.native);
    let warning = (!native && mode == Mode::Auto).then(|| {
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

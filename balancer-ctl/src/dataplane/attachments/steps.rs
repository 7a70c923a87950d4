//! Single steps of an attachment: the program is attached to one interface after the other, and each step can be undone.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::Context;

use super::AttachRequest;
use crate::{
    dataplane::{
        attach::{self, Attached, Hook},
        pins::{self, PinnedLink, Pins},
        syscall,
    },
    netlink::link::Link,
};

/// Pinned links by interface index. Links whose interface is gone are unpinned.
pub fn by_interface(pinned: Vec<PinnedLink>) -> anyhow::Result<BTreeMap<u32, PinnedLink>> {
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

/// What an interface carried before, for the rollback.
#[derive(Debug)]
pub enum Previous {
    /// No program of ours.
    Nothing,
    /// This program, on the link that was reused.
    Program(OwnedFd),
    /// This program in the other hook, on a link that was detached.
    OtherHook { program: OwnedFd, hook: Hook },
}

pub type AttachStep = (Attached, Previous);

/// Attaches the program to all of these interfaces, or to none.
///
/// # Errors
/// One could not be attached; all are as they were before.
pub fn attach_each(
    request: &AttachRequest<'_>,
    links: &[Link],
    hook: Hook,
    pinned: &mut BTreeMap<u32, PinnedLink>,
) -> anyhow::Result<Vec<AttachStep>> {
    let mut steps = Vec::new();
    for link in links {
        let old = pinned.remove(&link.index);
        match attach_one(request.program, link, hook, request.pins, old) {
            Ok(step) => steps.push(step),
            Err(error) => {
                undo_all(steps, request.pins);
                return Err(error);
            }
        }
    }
    Ok(steps)
}

/// Attaches the program to one interface.
///
/// # Errors
/// It could not be attached; the interface carries what it carried before.
pub fn attach_one(
    program: BorrowedFd<'_>,
    link: &Link,
    hook: Hook,
    pins: &Pins,
    pinned: Option<PinnedLink>,
) -> anyhow::Result<AttachStep> {
    let Some(pinned) = pinned else {
        return Ok((
            attach::create(program, link, hook, pins)?,
            Previous::Nothing,
        ));
    };
    let old = syscall::open_program(pinned.info.program_id)
        .with_context(|| format!("cannot open the packet program on {}", link.name))?;
    let runs_in = link.xdp.map(Hook::of);
    if runs_in == Some(hook) {
        let attached = attach::replace_program(program, link, hook, pins, pinned)?;
        return Ok((attached, Previous::Program(old)));
    }
    // It runs in the other hook, and the kernel allows a program in one hook at a time.
    let before = match runs_in {
        Some(hook) => Previous::OtherHook { program: old, hook },
        None => Previous::Nothing,
    };
    syscall::detach_link(pinned.link.as_fd())
        .with_context(|| format!("cannot take the packet program off {}", link.name))?;
    match attach::create(program, link, hook, pins) {
        Ok(attached) => Ok((attached, before)),
        Err(error) => {
            restore_link(link, before, pins);
            Err(error)
        }
    }
}

pub fn undo_all(steps: Vec<AttachStep>, pins: &Pins) {
    for (attached, before) in steps.into_iter().rev() {
        undo(attached, before, pins);
    }
}

/// Undoes one step of [`attach_each`].
fn undo(attached: Attached, before: Previous, pins: &Pins) {
    let Attached { link, fd, .. } = attached;
    let result = match &before {
        Previous::Program(program) => syscall::update_link(fd.as_fd(), program.as_fd()),
        Previous::Nothing | Previous::OtherHook { .. } => syscall::detach_link(fd.as_fd()),
    };
    if let Err(error) = result {
        tracing::error!(%error, interface = %link.name, "the packet program that ran before cannot be put back");
    }
    if !matches!(before, Previous::Program(_))
        && let Err(error) = pins::unpin(&pins.link_path(link.index))
    {
        tracing::error!("{error:#}");
    }
    restore_link(&link, before, pins);
}

/// Creates the link in the previous hook again.
fn restore_link(link: &Link, before: Previous, pins: &Pins) {
    let Previous::OtherHook { program, hook } = before else {
        return;
    };
    let back = attach::create(program.as_fd(), link, hook, pins)
        .context("the packet program that ran before cannot be put back");
    if let Err(error) = back {
        tracing::error!(interface = %link.name, "{error:#}");
    }
}

/// Detaches the program from these interfaces.
pub fn detach_all(pinned: BTreeMap<u32, PinnedLink>) -> anyhow::Result<()> {
    for pinned in pinned.into_values() {
        // An explicit detach, since this daemon may hold a second descriptor of the link.
        syscall::detach_link(pinned.link.as_fd())
            .context("cannot take the packet program off an interface")?;
        pins::unpin(&pinned.path)?;
    }
    Ok(())
}

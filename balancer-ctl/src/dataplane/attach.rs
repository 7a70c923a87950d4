//! Attaches the packet program to one interface, and keeps the table of redirect targets.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, bail, ensure};
use balancer_common::settings::MAX_INTERFACES;

use super::{
    AttachedInterface, InterfaceError, device,
    map::Map,
    pins::{self, PinnedLink, Pins},
    syscall,
};
use crate::{
    netlink::link::{Link, Xdp},
    os::paths::Instance,
};

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The hook in which the kernel runs the program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the generic hook.
    Generic,
}

impl Hook {
    /// The hook of an attached program.
    pub const fn of(xdp: Xdp) -> Self {
        if xdp.native {
            Self::Native
        } else {
            Self::Generic
        }
    }

    const fn flag(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// An interface that the program runs on.
#[derive(Debug)]
pub struct Attached {
    /// The interface.
    pub link: Link,
    /// The XDP link.
    pub(super) fd: OwnedFd,
    /// The hook in which it runs.
    pub hook: Hook,
}

impl Attached {
    /// What `status` shows; `None` when the interface is gone or the program was detached from it.
    pub fn describe(&self) -> anyhow::Result<Option<AttachedInterface>> {
        let info = self.info()?;
        Ok((info.ifindex != 0).then(|| AttachedInterface {
            name: self.link.name.clone(),
            native: self.hook == Hook::Native,
            program_id: info.program_id,
        }))
    }

    /// Whether the interface still exists and carries the program.
    pub fn is_attached(&self) -> anyhow::Result<bool> {
        Ok(self.info()?.ifindex != 0)
    }

    /// Uses the link from `pinned` instead, in case it was created anew.
    pub fn refresh_link(&mut self, pinned: &mut Vec<PinnedLink>) {
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

/// Finds the interfaces `names` among `all`, and checks that each can carry the program and carries no other one.
///
/// # Errors
/// A sentence that names the interface.
pub fn resolve(names: &[String], all: &[Link], pinned: &[PinnedLink]) -> anyhow::Result<Vec<Link>> {
    let find = |name: &String| {
        resolve_one(name, all, pinned).map_err(|error| {
            anyhow::Error::from(InterfaceError {
                name: name.clone(),
                sentence: error.to_string(),
            })
        })
    };
    names.iter().map(find).collect()
}

/// As [`resolve`], but returns the interfaces that pass, and one sentence for each other.
pub fn resolve_present(
    names: &[String],
    all: &[Link],
    pinned: &[PinnedLink],
) -> (Vec<Link>, Vec<String>) {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        match resolve_one(name, all, pinned) {
            Ok(link) => found.push(link),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    (found, problems)
}

fn resolve_one(name: &str, all: &[Link], pinned: &[PinnedLink]) -> anyhow::Result<Link> {
    let Some(link) = all.iter().find(|link| link.name == name) else {
        bail!("the interface {name} does not exist: see `ip link` for the names there are");
    };
    ensure!(
        link.index < MAX_INTERFACES,
        "the interface {name} has the index {}, and only indices below {MAX_INTERFACES} fit the table: create the interface anew \
         after a reboot",
        link.index
    );
    device::classify(link, all).map_err(anyhow::Error::msg)?;
    let ours = |xdp: &Xdp| {
        let mut infos = pinned.iter().map(|pinned| pinned.info);
        infos.any(|info| (info.ifindex, info.program_id) == (link.index, xdp.program_id))
    };
    if let Some(xdp) = link.xdp.filter(|xdp| !ours(xdp)) {
        if let Some(other) = pins::instance_on(link.index, xdp.program_id) {
            bail!(held_by(name, &other));
        }
        bail!(
            "the interface {name} carries another XDP program (id {}): it is not replaced; detach it first (`ip link set dev {name} \
             xdp off`, or stop what attached it)",
            xdp.program_id
        );
    }
    Ok(link.clone())
}

/// The refusal of an interface on which another instance of `balancerd` runs.
fn held_by(name: &str, other: &Instance) -> String {
    let (instance, option) = match other.name() {
        None => ("the default instance".to_owned(), String::new()),
        Some(other) => (
            format!("instance `{other}`"),
            format!("--instance {other} "),
        ),
    };
    format!(
        "the interface {name} carries the packet program of {instance} of balancerd: one instance has an interface; leave {name} to \
         it, or stop that instance and take its data plane down with `balancerd {option}--detach`"
    )
}

/// A driver did not accept the program natively.
#[derive(Debug)]
pub struct DriverRefusal {
    /// The interface.
    pub link: Link,
    /// The kernel's error.
    pub error: std::io::Error,
}

impl fmt::Display for DriverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, error } = self;
        let name = &link.name;
        write!(
            f,
            "{name} does not take the packet program natively ({error}): "
        )?;
        if link.kind.as_deref() == Some("bond") {
            return f.write_str("its mode may not allow XDP, or a slave's driver may lack it");
        }
        write!(
            f,
            "its driver may lack XDP, or its MTU of {} may be too large for it",
            link.mtu
        )
    }
}

impl std::error::Error for DriverRefusal {}

/// Attaches the program to an interface that carries none, and pins the link.
///
/// # Errors
/// The kernel refused; a [`DriverRefusal`] where that may be because the hook is native.
pub fn create(
    program: BorrowedFd<'_>,
    link: &Link,
    hook: Hook,
    pins: &Pins,
) -> anyhow::Result<Attached> {
    let name = &link.name;
    let fd = match syscall::create_link(program, link.index, hook.flag()) {
        Ok(fd) => fd,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
            return Err(anyhow::Error::new(error).context(format!(
                "another XDP program has just been attached to the interface {name}: it is not replaced"
            )));
        }
        Err(error) if hook == Hook::Native && error.raw_os_error() != Some(libc::ENODEV) => {
            bail!(DriverRefusal {
                link: link.clone(),
                error
            });
        }
        Err(error) => {
            let sentence = format!("cannot attach the packet program to {name}");
            return Err(anyhow::Error::new(error).context(sentence));
        }
    };
    pin(&fd, link, pins)?;
    Ok(Attached {
        link: link.clone(),
        fd,
        hook,
    })
}

/// Replaces the program of a pinned link: each packet sees either the old one or the new one.
///
/// # Errors
/// The kernel refused.
pub fn replace_program(
    program: BorrowedFd<'_>,
    link: &Link,
    hook: Hook,
    pins: &Pins,
    pinned: PinnedLink,
) -> anyhow::Result<Attached> {
    // The pin may be in another layout's directory, which is removed at the end.
    if pins.link_path(link.index) != pinned.path {
        pin(&pinned.link, link, pins)?;
    }
    syscall::update_link(pinned.link.as_fd(), program)
        .with_context(|| format!("cannot replace the packet program on {}", link.name))?;
    Ok(Attached {
        link: link.clone(),
        fd: pinned.link,
        hook,
    })
}

/// Pins a link at the path for its interface.
///
/// # Errors
/// The kernel refused.
pub fn pin(fd: &OwnedFd, link: &Link, pins: &Pins) -> anyhow::Result<()> {
    let path = pins.link_path(link.index);
    // A pin may be left of an interface that is gone and whose index was given out again.
    pins::unpin(&path)?;
    syscall::pin(fd.as_fd(), &path).with_context(|| {
        format!(
            "cannot pin the program of {} at {}",
            link.name,
            path.display()
        )
    })
}

/// Adds interfaces to the map `DEVICES`, so that frames can be redirected to them.
///
/// # Errors
/// The kernel refused a map call.
pub fn add_redirect_targets(devices: &Map<u32, [u32; 2]>, wanted: &[Link]) -> anyhow::Result<()> {
    ensure!(
        wanted.len() <= devices.capacity() as usize,
        "{} interfaces do not fit: the table of redirect targets holds {}",
        wanted.len(),
        devices.capacity()
    );
    for link in wanted {
        devices
            .set(&link.index, &[link.index, 0])
            .with_context(|| {
                format!("cannot add {} to the table of redirect targets", link.name)
            })?;
    }
    Ok(())
}

/// Removes interfaces from the map `DEVICES`.
///
/// # Errors
/// The kernel refused a map call.
pub fn remove_redirect_targets(
    devices: &Map<u32, [u32; 2]>,
    gone: impl Iterator<Item = u32>,
) -> anyhow::Result<()> {
    for index in gone {
        devices
            .delete(&index)
            .context("cannot remove a redirect target")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_of_another_instance_is_refused_with_its_name() {
        assert_eq!(
            held_by("eth0", &"blue".parse().unwrap()),
            "the interface eth0 carries the packet program of instance `blue` of balancerd: one instance has an interface; leave eth0 \
             to it, or stop that instance and take its data plane down with `balancerd --instance blue --detach`"
        );
        assert_eq!(
            held_by("eth0", &Instance::default()),
            "the interface eth0 carries the packet program of the default instance of balancerd: one instance has an interface; leave \
             eth0 to it, or stop that instance and take its data plane down with `balancerd --detach`"
        );
    }

    #[test]
    fn a_refusal_says_what_may_be_wrong() {
        let link = |name: &str, kind: Option<&str>| Link {
            name: name.into(),
            kind: kind.map(str::to_owned),
            mtu: 9000,
            ..Link::default()
        };
        let refusal = |link| {
            let error = std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            DriverRefusal { link, error }.to_string()
        };
        assert_eq!(
            refusal(link("eth0", None)),
            "eth0 does not take the packet program natively (Operation not supported (os error 95)): its driver may lack XDP, or its \
             MTU of 9000 may be too large for it"
        );
        assert_eq!(
            refusal(link("bond0", Some("bond"))),
            "bond0 does not take the packet program natively (Operation not supported (os error 95)): its mode may not allow XDP, or \
             a slave's driver may lack it"
        );
    }
}

//! An interface that the packet program runs on, and the table of ways out.

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
use crate::netlink::link::{Link, Xdp};

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where the kernel runs the program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the generic hook.
    Generic,
}

impl Hook {
    /// The hook of a program that is attached.
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
    /// What is known of it.
    pub link: Link,
    /// The XDP link.
    pub(super) fd: OwnedFd,
    /// Where it runs there.
    pub hook: Hook,
}

impl Attached {
    /// What `status` shows; nothing when the interface is gone or the program was taken off it.
    pub fn describe(&self) -> anyhow::Result<Option<AttachedInterface>> {
        let info = self.info()?;
        Ok((info.ifindex != 0).then(|| AttachedInterface {
            name: self.link.name.clone(),
            native: self.hook == Hook::Native,
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

/// The interfaces called `names`, checked: each of them is among `all`, can carry the program, and carries nobody else's.
///
/// # Errors
/// A sentence that names the interface.
pub fn resolve(names: &[String], all: &[Link], pinned: &[PinnedLink]) -> anyhow::Result<Vec<Link>> {
    let find = |name: &String| {
        find(name, all, pinned).map_err(|error| {
            anyhow::Error::from(InterfaceError {
                name: name.clone(),
                sentence: error.to_string(),
            })
        })
    };
    names.iter().map(find).collect()
}

/// Those of `names` that are among `all` and can carry the program, and a sentence for each other.
pub fn resolve_some(
    names: &[String],
    all: &[Link],
    pinned: &[PinnedLink],
) -> (Vec<Link>, Vec<String>) {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        match find(name, all, pinned) {
            Ok(link) => found.push(link),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    (found, problems)
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
    device::judge(link, all).map_err(anyhow::Error::msg)?;
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

/// Why a driver does not take the program.
#[derive(Debug)]
pub struct Refusal {
    /// Its interface.
    pub link: Link,
    /// The kernel's error.
    pub error: std::io::Error,
}

impl fmt::Display for Refusal {
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

impl std::error::Error for Refusal {}

/// Attaches the program to an interface that carries none.
///
/// # Errors
/// The kernel refused; a [`Refusal`] where that may be because the hook is native.
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
            bail!(Refusal {
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

/// Puts the program under a pinned link: packets see the old one or the new one.
///
/// # Errors
/// The kernel refused.
pub fn take_up(
    program: BorrowedFd<'_>,
    link: &Link,
    hook: Hook,
    pins: &Pins,
    pinned: PinnedLink,
) -> anyhow::Result<Attached> {
    // From the directory of another layout, which goes with all its pins in the end.
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

/// Pins a link at its interface's place.
///
/// # Errors
/// The kernel refused.
pub fn pin(fd: &OwnedFd, link: &Link, pins: &Pins) -> anyhow::Result<()> {
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
pub fn allow_ways_out(devices: &Map<u32, [u32; 2]>, wanted: &[Link]) -> anyhow::Result<()> {
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
    devices: &Map<u32, [u32; 2]>,
    gone: impl Iterator<Item = u32>,
) -> anyhow::Result<()> {
    for index in gone {
        devices.delete(&index).context("cannot remove a way out")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Refusal { link, error }.to_string()
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

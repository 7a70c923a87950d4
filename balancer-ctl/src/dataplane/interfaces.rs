//! The interfaces that the packet program runs on: attached, followed as they come, go and change, and what their host needs
//! for that.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    AttachedInterface,
    attach::{self, Attached},
    kernel::now,
    known::{InterfaceEntry, InterfaceTable},
    map::Map,
    pins::Pins,
    placement::{self, Fallback, NativeTry, Place, Placed},
    routes::Routes,
};
use crate::{
    host::Host,
    model::{DataplaneSettings, Mode},
    netlink::{
        Netlink, layers,
        link::{self, Link},
    },
};

/// How often the host is examined: whoever has run a command that a warning names sees it go.
const HOST_EVERY: Duration = Duration::from_secs(30);

/// The interfaces of the packet program.
#[derive(Debug)]
pub struct Interfaces {
    pins: Pins,
    known: InterfaceTable,
    /// Interfaces that packets may leave by: `struct bpf_devmap_val`, interface index and the descriptor of no program.
    devices: Map<u32, [u32; 2]>,
    routes: Routes,
    attached: Vec<Attached>,
    /// Why the program runs generically on all of them though the mode does not ask for it.
    fallback: Fallback,
    /// Nobody has configured it since it was opened.
    is_opened: bool,
    /// Why configured interfaces do not carry the program: a sentence each.
    problems: Vec<String>,
    /// Interfaces have changed and were not followed yet.
    have_changed: bool,
    /// Whether each interface that carries the program has a carrier, when that was last looked at.
    carriers: BTreeMap<u32, bool>,
    host: Host,
    host_due: Instant,
}

/// With what interfaces are attached.
#[derive(Debug)]
pub struct Means<'a> {
    /// Asks the kernel.
    pub netlink: &'a mut Netlink,
    /// The packet program.
    pub program: BorrowedFd<'a>,
}

/// What a look at the interfaces has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The program runs on others than before.
    pub placed: bool,
    /// One of them has another carrier.
    pub carriers: bool,
}

impl Interfaces {
    /// No interface yet, but for those that maps pinned in `directory` know.
    ///
    /// # Errors
    /// A map is missing, or the kernel refused a call.
    pub fn open(
        directory: &Path,
        pins: Pins,
        routes: Routes,
        instance: Option<&str>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            pins,
            known: InterfaceTable::open(directory)?,
            devices: Map::open(directory, "DEVICES")?,
            routes,
            attached: Vec::new(),
            fallback: Fallback::default(),
            is_opened: true,
            problems: Vec::new(),
            have_changed: false,
            carriers: BTreeMap::new(),
            host: Host::new(instance)?,
            host_due: now(),
        })
    }

    /// The kernel's id of the map by which frames are redirected.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn redirect_map(&self) -> anyhow::Result<u32> {
        self.devices.id().context("cannot ask for a map's id")
    }

    /// Those that carry the program.
    pub fn links(&self) -> impl ExactSizeIterator<Item = &Link> {
        self.attached.iter().map(|attached| &attached.link)
    }

    /// Whether this is the first configuration since it was opened.
    pub const fn take_opened(&mut self) -> bool {
        std::mem::replace(&mut self.is_opened, false)
    }

    /// Whether every configured interface carries the program.
    ///
    /// # Errors
    /// The kernel refused a question.
    pub fn all_attached(&self) -> anyhow::Result<bool> {
        for attached in &self.attached {
            if !attached.stands()? {
                return Ok(false);
            }
        }
        Ok(self.problems.is_empty())
    }

    /// Whether the program runs generically for a reason that is gone.
    ///
    /// # Errors
    /// The kernel refused a question.
    pub fn native_is_due(&self, netlink: &mut Netlink, mode: Mode) -> anyhow::Result<bool> {
        let all = link::list(netlink)?;
        let links: Vec<_> = self.links().cloned().collect();
        placement::native_is_due(netlink, mode, &links, &all, &self.fallback)
    }

    /// Brings the program to the interfaces of `settings` and off all others; after an error all is as it was.
    ///
    /// # Errors
    /// An interface is missing, cannot carry the program or carries another; or the kernel refused a call.
    pub fn attach(
        &mut self,
        means: &mut Means<'_>,
        settings: &DataplaneSettings,
        native: NativeTry,
    ) -> anyhow::Result<()> {
        let pinned = self.pins.links()?;
        let all = link::list(means.netlink)?;
        let links = attach::resolve(&settings.interfaces, &all, &pinned)?;
        let before = self.known.all().clone();
        let fallback = self.fallback.clone();
        let placed = self.place(means, &links, &all, settings.mode, |place| {
            placement::attach(place, pinned, &fallback, native)
        });
        let placed = match placed {
            Ok(placed) => placed,
            Err(error) => {
                if let Err(error) = self.bring_back(before, &links) {
                    tracing::error!("what ran before is not wholly back: {error:#}");
                }
                return Err(error);
            }
        };
        self.take(placed);
        self.forget_others(&before, &links, &all)?;
        self.examine_host(means.netlink)
    }

    /// Goes on with what the program runs on now.
    fn take(&mut self, placed: Placed) {
        let Placed {
            attached,
            fallback,
            problems,
        } = placed;
        let news = problems.iter().filter(|one| !self.problems.contains(one));
        let news = news.chain(&fallback.reason);
        for sentence in news.filter(|one| self.fallback.reason.as_ref() != Some(one)) {
            // At a start the daemon tells everything that limits it.
            if !self.is_opened {
                tracing::warn!("{sentence}");
            }
        }
        self.attached = attached;
        self.fallback = fallback;
        self.problems = problems;
    }

    /// Looks for what will not work on the interfaces that carry the program.
    ///
    /// # Errors
    /// The kernel refused a question.
    pub fn examine_host(&mut self, netlink: &mut Netlink) -> anyhow::Result<()> {
        // Also after an error, which is not to be met each second.
        self.host_due = now() + HOST_EVERY;
        let links: Vec<_> = self.links().cloned().collect();
        self.host.examine(netlink, &links)
    }

    /// Prepares these interfaces, beside those that are there, and attaches.
    fn place<T>(
        &mut self,
        means: &mut Means<'_>,
        links: &[Link],
        all: &[Link],
        mode: Mode,
        attach: impl FnOnce(&mut Place<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let names: Vec<_> = self.links().chain(links).cloned().collect();
        self.host.prepare(&names)?;
        attach::allow_ways_out(&self.devices, links)?;
        // Frames are told apart by the interface's address, so that stands before the program runs there; and
        // interfaces that go stay known until the program is off them.
        self.known.add(ends(links, all))?;
        self.routes.bump_all();
        attach(&mut Place {
            netlink: means.netlink,
            program: means.program.as_fd(),
            pins: &self.pins,
            mode,
            links,
            all,
        })
    }

    /// Nothing but these interfaces is known any more.
    fn forget_others(
        &mut self,
        before: &BTreeMap<u32, InterfaceEntry>,
        links: &[Link],
        all: &[Link],
    ) -> anyhow::Result<()> {
        self.known.configure(ends(links, all))?;
        self.routes.bump_all();
        let gone = before
            .keys()
            .copied()
            .filter(|index| !links.iter().any(|link| link.index == *index));
        attach::forbid_ways_out(&self.devices, gone)?;
        self.host.prepare(links)
    }

    /// After a failed attachment to `links`: what was known `before` is known again.
    fn bring_back(
        &mut self,
        before: BTreeMap<u32, InterfaceEntry>,
        links: &[Link],
    ) -> anyhow::Result<()> {
        let mut pinned = self.pins.links()?;
        for attached in &mut self.attached {
            attached.follow(&mut pinned);
        }
        let fresh = links.iter().map(|link| link.index);
        let fresh = fresh.filter(|index| !before.contains_key(index));
        attach::forbid_ways_out(&self.devices, fresh)?;
        self.known.configure(before)?;
        self.routes.bump_all();
        if self.attached.is_empty() {
            // At a start; what ran before needs what it needed.
            return Ok(());
        }
        let links: Vec<_> = self.links().cloned().collect();
        self.host.prepare(&links)
    }

    /// Follows interfaces that have changed, where `changed` says so or not all carry the program, and examines the host when that
    /// is due.
    ///
    /// # Errors
    /// The kernel refused a call; the next call tries again.
    pub fn run_maintenance(
        &mut self,
        means: &mut Means<'_>,
        settings: &DataplaneSettings,
        changed: bool,
    ) -> anyhow::Result<Followed> {
        self.have_changed |= changed;
        let mut followed = Followed {
            placed: false,
            carriers: false,
        };
        if self.have_changed || !self.all_attached()? {
            followed.placed = self.follow(means, settings)?;
            followed.carriers = self.follow_carriers(means.netlink)?;
            self.have_changed = false;
        }
        if now() >= self.host_due {
            self.examine_host(means.netlink)?;
        }
        Ok(followed)
    }

    /// Whether any interface that carries the program has another carrier than when that was last asked.
    fn follow_carriers(&mut self, netlink: &mut Netlink) -> anyhow::Result<bool> {
        let all = link::list(netlink)?;
        let carriers: BTreeMap<_, _> = all
            .iter()
            .filter(|link| self.attached.iter().any(|a| a.link.index == link.index))
            .map(|link| (link.index, link.running))
            .collect();
        let changed = carriers != self.carriers;
        self.carriers = carriers;
        Ok(changed)
    }

    /// Interfaces came, went or changed, or do not all carry the program. Each is followed on its own; those that cannot be are
    /// tried again at the next call. Whether the program runs on others now.
    fn follow(
        &mut self,
        means: &mut Means<'_>,
        settings: &DataplaneSettings,
    ) -> anyhow::Result<bool> {
        let pinned = self.pins.links()?;
        let all = link::list(means.netlink)?;
        let (links, unfit) = attach::resolve_some(&settings.interfaces, &all, &pinned);
        let identity = |link: &Link| (link.index, link.mac);
        let before = self.known.all().clone();
        let mut followed = links.iter().map(identity).eq(self.links().map(identity))
            && before == ends(&links, &all);
        for attached in &self.attached {
            followed &= attached.stands()?;
        }
        if followed {
            let problems = unfit;
            for problem in &problems {
                if !self.problems.contains(problem) {
                    tracing::warn!("{problem}");
                }
            }
            self.problems = problems;
        } else {
            let fallback = self.fallback.clone();
            let mut placed = self.place(means, &links, &all, settings.mode, |place| {
                placement::follow(place, pinned, &fallback)
            })?;
            placed.problems.splice(0..0, unfit);
            self.take(placed);
            self.forget_others(&before, &links, &all)?;
        }
        if self.have_changed || !followed {
            self.examine_host(means.netlink)?;
        }
        Ok(!followed)
    }

    /// Puts staged maps in the place of those that are pinned.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn adopt_staged(&self) -> anyhow::Result<()> {
        self.pins.adopt_staged()
    }

    /// Removes what other layouts have pinned.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove_other_layouts(&self) -> anyhow::Result<()> {
        self.pins.remove_other_layouts()
    }

    /// How the program is attached, and what will not work as it stands: a sentence each.
    ///
    /// # Errors
    /// The kernel refused a question.
    pub fn describe(&self) -> anyhow::Result<(Vec<AttachedInterface>, Vec<String>)> {
        let mut warnings = self.problems.clone();
        let mut interfaces = Vec::new();
        for attached in &self.attached {
            match attached.describe()? {
                Some(interface) => {
                    interfaces.push(interface);
                }
                None => warnings.push(format!(
                    "the interface {} does not carry the packet program any more: it is attached again when that is possible",
                    attached.link.name
                )),
            }
        }
        warnings.extend(self.fallback.reason.clone());
        warnings.extend(self.host.warnings().iter().cloned());
        Ok((interfaces, warnings))
    }

    /// The name of one that carries the program, or its index in words.
    pub fn name(&self, index: u32) -> String {
        let known = self.links().find(|link| link.index == index);
        known.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }
}

/// The interfaces as the program is to know them. A bond runs it on its slaves.
fn ends(links: &[Link], all: &[Link]) -> BTreeMap<u32, InterfaceEntry> {
    let mut ends = BTreeMap::new();
    for link in links {
        for receiver in layers::slaves(link, all).chain([link]) {
            let end = InterfaceEntry {
                mac: link.mac.unwrap_or_default(),
                index: link.index,
                redirects: receiver.kind.as_deref() == Some("veth"),
            };
            ends.insert(receiver.index, end);
        }
    }
    ends
}

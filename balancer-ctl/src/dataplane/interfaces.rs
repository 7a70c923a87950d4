//! The interfaces that the packet program runs on: attached, kept up to date as interfaces appear, go and change, with
//! the host settings that they need.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    AttachedInterface,
    attach::{self, Attached},
    attachments::{self, AttachRequest, AttachResult, GenericFallback, RetryNative},
    interface_table::{InterfaceEntry, InterfaceTable},
    last_result::LastResult,
    map::Map,
    pins::Pins,
    route_versions::RouteVersionTable,
};
use crate::{
    host::Host,
    model::{DataplaneSettings, Mode},
    netlink::{
        Netlink, layers,
        link::{self, Link},
    },
    os::clock,
};

/// How often the host is examined, so that a warning goes after the operator has run the command that it names.
const HOST_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The interfaces of the packet program.
#[derive(Debug)]
pub struct Interfaces {
    pins: Pins,
    table: InterfaceTable,
    /// The redirect targets (`DEVICES`): `struct bpf_devmap_val`, that is interface index and program descriptor (0).
    devices: Map<u32, [u32; 2]>,
    routes: RouteVersionTable,
    attached: Vec<Attached>,
    /// Why the program runs generically on all of them in mode auto.
    fallback: GenericFallback,
    /// `configure` was not called yet.
    is_first_configure: bool,
    /// Why configured interfaces do not carry the program: one sentence each.
    problems: Vec<String>,
    /// Interfaces have changed, and the attachments do not reflect that yet.
    links_changed: bool,
    /// Whether each interface with the program had a carrier when last checked, by interface index.
    carriers: BTreeMap<u32, bool>,
    host: Host,
    next_host_check: Instant,
    last_host_check: LastResult,
}

/// What attaching needs.
#[derive(Debug)]
pub struct AttachContext<'a> {
    /// For queries to the kernel.
    pub netlink: &'a mut Netlink,
    /// The packet program.
    pub program: BorrowedFd<'a>,
}

/// What has changed about the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkChanges {
    /// The program was attached or detached.
    pub reattached: bool,
    /// An interface got or lost its carrier.
    pub carriers: bool,
}

impl Interfaces {
    /// Opens the maps pinned in `directory`; the program is not attached yet.
    ///
    /// # Errors
    /// A map is missing, or the kernel refused a call.
    pub fn open(
        directory: &Path,
        pins: Pins,
        routes: RouteVersionTable,
        instance: Option<&str>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            pins,
            table: InterfaceTable::open(directory)?,
            devices: Map::open(directory, "DEVICES")?,
            routes,
            attached: Vec::new(),
            fallback: GenericFallback::default(),
            is_first_configure: true,
            problems: Vec::new(),
            links_changed: false,
            carriers: BTreeMap::new(),
            host: Host::new(instance)?,
            next_host_check: clock::now(),
            last_host_check: LastResult::default(),
        })
    }

    /// The kernel's id of the map `DEVICES`, by which frames are redirected.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn redirect_map(&self) -> anyhow::Result<u32> {
        self.devices.id().context("cannot ask for a map's id")
    }

    /// The interfaces that carry the program.
    pub fn links(&self) -> impl ExactSizeIterator<Item = &Link> {
        self.attached.iter().map(|attached| &attached.link)
    }

    /// Whether this is the first call since [`Self::open`].
    pub const fn take_first_configure(&mut self) -> bool {
        std::mem::replace(&mut self.is_first_configure, false)
    }

    /// Whether every configured interface carries the program.
    ///
    /// # Errors
    /// The kernel refused a query.
    pub fn all_attached(&self) -> anyhow::Result<bool> {
        for attached in &self.attached {
            if !attached.is_attached()? {
                return Ok(false);
            }
        }
        Ok(self.problems.is_empty())
    }

    /// Whether the program runs generically for a reason that no longer holds.
    ///
    /// # Errors
    /// The kernel refused a query.
    pub fn native_is_due(&self, netlink: &mut Netlink, mode: Mode) -> anyhow::Result<bool> {
        let all = link::list(netlink)?;
        let links: Vec<_> = self.links().cloned().collect();
        attachments::native_is_due(netlink, mode, &links, &all, &self.fallback)
    }

    /// Attaches the program to the interfaces of `settings` and detaches it from all others; after an error all is as
    /// it was.
    ///
    /// # Errors
    /// An interface is missing, cannot carry the program or carries another; or the kernel refused a call.
    pub fn attach(
        &mut self,
        context: &mut AttachContext<'_>,
        settings: &DataplaneSettings,
        native: RetryNative,
    ) -> anyhow::Result<()> {
        let pinned = self.pins.links()?;
        let all = link::list(context.netlink)?;
        let links = attach::resolve(&settings.interfaces, &all, &pinned)?;
        let before = self.table.all().clone();
        let fallback = self.fallback.clone();
        let result = self.attach_with(context, &links, &all, settings.mode, |request| {
            attachments::attach(request, pinned, &fallback, native)
        });
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                if let Err(error) = self.roll_back(before, &links) {
                    tracing::error!(
                        "the data plane that ran before cannot be restored completely: {error:#}"
                    );
                }
                return Err(error);
            }
        };
        self.accept(result);
        self.forget_others(&before, &links, &all)?;
        self.examine_host(context.netlink)
    }

    /// Stores the result of an attachment, and logs new problems.
    fn accept(&mut self, result: AttachResult) {
        let AttachResult {
            attached,
            fallback,
            problems,
        } = result;
        let fresh = problems.iter().filter(|one| !self.problems.contains(one));
        let fresh = fresh.chain(&fallback.reason);
        for sentence in fresh.filter(|one| self.fallback.reason.as_ref() != Some(one)) {
            // At start the daemon logs all warnings itself.
            if !self.is_first_configure {
                tracing::warn!("{sentence}");
            }
        }
        self.attached = attached;
        self.fallback = fallback;
        self.problems = problems;
    }

    /// Looks for host settings that do not work with the interfaces that carry the program.
    ///
    /// # Errors
    /// The kernel refused a query.
    pub fn examine_host(&mut self, netlink: &mut Netlink) -> anyhow::Result<()> {
        // Set before the examination, so that an error does not repeat each second.
        self.next_host_check = clock::now() + HOST_CHECK_INTERVAL;
        let links: Vec<_> = self.links().cloned().collect();
        let result = self.host.examine(netlink, &links);
        self.last_host_check.store(&result);
        result
    }

    /// The result of the last examination: its error lasts until one succeeds.
    ///
    /// # Errors
    /// The kernel refused a query then.
    pub fn last_host_check(&self) -> anyhow::Result<()> {
        self.last_host_check.get()
    }

    /// As [`Host::leave_local_ports`].
    pub fn leave_local_ports(
        &mut self,
        ports: Option<RangeInclusive<u16>>,
    ) -> Option<anyhow::Result<()>> {
        self.host.leave_local_ports(ports)
    }

    /// Prepares the host and the maps for these interfaces beside the present ones, and calls `attach`.
    fn attach_with<T>(
        &mut self,
        context: &mut AttachContext<'_>,
        links: &[Link],
        all: &[Link],
        mode: Mode,
        attach: impl FnOnce(&mut AttachRequest<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let names: Vec<_> = self.links().chain(links).cloned().collect();
        self.host.prepare(&names)?;
        attach::add_redirect_targets(&self.devices, links)?;
        // The program needs an interface's MAC address, so entries are written before it is attached; interfaces that
        // go keep theirs until it is detached.
        self.table.add(entries_of(links, all))?;
        self.routes.bump_all();
        attach(&mut AttachRequest {
            netlink: context.netlink,
            program: context.program.as_fd(),
            pins: &self.pins,
            mode,
            links,
            all,
        })
    }

    /// Removes all other interfaces from the maps, and restores their host settings.
    fn forget_others(
        &mut self,
        before: &BTreeMap<u32, InterfaceEntry>,
        links: &[Link],
        all: &[Link],
    ) -> anyhow::Result<()> {
        self.table.configure(entries_of(links, all))?;
        self.routes.bump_all();
        let gone = before
            .keys()
            .copied()
            .filter(|index| !links.iter().any(|link| link.index == *index));
        attach::remove_redirect_targets(&self.devices, gone)?;
        self.host.prepare(links)
    }

    /// After a failed attachment to `links`: restores the entries `before`.
    fn roll_back(
        &mut self,
        before: BTreeMap<u32, InterfaceEntry>,
        links: &[Link],
    ) -> anyhow::Result<()> {
        let mut pinned = self.pins.links()?;
        for attached in &mut self.attached {
            attached.refresh_link(&mut pinned);
        }
        let fresh = links.iter().map(|link| link.index);
        let fresh = fresh.filter(|index| !before.contains_key(index));
        attach::remove_redirect_targets(&self.devices, fresh)?;
        self.table.configure(before)?;
        self.routes.bump_all();
        if self.attached.is_empty() {
            // At start: a data plane that an earlier daemon left keeps its host settings.
            return Ok(());
        }
        let links: Vec<_> = self.links().cloned().collect();
        self.host.prepare(&links)
    }

    /// Attaches and detaches after interfaces have changed (`changed`), or while not all carry the program; examines
    /// the host when that is due.
    ///
    /// # Errors
    /// The kernel refused a call; the next call tries again.
    pub fn run_maintenance(
        &mut self,
        context: &mut AttachContext<'_>,
        settings: &DataplaneSettings,
        changed: bool,
    ) -> anyhow::Result<LinkChanges> {
        self.links_changed |= changed;
        let mut changes = LinkChanges {
            reattached: false,
            carriers: false,
        };
        if self.links_changed || !self.all_attached()? {
            changes.reattached = self.follow_links(context, settings)?;
            changes.carriers = self.follow_carriers(context.netlink)?;
            self.links_changed = false;
        }
        if clock::now() >= self.next_host_check {
            // `last_host_check` tells of an error.
            let _ = self.examine_host(context.netlink);
        }
        Ok(changes)
    }

    /// Whether an interface that carries the program got or lost its carrier since the last call.
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

    /// Attaches to each configured interface that can carry the program; the others are tried again at the next call.
    /// Returns whether anything had to be attached or detached.
    fn follow_links(
        &mut self,
        context: &mut AttachContext<'_>,
        settings: &DataplaneSettings,
    ) -> anyhow::Result<bool> {
        let pinned = self.pins.links()?;
        let all = link::list(context.netlink)?;
        let (links, unfit) = attach::resolve_present(&settings.interfaces, &all, &pinned);
        let identity = |link: &Link| (link.index, link.mac);
        let before = self.table.all().clone();
        let mut followed = links.iter().map(identity).eq(self.links().map(identity))
            && before == entries_of(&links, &all);
        for attached in &self.attached {
            followed &= attached.is_attached()?;
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
            let mut result = self.attach_with(context, &links, &all, settings.mode, |request| {
                attachments::follow_links(request, pinned, &fallback)
            })?;
            result.problems.splice(0..0, unfit);
            self.accept(result);
            self.forget_others(&before, &links, &all)?;
        }
        if self.links_changed || !followed {
            self.examine_host(context.netlink)?;
        }
        Ok(!followed)
    }

    /// Replaces the pinned maps by the staged ones.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn adopt_staged(&self) -> anyhow::Result<()> {
        self.pins.adopt_staged()
    }

    /// Removes the pins of other map layouts.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove_other_layouts(&self) -> anyhow::Result<()> {
        self.pins.remove_other_layouts()
    }

    /// The interfaces that carry the program, and what does not work: one sentence each.
    ///
    /// # Errors
    /// The kernel refused a query.
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

    /// What does not work on this host for packets of one family: IPv4, IPv6.
    pub const fn family_warnings(&self) -> &[Vec<String>; 2] {
        self.host.family_warnings()
    }

    /// The name of an interface that carries the program; for another one its index as text.
    pub fn name(&self, index: u32) -> String {
        let known = self.links().find(|link| link.index == index);
        known.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }
}

/// The entries of these interfaces. A bond runs the program on its slaves, which get entries too.
fn entries_of(links: &[Link], all: &[Link]) -> BTreeMap<u32, InterfaceEntry> {
    let mut entries = BTreeMap::new();
    for link in links {
        for receiver in layers::slaves(link, all).chain([link]) {
            let entry = InterfaceEntry {
                mac: link.mac.unwrap_or_default(),
                index: link.index,
                redirects: receiver.kind.as_deref() == Some("veth"),
            };
            entries.insert(receiver.index, entry);
        }
    }
    entries
}

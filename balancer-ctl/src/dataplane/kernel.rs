//! The data plane in the kernel: takes up what is pinned or loads anew, and implements [`Dataplane`] on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use aya::Ebpf;
use balancer_common::real_server::state;

pub use super::packet_log::PacketLog;
use super::{
    Connection, ConnectionFilter, Dataplane, DataplaneStatus, Error, Reading, Service, Snapshot,
    apply,
    attach::{self, Attached},
    census::Census,
    clock::{self, Tick},
    expiry::{self, Expiry},
    grace::{self, Grace},
    host_addresses::HostAddresses,
    load,
    maps::Maps,
    packet_log,
    pins::Pins,
    placement::{self, Fallback, NativeTry, Place, Placed},
    reach::{self, Rounds},
    redirects::Redirects,
    settings::SettingsRow,
    watch::Watch,
    ways::{End, Ways},
};
use crate::{
    host::Host,
    model::{DataplaneSettings, Mode, ServiceKey},
    netlink::{
        Netlink,
        address::Networks,
        keeper::Keeper,
        layers,
        link::{self, Link},
        local::LocalAddresses,
    },
    plan::{
        self, Full,
        tables::{Change, Tables},
    },
};

/// How often the host is examined: whoever has run a command that a warning names sees it go.
const HOST_EVERY: Duration = Duration::from_secs(30);

/// How long the daemon does other things between two slices of a walk: a fifth of a CPU goes to it at most.
const BETWEEN_SLICES: Duration = Duration::from_millis(20);

/// What [`KernelDataplane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Several daemons on one host: each has its name.
    pub instance: Option<String>,
    /// Interfaces, sizes, timeouts.
    pub settings: DataplaneSettings,
    /// What a data plane that starts anew is filled with before a packet reaches it. One that is taken up goes on with what it
    /// runs until it is reconciled.
    pub services: Vec<Service>,
    /// How much the packet program logs; none = nothing, at no cost.
    pub packet_log: Option<PacketLog>,
}

/// The packet program on this host's interfaces, and its maps.
#[derive(Debug)]
pub struct KernelDataplane {
    pins: Pins,
    ebpf: Ebpf,
    /// Those who list connections have their share.
    pub(super) maps: Arc<Maps>,
    pub(super) settings: SettingsRow,
    ways: Ways,
    /// What the maps hold; none after a failure half way, until it is read again.
    pub(super) tables: Option<Tables>,
    pub(super) configured: DataplaneSettings,
    pub(super) attached: Vec<Attached>,
    /// Why the program runs generically on all of them though the mode does not ask for it.
    pub(super) fallback: Fallback,
    /// Nobody has configured it since it was opened.
    is_opened: bool,
    /// Why configured interfaces do not carry the program: a sentence each.
    pub(super) problems: Vec<String>,
    /// Interfaces have changed and were not followed yet.
    links_changed: bool,
    /// Whether each interface that carries the program has a carrier, when that was last looked at.
    carriers: BTreeMap<u32, bool>,
    /// So have this host's addresses.
    pub(super) addresses_changed: bool,
    pub(super) tick: Tick,
    expiry: Option<Expiry>,
    /// What is waited for before the next walk begins.
    grace: Option<Grace>,
    /// What the last walk has counted.
    pub(super) census: Option<Census>,
    /// No walk begins before.
    rests_until: Instant,
    pub(super) netlink: Netlink,
    pub(super) keeper: Keeper,
    pub(super) neighbours: Rounds,
    /// Why packets to a real server cannot leave, by its address.
    pub(super) obstacles: Arc<BTreeMap<IpAddr, String>>,
    pub(super) watch: Watch,
    pub(super) host_addresses: HostAddresses,
    /// The networks that this host is in.
    pub(super) networks: Networks,
    pub(super) host: Host,
    host_due: Instant,
    /// None where the kernel does not tell of failed redirects.
    pub(super) redirects: Option<Redirects>,
    /// What was noticed at the start.
    pub(super) notes: Vec<String>,
    _packet_log: Option<packet_log::Reader>,
}

impl KernelDataplane {
    /// Takes up the pinned data plane of this instance, or loads and fills a new one, and attaches it.
    ///
    /// # Errors
    /// A sentence for what is missing. What ran before goes on running; where nothing ran, nothing is left.
    pub fn open(options: OpenOptions) -> Result<Self, Error> {
        open(options).map_err(Error::from)
    }

    /// The packet program's clock.
    pub(super) fn now(&self) -> anyhow::Result<u32> {
        clock::now(load::program(&self.ebpf, "clock")?)
    }

    /// The tables as they stand, read again after a failure.
    pub(super) fn tables(&mut self) -> anyhow::Result<&mut Tables> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => Tables {
                networks: self.networks.clone(),
                routed: reach::routed(self.keeper.ways()),
                ..apply::observe(&self.maps, &self.settings, &self.ways)?
            },
        };
        Ok(self.tables.insert(tables))
    }

    fn reconcile(&mut self, services: &[Service]) -> anyhow::Result<()> {
        let tables = self.tables()?;
        let changes = match plan::plan(services, tables) {
            Err(Full::Ring { .. }) if tables.space.has_retired() => {
                release(tables)?;
                plan::plan(services, tables)
            }
            result => result,
        };
        let changes = changes.map_err(|full| anyhow!(full))?;
        if !changes.is_empty() {
            self.walk_soon();
        }
        self.make(&changes)?.adopt(services);
        // The first packet to a new real server should find its MAC address known.
        let known: BTreeSet<_> = changes.iter().filter_map(new_address).collect();
        if !known.is_empty()
            && let Err(error) = self.reach(&known)
        {
            tracing::warn!(%error, "neighbours are not looked after");
        }
        Ok(())
    }

    /// Makes changes in the kernel's tables, and notes them. After a failure the tables are read again.
    pub(super) fn make(&mut self, changes: &[Change]) -> anyhow::Result<&mut Tables> {
        self.tables()?;
        let mut tables = self.tables.take().context("the tables were read above")?;
        if let Some(expiry) = &mut self.expiry {
            expiry.about_to_change(changes);
        }
        if let Some(grace) = &mut self.grace {
            grace.about_to_change(changes);
        }
        apply::apply(&self.maps, &self.settings, &self.ways, changes)?;
        for change in changes {
            tables.apply(change);
        }
        Ok(self.tables.insert(tables))
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> anyhow::Result<()> {
        ensure!(
            settings.max_connections == self.configured.max_connections,
            "max-connections cannot change from {} to {} while packets flow: stop balancerd, run `balancerd --detach`, and start it again",
            self.configured.max_connections,
            settings.max_connections
        );
        let is_start = std::mem::take(&mut self.is_opened);
        if settings.interfaces != self.configured.interfaces
            || settings.mode != self.configured.mode
            || !self.all_attached()?
            || !is_start && self.native_is_due()?
        {
            self.attach(settings, NativeTry::Yes)?;
        } else {
            // Whoever loads the file again may have mended what was found.
            self.examine_host()?;
        }
        let timeouts = self.tick.timeouts(&settings.timeouts);
        self.settings
            .update(|settings| settings.timeouts = timeouts)
            .context("cannot write the settings")?;
        self.configured = settings.clone();
        self.walk_soon();
        Ok(())
    }

    /// Whether every configured interface carries the program.
    fn all_attached(&self) -> anyhow::Result<bool> {
        for attached in &self.attached {
            if !attached.stands()? {
                return Ok(false);
            }
        }
        Ok(self.problems.is_empty())
    }

    /// Whether the program runs generically for a reason that is gone.
    fn native_is_due(&mut self) -> anyhow::Result<bool> {
        let all = link::list(&mut self.netlink)?;
        let links: Vec<_> = self.attached.iter().map(|a| a.link.clone()).collect();
        let mode = self.configured.mode;
        placement::native_is_due(&mut self.netlink, mode, &links, &all, &self.fallback)
    }

    /// Brings the program to the interfaces of `settings` and off all others; after an error all is as it was.
    fn attach(&mut self, settings: &DataplaneSettings, native: NativeTry) -> anyhow::Result<()> {
        let pinned = self.pins.links()?;
        let all = link::list(&mut self.netlink)?;
        let links = attach::resolve(&settings.interfaces, &all, &pinned)?;
        let before = self.ways.interfaces();
        let fallback = self.fallback.clone();
        let placed = self.place(&links, &all, settings.mode, |place| {
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
        self.forget_others(before, &links, &all)?;
        self.examine_host()
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
        self.find_obstacles();
    }

    /// Looks for what will not work on the interfaces that carry the program.
    fn examine_host(&mut self) -> anyhow::Result<()> {
        // Also after an error, which is not to be met each second.
        self.host_due = now() + HOST_EVERY;
        let links: Vec<_> = self.attached.iter().map(|a| a.link.clone()).collect();
        self.host.examine(&mut self.netlink, &links)
    }

    /// Prepares these interfaces, beside those that are there, and attaches.
    fn place<T>(
        &mut self,
        links: &[Link],
        all: &[Link],
        mode: Mode,
        attach: impl FnOnce(&mut Place<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let names = self.attached.iter().map(|attached| &attached.link);
        let names: Vec<_> = names.chain(links).cloned().collect();
        self.host.prepare(&names)?;
        attach::allow_ways_out(&self.maps.devices, links)?;
        // Frames are told apart by the interface's address, so that stands before the program runs there; and
        // interfaces that go stay known until the program is off them.
        self.ways
            .add(ends(links, all))
            .context("cannot write the interfaces")?;
        let program = load::program(&self.ebpf, "balancer")?;
        let program = program.fd().context("the packet program is not loaded")?;
        attach(&mut Place {
            netlink: &mut self.netlink,
            program: program.as_fd(),
            pins: &self.pins,
            mode,
            links,
            all,
        })
    }

    /// Nothing but these interfaces is known any more.
    fn forget_others(
        &mut self,
        before: BTreeMap<u32, End>,
        links: &[Link],
        all: &[Link],
    ) -> anyhow::Result<()> {
        self.ways
            .configure(ends(links, all))
            .context("cannot write the interfaces")?;
        let gone = before
            .into_keys()
            .filter(|index| !links.iter().any(|link| link.index == *index));
        attach::forbid_ways_out(&self.maps.devices, gone)?;
        self.host.prepare(links)
    }

    /// After a failed attachment to `links`: what was known `before` is known again.
    fn bring_back(&mut self, before: BTreeMap<u32, End>, links: &[Link]) -> anyhow::Result<()> {
        let mut pinned = self.pins.links()?;
        for attached in &mut self.attached {
            attached.follow(&mut pinned);
        }
        let fresh = links.iter().map(|link| link.index);
        let fresh = fresh.filter(|index| !before.contains_key(index));
        attach::forbid_ways_out(&self.maps.devices, fresh)?;
        self.ways
            .configure(before)
            .context("cannot write the interfaces")?;
        if self.attached.is_empty() {
            // At a start; what ran before needs what it needed.
            return Ok(());
        }
        let links: Vec<_> = self.attached.iter().map(|a| a.link.clone()).collect();
        self.host.prepare(&links)
    }

    /// One part's failure does not keep the others from their turn; the first is told.
    fn tend(&mut self) -> anyhow::Result<()> {
        self.watch.supervise(now());
        let redirects = self.redirects.as_mut();
        let redirects = redirects.map_or(Ok(()), |redirects| redirects.read(now()));
        let links = self.tend_links();
        let addresses = self.follow_changed_addresses();
        let neighbours = self.tend_ways();
        let expiry = self.expire();
        links
            .and(addresses)
            .and(neighbours)
            .and(expiry)
            .and(redirects)
    }

    fn tend_links(&mut self) -> anyhow::Result<()> {
        self.links_changed |= self.watch.links_changed();
        if self.links_changed || !self.all_attached()? {
            self.follow_links()?;
            self.follow_carriers()?;
            self.links_changed = false;
        }
        if now() >= self.host_due {
            self.examine_host()?;
        }
        Ok(())
    }

    /// Who did not answer by an interface that has its carrier again is asked at once.
    fn follow_carriers(&mut self) -> anyhow::Result<()> {
        let all = link::list(&mut self.netlink)?;
        let carriers: BTreeMap<_, _> = all
            .iter()
            .filter(|link| self.attached.iter().any(|a| a.link.index == link.index))
            .map(|link| (link.index, link.running))
            .collect();
        if carriers != self.carriers {
            self.carriers = carriers;
            self.keeper.links_changed(now());
        }
        Ok(())
    }

    /// Goes on with the walk through the connection tables.
    fn expire(&mut self) -> anyhow::Result<()> {
        let now = self.now()?;
        let is_due = self.grace.is_some() || Instant::now() >= self.rests_until;
        let mut expiry = match self.expiry.take() {
            Some(expiry) => expiry,
            None if !is_due => return Ok(()),
            None => match self.begin_walk(now)? {
                Some(expiry) => expiry,
                None => return Ok(()),
            },
        };
        // After an error the walk begins anew.
        let outcome = expiry
            .step(&self.maps, &self.settings, now)
            .context("cannot expire connections")?;
        let Some(outcome) = outcome else {
            self.expiry = Some(expiry);
            return Ok(());
        };
        self.rests_until = Instant::now() + expiry::rest(&self.configured.timeouts);
        self.tables()?;
        let mut tables = self.tables.take().context("the tables were read above")?;
        for id in outcome.unused {
            apply::free_real(&self.maps, &mut tables, id)?;
        }
        // The last real server whose connections were reset may be gone.
        let resets = tables.reals.iter().any(|real| state::is_reset(real.state));
        if tables.resets && !resets {
            let off = Change::SetResets(false);
            apply::apply(
                &self.maps,
                &self.settings,
                &self.ways,
                slice::from_ref(&off),
            )?;
            tables.apply(&off);
        }
        self.tables = Some(tables);
        self.census = Some(outcome.census);
        Ok(())
    }

    /// What was changed gives the next walk something to find: ids to free, shorter timeouts.
    pub(super) fn walk_soon(&mut self) {
        self.rests_until = now();
    }

    /// A walk, or nothing while packets are waited for.
    fn begin_walk(&mut self, now: u32) -> anyhow::Result<Option<Expiry>> {
        let removed = match self.grace.take() {
            Some(grace) if !grace.is_over() => {
                self.grace = Some(grace);
                return Ok(None);
            }
            Some(grace) => {
                let removed = grace.end()?;
                self.tables()?.space.end_wait();
                removed
            }
            None => {
                let tables = self.tables()?;
                let removed: HashSet<_> = (0_u32..)
                    .zip(&tables.reals)
                    .filter(|(_, real)| state::is_removed(real.state))
                    .map(|(id, _)| id)
                    .collect();
                if tables.space.has_retired() || !removed.is_empty() {
                    // No packet that read an old ring may still be about to insert its connection.
                    tables.space.begin_wait();
                    self.grace = Some(Grace::begin(removed));
                    return Ok(None);
                }
                removed
            }
        };
        let reals = self.tables()?.reals.len();
        Expiry::begin(&self.maps, &self.settings, removed, reals, now)
            .context("cannot read the half-open connections")
            .map(Some)
    }

    /// Interfaces came, went or changed, or do not all carry the program. Each is followed on its own; those that cannot be are
    /// tried again at the next call.
    fn follow_links(&mut self) -> anyhow::Result<()> {
        let pinned = self.pins.links()?;
        let all = link::list(&mut self.netlink)?;
        let (links, unfit) = attach::resolve_some(&self.configured.interfaces, &all, &pinned);
        let identity = |link: &Link| (link.index, link.mac);
        let before = self.ways.interfaces();
        let mut followed = links
            .iter()
            .map(identity)
            .eq(self.attached.iter().map(|a| identity(&a.link)))
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
            let mode = self.configured.mode;
            let fallback = self.fallback.clone();
            let mut placed = self.place(&links, &all, mode, |place| {
                placement::follow(place, pinned, &fallback)
            })?;
            placed.problems.splice(0..0, unfit);
            self.take(placed);
            self.forget_others(before, &links, &all)?;
        }
        if self.links_changed || !followed {
            self.examine_host()?;
        }
        Ok(())
    }
}

/// The interfaces as the program is to know them. A bond runs it on its slaves.
fn ends(links: &[Link], all: &[Link]) -> BTreeMap<u32, End> {
    let mut ends = BTreeMap::new();
    for link in links {
        for receiver in layers::slaves(link, all).chain([link]) {
            let end = End {
                mac: link.mac.unwrap_or_default(),
                index: link.index,
                redirects: receiver.kind.as_deref() == Some("veth"),
            };
            ends.insert(receiver.index, end);
        }
    }
    ends
}

/// The address of a real server that a change brings.
fn new_address(change: &Change) -> Option<IpAddr> {
    match change {
        Change::SetReal { id: _, real } if real.state == state::TAKES_NEW => {
            Some(IpAddr::from(real.address))
        }
        _ => None,
    }
}

/// Waits for packets that may read retired rings, and frees those.
fn release(tables: &mut Tables) -> anyhow::Result<()> {
    grace::wait()?;
    tables.space.release();
    Ok(())
}

pub(super) fn now() -> Instant {
    Instant::now()
}

fn open(options: OpenOptions) -> anyhow::Result<KernelDataplane> {
    let pins = Pins::of(options.instance.as_deref())?;
    load::check_prerequisites()?;
    let mut netlink = Netlink::open()?;
    // Before anything is changed.
    let all = link::list(&mut netlink)?;
    attach::resolve(&options.settings.interfaces, &all, &pins.links()?)?;
    let ran_before = !pins.is_empty()?;
    let instance = options.instance.clone();
    build(options, pins.clone(), netlink).inspect_err(|_| {
        let cleared = if ran_before {
            pins.remove_staged()
        } else {
            take_down(&pins, instance.as_deref())
        };
        if let Err(error) = cleared {
            tracing::warn!("what the failed start has made is not all gone: {error:#}");
        }
    })
}

/// Makes everything first, fills it, and attaches it last.
fn build(options: OpenOptions, pins: Pins, netlink: Netlink) -> anyhow::Result<KernelDataplane> {
    let OpenOptions {
        instance,
        settings: configured,
        services,
        packet_log,
    } = options;
    let mut notes = Vec::from_iter(pins.prepare()?);
    let mut loaded = load::load(&pins, &configured, packet_log)?;
    notes.append(&mut loaded.notes);
    let packet_log = match packet_log {
        Some(_) => packet_log::Reader::start(&mut loaded.ebpf)?,
        None => None,
    };
    let maps = Maps::open(&loaded.directory)?;
    let tick = Tick::of_this_kernel()?;
    let clone = "cannot share a map";
    let settings = SettingsRow::open(maps.settings.try_clone().context(clone)?)
        .context("cannot read the settings")?;
    let ways = Ways::open(maps.interfaces.try_clone().context(clone)?)
        .context("cannot read the interfaces")?;
    let devices = maps.devices.id().context("cannot ask for a map's id")?;
    let redirects = match Redirects::start(&mut loaded.ebpf, devices) {
        Ok(redirects) => Some(redirects),
        Err(error) => {
            notes.push(format!(
                "frames that the kernel refuses to redirect are not counted: {error:#}"
            ));
            None
        }
    };
    let seed = random()?;
    let timeouts = tick.timeouts(&configured.timeouts);
    settings
        .update(|value| {
            value.timeouts = timeouts;
            value.max_connections = u64::from(configured.max_connections);
            // Half-open records that were taken up lie where the old one put them.
            if value.seed == 0 {
                value.seed = seed;
            }
        })
        .context("cannot write the settings")?;
    let tables = apply::observe(&maps, &settings, &ways)?;
    let host_addresses = HostAddresses::open(&maps)?;
    let watch = Watch::start(ways.clone(), host_addresses.clone(), now())?;
    let mut dataplane = KernelDataplane {
        pins,
        ebpf: loaded.ebpf,
        maps: Arc::new(maps),
        settings,
        ways,
        tables: Some(tables),
        configured: configured.clone(),
        attached: Vec::new(),
        fallback: Fallback::default(),
        is_opened: true,
        problems: Vec::new(),
        links_changed: false,
        carriers: BTreeMap::new(),
        addresses_changed: false,
        tick,
        expiry: None,
        grace: None,
        census: None,
        rests_until: now(),
        netlink,
        keeper: Keeper::open(instance.as_deref())?,
        neighbours: Rounds::begin(now()),
        obstacles: Arc::default(),
        watch,
        host_addresses,
        networks: Networks::default(),
        host: Host::new(instance.as_deref())?,
        host_due: now(),
        redirects,
        notes,
        _packet_log: packet_log,
    };
    // After the watch began, and before a packet comes.
    dataplane.follow_addresses()?;
    if loaded.fresh {
        dataplane.reconcile(&services)?;
    }
    dataplane.attach(&configured, NativeTry::No)?;
    if loaded.fresh {
        dataplane.pins.adopt_staged()?;
    } else {
        // So that nobody waits for that later.
        dataplane.census = Some(dataplane.count_connections()?);
    }
    dataplane.pins.remove_other_layouts()?;
    Ok(dataplane)
}

/// Takes the data plane of an instance down: links, maps, and what was changed on the host. Whether there was anything.
///
/// # Errors
/// It runs in another network namespace, a pin could not be removed, or a setting of the host not put back.
pub fn detach(instance: Option<&str>) -> Result<bool, Error> {
    let down = || -> anyhow::Result<bool> {
        let pins = Pins::of(instance)?;
        let host = Host::new(instance)?;
        if pins.is_empty()? && !host.is_changed() {
            return Ok(false);
        }
        if let Some(namespace) = host.elsewhere() {
            bail!(
                "this data plane runs in another network namespace, whose settings are to be put back: run this with \
                 `nsenter --net={}` before it",
                namespace.display()
            );
        }
        take_down(&pins, instance)?;
        Ok(true)
    };
    down().map_err(Error::from)
}

fn take_down(pins: &Pins, instance: Option<&str>) -> anyhow::Result<()> {
    pins.remove_all()?;
    Keeper::open(instance)?.give_back(&mut Netlink::open()?)?;
    Host::new(instance)?.put_back()
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is as long as said.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    ensure!(count == 8, "the kernel gives no random numbers");
    Ok(u64::from_ne_bytes(bytes))
}

impl Dataplane for KernelDataplane {
    fn reconcile(&mut self, services: &[Service]) -> Result<(), Error> {
        Ok(Self::reconcile(self, services)?)
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), Error> {
        Ok(Self::configure(self, settings)?)
    }

    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, Error> {
        Ok(self.delete_connections(service, real)?)
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        Ok(self.read_counters()?)
    }

    fn connections(&mut self, filter: ConnectionFilter) -> Result<Reading<Vec<Connection>>, Error> {
        Ok(self.list_connections(filter)?)
    }

    fn status(&mut self) -> Result<DataplaneStatus, Error> {
        Ok(self.read_status()?)
    }

    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), Error> {
        Ok(self.reset_counters(service)?)
    }

    fn local_addresses(&mut self) -> Result<LocalAddresses, Error> {
        let addresses = LocalAddresses::read(&mut self.netlink);
        Ok(addresses.context("cannot read this host's addresses")?)
    }

    fn unwatched(&self) -> Option<&str> {
        self.watch.unwatched()
    }

    fn tend(&mut self) -> Result<(), Error> {
        Ok(Self::tend(self)?)
    }

    fn next_tend(&self) -> Duration {
        if self.expiry.is_some() || self.grace.is_some() {
            BETWEEN_SLICES
        } else {
            let round = self.neighbours.due().saturating_duration_since(now());
            round.clamp(BETWEEN_SLICES, Duration::from_secs(1))
        }
    }
}

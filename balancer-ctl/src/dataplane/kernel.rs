//! The data plane in the kernel: takes up what is pinned or loads anew, and implements [`Dataplane`] on its four parts.
//!
//! ```text
//!  KernelDataplane ─┬─ Interfaces        on what the packet program runs
//!                   ├─ Neighbours        next hops that are kept resolved
//!                   ├─ ServiceTables     services, real servers, rings, counters
//!                   └─ ConnectionTables  connections: counted, listed, ended
//! ```

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aya::Ebpf;
use balancer_common::{real_server::state, verdict::Discard};

use super::{
    ConnectionFilter, Dataplane, DataplaneError, DataplaneStatus, Family, Listing, Service,
    Snapshot, TableStatus, attach,
    clock::{self, Tick},
    connections::{BETWEEN_SLICES, ConnectionTables},
    detach::take_down,
    host_addresses::HostAddresses,
    interfaces::{Interfaces, Means},
    load,
    neighbours::Neighbours,
    packet_log,
    pins::Pins,
    placement::NativeTry,
    redirects::Redirects,
    routes::Routes,
    services::ServiceTables,
    watch::WatchThread,
};
pub use super::{detach::detach, packet_log::PacketLog};
use crate::{
    dataplane::plan::tables::TableChange,
    model::{DataplaneSettings, ServiceKey, StrayReplies},
    netlink::{
        Netlink,
        address::Networks,
        link,
        local::LocalAddresses,
        monitor::{self, NetlinkChanges},
    },
};

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
    ebpf: Ebpf,
    configured: DataplaneSettings,
    interfaces: Interfaces,
    neighbours: Neighbours,
    services: ServiceTables,
    connections: ConnectionTables,
    host_addresses: HostAddresses,
    /// This host's addresses have changed and were not followed yet.
    addresses_changed: bool,
    routes: Routes,
    tick: Tick,
    netlink: Netlink,
    watch: WatchThread,
    /// None where the kernel does not tell of failed redirects.
    redirects: Option<Redirects>,
    /// What was noticed at the start.
    notes: Vec<String>,
    _packet_log: Option<packet_log::Reader>,
}

impl KernelDataplane {
    /// Takes up the pinned data plane of this instance, or loads and fills a new one, and attaches it.
    ///
    /// # Errors
    /// A sentence for what is missing. What ran before goes on running; where nothing ran, nothing is left.
    pub fn open(options: OpenOptions) -> Result<Self, DataplaneError> {
        open(options).map_err(DataplaneError::from)
    }

    /// The packet program's clock.
    fn jiffies(&self) -> anyhow::Result<u32> {
        clock::now(load::program(&self.ebpf, "clock")?)
    }

    fn reconcile(&mut self, services: &[Service]) -> anyhow::Result<()> {
        let changes = self.services.reconcile(services, &mut self.connections)?;
        // The first packet to a new real server should find its MAC address known.
        let known: BTreeSet<_> = changes.iter().filter_map(new_address).collect();
        if !known.is_empty()
            && let Err(error) = self.reach(&known)
        {
            tracing::warn!(%error, "neighbours are not looked after");
        }
        Ok(())
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> anyhow::Result<()> {
        for (key, present, wanted) in [
            (
                "max-connections",
                self.configured.max_connections,
                settings.max_connections,
            ),
            (
                "max-connections-ipv6",
                self.configured.max_connections_ipv6,
                settings.max_connections_ipv6,
            ),
        ] {
            ensure!(
                present == wanted,
                "{key} cannot change from {present} to {wanted} while packets flow, since the connection table has its size from its \
                 beginning to its end: restart balancerd, which makes a new table and puts it in the place of the old one without a gap; \
                 running connections are reset"
            );
        }
        let is_start = self.interfaces.take_opened();
        if settings.interfaces != self.configured.interfaces
            || settings.mode != self.configured.mode
            || !self.interfaces.all_attached()?
            || !is_start
                && self
                    .interfaces
                    .native_is_due(&mut self.netlink, self.configured.mode)?
        {
            self.attach(settings, NativeTry::Yes)?;
        } else {
            // Whoever loads the file again may have mended what was found.
            self.interfaces.examine_host(&mut self.netlink)?;
        }
        set(&self.services, self.tick, settings)?;
        self.configured = settings.clone();
        self.connections.schedule_sweep();
        Ok(())
    }

    /// Brings the program to the interfaces of `settings` and off all others; after an error all is as it was.
    fn attach(&mut self, settings: &DataplaneSettings, native: NativeTry) -> anyhow::Result<()> {
        let program = load::program(&self.ebpf, "balancer")?;
        let program = program.fd().context("the packet program is not loaded")?;
        let mut means = Means {
            netlink: &mut self.netlink,
            program: program.as_fd(),
        };
        self.interfaces.attach(&mut means, settings, native)?;
        self.neighbours
            .find_obstacles(&self.interfaces, &settings.interfaces);
        Ok(())
    }

    /// One part's failure does not keep the others from their turn; the first is told.
    fn tend(&mut self) -> anyhow::Result<()> {
        self.watch.supervise(now());
        let news = self.watch.take_news();
        // Again: a packet that asked the kernel before the change may have stored the answer after the first time.
        self.routes.bump_versions(&news.routes);
        for neighbour in &news.neighbours {
            self.routes.raise_neighbour(*neighbour);
        }
        let redirects = self.redirects.as_mut();
        let redirects = redirects.map_or(Ok(()), |redirects| redirects.read(now()));
        let links = self.follow_links(&news);
        self.addresses_changed |= news.addresses;
        let addresses = self.follow_addresses();
        let neighbours = self.maintain_neighbours(&news);
        let connections = self.maintain_connections();
        links
            .and(addresses)
            .and(neighbours)
            .and(connections)
            .and(redirects)
    }

    fn follow_links(&mut self, news: &NetlinkChanges) -> anyhow::Result<()> {
        let program = load::program(&self.ebpf, "balancer")?;
        let program = program.fd().context("the packet program is not loaded")?;
        let mut means = Means {
            netlink: &mut self.netlink,
            program: program.as_fd(),
        };
        let followed = self
            .interfaces
            .run_maintenance(&mut means, &self.configured, news.links)?;
        if followed.placed {
            self.neighbours
                .find_obstacles(&self.interfaces, &self.configured.interfaces);
        }
        if followed.carriers {
            self.neighbours.links_changed();
        }
        Ok(())
    }

    /// Follows changes of this host's addresses, when there are any; after an error again: which sources to refuse, and which real
    /// servers' networks it is in.
    fn follow_addresses(&mut self) -> anyhow::Result<()> {
        if !self.addresses_changed {
            return Ok(());
        }
        self.host_addresses.refresh(&mut self.netlink)?;
        let networks = Networks::read(&mut self.netlink)
            .context("cannot list the addresses of the interfaces")?;
        self.services
            .follow_networks(networks, &mut self.connections)?;
        self.addresses_changed = false;
        Ok(())
    }

    fn maintain_neighbours(&mut self, news: &NetlinkChanges) -> anyhow::Result<()> {
        if news.is_empty() && now() < self.neighbours.due() {
            return Ok(());
        }
        let reals = self.services.real_addresses().inspect_err(|_| {
            // Whose ways have changed is not known: all are asked for later.
            self.neighbours
                .note(&monitor::Routes::All, true, &BTreeSet::new());
        })?;
        let has_neighbours = !news.neighbours.is_empty();
        self.neighbours.note(&news.routes, has_neighbours, &reals);
        if self.neighbours.run_maintenance(&mut self.netlink, &reals)? {
            self.follow_neighbours()?;
        }
        Ok(())
    }

    /// Looks after the next hops towards real servers that are new.
    fn reach(&mut self, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.neighbours.reach(&mut self.netlink, reals)?;
        self.follow_neighbours()
    }

    /// Uses what is known of the ways to real servers.
    fn follow_neighbours(&mut self) -> anyhow::Result<()> {
        self.neighbours
            .find_obstacles(&self.interfaces, &self.configured.interfaces);
        let routed = self.neighbours.routed();
        self.services.follow_gateways(routed, &mut self.connections)
    }

    fn maintain_connections(&mut self) -> anyhow::Result<()> {
        let jiffies = self.jiffies()?;
        self.connections
            .run_maintenance(&mut self.services, jiffies, &self.configured.timeouts)
            .context("cannot end idle connections")
    }

    fn read_status(&mut self) -> anyhow::Result<DataplaneStatus> {
        let mut discards = Vec::new();
        for reason in Discard::ALL {
            discards.push((*reason, self.services.discarded(*reason)?));
        }
        let (interfaces, found) = self.interfaces.describe()?;
        let mut warnings = self.notes.clone();
        warnings.extend(found);
        warnings.extend(self.neighbours.warnings().iter().cloned());
        if let Some(redirects) = &mut self.redirects {
            redirects.read(now())?;
            let reasons = redirects.reasons(now(), |index| self.interfaces.name(index));
            warnings.extend(reasons.into_iter().take(10));
        }
        let connections = self.connections.count().families;
        let most = [
            self.configured.max_connections,
            self.configured.max_connections_ipv6,
        ];
        let table = |family: Family| TableStatus {
            connections: connections[family as usize],
            max_connections: u64::from(most[family as usize]),
            bytes: self.connections.bytes(family),
        };
        Ok(DataplaneStatus {
            interfaces,
            tables: [table(Family::V4), table(Family::V6)],
            discards,
            redirect_failures: self.redirects.as_ref().map_or(0, Redirects::total),
            warnings,
            obstacles: self.neighbours.obstacles(),
        })
    }

    fn zero(&mut self, service: Option<&ServiceKey>) -> anyhow::Result<()> {
        if service.is_none()
            && let Some(redirects) = &mut self.redirects
        {
            redirects.reset();
        }
        self.services.zero(service)
    }
}

/// Writes settings that may change while packets flow.
fn set(services: &ServiceTables, tick: Tick, settings: &DataplaneSettings) -> anyhow::Result<()> {
    let timeouts = tick.timeouts(&settings.timeouts);
    let answers = settings.stray_replies == StrayReplies::Reset;
    services.set(|settings| {
        settings.timeouts = timeouts;
        settings.answer_stray_replies = u32::from(answers);
    })
}

/// The address of a real server that a change brings.
fn new_address(change: &TableChange) -> Option<IpAddr> {
    match change {
        TableChange::SetReal { id: _, real } if real.state == state::TAKES_NEW => {
            Some(IpAddr::from(real.address))
        }
        _ => None,
    }
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
        services: wanted,
        packet_log,
    } = options;
    let instance = instance.as_deref();
    let mut notes = Vec::from_iter(pins.prepare()?);
    let mut loaded = load::load(&pins, &configured, packet_log)?;
    notes.append(&mut loaded.notes);
    let packet_log = match packet_log {
        Some(_) => packet_log::Reader::start(&mut loaded.ebpf)?,
        None => None,
    };
    let directory = &loaded.directory;
    let tick = Tick::of_this_kernel()?;
    let services = ServiceTables::open(directory)?;
    set(&services, tick, &configured)?;
    let connections = ConnectionTables::open(directory, &services, tick, now())?;
    let routes = Routes::open(directory)?;
    let interfaces = Interfaces::open(directory, pins, routes.clone(), instance)?;
    let redirects = match Redirects::start(&mut loaded.ebpf, interfaces.redirect_map()?) {
        Ok(redirects) => Some(redirects),
        Err(error) => {
            notes.push(format!(
                "frames that the kernel refuses to redirect are not counted: {error:#}"
            ));
            None
        }
    };
    let host_addresses = HostAddresses::open(directory)?;
    let watch = WatchThread::start(routes.clone(), host_addresses.clone(), now())?;
    // What changed before nobody has heard of.
    routes.bump_all();
    let mut dataplane = KernelDataplane {
        ebpf: loaded.ebpf,
        configured: configured.clone(),
        interfaces,
        neighbours: Neighbours::open(instance)?,
        services,
        connections,
        host_addresses,
        addresses_changed: true,
        routes,
        tick,
        netlink,
        watch,
        redirects,
        notes,
        _packet_log: packet_log,
    };
    // After the watch began, and before a packet comes.
    dataplane.follow_addresses()?;
    if loaded.fresh {
        dataplane.reconcile(&wanted)?;
    }
    dataplane.attach(&configured, NativeTry::No)?;
    if loaded.fresh {
        dataplane.interfaces.adopt_staged()?;
    } else {
        dataplane.connections.count_now();
    }
    dataplane.interfaces.remove_other_layouts()?;
    Ok(dataplane)
}

impl Dataplane for KernelDataplane {
    fn reconcile(&mut self, services: &[Service]) -> Result<(), DataplaneError> {
        Ok(Self::reconcile(self, services)?)
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), DataplaneError> {
        Ok(Self::configure(self, settings)?)
    }

    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, DataplaneError> {
        Ok(self.connections.purge(service, real))
    }

    fn snapshot(&mut self) -> Result<Snapshot, DataplaneError> {
        Ok(self.services.snapshot(&self.connections.count())?)
    }

    fn connections(&mut self, filter: ConnectionFilter) -> Result<Listing, DataplaneError> {
        let jiffies = self.jiffies()?;
        let settings = self.services.settings();
        Ok(self.connections.list(filter, jiffies, &settings))
    }

    fn status(&mut self) -> Result<DataplaneStatus, DataplaneError> {
        Ok(self.read_status()?)
    }

    fn refused(&mut self) -> Result<u64, DataplaneError> {
        Ok(self.services.discarded(Discard::TableFull)?)
    }

    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), DataplaneError> {
        Ok(Self::zero(self, service)?)
    }

    fn local_addresses(&mut self) -> Result<LocalAddresses, DataplaneError> {
        let addresses = LocalAddresses::read(&mut self.netlink);
        Ok(addresses.context("cannot read this host's addresses")?)
    }

    fn watch_failure(&self) -> Option<&str> {
        self.watch.unwatched()
    }

    fn run_maintenance(&mut self) -> Result<(), DataplaneError> {
        Ok(Self::tend(self)?)
    }

    fn next_maintenance(&self) -> Duration {
        if self.connections.is_busy() {
            BETWEEN_SLICES
        } else {
            let round = self.neighbours.due().saturating_duration_since(now());
            round.clamp(BETWEEN_SLICES, Duration::from_secs(1))
        }
    }
}

//! The data plane in the kernel: reuses what is pinned or loads anew, and implements [`Dataplane`] with its parts.
//!
//! ```text
//!  KernelDataplane ─┬─ Interfaces        which the packet program runs on
//!                   ├─ Neighbours        next hops that are kept resolved
//!                   ├─ ServiceTables     services, real servers, rings, counters
//!                   ├─ ConnectionTables  connections: counted, listed, ended
//!                   ├─ PersistenceTable  which server each client keeps: counted, listed, forgotten
//!                   └─ FailoverRealTable     real servers with connections that another node has begun
//! ```

mod choice;
mod opening;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, ensure};
use aya::Ebpf;
use balancer_common::{scheduler::pick, verdict::Discard};

use super::{
    Connection, ConnectionFilter, Dataplane, DataplaneError, DataplaneStatus, Deletion,
    FailoverVips, Family, KeptClient, Listing, PersistenceFilter, Service, Snapshot, TableStatus,
    Traced,
    attachments::RetryNative,
    connections::{ConnectionTables, SLICE_PAUSE},
    failover_reals::FailoverRealTable,
    full_nat::FullNatUse,
    host_addresses::HostAddresses,
    interfaces::{AttachContext, Interfaces},
    jiffies::{self, Tick},
    load,
    neighbours::Neighbours,
    packet_log,
    persistence::PersistenceTable,
    redirect_errors::RedirectErrors,
    renewal,
    route_versions::RouteVersionTable,
    services::ServiceTables,
    snat,
    watch::WatchThread,
};
pub use super::{detach::detach, packet_log::PacketLog};
use crate::{
    dataplane::plan::{sources::SourceAddresses, tables::TableChange},
    model::{DataplaneSettings, ServiceKey, StrayReplies},
    netlink::{
        Netlink,
        address::{self, Networks},
        local::LocalAddresses,
        monitor::{self, NetlinkChanges},
    },
    os::clock,
};

/// What [`KernelDataplane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The instance's name; `None` for the default one. Several daemons on one host need different names.
    pub instance: Option<String>,
    /// Interfaces, sizes, timeouts.
    pub settings: DataplaneSettings,
    /// The services of a data plane that starts anew, written before a packet reaches it. One that is reused keeps its
    /// services until it is reconciled.
    pub services: Vec<Service>,
    /// The packet program's log level; `None` = it logs nothing, at no cost.
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
    persistence: PersistenceTable,
    failover_reals: FailoverRealTable,
    host_addresses: HostAddresses,
    /// This host's addresses have changed, and the maps do not reflect that yet.
    addresses_changed: bool,
    routes: RouteVersionTable,
    tick: Tick,
    netlink: Netlink,
    watch: WatchThread,
    /// `None` where the tracepoint for failed redirects is missing.
    redirects: Option<RedirectErrors>,
    /// What is wrong with the source addresses of connections with full NAT: a sentence each.
    source_warnings: Vec<String>,
    /// Why this host's own sockets do not keep off their ports.
    port_warning: Option<String>,
    /// Warnings from the start.
    notes: Vec<String>,
    _packet_log: Option<packet_log::LogReader>,
}

impl KernelDataplane {
    /// Reuses the pinned data plane of this instance, or loads and fills a new one, and attaches it.
    ///
    /// # Errors
    /// A sentence says what is missing. A data plane that ran before goes on; otherwise nothing is left behind.
    pub fn open(options: OpenOptions) -> Result<Self, DataplaneError> {
        opening::open(options).map_err(DataplaneError::from)
    }

    /// The low 32 bits of jiffies now.
    fn jiffies(&self) -> anyhow::Result<u32> {
        jiffies::now(load::program(&self.ebpf, "clock")?)
    }

    fn reconcile(&mut self, services: &[Service]) -> anyhow::Result<()> {
        let may_have = services.iter().any(Service::may_have_full_nat);
        self.connections.give_full_nat(may_have);
        self.follow_local_ports();
        // So that the first packet to a new real server finds its MAC address resolved, and with full NAT its source.
        let known = self.neighbours.targets();
        let reals = services.iter().flat_map(|service| &service.reals);
        let new: BTreeSet<_> = reals
            .map(|real| real.address.ip())
            .filter(|address| !known.contains_key(address))
            .collect();
        if !new.is_empty()
            && let Err(error) = self.resolve_new(&new)
        {
            tracing::warn!(%error, "the next hops of new real servers cannot be resolved now");
        }
        let changes = self.services.reconcile(services, &mut self.connections)?;
        if changes.iter().any(is_about_persistence)
            && let Err(error) = self.follow_persistence()
        {
            tracing::warn!("the clients of removed services are forgotten later: {error:#}");
        }
        if let Err(error) = self.follow_sources() {
            tracing::warn!("connections with full NAT may be refused: {error:#}");
        }
        if let Err(error) = self.follow_failover_reals() {
            tracing::warn!("connections of another node may end: {error:#}");
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
            (
                "max-persistence",
                self.configured.max_persistence,
                settings.max_persistence,
            ),
        ] {
            ensure!(
                present == wanted,
                "{key} cannot change from {present} to {wanted} while packets flow, since a table has its size from its beginning to its \
                 end: restart balancerd, which makes new tables and puts them in the place of the old ones without a gap; running \
                 connections are reset"
            );
        }
        let is_start = self.interfaces.take_first_configure();
        if settings.interfaces != self.configured.interfaces
            || settings.mode != self.configured.mode
            || !self.interfaces.all_attached()?
            || !is_start
                && self
                    .interfaces
                    .native_is_due(&mut self.netlink, self.configured.mode)?
        {
            self.attach(settings, RetryNative::Yes)?;
        } else {
            // Before reloading the operator may have fixed what was found.
            self.interfaces.examine_host(&mut self.netlink)?;
        }
        write_settings(&self.services, self.tick, settings)?;
        self.configured = settings.clone();
        self.follow_local_ports();
        self.connections.schedule_sweep();
        self.follow_sources()
    }

    /// Attaches the program to the interfaces of `settings` and detaches it from all others; after an error all is as
    /// it was.
    fn attach(&mut self, settings: &DataplaneSettings, native: RetryNative) -> anyhow::Result<()> {
        let program = load::program(&self.ebpf, "balancer")?;
        let program = program.fd().context("the packet program is not loaded")?;
        let mut context = AttachContext {
            netlink: &mut self.netlink,
            program: program.as_fd(),
        };
        self.interfaces.attach(&mut context, settings, native)?;
        self.neighbours
            .find_obstacles(&self.interfaces, &settings.interfaces);
        Ok(())
    }

    /// Runs the maintenance of each part, even if another part's fails; returns the first error.
    fn maintain(&mut self) -> anyhow::Result<()> {
        self.watch.supervise(clock::now());
        let changes = self.watch.take_changes();
        // The watch thread has done this already; again, since a packet that looked the route up before the change may
        // have stored the result after that.
        self.routes.bump_versions(&changes.routes);
        for neighbour in &changes.neighbours {
            self.routes.bump_neighbour(*neighbour);
        }
        let redirects = self.redirects.as_mut();
        let redirects = redirects.map_or(Ok(()), |redirects| redirects.read(clock::now()));
        let links = self.follow_links(&changes);
        self.addresses_changed |= changes.addresses;
        let addresses = self.follow_addresses();
        let neighbours = self.maintain_neighbours(&changes);
        let connections = self.maintain_connections();
        let persistence = self.maintain_persistence();
        links
            .and(addresses)
            .and(neighbours)
            .and(connections)
            .and(persistence)
            .and(redirects)
            .and(self.interfaces.last_host_check())
    }

    fn follow_links(&mut self, changes: &NetlinkChanges) -> anyhow::Result<()> {
        let program = load::program(&self.ebpf, "balancer")?;
        let program = program.fd().context("the packet program is not loaded")?;
        let mut context = AttachContext {
            netlink: &mut self.netlink,
            program: program.as_fd(),
        };
        let changed =
            self.interfaces
                .run_maintenance(&mut context, &self.configured, changes.links)?;
        if changed.reattached {
            self.neighbours
                .find_obstacles(&self.interfaces, &self.configured.interfaces);
        }
        if changed.carriers {
            self.neighbours.links_changed();
        }
        Ok(())
    }

    /// After a change of this host's addresses updates the sources that are dropped and the real servers' networks;
    /// after an error the next call tries again.
    fn follow_addresses(&mut self) -> anyhow::Result<()> {
        if !self.addresses_changed {
            return Ok(());
        }
        self.host_addresses.refresh(&mut self.netlink)?;
        let networks = Networks::read(&mut self.netlink)
            .context("cannot list the addresses of the interfaces")?;
        self.follow_sources()?;
        self.services
            .set_networks(networks, &mut self.connections)?;
        self.addresses_changed = false;
        Ok(())
    }

    /// Keeps this host's own sockets off the ports of connections with full NAT, from before the first to after the last.
    fn follow_local_ports(&mut self) {
        let ports = match self.connections.full_nat() {
            FullNatUse::Given => Some(self.configured.snat_ports.left_to_host()),
            FullNatUse::Ending(_) => return,
            FullNatUse::Ended => None,
        };
        if let Some(result) = self.interfaces.leave_local_ports(ports) {
            self.port_warning = result.err().map(|error| {
                format!(
                    "the host's own connections may take ports of snat-ports, and then disturb clients' with full NAT: {error:#}"
                )
            });
        }
    }

    /// After a change of the services, of this host's addresses, of routes to real servers or of the settings: which addresses connections with full NAT have
    /// towards which real server.
    fn follow_sources(&mut self) -> anyhow::Result<()> {
        let addresses = address::list(&mut self.netlink)
            .context("cannot list the addresses of the interfaces")?;
        let tables = self.services.tables()?;
        let vips: BTreeSet<_> = tables.services.keys().map(|key| key.address.ip()).collect();
        let known = self.neighbours.targets();
        let of_interfaces = known.iter().filter_map(|(real, target)| {
            Some((*real, snat::of_interface(&addresses, &vips, *target)?))
        });
        let of_interfaces = of_interfaces.collect();
        let sources = SourceAddresses {
            configured: snat::usable(&self.configured.snat_addresses, &addresses),
            known: known.keys().copied().collect(),
            of_interfaces,
        };
        let left = self.services.set_sources(sources, &mut self.connections)?;
        let sourceless = self.services.tables()?.reals_without_source();
        let missing = self
            .configured
            .snat_addresses
            .iter()
            .filter(|wanted| !addresses.iter().any(|one| one.address == **wanted));
        self.source_warnings = snat::warnings(missing, &left, &sourceless);
        Ok(())
    }

    fn maintain_neighbours(&mut self, changes: &NetlinkChanges) -> anyhow::Result<()> {
        if changes.is_empty() && clock::now() < self.neighbours.due() {
            return self.neighbours.last_result();
        }
        let reals = self.services.real_addresses().inspect_err(|_| {
            // It is unknown which real servers the changes concern: all are looked up later.
            self.neighbours
                .record_changes(&monitor::RouteChanges::All, true, &BTreeSet::new());
        })?;
        let has_neighbours = !changes.neighbours.is_empty();
        self.neighbours
            .record_changes(&changes.routes, has_neighbours, &reals);
        if self.neighbours.run_maintenance(&mut self.netlink, &reals)? {
            self.apply_route_targets()?;
        }
        Ok(())
    }

    /// After a change of services, or of which node has the VIPs.
    fn follow_failover_reals(&mut self) -> anyhow::Result<()> {
        self.failover_reals.follow(self.services.tables()?)
    }

    /// Resolves the next hops to real servers that are new.
    fn resolve_new(&mut self, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.neighbours.resolve_new(&mut self.netlink, reals)?;
        self.apply_route_targets()
    }

    /// Passes on where packets to real servers go: the obstacles, and which real servers are behind a gateway.
    fn apply_route_targets(&mut self) -> anyhow::Result<()> {
        self.neighbours
            .find_obstacles(&self.interfaces, &self.configured.interfaces);
        let routed = self.neighbours.routed();
        self.services.set_routed(routed, &mut self.connections)?;
        self.follow_sources()
    }

    fn maintain_connections(&mut self) -> anyhow::Result<()> {
        let jiffies = self.jiffies()?;
        let program = load::program(&self.ebpf, "renew")?;
        let renew = |clients: &[_]| renewal::renew(program, clients);
        let timeouts = &self.configured.timeouts;
        self.connections
            .run_maintenance(&mut self.services, jiffies, timeouts, renew)
            .context("cannot end idle connections")?;
        self.follow_local_ports();
        Ok(())
    }

    /// After a change of the services' persistence, forgets the clients that no service has any more.
    fn follow_persistence(&mut self) -> anyhow::Result<()> {
        let (jiffies, seed) = (self.jiffies()?, self.services.settings().seed);
        let tables = self.services.tables()?;
        self.persistence.follow(tables, jiffies, seed)
    }

    fn maintain_persistence(&mut self) -> anyhow::Result<()> {
        self.persistence.collect()?;
        if !self.persistence.is_due() {
            return Ok(());
        }
        let (jiffies, seed) = (self.jiffies()?, self.services.settings().seed);
        let tables = self.services.tables()?;
        self.persistence.begin_pass(tables, jiffies, seed)
    }

    fn snapshot(&mut self, service: Option<&ServiceKey>) -> anyhow::Result<Snapshot> {
        let mut snapshot = self.services.snapshot(service)?;
        let jiffies = self.jiffies()?;
        let counts = self.persistence.counts(self.services.tables()?, jiffies)?;
        for (key, service) in &mut snapshot.services {
            service.kept_clients = counts.get(key).copied().unwrap_or_default();
        }
        Ok(snapshot)
    }

    fn kept_clients(&mut self, filter: PersistenceFilter) -> anyhow::Result<Listing<KeptClient>> {
        let jiffies = self.jiffies()?;
        let tables = self.services.tables()?;
        Ok(self.persistence.list(tables, filter, jiffies))
    }

    fn forget_clients(&mut self, filter: PersistenceFilter) -> anyhow::Result<Deletion> {
        let (jiffies, seed) = (self.jiffies()?, self.services.settings().seed);
        let tables = self.services.tables()?;
        Ok(self.persistence.forget(tables, filter, jiffies, seed))
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
        warnings.extend(self.source_warnings.iter().cloned());
        warnings.extend(self.port_warning.iter().cloned());
        if let Some(redirects) = &mut self.redirects {
            redirects.read(clock::now())?;
            let reasons = redirects.reasons(clock::now(), |index| self.interfaces.name(index));
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
            redirect_failures: self.redirects.as_ref().map_or(0, RedirectErrors::total),
            warnings,
            family_warnings: self.interfaces.family_warnings().clone(),
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

/// How long a client's first connection to a persistent service, while it is not complete, decides about its next ones. In jiffies it must
/// stay below 2^16.
const PENDING_TIME: Duration = Duration::from_secs(5);

/// Writes settings that may change while packets flow.
fn write_settings(
    services: &ServiceTables,
    tick: Tick,
    settings: &DataplaneSettings,
) -> anyhow::Result<()> {
    let timeouts = tick.timeouts(&settings.timeouts);
    let pending = tick.jiffies(PENDING_TIME);
    let answers = settings.stray_replies == StrayReplies::Reset;
    let snat_ports = settings.snat_ports.into();
    services.update_settings(|settings| {
        settings.timeouts = timeouts;
        settings.pending = pending;
        settings.answer_stray_replies = u32::from(answers);
        settings.snat_ports = snat_ports;
    })
}

/// Whether a change says anew how a service's clients keep their servers.
const fn is_about_persistence(change: &TableChange) -> bool {
    matches!(change, TableChange::SetStickiness { .. })
}

impl Dataplane for KernelDataplane {
    fn reconcile(&mut self, services: &[Service]) -> Result<(), DataplaneError> {
        Ok(Self::reconcile(self, services)?)
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), DataplaneError> {
        Ok(Self::configure(self, settings)?)
    }

    fn set_failover_vips(&mut self, vips: &FailoverVips) -> Result<(), DataplaneError> {
        self.failover_reals.set_vips(vips)?;
        Ok(self.follow_failover_reals()?)
    }

    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, DataplaneError> {
        Ok(self.connections.purge(service, real))
    }

    fn snapshot(&mut self, service: Option<&ServiceKey>) -> Result<Snapshot, DataplaneError> {
        Ok(Self::snapshot(self, service)?)
    }

    fn connections(
        &mut self,
        filter: ConnectionFilter,
    ) -> Result<Listing<Connection>, DataplaneError> {
        let jiffies = self.jiffies()?;
        let settings = self.services.settings();
        Ok(self.connections.list(filter, jiffies, &settings))
    }

    fn close_connections(&mut self, filter: ConnectionFilter) -> Result<Deletion, DataplaneError> {
        let jiffies = self.jiffies()?;
        let settings = self.services.settings();
        let services = self.services.tables()?.services.values();
        let hashing = services.filter(|row| row.service.pick == pick::HASH);
        let hashing = hashing.map(|row| row.service.id).collect();
        Ok(self.connections.close(filter, jiffies, &settings, hashing))
    }

    fn kept_clients(
        &mut self,
        filter: PersistenceFilter,
    ) -> Result<Listing<KeptClient>, DataplaneError> {
        Ok(Self::kept_clients(self, filter)?)
    }

    fn forget_clients(&mut self, filter: PersistenceFilter) -> Result<Deletion, DataplaneError> {
        Ok(Self::forget_clients(self, filter)?)
    }

    fn status(&mut self) -> Result<DataplaneStatus, DataplaneError> {
        Ok(self.read_status()?)
    }

    fn trace(
        &mut self,
        client: SocketAddr,
        service: &ServiceKey,
    ) -> Result<Traced, DataplaneError> {
        Ok(self.choice_for(client, service)?)
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
        self.watch.failure()
    }

    fn run_maintenance(&mut self) -> Result<(), DataplaneError> {
        Ok(Self::maintain(self)?)
    }

    fn next_maintenance(&self) -> Duration {
        if self.connections.is_busy() {
            SLICE_PAUSE
        } else {
            let round = self
                .neighbours
                .due()
                .saturating_duration_since(clock::now());
            round.clamp(SLICE_PAUSE, Duration::from_secs(1))
        }
    }
}

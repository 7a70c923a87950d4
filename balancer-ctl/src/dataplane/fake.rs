//! A data plane in memory, for tests. It does not model packets, pins or the life of connections: it stores what it is
//! given, and returns what a test put in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use balancer_common::verdict::Discard;

use super::{
    AttachedInterface, Choice, Connection, ConnectionFilter, Dataplane, DataplaneError,
    DataplaneStatus, Deletion, FailoverVips, FoundBy, InterfaceError, KeptClient, Listing,
    PersistenceFilter, RealSnapshot, Service, Snapshot, TableStatus, Traced,
};
use crate::{
    model::{DataplaneSettings, Filter, ServiceKey, filter::FilterRule, prefix::Prefix},
    netlink::local::LocalAddresses,
};

/// The fake's content; a test may read and change it while the daemon runs.
#[derive(Default)]
pub struct State {
    /// The services of the last `reconcile`.
    pub services: Vec<Service>,
    /// How often `reconcile` was called.
    pub reconciled: usize,
    /// The settings of the last `configure`.
    pub settings: Option<DataplaneSettings>,
    /// The argument of the last call of `set_failover_vips`.
    pub failover_vips: FailoverVips,
    /// Connections to return; real servers' active and inactive connections are counted from them.
    pub connections: Vec<Connection>,
    /// Clients that keep a server, to return, count and forget.
    pub kept_clients: Vec<KeptClient>,
    /// Counters to return.
    pub snapshot: Snapshot,
    /// How often `snapshot` was called.
    pub snapshots: usize,
    /// Discards to return.
    pub discards: Vec<(Discard, u64)>,
    /// Failed redirects to return.
    pub redirect_failures: u64,
    /// Warnings to return.
    pub warnings: Vec<String>,
    /// Warnings to return that concern packets of one family: IPv4, IPv6.
    pub family_warnings: [Vec<String>; 2],
    /// Why packets to real servers cannot leave.
    pub obstacles: BTreeMap<IpAddr, String>,
    /// This host's own addresses, and its networks' broadcast addresses.
    pub local: LocalAddresses,
    /// The most services that fit; `reconcile` refuses more.
    pub max_services: Option<usize>,
    /// The arguments of the calls of `zero`.
    pub zeroed: Vec<Option<ServiceKey>>,
    /// What `watch_failure` returns after the next call of `run_maintenance`.
    pub watch_failure: Option<String>,
    /// Why `run_maintenance` fails, if it does.
    pub maintenance_failure: Option<String>,
    /// How many of the next calls of `reconcile` fail half way.
    pub reconcile_failures: u32,
    /// How many of the next calls of `configure` fail half way.
    pub configure_failures: u32,
    /// The name of an interface that does not exist.
    pub missing_interface: Option<String>,
    /// Called once, during the next `reconcile`.
    pub during_reconcile: Option<Box<dyn FnOnce() + Send>>,
}

/// A data plane in memory.
#[derive(Clone, Default)]
pub struct FakeDataplane {
    state: Arc<Mutex<State>>,
    /// [`State::watch_failure`] at the last call of `run_maintenance`.
    watch_failure: Option<String>,
}

impl FakeDataplane {
    /// Locks and returns the content.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(filter: &ConnectionFilter, connection: &Connection) -> bool {
    let host = |wanted: &Option<(IpAddr, Option<u16>)>, address: SocketAddr| {
        wanted.is_none_or(|(ip, port)| {
            ip == address.ip() && port.is_none_or(|port| port == address.port())
        })
    };
    filter
        .client
        .is_none_or(|clients| clients.matches(connection.client))
        && host(&filter.real, connection.real)
        && filter
            .service
            .is_none_or(|service| service == connection.virtual_address)
        && filter.state.is_none_or(|state| state == connection.state)
}

fn keeps(filter: &PersistenceFilter, client: &KeptClient) -> bool {
    filter.matches_services(&client.services) && filter.matches(&client.client, client.server)
}

/// The rule that a client falls under, and whether it lets the client in.
fn rule_for(filter: &Filter, client: IpAddr) -> Option<(FilterRule, bool)> {
    let client = Prefix::of(client, u8::MAX);
    let lists = [(&filter.allow, true), (&filter.deny, false)];
    let rules = lists.into_iter().flat_map(|(list, allows)| {
        let containing = list.iter().filter(|prefix| prefix.contains(&client));
        containing.map(move |prefix| (*prefix, allows))
    });
    match rules.max_by_key(|(prefix, _)| prefix.length) {
        Some((prefix, allows)) => Some((FilterRule::Prefix(prefix), allows)),
        None => (!filter.allow.is_empty()).then_some((FilterRule::Others, false)),
    }
}

impl Dataplane for FakeDataplane {
    fn reconcile(&mut self, services: &[Service]) -> Result<(), DataplaneError> {
        let mut state = self.state();
        if let Some(max_services) = state.max_services
            && services.len() > max_services
        {
            return Err(DataplaneError(anyhow::anyhow!(
                "there is room for {max_services} services"
            )));
        }
        state.services = services.to_vec();
        state.reconciled += 1;
        if let Some(left) = state.reconcile_failures.checked_sub(1) {
            state.reconcile_failures = left;
            return Err(DataplaneError(anyhow::anyhow!("the kernel refused a call")));
        }
        if let Some(call) = state.during_reconcile.take() {
            call();
        }
        Ok(())
    }

    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), DataplaneError> {
        let mut state = self.state();
        let missing = state.missing_interface.clone();
        if let Some(name) = missing.filter(|name| settings.interfaces.contains(name)) {
            let sentence = format!("the interface {name} does not exist");
            return Err(DataplaneError(InterfaceError { name, sentence }.into()));
        }
        state.settings = Some(settings.clone());
        let Some(left) = state.configure_failures.checked_sub(1) else {
            return Ok(());
        };
        state.configure_failures = left;
        Err(DataplaneError(anyhow::anyhow!("the interface is gone")))
    }

    fn set_failover_vips(&mut self, vips: &FailoverVips) -> Result<(), DataplaneError> {
        self.state().failover_vips.clone_from(vips);
        Ok(())
    }

    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, DataplaneError> {
        let mut state = self.state();
        let before = state.connections.len();
        state
            .connections
            .retain(|c| c.virtual_address != *service || c.real != real);
        Ok((before - state.connections.len()) as u64)
    }

    fn snapshot(&mut self, service: Option<&ServiceKey>) -> Result<Snapshot, DataplaneError> {
        let mut state = self.state();
        state.snapshots += 1;
        let mut snapshot = state.snapshot.clone();
        let is_wanted = |key: &ServiceKey| service.is_none_or(|wanted| wanted == key);
        snapshot.services.retain(|key, _| is_wanted(key));
        for service in &state.services {
            if !is_wanted(&service.key) {
                continue;
            }
            let shown = snapshot.services.entry(service.key).or_default();
            let kept = state.kept_clients.iter();
            let kept = kept.filter(|client| client.services.contains(&service.key));
            shown.kept_clients = kept.count() as u64;
            for real in &service.reals {
                let of_real =
                    |c: &&Connection| c.virtual_address == service.key && c.real == real.address;
                let all = state.connections.iter().filter(of_real).count() as u64;
                let active = state
                    .connections
                    .iter()
                    .filter(of_real)
                    .filter(|c| c.state.is_active())
                    .count() as u64;
                let counters = shown
                    .reals
                    .get(&real.address)
                    .copied()
                    .unwrap_or_default()
                    .counters;
                shown.reals.insert(
                    real.address,
                    RealSnapshot {
                        active,
                        inactive: all - active,
                        is_full: false,
                        counters,
                    },
                );
            }
        }
        Ok(snapshot)
    }

    fn connections(
        &mut self,
        filter: ConnectionFilter,
    ) -> Result<Listing<Connection>, DataplaneError> {
        let theirs = self.clone();
        Ok(Listing::new(move |take| {
            let connections = theirs.state().connections.clone();
            let matching = connections
                .into_iter()
                .filter(|connection| matches(&filter, connection));
            let limit = filter.limit.unwrap_or(usize::MAX);
            let _ = matching.take(limit).try_for_each(take);
            Ok(())
        }))
    }

    fn close_connections(&mut self, filter: ConnectionFilter) -> Result<Deletion, DataplaneError> {
        let theirs = self.clone();
        Ok(Deletion::new(move || {
            let mut left = filter.limit.unwrap_or(usize::MAX);
            let connections = &mut theirs.state().connections;
            let before = connections.len();
            connections.retain(|connection| {
                let is_closed = left > 0 && matches(&filter, connection);
                left -= usize::from(is_closed);
                !is_closed
            });
            Ok((before - connections.len()) as u64)
        }))
    }

    fn kept_clients(
        &mut self,
        filter: PersistenceFilter,
    ) -> Result<Listing<KeptClient>, DataplaneError> {
        let theirs = self.clone();
        Ok(Listing::new(move |take| {
            let clients = theirs.state().kept_clients.clone();
            let matching = clients.into_iter().filter(|client| keeps(&filter, client));
            let limit = filter.limit.unwrap_or(usize::MAX);
            let _ = matching.take(limit).try_for_each(take);
            Ok(())
        }))
    }

    fn forget_clients(&mut self, filter: PersistenceFilter) -> Result<Deletion, DataplaneError> {
        let theirs = self.clone();
        Ok(Deletion::new(move || {
            let clients = &mut theirs.state().kept_clients;
            let before = clients.len();
            clients.retain(|client| !keeps(&filter, client));
            Ok((before - clients.len()) as u64)
        }))
    }

    fn trace(
        &mut self,
        client: SocketAddr,
        service: &ServiceKey,
    ) -> Result<Traced, DataplaneError> {
        let state = self.state();
        let mut connections = state.connections.iter();
        let own = connections.find(|c| c.client == client && c.virtual_address == *service);
        let services = state.services.iter();
        let mut reals = services
            .filter(|found| found.key == *service)
            .flat_map(|found| &found.reals)
            .filter(|real| real.weight > 0);
        let filter = state.services.iter().find(|found| found.key == *service);
        let filter = filter.map(|service| service.filter.clone());
        let rule = filter.and_then(|filter| rule_for(&filter, client.ip()));
        let is_denied = matches!(rule, Some((_, false)));
        let choice = match (own, reals.next()) {
            (Some(own), _) => Choice::Real(own.real, FoundBy::Connection),
            (None, _) if is_denied => Choice::None(Discard::Denied),
            (None, Some(real)) => Choice::Real(real.address, FoundBy::Scheduler { slot: 0, of: 1 }),
            (None, None) => Choice::None(Discard::NoRealReject),
        };
        let rule = rule.filter(|_| own.is_none()).map(|(rule, _)| rule);
        Ok(Traced {
            choice,
            rule,
            is_full_nat: false,
        })
    }

    fn refused(&mut self) -> Result<u64, DataplaneError> {
        let state = self.state();
        let mut discards = state.discards.iter();
        let found = discards.find(|(reason, _)| *reason == Discard::TableFull);
        Ok(found.map_or(0, |(_, count)| *count))
    }

    fn status(&mut self) -> Result<DataplaneStatus, DataplaneError> {
        let state = self.state();
        let interfaces = state
            .settings
            .iter()
            .flat_map(|settings| &settings.interfaces);
        let count = |reason: Discard| {
            state
                .discards
                .iter()
                .find(|(shown, _)| *shown == reason)
                .map_or(0, |(_, count)| *count)
        };
        Ok(DataplaneStatus {
            interfaces: interfaces
                .enumerate()
                .map(|(index, name)| AttachedInterface {
                    name: name.clone(),
                    native: true,
                    program_id: 42 + index as u32,
                })
                .collect(),
            tables: [true, false].map(|v4| {
                let settings = state.settings.as_ref();
                let most = settings.map_or(0, |settings| {
                    if v4 {
                        settings.max_connections
                    } else {
                        settings.max_connections_ipv6
                    }
                });
                let of_family = |c: &&Connection| c.client.is_ipv4() == v4;
                TableStatus {
                    connections: state.connections.iter().filter(of_family).count() as u64,
                    max_connections: u64::from(most),
                    bytes: u64::from(most) * if v4 { 80 } else { 160 },
                }
            }),
            discards: Discard::ALL
                .iter()
                .map(|reason| (*reason, count(*reason)))
                .collect(),
            redirect_failures: state.redirect_failures,
            warnings: state.warnings.clone(),
            family_warnings: state.family_warnings.clone(),
            obstacles: Arc::new(state.obstacles.clone()),
        })
    }

    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), DataplaneError> {
        self.state().zeroed.push(service.copied());
        Ok(())
    }

    fn local_addresses(&mut self) -> Result<LocalAddresses, DataplaneError> {
        Ok(self.state().local.clone())
    }

    fn watch_failure(&self) -> Option<&str> {
        self.watch_failure.as_deref()
    }

    fn run_maintenance(&mut self) -> Result<(), DataplaneError> {
        let state = self.state();
        let (watch_failure, failure) = (
            state.watch_failure.clone(),
            state.maintenance_failure.clone(),
        );
        drop(state);
        self.watch_failure = watch_failure;
        failure.map_or(Ok(()), |failure| {
            Err(DataplaneError(anyhow::anyhow!(failure)))
        })
    }
}

//! The daemon's reports: services, connections, status.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use super::{Daemon, dataplane_error};
use crate::{
    config::file::ConfigFile,
    control::report::{self, ReportContext},
    dataplane::{DataplaneError, Deletion, Listing},
    host::identity::HostInterfaces,
    model::{
        Model, ServiceKey,
        address::ServiceRef,
        change::{is_saved, mark_runtime},
        condition::Condition,
        connections::ConnectionFilter,
        error::ApiError,
        view,
    },
    netlink::local::Kind,
    os::clock,
    vrrp::report::RouterReport,
};

/// A reload that lasts as long is a reason in `status`.
const SLOW_RELOAD: Duration = Duration::from_secs(5);

/// A list that has not been read yet; reading it may take seconds and belongs on a thread of its own.
#[derive(Debug)]
pub struct ListReport<T> {
    listing: Listing<T>,
    limit: Option<usize>,
}

impl<T: 'static> ListReport<T> {
    /// Reports at most `limit` items of the listing.
    #[must_use]
    pub const fn new(listing: Listing<T>, limit: Option<usize>) -> Self {
        Self { listing, limit }
    }

    /// Passes one item after the other to `take` until that breaks. Returns whether there are more than `limit`.
    ///
    /// # Errors
    /// The list cannot be read to its end.
    pub fn each(self, mut take: impl FnMut(T) -> ControlFlow<()>) -> Result<bool, DataplaneError> {
        let (mut left, mut more) = (self.limit, false);
        self.listing.each(|item| {
            match &mut left {
                Some(0) => {
                    more = true;
                    return ControlFlow::Break(());
                }
                Some(left) => *left -= 1,
                None => {}
            }
            take(item)
        })?;
        Ok(more)
    }

    /// Reads them all; also returns whether there are more.
    ///
    /// # Errors
    /// As for [`ListReport::each`].
    pub fn finished(self) -> Result<(Vec<T>, bool), DataplaneError> {
        let mut items = Vec::new();
        let more = self.each(|item| {
            items.push(item);
            ControlFlow::Continue(())
        })?;
        Ok((items, more))
    }
}

/// Connections that are still to be closed, which may take seconds and belongs on a thread of its own.
#[derive(Debug)]
pub struct CloseReport(Deletion);

impl CloseReport {
    /// Closes them.
    ///
    /// # Errors
    /// The data plane refused; some may be closed.
    pub fn finished(self) -> Result<view::ConnectionsClosed, ApiError> {
        let closed = self.0.make();
        closed
            .map(|closed| view::ConnectionsClosed { closed })
            .map_err(dataplane_error)
    }
}

impl Daemon {
    pub(super) fn services(
        &mut self,
        service: Option<&ServiceRef>,
    ) -> Result<view::Services, ApiError> {
        let key = service.map(|service| self.key(service)).transpose()?;
        let snapshot = self
            .dataplane
            .snapshot(key.as_ref())
            .map_err(dataplane_error)?;
        let services = self.model.services.iter();
        let services = services.filter(|service| key.is_none_or(|key| key == service.key));
        Ok(report::services(services, &self.availability, &snapshot))
    }

    pub(super) fn connections(
        &mut self,
        service: Option<&ServiceRef>,
        mut filter: ConnectionFilter,
    ) -> Result<ListReport<view::Connection>, ApiError> {
        filter.service = service.map(|service| self.key(service)).transpose()?;
        let limit = filter.limit;
        // Reading one more than wanted shows whether there are more.
        filter.limit = limit.map(|limit| limit.saturating_add(1));
        let listing = self
            .dataplane
            .connections(filter)
            .map_err(dataplane_error)?;
        Ok(ListReport::new(listing.map(view::Connection::from), limit))
    }

    pub(super) fn close_connections(
        &mut self,
        service: Option<&ServiceRef>,
        mut filter: ConnectionFilter,
    ) -> Result<CloseReport, ApiError> {
        filter.service = service.map(|service| self.key(service)).transpose()?;
        let deletion = self.dataplane.close_connections(filter);
        deletion.map(CloseReport).map_err(dataplane_error)
    }

    pub(super) fn trace(
        &mut self,
        service: &ServiceRef,
        client: SocketAddr,
    ) -> Result<view::Trace, ApiError> {
        let key = self.key(service)?;
        if client.is_ipv4() != key.address.is_ipv4() {
            return Err(ApiError::invalid(format!(
                "client {client} is not of the family of service {key}: both must be IPv4 or both IPv6"
            )));
        }
        let choice = self
            .dataplane
            .trace(client, &key)
            .map_err(dataplane_error)?;
        let snapshot = self
            .dataplane
            .snapshot(Some(&key))
            .map_err(dataplane_error)?;
        let counted = snapshot.services.get(&key).cloned().unwrap_or_default();
        let service = self.model.service(&key);
        let service =
            service.ok_or_else(|| ApiError::not_found(format!("there is no service {key}")))?;
        Ok(report::trace(service, client, choice, &counted))
    }

    /// Whether the running model differs from the file's.
    pub(super) fn has_runtime_changes(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| !is_saved(&self.model, file.model()))
    }

    /// Whether the running model equals `wanted`.
    pub(super) fn runs(&self, wanted: &Model) -> bool {
        let mut running = self.model.clone();
        mark_runtime(&mut running, Some(wanted));
        is_saved(&running, wanted)
    }

    pub(super) fn status(&mut self) -> Result<view::Status, ApiError> {
        let dataplane = self.dataplane.status().map_err(dataplane_error)?;
        let interfaces = self.host_interfaces(&report::vips(&self.model).collect());
        let report = self.vrrp.report();
        let peers = self.peer_views();
        let routers: Vec<_> = report.routers.into_iter().map(virtual_router).collect();
        let mut peer_problems = self.peer_problems(&peers);
        peer_problems.extend(self.several_active(&routers, &peers));
        let file = self.file.as_ref();
        let context = ReportContext {
            addresses: interfaces.as_ref().map(|all| &all.addresses),
            config: file.map(|file| file.path().display().to_string()),
            runtime_changes: self.has_runtime_changes(),
            failures: self.failures(),
            obstacles: self.checkers.obstacles(),
            is_full: self.conditions.lasts(Condition::TableFull),
            vrrp: routers,
            vrrp_problems: report.problems,
            in_maintenance: self.vrrp.in_maintenance(),
            peer_problems,
            peers,
        };
        let mut status = report::status(&self.model, &self.availability, dataplane, &context);
        status.successor = self.successor(&status);
        status.peer_refusals = self.peer_refusals();
        let links = interfaces.map(|all| all.with_link);
        status.tracked = tracked_interfaces(&self.model, links.as_ref());
        let things = &self.vrrp.tracked().things;
        status.tracked.extend(things.iter().cloned());
        Ok(status)
    }

    /// This host's interfaces; `None` if they cannot be listed. Those of `vips` for which it has a local route count as their addresses.
    pub(super) fn host_interfaces(&mut self, vips: &BTreeSet<IpAddr>) -> Option<HostInterfaces> {
        let mut interfaces = (self.interfaces)()
            .inspect_err(|error| tracing::warn!(%error, "cannot list this host's interfaces"))
            .ok()?;
        if vips.iter().all(|vip| interfaces.addresses.contains(vip)) {
            return Some(interfaces);
        }
        let local = self
            .dataplane
            .local_addresses()
            .inspect_err(|error| tracing::warn!(%error, "cannot list this host's local routes"));
        if let Ok(local) = local {
            let routed = vips
                .iter()
                .filter(|vip| local.kind(**vip) == Some(Kind::Local));
            interfaces.addresses.extend(routed);
        }
        Some(interfaces)
    }

    /// A sentence for each condition of the node, except for a full table, whose sentence the report makes.
    fn failures(&self) -> Vec<String> {
        let sentences = self.conditions.iter().filter_map(|(condition, detail)| {
            Some(match condition {
                Condition::DataplaneOutOfSync => {
                    format!("the data plane is out of sync, the change is tried again each second: {detail}")
                }
                Condition::RoutesUnwatched => format!(
                    "route changes are not watched, so that they take effect some seconds late; watching is tried again: {detail}"
                ),
                Condition::MaintenanceFailed => format!("maintenance failed, it is tried again: {detail}"),
                Condition::ChecksStalled | Condition::FileOutOfSync => detail.to_owned(),
                Condition::TableFull | Condition::NodeDown | Condition::QuorumLost | Condition::RealDown => return None,
            })
        });
        let file = self.file.as_ref();
        let distrust = file.and_then(ConfigFile::distrust_warning);
        sentences
            .chain(self.slow_reload())
            .chain(distrust)
            .collect()
    }

    /// A sentence about a reload whose files do not answer.
    fn slow_reload(&self) -> Option<String> {
        let lasts = clock::now().duration_since(self.reload_began?);
        (lasts >= SLOW_RELOAD).then(|| {
            format!(
                "the configuration file has been loading for {} s, and changes wait for it: it, or a file or user that it names, \
                 does not answer",
                lasts.as_secs()
            )
        })
    }

    pub(super) fn key(&self, service: &ServiceRef) -> Result<ServiceKey, ApiError> {
        key_in(&self.model, service)
    }
}

/// The interfaces without whose link a virtual router is in fault; none if the links are not known.
fn tracked_interfaces(model: &Model, with_link: Option<&HashSet<String>>) -> Vec<view::Tracked> {
    let Some(with_link) = with_link else {
        return Vec::new();
    };
    let routers = model.vrrp.iter();
    let names: BTreeSet<_> = routers
        .flat_map(|router| router.track_interfaces.iter().chain([&router.interface]))
        .collect();
    let tracked = names.into_iter().map(|name| view::Tracked {
        name: format!("interface {name}"),
        up: with_link.contains(name),
    });
    tracked.collect()
}

/// A virtual router as operators see it.
fn virtual_router(report: RouterReport) -> view::VirtualRouter {
    let lasts = clock::now_with_suspend().saturating_duration_since(report.since);
    let since = SystemTime::now().checked_sub(lasts);
    let refused = report.refused.into_iter();
    view::VirtualRouter {
        name: report.name,
        state: report.state,
        reason: report.reason,
        priority: report.priority,
        addresses: report.addresses.iter().map(ToString::to_string).collect(),
        since: clock::utc(since.unwrap_or(SystemTime::UNIX_EPOCH)),
        interface: report.interface,
        router_id: report.router_id,
        group: report.group,
        probes: report.probes,
        active_node: report.active_node.map(|(address, _)| address),
        sent: report.sent,
        received: report.received,
        refused: refused
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
    }
}

/// The key of a service of `model`.
pub(super) fn key_in(model: &Model, service: &ServiceRef) -> Result<ServiceKey, ApiError> {
    let services = &model.services;
    match service {
        ServiceRef::Key(key) if model.service(key).is_some() => Ok(*key),
        ServiceRef::Key(key) => Err(ApiError::not_found(format!(
            "there is no service {key}: `list` shows all"
        ))),
        ServiceRef::Name(name) => services
            .iter()
            .find(|service| service.name.as_ref() == Some(name))
            .map(|service| service.key)
            .ok_or_else(|| {
                ApiError::not_found(format!("there is no service `{name}`: `list` shows all"))
            }),
        ServiceRef::Only => match &services[..] {
            [only] => Ok(only.key),
            [] => Err(ApiError::not_found(
                "there is no service: add one with `add-service`",
            )),
            several => {
                let names: Vec<_> = several.iter().map(report::service_name).collect();
                Err(ApiError::invalid(format!(
                    "say which service: {}",
                    crate::model::enumeration::listed_few(&names)
                )))
            }
        },
    }
}

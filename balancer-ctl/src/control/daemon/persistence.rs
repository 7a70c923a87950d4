//! Which server each client keeps: the report for `balancer-ctl persistence`, and how clients are forgotten.

use std::collections::HashMap;

use super::{Daemon, ListReport, PersistenceQuery, dataplane_error};
use crate::{
    control::report,
    dataplane::{Deletion, KeptClient, PersistenceFilter},
    model::{Model, ServiceKey, VirtualService, error::ApiError, view},
};

/// Clients that are still to be forgotten, which may take seconds and belongs on a thread of its own.
#[derive(Debug)]
pub struct ForgetReport(Deletion);

impl ForgetReport {
    /// Forgets them.
    ///
    /// # Errors
    /// The data plane refused; some may be forgotten.
    pub fn finished(self) -> Result<view::PersistenceDeleted, ApiError> {
        let deleted = self.0.make();
        deleted
            .map(|deleted| view::PersistenceDeleted { deleted })
            .map_err(dataplane_error)
    }
}

/// What services are called, and their groups.
struct Names(HashMap<ServiceKey, (String, Option<String>)>);

impl Names {
    fn of(model: &Model) -> Self {
        let services = model.services.iter().map(|service| {
            let names = (
                report::service_name(service),
                group(service).map(str::to_owned),
            );
            (service.key, names)
        });
        Self(services.collect())
    }

    /// The entry of a client.
    fn entry(&self, client: &KeptClient) -> view::PersistenceEntry {
        let names = client.services.iter().map(|key| (key, self.0.get(key)));
        let known = names.clone().find_map(|(_, names)| names);
        view::PersistenceEntry {
            client: client.client.to_string(),
            group: known.and_then(|(_, group)| group.clone()),
            services: names
                .map(|(key, names)| names.map_or_else(|| key.to_string(), |(name, _)| name.clone()))
                .collect(),
            server: client.server,
            expires_in_ms: u64::try_from(client.expires_in.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn group(service: &VirtualService) -> Option<&str> {
    service.persistence.as_ref()?.group.as_deref()
}

impl Daemon {
    pub(super) fn persistence(
        &mut self,
        query: PersistenceQuery,
    ) -> Result<ListReport<view::PersistenceEntry>, ApiError> {
        let limit = query.limit;
        let mut filter = self.persistence_filter(query)?;
        // Reading one more than wanted shows whether there are more.
        filter.limit = limit.map(|limit| limit.saturating_add(1));
        let clients = self.dataplane.kept_clients(filter);
        let names = Names::of(&self.model);
        let entries = clients
            .map_err(dataplane_error)?
            .map(move |client| names.entry(&client));
        Ok(ListReport::new(entries, limit))
    }

    pub(super) fn forget(&mut self, query: PersistenceQuery) -> Result<ForgetReport, ApiError> {
        let filter = self.persistence_filter(query)?;
        let deletion = self.dataplane.forget_clients(filter);
        deletion.map(ForgetReport).map_err(dataplane_error)
    }

    /// The filter that a query means, without a limit.
    fn persistence_filter(&self, query: PersistenceQuery) -> Result<PersistenceFilter, ApiError> {
        let PersistenceQuery {
            client,
            service,
            group: wanted,
            server,
            limit: _,
        } = query;
        let service = service.map(|service| self.key(&service)).transpose()?;
        let of_group = wanted
            .map(|wanted| self.service_in_group(&wanted, service.as_ref()))
            .transpose()?;
        Ok(PersistenceFilter {
            client,
            // The services of a group share all their clients: one stands for all.
            service: service.or(of_group),
            server,
            limit: None,
        })
    }

    /// A service of a group: `service`, if that is given.
    fn service_in_group(
        &self,
        wanted: &str,
        service: Option<&ServiceKey>,
    ) -> Result<ServiceKey, ApiError> {
        let services = self.model.services.iter();
        let mut in_group = services
            .filter(|service| group(service) == Some(wanted))
            .peekable();
        if in_group.peek().is_none() {
            return Err(ApiError::not_found(format!(
                "no service is in a group `{wanted}`: `list` shows all"
            )));
        }
        let found = in_group.find(|one| service.is_none_or(|wanted| *wanted == one.key));
        found.map(|found| found.key).ok_or_else(|| {
            ApiError::invalid(format!(
                "the service is not in group `{wanted}`: name the service or the group"
            ))
        })
    }
}

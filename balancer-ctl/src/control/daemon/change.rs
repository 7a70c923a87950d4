//! Changes, one or several together: validated, applied, written to the file, published. A refused change
//! leaves everything as it was.

use std::net::SocketAddr;

use super::{ConnectionPolicy, Daemon, Request, Scope, dataplane_error, views::key_in};
use crate::{
    config::{
        file::ConfigFile,
        validate::{own, validate},
    },
    control::availability::Availability,
    model::{
        Model, ServiceKey,
        change::{Batch, Change, SavedBatch, mark_runtime},
        condition::Condition,
        diff::model_diff,
        error::ApiError,
    },
    netlink::local::LocalAddresses,
};

impl Daemon {
    /// Makes changes, all or none: each is applied to the model as the ones before it leave it; the result is validated, given to the
    /// data plane and written to the file once.
    ///
    /// # Errors
    /// One of them is refused, or the result; nothing was changed.
    pub(super) fn change_all(
        &mut self,
        requests: Vec<Request>,
        scope: Scope,
    ) -> Result<Vec<String>, ApiError> {
        let file = self.file.as_ref().filter(|_| scope == Scope::File);
        let mut batch = Batch::new(&self.model, file.map(ConfigFile::model));
        let (mut purged, mut local) = (Vec::new(), None);
        let count = requests.len();
        for (index, request) in requests.into_iter().enumerate() {
            let (change, leftover) = self
                .add_to(&mut batch, request, &mut local)
                .map_err(|refusal| of_batch(refusal, index, count))?;
            if let (Change::DelReal(service, real), ConnectionPolicy::Purge) = (change, leftover) {
                purged.push((service, real));
            }
        }
        let Batch { running, saved } = batch;
        let wanted = valid(running)?;
        let prepared = match (&self.file, saved) {
            (Some(file), Some(SavedBatch { model, changes })) => {
                let after = model.and_then(valid);
                let after = after.map_err(|refusal| unlike_file(file, refusal))?;
                Some(file.prepare(&changes, after)?)
            }
            (_, None) | (None, _) => None,
        };
        let availability = self.availability_after(&wanted);
        if let Err(error) = self.dataplane.reconcile(availability.desired()) {
            return Err(self.roll_back(dataplane_error(error)));
        }
        if let Some(prepared) = prepared {
            match prepared.commit() {
                Ok(file) => self.file = Some(file),
                Err(refusal) => return Err(self.roll_back(refusal)),
            }
        }
        self.commit(wanted, availability);
        // All are purged, even after one that fails.
        let notes: Vec<_> = purged
            .iter()
            .map(|(service, real)| self.purge(service, *real))
            .collect();
        notes.into_iter().collect()
    }

    /// Adds a change to a batch; the request's names are looked up in the batch's running model. `local` holds this host's addresses,
    /// which the first change that needs them queries.
    fn add_to(
        &mut self,
        batch: &mut Batch,
        request: Request,
        local: &mut Option<LocalAddresses>,
    ) -> Result<(Change, ConnectionPolicy), ApiError> {
        let (change, leftover) = resolve(&batch.running, request)?;
        self.refuse_own_address(&change, local)?;
        batch.add(&change)?;
        Ok((change, leftover))
    }

    /// Refuses a new real server that would be this host itself, or a broadcast address.
    fn refuse_own_address(
        &mut self,
        change: &Change,
        local: &mut Option<LocalAddresses>,
    ) -> Result<(), ApiError> {
        let Change::AddReal(key, real, _) = change else {
            return Ok(());
        };
        if self.model.real(key, *real).is_some() {
            return Ok(());
        }
        let local = match local {
            Some(local) => local,
            None => local.insert(self.dataplane.local_addresses().map_err(dataplane_error)?),
        };
        match local.kind(real.ip()) {
            Some(kind) => Err(ApiError::invalid(own::sentence(real.ip(), kind))),
            None => Ok(()),
        }
    }

    /// Restores what the data plane ran before a change that failed, perhaps half way. If that fails as well, it is tried again each
    /// second.
    pub(super) fn roll_back(&mut self, refusal: ApiError) -> ApiError {
        self.resync();
        match self.conditions.detail(Condition::DataplaneOutOfSync) {
            None => refusal,
            Some(detail) => ApiError {
                sentence: format!(
                    "{}; and what ran before could not be restored, which is tried again each second: {}",
                    refusal.sentence, detail
                ),
                ..refusal
            },
        }
    }

    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<String, ApiError> {
        let purged = self.dataplane.purge(service, real).map_err(|error| {
            ApiError::failed(format!(
                "real {real} is deleted, but its connections are still there: {error}"
            ))
        })?;
        let plural = if purged == 1 { "" } else { "s" };
        Ok(format!(
            "{purged} connection{plural} of real {real} deleted"
        ))
    }

    /// Makes a model that the data plane runs the present one, and publishes the differences.
    pub(super) fn commit(&mut self, mut model: Model, availability: Availability) {
        mark_runtime(&mut model, self.file.as_ref().map(ConfigFile::model));
        let old = std::mem::replace(&mut self.model, model);
        let before = std::mem::replace(&mut self.availability, availability);
        if !self.is_misconfigured {
            self.note(Condition::DataplaneOutOfSync, None);
        }
        self.checkers.watch(self.wanted_checkers());
        self.persist_services();
        self.compute_digests();
        self.configure_vrrp();
        if old.peers != self.model.peers || old.node != self.model.node {
            self.configure_peers();
        }
        if let Some(notifier) = &self.notifier {
            notifier.configure(&self.availability.as_reported(&self.model));
        }
        let mut events = model_diff(&old, &self.model);
        events.extend(self.availability.since(&before, &self.model));
        for event in events {
            self.publish(event);
        }
    }
}

/// The change that a request asks for; the names in it are looked up in `model`.
fn resolve(model: &Model, request: Request) -> Result<(Change, ConnectionPolicy), ApiError> {
    let change = match request {
        Request::AddService(key, settings) => Change::AddService(key, settings),
        Request::EditService(service, settings) => {
            Change::EditService(key_in(model, &service)?, settings)
        }
        Request::DelService(service) => Change::DelService(key_in(model, &service)?),
        Request::AddReal(service, real, settings) => {
            let key = key_in(model, &service)?;
            Change::AddReal(key, real.within(&key), settings)
        }
        Request::EditReal(service, real, settings) => {
            let key = key_in(model, &service)?;
            Change::EditReal(key, real.within(&key), settings)
        }
        Request::DelReal(service, real, leftover) => {
            let key = key_in(model, &service)?;
            return Ok((Change::DelReal(key, real.within(&key)), leftover));
        }
        Request::Clear => Change::Clear,
    };
    Ok((change, ConnectionPolicy::Keep))
}

/// Says which change of a batch was refused.
fn of_batch(refusal: ApiError, index: usize, count: usize) -> ApiError {
    if count == 1 {
        return refusal;
    }
    let sentence = format!("change {} of {count}: {}", index + 1, refusal.sentence);
    ApiError {
        sentence,
        ..refusal
    }
}

/// The refusal of a change that fits the running model but not the file's.
fn unlike_file(file: &ConfigFile, refusal: ApiError) -> ApiError {
    // What follows the colon is a remedy for the running model, not for the file.
    let (sentence, _) = refusal
        .sentence
        .split_once(": ")
        .unwrap_or((&refusal.sentence, ""));
    ApiError {
        sentence: format!(
            "what runs differs from {} (changes made with --runtime), where {sentence}: use --runtime, or \
             `balancer-ctl reload` to go back to the file",
            file.path().display()
        ),
        ..refusal
    }
}

fn valid(model: Model) -> Result<Model, ApiError> {
    match validate(&model).into_iter().next() {
        None => Ok(model),
        Some(problem) => Err(ApiError::invalid(problem.sentence)),
    }
}

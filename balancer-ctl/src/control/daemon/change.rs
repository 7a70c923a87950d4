//! Changes: validated, applied, written to the file, published. A refused change has changed nothing.

use super::{ConnectionPolicy, Daemon, Request, Scope, dataplane_error};
use crate::{
    config::{
        file::ConfigFile,
        validate::{own, validate},
    },
    control::availability::Availability,
    model::{
        Model,
        change::{Change, PersistencePlan, mark_runtime},
        condition::Condition,
        diff::model_diff,
        error::ApiError,
    },
};

impl Daemon {
    /// Validates a change, applies it and writes it to the file.
    ///
    /// # Errors
    /// It is refused; nothing was changed.
    pub(super) fn change(
        &mut self,
        request: Request,
        scope: Scope,
    ) -> Result<Vec<String>, ApiError> {
        let (change, leftover) = self.resolve(request)?;
        self.refuse_own_address(&change)?;
        let (wanted, prepared) = match (&self.file, scope) {
            (Some(file), Scope::File) => {
                let PersistencePlan { running, saved } =
                    PersistencePlan::new(&change, &self.model, file.model());
                let wanted = match running {
                    Some(running) => valid(running.apply(&self.model)?)?,
                    None => self.model.clone(),
                };
                let after = saved
                    .apply(file.model())
                    .and_then(valid)
                    .map_err(|refusal| unlike_file(file, refusal))?;
                (wanted, Some(file.prepare(&saved, after)?))
            }
            (None, _) | (_, Scope::Runtime) => (valid(change.apply(&self.model)?)?, None),
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
        self.purge(&change, leftover)
    }

    /// Refuses a new real server that would be this host itself, or a broadcast address.
    fn refuse_own_address(&mut self, change: &Change) -> Result<(), ApiError> {
        let Change::AddReal(key, real, _) = change else {
            return Ok(());
        };
        if self.model.real(key, *real).is_some() {
            return Ok(());
        }
        let local = self.dataplane.local_addresses().map_err(dataplane_error)?;
        match local.kind(real.ip()) {
            Some(kind) => Err(ApiError::invalid(own::sentence(real.ip(), kind))),
            None => Ok(()),
        }
    }

    /// Gives the data plane back what it ran before a change that failed, perhaps half way. If that fails as well, it is tried again
    /// each second.
    pub(super) fn roll_back(&mut self, refusal: ApiError) -> ApiError {
        self.resync();
        match self.conditions.detail(Condition::DataplaneOutOfSync) {
            None => refusal,
            Some(detail) => ApiError {
                sentence: format!(
                    "{}; and what ran before could not be brought back, which is tried again: {}",
                    refusal.sentence, detail
                ),
                ..refusal
            },
        }
    }

    fn purge(
        &mut self,
        change: &Change,
        leftover: ConnectionPolicy,
    ) -> Result<Vec<String>, ApiError> {
        let (Change::DelReal(service, real), ConnectionPolicy::Purge) = (change, leftover) else {
            return Ok(Vec::new());
        };
        let purged = self.dataplane.purge(service, *real).map_err(|error| {
            ApiError::failed(format!(
                "real {real} is deleted, but its connections are still there: {error}"
            ))
        })?;
        let plural = if purged == 1 { "" } else { "s" };
        Ok(vec![format!(
            "{purged} connection{plural} of real {real} deleted"
        )])
    }

    /// Makes a model that the data plane runs the present one, and publishes the differences.
    pub(super) fn commit(&mut self, mut model: Model, availability: Availability) {
        mark_runtime(&mut model, self.file.as_ref().map(ConfigFile::model));
        let old = std::mem::replace(&mut self.model, model);
        let before = std::mem::replace(&mut self.availability, availability);
        if !self.is_misconfigured {
            self.note(Condition::DataplaneOutOfSync, None);
        }
        self.checkers.watch(self.availability.checkers());
        self.persist_services();
        if let Some(notifier) = &self.notifier {
            notifier.configure(&self.availability.as_reported(&self.model));
        }
        let mut events = model_diff(&old, &self.model);
        events.extend(self.availability.since(&before, &self.model));
        for event in events {
            self.publish(event);
        }
    }

    fn resolve(&self, request: Request) -> Result<(Change, ConnectionPolicy), ApiError> {
        let change = match request {
            Request::AddService(key, settings) => Change::AddService(key, settings),
            Request::EditService(service, settings) => {
                Change::EditService(self.key(&service)?, settings)
            }
            Request::DelService(service) => Change::DelService(self.key(&service)?),
            Request::AddReal(service, real, settings) => {
                let key = self.key(&service)?;
                Change::AddReal(key, real.within(&key), settings)
            }
            Request::EditReal(service, real, settings) => {
                let key = self.key(&service)?;
                Change::EditReal(key, real.within(&key), settings)
            }
            Request::DelReal(service, real, leftover) => {
                let key = self.key(&service)?;
                return Ok((Change::DelReal(key, real.within(&key)), leftover));
            }
            Request::Clear => Change::Clear,
        };
        Ok((change, ConnectionPolicy::Keep))
    }
}

/// Refuses a change that fits the running model and not the file's.
fn unlike_file(file: &ConfigFile, refusal: ApiError) -> ApiError {
    // The mend behind the colon is one for what runs.
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

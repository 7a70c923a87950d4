//! Changes, one or several together: validated, applied, written to the file, published. A refused change
//! leaves everything as it was.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

use super::{ConnectionPolicy, Daemon, Request, Scope, dataplane_error, views::key_in};
use crate::{
    config::{
        file::{ConfigFile, Prepared, PreviousFile},
        validate::{own, validate},
    },
    control::{
        availability::Availability,
        report::{self, vips_without_interface},
    },
    model::{
        Check, Model, ServiceKey,
        address::ServiceRef,
        change::{Batch, Change, SavedBatch, mark_runtime},
        check::Probe,
        condition::Condition,
        diff::model_diff,
        error::ApiError,
        view,
    },
    netlink::local::LocalAddresses,
    os::shell,
};

impl Daemon {
    /// Makes changes, all or none: each is applied to the model as the ones before it leave it; the result is validated, given to the
    /// data plane and written to the file once.
    ///
    /// # Errors
    /// One of them is refused, or the result, or they would be written to a file whose services another node sends; nothing was changed.
    pub(super) fn change_all(
        &mut self,
        requests: Vec<Request>,
        scope: Scope,
    ) -> Result<view::ChangeResult, ApiError> {
        let file = self.file_to_write(scope)?;
        let mut batch = Batch::new(&self.model, file.map(ConfigFile::model));
        let (mut purged, mut added, mut local) = (Vec::new(), BTreeSet::new(), None);
        let count = requests.len();
        let clears = requests
            .iter()
            .any(|request| matches!(request, Request::Clear));
        let cleared = clears.then_some(self.model.services.len());
        for (index, request) in requests.into_iter().enumerate() {
            let (change, leftover) = self
                .add_to(&mut batch, request, &mut local)
                .map_err(|refusal| of_batch(refusal, index, count))?;
            added.extend(change.new_vip());
            if let (Change::DelReal(service, real), ConnectionPolicy::Purge) = (change, leftover) {
                purged.push((service, real));
            }
        }
        let Batch { running, saved } = batch;
        let previous = self.run_models(running, saved)?;
        // All are purged, even after one that fails.
        let notes: Vec<_> = purged
            .iter()
            .map(|(service, real)| self.purge(service, *real))
            .collect();
        let way_back = cleared.map(|count| self.way_back(count, scope, &previous));
        let notes = notes.into_iter().chain(way_back.map(Ok));
        Ok(view::ChangeResult {
            notes: notes.collect::<Result<_, _>>()?,
            warnings: self.warnings(previous, added),
        })
    }

    /// The file that a change is written to; `None` if it is written to none.
    ///
    /// # Errors
    /// Another node sends the file's services: which, and what to do.
    pub(super) fn file_to_write(&self, scope: Scope) -> Result<Option<&ConfigFile>, ApiError> {
        let file = self.file.as_ref().filter(|_| scope == Scope::File);
        let Some(file) = file else { return Ok(None) };
        match self.sender() {
            None => Ok(Some(file)),
            Some(sender) => Err(ApiError::conflict(format!(
                "{} is Active and sends its services to this node: make the change there, or with --runtime",
                sender.name
            ))),
        }
    }

    /// What keeps a change that was made from having its effect, or its way back: `vips` are those of services that it added.
    pub(super) fn warnings(
        &mut self,
        previous: PreviousFile,
        vips: BTreeSet<IpAddr>,
    ) -> Vec<String> {
        let mut warnings = self.uncarried(vips);
        if let PreviousFile::Lost(sentence) = previous {
            warnings.push(sentence);
        }
        warnings
    }

    /// A warning for each of these VIPs that no packet comes for.
    fn uncarried(&mut self, vips: BTreeSet<IpAddr>) -> Vec<String> {
        if vips.is_empty() {
            return Vec::new();
        }
        let interfaces = self.host_interfaces(&vips);
        interfaces.map_or_else(Vec::new, |interfaces| {
            vips_without_interface(&self.model, vips.into_iter(), &interfaces.addresses)
        })
    }

    /// What is said when so many services, which were all, have been deleted: how they come back.
    fn way_back(&self, count: usize, scope: Scope, previous: &PreviousFile) -> String {
        let gone = match count {
            0 => return "there was no service".to_owned(),
            1 => "1 service deleted".to_owned(),
            count => format!("{count} services deleted"),
        };
        match (&self.file, scope) {
            (Some(_), Scope::Runtime) => {
                format!("{gone}: `balancer-ctl reload` brings back those of the file")
            }
            (Some(file), Scope::File) if *previous == PreviousFile::Kept => format!(
                "{gone}: `cp {} {}`, then `balancer-ctl reload` brings back those of the file",
                shell::path(&file.previous()),
                shell::path(file.path())
            ),
            (Some(_), Scope::File) | (None, _) => gone,
        }
    }

    /// Validates what shall run and what the file shall say, gives the first to the data plane and writes the second. Returns what became of
    /// the file as it was before.
    ///
    /// # Errors
    /// One of them is refused; nothing was changed.
    pub(super) fn run_models(
        &mut self,
        running: Model,
        saved: Option<SavedBatch>,
    ) -> Result<PreviousFile, ApiError> {
        let (wanted, prepared) = self.prepare_models(running, saved)?;
        let availability = self.availability_after(&wanted);
        if let Err(error) = self.dataplane.reconcile(availability.desired()) {
            return Err(self.roll_back(dataplane_error(error)));
        }
        let mut previous = PreviousFile::NotReplaced;
        if let Some(prepared) = prepared {
            match prepared.commit() {
                Ok((file, became)) => {
                    self.take_file(file);
                    previous = became;
                }
                Err(refusal) => return Err(self.roll_back(refusal)),
            }
        }
        self.commit(wanted, availability);
        Ok(previous)
    }

    /// Validates what shall run and what the file shall say, and writes the second beside the file.
    ///
    /// # Errors
    /// One of them is refused.
    pub(super) fn prepare_models(
        &self,
        running: Model,
        saved: Option<SavedBatch>,
    ) -> Result<(Model, Option<Prepared>), ApiError> {
        let wanted = valid(running)?;
        self.refuse_new_programs(&wanted)?;
        let prepared = match (&self.file, saved) {
            (Some(file), Some(SavedBatch { model, changes })) => {
                let after = model.and_then(valid);
                let after = after.map_err(|refusal| unlike_file(file, refusal))?;
                Some(file.prepare(&changes, after)?)
            }
            (_, None) | (None, _) => None,
        };
        Ok((wanted, prepared))
    }

    /// Refuses checks that run a program and that do not run yet, where they would not run, or not after the next load of the file.
    fn refuse_new_programs(&self, wanted: &Model) -> Result<(), ApiError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let present: HashSet<_> = programs(&self.model).collect();
        if programs(wanted).all(|check| present.contains(check)) {
            return Ok(());
        }
        file.require_trust()
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
    pub(super) fn refuse_own_address(
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
        if let Some(notifier) = &self.notifier {
            notifier.configure(&self.reported());
        }
        let mut events = model_diff(&old, &self.model);
        events.extend(self.availability.since(&before, &self.model));
        for event in events {
            self.publish(event);
        }
    }
}

/// The checks that run a program.
pub(super) fn programs(model: &Model) -> impl Iterator<Item = &Check> {
    let checks = model.services.iter().flat_map(|service| &service.checks);
    checks.filter(|check| matches!(check.probe, Probe::Exec(_)))
}

/// The change that a request asks for; the names in it are looked up in `model`.
fn resolve(model: &Model, request: Request) -> Result<(Change, ConnectionPolicy), ApiError> {
    let change = match request {
        Request::AddService(key, settings) => Change::AddService(key, settings),
        Request::EditService(service, settings) => {
            Change::EditService(key_in(model, &service)?, settings)
        }
        Request::DelService(service) => {
            let key = key_in(model, &service)?;
            if service == ServiceRef::Only {
                let name = model.service(&key).map(report::service_name);
                return Err(ApiError::invalid(format!(
                    "say which service, even if it is the only one: `{}`",
                    name.unwrap_or_default()
                )));
            }
            Change::DelService(key)
        }
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

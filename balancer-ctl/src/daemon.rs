//! The daemon: the one owner of the model, the configuration file and the data plane. Others ask it by
//! message.
//!
//! ```text
//!  API tasks ──Message (bounded, they wait)──▶ daemon ──▶ data plane, configuration file
//!       ▲                                       │
//!       └──────Event (a slow reader loses)──────┘
//! ```

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use balancer_common::verdict::Discard;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tracing::Level;

use crate::{
    address::{RealRef, ServiceRef},
    availability::{Availability, watched},
    change::{Change, Lasting, RealSettings, ServiceSettings, is_saved, mark_runtime},
    clock,
    config::{file::ConfigFile, validate::validate, write::check_as_json},
    dataplane::{ConnectionFilter, Dataplane},
    difference::{Happened, difference},
    error::Refusal,
    health::{Checkers, Update, Watched},
    model::{Model, ServiceKey},
    notify::Notifier,
    overview::{self, Surroundings},
    systemd,
    view::{self, EventKind},
};

/// Messages that may wait; when all places are taken, those who ask wait.
pub const MESSAGES: usize = 64;
/// Events that a reader may lag behind before it loses some.
pub const EVENTS: usize = 1024;
/// How often the state of the whole is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Where the answer to a message goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the daemon can be asked.
#[derive(Debug)]
pub enum Message {
    /// To change the model.
    Change(Request, Scope, Reply<Vec<String>>),
    /// For the services, or one.
    Services(Option<ServiceRef>, Reply<view::Services>),
    /// For connections; a service is named as operators do.
    Connections(
        Option<ServiceRef>,
        ConnectionFilter,
        Reply<view::Connections>,
    ),
    /// For all checkers, or those of one service.
    Health(Option<ServiceRef>, Reply<HealthReport>),
    /// For the status.
    Status(Reply<view::Status>),
    /// To load the configuration file again.
    Reload(Reply<()>),
    /// What checkers found.
    Found(Vec<Update>),
    /// To set the counters of a service, or all, to zero.
    Zero(Option<ServiceRef>, Reply<()>),
    /// To stop; forwarding goes on.
    Stop,
}

/// A change as operators name it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Adds a virtual service.
    AddService(ServiceKey, ServiceSettings),
    /// Changes a virtual service.
    EditService(ServiceRef, ServiceSettings),
    /// Deletes a virtual service.
    DelService(ServiceRef),
    /// Adds a real server.
    AddReal(ServiceRef, RealRef, RealSettings),
    /// Changes a real server.
    EditReal(ServiceRef, RealRef, RealSettings),
    /// Deletes a real server.
    DelReal(ServiceRef, RealRef, Leftover),
    /// Deletes all services.
    Clear,
}

/// What becomes of a deleted real server's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// They go on until they end.
    Keep,
    /// They are deleted at once.
    Purge,
}

/// How long a change lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is written to the configuration file, where there is one.
    File,
    /// It is forgotten at the next load of the file.
    Runtime,
}

/// What is known of the checkers, once they have said it.
#[derive(Debug)]
pub struct HealthReport {
    checkers: oneshot::Receiver<Vec<view::Checker>>,
    /// Who uses each checker that was asked for.
    used_by: HashMap<(SocketAddr, serde_json::Value), Vec<String>>,
}

impl HealthReport {
    /// Waits for the checkers.
    ///
    /// # Errors
    /// They are gone.
    pub async fn finished(mut self) -> Result<view::Health, Refusal> {
        let checkers = self.checkers.await;
        let mut checkers =
            checkers.map_err(|_| Refusal::failed("the checkers do not answer".to_owned()))?;
        checkers.retain_mut(|checker| {
            let users = self
                .used_by
                .remove(&(checker.target, checker.check.clone()));
            checker.used_by = users.unwrap_or_default();
            !checker.used_by.is_empty()
        });
        checkers.sort_by(|a, b| (&a.used_by, a.target).cmp(&(&b.used_by, b.target)));
        Ok(view::Health { checkers })
    }
}

/// What a checker is known by to those who ask for it.
fn identity(watched: &Watched) -> (SocketAddr, serde_json::Value) {
    (watched.target, check_as_json(&watched.check))
}

/// What a daemon is made of.
pub struct Parts {
    /// The data plane, open.
    pub dataplane: Box<dyn Dataplane>,
    /// What probes.
    pub checkers: Box<dyn Checkers>,
    /// What tells programs; `None` in tests.
    pub notifier: Option<Notifier>,
    /// The configuration file, if there is one.
    pub file: Option<ConfigFile>,
    /// What is to run first.
    pub model: Model,
    /// What health allows of it; the data plane begins with that.
    pub availability: Availability,
    /// Where events go.
    pub events: broadcast::Sender<view::Event>,
    /// Reads this host's addresses.
    pub addresses: fn() -> io::Result<HashSet<IpAddr>>,
}

/// The daemon's state.
pub struct Daemon {
    dataplane: Box<dyn Dataplane>,
    checkers: Box<dyn Checkers>,
    notifier: Option<Notifier>,
    availability: Availability,
    /// The data plane does not run what it should: its last change failed.
    is_behind: bool,
    /// What runs.
    model: Model,
    file: Option<ConfigFile>,
    events: broadcast::Sender<view::Event>,
    addresses: fn() -> io::Result<HashSet<IpAddr>>,
    /// The data plane's last failure in the background; `None` = the last attempt succeeded.
    failure: Option<String>,
    refused: u64,
    is_full: bool,
}

impl Daemon {
    /// Brings the data plane to what the file says, or without one to `model`.
    ///
    /// # Errors
    /// The data plane refused it.
    pub fn start(parts: Parts) -> Result<Self, Refusal> {
        let Parts {
            mut dataplane,
            mut checkers,
            notifier,
            file,
            mut model,
            availability,
            events,
            addresses,
        } = parts;
        mark_runtime(&mut model, file.as_ref().map(ConfigFile::model));
        dataplane.configure(&model.dataplane).map_err(refused)?;
        dataplane
            .reconcile(availability.desired())
            .map_err(refused)?;
        checkers.watch(availability.checkers());
        let mut daemon = Self {
            dataplane,
            checkers,
            notifier,
            availability,
            is_behind: false,
            model,
            file,
            events,
            addresses,
            failure: None,
            refused: 0,
            is_full: false,
        };
        daemon.take_up_troubles();
        let status = daemon.status()?;
        daemon.refused = table_full(&status);
        for reason in &status.reasons {
            tracing::warn!("{reason}");
        }
        Ok(daemon)
    }

    /// Makes known to those who tell programs which troubles an earlier daemon knew, so that their end is told.
    fn take_up_troubles(&self) {
        let Some(notifier) = &self.notifier else {
            return;
        };
        notifier.configure(&self.model);
        let before = Availability::default();
        for happened in self.availability.since(&before, &self.model) {
            if matches!(happened.kind, EventKind::RealDown | EventKind::QuorumLost) {
                notifier.assume(happened.event());
            }
        }
    }

    /// Answers messages until it is told to stop. Forwarding goes on afterwards.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tend = clock::now();
        loop {
            // The data plane may block for milliseconds; the API's tasks go on meanwhile.
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Stop) | None => break,
                    Some(message) => tokio::task::block_in_place(|| self.answer(message)),
                },
                () = at(self.availability.next_deadline()) => tokio::task::block_in_place(|| self.advance()),
                () = at(Some(tend)) => {
                    tokio::task::block_in_place(|| self.tend());
                    tend = clock::now() + self.dataplane.next_tend();
                }
                _ = tick.tick() => tokio::task::block_in_place(|| self.tick()),
            }
        }
        systemd::stopping();
        self.publish(Happened {
            kind: EventKind::Stopping,
            service: None,
            real: None,
            message: "forwarding goes on".to_owned(),
        });
        if let Some(notifier) = self.notifier {
            notifier.stop().await;
        }
    }

    /// Answers one message. Whoever asked may be gone, which is no error.
    pub fn answer(&mut self, message: Message) {
        match message {
            Message::Change(request, scope, reply) => drop(reply.send(self.change(request, scope))),
            Message::Services(service, reply) => drop(reply.send(self.services(service.as_ref()))),
            Message::Connections(service, filter, reply) => {
                drop(reply.send(self.connections(service.as_ref(), filter)));
            }
            Message::Health(service, reply) => drop(reply.send(self.health(service.as_ref()))),
            Message::Status(reply) => drop(reply.send(self.status())),
            Message::Found(updates) => {
                let happened = self.availability.update(&self.model, updates, clock::now());
                self.follow_health(happened);
            }
            Message::Reload(reply) => drop(reply.send(self.reload())),
            Message::Zero(service, reply) => drop(reply.send(self.zero(service.as_ref()))),
            // The loop sees to it.
            Message::Stop => {}
        }
    }

    /// Validates a change, applies it, writes it; whatever is refused, nothing was changed.
    fn change(&mut self, request: Request, scope: Scope) -> Result<Vec<String>, Refusal> {
        let (change, leftover) = self.resolve(request)?;
        let (wanted, prepared) = match (&self.file, scope) {
            (Some(file), Scope::File) => {
                let Lasting { running, saved } = Lasting::new(&change, &self.model, file.model());
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
            return Err(self.back(refused(error)));
        }
        if let Some(prepared) = prepared {
            match prepared.commit() {
                Ok(file) => self.file = Some(file),
                Err(refusal) => return Err(self.back(refusal)),
            }
        }
        self.adopt(wanted, availability);
        self.purge(&change, leftover)
    }

    /// Brings the data plane back to what ran before a change that failed, perhaps half way.
    fn back(&mut self, refusal: Refusal) -> Refusal {
        match self.dataplane.reconcile(self.availability.desired()) {
            Ok(()) => refusal,
            Err(error) => Refusal {
                sentence: format!(
                    "{}; and what ran before could not be brought back: {error}",
                    refusal.sentence
                ),
                ..refusal
            },
        }
    }

    fn purge(&mut self, change: &Change, leftover: Leftover) -> Result<Vec<String>, Refusal> {
        let (Change::DelReal(service, real), Leftover::Purge) = (change, leftover) else {
            return Ok(Vec::new());
        };
        let purged = self.dataplane.purge(service, *real).map_err(|error| {
            Refusal::failed(format!(
                "real {real} is deleted, but its connections are still there: {error}"
            ))
        })?;
        let plural = if purged == 1 { "" } else { "s" };
        Ok(vec![format!(
            "{purged} connection{plural} of real {real} deleted"
        )])
    }

    /// Takes the new model over and tells what it changes.
    fn adopt(&mut self, mut model: Model, availability: Availability) {
        mark_runtime(&mut model, self.file.as_ref().map(ConfigFile::model));
        let old = std::mem::replace(&mut self.model, model);
        let before = std::mem::replace(&mut self.availability, availability);
        self.is_behind = false;
        self.checkers.watch(self.availability.checkers());
        if let Some(notifier) = &self.notifier {
            notifier.configure(&self.model);
        }
        let mut happened = difference(&old, &self.model);
        happened.extend(self.availability.since(&before, &self.model));
        for happened in happened {
            self.publish(happened);
        }
    }

    fn resolve(&self, request: Request) -> Result<(Change, Leftover), Refusal> {
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
        Ok((change, Leftover::Keep))
    }

    fn key(&self, service: &ServiceRef) -> Result<ServiceKey, Refusal> {
        let services = &self.model.services;
        match service {
            ServiceRef::Key(key) if self.model.service(key).is_some() => Ok(*key),
            ServiceRef::Key(key) => Err(Refusal::not_found(format!(
                "there is no service {key}: `list` shows all"
            ))),
            ServiceRef::Name(name) => services
                .iter()
                .find(|service| service.name.as_ref() == Some(name))
                .map(|service| service.key)
                .ok_or_else(|| {
                    Refusal::not_found(format!("there is no service `{name}`: `list` shows all"))
                }),
            ServiceRef::Only => match &services[..] {
                [only] => Ok(only.key),
                [] => Err(Refusal::not_found(
                    "there is no service: add one with `add-service`",
                )),
                several => {
                    let names: Vec<_> = several.iter().map(overview::service_name).collect();
                    Err(Refusal::invalid(format!(
                        "say which service: {}",
                        crate::sentence::listed_few(&names)
                    )))
                }
            },
        }
    }

    fn services(&mut self, service: Option<&ServiceRef>) -> Result<view::Services, Refusal> {
        let key = service.map(|service| self.key(service)).transpose()?;
        let snapshot = self.dataplane.snapshot().map_err(refused)?;
        let mut services = overview::services(&self.model, &self.availability, &snapshot);
        if let Some(key) = key {
            services.services.retain(|service| {
                service.protocol == key.protocol && service.address == key.address
            });
        }
        Ok(services)
    }

    fn connections(
        &mut self,
        service: Option<&ServiceRef>,
        mut filter: ConnectionFilter,
    ) -> Result<view::Connections, Refusal> {
        filter.service = service.map(|service| self.key(service)).transpose()?;
        let limit = filter.limit;
        // One more than wanted shows whether there are more.
        filter.limit = limit.map(|limit| limit.saturating_add(1));
        let mut connections = self.dataplane.connections(&filter).map_err(refused)?;
        let more = limit.is_some_and(|limit| connections.len() > limit);
        connections.truncate(limit.unwrap_or(usize::MAX));
        let connections = connections.iter().map(|connection| view::Connection {
            protocol: connection.virtual_address.protocol,
            state: connection.state.name().to_owned(),
            expires_in_ms: u64::try_from(connection.expires_in.as_millis()).unwrap_or(u64::MAX),
            client: connection.client,
            virtual_address: connection.virtual_address.address,
            real: connection.real,
        });
        Ok(view::Connections {
            connections: connections.collect(),
            more,
        })
    }

    fn health(&self, service: Option<&ServiceRef>) -> Result<HealthReport, Refusal> {
        let key = service.map(|service| self.key(service)).transpose()?;
        let (reply, checkers) = oneshot::channel();
        self.checkers.report(reply);
        let mut used_by: HashMap<_, Vec<_>> = HashMap::new();
        for service in &self.model.services {
            if key.is_some_and(|key| key != service.key) {
                continue;
            }
            for real in &service.reals {
                for watched in watched(service, real) {
                    let user = format!("{} {}", overview::service_name(service), real.address);
                    used_by.entry(identity(&watched)).or_default().push(user);
                }
            }
        }
        Ok(HealthReport { checkers, used_by })
    }

    fn status(&mut self) -> Result<view::Status, Refusal> {
        let dataplane = self.dataplane.status().map_err(refused)?;
        let addresses = (self.addresses)()
            .inspect_err(|error| tracing::warn!(%error, "cannot read this host's addresses"))
            .ok();
        let file = self.file.as_ref();
        let surroundings = Surroundings {
            addresses: addresses.as_ref(),
            config: file.map(|file| file.path().display().to_string()),
            runtime_changes: file.is_some_and(|file| !is_saved(&self.model, file.model())),
            failure: self.failure.as_deref(),
            is_full: self.is_full,
        };
        Ok(overview::status(
            &self.model,
            &self.availability,
            dataplane,
            &surroundings,
        ))
    }

    /// Loads the configuration file again; when it cannot be applied, what ran goes on running.
    fn reload(&mut self) -> Result<(), Refusal> {
        systemd::reloading();
        let result = self.load();
        systemd::ready();
        let (kind, message) = match &result {
            Ok(()) => (EventKind::Reloaded, String::new()),
            Err(refusal) => (EventKind::ReloadFailed, refusal.to_string()),
        };
        self.publish(Happened {
            kind,
            service: None,
            real: None,
            message,
        });
        result
    }

    fn load(&mut self) -> Result<(), Refusal> {
        let Some(file) = &self.file else {
            return Err(Refusal::invalid(
                "there is no configuration file to load: start balancerd with --config FILE",
            ));
        };
        let file = file
            .reload()
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let wanted = file.model().clone();
        self.dataplane
            .configure(&wanted.dataplane)
            .map_err(refused)?;
        let availability = self.availability_after(&wanted);
        if let Err(error) = self.dataplane.reconcile(availability.desired()) {
            self.dataplane
                .configure(&self.model.dataplane)
                .map_err(refused)?;
            return Err(refused(error));
        }
        self.file = Some(file);
        self.adopt(wanted, availability);
        Ok(())
    }

    fn zero(&mut self, service: Option<&ServiceRef>) -> Result<(), Refusal> {
        let key = service.map(|service| self.key(service)).transpose()?;
        if key.is_none() {
            self.refused = 0;
        }
        self.dataplane.zero(key.as_ref()).map_err(refused)
    }

    fn availability_after(&self, wanted: &Model) -> Availability {
        let remembered = |watched: &Watched| self.checkers.remembered(watched);
        self.availability.after(wanted, remembered, clock::now())
    }

    fn advance(&mut self) {
        let happened = self.availability.advance(&self.model, clock::now());
        self.follow_health(happened);
    }

    /// Brings the data plane to what health allows now, and tells what happened.
    fn follow_health(&mut self, happened: Vec<Happened>) {
        let result = self.dataplane.reconcile(self.availability.desired());
        if let Err(error) = &result {
            tracing::error!(%error, "the data plane does not follow health, trying again");
        }
        self.is_behind = result.is_err();
        for happened in happened {
            self.publish(happened);
        }
    }

    /// Does what the data plane has due.
    fn tend(&mut self) {
        let failure = self.dataplane.tend().err().map(|error| error.to_string());
        if failure != self.failure {
            match &failure {
                Some(failure) => {
                    tracing::error!(failure, "cannot tend the data plane, trying again")
                }
                None => tracing::info!("the data plane is tended again"),
            }
        }
        self.failure = failure;
    }

    /// Does what is due each second.
    fn tick(&mut self) {
        if self.is_behind {
            self.follow_health(Vec::new());
        }
        if let Ok(status) = self.dataplane.status() {
            let refused = status
                .discards
                .iter()
                .find(|(reason, _)| *reason == Discard::TableFull)
                .map_or(0, |(_, count)| *count);
            self.watch_table(refused, status.connections, status.max_connections);
        }
        systemd::alive();
    }

    /// Tells when new connections begin to be refused for want of room, and when there is room again.
    fn watch_table(&mut self, refused: u64, connections: u64, most: u64) {
        let refuses = refused > std::mem::replace(&mut self.refused, refused);
        let is_full = refuses || (self.is_full && connections >= most);
        if is_full == std::mem::replace(&mut self.is_full, is_full) {
            return;
        }
        let kind = if is_full {
            EventKind::TableFull
        } else {
            EventKind::TableHasRoom
        };
        self.publish(Happened {
            kind,
            service: None,
            real: None,
            message: format!("{connections} of {most} connections"),
        });
    }

    fn publish(&self, happened: Happened) {
        let service = happened.service.as_deref();
        let real = happened.real.map(|real| real.to_string());
        let real = real.as_deref();
        let detail = Some(happened.message.as_str()).filter(|message| !message.is_empty());
        let sentence = happened.kind.sentence();
        match happened.kind.level() {
            Level::ERROR => tracing::error!(service, real, detail, "{sentence}"),
            Level::WARN => tracing::warn!(service, real, detail, "{sentence}"),
            _ => tracing::info!(service, real, detail, "{sentence}"),
        }
        let event = happened.event();
        if let Some(notifier) = &self.notifier {
            notifier.tell(event.clone());
        }
        // No one may be following.
        let _ = self.events.send(event);
    }
}

/// Waits until then; without a time, for ever.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn table_full(status: &view::Status) -> u64 {
    status
        .dataplane
        .discards
        .get(Discard::TableFull.name())
        .copied()
        .unwrap_or_default()
}

/// A change that what runs would take and the file would not.
fn unlike_file(file: &ConfigFile, refusal: Refusal) -> Refusal {
    // The mend behind the colon is one for what runs.
    let (sentence, _) = refusal
        .sentence
        .split_once(": ")
        .unwrap_or((&refusal.sentence, ""));
    Refusal {
        sentence: format!(
            "what runs differs from {} (changes made with --runtime), where {sentence}: use --runtime, or \
             `balancer-ctl reload` to go back to the file",
            file.path().display()
        ),
        ..refusal
    }
}

fn valid(model: Model) -> Result<Model, Refusal> {
    match validate(&model).into_iter().next() {
        None => Ok(model),
        Some(problem) => Err(Refusal::invalid(problem.sentence)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn refused(error: crate::dataplane::Error) -> Refusal {
    Refusal::failed(error.to_string())
}

#[cfg(test)]
mod tests;

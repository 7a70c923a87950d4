//! The daemon: the one owner of the model, the configuration file and the data plane. Everything else sends it
//! messages.
//!
//! ```text
//!  API tasks ──Message (bounded, they wait)──▶ daemon ──▶ data plane, configuration file
//!       ▲                                       │
//!       └──────Event (a slow reader loses)──────┘
//! ```

mod change;
mod file_watch;
mod health;
mod message;
mod peers;
mod persistence;
mod reload;
mod replace;
mod views;
mod vrrp;

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use balancer_common::verdict::Discard;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tracing::Level;

use self::{file_watch::FileWatch, reload::Reloads};
pub use self::{
    health::HealthReport,
    message::{ConnectionPolicy, Message, PersistenceQuery, Reply, Request, Scope},
    peers::{Asked, FromPeers, Nodes, StartPeers},
    persistence::ForgetReport,
    replace::Replacement,
    views::{CloseReport, ListReport},
    vrrp::{GiveUp, StartVrrp, Vrrp},
};
use crate::{
    config::file::ConfigFile,
    control::{
        availability::Availability,
        conditions::{Conditions, Transition},
        event_log::EventLog,
    },
    dataplane::{Dataplane, InterfaceError},
    health::Checkers,
    host::identity::HostInterfaces,
    model::{
        Model,
        address::ServiceRef,
        change::mark_runtime,
        condition::Condition,
        diff::Event,
        error::ApiError,
        view::{self, EventKind},
    },
    notify::Notifier,
    os::{clock, heap, systemd},
};

/// Capacity of the message queue; senders wait while it is full.
pub const MAX_QUEUED_MESSAGES: usize = 64;
/// The detail of [`Condition::ChecksStalled`].
const CHECKS_STALLED: &str = "checks have stalled, so real servers that die stay in service: restart balancerd, which goes on \
                              from the present state";
/// How often the node's conditions are checked.
const TICK: Duration = Duration::from_secs(1);

/// What a daemon is started with.
pub struct DaemonConfig {
    /// The open data plane.
    pub dataplane: Box<dyn Dataplane>,
    /// Runs the checks.
    pub checkers: Box<dyn Checkers>,
    /// Runs the programs of `[[notify]]`; `None` in tests.
    pub notifier: Option<Notifier>,
    /// The configuration file, if there is one.
    pub file: Option<ConfigFile>,
    /// The model to run first.
    pub model: Model,
    /// The availability that belongs to `model`.
    pub availability: Availability,
    /// Takes events, for those who follow them.
    pub events: EventLog,
    /// Lists this host's interfaces.
    pub interfaces: fn() -> io::Result<HostInterfaces>,
    /// The virtual routers, none of which runs yet.
    pub vrrp: Vrrp,
    /// The channel to other nodes, which does not run yet.
    pub nodes: Nodes,
}

/// The daemon.
pub struct Daemon {
    dataplane: Box<dyn Dataplane>,
    checkers: Box<dyn Checkers>,
    notifier: Option<Notifier>,
    availability: Availability,
    /// What is wrong with the node as a whole.
    conditions: Conditions,
    /// The last attempt to give the data plane its settings failed.
    is_misconfigured: bool,
    /// The model that runs; it may differ from the file's.
    model: Model,
    file: Option<ConfigFile>,
    /// The file of the last reload, if the data plane refused it, and why.
    refused_file: Option<(ConfigFile, String)>,
    events: EventLog,
    interfaces: fn() -> io::Result<HostInterfaces>,
    vrrp: Vrrp,
    nodes: Nodes,
    /// How many new connections the full tables had refused at the last tick.
    refused: u64,
    /// Since when the configuration file is being loaded again.
    reload_began: Option<Instant>,
}

impl Daemon {
    /// Starts the daemon: the data plane runs `model` when this returns.
    ///
    /// # Errors
    /// The data plane refused it.
    pub fn start(parts: DaemonConfig) -> Result<Self, ApiError> {
        let DaemonConfig {
            mut dataplane,
            checkers,
            notifier,
            file,
            mut model,
            availability,
            events,
            interfaces,
            vrrp,
            nodes,
        } = parts;
        mark_runtime(&mut model, file.as_ref().map(ConfigFile::model));
        dataplane
            .configure(&model.dataplane)
            .map_err(dataplane_error)?;
        dataplane
            .reconcile(availability.desired())
            .map_err(dataplane_error)?;
        let mut daemon = Self {
            dataplane,
            checkers,
            notifier,
            availability,
            conditions: Conditions::default(),
            is_misconfigured: false,
            model,
            file,
            refused_file: None,
            events,
            interfaces,
            vrrp,
            nodes,
            refused: 0,
            reload_began: None,
        };
        heap::trim();
        daemon.take_over_conditions();
        daemon.checkers.watch(daemon.wanted_checkers());
        daemon.persist_services();
        daemon.configure_vrrp();
        let key = daemon.key_search().read(&daemon.model.peers);
        daemon.take_key(key);
        daemon.configure_peers();
        let status = daemon.status()?;
        daemon.refused = table_full(&status);
        for reason in &status.reasons {
            tracing::warn!("{reason}");
        }
        Ok(daemon)
    }

    /// Passes the conditions that an earlier daemon knew to the notify policy, so that their end is reported, and publishes what
    /// happened since.
    fn take_over_conditions(&self) {
        let (now, time) = (clock::now(), SystemTime::now());
        let checkers = self.checkers.as_ref();
        let taken = self.availability.takeover(&self.model, checkers, now);
        if let Some(notifier) = &self.notifier {
            notifier.configure(&self.reported());
            let written = checkers.last_written().unwrap_or(now);
            for (event, began) in taken.conditions {
                let time = time.checked_sub(now.duration_since(began)).unwrap_or(time);
                notifier.assume(event.record(time), began, written);
            }
        }
        for event in taken.events {
            self.publish(event);
        }
    }

    /// Stores the services' quorums for the next daemon.
    fn persist_services(&mut self) {
        self.checkers
            .persist(self.availability.to_persist(&self.model));
    }

    /// Handles messages until [`Message::Stop`]. Forwarding goes on afterwards.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watchdog_interval = systemd::watchdog_interval();
        let mut next_sign_of_life = watchdog_interval.map(|_| clock::now());
        let mut next_maintenance = clock::now();
        let mut reloads = Reloads::default();
        let mut file_watch = FileWatch::new();
        loop {
            let look_at_file = file_watch.next_deadline();
            // The data plane may block for milliseconds; the API's tasks go on meanwhile.
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Stop) | None => break,
                    Some(Message::Status(reply)) => {
                        tokio::task::block_in_place(|| file_watch.reply_with_status(&mut self, reply));
                    }
                    Some(message) => tokio::task::block_in_place(|| reloads.take(&mut self, message)),
                },
                loaded = reloads.next() => {
                    tokio::task::block_in_place(|| reloads.finish(&mut self, loaded));
                }
                found = file_watch.next() => tokio::task::block_in_place(|| file_watch.finish(&mut self, found)),
                () = sleep_until(look_at_file) => tokio::task::block_in_place(|| file_watch.advance(&mut self)),
                () = sleep_until(self.availability.next_deadline()) => tokio::task::block_in_place(|| self.advance()),
                () = sleep_until(Some(next_maintenance)) => {
                    tokio::task::block_in_place(|| self.run_maintenance());
                    next_maintenance = clock::now() + self.dataplane.next_maintenance();
                }
                update = self.vrrp.next_update() => {
                    tokio::task::block_in_place(|| self.follow_vrrp(update));
                }
                said = self.nodes.next() => tokio::task::block_in_place(|| self.follow_peers(said)),
                () = sleep_until(next_sign_of_life) => {
                    self.show_life();
                    next_sign_of_life = watchdog_interval.map(|interval| clock::now() + interval);
                }
                _ = tick.tick() => tokio::task::block_in_place(|| self.tick()),
            }
        }
        systemd::stopping();
        // First, so that another node takes over soon.
        tokio::task::block_in_place(|| self.vrrp.stop());
        tokio::task::block_in_place(|| self.nodes.stop());
        self.publish(Event::of_node(EventKind::Stopping, "forwarding goes on"));
        // Before the notifier: dropping the checkers stores the time up to which the next daemon takes notifications as made.
        tokio::task::block_in_place(|| drop(self.checkers));
        if let Some(notifier) = self.notifier {
            notifier.stop().await;
        }
    }

    /// Handles one message. It is no error if the sender no longer waits for the reply.
    pub fn answer(&mut self, message: Message) {
        match message {
            Message::Change(requests, scope, reply) => {
                drop(reply.send(self.change_all(requests, scope)));
                heap::trim();
            }
            Message::Replace(replacement, reply) => {
                drop(reply.send(self.replace(replacement)));
                heap::trim();
            }
            Message::Services(service, reply) => drop(reply.send(self.services(service.as_ref()))),
            Message::Connections(service, filter, reply) => {
                drop(reply.send(self.connections(service.as_ref(), filter)));
            }
            Message::CloseConnections(service, filter, reply) => {
                drop(reply.send(self.close_connections(service.as_ref(), filter)));
            }
            Message::Trace(service, client, reply) => {
                drop(reply.send(self.trace(&service, client)))
            }
            Message::Persistence(query, reply) => drop(reply.send(self.persistence(query))),
            Message::Forget(query, reply) => drop(reply.send(self.forget(query))),
            Message::Health(service, reply) => drop(reply.send(self.health(service.as_ref()))),
            Message::Status(reply) => drop(reply.send(self.status())),
            Message::GiveUp(reply) => drop(reply.send(self.give_up())),
            Message::GiveUpAll(reply) => drop(reply.send(self.give_up_all())),
            Message::NodeKey(reply) => self.node_key(reply),
            Message::NodeJoin(key, address, reply) => self.node_join(&key, address, reply),
            Message::NodeRemove(name, reply) => drop(reply.send(self.node_remove(&name))),
            Message::AskNode(name, body, reply) => drop(reply.send(self.ask_peer(name, body))),
            Message::Differences(text, reply) => drop(reply.send(self.differences(&text))),
            Message::Push(name, reply) => drop(reply.send(self.push(name))),
            Message::NodeMaintenance(on, reply) => {
                drop(reply.send(self.set_node_maintenance(on)));
            }
            Message::Found(updates) => {
                self.update_tracking(&updates);
                let events = self.availability.update(&self.model, updates, clock::now());
                self.follow_health(events);
            }
            Message::Zero(service, reply) => drop(reply.send(self.zero(service.as_ref()))),
            // `run` handles these.
            Message::Reload(_) | Message::Stop => {}
        }
    }

    fn zero(&mut self, service: Option<&ServiceRef>) -> Result<(), ApiError> {
        let key = service.map(|service| self.key(service)).transpose()?;
        if key.is_none() {
            self.refused = 0;
        }
        self.dataplane.zero(key.as_ref()).map_err(dataplane_error)
    }

    fn availability_after(&self, wanted: &Model) -> Availability {
        let now = clock::now();
        let present = &self.model.services;
        self.availability
            .after(present, wanted, self.checkers.as_ref(), now)
    }

    fn advance(&mut self) {
        let events = self.availability.advance(&self.model, clock::now());
        self.follow_health(events);
    }

    /// Updates the data plane to the present availability and publishes `events`.
    fn follow_health(&mut self, events: Vec<Event>) {
        self.resync();
        self.track();
        if self.availability.take_new_quorum() {
            self.persist_services();
        }
        if self.availability.take_new_maintenance()
            && let Some(notifier) = &self.notifier
        {
            notifier.configure(&self.reported());
        }
        for event in events {
            self.publish(event);
        }
    }

    /// The model as the notifier is given it: without programs that others than root may have named.
    fn reported(&self) -> Model {
        let mut reported = self.availability.as_reported(&self.model);
        if self.distrusts_programs() {
            reported.notify.clear();
        }
        reported
    }

    /// Whether no program runs, since others than root may have named them.
    fn distrusts_programs(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| file.distrust().is_some())
    }

    /// Gives the data plane the settings and services that it should run. A failure is a condition and is tried again each second.
    fn resync(&mut self) {
        let configured = if self.is_misconfigured {
            self.dataplane.configure(&self.model.dataplane)
        } else {
            Ok(())
        };
        self.is_misconfigured = configured.is_err();
        let reconciled = self.dataplane.reconcile(self.availability.desired());
        let error = configured.and(reconciled).err();
        self.note(
            Condition::DataplaneOutOfSync,
            error.map(|error| error.to_string()),
        );
    }

    /// Does the data plane's periodic work.
    fn run_maintenance(&mut self) {
        let error = self.dataplane.run_maintenance().err();
        self.note(
            Condition::MaintenanceFailed,
            error.map(|error| error.to_string()),
        );
        let unwatched = self.dataplane.watch_failure().map(str::to_owned);
        self.note(Condition::RoutesUnwatched, unwatched);
    }

    /// Runs once each second: tries a failed update again and checks the node's conditions.
    fn tick(&mut self) {
        if self.conditions.lasts(Condition::DataplaneOutOfSync) {
            self.follow_health(Vec::new());
        }
        self.check_table();
        let stalled = (!self.checkers.alive()).then(|| CHECKS_STALLED.to_owned());
        self.note(Condition::ChecksStalled, stalled);
        self.log_left_out();
        self.follow_absent();
        self.tell_peers();
    }

    /// Notifies systemd's watchdog, but not while checks stall: it restarts the daemon then, which goes on from the stored state.
    fn show_life(&self) {
        if !self.conditions.lasts(Condition::ChecksStalled) {
            systemd::alive();
        }
    }

    /// Begins or ends [`Condition::TableFull`].
    fn check_table(&mut self) {
        let Ok(refused) = self.dataplane.refused() else {
            return;
        };
        let refuses = refused > std::mem::replace(&mut self.refused, refused);
        let was_full = self.conditions.lasts(Condition::TableFull);
        if !refuses && !was_full {
            return;
        }
        let Ok(status) = self.dataplane.status() else {
            return;
        };
        let is_full = refuses || status.is_full();
        if is_full == was_full {
            return;
        }
        let transition = if is_full {
            self.conditions
                .set(Condition::TableFull, &status.fullness())
        } else {
            self.conditions
                .clear(Condition::TableFull, &status.fullness())
        };
        self.follow(Condition::TableFull, transition);
    }

    /// Begins or continues a condition with this cause; `None` ends it.
    fn note(&mut self, condition: Condition, cause: Option<String>) {
        let transition = match cause {
            Some(cause) => self.conditions.set(condition, &cause),
            None => self.conditions.clear(condition, ""),
        };
        self.follow(condition, transition);
    }

    /// Publishes or logs the beginning, the end or a new detail of a condition.
    fn follow(&self, condition: Condition, transition: Transition) {
        match transition {
            Transition::Event(event) => self.publish(event),
            Transition::NewDetail => {
                let detail = self.conditions.detail(condition);
                let kind = condition.beginning();
                log(kind.level(), None, None, detail, kind.sentence());
            }
            Transition::None => {}
        }
    }

    /// Logs an event, and tells all who follow events.
    fn publish(&self, event: Event) {
        log_event(&event);
        self.tell(event);
    }

    /// Tells the notify policy and all who follow events of one.
    fn tell(&self, event: Event) {
        let record = event.record(SystemTime::now());
        if let Some(notifier) = &self.notifier {
            notifier.handle(record.clone());
        }
        self.events.publish(record);
    }
}

/// The data plane's error as a sentence, with its line in the file where that is known.
#[must_use]
pub fn with_location(file: Option<&ConfigFile>, error: &anyhow::Error) -> String {
    match (file, error.downcast_ref::<InterfaceError>()) {
        (Some(file), Some(InterfaceError { name, sentence })) => {
            file.about_interface(name, sentence)
        }
        _ => format!("{error:#}"),
    }
}

fn log_event(event: &Event) {
    let real = event.real.map(|real| real.to_string());
    log(
        event.kind.level(),
        event.service.as_deref(),
        real.as_deref(),
        Some(event.message.as_str()).filter(|message| !message.is_empty()),
        event.kind.sentence(),
    );
}

/// Logs a line.
fn log(
    level: Level,
    service: Option<&str>,
    real: Option<&str>,
    detail: Option<&str>,
    sentence: &str,
) {
    match level {
        Level::ERROR => tracing::error!(service, real, detail, "{sentence}"),
        Level::WARN => tracing::warn!(service, real, detail, "{sentence}"),
        _ => tracing::info!(service, real, detail, "{sentence}"),
    }
}

/// Waits until `deadline`; without one, for ever.
async fn sleep_until(deadline: Option<Instant>) {
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

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn dataplane_error(error: crate::dataplane::DataplaneError) -> ApiError {
    ApiError::failed(error.to_string())
}

#[cfg(test)]
mod tests;

//! The virtual routers as the daemon has them: started with the first that is configured, told what they track, asked to give up.

mod change_log;
mod succession;

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use self::change_log::ChangeLog;
use super::{Asked, Daemon, log_event};
use crate::{
    config::validate::Problem,
    control::{
        failures::{Failures, Moment},
        pausing,
        tracking::{TrackedNow, Tracking},
    },
    dataplane::FailoverVips,
    health::{CheckStart, CheckUpdate},
    model::{
        Model,
        diff::Event,
        error::ApiError,
        view::{self, EventKind},
        vrrp::{Probes, VirtualRouterState},
    },
    os::{clock, state_file::StateFile},
    peer::message::{ReplyBody, RequestBody},
    vrrp::{
        VirtualRouters,
        command::Outcome,
        group::groups,
        report::{Report, RouterReport, Update},
    },
};

/// For how long after this node has become Active connections are expected that the other node has begun: as long as it takes until
/// a peer that has waited for a failover of some ten seconds sends again (RFC 6298 section 5.5 doubles its wait each time).
const FAILOVER_TIME: Duration = Duration::from_secs(30);

/// What the maintenance file says while the node is in maintenance.
const IN_MAINTENANCE: &str = "maintenance\n";

/// Starts the virtual routers' thread; returns also where it tells what happens.
pub type StartVrrp =
    Box<dyn Fn() -> io::Result<(Box<dyn VirtualRouters>, mpsc::Receiver<Update>)> + Send>;

/// Finds the virtual routers of a model that cannot run on this host, beside those of the one that runs.
pub type Unusable = fn(&Model, Option<&Model>) -> Vec<Problem>;

/// The virtual routers, and what the daemon keeps for them.
pub struct Vrrp {
    start: StartVrrp,
    unusable: Unusable,
    pub(super) running: Option<Box<dyn VirtualRouters>>,
    updates: Option<mpsc::Receiver<Update>>,
    /// Why they do not run though some are configured.
    problem: Option<String>,
    tracking: Tracking,
    tracked: TrackedNow,
    /// The virtual routers that are Active here, by name, as far as they have said.
    active: BTreeSet<String>,
    change_log: ChangeLog,
    pub(super) failures: Failures,
    in_maintenance: bool,
    /// Keeps the node's maintenance for the next daemon; `None` in tests.
    file: Option<StateFile>,
}

/// What becomes of an order to give the VIPs up: it is known when another node has taken over, or none has.
#[derive(Debug)]
pub enum GiveUp {
    /// This node gives them up.
    Here(oneshot::Receiver<Outcome>),
    /// The node of this name does, which is Active.
    There(String, Asked<ReplyBody>),
}

impl GiveUp {
    /// Waits for the outcome; returns a sentence for each group of virtual routers.
    ///
    /// # Errors
    /// No other node took over, so that this one stays Active; or the daemon stops.
    pub async fn finished(self) -> Result<Vec<String>, ApiError> {
        let outcome = match self {
            Self::Here(outcome) => outcome,
            Self::There(name, asked) => {
                let refused = |refusal| ApiError::failed(format!("node {name}: {refusal}"));
                asked.finished().await.map_err(refused)?;
                return Ok(vec![format!(
                    "node {name} was Active, and has given its VIPs up"
                )]);
            }
        };
        match outcome.await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(said)) => Err(ApiError::failed(format!(
                "no other node took over, so this node keeps the VIPs ({}): see that balancerd runs on the other node and that both \
                 hear each other",
                said.join("; ")
            ))),
            Err(_) => Err(ApiError::failed("balancerd is stopping")),
        }
    }
}

impl Vrrp {
    /// Without virtual routers; an earlier daemon's maintenance goes on, and `failures` are what it has stored.
    #[must_use]
    pub fn new(
        start: StartVrrp,
        unusable: Unusable,
        file: Option<StateFile>,
        failures: Failures,
    ) -> Self {
        let kept = file.as_ref().map(StateFile::read);
        let in_maintenance = match kept {
            Some(Ok(text)) => text == IN_MAINTENANCE,
            Some(Err(error)) => {
                tracing::warn!(
                    "cannot read whether this node is in maintenance, so it counts as ready: {error}"
                );
                false
            }
            None => false,
        };
        Self {
            start,
            unusable,
            running: None,
            updates: None,
            problem: None,
            tracking: Tracking::default(),
            tracked: TrackedNow::default(),
            active: BTreeSet::new(),
            change_log: ChangeLog::default(),
            failures,
            in_maintenance,
            file,
        }
    }

    /// What finds virtual routers that cannot run on this host.
    #[must_use]
    pub(super) const fn unusable(&self) -> Unusable {
        self.unusable
    }

    /// Whether an operator keeps this node from being Active.
    #[must_use]
    pub const fn in_maintenance(&self) -> bool {
        self.in_maintenance
    }

    /// Whether this node has the VIPs of a virtual router.
    #[must_use]
    pub(super) fn is_active(&self) -> bool {
        let routers = self.routers().unwrap_or_default();
        routers.iter().any(is_active)
    }

    /// What is tracked at present, beside interfaces.
    #[must_use]
    pub(super) const fn tracked(&self) -> &TrackedNow {
        &self.tracked
    }

    /// The virtual routers that run; `None` where their thread does not answer.
    #[must_use]
    fn routers(&self) -> Option<Vec<RouterReport>> {
        match &self.running {
            None => Some(Vec::new()),
            Some(running) => running.report().map(|report| report.routers),
        }
    }

    /// All that is known; an empty report without virtual routers.
    #[must_use]
    pub fn report(&self) -> Report {
        let Some(running) = &self.running else {
            return Report {
                problems: self.problem.iter().cloned().collect(),
                ..Report::default()
            };
        };
        let mut report = running.report().unwrap_or_else(|| Report {
            problems: vec![
                "the thread of the virtual routers does not answer: restart balancerd".to_owned(),
            ],
            ..Report::default()
        });
        report
            .problems
            .extend(self.tracked.problems.iter().cloned());
        report
    }

    /// Waits for an update; for ever if there are no virtual routers.
    pub async fn next_update(&mut self) -> Update {
        if let Some(updates) = &mut self.updates {
            if let Some(update) = updates.recv().await {
                return update;
            }
            self.problem =
                Some("the thread of the virtual routers has ended: restart balancerd".to_owned());
            self.updates = None;
        }
        std::future::pending().await
    }

    /// Gives the VIPs up, and ends: see the thread's `drop`.
    pub fn stop(&mut self) {
        self.running = None;
        self.failures.end();
    }
}

fn is_active(router: &RouterReport) -> bool {
    router.state == VirtualRouterState::Active
}

/// The present moment.
fn moment() -> Moment {
    Moment {
        instant: clock::now_with_suspend(),
        time: SystemTime::now(),
    }
}

/// The VIPs of these virtual routers that another node has, or had until a short time ago.
fn failover_vips(routers: &[RouterReport], now: Instant) -> FailoverVips {
    let mut vips = FailoverVips::new();
    for router in routers {
        let left = match router.state {
            VirtualRouterState::Active => {
                Some(FAILOVER_TIME.saturating_sub(now.saturating_duration_since(router.since)))
            }
            VirtualRouterState::Backup | VirtualRouterState::Fault => None,
        };
        if left != Some(Duration::ZERO) {
            let addresses = router.addresses.iter();
            vips.extend(addresses.map(|vip| (vip.address, left)));
        }
    }
    vips
}

impl Daemon {
    /// All checkers to run: those of real servers, and those of what virtual routers track.
    pub(super) fn wanted_checkers(&self) -> Vec<CheckStart> {
        let mut wanted = self.availability.checkers();
        let tracked = Tracking::checkers(&self.model);
        let is_other = |start: &CheckStart| wanted.iter().all(|one| one.target != start.target);
        let others: Vec<_> = tracked.into_iter().filter(is_other).collect();
        wanted.extend(others);
        pausing::pause(&mut wanted, &self.model, &self.vrrp.active);
        if self.distrusts_programs() {
            pausing::pause_programs(&mut wanted);
        }
        wanted
    }

    /// Runs the model's virtual routers.
    pub(super) fn configure_vrrp(&mut self) {
        let vrrp = &mut self.vrrp;
        if vrrp.running.is_none() && !self.model.vrrp.is_empty() {
            match (vrrp.start)() {
                Ok((mut running, updates)) => {
                    running.set_maintenance(vrrp.in_maintenance);
                    let groups = groups(&self.model.vrrp);
                    let names: Vec<_> = groups.iter().map(|group| group.key.name()).collect();
                    running.remember(vrrp.failures.begin(&names, moment()));
                    (vrrp.running, vrrp.updates) = (Some(running), Some(updates));
                    vrrp.problem = None;
                }
                Err(error) => {
                    tracing::error!("cannot start the virtual routers: {error}");
                    vrrp.problem = Some(format!("the virtual routers do not run: {error}"));
                }
            }
        }
        vrrp.tracking.retain(&self.model);
        self.track();
        if let Some(running) = &mut self.vrrp.running {
            running.track(self.vrrp.tracked.routers.clone());
            running.configure(&self.model.vrrp);
        }
        self.follow_active();
    }

    /// Follows which VIPs this node has: whose connections may come here (those of the VIPs that another node has, and for a time those of
    /// the VIPs that it had until now), and what only an Active node probes.
    fn follow_active(&mut self) {
        // Where the thread does not answer, all stays as it is.
        let Some(routers) = self.vrrp.routers() else {
            return;
        };
        let vips = failover_vips(&routers, clock::now_with_suspend());
        if let Err(error) = self.dataplane.set_failover_vips(&vips) {
            tracing::warn!("connections that another node has begun may end: {error}");
        }
        let routers = routers.into_iter();
        let active = routers.filter(|router| router.state == VirtualRouterState::Active);
        let active: BTreeSet<_> = active.map(|router| router.name).collect();
        if std::mem::replace(&mut self.vrrp.active, active.clone()) == active {
            return;
        }
        let mut probed = self.model.vrrp.iter().map(|router| router.probes);
        if probed.any(|probes| probes == Probes::ActiveOnly) {
            self.checkers.watch(self.wanted_checkers());
        }
    }

    /// Tells the virtual routers what is tracked for them, if that has changed.
    pub(super) fn track(&mut self) {
        let vrrp = &mut self.vrrp;
        let tracked = vrrp.tracking.now(&self.model, &self.availability);
        if tracked == vrrp.tracked {
            return;
        }
        for problem in &tracked.problems {
            if !vrrp.tracked.problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        vrrp.tracked = tracked;
        if let Some(running) = &mut vrrp.running {
            running.track(vrrp.tracked.routers.clone());
        }
    }

    /// Takes check results that may be of what virtual routers track.
    pub(super) fn update_tracking(&mut self, updates: &[CheckUpdate]) {
        self.vrrp.tracking.update(updates);
    }

    /// Publishes a change of a group of virtual routers, or logs what its thread says.
    pub(super) fn follow_vrrp(&mut self, update: Update) {
        let change = match update {
            Update::Changed(change) => change,
            Update::Failed { group, failures } => {
                self.vrrp.failures.note(&group, &failures, moment());
                return;
            }
            Update::Warning(sentence) => {
                tracing::warn!("{sentence}");
                return;
            }
        };
        self.follow_active();
        let kind = match change.state {
            VirtualRouterState::Active => EventKind::Active,
            VirtualRouterState::Backup => EventKind::Backup,
            VirtualRouterState::Fault => EventKind::Fault,
        };
        let message = format!("{}: {}", change.group, change.reason);
        let event = Event::of_node(kind, &message);
        self.log_left_out();
        let log = &mut self.vrrp.change_log;
        if log.allows(&change.group, &event, clock::now()) {
            log_event(&event);
        }
        self.tell(event);
        // The others are not to wait for the next second.
        self.tell_peers();
    }

    /// Logs how many changes of virtual routers were not logged; to be called each second.
    pub(super) fn log_left_out(&mut self) {
        for sentence in self.vrrp.change_log.left_out(clock::now()) {
            tracing::warn!("{sentence}");
        }
    }

    /// Has the VIPs given up, to whichever node takes them: by this node, or where it is not Active, by the one that is and that it can
    /// ask.
    ///
    /// # Errors
    /// This node is not Active, and cannot ask the node that is.
    pub(super) fn give_up(&mut self) -> Result<GiveUp, ApiError> {
        let refusal = match self.give_up_here() {
            Ok(outcome) => return Ok(GiveUp::Here(outcome)),
            Err(refusal) => refusal,
        };
        let mut peers = self.peer_views().into_iter();
        let is_active = |peer: &view::Peer| peer.connected && peer.role == "active";
        let Some(active) = peers
            .find(is_active)
            .filter(|_| !self.model.vrrp.is_empty())
        else {
            return Err(refusal);
        };
        let (name, asked) = self.ask_peer(Some(active.name), RequestBody::GiveUp)?;
        Ok(GiveUp::There(name, asked))
    }

    /// Gives this node's VIPs up before it is kept from having any; nothing where it has none.
    ///
    /// # Errors
    /// It is not known whether it has any.
    pub(super) fn give_up_all(&mut self) -> Result<Option<GiveUp>, ApiError> {
        let Some(routers) = self.vrrp.routers() else {
            return Err(ApiError::failed(
                "the thread of the virtual routers does not answer: restart balancerd",
            ));
        };
        if !routers.iter().any(is_active) {
            return Ok(None);
        }
        Ok(Some(GiveUp::Here(self.give_up_here()?)))
    }

    /// Gives this node's VIPs up, to whichever node takes them.
    ///
    /// # Errors
    /// This node is not Active.
    pub(super) fn give_up_here(&mut self) -> Result<oneshot::Receiver<Outcome>, ApiError> {
        let report = self.vrrp.report();
        let has_vips = report.routers.iter().any(is_active);
        if let Some(running) = self.vrrp.running.as_mut().filter(|_| has_vips) {
            let (reply, outcome) = oneshot::channel();
            running.give_up(reply);
            return Ok(outcome);
        }
        let mut heard = report
            .routers
            .iter()
            .filter_map(|router| router.active_node);
        Err(ApiError::invalid(match heard.next() {
            _ if report.routers.is_empty() => {
                "there is no virtual router: add a [[vrrp]] block to the configuration file"
                    .to_owned()
            }
            Some((address, _)) => format!(
                "this node is not Active, so it has no VIP to give up: {address} is Active, so use `failover` there"
            ),
            None => {
                "this node is not Active, so it has no VIP to give up, and it hears no node that is"
                    .to_owned()
            }
        }))
    }

    /// Keeps this node from being Active, or no longer; also after a restart.
    ///
    /// # Errors
    /// The state file cannot be written; nothing was changed.
    pub(super) fn set_node_maintenance(&mut self, on: bool) -> Result<(), ApiError> {
        let text = if on { IN_MAINTENANCE } else { "" };
        if let Some(file) = &self.vrrp.file {
            file.replace_durably(|writer| writer.write_all(text.as_bytes()))
                .map_err(|error| ApiError::failed(format!("cannot write {file}: {error}")))?;
        }
        self.vrrp.in_maintenance = on;
        if let Some(running) = &mut self.vrrp.running {
            running.set_maintenance(on);
        }
        Ok(())
    }
}

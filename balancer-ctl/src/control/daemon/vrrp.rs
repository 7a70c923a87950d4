//! The virtual routers as the daemon has them: started with the first that is configured, told what they track, asked to give up.

use std::io;

use tokio::sync::{mpsc, oneshot};

use super::Daemon;
use crate::{
    config::validate::Problem,
    control::tracking::{TrackedNow, Tracking},
    health::{CheckStart, CheckUpdate},
    model::{Model, diff::Event, error::ApiError, view::EventKind, vrrp::VirtualRouterState},
    os::state_file::StateFile,
    vrrp::{
        VirtualRouters,
        command::Outcome,
        report::{Report, RouterReport, Update},
    },
};

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
    running: Option<Box<dyn VirtualRouters>>,
    updates: Option<mpsc::Receiver<Update>>,
    /// Why they do not run though some are configured.
    problem: Option<String>,
    tracking: Tracking,
    tracked: TrackedNow,
    in_maintenance: bool,
    /// Keeps the node's maintenance for the next daemon; `None` in tests.
    file: Option<StateFile>,
}

/// What becomes of an order to give the VIPs up: it is known when another node has taken over, or none has.
#[derive(Debug)]
pub struct GiveUp(oneshot::Receiver<Outcome>);

impl GiveUp {
    /// Waits for the outcome; returns a sentence for each group of virtual routers.
    ///
    /// # Errors
    /// No other node took over, so that this one stays Active; or the daemon stops.
    pub async fn finished(self) -> Result<Vec<String>, ApiError> {
        match self.0.await {
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
    /// Without virtual routers; an earlier daemon's maintenance goes on.
    #[must_use]
    pub fn new(start: StartVrrp, unusable: Unusable, file: Option<StateFile>) -> Self {
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
    }
}

impl Daemon {
    /// All checkers to run: those of real servers, and those of what virtual routers track.
    pub(super) fn wanted_checkers(&self) -> Vec<CheckStart> {
        let mut wanted = self.availability.checkers();
        let tracked = Tracking::checkers(&self.model);
        let is_other = |start: &CheckStart| wanted.iter().all(|one| one.target != start.target);
        let others: Vec<_> = tracked.into_iter().filter(is_other).collect();
        wanted.extend(others);
        wanted
    }

    /// Runs the model's virtual routers.
    pub(super) fn configure_vrrp(&mut self) {
        let vrrp = &mut self.vrrp;
        if vrrp.running.is_none() && !self.model.vrrp.is_empty() {
            match (vrrp.start)() {
                Ok((mut running, updates)) => {
                    running.set_maintenance(vrrp.in_maintenance);
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
            Update::Warning(sentence) => {
                tracing::warn!("{sentence}");
                return;
            }
        };
        let kind = match change.state {
            VirtualRouterState::Active => EventKind::Active,
            VirtualRouterState::Backup => EventKind::Backup,
            VirtualRouterState::Fault => EventKind::Fault,
        };
        let message = format!("{}: {}", change.group, change.reason);
        self.publish(Event::of_node(kind, &message));
        // The others are not to wait for the next second.
        self.tell_peers();
    }

    /// Gives the VIPs up, to whichever node takes them.
    ///
    /// # Errors
    /// This node is not Active.
    pub(super) fn give_up(&mut self) -> Result<GiveUp, ApiError> {
        let report = self.vrrp.report();
        let is_active = report
            .routers
            .iter()
            .any(|router| router.state == VirtualRouterState::Active);
        let running = self.vrrp.running.as_mut().filter(|_| is_active);
        let Some(running) = running else {
            return Err(ApiError::invalid(if report.routers.is_empty() {
                "there is no virtual router: add a [[vrrp]] block to the configuration file"
                    .to_owned()
            } else {
                "this node is not Active, so it has no VIP to give up: use `failover` on the node that is".to_owned()
            }));
        };
        let (reply, outcome) = oneshot::channel();
        running.give_up(reply);
        Ok(GiveUp(outcome))
    }

    /// Takes over before all other nodes when the Active one gives up soon.
    ///
    /// # Errors
    /// This node cannot take over: a sentence.
    pub(super) fn succeed(&mut self) -> Result<(), String> {
        let report = self.vrrp.report();
        let mut routers = report.routers.iter();
        let stands_by = |router: &RouterReport| router.state == VirtualRouterState::Backup;
        if report.routers.is_empty() || !routers.all(stands_by) || self.vrrp.in_maintenance {
            return Err("it does not stand by, so it cannot take over".to_owned());
        }
        if let Some(running) = &mut self.vrrp.running {
            running.succeed();
        }
        Ok(())
    }

    /// Keeps this node from being Active, or no longer; also after a restart.
    ///
    /// # Errors
    /// The state file cannot be written; nothing was changed.
    pub(super) fn set_node_maintenance(&mut self, on: bool) -> Result<(), ApiError> {
        let text = if on { IN_MAINTENANCE } else { "" };
        if let Some(file) = &self.vrrp.file {
            file.replace(|writer| writer.write_all(text.as_bytes()))
                .map_err(|error| ApiError::failed(format!("cannot write {file}: {error}")))?;
        }
        self.vrrp.in_maintenance = on;
        if let Some(running) = &mut self.vrrp.running {
            running.set_maintenance(on);
        }
        Ok(())
    }
}

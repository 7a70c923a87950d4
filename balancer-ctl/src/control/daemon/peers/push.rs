//! Services that nodes send each other.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Asked, Finished};
use crate::{
    control::{
        daemon::{Daemon, change::programs},
        load::check_problem,
        pair,
    },
    model::{VirtualService, error::ApiError, peers::Sync, view},
    os::clock,
    peer::{
        Answer,
        message::{ReplyBody, RequestBody},
    },
};

/// After a push that failed, the next is made not before this time has passed.
const PUSH_INTERVAL: Duration = Duration::from_secs(5);

/// The pushes that this node makes by itself.
#[derive(Default)]
pub(super) struct Pushes {
    /// Those that are on their way: the node, and its answer.
    running: Vec<(String, oneshot::Receiver<Answer>)>,
    /// When services were last pushed, and what went wrong.
    last: Option<Instant>,
    problem: Option<String>,
}

impl Pushes {
    /// What went wrong with the last push.
    pub const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Notes, and logs once, what went wrong.
    fn fail(&mut self, sentence: String) {
        if self.problem.as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
        }
        self.problem = Some(sentence);
    }
}

/// Services that another node sent.
pub struct WantedServices {
    /// That node.
    from: String,
    /// They, or why they cannot be taken.
    services: Result<Vec<VirtualService>, String>,
    reply: oneshot::Sender<Answer>,
}

impl Daemon {
    /// Reads the services that another node sends, and the files that their checks name.
    pub(super) fn read_services(&self, from: String, text: String, reply: oneshot::Sender<Answer>) {
        self.nodes.work(move || {
            let services = pair::services_of(&text).and_then(|services| {
                let checks = services.iter().flat_map(|service| &service.checks);
                let problem = checks.filter_map(check_problem).next();
                problem.map_or(Ok(services), Err)
            });
            Finished::Services(WantedServices {
                from,
                services,
                reply,
            })
        });
    }

    /// Answers a push whose services were read.
    pub(super) fn take_services(&mut self, wanted: WantedServices) {
        let WantedServices {
            from,
            services,
            reply,
        } = wanted;
        let taken = services.and_then(|services| self.take_push(&from, &services));
        // Whoever asked may have gone.
        drop(reply.send(taken.map(|()| ReplyBody::Done)));
    }

    /// Makes the services of this node's file those of another node, all or none. What runs follows, but for what was changed with
    /// `--runtime` in services that are the same, or that neither file has.
    fn take_push(&mut self, from: &str, wanted: &[VirtualService]) -> Result<(), String> {
        if self.reload_began.is_some() {
            return Err("the configuration file is being loaded: try again".to_owned());
        }
        let file = self.file.as_ref().map(|file| file.model());
        let changes = pair::push_changes(&self.model, file, wanted);
        if changes.is_empty() {
            return Ok(());
        }
        self.make(changes).map_err(|refusal| refusal.to_string())?;
        tracing::info!("the services of node {from} were taken over");
        Ok(())
    }

    fn make(&mut self, changes: pair::PushChanges) -> Result<(), ApiError> {
        let (running, saved) = self.models_after(&changes.running, Some(changes.saved))?;
        // The log has the sentence about a file that could not be kept.
        self.run_models(running, saved).map(drop)
    }

    /// As the Active node, sends its services to nodes that have others, if that is configured.
    pub(super) fn push_by_itself(&mut self, status: &view::Status) {
        let pushes = &mut self.nodes.pushes;
        let mut failed = None;
        pushes
            .running
            .retain_mut(|(name, answer)| match answer.try_recv() {
                Ok(Ok(_)) => false,
                Ok(Err(sentence)) => {
                    failed = Some(format!(
                        "node {name} refused this node's services: {sentence}"
                    ));
                    false
                }
                Err(oneshot::error::TryRecvError::Empty) => true,
                Err(oneshot::error::TryRecvError::Closed) => false,
            });
        if let Some(sentence) = failed {
            pushes.fail(sentence);
        }
        // Of two Active nodes neither knows better.
        let others = status.peers.iter();
        let is_only = others
            .clone()
            .all(|peer| peer.role != "active" || !peer.connected);
        let is_due = self.model.peers.sync == Sync::ActivePushes
            && status.role == view::Role::Active
            && is_only;
        let others = status.peers.iter();
        let unlike: Vec<_> = others
            .filter(|peer| peer.connected && !peer.same_services)
            .collect();
        if unlike.is_empty() {
            pushes.problem = None;
            pushes.last = None;
            return;
        }
        let now = clock::now();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < PUSH_INTERVAL;
        if !is_due || !pushes.running.is_empty() || pushes.last.is_some_and(is_recent) {
            return;
        }
        pushes.last = Some(now);
        let text = match self.services_to_push() {
            Ok(text) => text,
            Err(refusal) => return self.nodes.pushes.fail(refusal.to_string()),
        };
        let names: Vec<_> = unlike.iter().map(|peer| peer.name.clone()).collect();
        for name in names {
            let (reply, answer) = oneshot::channel();
            if let Some(running) = &mut self.nodes.running {
                running.request(&name, RequestBody::Push { text: text.clone() }, reply);
            }
            self.nodes.pushes.running.push((name, answer));
        }
    }

    /// The Active node that sends its services to this one, if that is configured and this node is not Active as well.
    pub(in crate::control::daemon) fn sender(&self) -> Option<view::Peer> {
        if self.model.peers.sync != Sync::ActivePushes || self.vrrp.is_active() {
            return None;
        }
        let mut peers = self.peer_views().into_iter();
        peers.find(|peer| peer.connected && peer.role == "active")
    }

    /// What will become of the services that a file changed by hand has brought, if the Active node sends its own over them.
    pub(in crate::control::daemon) fn overwritten(&self) -> Option<String> {
        let sender = self.sender().filter(|sender| !sender.same_services)?;
        Some(format!(
            "{} is Active and sends its services to this node, where they soon replace those of the file: change them there",
            sender.name
        ))
    }

    /// What another node's services have other than this node's.
    ///
    /// # Errors
    /// The text holds no services.
    pub(in crate::control::daemon) fn differences(
        &self,
        text: &str,
    ) -> Result<Vec<String>, ApiError> {
        pair::differences(self.configured(), text).map_err(ApiError::failed)
    }

    /// This node's services, for another one.
    ///
    /// # Errors
    /// They name programs, which others than root may have named: no node runs them then.
    pub(in crate::control::daemon) fn services_to_push(&self) -> Result<String, ApiError> {
        let configured = self.configured();
        if let Some(file) = &self.file
            && programs(configured).next().is_some()
        {
            file.require_trust().map_err(|refusal| ApiError {
                sentence: format!("services are not sent to other nodes: {}", refusal.sentence),
                ..refusal
            })?;
        }
        Ok(pair::services_text(configured))
    }

    /// Sends this node's services to another.
    ///
    /// # Errors
    /// As [`Self::ask_peer`]; or they name programs that others than root may have named.
    pub(in crate::control::daemon) fn push(
        &mut self,
        name: Option<String>,
    ) -> Result<(String, Asked<ReplyBody>), ApiError> {
        let text = self.services_to_push()?;
        self.ask_peer(name, RequestBody::Push { text })
    }
}

//! The other nodes as the daemon has them: started with the first key, told of this node, asked and answered. Files are read and written
//! by threads of their own, since a file system may block them.

mod absent;
mod key;
mod push;

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

pub(super) use self::key::{FoundKey, KeySearch};
use self::{
    absent::AbsentNodes,
    key::KeyWork,
    push::{Pushes, WantedServices},
};
use super::{Daemon, GiveUp};
use crate::{
    config::file::ConfigFile,
    control::pair,
    model::{
        Model,
        diff::Event,
        error::ApiError,
        view::{self, EventKind},
        vrrp::VirtualRouterState,
    },
    os::clock,
    peer::{
        self, PeerChange, PeerRequest, Peers, Removal,
        key::ClusterKey,
        message::{NodeRecord, NodeReport, ReplyBody, RequestBody},
        task::PeerInbox,
    },
};

/// For how long several nodes may have the same VIPs until that is a problem.
const SEVERAL_ACTIVE: Duration = Duration::from_secs(3);

/// Starts the thread of the channel; returns also what other nodes ask.
pub type StartPeers = Box<dyn Fn() -> io::Result<(Box<dyn Peers>, PeerInbox)> + Send>;

/// The channel to other nodes, and what the daemon keeps for it.
pub struct Nodes {
    start: StartPeers,
    running: Option<Box<dyn Peers>>,
    inbox: Option<PeerInbox>,
    /// The file with the key that this node made, or joined with.
    key_file: PathBuf,
    key: Option<ClusterKey>,
    /// What goes on with the key at present.
    key_work: KeyWork,
    /// How often the key was made, or taken from another node: what was read of its file before that is of no use.
    key_changes: u64,
    /// Why there is no channel though there should be one, or why the key in its file is not used.
    problem: Option<String>,
    pushes: Pushes,
    absent: AbsentNodes,
    /// What the threads send that read and write files. Unbounded: there is one for each request.
    finished: (
        mpsc::UnboundedSender<Finished>,
        mpsc::UnboundedReceiver<Finished>,
    ),
    /// Since when several nodes have the same VIPs.
    several_active_since: Option<Instant>,
    /// See [`pair::digests`].
    digests: [String; 2],
}

/// Something that other nodes said or did.
pub enum FromPeers {
    /// A node asks for something.
    Asked(PeerRequest),
    /// A node came, went, or says something new.
    Changed(PeerChange),
    /// A thread has read or written what it was to, or this node has joined another one, or has not.
    Finished(Finished),
}

/// What was done beside the daemon's loop.
pub enum Finished {
    /// The key was read or made.
    Key(Result<ClusterKey, String>),
    /// Joining with this key has ended.
    Joined(ClusterKey, Result<Vec<NodeRecord>, String>),
    /// The services that another node sent, with the files that their checks name.
    Services(WantedServices),
}

/// What becomes of something that another node was asked.
#[derive(Debug)]
pub struct Asked<T>(oneshot::Receiver<Result<T, String>>);

impl<T> Asked<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// It was not done.
    pub async fn finished(self) -> Result<T, ApiError> {
        match self.0.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(sentence)) => Err(ApiError::failed(sentence)),
            Err(_) => Err(ApiError::failed("the channel to other nodes has ended")),
        }
    }
}

impl Nodes {
    /// Without a channel, which begins when there is a key.
    #[must_use]
    pub fn new(start: StartPeers, key_file: PathBuf) -> Self {
        Self {
            start,
            running: None,
            inbox: None,
            key_file,
            key: None,
            key_work: KeyWork::None,
            key_changes: 0,
            problem: None,
            pushes: Pushes::default(),
            absent: AbsentNodes::default(),
            finished: mpsc::unbounded_channel(),
            several_active_since: None,
            digests: [String::new(), String::new()],
        }
    }

    /// Waits for what other nodes say, and for what this one does for them; for ever if there is nothing.
    pub async fn next(&mut self) -> FromPeers {
        let (requests, changes) = match &mut self.inbox {
            Some(PeerInbox { requests, changes }) => (Some(requests), Some(changes)),
            None => (None, None),
        };
        tokio::select! {
            request = received(requests) => FromPeers::Asked(request),
            change = received(changes) => FromPeers::Changed(change),
            finished = self.key_work.joined() => FromPeers::Finished(finished),
            Some(finished) = self.finished.1.recv() => FromPeers::Finished(finished),
        }
    }

    /// Does something on a thread of its own. Returns whether that began; otherwise, what waits for it is dropped with the work.
    fn work(&self, work: impl FnOnce() -> Finished + Send + 'static) -> bool {
        let finished = self.finished.0.clone();
        let started = thread::Builder::new()
            .name("peer files".to_owned())
            .spawn(move || {
                // The daemon may have ended.
                let _ = finished.send(work());
            });
        if let Err(error) = &started {
            tracing::error!("cannot start a thread: {error}");
        }
        started.is_ok()
    }

    /// Ends the channel.
    pub fn stop(&mut self) {
        self.running = None;
    }
}

/// The next of what is received; waits for ever if there is none.
async fn received<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = receiver
        && let Some(one) = receiver.recv().await
    {
        return one;
    }
    pending().await
}

impl Daemon {
    /// Computes what other nodes compare, once for each model, if there is a channel to them.
    pub(super) fn compute_digests(&mut self) {
        if self.nodes.running.is_some() {
            self.nodes.digests = pair::digests(self.configured());
        }
    }

    /// What this node compares with others and sends to them: what its file says, as far as it has one.
    pub(super) fn configured(&self) -> &Model {
        self.file.as_ref().map_or(&self.model, ConfigFile::model)
    }

    /// How this node speaks to the others.
    fn channel_settings(&self) -> peer::PeerSettings {
        let settings = &self.model.peers;
        peer::PeerSettings {
            name: self.model.node.clone(),
            listen: Some(settings.listen),
            interface: settings.interface.clone(),
            key: self.nodes.key.clone(),
            peers: settings.nodes.clone(),
            can_be_joined: settings.key_file.is_none(),
        }
    }

    /// Speaks to other nodes as the model says, once there is a key.
    pub(super) fn configure_peers(&mut self) {
        if self.nodes.key.is_none() && self.nodes.running.is_none() {
            return;
        }
        let settings = self.channel_settings();
        if let Some(running) = self.start_peers() {
            running.configure(settings);
        }
    }

    fn start_peers(&mut self) -> Option<&mut Box<dyn Peers>> {
        let nodes = &mut self.nodes;
        if nodes.running.is_none() {
            match (nodes.start)() {
                Ok((running, inbox)) => {
                    (nodes.running, nodes.inbox) = (Some(running), Some(inbox));
                    let configured = self.file.as_ref().map_or(&self.model, ConfigFile::model);
                    nodes.digests = pair::digests(configured);
                }
                Err(error) => {
                    tracing::error!("cannot start the channel to other nodes: {error}");
                    nodes.problem =
                        Some(format!("the channel to other nodes does not run: {error}"));
                }
            }
        }
        nodes.running.as_mut()
    }

    /// The other nodes as operators see them.
    pub(super) fn peer_views(&self) -> Vec<view::Peer> {
        let Some(running) = &self.nodes.running else {
            return Vec::new();
        };
        pair::views(&running.peers(), &self.nodes.digests, clock::now())
    }

    /// Connections of others that were not let in, by reason; empty without a channel.
    pub(super) fn peer_refusals(&self) -> BTreeMap<String, u64> {
        let running = self.nodes.running.iter();
        let refusals = running.flat_map(|running| running.refusals().named());
        let counts = refusals.map(|(name, _, count)| (name.to_owned(), count));
        counts.collect()
    }

    /// A sentence for each thing that is wrong with the channel.
    pub(super) fn peer_problems(&self, peers: &[view::Peer]) -> Vec<String> {
        let nodes = &self.nodes;
        let mut problems: Vec<_> = nodes.problem.iter().cloned().collect();
        if let Some(running) = &nodes.running {
            problems.extend(running.obstacles());
        }
        problems.extend(pair::problems(peers));
        problems.extend(nodes.pushes.problem().cloned());
        problems
    }

    /// A sentence for VIPs that several nodes have had for some time: what nodes say of themselves is up to a second old when VIPs move.
    pub(super) fn several_active(
        &mut self,
        own: &[view::VirtualRouter],
        peers: &[view::Peer],
    ) -> Vec<String> {
        let sentences = pair::several_active(&self.model.node, own, peers);
        if sentences.is_empty() {
            self.nodes.several_active_since = None;
            return sentences;
        }
        let now = clock::now();
        let since = *self.nodes.several_active_since.get_or_insert(now);
        match now.saturating_duration_since(since) >= SEVERAL_ACTIVE {
            true => sentences,
            false => Vec::new(),
        }
    }

    /// Tells the other nodes of this one; to be called each second.
    pub(super) fn tell_peers(&mut self) {
        if self.nodes.running.is_none() {
            return;
        }
        let Ok(status) = self.status() else { return };
        self.push_by_itself(&status);
        let report = self.node_report(&status);
        if let Some(running) = &mut self.nodes.running {
            running.publish(report);
        }
    }

    /// Reports nodes that are not reached, and has the notify policy forget those that were taken out; to be called each second.
    pub(super) fn follow_absent(&mut self) {
        let Some(running) = &self.nodes.running else {
            return;
        };
        let peers = running.peers();
        if let Some(names) = self.nodes.absent.new_names(&peers)
            && let Some(notifier) = &self.notifier
        {
            notifier.retain_peers(names);
        }
        for (name, reason) in self.nodes.absent.follow(&peers, clock::now()) {
            self.publish(Event::of_peer(EventKind::NodeDown, &name, Some(&reason)));
        }
    }

    fn node_report(&self, status: &view::Status) -> NodeReport {
        pair::report(
            status,
            self.nodes.digests.clone(),
            self.vrrp.in_maintenance(),
        )
    }

    /// Handles what another node says.
    pub(super) fn follow_peers(&mut self, from: FromPeers) {
        match from {
            FromPeers::Asked(request) => self.answer_peer(request),
            FromPeers::Finished(Finished::Key(key)) => self.key_made(key),
            FromPeers::Finished(Finished::Joined(key, result)) => self.joined(key, result),
            FromPeers::Finished(Finished::Services(services)) => self.take_services(services),
            FromPeers::Changed(PeerChange::Came { name }) => {
                self.nodes.absent.came(&name);
                self.publish(Event::of_peer(EventKind::NodeUp, &name, None));
                self.tell_peers();
            }
            FromPeers::Changed(PeerChange::Went { name, reason }) => {
                self.nodes.absent.went(&name, clock::now());
                self.publish(Event::of_peer(EventKind::NodeDown, &name, Some(&reason)));
            }
            FromPeers::Changed(PeerChange::TakenOut) => {
                tracing::warn!(
                    "this node was taken out of the cluster, and has forgotten the others"
                );
            }
            FromPeers::Changed(PeerChange::Reported { .. } | PeerChange::Members) => {}
        }
    }

    fn answer_peer(&mut self, request: PeerRequest) {
        let PeerRequest { from, body, reply } = request;
        let answer = match body {
            RequestBody::Succeed => self.succeed().map(|()| ReplyBody::Done),
            RequestBody::GiveUp => match self.give_up_here() {
                Ok(outcome) => {
                    tokio::spawn(async move {
                        let finished = GiveUp::Here(outcome).finished().await;
                        let answer = finished.map(|_| ReplyBody::Done);
                        drop(reply.send(answer.map_err(|refusal| refusal.to_string())));
                    });
                    return;
                }
                Err(refusal) => Err(refusal.to_string()),
            },
            RequestBody::Services => Ok(ReplyBody::Services {
                text: pair::services_text(self.configured()),
            }),
            RequestBody::Push { text } => return self.read_services(from, text, reply),
            RequestBody::Ping | RequestBody::Join { .. } | RequestBody::Leave { .. } => {
                Err("the channel answers that itself".to_owned())
            }
        };
        // Whoever asked may have gone.
        drop(reply.send(answer));
    }

    /// Takes a node out.
    ///
    /// # Errors
    /// There is no channel.
    pub(super) fn node_remove(&mut self, name: &str) -> Result<Asked<Removal>, ApiError> {
        let (reply, removed) = oneshot::channel();
        self.channel()?.remove(name, reply);
        Ok(Asked(removed))
    }

    /// Asks something of another node; without a name, of the only one there is. This node, too, can be asked to succeed.
    ///
    /// # Errors
    /// There is no channel, or it is not clear which node is meant.
    pub(super) fn ask_peer(
        &mut self,
        name: Option<String>,
        body: RequestBody,
    ) -> Result<(String, Asked<ReplyBody>), ApiError> {
        if body == RequestBody::Succeed && name.as_ref() == Some(&self.model.node) {
            let (reply, answer) = oneshot::channel();
            drop(reply.send(self.succeed().map(|()| ReplyBody::Done)));
            return Ok((self.model.node.clone(), Asked(answer)));
        }
        let names: Vec<_> = self
            .peer_views()
            .into_iter()
            .map(|peer| peer.name)
            .collect();
        let running = self.channel()?;
        let name = match (name, &names[..]) {
            (Some(name), _) if names.contains(&name) => name,
            (Some(name), _) => {
                return Err(ApiError::not_found(format!(
                    "there is no node {name}: {}",
                    if names.is_empty() {
                        "no other node has joined".to_owned()
                    } else {
                        names.join(", ")
                    }
                )));
            }
            (None, [only]) => only.clone(),
            (None, []) => {
                return Err(ApiError::not_found(
                    "no other node has joined: see `balancer-ctl node key`",
                ));
            }
            (None, several) => {
                return Err(ApiError::invalid(format!(
                    "say which node: {}",
                    several.join(", ")
                )));
            }
        };
        let (reply, answer) = oneshot::channel();
        running.request(&name, body, reply);
        Ok((name, Asked(answer)))
    }

    fn channel(&mut self) -> Result<&mut Box<dyn Peers>, ApiError> {
        self.nodes.running.as_mut().ok_or_else(|| {
            ApiError::invalid("this node has no key, so it knows no other node: `balancer-ctl node key` makes one")
        })
    }

    /// Who would take over from the Active node.
    pub(super) fn successor(&self, status: &view::Status) -> Option<String> {
        let stands_by = |router: &view::VirtualRouter| router.state == VirtualRouterState::Backup;
        let own = (!status.vrrp.is_empty()
            && !self.vrrp.in_maintenance()
            && status.vrrp.iter().all(stands_by))
        .then(|| {
            status
                .vrrp
                .iter()
                .map(|router| router.priority)
                .min()
                .unwrap_or_default()
        });
        pair::successor(
            &status.peers,
            own.map(|priority| (status.node.as_str(), priority)),
        )
    }
}

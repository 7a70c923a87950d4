//! The other nodes as the daemon has them: started with the first key, told of this node, asked and answered.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{ConnectionPolicy, Daemon, Request, Scope};
use crate::{
    control::{load::check_problem, pair},
    model::{
        address::{RealRef, ServiceRef},
        change::Change,
        diff::Event,
        error::ApiError,
        peers::Sync,
        view::{self, EventKind},
        vrrp::VirtualRouterState,
    },
    os::clock,
    peer::{
        self, Answer, PeerChange, PeerRequest, Peers, Removal,
        key::ClusterKey,
        message::{NodeRecord, NodeReport, ReplyBody, RequestBody},
        task::PeerInbox,
    },
};

/// After a push that failed, the next is made not before this time has passed.
const PUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the thread of the channel; returns also what other nodes ask.
pub type StartPeers = Box<dyn Fn() -> io::Result<(Box<dyn Peers>, PeerInbox)> + Send>;

/// The channel to other nodes, and what the daemon keeps for it.
pub struct Nodes {
    start: StartPeers,
    running: Option<Box<dyn Peers>>,
    inbox: Option<PeerInbox>,
    /// The file with the key that this node made, or joined with.
    key_file: PathBuf,
    /// Why there is no channel though there should be one.
    problem: Option<String>,
    /// Pushes that are on their way: the node, and its answer.
    pushes: Vec<(String, oneshot::Receiver<Answer>)>,
    /// When services were last pushed, and what went wrong.
    pushed: Option<Instant>,
    push_problem: Option<String>,
    /// See [`pair::digests`].
    digests: [String; 2],
}

/// Something that other nodes said or did.
pub enum FromPeers {
    /// A node asks for something.
    Asked(PeerRequest),
    /// A node came, went, or says something new.
    Changed(PeerChange),
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
    pub const fn new(start: StartPeers, key_file: PathBuf) -> Self {
        Self {
            start,
            running: None,
            inbox: None,
            key_file,
            problem: None,
            pushes: Vec::new(),
            pushed: None,
            push_problem: None,
            digests: [String::new(), String::new()],
        }
    }

    /// Waits for what other nodes say; for ever if there is no channel.
    pub async fn next(&mut self) -> FromPeers {
        let Some(inbox) = &mut self.inbox else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(request) = inbox.requests.recv() => FromPeers::Asked(request),
            Some(change) = inbox.changes.recv() => FromPeers::Changed(change),
            else => std::future::pending().await,
        }
    }

    /// Ends the channel.
    pub fn stop(&mut self) {
        self.running = None;
    }
}

impl Daemon {
    /// Computes what other nodes compare, once for each model, if there is a channel to them.
    pub(super) fn compute_digests(&mut self) {
        if self.nodes.running.is_some() {
            self.nodes.digests = pair::digests(&self.model);
        }
    }

    /// How this node speaks to the others, with this key.
    fn channel_settings(&self, key: Option<ClusterKey>) -> peer::PeerSettings {
        let settings = &self.model.peers;
        peer::PeerSettings {
            name: self.model.node.clone(),
            listen: Some(settings.listen),
            interface: settings.interface.clone(),
            key,
            peers: settings.nodes.clone(),
        }
    }

    /// Speaks to other nodes as the model says, once there is a key.
    pub(super) fn configure_peers(&mut self) {
        let settings = &self.model.peers;
        let path = settings.key_file.as_ref().unwrap_or(&self.nodes.key_file);
        let key = match ClusterKey::read(path) {
            Ok(None) if settings.key_file.is_some() => {
                self.nodes.problem = Some(format!("there is no key file {}", path.display()));
                None
            }
            Ok(key) => {
                self.nodes.problem = None;
                key
            }
            Err(sentence) => {
                self.nodes.problem = Some(sentence);
                None
            }
        };
        if key.is_none() && self.nodes.running.is_none() {
            return;
        }
        let settings = self.channel_settings(key);
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
                    nodes.digests = pair::digests(&self.model);
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

    /// A sentence for each thing that is wrong with the channel.
    pub(super) fn peer_problems(&self, peers: &[view::Peer]) -> Vec<String> {
        let nodes = &self.nodes;
        let mut problems: Vec<_> = nodes.problem.iter().cloned().collect();
        if let Some(running) = &nodes.running {
            problems.extend(running.obstacles());
        }
        problems.extend(pair::problems(peers));
        problems.extend(nodes.push_problem.iter().cloned());
        problems
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
            FromPeers::Changed(PeerChange::Came { name }) => {
                self.publish(Event::of_node(EventKind::NodeUp, &name));
                self.tell_peers();
            }
            FromPeers::Changed(PeerChange::Went { name, reason }) => {
                let message = format!("{name}: {reason}");
                self.publish(Event::of_node(EventKind::NodeDown, &message));
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
            RequestBody::GiveUp => match self.give_up() {
                Ok(_) => Ok(ReplyBody::Done),
                Err(refusal) => Err(refusal.to_string()),
            },
            RequestBody::Services => Ok(ReplyBody::Services {
                text: pair::services_text(&self.model),
            }),
            RequestBody::Push { text } => self.take_push(&from, &text).map(|()| ReplyBody::Done),
            RequestBody::Ping | RequestBody::Join { .. } | RequestBody::Leave { .. } => {
                Err("the channel answers that itself".to_owned())
            }
        };
        // Whoever asked may have gone.
        drop(reply.send(answer));
    }

    /// Replaces this node's services by another node's, all or none.
    fn take_push(&mut self, from: &str, text: &str) -> Result<(), String> {
        if self.reload_began.is_some() {
            return Err("the configuration file is being loaded: try again".to_owned());
        }
        let wanted = pair::services_of(text)?;
        let checks = wanted.iter().flat_map(|service| &service.checks);
        if let Some(problem) = checks.filter_map(check_problem).next() {
            return Err(problem);
        }
        let changes = pair::changes_to(&self.model, &wanted);
        if changes.is_empty() {
            return Ok(());
        }
        let requests = changes.into_iter().filter_map(request).collect();
        self.change_all(requests, Scope::File)
            .map_err(|refusal| refusal.to_string())?;
        tracing::info!("the services of node {from} were taken over");
        Ok(())
    }

    /// As the Active node, sends its services to nodes that have others, if that is configured.
    fn push_by_itself(&mut self, status: &view::Status) {
        let mut failed = None;
        self.nodes
            .pushes
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
            if self.nodes.push_problem.as_ref() != Some(&sentence) {
                tracing::warn!("{sentence}");
            }
            self.nodes.push_problem = Some(sentence);
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
            self.nodes.push_problem = None;
            self.nodes.pushed = None;
            return;
        }
        let now = clock::now();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < PUSH_INTERVAL;
        if !is_due || !self.nodes.pushes.is_empty() || self.nodes.pushed.is_some_and(is_recent) {
            return;
        }
        self.nodes.pushed = Some(now);
        let text = pair::services_text(&self.model);
        let names: Vec<_> = unlike.iter().map(|peer| peer.name.clone()).collect();
        for name in names {
            let (reply, answer) = oneshot::channel();
            if let Some(running) = &mut self.nodes.running {
                running.request(&name, RequestBody::Push { text: text.clone() }, reply);
            }
            self.nodes.pushes.push((name, answer));
        }
    }

    /// The key with which other nodes join, made if there is none.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(super) fn node_key(&mut self) -> Result<view::NodeKey, ApiError> {
        let configured = self.model.peers.key_file.clone();
        let path = configured.unwrap_or_else(|| self.nodes.key_file.clone());
        let key = ClusterKey::read_or_create(&path).map_err(ApiError::failed)?;
        self.configure_peers();
        Ok(view::NodeKey {
            key: key.to_string(),
        })
    }

    /// Joins the nodes of another one.
    ///
    /// # Errors
    /// The key is none, or the configuration names another.
    pub(super) fn node_join(
        &mut self,
        key: &str,
        address: SocketAddr,
    ) -> Result<Asked<Vec<NodeRecord>>, ApiError> {
        if let Some(path) = &self.model.peers.key_file {
            return Err(ApiError::invalid(format!(
                "[peers] key-file names {}: put the key there, name the node in `nodes`, and reload",
                path.display()
            )));
        }
        let key: ClusterKey = key
            .parse()
            .map_err(|sentence| ApiError::invalid(format!("this is no key: {sentence}")))?;
        let known = ClusterKey::read(&self.nodes.key_file).unwrap_or_default();
        let settings = self.channel_settings(known);
        let (reply, joined) = oneshot::channel();
        let Some(running) = self.start_peers() else {
            return Err(ApiError::failed(
                "the channel to other nodes cannot be started: the log says why",
            ));
        };
        running.configure(settings);
        running.join(key, address, reply);
        Ok(Asked(joined))
    }

    /// Keeps the key with which this node has joined.
    ///
    /// # Errors
    /// The disk refused it.
    pub(super) fn keep_node_key(&mut self, key: &str) -> Result<(), ApiError> {
        let key: ClusterKey = key
            .parse()
            .map_err(|sentence: String| ApiError::invalid(sentence))?;
        let path = &self.nodes.key_file;
        key.write(path).map_err(|error| {
            ApiError::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        self.configure_peers();
        Ok(())
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

    /// Asks something of another node; without a name, of the only one there is.
    ///
    /// # Errors
    /// There is no channel, or it is not clear which node is meant.
    pub(super) fn ask_peer(
        &mut self,
        name: Option<String>,
        body: RequestBody,
    ) -> Result<(String, Asked<ReplyBody>), ApiError> {
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

    /// What another node's services have other than this node's.
    ///
    /// # Errors
    /// The text holds no services.
    pub(super) fn differences(&self, text: &str) -> Result<Vec<String>, ApiError> {
        pair::differences(&self.model, text).map_err(ApiError::failed)
    }

    /// Sends this node's services to another.
    ///
    /// # Errors
    /// As [`Self::ask_peer`].
    pub(super) fn push(
        &mut self,
        name: Option<String>,
    ) -> Result<(String, Asked<ReplyBody>), ApiError> {
        let text = pair::services_text(&self.model);
        self.ask_peer(name, RequestBody::Push { text })
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

/// The request that makes a change.
fn request(change: Change) -> Option<Request> {
    Some(match change {
        Change::DelService(key) => Request::DelService(ServiceRef::Key(key)),
        Change::AddService(key, settings) => Request::AddService(key, settings),
        Change::AddReal(key, real, settings) => {
            let real = RealRef {
                address: real.ip(),
                port: Some(real.port()),
            };
            Request::AddReal(ServiceRef::Key(key), real, settings)
        }
        Change::DelReal(key, real) => {
            let real = RealRef {
                address: real.ip(),
                port: Some(real.port()),
            };
            Request::DelReal(ServiceRef::Key(key), real, ConnectionPolicy::Keep)
        }
        Change::EditService(..) | Change::EditReal(..) | Change::Clear => return None,
    })
}

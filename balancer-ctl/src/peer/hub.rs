//! The one owner of the channel's state: which nodes there are, their sessions, and who is let in.

mod greet;
mod listen;
mod member;
mod receive;
mod speak;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::sleep_until,
};

use self::{
    listen::{accept, listens},
    receive::Guest,
};
use super::{
    Answer, NodeRecord, PeerChange, PeerRequest, PeerSettings, PeerView, RefusalCounters, Removal,
    admission::{Admission, HandshakeId},
    connection::{self, Connection, Encoded, Event},
    key::ClusterKey,
    membership::Membership,
    message::{NodeReport, RequestBody},
    node::Node,
    session::{Action, ConnectionId},
};
use crate::os::{log_rate_limit::LogRateLimit, state_file::StateFile};

/// Events of connections that wait for the hub.
const MAX_QUEUED_EVENTS: usize = 256;
/// Time without a turn of the loop after which other nodes are excused for their silence: there is one at least each second while one
/// of them is up.
const STALL: Duration = Duration::from_secs(2);
/// Pause before the hub tries again to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(2);
/// Pause before the hub accepts again after it could not.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the daemon wants.
#[derive(Debug)]
pub(super) enum Command {
    Configure(Box<PeerSettings>),
    Publish(Box<NodeReport>),
    Request {
        name: String,
        body: RequestBody,
        reply: oneshot::Sender<Answer>,
    },
    Join {
        key: ClusterKey,
        key_file: PathBuf,
        address: SocketAddr,
        reply: oneshot::Sender<Result<Vec<NodeRecord>, String>>,
    },
    Remove {
        name: String,
        reply: oneshot::Sender<Result<Removal, String>>,
    },
}

/// What the daemon sees.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Seen>);

/// See [`Shared`].
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub peers: Vec<PeerView>,
    pub refusals: RefusalCounters,
    pub obstacles: Vec<String>,
    /// Where the hub listens.
    pub listening: Option<SocketAddr>,
}

impl Shared {
    /// A poisoned lock is safe to use: no code panics while it holds it.
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub(super) struct Hub {
    shared: Arc<Shared>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    requests: mpsc::Sender<PeerRequest>,
    changes: mpsc::Sender<PeerChange>,
    file: StateFile,
    settings: PeerSettings,
    /// Drawn at random; see [`super::message::Hello`].
    instance: u64,
    membership: Membership,
    /// This node has asked another one to take it in, and waits.
    is_joining: bool,
    nodes: Vec<Node>,
    /// Configured addresses that turned out to be this node's.
    own_addresses: Vec<SocketAddr>,
    listener: Option<TcpListener>,
    listen_at: Option<Instant>,
    accept_at: Option<Instant>,
    admission: Admission,
    handshakes: HashMap<HandshakeId, AbortHandle>,
    guests: HashMap<ConnectionId, Guest>,
    next_connection: ConnectionId,
    next_dial: u64,
    report: Option<(NodeReport, Encoded)>,
    refusals: RefusalCounters,
    refusal_log: LogRateLimit,
    trouble_log: LogRateLimit,
    /// What is wrong with `nodes.json`, and with listening.
    file_obstacle: Option<String>,
    listen_obstacle: Option<String>,
    /// Whether there is something new for the daemon to see.
    is_changed: bool,
    last_tick: Instant,
}

impl Hub {
    pub fn new(
        file: StateFile,
        shared: Arc<Shared>,
        requests: mpsc::Sender<PeerRequest>,
        changes: mpsc::Sender<PeerChange>,
    ) -> Self {
        let (membership, file_obstacle) = match Membership::read(&file) {
            Ok(membership) => (membership, None),
            Err(sentence) => {
                tracing::error!("{sentence}");
                (Membership::default(), Some(sentence))
            }
        };
        Self {
            shared,
            events: mpsc::channel(MAX_QUEUED_EVENTS),
            requests,
            changes,
            file,
            settings: PeerSettings::default(),
            instance: random(),
            membership,
            is_joining: false,
            nodes: Vec::new(),
            own_addresses: Vec::new(),
            listener: None,
            listen_at: None,
            accept_at: None,
            admission: Admission::default(),
            handshakes: HashMap::new(),
            guests: HashMap::new(),
            next_connection: 0,
            next_dial: 0,
            report: None,
            refusals: RefusalCounters::default(),
            refusal_log: LogRateLimit::default(),
            trouble_log: LogRateLimit::default(),
            file_obstacle,
            listen_obstacle: None,
            is_changed: true,
            last_tick: now(),
        }
    }

    /// Runs until the daemon drops its end.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.tick(now());
            self.show();
            let deadline = self.next_deadline();
            let accepts = self.accept_at.is_none();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(event) = self.events.1.recv() => self.event(event),
                accepted = accept(self.listener.as_ref()), if accepts => self.accepted(accepted),
                () = until(deadline) => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.is_changed = true;
        match command {
            Command::Configure(settings) => self.configure(*settings),
            Command::Publish(report) => self.publish(*report),
            Command::Request { name, body, reply } => self.request(&name, body, reply),
            Command::Join {
                key,
                key_file,
                address,
                reply,
            } => self.join(key, key_file, address, reply),
            Command::Remove { name, reply } => {
                // Whoever asked may not wait any more.
                let _ = reply.send(self.remove(&name));
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.is_changed = true;
        match event {
            Event::Accepted {
                handshake,
                source,
                result,
            } => {
                self.admission.ended(handshake);
                // One that was evicted at the same moment.
                if self.handshakes.remove(&handshake).is_some() {
                    self.greeted_by(source, result);
                }
            }
            Event::Dialled {
                target,
                dial,
                result,
            } => self.dialled(target, dial, result),
            Event::Heard(id) => self.heard(id),
            Event::Received(id, received) => self.received(id, received),
            Event::Closed {
                id,
                reason,
                is_garbage,
            } => {
                self.refusals.garbage += u64::from(is_garbage);
                self.closed(id, &reason);
            }
            Event::Answered {
                id,
                request,
                answer,
            } => self.answer(id, request, answer),
            Event::Joined(result) => self.joined(result),
        }
    }

    fn configure(&mut self, settings: PeerSettings) {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = &self.settings;
        if old != *new {
            // An address may be another node's by now.
            self.own_addresses.clear();
        }
        let is_same_place = old.listen == new.listen && old.interface == new.interface;
        if old.name != new.name || old.key != new.key || !is_same_place {
            let reason = "this node's settings of the channel changed";
            self.disconnect_all(reason);
            self.listener = None;
            self.listen_obstacle = None;
            self.listen_at = listens(&self.settings).then(now);
        }
        self.sync_nodes();
    }

    /// Ends all connections and handshakes; the nodes are dialled again at once.
    fn disconnect_all(&mut self, reason: &str) {
        for (id, handshake) in self.handshakes.drain() {
            handshake.abort();
            self.admission.ended(id);
        }
        self.guests.clear();
        for node in std::mem::take(&mut self.nodes) {
            self.went(&node, reason);
        }
    }

    /// Reports that a node is gone if it was there.
    fn went(&mut self, node: &Node, reason: &str) {
        if let Some(name) = &node.name
            && node.connection.is_some()
        {
            tracing::info!(node = name, "another node is gone: {reason}");
            self.change(PeerChange::Went {
                name: name.clone(),
                reason: reason.to_owned(),
            });
        }
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_tick) > STALL {
            for node in &mut self.nodes {
                node.session.excuse(now);
            }
        }
        self.last_tick = now;
        if self.listen_at.is_some_and(|at| at <= now) {
            self.listen(now);
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
        }
        self.guests.retain(|_, guest| guest.deadline > now);
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            node.expire(now);
            match node.session.tick(now, jitter()) {
                None => {}
                Some(Action::Dial) => self.dial(place),
                Some(Action::Report) => {
                    // Before the daemon has published anything, an empty list of nodes is a sign of life, too.
                    let report = self.report.as_ref().map(|(_, encoded)| encoded.clone());
                    let message = report.unwrap_or_else(|| self.told());
                    self.nodes[place].send(message);
                }
                Some(Action::Lose(_)) => self.lost(place, "it said nothing for 3 s"),
            }
        }
    }

    /// A node's session has ended.
    fn lost(&mut self, place: usize, reason: &str) {
        self.is_changed = true;
        let node = &mut self.nodes[place];
        node.counters.lost += 1;
        node.trouble = Some(reason.to_owned());
        let name = node.label();
        node.disconnect(reason);
        tracing::warn!(node = name, "another node is lost: {reason}");
        self.change(PeerChange::Went {
            name,
            reason: reason.to_owned(),
        });
    }

    fn next_deadline(&self) -> Option<Instant> {
        let nodes = self.nodes.iter().filter_map(Node::next_deadline);
        let guests = self.guests.values().map(|guest| guest.deadline);
        nodes
            .chain(guests)
            .chain(self.listen_at)
            .chain(self.accept_at)
            .min()
    }

    fn change(&self, change: PeerChange) {
        // A daemon that is so busy looks at all nodes with the next change.
        let _ = self.changes.try_send(change);
    }

    /// Lets the daemon see what changed.
    fn show(&mut self) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        let mut peers: Vec<_> = self.nodes.iter().map(Node::view).collect();
        peers.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        let obstacles = [&self.file_obstacle, &self.listen_obstacle];
        let listening = self.listener.as_ref().and_then(|l| l.local_addr().ok());
        *self.shared.lock() = Seen {
            peers,
            refusals: self.refusals,
            obstacles: obstacles.into_iter().flatten().cloned().collect(),
            listening,
        };
    }

    fn node_of(&self, id: ConnectionId) -> Option<usize> {
        self.nodes
            .iter()
            .position(|node| node.session.connection() == Some(id))
    }

    fn new_connection(&mut self, greeted: connection::Greeted) -> (ConnectionId, Connection) {
        let id = self.next_connection;
        self.next_connection += 1;
        (id, greeted.start(id, &self.events.0))
    }
}

/// The monotonic clock, as tests may hold it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time of day in milliseconds since 1970.
fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A random number; should the kernel have none, the time.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => time_of_day(),
    }
}

/// See [`super::session::Session::tick`].
fn jitter() -> u16 {
    u16::try_from(random() % 1001).unwrap_or_default()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

//! Another node, as the hub knows it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    Answer, PeerCounters, PeerView,
    connection::{Connection, Encoded},
    message::{Message, NodeReport, RequestBody},
    session::Session,
    wire::MAX_MESSAGE,
};

/// Time within which most requests must be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time within which a node must have given its VIPs up, or not: three of the longest advertisement intervals (40.95 s), and some more.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(130);

/// Time within which a request must be answered.
pub(super) const fn time_for(request: &RequestBody) -> Duration {
    match request {
        RequestBody::GiveUp => GIVE_UP_TIMEOUT,
        _ => REQUEST_TIMEOUT,
    }
}

/// Requests to a node that wait for their answers.
const MAX_PENDING: usize = 32;

/// Another node.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` = it was never reached.
    pub name: Option<String>,
    pub address: SocketAddr,
    pub is_member: bool,
    pub is_configured: bool,
    pub session: Session,
    pub connection: Option<Connection>,
    /// The address from which it dialled last, which need not be the one on which it listens.
    pub dials_from: Option<IpAddr>,
    /// The dialling that goes on, and its number.
    pub dial: Option<(u64, AbortHandle)>,
    pub version: Option<String>,
    pub last_heard: Option<Instant>,
    pub report: Option<Arc<NodeReport>>,
    pub trouble: Option<String>,
    pub counters: PeerCounters,
    /// Its requests on the present connection that wait for this node's answers.
    pub answering: usize,
    pending: HashMap<u64, Pending>,
    next_request: u64,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Answer>,
    /// Time that the answer may take.
    limit: Duration,
    deadline: Instant,
}

impl Node {
    pub fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            name: None,
            address,
            is_member: false,
            is_configured: false,
            session: Session::new(now),
            connection: None,
            dials_from: None,
            dial: None,
            version: None,
            last_heard: None,
            report: None,
            trouble: None,
            counters: PeerCounters::default(),
            answering: 0,
            pending: HashMap::new(),
            next_request: 0,
        }
    }

    pub fn view(&self) -> PeerView {
        PeerView {
            name: self.name.clone(),
            address: self.address,
            is_member: self.is_member,
            state: self.session.state(),
            version: self.version.clone(),
            last_heard: self.last_heard,
            report: self.report.clone(),
            trouble: self.trouble.clone(),
            counters: self.counters,
        }
    }

    /// Its name, or its address before that is known.
    pub fn label(&self) -> String {
        let name = self.name.clone();
        name.unwrap_or_else(|| self.address.to_string())
    }

    /// Whether its connections come from this address.
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.address.ip() == address || self.dials_from == Some(address)
    }

    /// When something is due next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let requests = self.pending.values().map(|pending| pending.deadline);
        requests.chain(self.session.next_deadline()).min()
    }

    /// Queues a message. One that does not fit is lost, and so is the node soon, as it does not read.
    pub fn send(&mut self, message: Encoded) -> bool {
        let sent = self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.send(message));
        self.counters.sent += u64::from(sent);
        sent
    }

    /// Sends a request.
    pub fn request(&mut self, body: RequestBody, reply: oneshot::Sender<Answer>, now: Instant) {
        let refused = if self.connection.is_none() {
            let why = self.trouble.as_deref().unwrap_or("it was not reached yet");
            Some(format!("node {} is not connected: {why}", self.label()))
        } else if self.pending.len() >= MAX_PENDING {
            Some(format!("node {} has too much to answer", self.label()))
        } else {
            None
        };
        if let Some(sentence) = refused {
            let _ = reply.send(Err(sentence));
            return;
        }
        let id = self.next_request;
        self.next_request += 1;
        let limit = time_for(&body);
        let message = Message::Request { id, body }.encode();
        if message.len() > MAX_MESSAGE {
            let sentence = format!(
                "{} bytes are too many for one message to another node: at most {MAX_MESSAGE}",
                message.len()
            );
            let _ = reply.send(Err(sentence));
        } else if self.send(message.into()) {
            let deadline = now + limit;
            let pending = Pending {
                reply,
                limit,
                deadline,
            };
            self.pending.insert(id, pending);
        } else {
            let _ = reply.send(Err(format!("node {} does not read", self.label())));
        }
    }

    /// Passes an answer on.
    pub fn answered(&mut self, id: u64, answer: Answer) {
        if let Some(pending) = self.pending.remove(&id) {
            // Whoever asked may not wait any more.
            let _ = pending.reply.send(answer);
        }
    }

    /// Ends the wait for answers that did not come in time.
    pub fn expire(&mut self, now: Instant) {
        let label = self.label();
        let late = self
            .pending
            .extract_if(|_, pending| pending.deadline <= now);
        for (_, pending) in late {
            let _ = pending.reply.send(Err(format!(
                "node {label} did not answer within {} s; whether it did what was asked is not known",
                pending.limit.as_secs()
            )));
        }
    }

    /// The connection is gone: so are its answers.
    pub fn disconnect(&mut self, reason: &str) {
        self.connection = None;
        self.answering = 0;
        let label = self.label();
        for (_, pending) in self.pending.drain() {
            let _ = pending.reply.send(Err(format!(
                "node {label} was lost before it answered: {reason}; whether it did what was asked is not known"
            )));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((_, dial)) = self.dial.take() {
            dial.abort();
        }
        self.disconnect("it was taken out");
    }
}

//! A channel in memory, for tests: it reaches nobody and stores nothing; a test says which nodes there are and what they answer.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, ClusterKey, NodeRecord, NodeReport, PeerSettings, PeerView, Peers, RefusalCounters,
    Removal, RequestBody, task::PeerInbox,
};

/// Where the answer to joining goes.
type JoinReply = oneshot::Sender<Result<Vec<NodeRecord>, String>>;

/// What tests set and read.
#[derive(Debug, Default)]
pub struct State {
    /// What [`Peers::configure`] was last given.
    pub configured: Option<PeerSettings>,
    /// What [`Peers::publish`] was last given.
    pub published: Option<NodeReport>,
    /// What [`Peers::peers`] returns.
    pub peers: Vec<PeerView>,
    /// What [`Peers::refusals`] returns.
    pub refusals: RefusalCounters,
    /// What [`Peers::request`] was given, and where the answers go.
    pub requests: Vec<(String, RequestBody, oneshot::Sender<Answer>)>,
    /// What [`Peers::join`] was last given, and where the answer goes.
    pub joining: Option<(ClusterKey, PathBuf, SocketAddr, JoinReply)>,
    /// What [`Peers::remove`] replies; `None` = nothing.
    pub removal: Option<Result<Removal, String>>,
}

/// A channel in memory; clones share its state.
#[derive(Clone, Debug, Default)]
pub struct FakePeers(Arc<Mutex<State>>);

impl FakePeers {
    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other nodes say: nothing.
    #[must_use]
    pub fn inbox() -> PeerInbox {
        PeerInbox {
            requests: mpsc::channel(1).1,
            changes: mpsc::channel(1).1,
        }
    }
}

impl Peers for FakePeers {
    fn configure(&mut self, settings: PeerSettings) {
        self.state().configured = Some(settings);
    }

    fn publish(&mut self, report: NodeReport) {
        self.state().published = Some(report);
    }

    fn peers(&self) -> Vec<PeerView> {
        self.state().peers.clone()
    }

    fn refusals(&self) -> RefusalCounters {
        self.state().refusals
    }

    fn obstacles(&self) -> Vec<String> {
        Vec::new()
    }

    fn request(&mut self, name: &str, body: RequestBody, reply: oneshot::Sender<Answer>) {
        self.state().requests.push((name.to_owned(), body, reply));
    }

    fn join(&mut self, key: ClusterKey, key_file: PathBuf, address: SocketAddr, reply: JoinReply) {
        self.state().joining = Some((key, key_file, address, reply));
    }

    fn remove(&mut self, _name: &str, reply: oneshot::Sender<Result<Removal, String>>) {
        if let Some(removal) = self.state().removal.clone() {
            drop(reply.send(removal));
        }
    }
}

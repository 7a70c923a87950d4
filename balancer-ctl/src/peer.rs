//! The channel between the nodes of a cluster, over which they tell each other their states and pass services on.
//!
//! ```text
//!   daemon ──Peers──▶ hub ──dials, accepts──▶ connection (tasks: one reads, one writes) ══Noise over TCP══ other node
//!     ▲                │  session (pure: when to dial, which connection to keep, when a node is lost)
//!     │                │  membership (which nodes there are; nodes.json)
//!     └─ changes, requests                admission (pure: who may shake hands)
//! ```
//!
//! All of it runs on a thread of its own, so that a busy daemon does not look like a dead one. Whoever does not have the cluster's key
//! gets nothing but a handshake of fixed size for two seconds.

mod admission;
mod connection;
pub mod fake;
mod hub;
pub mod key;
pub mod membership;
pub mod message;
mod node;
pub mod session;
mod socket;
pub mod task;
pub mod wire;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use tokio::sync::oneshot;

pub use self::{
    key::ClusterKey,
    message::{NodeRecord, NodeReport, ReplyBody, RequestBody},
    session::SessionState,
    task::PeerTask,
};
pub use crate::model::peers::RefusalCounters;

/// What becomes of a request: what was asked for, or a sentence that says why not.
pub type Answer = Result<ReplyBody, String>;

/// How this node speaks to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSettings {
    /// This node's name.
    pub name: String,
    /// Address and port on which it listens, if there is a key, and from whose address it dials; `None` = it only dials.
    pub listen: Option<SocketAddr>,
    /// The interface over which alone it listens and dials.
    pub interface: Option<String>,
    /// The cluster's key; `None` = there is no channel.
    pub key: Option<ClusterKey>,
    /// Other nodes by address and port, beside those that joined.
    pub peers: Vec<SocketAddr>,
    /// Whether other nodes may join this one: not where the configuration names the key's file, and with it all nodes.
    pub can_be_joined: bool,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    /// Its name; `None` = it was never reached, and is known by its address only.
    pub name: Option<String>,
    /// Address and port at which it is dialled.
    pub address: SocketAddr,
    /// Whether it joined (`nodes.json`); otherwise it is configured.
    pub is_member: bool,
    /// How far it is reached.
    pub state: SessionState,
    /// The version of its daemon; `None` = it was never reached.
    pub version: Option<String>,
    /// When something was last heard from it.
    pub last_heard: Option<Instant>,
    /// What it said last of itself, also after it was lost.
    pub report: Option<Arc<NodeReport>>,
    /// Why it is not reached, as a sentence's end.
    pub trouble: Option<String>,
    /// What passed between it and this node.
    pub counters: PeerCounters,
}

impl PeerView {
    /// Whether it speaks at present.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state == SessionState::Up
    }
}

/// What passed between this node and another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Messages to it.
    pub sent: u64,
    /// Messages from it.
    pub received: u64,
    /// Messages that one of the two did not understand.
    pub not_understood: u64,
    /// How often it was dialled.
    pub dialled: u64,
    /// How often it was lost.
    pub lost: u64,
}

/// What `remove` has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The node was told, and forgets the others.
    Told,
    /// The node could not be told: it is not let in any more, and is told when it comes back.
    Unreached,
    /// This node itself has left, and could tell no other one.
    LeftUnheard,
}

/// What another node asks of this one. The channel itself answers pings, joining and leaving.
#[derive(Debug)]
pub struct PeerRequest {
    /// Its name.
    pub from: String,
    /// What it asks.
    pub body: RequestBody,
    /// For the answer, within 30 s; dropped = it was not done.
    pub reply: oneshot::Sender<Answer>,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// A node is reached.
    Came {
        /// Its name.
        name: String,
    },
    /// A node is lost, or was taken out.
    Went {
        /// Its name.
        name: String,
        /// Why, as a sentence's end.
        reason: String,
    },
    /// A node's report says something new.
    Reported {
        /// Its name.
        name: String,
    },
    /// A node joined the cluster or was taken out of it.
    Members,
    /// This node was taken out of the cluster by another, and has forgotten the others.
    TakenOut,
}

/// The other nodes, as the daemon sees them: a thread with connections, and a fake in tests. No call waits.
pub trait Peers: Send {
    /// Takes other settings over. Connections stay where name, key, addresses and interface do.
    fn configure(&mut self, settings: PeerSettings);

    /// Sets what the other nodes are told of this one, at once and then each second.
    fn publish(&mut self, report: NodeReport);

    /// All other nodes, by name.
    fn peers(&self) -> Vec<PeerView>;

    /// Connections that were not let in.
    fn refusals(&self) -> RefusalCounters;

    /// A sentence for each thing that is wrong with the channel itself.
    fn obstacles(&self) -> Vec<String>;

    /// Asks something of another node.
    fn request(&mut self, name: &str, body: RequestBody, reply: oneshot::Sender<Answer>);

    /// Joins the cluster of the node at this address, and uses its key from then on; the answer has all nodes, this one included. The
    /// key is stored in `key_file` once that has worked. The caller passes the key with the next settings.
    fn join(
        &mut self,
        key: ClusterKey,
        key_file: PathBuf,
        address: SocketAddr,
        reply: oneshot::Sender<Result<Vec<NodeRecord>, String>>,
    );

    /// Takes a node out of the cluster; by its own name, this one.
    fn remove(&mut self, name: &str, reply: oneshot::Sender<Result<Removal, String>>);
}

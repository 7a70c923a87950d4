//! The daemon's messages, and changes as operators name them.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::oneshot;

use super::{Asked, CloseReport, ForgetReport, GiveUp, HealthReport, ListReport, Replacement};
use crate::{
    health::CheckUpdate,
    model::{
        ServiceKey,
        address::{RealRef, ServiceRef},
        connections::ConnectionFilter,
        error::ApiError,
        prefix::Prefix,
        real::RealSettings,
        service::ServiceSettings,
        view,
    },
    peer::{
        Removal,
        message::{NodeRecord, ReplyBody, RequestBody},
    },
};

/// Sends the reply to a message.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// A message to the daemon.
#[derive(Debug)]
pub enum Message {
    /// Makes changes to the model, all or none; replies with what there is to say about them.
    Change(Vec<Request>, Scope, Reply<view::ChangeResult>),
    /// Makes the services others, all or none; replies with what changes.
    Replace(Replacement, Reply<view::ChangeResult>),
    /// Returns the services, or one of them.
    Services(Option<ServiceRef>, Reply<view::Services>),
    /// Returns connections that match a filter.
    Connections(
        Option<ServiceRef>,
        ConnectionFilter,
        Reply<ListReport<view::Connection>>,
    ),
    /// Closes the connections that match a filter.
    CloseConnections(Option<ServiceRef>, ConnectionFilter, Reply<CloseReport>),
    /// Returns which real server a client of a service would get.
    Trace(ServiceRef, SocketAddr, Reply<view::Trace>),
    /// Returns the clients that keep a server and match.
    Persistence(PersistenceQuery, Reply<ListReport<view::PersistenceEntry>>),
    /// Forgets the clients that match.
    Forget(PersistenceQuery, Reply<ForgetReport>),
    /// Returns all checkers, or those of one service.
    Health(Option<ServiceRef>, Reply<HealthReport>),
    /// Returns the status.
    Status(Reply<view::Status>),
    /// Loads the configuration file again; replies with notes about what it says.
    Reload(Reply<Vec<String>>),
    /// Gives the VIPs up, to whichever node takes them.
    GiveUp(Reply<GiveUp>),
    /// Gives this node's own VIPs up; nothing where it has none.
    GiveUpAll(Reply<Option<GiveUp>>),
    /// Keeps this node from being Active, or no longer.
    NodeMaintenance(bool, Reply<()>),
    /// Returns the key with which other nodes join; makes one if there is none.
    NodeKey(Reply<view::NodeKey>),
    /// Joins the nodes of the one at this address, with its key; returns all nodes.
    NodeJoin(String, SocketAddr, Reply<Vec<NodeRecord>>),
    /// Takes a node out.
    NodeRemove(String, Reply<Asked<Removal>>),
    /// Asks something of another node, or of the only one; returns its name, too.
    AskNode(
        Option<String>,
        RequestBody,
        Reply<(String, Asked<ReplyBody>)>,
    ),
    /// Returns what another node's services, given as text, have other than this node's.
    Differences(String, Reply<Vec<String>>),
    /// Sends this node's services to another node, or to the only one.
    Push(Option<String>, Reply<(String, Asked<ReplyBody>)>),
    /// New check states.
    Found(Vec<CheckUpdate>),
    /// Sets the counters of a service, or of all, to zero.
    Zero(Option<ServiceRef>, Reply<()>),
    /// Stops the daemon; forwarding goes on.
    Stop,
}

/// Which clients that keep a server, as operators name them; what is `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct PersistenceQuery {
    /// An address, or a prefix of clients.
    pub client: Option<Prefix>,
    /// A service that they are clients of.
    pub service: Option<ServiceRef>,
    /// The group of the services that they are clients of.
    pub group: Option<String>,
    /// The server that they keep.
    pub server: Option<IpAddr>,
    /// List at most this many.
    pub limit: Option<usize>,
}

/// A change as operators name it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Adds a virtual service.
    AddService(ServiceKey, ServiceSettings),
    /// Changes a virtual service.
    EditService(ServiceRef, ServiceSettings),
    /// Deletes a virtual service.
    DelService(ServiceRef),
    /// Adds a real server.
    AddReal(ServiceRef, RealRef, RealSettings),
    /// Changes a real server.
    EditReal(ServiceRef, RealRef, RealSettings),
    /// Deletes a real server.
    DelReal(ServiceRef, RealRef, ConnectionPolicy),
    /// Deletes all services.
    Clear,
}

/// What happens to the connections of a deleted real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPolicy {
    /// They go on until they end.
    Keep,
    /// They are deleted at once.
    Purge,
}

/// Whether a change outlives the next load of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is written to the configuration file, where there is one.
    File,
    /// It is undone by the next load of the file.
    Runtime,
}

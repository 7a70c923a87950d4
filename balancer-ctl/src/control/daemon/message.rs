//! What the daemon can be asked, and changes as operators name them.

use tokio::sync::oneshot;

use super::{ConnectionsReport, HealthReport};
use crate::{
    dataplane::ConnectionFilter,
    health::CheckUpdate,
    model::{
        ServiceKey,
        address::{RealRef, ServiceRef},
        error::ApiError,
        real::RealSettings,
        service::ServiceSettings,
        view,
    },
};

/// Where the answer to a message goes.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// What the daemon can be asked.
#[derive(Debug)]
pub enum Message {
    /// To change the model.
    Change(Request, Scope, Reply<Vec<String>>),
    /// For the services, or one.
    Services(Option<ServiceRef>, Reply<view::Services>),
    /// For connections; a service is named as operators do.
    Connections(
        Option<ServiceRef>,
        ConnectionFilter,
        Reply<ConnectionsReport>,
    ),
    /// For all checkers, or those of one service.
    Health(Option<ServiceRef>, Reply<HealthReport>),
    /// For the status.
    Status(Reply<view::Status>),
    /// To load the configuration file again.
    Reload(Reply<()>),
    /// What checkers found.
    Found(Vec<CheckUpdate>),
    /// To set the counters of a service, or all, to zero.
    Zero(Option<ServiceRef>, Reply<()>),
    /// To stop; forwarding goes on.
    Stop,
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

/// What becomes of a deleted real server's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPolicy {
    /// They go on until they end.
    Keep,
    /// They are deleted at once.
    Purge,
}

/// How long a change lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is written to the configuration file, where there is one.
    File,
    /// It is forgotten at the next load of the file.
    Runtime,
}

//! What the rest of the daemon is told about the virtual routers.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::fsm::{Cause, State};
use crate::model::{
    duration,
    vrrp::{Probes, VirtualAddress, VirtualRouterState},
};

/// All that is known about the virtual routers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The virtual routers, group by group.
    pub routers: Vec<RouterReport>,
    /// A sentence for each thing that is wrong with them.
    pub problems: Vec<String>,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterReport {
    /// Its name.
    pub name: String,
    /// The configured group.
    pub group: Option<String>,
    /// The interface's name.
    pub interface: String,
    /// Its id.
    pub router_id: u8,
    /// Its state.
    pub state: VirtualRouterState,
    /// Why it is in this state.
    pub reason: String,
    /// Since when, by the clock that counts the time that the host was suspended.
    pub since: Instant,
    /// The priority that it states as Active.
    pub priority: u8,
    /// The configured priority.
    pub configured_priority: u8,
    /// The VIPs.
    pub addresses: Vec<VirtualAddress>,
    /// Which nodes probe the services on them.
    pub probes: Probes,
    /// The address and priority of the Active node that it hears; `None` while it is Active itself.
    pub active_node: Option<(IpAddr, u8)>,
    /// Advertisements that it sent.
    pub sent: u64,
    /// Advertisements of other nodes that it took.
    pub received: u64,
    /// What arrived and was not taken, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Something to tell the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A group has another state.
    Changed(Change),
    /// A group has failed.
    Failed {
        /// Its name.
        group: String,
        /// When it failed of late, the latest last, by the clock of [`RouterReport::since`].
        failures: Vec<Instant>,
    },
    /// A sentence to log.
    Warning(String),
}

/// A group of virtual routers has another state, or is in it for another reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The group's name.
    pub group: String,
    /// Its state.
    pub state: VirtualRouterState,
    /// Why.
    pub reason: String,
}

/// What the state of a machine is called. A node in maintenance is one that does not want to be Active, not one that cannot.
#[must_use]
pub const fn shown(state: State, cause: &Cause) -> VirtualRouterState {
    match (state, cause) {
        (State::Active | State::Leaving, _) => VirtualRouterState::Active,
        (State::Backup, _) | (State::Initialize, Cause::Maintenance | Cause::Stopped) => {
            VirtualRouterState::Backup
        }
        (State::Initialize, _) => VirtualRouterState::Fault,
    }
}

/// A cause in words.
#[must_use]
pub fn sentence(cause: &Cause) -> String {
    match cause {
        Cause::Started => "it has started".to_owned(),
        Cause::Listening => {
            "its link has come up, so it listens whether another node is Active".to_owned()
        }
        Cause::Silence => "no other node is Active".to_owned(),
        Cause::Owner => "this node owns the addresses".to_owned(),
        Cause::Other { source, priority } => {
            format!("{source} is Active with priority {priority}")
        }
        Cause::Relieved(source) => format!("gave up on purpose, {source} took over"),
        Cause::Alone => "gave up on purpose, and no other node took over".to_owned(),
        Cause::Leaving => "giving up on purpose".to_owned(),
        Cause::Stalled(time) => {
            format!("this node did not run for {}", duration::rounded(*time))
        }
        Cause::Fault(sentence) => sentence.clone(),
        Cause::Maintenance => "this node is in maintenance".to_owned(),
        Cause::Stopped => "balancerd stops".to_owned(),
    }
}

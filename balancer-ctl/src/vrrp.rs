//! The virtual router redundancy protocol, version 3 (RFC 9568): several balancers share VIPs, and one of them, the
//! Active one, has them.
//!
//! - [`packet`], [`announcement`], [`fsm`], [`group`], [`interfaces`], [`report`]: pure; what is sent, and which state follows
//! - [`engine`]: gives the machines what arrives, and does what they say; [`task`]: the thread that it runs on
//! - [`socket`], [`announce`], [`ports`]: advertisements, gratuitous ARP and unsolicited neighbour advertisements
//! - [`guard`]: the process that sets and removes the VIPs, and outlives the daemon for a moment
//! - [`watch`]: the thread that follows interfaces, and other machines' claims to the VIPs

pub mod announce;
pub mod announcement;
mod checksum;
pub mod command;
pub mod engine;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod fsm;
pub mod group;
pub mod guard;
pub mod interfaces;
pub mod packet;
pub mod ports;
pub mod report;
pub mod socket;
pub mod task;
pub mod watch;

use std::{collections::BTreeMap, time::Instant};

use tokio::sync::oneshot;

use self::{command::Outcome, engine::Tracked, report::Report};
use crate::model::vrrp::VirtualRouter;

/// The priority of the thread and of the guard: above all threads without one, below the kernel's.
pub const REALTIME_PRIORITY: i32 = 10;

/// The virtual routers, as the daemon sees them: a thread, and a fake in tests. All but `report` return at once.
pub trait VirtualRouters: Send {
    /// Takes when groups failed before they are configured, by name, the latest last, by the clock that counts the time that the host was
    /// suspended.
    fn remember(&mut self, failures: BTreeMap<String, Vec<Instant>>);

    /// Runs exactly these.
    fn configure(&mut self, routers: &[VirtualRouter]);

    /// Takes what the daemon tracks for them, by their names.
    fn track(&mut self, tracked: BTreeMap<String, Tracked>);

    /// Gives all addresses up; the reply comes when another node has taken over, or none has.
    fn give_up(&mut self, reply: oneshot::Sender<Outcome>);

    /// Takes over before all other nodes when the Active one gives up soon.
    fn succeed(&mut self);

    /// Keeps this node from being Active, or no longer.
    fn set_maintenance(&mut self, on: bool);

    /// All that is known; `None` if the thread does not answer.
    fn report(&self) -> Option<Report>;
}

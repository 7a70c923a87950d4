//! Virtual routers in memory, for tests: they send nothing and set no address; a test says what they report.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{VirtualRouters, command::Outcome, engine::Tracked, report::Report};
use crate::model::vrrp::VirtualRouter;

/// What tests set and read.
#[derive(Debug, Default)]
pub struct State {
    /// What [`VirtualRouters::remember`] was last given.
    pub failures: BTreeMap<String, Vec<Instant>>,
    /// What [`VirtualRouters::configure`] was last given.
    pub configured: Vec<VirtualRouter>,
    /// What [`VirtualRouters::track`] was last given.
    pub tracked: BTreeMap<String, Tracked>,
    /// What [`VirtualRouters::set_maintenance`] was last given.
    pub in_maintenance: bool,
    /// Whether [`VirtualRouters::succeed`] was called.
    pub succeeds: bool,
    /// What [`VirtualRouters::give_up`] replies; `None` = nothing.
    pub outcome: Option<Outcome>,
    /// What [`VirtualRouters::report`] returns; `None` = nothing is known of any virtual router.
    pub report: Option<Report>,
    /// Whether [`VirtualRouters::report`] is not answered.
    pub is_silent: bool,
}

/// Virtual routers in memory; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakeVirtualRouters(Arc<Mutex<State>>);

impl FakeVirtualRouters {
    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtualRouters for FakeVirtualRouters {
    fn remember(&mut self, failures: BTreeMap<String, Vec<Instant>>) {
        self.state().failures = failures;
    }

    fn configure(&mut self, routers: &[VirtualRouter]) {
        self.state().configured = routers.to_vec();
    }

    fn track(&mut self, tracked: BTreeMap<String, Tracked>) {
        self.state().tracked = tracked;
    }

    fn give_up(&mut self, reply: oneshot::Sender<Outcome>) {
        if let Some(outcome) = self.state().outcome.clone() {
            drop(reply.send(outcome));
        }
    }

    fn succeed(&mut self) {
        self.state().succeeds = true;
    }

    fn set_maintenance(&mut self, on: bool) {
        self.state().in_maintenance = on;
    }

    fn report(&self) -> Option<Report> {
        let state = self.state();
        (!state.is_silent).then(|| state.report.clone().unwrap_or_default())
    }
}

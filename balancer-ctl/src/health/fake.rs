//! Checkers in memory, for tests. They probe nothing: a test sends results itself, with `Message::Found`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    CheckStart, CheckStore, CheckTarget, Checkers, PersistedService, Quorum, RestoredState,
};
use crate::model::{ServiceKey, view};

/// What tests set and read.
#[derive(Debug, Default)]
pub struct State {
    /// States that an earlier daemon stored.
    pub restored: HashMap<CheckTarget, RestoredState>,
    /// Quorums that an earlier daemon stored.
    pub quorums: HashMap<ServiceKey, Quorum>,
    /// When the earlier daemon last wrote its state.
    pub last_written: Option<Instant>,
    /// What [`CheckStore::persist`] was last given.
    pub persisted: Vec<PersistedService>,
    /// What [`Checkers::watch`] was last given.
    pub wanted: Vec<CheckStart>,
    /// What [`Checkers::obstacles`] returns.
    pub obstacles: Vec<String>,
    /// What [`Checkers::report`] sends.
    pub report: Vec<view::Checker>,
    /// Whether the driver counts as stalled.
    pub is_stalled: bool,
}

/// Checkers in memory; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakeCheckers(Arc<Mutex<State>>);

impl FakeCheckers {
    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckStore for FakeCheckers {
    fn restored(
        &self,
        check_target: &CheckTarget,
        _: &ServiceKey,
        _: SocketAddr,
    ) -> Option<RestoredState> {
        self.state().restored.get(check_target).cloned()
    }

    fn quorum(&self, service: &ServiceKey) -> Option<Quorum> {
        self.state().quorums.get(service).copied()
    }

    fn last_written(&self) -> Option<Instant> {
        self.state().last_written
    }

    fn persist(&mut self, services: Vec<PersistedService>) {
        self.state().persisted = services;
    }
}

impl Checkers for FakeCheckers {
    fn watch(&mut self, wanted: Vec<CheckStart>) {
        self.state().wanted = wanted;
    }

    fn alive(&self) -> bool {
        !self.state().is_stalled
    }

    fn obstacles(&self) -> Vec<String> {
        self.state().obstacles.clone()
    }

    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>) {
        drop(reply.send(self.state().report.clone()));
    }
}

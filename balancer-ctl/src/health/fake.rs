//! Checkers in memory, for tests: they ask nobody. What they find a test says itself, with `Message::Found`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{CheckStart, CheckTarget, Checkers, PersistedService, Quorum, RestoredState};
use crate::model::{ServiceKey, view};

/// What the fake holds.
#[derive(Debug, Default)]
pub struct State {
    /// What an earlier daemon is said to have written down.
    pub remembered: HashMap<CheckTarget, RestoredState>,
    /// And of quorums.
    pub quorums: HashMap<ServiceKey, Quorum>,
    /// And when.
    pub written: Option<Instant>,
    /// What is written down of services.
    pub kept: Vec<PersistedService>,
    /// What is to be watched.
    pub watched: Vec<CheckStart>,
    /// Which checks cannot be made.
    pub obstacles: Vec<String>,
    /// What is reported.
    pub report: Vec<view::Checker>,
    /// Whether they stand still.
    pub stands_still: bool,
}

/// Checkers in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeCheckers(Arc<Mutex<State>>);

impl FakeCheckers {
    /// What it holds.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkers for FakeCheckers {
    fn restored(
        &self,
        watched: &CheckTarget,
        _: &ServiceKey,
        _: SocketAddr,
    ) -> Option<RestoredState> {
        self.state().remembered.get(watched).cloned()
    }

    fn quorum(&self, service: &ServiceKey) -> Option<Quorum> {
        self.state().quorums.get(service).copied()
    }

    fn last_written(&self) -> Option<Instant> {
        self.state().written
    }

    fn persist(&mut self, services: Vec<PersistedService>) {
        self.state().kept = services;
    }

    fn watch(&mut self, wanted: Vec<CheckStart>) {
        self.state().watched = wanted;
    }

    fn alive(&self) -> bool {
        !self.state().stands_still
    }

    fn obstacles(&self) -> Vec<String> {
        self.state().obstacles.clone()
    }

    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>) {
        drop(reply.send(self.state().report.clone()));
    }
}

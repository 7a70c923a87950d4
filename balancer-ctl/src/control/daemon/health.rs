//! The report for `balancer-ctl health`: checkers, and the real servers that use them.

use std::{collections::HashMap, net::SocketAddr};

use tokio::sync::oneshot;

use super::Daemon;
use crate::{
    control::{availability::check_targets, report, tracking},
    health::CheckTarget,
    model::{VirtualService, address::ServiceRef, check::keys, error::ApiError, view},
};

/// A report that waits for the checkers' thread.
#[derive(Debug)]
pub struct HealthReport {
    checkers: oneshot::Receiver<Vec<view::Checker>>,
    /// For each checker to report, its users as "SERVICE REAL".
    used_by: HashMap<(SocketAddr, serde_json::Value), Vec<String>>,
    /// Why there is no checker to report; `None` if there are some.
    idle: Option<String>,
}

impl HealthReport {
    /// Waits for the checkers' thread and completes the report.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn finished(mut self) -> Result<view::Health, ApiError> {
        let checkers = self.checkers.await;
        let mut checkers =
            checkers.map_err(|_| ApiError::failed("the checkers do not answer".to_owned()))?;
        checkers.retain_mut(|checker| {
            let users = self
                .used_by
                .remove(&(checker.target, checker.check.clone()));
            checker.used_by = users.unwrap_or_default();
            !checker.used_by.is_empty()
        });
        checkers.sort_by(|a, b| (&a.used_by, a.target).cmp(&(&b.used_by, b.target)));
        Ok(view::Health {
            checkers,
            idle: self.idle,
        })
    }
}

/// The key by which a checker is found in the report.
fn report_key(target: &CheckTarget) -> (SocketAddr, serde_json::Value) {
    (target.target, keys::json(&target.check))
}

impl Daemon {
    pub(super) fn health(&self, service: Option<&ServiceRef>) -> Result<HealthReport, ApiError> {
        let key = service.map(|service| self.key(service)).transpose()?;
        let (reply, checkers) = oneshot::channel();
        self.checkers.report(reply);
        let mut used_by: HashMap<_, Vec<_>> = HashMap::new();
        for service in &self.model.services {
            if key.is_some_and(|key| key != service.key) {
                continue;
            }
            for real in &service.reals {
                for target in check_targets(service, real) {
                    let user = format!("{} {}", report::service_name(service), real.address);
                    used_by.entry(report_key(&target)).or_default().push(user);
                }
            }
        }
        if key.is_none() {
            for (target, user) in self.model.vrrp.iter().flat_map(tracking::check_targets) {
                used_by.entry(report_key(&target)).or_default().push(user);
            }
        }
        let reported = self.model.services.iter();
        let reported = reported.filter(|service| key.is_none_or(|key| key == service.key));
        let idle = used_by
            .is_empty()
            .then(|| why_idle(reported, self.model.services.len()));
        Ok(HealthReport {
            checkers,
            used_by,
            idle,
        })
    }
}

/// Why nothing of these services is probed, with the remedy. `all` is how many services there are.
fn why_idle<'a>(services: impl Iterator<Item = &'a VirtualService>, all: usize) -> String {
    let (checked, unchecked): (Vec<_>, Vec<_>) =
        services.partition(|service| !service.checks.is_empty());
    let remedy = match (&checked[..], &unchecked[..]) {
        ([], []) => "there is no service: add one with `balancer-ctl add-service`",
        ([], [first, ..]) => {
            let which = match all {
                1 => String::new(),
                _ => format!(" {}", report::service_name(first)),
            };
            &format!(
                "give a service a check, as in `balancer-ctl edit-service{which} --check http`"
            )
        }
        (checked, _) if checked.iter().all(|service| service.reals.is_empty()) => {
            "there is no real server: add one with `balancer-ctl add-real`"
        }
        _ => "all real servers are in maintenance: `balancer-ctl ready REAL` ends that",
    };
    format!("nothing is probed: {remedy}")
}

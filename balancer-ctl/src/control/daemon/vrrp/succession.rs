//! Whether this node can take over from the Active one when it is asked to.

use super::is_active;
use crate::{control::daemon::Daemon, model::vrrp::VirtualRouterState, vrrp::report::RouterReport};

impl Daemon {
    /// Takes over before all other nodes when the Active one gives up soon.
    ///
    /// # Errors
    /// This node cannot take over: a sentence.
    pub(in crate::control::daemon) fn succeed(&mut self) -> Result<(), String> {
        if let Some(why) = self.why_no_successor() {
            return Err(format!("node {} {why}", self.model.node));
        }
        if let Some(running) = &mut self.vrrp.running {
            running.succeed();
        }
        Ok(())
    }

    /// Why this node cannot be asked to take over, if so; the sentence continues one that begins with its name.
    fn why_no_successor(&self) -> Option<String> {
        let Some(routers) = self.vrrp.routers() else {
            return Some(
                "cannot take over, since the thread of its virtual routers does not answer: restart balancerd there"
                    .to_owned(),
            );
        };
        let active: Vec<_> = routers.iter().filter(|router| is_active(router)).collect();
        let is_in_fault = |router: &&RouterReport| router.state == VirtualRouterState::Fault;
        if routers.is_empty() {
            Some("has no virtual router, so it cannot take over".to_owned())
        } else if self.vrrp.in_maintenance {
            Some("is in maintenance, so it cannot take over: `balancer-ctl node ready` there ends that".to_owned())
        } else if let Some(router) = routers.iter().find(is_in_fault) {
            Some(format!(
                "cannot take over, since its virtual router {} is in fault: {}",
                router.name, router.reason
            ))
        } else if active.is_empty() {
            None
        } else {
            let names: Vec<_> = active.iter().map(|router| router.name.as_str()).collect();
            Some(format!(
                "is Active already ({}): --to names a node that stands by",
                names.join(", ")
            ))
        }
    }
}

//! The one place where an outcome becomes a counter and an XDP action.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::debug;
use balancer_common::verdict::{Discard, Outcome, Verdict};

use crate::maps::DISCARDS;

/// Counts a packet that left early and names the action.
#[inline(always)]
pub fn finish(ctx: &XdpContext, outcome: Result<Verdict, Discard>) -> u32 {
    match outcome {
        Ok(Verdict::Transmit) => xdp_action::XDP_TX,
        Ok(Verdict::Redirect) => xdp_action::XDP_REDIRECT,
        Err(reason) => {
            if let Some(count) = DISCARDS.get_ptr_mut(reason as u32) {
                // SAFETY: this CPU's own value.
                unsafe { *count += 1 };
            }
            debug!(
                ctx,
                "interface {}: left early, reason {}",
                ctx.ingress_ifindex(),
                reason as u32
            );
            match reason.outcome() {
                Outcome::Pass => xdp_action::XDP_PASS,
                Outcome::Drop => xdp_action::XDP_DROP,
            }
        }
    }
}

//! The one place where an outcome becomes a counter and an XDP action.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use balancer_common::{
    settings::interface_flags,
    verdict::{Discard, Outcome, Verdict},
};

use crate::{
    answer::answer,
    host_source::host_source,
    maps::{DEVICES, DISCARDS, INTERFACES},
    service_discards::{count_for, service_of},
};

/// Counts a packet that left early, answers it where its reason says so, and names the action. `log` is [`log_line`] of each
/// program's own: LLVM would make one subprogram of a line that both have, and give it pointers into their stacks.
#[inline(always)]
pub fn finish(
    ctx: &XdpContext,
    outcome: Result<Verdict, Discard>,
    log: impl Fn(&XdpContext, Discard),
) -> u32 {
    match outcome {
        Ok(Verdict::Transmit) => xdp_action::XDP_TX,
        Ok(Verdict::Redirect) => xdp_action::XDP_REDIRECT,
        Err(reason) => {
            // Before it becomes an answer.
            let service = service_of(ctx, reason);
            let (reason, action) = match reason.outcome() {
                Outcome::Pass => match host_source(ctx, reason) {
                    None => (reason, xdp_action::XDP_PASS),
                    Some(fault) => (fault, xdp_action::XDP_DROP),
                },
                Outcome::Forward => (reason, xdp_action::XDP_PASS),
                Outcome::Drop => (reason, xdp_action::XDP_DROP),
                Outcome::Answer if answer(ctx, reason) => (reason, send_back(ctx)),
                Outcome::Answer => (Discard::Unanswered, xdp_action::XDP_DROP),
            };
            if let Some(count) = DISCARDS.get_ptr_mut(reason as u32) {
                // SAFETY: this CPU's own value.
                unsafe { *count += 1 };
            }
            count_for(service, reason);
            log(ctx, reason);
            action
        }
    }
}

/// Sends an answer out where its packet came in.
#[inline(always)]
fn send_back(ctx: &XdpContext) -> u32 {
    match INTERFACES.get(ctx.ingress_ifindex() as u32) {
        Some(interface) if interface.flags & interface_flags::REDIRECTS != 0 => {
            // Without an entry the kernel gives the flags back.
            DEVICES
                .redirect(u32::from(interface.index), xdp_action::XDP_TX.into())
                .unwrap_or(xdp_action::XDP_TX)
        }
        _ => xdp_action::XDP_TX,
    }
}

/// Writes a debug line about a packet that left early.
macro_rules! log_line {
    () => {
        |ctx: &aya_ebpf::programs::XdpContext, reason: balancer_common::verdict::Discard| {
            aya_log_ebpf::debug!(
                ctx,
                "interface {}: left early, reason {}",
                ctx.ingress_ifindex(),
                reason as u32
            );
        }
    };
}
pub(crate) use log_line;

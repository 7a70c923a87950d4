//! Entry points of the packet program.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    missing_docs,
    reason = "the macros of entry points and maps add public items of their own"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is a copy on a stack of 512 bytes"
)]
#![expect(
    internal_features,
    reason = "core::sync::atomic has no read-modify-write on this target"
)]

mod answer;
mod atomic;
mod classify;
mod encoded;
mod family;
mod filter;
mod finish;
mod forward;
mod fragments;
mod headers;
mod host_source;
mod icmp;
mod lock;
mod maps;
mod next_hops;
mod open;
mod packet;
mod parse;
mod persistence;
mod pipeline;
mod places;
mod redirect;
mod rewrite;
mod schedule;
mod scratch;
mod service_discards;
mod snat;
mod steering;
mod table;
mod track;
mod walk;

use aya_ebpf::{
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::xdp,
    programs::XdpContext,
};
use balancer_common::trace::Answer;

/// Balances packets of both directions.
#[xdp]
pub fn balancer(ctx: XdpContext) -> u32 {
    let outcome = pipeline::run(&ctx);
    finish::finish(&ctx, outcome, finish::log_line!())
}

/// Balances a packet whose connection has full NAT. Never attached: `balancer` calls it.
#[xdp]
pub fn full_nat(ctx: XdpContext) -> u32 {
    let outcome = pipeline::run_full_nat(&ctx);
    finish::finish(&ctx, outcome, finish::log_line!())
}

/// Balances a fragment, or a packet with IPv6 extension headers. Never attached: `balancer` calls it.
#[xdp]
pub fn walk_headers(ctx: XdpContext) -> u32 {
    let outcome = pipeline::run_walking(&ctx);
    finish::finish(&ctx, outcome, finish::log_line!())
}

/// Balances the first packet of a connection. Never attached: `balancer` and `walk_headers` call it.
#[xdp]
pub fn open_connection(ctx: XdpContext) -> u32 {
    let outcome = pipeline::open_and_run(&ctx);
    finish::finish(&ctx, outcome, finish::log_line!())
}

/// Translates an ICMP error about a packet of a connection. Never attached: `balancer` calls it.
#[xdp]
pub fn translate_error(ctx: XdpContext) -> u32 {
    let outcome = pipeline::run_error(&ctx);
    finish::finish(&ctx, outcome, finish::log_line!())
}

/// Never attached: user space runs it to turn the kernel's jiffies into time. Writes the 64-bit jiffies and the
/// monotonic clock (nanoseconds), both in host byte order, over the first 16 bytes of the packet.
#[xdp]
pub fn clock(ctx: XdpContext) -> u32 {
    if let Ok(times) = packet::header_mut::<[[u8; 8]; 2]>(&ctx, 0) {
        // SAFETY: both helpers only read clocks.
        *times = unsafe {
            [
                bpf_jiffies64().to_ne_bytes(),
                bpf_ktime_get_ns().to_ne_bytes(),
            ]
        };
    }
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// Never attached: user space runs it on the packet that a client would send, to learn which real server the client would get. Changes
/// nothing; writes an `Answer` over the packet's first 36 bytes.
#[xdp]
pub fn trace(ctx: XdpContext) -> u32 {
    let answer = pipeline::ask(&ctx).unwrap_or_else(|reason| Answer {
        reason: reason as u32,
        ..Answer::default()
    });
    if let Ok(place) = packet::header_mut::<[[u8; 4]; 9]>(&ctx, 0) {
        *place = [
            answer.reason.to_ne_bytes(),
            answer.real.to_ne_bytes(),
            answer.offer.to_ne_bytes(),
            answer.has_connection.to_ne_bytes(),
            answer.is_pending.to_ne_bytes(),
            answer.slot.to_ne_bytes(),
            answer.rule.to_ne_bytes(),
            answer.is_full_nat.to_ne_bytes(),
            answer.port.to_ne_bytes(),
        ];
    }
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// Never attached: user space runs it on a frame of `RunningClient`s, whose entries it renews.
#[xdp]
pub fn renew(ctx: XdpContext) -> u32 {
    persistence::renew(&ctx);
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends `bpf_fib_lookup` and others only to programs under its own licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

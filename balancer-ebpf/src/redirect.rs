//! Counts the redirects of this data plane that the kernel gives up: after `XDP_REDIRECT` the packet program does not
//! hear of its frame any more.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::raw_tracepoint, programs::RawTracePointContext};
use balancer_common::redirect::RedirectError;

use crate::{
    atomic::fetch_add,
    maps::{REDIRECT_ERRORS, watched_map},
};

/// Runs where the kernel reports that a redirect failed, of any XDP program on the machine. The arguments are those of
/// `xdp_redirect_err` in the kernel's `include/trace/events/xdp.h`: the interface that the frame came in by, the program, the
/// target, the error, the map's type, the map's id, the key.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn redirect_error(ctx: RawTracePointContext) -> i32 {
    let map: u32 = ctx.arg(5);
    if map == 0 || map != watched_map() {
        return 0;
    }
    let error: i32 = ctx.arg(3);
    let key = RedirectError {
        // The keys of `DEVICES` are interface indices.
        interface: ctx.arg(6),
        errno: error.unsigned_abs(),
    };
    if let Some(count) = REDIRECT_ERRORS.get_ptr_mut(key) {
        fetch_add(count, 1);
    } else {
        // Another CPU may have inserted it meanwhile: then one failure is not counted. So it is when the map is full.
        let _ = REDIRECT_ERRORS.insert(key, 1, u64::from(BPF_NOEXIST));
    }
    0
}

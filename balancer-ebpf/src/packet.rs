//! The only access to packet memory.

use aya_ebpf::programs::XdpContext;
use balancer_common::verdict::Discard;

/// Borrows the header `T` at `offset` bytes from the frame's start, after checking that all of it lies in the frame.
///
/// The reference must not be kept in a struct or across a call that may move the packet: borrow anew, it costs
/// two instructions.
#[expect(
    clippy::mut_from_ref,
    reason = "the context is a handle; the packet behind it belongs to this run alone"
)]
#[inline(always)]
pub fn header_mut<T>(ctx: &XdpContext, offset: usize) -> Result<&mut T, Discard> {
    const { assert!(align_of::<T>() == 1, "headers are made of single bytes") };
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(Discard::Malformed);
    }
    // SAFETY: the range was checked against the frame's end just now, every bit pattern of `T` is valid and its
    // alignment is 1; the packet belongs to this run of the program alone.
    Ok(unsafe { &mut *(start as *mut T) })
}

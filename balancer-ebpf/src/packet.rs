//! The only access to packet memory.

use core::ptr;

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

/// As [`header_mut`], for subprograms: the frame's bounds are read where they are used. Reads that are not volatile LLVM
/// makes in the caller, and passes the bounds as arguments, which the verifier refuses.
#[expect(
    clippy::mut_from_ref,
    reason = "the context is a handle; the packet behind it belongs to this run alone"
)]
#[inline(always)]
pub fn header_anew<T>(ctx: &XdpContext, offset: usize) -> Option<&mut T> {
    const { assert!(align_of::<T>() == 1, "headers are made of single bytes") };
    let (start, end) = bounds(ctx);
    let start = start + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: as in `header_mut`.
    Some(unsafe { &mut *(start as *mut T) })
}

/// The frame's length in bytes, for subprograms.
#[inline(always)]
pub fn frame_length(ctx: &XdpContext) -> usize {
    let (start, end) = bounds(ctx);
    let length = end - start;
    // LLVM would go on in 32 bits, with halves of pointers, where the length is cut to them in the end.
    // SAFETY: a local variable.
    unsafe { ptr::read_volatile(&raw const length) }
}

/// Where the frame begins and ends.
#[inline(always)]
fn bounds(ctx: &XdpContext) -> (usize, usize) {
    // SAFETY: the context is this run's.
    unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.ctx).data) as usize,
            ptr::read_volatile(&raw const (*ctx.ctx).data_end) as usize,
        )
    }
}

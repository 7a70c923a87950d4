//! The headers in front of a transport header, in each family, and what they say of fragments. Touches the packet by [`header_anew`] only.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::TCP,
    fragment::FragmentKey,
    verdict::Discard,
    wire::{
        Ethernet, Extension, ExtensionHeader, IpHeader, Ipv4, Ipv6, extension_kind, icmp::IcmpError,
    },
};

use crate::{packet::header_anew, scratch::Walk};

/// [`Walk::fragment`] of a whole packet.
pub const WHOLE: u32 = 0;
/// [`Walk::fragment`] of a datagram's first fragment.
pub const FIRST: u32 = 1;
/// [`Walk::fragment`] of one that follows.
pub const LATER: u32 = 2;

/// Most extension headers that are looked through.
const MAX_HEADERS: u32 = 8;
/// Most bytes that they may have in all.
const MAX_LENGTH: usize = 512;
/// The bits of a transport header's offset.
const OFFSET_BITS: u32 = 0x3ff;
// A quoted packet begins behind two headers.
const _: () = assert!(
    Ethernet::LENGTH + 2 * Ipv6::LENGTH + IcmpError::LENGTH + MAX_LENGTH <= OFFSET_BITS as usize
);

/// A family's way to the transport header.
pub trait Walkable: IpHeader {
    /// Finds it in the packet whose header lies `at` bytes from the frame's start, and which ends at `end`; and what its fragments have in
    /// common, but for the addresses.
    fn walk(
        ctx: &XdpContext,
        at: usize,
        end: usize,
        walk: &mut Walk,
        key: &mut FragmentKey<Self::Address>,
    ) -> Result<(), Discard>;
}

impl Walkable for Ipv4 {
    #[inline(always)]
    fn walk(
        ctx: &XdpContext,
        at: usize,
        _: usize,
        walk: &mut Walk,
        key: &mut FragmentKey<u32>,
    ) -> Result<(), Discard> {
        let header = header_anew::<Self>(ctx, at).ok_or(Discard::Malformed)?;
        walk.l4_offset = (at + header.header_length().ok_or(Discard::Malformed)?) as u32;
        walk.protocol = u32::from(header.protocol());
        key.protocol = walk.protocol;
        key.id = u32::from(header.identification());
        if header.fragment_offset() != 0 {
            walk.fragment = LATER;
            overwrites_flags(header.fragment_offset(), header.protocol())
        } else {
            if header.is_fragment() {
                walk.fragment = FIRST;
            }
            Ok(())
        }
    }
}

impl Walkable for Ipv6 {
    #[inline(always)]
    fn walk(
        ctx: &XdpContext,
        at: usize,
        end: usize,
        walk: &mut Walk,
        key: &mut FragmentKey<[u32; 4]>,
    ) -> Result<(), Discard> {
        let header = header_anew::<Self>(ctx, at).ok_or(Discard::Malformed)?;
        let mut next = header.protocol();
        let first = at + Self::LENGTH;
        let mut at = first;
        for _ in 0..MAX_HEADERS {
            let kind = extension_kind(next);
            if kind == Extension::None {
                break;
            }
            // What follows the packet in its frame is no header.
            if at + ExtensionHeader::LENGTH > end {
                return Err(Discard::Malformed);
            }
            let extension = header_anew::<ExtensionHeader>(ctx, at).ok_or(Discard::Malformed)?;
            next = extension.next_header();
            match kind {
                Extension::Fragment => {
                    if walk.fragment != WHOLE {
                        return Err(Discard::Malformed);
                    }
                    key.id = extension.identification();
                    // What follows this header: later fragments say the same, whatever else follows in the first one.
                    key.protocol = u32::from(next);
                    if extension.fragment_offset() != 0 {
                        walk.fragment = LATER;
                        overwrites_flags(extension.fragment_offset(), next)?;
                        break;
                    }
                    // Without further ones it is no fragment, but a packet with such a header (RFC 6946).
                    if extension.has_more() {
                        walk.fragment = FIRST;
                    }
                    at += ExtensionHeader::LENGTH;
                }
                Extension::Routing if extension.routing_type() == 0 => {
                    return Err(Discard::ExtensionHeaders);
                }
                // Its destination is a router on its way.
                Extension::Routing if extension.segments_left() != 0 => {
                    return Err(Discard::NotTcpUdp);
                }
                _ => at += extension.length(),
            }
            if at > end {
                return Err(Discard::Malformed);
            }
            if at > first + MAX_LENGTH {
                return Err(Discard::ExtensionHeaders);
            }
            // LLVM must not know what `at` is: only the mask makes all states of a round alike to the verifier.
            // SAFETY: a local.
            at = unsafe { ptr::read_volatile(&raw const at) } & OFFSET_BITS as usize;
        }
        walk.l4_offset = at as u32;
        walk.protocol = u32::from(next);
        if walk.fragment != LATER && extension_kind(next) != Extension::None {
            return Err(Discard::ExtensionHeaders);
        }
        Ok(())
    }
}

/// Refuses a fragment that would overwrite the flags of a TCP header (RFC 3128).
#[inline(always)]
const fn overwrites_flags(fragment_offset: u16, protocol: u8) -> Result<(), Discard> {
    const FLAGS: u16 = 1;
    if fragment_offset == FLAGS && protocol == TCP {
        return Err(Discard::FragmentTiny);
    }
    Ok(())
}

/// Offset in bytes of the transport header, of which the verifier knows that it is not beyond all frames.
#[inline(always)]
pub const fn l4_offset(walk: &Walk) -> usize {
    (walk.l4_offset & OFFSET_BITS) as usize
}

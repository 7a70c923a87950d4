//! The way out: the entry's next hop, or the kernel's FIB.

use core::{
    mem::{self, MaybeUninit},
    ptr,
};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{self, bpf_fib_lookup as FibParameters, xdp_md},
    helpers::bpf_fib_lookup,
    programs::XdpContext,
};
use balancer_common::{
    addr::{Addr, Address},
    conntrack::Word,
    next_hop::{self, NextHop, NextHopRef, ROUTE_SLOTS},
    settings::{Interface, interface_flags},
    verdict::{Discard, Verdict},
    wire::{Ethernet, Frame, icmp::Icmp},
};

use crate::{
    answer::answer_as,
    encoded::Encoded,
    family::{Family, scratch},
    maps::{DEVICES, NEXT_HOPS, route_versions},
    next_hops::remember,
    packet::{header_anew, header_mut},
    parse::Ip,
    steering::Steering,
    table::{Entry, Found, real_of, word},
};

/// How a packet leaves, or why it does not. Not a `Result`: its fields would be undefined in the other case, and LLVM saves
/// undefined registers, which the verifier refuses.
pub struct Hop {
    /// A `Discard`, or [`Discard::COUNT`] for none.
    reason: u32,
    ifindex: u32,
    macs: [u32; 3],
    mtu: u32,
}

impl Hop {
    #[inline(always)]
    fn of(hop: *const NextHop) -> Self {
        // SAFETY: callers pass a row of `NEXT_HOPS`, or a scratch's.
        unsafe {
            Self {
                reason: Discard::COUNT,
                ifindex: ptr::read_volatile(&raw const (*hop).ifindex),
                macs: ptr::read_volatile(&raw const (*hop).macs),
                mtu: ptr::read_volatile(&raw const (*hop).mtu),
            }
        }
    }

    /// Whether the host's stack sends a packet on that goes this way: it is to be fragmented, or nothing is known of the neighbour.
    #[inline(always)]
    pub fn is_hosts(&self, ip: &Ip) -> bool {
        self.reason == Discard::NoNeighbour as u32 || ip.length > self.mtu as usize
    }

    #[inline(always)]
    fn none(reason: Discard) -> Self {
        Self {
            reason: reason as u32,
            ifindex: 0,
            macs: [0; 3],
            mtu: u32::MAX,
        }
    }
}

/// Finds the way out. Asked before the rewrite, of the translation: what the packet will be.
#[inline(always)]
pub fn route<H: Family>(
    ctx: &XdpContext,
    found: Found<H::Address>,
    steering: &Steering,
    interface: &Interface,
) -> Hop {
    let destination = if steering.is_original {
        H::Address::narrow(steering.real.address)
    } else if steering.is_full_nat {
        match scratch::<H>() {
            Ok(scratch) => scratch.peer.address,
            Err(reason) => return Hop::none(reason),
        }
    } else {
        match header_mut::<H>(ctx, Ethernet::LENGTH) {
            Ok(header) => header.destination(),
            Err(reason) => return Hop::none(reason),
        }
    };
    let routes = version(destination.widen());
    let index = steering.next_hop.index();
    if let Some(row) = NEXT_HOPS.get_ptr(index) {
        // SAFETY: the map gave this pointer; rows never move.
        let version = || unsafe { ptr::read_volatile(&raw const (*row).version) };
        let before = version();
        let present = NextHopRef::new(index, routes, before, found.word.serial());
        if steering.next_hop == present && before & 1 == 0 {
            let hop = Hop::of(row);
            if version() == before {
                return hop;
            }
        }
    }
    let ifindex = u32::from(interface.index);
    let asked = look_up::<H>(ctx.as_ptr().cast(), found.entry, found.word.0, ifindex).goes_on();
    match (asked, scratch::<H>()) {
        (Ok(_), Ok(scratch)) => Hop::of(&raw const scratch.hop),
        (Err(reason), _) | (_, Err(reason)) => Hop::none(reason),
    }
}

/// The version of the routes to an address.
#[inline(always)]
fn version(destination: Addr) -> u32 {
    let slot = next_hop::slot(&destination) & (ROUTE_SLOTS - 1);
    match route_versions() {
        // SAFETY: the slot is below their number.
        Some(versions) => unsafe { ptr::read_volatile(versions.of.as_ptr().add(slot)) },
        None => 0,
    }
}

/// That the packet fits the way out, or may be fragmented; else its sender is to be told.
#[inline(always)]
pub fn fit<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    hop: &Hop,
    steering: &Steering,
) -> Result<(), Discard> {
    if ip.length <= hop.mtu as usize || !header_mut::<H>(ctx, Ethernet::LENGTH)?.must_not_fragment()
    {
        return Ok(());
    }
    answer_as::<H>(ctx, ip, &steering.real.vip, hop.mtu)?;
    Err(Discard::TooBig)
}

/// Sends the translated packet on its way, if there is one: next hop's MAC address, one hop less, out.
#[inline(always)]
pub fn forward<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    interface: &Interface,
    hop: &Hop,
) -> Result<Verdict, Discard> {
    if hop.reason != Discard::COUNT {
        // SAFETY: `Hop::none` made this number of a `Discard`.
        return Err(unsafe { mem::transmute::<u32, Discard>(hop.reason) });
    }
    if ip.length > hop.mtu as usize {
        return Err(Discard::ToFragment);
    }
    let frame = header_mut::<Frame<H>>(ctx, 0)?;
    frame.ip.count_hop();
    frame.ethernet.address(hop.macs);
    if hop.ifindex == u32::from(interface.index)
        && interface.flags & interface_flags::REDIRECTS == 0
    {
        return Ok(Verdict::Transmit);
    }
    match DEVICES.redirect(hop.ifindex, 0) {
        Ok(_) => Ok(Verdict::Redirect),
        Err(_) => Err(Discard::NoEgress),
    }
}

/// Asks the kernel's FIB for the translated packet's route and next hop. The answer is in the scratch then, and remembered
/// by the entry, which has the word `word`.
#[inline(never)]
fn look_up<H: Family>(
    ctx: *mut xdp_md,
    entry: *mut Entry<H::Address>,
    word: u32,
    ifindex: u32,
) -> Encoded {
    let found = Found {
        entry,
        word: Word(word),
    };
    Encoded::step(try_look_up::<H>(&XdpContext::new(ctx), found, ifindex).map(|()| true))
}

#[inline(always)]
fn try_look_up<H: Family>(
    ctx: &XdpContext,
    found: Found<H::Address>,
    ifindex: u32,
) -> Result<(), Discard> {
    let real = real_of(found.entry).ok_or(Discard::Busy)?;
    let header = header_anew::<H>(ctx, Ethernet::LENGTH).ok_or(Discard::Malformed)?;
    let scratch = scratch::<H>()?;
    // SAFETY: an entry of the table, which never moves.
    let (ports, port) = unsafe { ((*found.entry).ports, (*found.entry).port) };
    if !word(found.entry).is_same_entry(found.word) {
        return Err(Discard::Busy);
    }
    let is_original = found.word.is_original();
    let (source, destination, source_port, destination_port) = if found.word.is_full_nat() {
        // The peer was met when the packet's steering was read.
        let peer = &scratch.peer;
        let (address, peer_port) = (peer.address.widen(), peer.port as u16);
        if is_original {
            let real_port = real.port_of(ports.destination());
            (address, real.address, peer_port, real_port)
        } else {
            let service_port = real.service_port_of(ports.source());
            (real.vip, address, service_port, peer_port)
        }
    } else if is_original {
        (header.source().widen(), real.address, ports.source(), port)
    } else {
        (
            real.vip,
            header.destination().widen(),
            port,
            ports.destination(),
        )
    };
    // Before the look-up: what changes meanwhile is then looked up again.
    let routes = version(destination);
    let mut words = [MaybeUninit::<u64>::uninit(); size_of::<FibParameters>() / 8];
    for word in &mut words {
        // One by one and volatile: else LLVM calls memset, a subprogram that writes byte by byte.
        // SAFETY: a local.
        unsafe { ptr::write_volatile(word, MaybeUninit::new(0)) };
    }
    // SAFETY: a local of the struct's size and more than its alignment; all zeroes is a valid value of it.
    let fib = unsafe { &mut *words.as_mut_ptr().cast::<FibParameters>() };
    fib.family = H::FAMILY;
    fib.l4_protocol = found.word.protocol() as u8;
    fib.sport = source_port;
    fib.dport = destination_port;
    fib.ifindex = ifindex;
    fib.__bindgen_anon_2.flowinfo = header.flow_information();
    if H::FAMILY == 2 {
        fib.__bindgen_anon_3.ipv4_src = source.0[3];
        fib.__bindgen_anon_4.ipv4_dst = destination.0[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = source.0;
        fib.__bindgen_anon_4.ipv6_dst = destination.0;
    }
    // SAFETY: the context is this run's, and the struct is as large as stated.
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr().cast(),
            &raw mut *fib,
            size_of::<FibParameters>() as i32,
            0,
        )
    };
    if result != i64::from(bindings::BPF_FIB_LKUP_RET_SUCCESS) {
        return Err(reason(result as u32));
    }
    let hop = &mut scratch.hop;
    hop.ifindex = fib.ifindex;
    hop.macs = macs(fib);
    // SAFETY: after success the kernel has written this member of the union; kernels before 5.13 leave the zero
    // that stood there.
    hop.mtu = match unsafe { fib.__bindgen_anon_1.mtu_result } {
        0 => u32::from(u16::MAX),
        mtu => u32::from(mtu),
    };
    // The kernel has put the gateway's address, if there is one, in the destination's place; an IPv4 route may have an IPv6
    // gateway.
    // SAFETY: all members of the union are plain numbers.
    unsafe {
        if fib.family == 2 {
            hop.address = Addr::from_v4(fib.__bindgen_anon_4.ipv4_dst);
        } else {
            for word in 0..4 {
                let at = &raw const fib.__bindgen_anon_4.ipv6_dst[word];
                hop.address.0[word] = ptr::read_volatile(at);
            }
        }
    }
    // What the header of an ICMP error says decides nothing for the connection that it is about.
    if header.protocol() != <H as Icmp>::PROTOCOL && Entry::<H::Address>::has_next_hop(found.word) {
        remember(&scratch.hop, found, routes);
    }
    Ok(())
}

/// The MAC addresses that the kernel found. Read half a word at a time: they lie on the BPF stack at places where
/// the verifier refuses whole words.
#[inline(always)]
fn macs(fib: &FibParameters) -> [u32; 3] {
    let half = |mac: &[u8; 6], i: usize| {
        // SAFETY: `i` is 0, 1 or 2, and both arrays begin at even offsets of an aligned struct.
        u32::from(unsafe { ptr::read_volatile(mac.as_ptr().cast::<u16>().add(i)) })
    };
    let join = |first: u32, second: u32| {
        if cfg!(target_endian = "little") {
            first | second << 16
        } else {
            first << 16 | second
        }
    };
    let (to, from) = (&fib.dmac, &fib.smac);
    [
        join(half(to, 0), half(to, 1)),
        join(half(to, 2), half(from, 0)),
        join(half(from, 1), half(from, 2)),
    ]
}

/// The discard for a failed look-up.
#[inline(always)]
fn reason(result: u32) -> Discard {
    match result {
        bindings::BPF_FIB_LKUP_RET_NO_NEIGH => Discard::NoNeighbour,
        bindings::BPF_FIB_LKUP_RET_BLACKHOLE => Discard::Blackhole,
        bindings::BPF_FIB_LKUP_RET_UNREACHABLE => Discard::Unreachable,
        bindings::BPF_FIB_LKUP_RET_PROHIBIT => Discard::Prohibited,
        bindings::BPF_FIB_LKUP_RET_FWD_DISABLED => Discard::ForwardingOff,
        bindings::BPF_FIB_LKUP_RET_UNSUPP_LWT => Discard::NoEgress,
        _ => Discard::NotForwarded,
    }
}

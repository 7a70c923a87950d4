//! The way out: the row's, or the kernel's FIB.

use core::{mem::zeroed, ptr};

use aya_ebpf::{
    bindings::{self, bpf_fib_lookup as FibParameters},
    helpers::bpf_fib_lookup,
    programs::XdpContext,
};
use balancer_common::{
    addr::Address,
    conntrack::{Egress, FlowKey},
    settings::{Interface, interface_flags},
    verdict::{Discard, Verdict},
    wire::{Ethernet, Frame},
};

use crate::{
    maps::DEVICES,
    packet::header_mut,
    parse::Ip,
    table::{Family, Row},
    track::Steering,
};

/// Makes sure that the row knows the way out. Asked before the rewrite, of the translation: what the packet will be.
#[inline(always)]
pub fn route<H: Family>(
    ctx: &XdpContext,
    key: &FlowKey<H::Address>,
    steering: &Steering<H::Address>,
    interface: &Interface,
) -> Result<(), Discard> {
    // SAFETY: `track` took the pointer from a row or from the scratch in this run of the program.
    let egress = unsafe { &mut (*steering.row).egress };
    if egress.generation == interface.generation {
        return Ok(());
    }
    let flow = header_mut::<H>(ctx, Ethernet::LENGTH)?.flow_information();
    look_up::<H>(ctx, steering.row, key.protocol, flow, interface)?;
    if steering.is_new {
        teach::<H>(key, egress);
    }
    Ok(())
}

/// Sends the translated packet on its way: next hop's MAC address, one hop less, out.
#[inline(always)]
pub fn forward<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    interface: &Interface,
    steering: &Steering<H::Address>,
) -> Result<Verdict, Discard> {
    // SAFETY: as in `route`.
    let egress = unsafe { &(*steering.row).egress };
    let frame = header_mut::<Frame<H>>(ctx, 0)?;
    if ip.length > usize::from(egress.mtu) {
        return Err(if frame.ip.must_not_fragment() {
            Discard::TooBig
        } else {
            Discard::ToFragment
        });
    }
    frame.ip.count_hop();
    frame.ethernet.address(egress.macs);
    if egress.ifindex == u32::from(interface.index)
        && interface.flags & interface_flags::REDIRECTS == 0
    {
        return Ok(Verdict::Transmit);
    }
    match DEVICES.redirect(egress.ifindex, 0) {
        Ok(_) => Ok(Verdict::Redirect),
        Err(_) => Err(Discard::NoEgress),
    }
}

/// Stores the way out in a connection's new row.
#[inline(always)]
fn teach<H: Family>(key: &FlowKey<H::Address>, egress: &Egress) {
    if let Some(row) = H::rows().get_ptr_mut(key) {
        // SAFETY: the map gave this pointer just now; see `track::follow`.
        store(unsafe { &raw mut (*row).egress }, egress);
    }
}

/// Writes a way out, the generation last: another CPU that sees it sees the rest.
#[inline(always)]
fn store(place: *mut Egress, egress: &Egress) {
    // SAFETY: `place` lies in a map value that this run of the program looked up.
    unsafe {
        ptr::write_volatile(&raw mut (*place).generation, 0);
        ptr::write_volatile(&raw mut (*place).ifindex, egress.ifindex);
        ptr::write_volatile(&raw mut (*place).macs, egress.macs);
        ptr::write_volatile(&raw mut (*place).mtu, egress.mtu);
        ptr::write_volatile(&raw mut (*place).generation, egress.generation);
    }
}

/// Asks the kernel's FIB for the translated packet's route and next hop, and stores the answer.
#[inline(never)]
fn look_up<H: Family>(
    ctx: &XdpContext,
    row: *mut Row<H::Address>,
    protocol: u32,
    flow_information: u32,
    interface: &Interface,
) -> Result<(), Discard> {
    // Before the look-up: what changes meanwhile is then looked up again.
    // SAFETY: a plain read of a map value.
    let generation = unsafe { ptr::read_volatile(&raw const interface.generation) };
    // SAFETY: `track` took the pointer from a row or from the scratch in this run of the program.
    let translation = unsafe { &(*row).translation };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParameters = unsafe { zeroed() };
    fib.family = H::FAMILY;
    fib.l4_protocol = protocol as u8;
    fib.ifindex = u32::from(interface.index);
    fib.__bindgen_anon_2.flowinfo = flow_information;
    if H::FAMILY == 2 {
        fib.__bindgen_anon_3.ipv4_src = translation.source.widen().0[3];
        fib.__bindgen_anon_4.ipv4_dst = translation.destination.widen().0[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = translation.source.widen().0;
        fib.__bindgen_anon_4.ipv6_dst = translation.destination.widen().0;
    }
    // SAFETY: the context is this run's, and the struct is as large as stated.
    let result = unsafe {
        bpf_fib_lookup(
            ctx.ctx.cast(),
            &mut fib,
            size_of::<FibParameters>() as i32,
            0,
        )
    };
    if result != i64::from(bindings::BPF_FIB_LKUP_RET_SUCCESS) {
        return Err(reason(result as u32));
    }
    let egress = Egress {
        ifindex: fib.ifindex,
        generation,
        macs: macs(&fib),
        // SAFETY: after success the kernel has written this member of the union; kernels before 5.13 leave the zero
        // that stood there.
        mtu: match unsafe { fib.__bindgen_anon_1.mtu_result } {
            0 => u16::MAX,
            mtu => mtu,
        },
        zero: 0,
    };
    // SAFETY: as above.
    store(unsafe { &raw mut (*row).egress }, &egress);
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

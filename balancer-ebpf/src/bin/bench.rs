//! Programs of the packet and the driver bench: what stands around the program under test. None of this is part of the product.
//!
//! A test run that repeats gives each run the packet as the last one left it. A balancer changes the packet, so its
//! second run would see a stranger and leave early. Hence `front`: it restores the packet, and for a set of flows picks
//! the next one, then tail-calls the program under test. What `front` itself costs is measured with `empty` as the
//! target and taken off.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the `xdp` macro drops the doc comments of the entry points"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is a copy, which LLVM may place askew on the stack"
)]

use core::mem::zeroed;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParameters,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers::{bpf_fib_lookup, bpf_redirect},
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use balancer_common::checksum::{Delta, DeltaSum};

/// Frames as 64-bit words; the first ten words of a frame hold all that a balancer changes, for either family.
#[map]
static FRAMES: Array<[u64; 10]> = Array::with_max_entries(4, 0);

/// Place in the walk over the flows: `[packets so far, odd multiplier]`.
#[map]
static WALK: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Slot 0: the program under test, or `empty`.
#[map]
static TARGETS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Frames that reached the far end of the veth pair: `[to anyone else, to whom AWAITED names]`.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Destination address and port of the frames that are awaited at the far end, as they lie in the packet.
#[map]
static AWAITED: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// What the minimal NAT knows of its flows: two rows each, one per direction; sized at load.
#[map]
static NAT: HashMap<Key, Minimal> = HashMap::with_max_entries(1, 0);

/// Packets that the references of a row translated or looked a route up for.
#[map]
static DONE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One direction of a flow, as its packets carry it. Addresses and ports lie as in the packet, the source first.
///
/// Aligned to 8 bytes: LLVM joins neighbouring stores, and the verifier wants them aligned on the stack.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Key {
    addresses: [u32; 2],
    ports: u32,
    protocol: u32,
}

/// A row of the minimal NAT: what the packets of one direction become, and both MAC addresses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Minimal {
    addresses: [u32; 2],
    ports: u32,
    ip_delta: Delta,
    l4_delta: Delta,
    macs: [u32; 3],
}

/// 1 = restore ten words (frames of 80 bytes and more), 0 = seven.
#[unsafe(no_mangle)]
static TEN_WORDS: Global<u32> = Global::new(0);

/// Number of flows minus one, a power of two minus one; 0 = one flow, nothing is picked.
#[unsafe(no_mangle)]
static FLOW_MASK: Global<u32> = Global::new(0);

/// 1 = each flow sends the three frames of a handshake, one after the other, before the next flow's turn. The second is
/// the real server's: there the flow's client is the destination.
#[unsafe(no_mangle)]
static HANDSHAKE: Global<u32> = Global::new(0);

/// Ports per client address, as a number of bits.
const PORT_BITS: u32 = 10;
/// Lowest client port of a set of flows.
const FIRST_PORT: u16 = 32_768;
/// First client address of a set of flows: 198.18.0.1, in the range set aside for benchmarks (RFC 2544).
const FIRST_ADDRESS: u32 = 0xc612_0001;

/// Ethernet, then the IPv4 header up to the addresses.
const SOURCE: usize = 14 + 12;
const DESTINATION: usize = SOURCE + 4;
const SOURCE_PORT: usize = 14 + 20;
const DESTINATION_PORT: usize = SOURCE_PORT + 2;
const IP_CHECKSUM: usize = 14 + 10;
const TCP_CHECKSUM: usize = 14 + 20 + 16;

/// Restores the packet, sets its flow, and hands over to slot 0 of `TARGETS`.
#[xdp]
pub fn front(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_some() {
        // SAFETY: `ctx` is this program's own context; nothing here needs dropping.
        unsafe { TARGETS.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<()> {
    let flow_mask = FLOW_MASK.load();
    if flow_mask == 0 {
        return write_frame(ctx, 0);
    }
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: the map holds one such value; the bench runs on one CPU.
    let (step, multiplier) = unsafe {
        let step = (*walk)[0];
        (*walk)[0] = step + 1;
        (step, (*walk)[1])
    };
    let (turn, frame) = if HANDSHAKE.load() == 0 {
        (step, 0)
    } else {
        (step / 3, (step % 3) as u32)
    };
    let flow = turn.wrapping_mul(multiplier) as u32 & flow_mask;
    write_frame(ctx, frame)?;
    if frame == 1 {
        write_client(ctx, DESTINATION, DESTINATION_PORT, flow)
    } else {
        write_client(ctx, SOURCE, SOURCE_PORT, flow)
    }
}

#[inline(always)]
fn write_frame(ctx: &XdpContext, number: u32) -> Option<()> {
    let frame = FRAMES.get(number)?;
    if TEN_WORDS.load() != 0 {
        // In halves: a longer copy would become a call of `memmove`.
        let [a, b, c, d, e, f, g, h, i, j] = *frame;
        *field::<[u64; 5]>(ctx, 0)? = [a, b, c, d, e];
        *field::<[u64; 5]>(ctx, 40)? = [f, g, h, i, j];
    } else {
        let [a, b, c, d, e, f, g, ..] = *frame;
        *field::<[u64; 7]>(ctx, 0)? = [a, b, c, d, e, f, g];
    }
    Some(())
}

/// Makes a frame of flow 0 one of `flow`. The checksums stay valid: the kernel's own stack takes no others.
#[inline(always)]
fn write_client(ctx: &XdpContext, address: usize, port: usize, flow: u32) -> Option<()> {
    let client = (FIRST_ADDRESS + (flow >> PORT_BITS)).to_be();
    let client_port = (FIRST_PORT + (flow & ((1 << PORT_BITS) - 1)) as u16).to_be();
    let addresses = DeltaSum::new().words(FIRST_ADDRESS.to_be().into(), client.into());
    let all = addresses.half(FIRST_PORT.to_be(), client_port);
    *field::<u32>(ctx, address)? = client;
    *field::<u16>(ctx, port)? = client_port;
    let ip = field::<u16>(ctx, IP_CHECKSUM)?;
    *ip = addresses.fold().apply(*ip);
    let tcp = field::<u16>(ctx, TCP_CHECKSUM)?;
    *tcp = all.fold().apply(*tcp);
    Some(())
}

/// The floor: what every program that answers out of the same interface does at least.
#[xdp]
pub fn floor(ctx: XdpContext) -> u32 {
    let Some(macs) = field::<[[u16; 3]; 2]>(&ctx, 0) else {
        return XDP_ABORTED;
    };
    let [destination, source] = *macs;
    *macs = [source, destination];
    XDP_TX
}

/// Returns at once.
#[xdp]
pub fn empty(_: XdpContext) -> u32 {
    XDP_TX
}

/// Drops: what a frame costs that goes nowhere.
#[xdp]
pub fn drop(_: XdpContext) -> u32 {
    XDP_DROP
}

/// Gives the frame to the kernel's own stack.
#[xdp]
pub fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Counts and drops: runs natively at the far end of the veth pair, so that frames are truly delivered.
#[xdp]
pub fn arrive(ctx: XdpContext) -> u32 {
    let slot = u32::from(is_awaited(&ctx).unwrap_or(false));
    if let Some(count) = ARRIVED.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
    XDP_DROP
}

#[inline(always)]
fn is_awaited(ctx: &XdpContext) -> Option<bool> {
    let [address, port] = *AWAITED.get(0)?;
    let is_to = *field::<u32>(ctx, DESTINATION)? == address;
    Some(is_to && u32::from(*field::<u16>(ctx, DESTINATION_PORT)?) == port)
}

/// The yardstick: the least that a NAT with the kernel's hash table can do for a TCP packet. It parses, makes one look-up,
/// counts, writes addresses, ports, checksums and MAC addresses, and transmits; it has no services, states, clocks or
/// reasons. Its table holds what a balancer's must, a row for either direction of each connection.
#[xdp]
pub fn minimal_nat(ctx: XdpContext) -> u32 {
    try_minimal_nat(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn try_minimal_nat(ctx: &XdpContext) -> Option<u32> {
    let ethertype = *field::<u16>(ctx, 12)?;
    let (version_length, protocol) = (*field::<u8>(ctx, 14)?, *field::<u8>(ctx, 14 + 9)?);
    if ethertype != 0x0800_u16.to_be() || version_length != 0x45 || protocol != 6 {
        return None;
    }
    let key = Key {
        addresses: *field::<[u32; 2]>(ctx, SOURCE)?,
        ports: *field::<u32>(ctx, SOURCE_PORT)?,
        protocol: 6,
    };
    // SAFETY: nobody changes the map while the bench runs.
    let row = *unsafe { NAT.get(&key) }?;
    count_done()?;
    *field::<[u32; 3]>(ctx, 0)? = row.macs;
    *field::<[u32; 2]>(ctx, SOURCE)? = row.addresses;
    *field::<u32>(ctx, SOURCE_PORT)? = row.ports;
    let ip = field::<u16>(ctx, IP_CHECKSUM)?;
    *ip = row.ip_delta.apply(*ip);
    let tcp = field::<u16>(ctx, TCP_CHECKSUM)?;
    *tcp = row.l4_delta.apply(*tcp);
    Some(XDP_TX)
}

/// For scale: a route look-up in the kernel's FIB, and a redirect to what it says.
#[xdp]
pub fn fib_redirect(ctx: XdpContext) -> u32 {
    try_fib_redirect(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn try_fib_redirect(ctx: &XdpContext) -> Option<u32> {
    let [source, destination] = *field::<[u32; 2]>(ctx, SOURCE)?;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut fib: FibParameters = unsafe { zeroed() };
    fib.family = 2;
    fib.l4_protocol = 6;
    fib.ifindex = ctx.ingress_ifindex() as u32;
    fib.__bindgen_anon_3.ipv4_src = source;
    fib.__bindgen_anon_4.ipv4_dst = destination;
    // SAFETY: the context is this run's, and the struct is as large as stated.
    let result =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), &mut fib, size_of::<FibParameters>() as i32, 0) };
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return None;
    }
    count_done()?;
    let macs = field::<[u16; 6]>(ctx, 0)?;
    for half in 0..3 {
        // Half a word at a time: the verifier refuses whole words at odd places of the stack.
        // SAFETY: both addresses have three halves and lie at even offsets of an aligned struct.
        unsafe {
            macs[half] = fib.dmac.as_ptr().cast::<u16>().add(half).read_volatile();
            macs[3 + half] = fib.smac.as_ptr().cast::<u16>().add(half).read_volatile();
        }
    }
    // SAFETY: the helper takes any number.
    Some(unsafe { bpf_redirect(fib.ifindex, 0) } as u32)
}

#[inline(always)]
fn count_done() -> Option<()> {
    let count = DONE.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value.
    unsafe { *count += 1 };
    Some(())
}

/// A part of the packet, or `None` where the packet ends before it.
#[expect(
    clippy::mut_from_ref,
    reason = "the context is a handle; the packet behind it belongs to this run alone"
)]
#[inline(always)]
fn field<T>(ctx: &XdpContext, offset: usize) -> Option<&mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie inside the packet, as just seen; only plain integers are asked for, and the target allows
    // access to them at any address. No two references live at once.
    Some(unsafe { &mut *(start as *mut T) })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used demand it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

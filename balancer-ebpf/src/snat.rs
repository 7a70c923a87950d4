//! Sources of new connections with full NAT: an address of this host and a port that no other connection to the real server has. The
//! connection's reply entry, which is written next, reserves them. See `balancer_common::snat`.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock_tuple, xdp_md},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::XdpContext,
};
use balancer_common::{
    addr::{Address as _, UDP},
    conntrack::{FlowKey, Ports, idle, rank},
    settings::Settings,
    snat::{Places, TRIES},
    tcp,
    verdict::Discard,
};

use crate::{
    encoded::Encoded,
    family::{Family, scratch},
    maps::{REALS, draw_source, settings, snat_address},
    scratch::Scratch,
    table::{Key, find_again},
};

/// Whether the scratch's new connection is to have full NAT.
#[inline(always)]
pub fn is_full_nat<H: Family>() -> bool {
    scratch::<H>().is_ok_and(|scratch| scratch.source.is_full_nat != 0)
}

/// Writes a source that is free to the scratch, as the destination of the answers' key.
#[inline(never)]
pub fn reserve<H: Family>(ctx: *mut xdp_md) -> Encoded {
    Encoded::step(try_reserve::<H>(&XdpContext::new(ctx)).map(|()| true))
}

#[inline(always)]
fn try_reserve<H: Family>(ctx: &XdpContext) -> Result<(), Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let scratch = scratch::<H>()?;
    // Which source another node chose for the connection is not known here.
    if scratch.key.protocol != u32::from(UDP) && !tcp::opens(scratch.facts.flags as u8) {
        return Err(Discard::NoConnection);
    }
    let real = REALS.get(scratch.real).ok_or(Discard::Busy)?;
    let addresses = real.snat_addresses;
    if !real.may_have_full_nat() || settings.snat_ports.count == 0 {
        return Err(Discard::SnatExhausted);
    }
    // Neighbouring addresses and ports have counters of their own, as far as these go.
    let server = H::Address::narrow(real.address).word_sum() as u32;
    let hash = u32::from_be(server) ^ u32::from(u16::from_be(scratch.real_port as u16)) << 4;
    let places = Places::of(addresses);
    scratch.source.oldest[0] = 0;
    // A whole word: the verifier knows what a counter is that LLVM spills only then.
    for _ in 0..u64::from(TRIES) {
        let (address, number) = places.at(draw_source(hash) as u32);
        let Some(source) = snat_address::<H::Address>(address) else {
            continue;
        };
        let port = settings
            .snat_ports
            .at(number, settings.seed.ports[0])
            .to_be();
        scratch.reply_key.destination = H::Address::narrow(*source);
        scratch.reply_key.ports = Ports::new(scratch.real_port as u16, port);
        scratch.source.address = address;
        if is_free::<H>(scratch, settings) && !is_hosts_socket::<H>(ctx, scratch) {
            return Ok(());
        }
    }
    // As in the table: what is over or idle gives way first, then who is only being opened, then clients of UDP; a flood displaces but
    // itself.
    let [rank, address, port] = scratch.source.oldest;
    let Some(source) = snat_address::<H::Address>(address) else {
        return Err(Discard::SnatExhausted);
    };
    if rank == 0 {
        return Err(Discard::SnatExhausted);
    }
    scratch.reply_key.destination = H::Address::narrow(*source);
    scratch.reply_key.ports = Ports::new(scratch.real_port as u16, port as u16);
    scratch.source.address = address;
    Ok(())
}

/// Whether no connection has the scratch's source, or only one that both sides have ended. Else notes it, if it would give way sooner than
/// those before.
#[inline(always)]
fn is_free<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> bool {
    let Some(found) = find_again::<H>(scratch, Key::Reply, settings) else {
        return true;
    };
    scratch.has_predecessor = 1;
    // A reply entry follows its connection's state.
    let state = found.word.state();
    if tcp::may_be_reused(state) {
        return true;
    }
    // SAFETY: an entry of the table, which never moves.
    let silence = idle(scratch.now, unsafe { (*found.entry).last_seen });
    let rank = rank(found.word, silence, settings.timeouts.of(state));
    if rank > scratch.source.oldest[0] {
        let port = u32::from(scratch.reply_key.ports.destination());
        scratch.source.oldest = [rank, scratch.source.address, port];
    }
    false
}

/// Whether a socket of this host would get packets from the real server to the scratch's source. Later ones keep off: the daemon takes the
/// ports out of the range from which the kernel chooses.
#[inline(always)]
fn is_hosts_socket<H: Family>(ctx: &XdpContext, scratch: &Scratch<H::Address>) -> bool {
    const THIS_NAMESPACE: u64 = u64::MAX;
    // A key begins as the kernel's tuple: source, destination, source port, destination port.
    let tuple: *const bpf_sock_tuple = (&raw const scratch.reply_key).cast();
    let size = (size_of::<FlowKey<H::Address>>() - size_of::<u32>()) as u32;
    let context = ctx.as_ptr();
    // SAFETY: the key is as long as stated; what is found is given back at once.
    unsafe {
        let socket = if scratch.key.protocol == u32::from(UDP) {
            bpf_sk_lookup_udp(context, tuple.cast_mut(), size, THIS_NAMESPACE, 0)
        } else {
            bpf_skc_lookup_tcp(context, tuple.cast_mut(), size, THIS_NAMESPACE, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

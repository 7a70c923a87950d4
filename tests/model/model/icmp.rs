//! ICMP errors about packets of connections: they go to whoever sent the quoted packet, who knows it as it sent it.

use std::net::IpAddr;

use balancer_common::verdict::Discard::*;
use balancer_tests::dataplane::Side;

use super::{
    Model, Outcome, Packet, Step,
    parse::{Part, Walk},
    states::{Connection, Flow, ORIGINAL},
    translate::{resum, with_header},
};
use crate::wire::{ETHERNET, TCP, UDP, address, addresses_at, be16, pseudo, put_address, put16};

/// The packet that an error quotes: offsets in the frame.
struct Quote {
    ip: usize,
    transport: usize,
    flow: Flow,
}

impl Model {
    pub(super) fn carry_error(
        &mut self,
        side: Side,
        frame: &[u8],
        packet: &Packet,
    ) -> Step<Outcome> {
        let quote = quote(frame, packet)?;
        let sent = quote.flow;
        // Its sender gets the error by the flow that comes back to it.
        let back = Flow {
            source: sent.destination,
            destination: sent.source,
            protocol: sent.protocol,
        };
        if packet.destination != sent.source.0 {
            return Err(IcmpUnmatched);
        }
        let (connection, direction) = match self.connection(&back) {
            Some((connection, direction)) if !connection.is_idle(self.now) => {
                (connection.clone(), direction)
            }
            _ => return Err(IcmpUnmatched),
        };
        if packet.hops <= 1 {
            return Err(TimeExceeded);
        }
        if let Some(fault) = packet.options {
            return Err(fault);
        }
        if is_martian(packet.source)
            || packet.source == packet.destination
            || self.world.is_hosts(packet.source)
        {
            return Err(Martian);
        }
        let way = self.way(&connection, direction);
        if packet.is_whole && packet.length > way.mtu(&self.world.around) {
            return Err(TooBig);
        }
        if direction == ORIGINAL && packet.source == connection.flows[1].source.0 {
            // It would reach the real server from itself.
            return Err(Martian);
        }
        self.count(&connection, direction, packet);
        let mut out = frame.to_vec();
        rewrite(&mut out, packet, &quote, &connection, direction);
        Ok(self.emit(side, out, packet, way))
    }
}

/// Whether no packet from afar has this source.
fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_loopback(),
    }
}

/// Reads what an error quotes.
fn quote(frame: &[u8], packet: &Packet) -> Step<Quote> {
    let v6 = packet.is_v6;
    let at = packet.transport;
    if at + 8 > packet.end() {
        return Err(Malformed);
    }
    // Destination unreachable, time exceeded, parameter problem; in IPv6 packet too big.
    if !matches!((v6, frame[at]), (false, 3 | 11 | 12) | (true, 1..=4)) {
        return Err(NotTcpUdp);
    }
    let ip = at + 8;
    let header = frame
        .get(ip..ip + if v6 { 40 } else { 20 })
        .ok_or(Malformed)?;
    let (transport, protocol, is_later) = if v6 {
        if header[0] >> 4 != 6 || ip + 40 > packet.end() {
            return Err(Malformed);
        }
        let mut walk = Walk::new(ip + 40, header[6]);
        match walk.go(frame, packet.end()) {
            Ok(()) => (walk.transport, walk.protocol, walk.part == Part::Later),
            Err(Malformed) => return Err(Malformed),
            Err(_) => return Err(IcmpUnmatched),
        }
    } else {
        let words = usize::from(header[0] & 0xf);
        if header[0] >> 4 != 4 || words < 5 || ip + words * 4 > packet.end() {
            return Err(Malformed);
        }
        let is_later = be16(header, 6).expect("a header") & 0x1fff != 0;
        (ip + words * 4, header[9], is_later)
    };
    if !matches!(protocol, TCP | UDP) || is_later {
        return Err(IcmpUnmatched);
    }
    // RFC 792 wants eight bytes of it.
    if transport + 8 > packet.end() {
        return Err(Malformed);
    }
    let [source_at, destination_at] = addresses_at(v6);
    let port = |at| be16(frame, transport + at).expect("ports");
    Ok(Quote {
        ip,
        transport,
        flow: Flow {
            source: (address(frame, ip + source_at, v6), port(0)),
            destination: (address(frame, ip + destination_at, v6), port(2)),
            protocol,
        },
    })
}

/// Writes the error as its receiver understands it.
fn rewrite(
    out: &mut [u8],
    packet: &Packet,
    quote: &Quote,
    connection: &Connection,
    direction: usize,
) {
    let [source_at, destination_at] = addresses_at(packet.is_v6);
    let other = connection.flows[1 - direction];
    let before = pseudo(packet.source, packet.destination);
    let (mut source, mut destination) = (packet.source, packet.destination);
    // What the receiver sent: towards a real server its own answers, towards a client what it asked.
    let sent = if direction == ORIGINAL {
        destination = other.source.0;
        other
    } else {
        // The real server speaks as the VIP.
        if source == connection.flows[1].source.0 {
            source = connection.flows[0].destination.0;
        }
        connection.flows[0]
    };
    with_header(out, packet, |out| {
        put_address(out, ETHERNET + source_at, source);
        put_address(out, ETHERNET + destination_at, destination);
    });
    let after = pseudo(source, destination);
    let beside = if packet.is_v6 {
        [before, after]
    } else {
        [0; 2]
    };
    let range = packet.transport..packet.end();
    resum(out, range, 2, beside, |out| {
        let change = |out: &mut [u8]| {
            put_address(out, quote.ip + source_at, sent.source.0);
            put_address(out, quote.ip + destination_at, sent.destination.0);
        };
        if packet.is_v6 {
            change(out);
        } else {
            let end = quote.ip + usize::from(out[quote.ip] & 0xf) * 4;
            resum(out, quote.ip..end, 10, [0; 2], change);
        }
        let change = |out: &mut [u8]| {
            put16(out, quote.transport, sent.source.1);
            put16(out, quote.transport + 2, sent.destination.1);
        };
        let checksum_at = if sent.protocol == TCP { 16 } else { 6 };
        let place = quote.transport + checksum_at;
        let is_quoted = place + 2 <= packet.end();
        if !is_quoted || sent.protocol == UDP && be16(out, place) == Some(0) {
            change(out);
            return;
        }
        let beside = [
            pseudo(quote.flow.source.0, quote.flow.destination.0),
            pseudo(sent.source.0, sent.destination.0),
        ];
        // What is not quoted stays as it is: it misses the same before and after.
        let range = quote.transport..packet.end();
        resum(out, range, checksum_at, beside, change);
        if sent.protocol == UDP && be16(out, place) == Some(0) {
            put16(out, place, 0xffff);
        }
    });
}

//! What the balancer says itself.

use std::net::IpAddr;

use balancer_common::verdict::Discard::{self, *};
use balancer_tests::dataplane::{Side, Verdict};

use super::{
    Flow, Model, Outcome, Packet, port, segment,
    states::{ACK, FIN, ORIGINAL, RST, SYN},
};
use crate::wire::{ETHERNET, TCP, full, octets, pseudo, put16};

/// Most bytes that it quotes.
const LONGEST_QUOTE: usize = 128;

impl Model {
    /// The answer to a packet that left early; none where it may not be given. A connection's one reset is always given.
    pub(super) fn answer(
        &self,
        side: Side,
        frame: &[u8],
        packet: &Packet,
        reason: Discard,
    ) -> Option<Outcome> {
        let is_from_group = frame[6] & 1 != 0;
        if self.is_exhausted && reason != RealReset || is_from_group {
            return None;
        }
        let flow = Flow {
            source: (packet.source, port(frame, packet, 0)),
            destination: (packet.destination, port(frame, packet, 2)),
            protocol: packet.protocol,
        };
        // The client knows the real server by its service's address.
        let (own, way) = match self.connection(&flow) {
            Some((connection, direction)) => (
                connection.flows[ORIGINAL].destination.0,
                self.way(connection, direction).mtu(&self.world.around),
            ),
            None => (packet.destination, 0),
        };
        let (own, protocol, body) = match reason {
            TimeExceeded | TooBig => {
                let kind = match (reason, packet.is_v6) {
                    (TimeExceeded, false) => [11, 0],
                    (TimeExceeded, true) => [3, 0],
                    (_, false) => [3, 4],
                    (_, true) => [2, 0],
                };
                let mtu = if reason == TooBig { way } else { 0 };
                (own, icmp(packet), error(frame, packet, own, kind, mtu))
            }
            _ if packet.protocol == TCP => (packet.destination, TCP, reset(frame, packet, &flow)),
            _ => {
                let own = packet.destination;
                let kind = if packet.is_v6 { [1, 4] } else { [3, 3] };
                (own, icmp(packet), error(frame, packet, own, kind, 0))
            }
        };
        let around = &self.world.around;
        let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
        if packet.is_v6 {
            out.extend([0x60, 0, 0, 0]);
            out.extend((body.len() as u16).to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(octets(own));
            out.extend(octets(packet.source));
        } else {
            let mut header = vec![0x45, 0];
            header.extend((20 + body.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(octets(own));
            header.extend(octets(packet.source));
            let checksum = full(&header, 0);
            put16(&mut header, 10, checksum);
            out.extend(header);
        }
        out.extend(body);
        Some(Outcome {
            // Without a way to redirect it leaves as it would without such interfaces.
            verdict: if around.redirects_back && (around.has_egress || side == Side::Inside) {
                Verdict::Redirect
            } else {
                Verdict::Transmit
            },
            reason: Some(reason),
            frame: Some(out),
            or: &[],
        })
    }
}

const fn icmp(packet: &Packet) -> u8 {
    if packet.is_v6 { 58 } else { 1 }
}

/// The sum of a whole pseudo header.
fn whole_pseudo(packet: &Packet, own: IpAddr, protocol: u8, length: usize) -> u32 {
    pseudo(own, packet.source) + u32::from(protocol) + length as u32
}

/// The reset that answers a segment (RFC 9293 section 3.10.7.1).
fn reset(frame: &[u8], packet: &Packet, flow: &Flow) -> Vec<u8> {
    let segment = segment(frame, packet);
    let (sequence, acknowledgement, flags) = if segment.has(ACK) {
        (segment.acknowledgement, 0, RST)
    } else {
        let length = segment.data + u32::from(segment.has(SYN)) + u32::from(segment.has(FIN));
        (0, segment.sequence.wrapping_add(length), RST | ACK)
    };
    let mut out = Vec::new();
    out.extend(flow.destination.1.to_be_bytes());
    out.extend(flow.source.1.to_be_bytes());
    out.extend(sequence.to_be_bytes());
    out.extend(acknowledgement.to_be_bytes());
    out.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let beside = whole_pseudo(packet, packet.destination, TCP, out.len());
    let checksum = full(&out, beside);
    put16(&mut out, 16, checksum);
    out
}

/// The ICMP error about a packet: it quotes the headers, without TCP's options.
fn error(frame: &[u8], packet: &Packet, own: IpAddr, kind: [u8; 2], mtu: usize) -> Vec<u8> {
    let header = if packet.protocol == TCP { 20 } else { 8 };
    let quoted = (packet.transport - ETHERNET + header).min(LONGEST_QUOTE);
    let mut out = kind.to_vec();
    out.extend([0, 0]);
    out.extend((mtu as u32).to_be_bytes());
    out.extend(&frame[ETHERNET..ETHERNET + quoted]);
    let beside = if packet.is_v6 {
        whole_pseudo(packet, own, 58, out.len())
    } else {
        0
    };
    let checksum = full(&out, beside);
    put16(&mut out, 2, checksum);
    out
}

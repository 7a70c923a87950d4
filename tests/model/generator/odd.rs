//! What is odd about frames: fields that few packets have, fragments, extension headers, damage.

use balancer_tests::{
    dataplane::Side,
    packet::{Checksum, Packet, Transport},
};

use super::Generator;
use crate::model::Model;

impl Generator {
    /// The next frame.
    pub(super) fn frame(&mut self, model: &Model) -> (Side, Vec<u8>) {
        if !self.pending.is_empty() && self.random.percent(60) {
            return self.pending.remove(0);
        }
        if self.random.percent(1) {
            return self.garbage();
        }
        let (mut side, packet) = self.plain(model);
        if self.random.percent(1) {
            side = match side {
                Side::Outside => Side::Inside,
                Side::Inside => Side::Outside,
            };
        }
        let packet = self.oddly(packet);
        let is_tagged = !packet.tags.is_empty();
        if self.random.percent(7) && !is_tagged && packet.extensions.is_none() {
            return self.in_fragments(side, packet);
        }
        let mut frame = packet.bytes();
        if self.random.percent(7) {
            self.damage(&mut frame);
        }
        (side, frame)
    }

    /// Gives a packet fields that few have.
    fn oddly(&mut self, mut packet: Packet) -> Packet {
        let random = &mut self.random;
        let is_v4 = packet.source.is_ipv4();
        let is_datagram = packet.transport == Transport::Udp;
        match random.below(120) {
            0 | 1 => packet.hops = random.of(&[0, 1, 1, 2]),
            2 => packet.hops = 255,
            3 => packet.tos = random.next() as u8,
            4 => packet.flow_label = random.next() as u32 & 0xf_ffff,
            5..8 => packet.padding = vec![0xee; random.of(&[1, 6, 18])],
            8..10 => {
                // Around both MTUs, so that headers make the difference.
                let length = 1_230 + random.below(180);
                if !matches!(packet.transport, Transport::Other(_)) {
                    packet = packet.data(&vec![7; length]);
                    packet.fragment = random.of(&[0x4000, 0]);
                }
            }
            10..12 if is_v4 => {
                let options: [&[u8]; 9] = [
                    &[0x94, 4, 0, 0],
                    &[1; 40],
                    &[131, 7, 4, 10, 0, 0, 1, 0],
                    &[1, 137, 3, 4],
                    &[7, 1, 0, 0],
                    &[7, 0, 0, 0],
                    &[1, 1, 1, 7],
                    &[0, 131, 3, 4],
                    &[68, 8, 131, 7, 131, 7, 131, 7],
                ];
                packet.ip_options = random.of(&options).to_vec();
            }
            10..16 if !is_v4 => packet = self.behind_extensions(packet),
            16 => packet.checksum = Checksum::Given(0),
            17 => packet.checksum = Checksum::Given(random.next() as u16),
            18 => packet.checksum = Checksum::Given(0xffff),
            19 if is_datagram => packet.udp_length = Some(random.below(16) as u16),
            20 if is_datagram => packet.payload.clear(),
            21 if !is_datagram && !matches!(packet.transport, Transport::Other(_)) => {
                packet = packet.tcp_options(&[2, 4, 5, 180, 4, 2, 8, 10]);
            }
            22 => packet.mac_source[0] |= 1,
            23 => packet.mac_destination = random.of(&[[0xff; 6], [2, 0, 0, 0, 0, 0x0c]]),
            24 => packet.id = random.next() as u16,
            // What a checksum of zero comes of: all values of a word, some time.
            25..30 if !matches!(packet.transport, Transport::Other(_)) => {
                let any = random.next().to_be_bytes();
                packet = packet.data(&any[..1 + random.below(7)]);
            }
            _ => {}
        }
        packet
    }

    /// Puts IPv6 extension headers in front of the transport header.
    pub(super) fn behind_extensions(&mut self, mut packet: Packet) -> Packet {
        let protocol = packet.protocol();
        let random = &mut self.random;
        let count = random.of(&[1, 1, 1, 2, 2, 3, 8, 9]);
        let kinds: Vec<u8> = (0..count)
            .map(|_| random.of(&[0, 60, 60, 60, 43, 43, 44, 60, 60, 51]))
            .collect();
        let mut bytes = Vec::new();
        for (at, kind) in kinds.iter().enumerate() {
            let next = kinds.get(at + 1).copied().unwrap_or(protocol);
            match kind {
                44 => {
                    let low = random.of(&[0, 0, 0, 1, 8]);
                    bytes.extend([next, 0, 0, low, 0, 0, 0, 1 + random.below(4) as u8]);
                }
                43 => {
                    let kind = random.of(&[4, 4, 2, 3, 0]);
                    let left = random.of(&[0, 0, 0, 1]);
                    bytes.extend([next, 0, kind, left, 0, 0, 0, 0]);
                }
                _ => {
                    let words = random.of(&[0, 0, 0, 1, 3, 31, 32]);
                    let start = bytes.len();
                    bytes.extend([next, words, 1, 4]);
                    bytes.resize(start + (usize::from(words) + 1) * 8, 0);
                }
            }
        }
        packet.extensions = Some((kinds[0], bytes));
        packet
    }

    /// A packet in fragments, of which the others follow, or do not.
    fn in_fragments(&mut self, side: Side, mut packet: Packet) -> (Side, Vec<u8>) {
        let size = if self.random.percent(5) {
            // Around both MTUs, so that the first one may be too large, and the last one not.
            let length = 1_400 + self.random.below(1_500);
            packet.payload.resize(length, 0x5a);
            self.random.of(&[1_256, 1_312, 1_352, 1_408])
        } else {
            if packet.payload.len() < 24 && self.random.percent(90) {
                let length = 24 + self.random.below(60);
                packet.payload.resize(length, 0x5a);
            }
            let size = self.random.of(&[8, 16, 24, 24, 32, 64]);
            if packet.payload.len() < 500 {
                size
            } else {
                720
            }
        };
        if packet.source.is_ipv6() && self.random.percent(20) {
            packet = self.with_options_fragmented(packet);
        }
        let mut fragments = packet.fragments(size);
        if fragments.is_empty() {
            return (side, packet.bytes());
        }
        if self.random.percent(20) {
            let at = self.random.below(fragments.len());
            fragments.swap(0, at);
        }
        if self.random.percent(15) {
            let at = self.random.below(fragments.len());
            fragments[at].hops = 1;
        }
        if self.random.percent(10) {
            fragments.truncate(1);
        }
        let mut frames: Vec<_> = fragments
            .iter()
            .map(|fragment| (side, fragment.bytes()))
            .collect();
        for (_, frame) in &mut frames {
            if self.random.percent(5) {
                self.damage(frame);
            }
        }
        let first = frames.remove(0);
        self.pending.extend(frames);
        self.pending.truncate(12);
        first
    }

    /// Puts an IPv6 extension header where only the first fragment has it.
    fn with_options_fragmented(&mut self, packet: Packet) -> Packet {
        let words = self.random.of(&[0, 0, 1, 2]);
        let mut payload = vec![packet.protocol(), words, 1, 4];
        payload.resize((usize::from(words) + 1) * 8, 0);
        for whole in packet.fragments(1 << 16) {
            payload.extend(whole.payload);
        }
        let kind = self.random.of(&[60, 60, 60, 0]);
        Packet {
            transport: Transport::Other(kind),
            payload,
            ..packet
        }
    }

    /// Changes some bytes, or the length.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        let random = &mut self.random;
        for _ in 0..=random.below(3) {
            let at = random.below(frame.len().min(90));
            let old = frame[at];
            let any = random.next() as u8;
            frame[at] = random.of(&[
                0,
                0xff,
                any,
                old.wrapping_add(1),
                old.wrapping_sub(1),
                old ^ 1 << (any & 7),
            ]);
        }
        match random.below(10) {
            0 => frame.truncate(14 + random.below(frame.len() - 13)),
            1 => frame.extend(vec![0xee; random.below(40)]),
            _ => {}
        }
        // Every interface has such addresses: where packets to them go depends on the one they came in by.
        if frame.len() > 22 && frame[12] == 0x86 && frame[22] == 0xfe {
            frame[22] = 0x20;
        }
    }

    /// Bytes of no meaning behind a header that has one.
    fn garbage(&mut self) -> (Side, Vec<u8>) {
        let random = &mut self.random;
        let side = random.of(&[Side::Outside, Side::Inside]);
        let mut frame: Vec<u8> = (0..14 + random.below(120))
            .map(|_| random.next() as u8)
            .collect();
        let last = if side == Side::Outside { 0x0a } else { 0x0b };
        if random.percent(95) {
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, last]);
        }
        let is_v6 = random.percent(50);
        frame[12..14].copy_from_slice(if is_v6 { &[0x86, 0xdd] } else { &[8, 0] });
        if frame.len() > 14 {
            frame[14] = if is_v6 { 0x60 } else { 0x45 } | random.below(2) as u8;
        }
        if frame.len() > 22 && is_v6 && frame[22] == 0xfe {
            frame[22] = 0x20;
        }
        (side, frame)
    }
}

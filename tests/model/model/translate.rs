//! The way out: translation, and what the host's routes say.

use balancer_common::verdict::Discard::*;
use balancer_tests::{
    addresses::{LB_INSIDE, LB_OUTSIDE},
    dataplane::{Side, Verdict},
};

use super::{
    Memory, Model, Outcome, Packet, Part, Sent, Step, datagram,
    states::{Connection, ORIGINAL},
};
use crate::{
    wire::{Covered, ETHERNET, TCP, UDP, addresses_at, be16, pseudo, put_address, put16},
    world::{Route, Surroundings},
};

impl Model {
    /// Sends a packet along its connection.
    pub(super) fn send(
        &mut self,
        side: Side,
        frame: &[u8],
        packet: &Packet,
        connection: &Connection,
        direction: usize,
    ) -> Step<Outcome> {
        let way = self.fitting_way(packet, connection, direction)?;
        if packet.part == Part::First {
            let sent = Sent {
                number: connection.number,
                direction,
                by_host: way == Route::NoNeighbour || packet.length > way.mtu(&self.world.around),
            };
            let datagrams = if connection.is_proven() {
                &mut self.proven
            } else {
                &mut self.unproven
            };
            datagrams.insert(datagram(packet), Memory::Sent(sent));
        }
        let out = self.translated(frame, packet, connection, direction);
        Ok(self.emit(side, out, packet, way))
    }

    /// Gives a later fragment to the host's stack, which has sent its datagram's first one on.
    pub(super) fn pass_on(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        connection: &Connection,
        direction: usize,
    ) -> Step<Outcome> {
        self.fitting_way(packet, connection, direction)?;
        let out = self.translated(frame, packet, connection, direction);
        Ok(Outcome::passed(ToFragment, out))
    }

    /// Counts a packet and translates it.
    fn translated(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        connection: &Connection,
        direction: usize,
    ) -> Vec<u8> {
        self.count(connection, direction, packet);
        let mut out = frame.to_vec();
        translate(&mut out, packet, connection, direction);
        out
    }

    /// Where the packet goes, if it fits there or may be cut.
    fn fitting_way(
        &self,
        packet: &Packet,
        connection: &Connection,
        direction: usize,
    ) -> Step<Route> {
        let way = self.way(connection, direction);
        if packet.is_whole && packet.length > way.mtu(&self.world.around) {
            return Err(TooBig);
        }
        Ok(way)
    }

    /// Where packets of this direction go.
    pub(super) fn way(&self, connection: &Connection, direction: usize) -> Route {
        let other = connection.flows[1 - direction];
        if direction == ORIGINAL {
            self.world.route(other.source.0)
        } else {
            self.world.route(connection.flows[ORIGINAL].source.0)
        }
    }

    /// Counts a packet of its real server.
    pub(super) fn count(&mut self, connection: &Connection, direction: usize, packet: &Packet) {
        let [packets, bytes] = &mut self.traffic[connection.real].directions[direction];
        *packets += 1;
        *bytes += packet.length as u64;
    }

    /// Sends a translated frame by a route.
    pub(super) fn emit(
        &self,
        side: Side,
        mut out: Vec<u8>,
        packet: &Packet,
        way: Route,
    ) -> Outcome {
        let (to, mac) = match way {
            Route::To(to, mac) => (to, mac),
            Route::NoNeighbour => return Outcome::passed(NoNeighbour, out),
            Route::Blackhole => return Outcome::dropped(Blackhole),
            Route::Unreachable => return Outcome::dropped(Unreachable),
            Route::Prohibited => return Outcome::dropped(Prohibited),
            Route::Own => return Outcome::dropped(NotForwarded),
        };
        let around = &self.world.around;
        if packet.length > way.mtu(around) {
            return Outcome::passed(ToFragment, out);
        }
        with_header(&mut out, packet, |out| {
            out[if packet.is_v6 { 21 } else { 22 }] -= 1;
        });
        out[..6].copy_from_slice(&mac);
        out[6..12].copy_from_slice(match to {
            Side::Outside => &LB_OUTSIDE,
            Side::Inside => &LB_INSIDE,
        });
        let verdict = if to == side && !around.redirects_back {
            Verdict::Transmit
        } else if to == Side::Outside && !around.has_egress {
            return Outcome::dropped(NoEgress);
        } else {
            Verdict::Redirect
        };
        Outcome {
            verdict,
            reason: None,
            frame: Some(out),
            or: &[],
        }
    }
}

impl Route {
    /// The largest IP packet that it carries.
    pub const fn mtu(self, around: &Surroundings) -> usize {
        match self {
            Self::To(Side::Outside, _) => around.mtu[0],
            Self::To(Side::Inside, _) => around.mtu[1],
            _ => usize::MAX,
        }
    }
}

/// Changes an IP header, and sums an IPv4 header up in full. A wrong checksum stays as wrong as it was.
pub(super) fn with_header(out: &mut [u8], packet: &Packet, change: impl FnOnce(&mut [u8])) {
    if packet.is_v6 {
        change(out);
        return;
    }
    let end = ETHERNET + usize::from(out[ETHERNET] & 0xf) * 4;
    resum(out, ETHERNET..end, 10, [0; 2], |out| change(out));
}

/// Changes a frame, of which a range is covered by the checksum `at` bytes behind its start; `beside` it covers, before and after.
pub(super) fn resum(
    out: &mut [u8],
    range: std::ops::Range<usize>,
    at: usize,
    beside: [u32; 2],
    change: impl FnOnce(&mut [u8]),
) {
    let error = Covered {
        bytes: &out[range.clone()],
        checksum_at: at,
        beside: beside[0],
    }
    .error();
    change(out);
    let checksum = Covered {
        bytes: &out[range.clone()],
        checksum_at: at,
        beside: beside[1],
    }
    .with_error(error);
    put16(out, range.start + at, checksum);
}

/// Replaces the address and port that a connection's direction replaces.
fn translate(out: &mut [u8], packet: &Packet, connection: &Connection, direction: usize) {
    let other = connection.flows[1 - direction];
    let [source_at, destination_at] = addresses_at(packet.is_v6);
    // Towards the real server its answers' source is the new destination; towards the client what it asked is the source.
    let (at, port_at, (address, port)) = if direction == ORIGINAL {
        (ETHERNET + destination_at, 2, other.source)
    } else {
        (ETHERNET + source_at, 0, other.destination)
    };
    with_header(out, packet, |out| put_address(out, at, address));
    if packet.part == Part::Later {
        return;
    }
    let checksum_at = if packet.protocol == TCP { 16 } else { 6 };
    let place = packet.transport + checksum_at;
    let port_at = packet.transport + port_at;
    if packet.protocol == UDP && be16(out, place) == Some(0) {
        put16(out, port_at, port);
        return;
    }
    let after = if direction == ORIGINAL {
        [packet.source, address]
    } else {
        [address, packet.destination]
    };
    let beside = [
        pseudo(packet.source, packet.destination),
        pseudo(after[0], after[1]),
    ];
    let range = packet.transport..packet.end();
    resum(out, range, checksum_at, beside, |out| {
        put16(out, port_at, port);
    });
    if packet.protocol == UDP && be16(out, place) == Some(0) {
        // RFC 768.
        put16(out, place, 0xffff);
    }
}

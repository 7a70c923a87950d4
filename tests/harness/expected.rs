//! What one packet must lead to: a verdict, a frame, and changes of counters. Everything that is not named
//! must stay as it was.

use std::net::IpAddr;

use balancer_common::{direction, verdict::Discard};

use crate::{
    dataplane::{Dataplane, Side, Verdict},
    filters::RuleHandle,
    packet::Packet,
    persistence::Client,
    services::ServiceHandle,
    snapshot::Snapshot,
};

/// The outcome of one packet.
pub struct Expected {
    verdict: Verdict,
    frame: Option<Vec<u8>>,
    changes: Vec<Change>,
}

/// What a packet does to the counters.
type Change = Box<dyn Fn(&mut Snapshot)>;

/// The frame leaves by the other interface.
#[must_use]
pub fn redirected(frame: &Packet) -> Expected {
    Expected::new(Verdict::Redirect, Some(frame.bytes()))
}

/// The frame leaves by the interface that it came in by.
#[must_use]
pub fn transmitted(frame: &Packet) -> Expected {
    Expected::new(Verdict::Transmit, Some(frame.bytes()))
}

/// The sender gets `frame` by the interface where its own came in, and the reason is counted.
#[must_use]
pub fn answered(reason: Discard, frame: &Packet) -> Expected {
    transmitted(frame).discard(reason)
}

/// The frame goes to the host's stack, as it stands in `frame`, and its reason is counted.
#[must_use]
pub fn passed(reason: Discard, frame: &[u8]) -> Expected {
    Expected::new(Verdict::Pass, Some(frame.to_vec())).discard(reason)
}

/// The frame is gone, and its reason is counted. What its bytes were does not matter any more.
#[must_use]
pub fn dropped(reason: Discard) -> Expected {
    Expected::new(Verdict::Drop, None).discard(reason)
}

impl Expected {
    fn new(verdict: Verdict, frame: Option<Vec<u8>>) -> Self {
        Self {
            verdict,
            frame,
            changes: Vec::new(),
        }
    }

    fn change(mut self, change: impl Fn(&mut Snapshot) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// A reason is counted.
    #[must_use]
    pub fn discard(self, reason: Discard) -> Self {
        self.change(move |s| *s.discards.get_mut(reason.name()).expect("a reason") += 1)
    }

    /// A packet of a client was translated towards `real`.
    #[must_use]
    pub fn original(self, real: u32, packet: &Packet) -> Self {
        self.traffic(real, direction::ORIGINAL, packet.ip_length())
    }

    /// A packet of `real` was translated towards a client.
    #[must_use]
    pub fn reply(self, real: u32, packet: &Packet) -> Self {
        self.traffic(real, direction::REPLY, packet.ip_length())
    }

    fn traffic(self, real: u32, direction: u8, bytes: u64) -> Self {
        self.change(move |s| {
            let traffic =
                &mut s.reals.get_mut(&real).expect("a real").directions[usize::from(direction)];
            traffic.packets += 1;
            traffic.bytes += bytes;
        })
    }

    /// A new connection was given to `real`, and is counted: no turn was taken for it.
    #[must_use]
    pub fn connected(self, real: u32) -> Self {
        self.change(move |s| s.reals.get_mut(&real).expect("a real").connections += 1)
    }

    /// A new connection was given to `real`: it is counted, and the service's turn moves on.
    #[must_use]
    pub fn selected(self, service: ServiceHandle, real: u32) -> Self {
        self.connected(real).passed_over(service, 1)
    }

    /// A client, or a network of clients, keeps the real server with this id from now on, which is at this address.
    #[must_use]
    pub fn keeps(self, client: Client, server: IpAddr, real: u32) -> Self {
        self.change(move |s| {
            s.kept.insert(client, (server, real));
        })
    }

    /// A rule of a filter, or a limit, counts the packet.
    #[must_use]
    pub fn counted(self, rule: RuleHandle) -> Self {
        self.change(move |s| *s.rules.get_mut(&rule.id).expect("a rule") += 1)
    }

    /// A client, or a network of clients, gets a token bucket.
    #[must_use]
    pub fn bucket(self, service: ServiceHandle, client: IpAddr) -> Self {
        self.change(move |s| {
            s.buckets.insert((service.id, client));
        })
    }

    /// A service's turn moves on so many times without a connection: real servers were passed over.
    #[must_use]
    pub fn passed_over(self, service: ServiceHandle, times: u64) -> Self {
        self.change(move |s| *s.turns.get_mut(&service.id).expect("a service") += times)
    }

    /// So many more, or less, handshakes are under way.
    #[must_use]
    pub fn half_open(self, difference: i64) -> Self {
        self.change(move |s| s.half_open += difference)
    }

    /// An IPv4 connection whose handshake is over came into being: two entries.
    #[must_use]
    pub fn pair_v4(self) -> Self {
        self.change(|s| s.rows_v4 += 2)
    }

    /// An IPv6 connection whose handshake is over came into being: two entries.
    #[must_use]
    pub fn pair_v6(self) -> Self {
        self.change(|s| s.rows_v6 += 2)
    }

    /// A pair of rows of this packet's family was inserted.
    #[must_use]
    pub fn pair_of(self, packet: &Packet) -> Self {
        if packet.source.is_ipv4() {
            self.pair_v4()
        } else {
            self.pair_v6()
        }
    }

    /// A pair of rows of this packet's family was deleted.
    #[must_use]
    pub fn pair_of_deleted(self, packet: &Packet) -> Self {
        if packet.source.is_ipv4() {
            self.pair_v4_deleted()
        } else {
            self.pair_v6_deleted()
        }
    }

    /// A pair of IPv4 rows was deleted.
    #[must_use]
    pub fn pair_v4_deleted(self) -> Self {
        self.change(|s| s.rows_v4 -= 2)
    }

    /// A pair of IPv6 rows was deleted.
    #[must_use]
    pub fn pair_v6_deleted(self) -> Self {
        self.change(|s| s.rows_v6 -= 2)
    }
}

impl Dataplane {
    /// Sends one packet and compares everything with what is expected.
    ///
    /// # Panics
    /// Verdict, frame, rows or counters differ.
    #[track_caller]
    pub fn step(&mut self, from: Side, packet: &Packet, expected: Expected) {
        self.step_bytes(from, &packet.bytes(), expected);
    }

    /// As [`Dataplane::step`], for frames that no [`Packet`] describes.
    ///
    /// # Panics
    /// Verdict, frame, rows or counters differ.
    #[track_caller]
    pub fn step_bytes(&mut self, from: Side, frame: &[u8], expected: Expected) {
        let mut snapshot = self.snapshot();
        let (verdict, out) = self.send(from, frame);
        let after = self.snapshot();
        for change in &expected.changes {
            change(&mut snapshot);
        }
        let found = differences(&snapshot, &after);
        assert!(
            verdict == expected.verdict,
            "verdict {verdict:?}, expected {:?}; counters:\n{found}",
            expected.verdict
        );
        if let Some(frame) = expected.frame {
            assert!(
                out == frame,
                "the frame differs\n  found    {}\n  expected {}\n{found}",
                hex(&out),
                hex(&frame)
            );
        }
        assert!(
            snapshot == after,
            "counters differ from what is expected:\n{found}"
        );
        self.assert_loads_are_exact();
    }
}

/// The lines in which two snapshots differ.
fn differences(expected: &Snapshot, found: &Snapshot) -> String {
    let (expected, found) = (format!("{expected:#?}"), format!("{found:#?}"));
    let mut area = String::new();
    let mut text = String::new();
    for (e, f) in expected.lines().zip(found.lines()) {
        if e.ends_with(['{', '[']) {
            area = e.trim().to_owned();
        }
        if e != f {
            text += &format!("  {area} expected {} found {}\n", e.trim(), f.trim());
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(2)
        .map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>() + " ")
        .collect()
}

//! The rows of the packet bench: which packets, on which table, what must become of them, and what they are compared
//! with.

use anyhow::Result;

use super::{
    arrangement::Arrangement,
    frame::{Segment, fragment, with_headers_of},
    network::{
        CLIENT_V6, INSIDE_MAC, INSIDE_REAL_MAC, INSIDE_V4, NEW_FLOWS, NO_VIP_V4, REAL_V4, REAL_V6,
        SNAT_V4, VIP_V4, VIP_V6,
    },
    route::{CLIENT_PORT, Route},
    runner::{Delivery, Walk},
    target::{FULL_NAT_PORT, INSIDE_PORT, REAL_PORT, SERVICE_PORT, SNAT_PORT, UDP_PORT},
};
use crate::bench::report::Aim;

/// XDP actions (`enum xdp_action`).
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// The program that the front program calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The program under test, with this table.
    Balancer(Table),
    /// One of the bench's own programs.
    Reference(&'static str),
}

/// The connection table of a row. Each table belongs to a program with its own maps, so that rows do not share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The default size.
    Default,
    /// 1,048,576 connections, and room for as many more.
    Million,
    /// The default size; only SYNs come in.
    New,
    /// Room for every handshake of the run.
    Handshakes,
    /// As `New`, with another way to choose among real servers.
    Scheduled(Arrangement),
}

/// What a row is compared with, in the same round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Another row.
    Row(&'static str),
    /// The row's own work on one CPU at a time; the row itself is that work on two CPUs at once.
    Alone,
}

/// What the program must count for each round of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Translated packets: `[original, reply]` per turn of a flow.
    Packets([u64; 2]),
    /// One packet that is passed because it is not for a service.
    NotOurs,
    /// One packet that a reference has processed.
    Done,
}

/// A row.
#[derive(Clone)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it is compared with.
    pub against: Against,
    /// What its ratio to that should be.
    pub aim: Option<Aim>,
    /// What is measured.
    pub subject: Subject,
    /// The frames of one turn of a flow.
    pub frames: Vec<Vec<u8>>,
    /// The flows.
    pub walk: Walk,
    /// Frames that go in once, before all else: they make the connection.
    pub before: Vec<Vec<u8>>,
    /// Frames per flow that make its connection, all flows in order, before all else; none = not made.
    pub made_by: Vec<Vec<u8>>,
    /// XDP action and frame that the first frame must give.
    pub expected: (u32, Vec<u8>),
    /// What must be counted.
    pub count: Count,
    /// Whether frames leave.
    pub delivery: Delivery,
}

impl Case {
    /// The number of packets nearest to `packets` that makes whole turns.
    pub fn packets(&self, packets: u32) -> u32 {
        let frames = u32::try_from(self.frames.len()).unwrap_or(1);
        packets / frames * frames
    }
}

/// Names of the minimal NAT's rows, by number of flows and delivery.
const MINIMAL_1: &str = "established-1/minimal-nat";
const MINIMAL_16K: &str = "established-16k/minimal-nat";
const MINIMAL_1M: &str = "established-1m/minimal-nat";
const MINIMAL_LIVE: &str = "live-established/minimal-nat";

/// All rows.
///
/// # Errors
/// None, as long as the addresses of each route are of one family.
pub fn all() -> Result<Vec<Case>> {
    let established = established()?;
    let [minimal, minimal_16k, minimal_1m, minimal_live] = minimal_nat(&established)?;
    let set = |name, table, flows| set(&established, name, table, flows);
    // Rows that are compared are neighbours, because the machine's speed changes with time.
    let mut cases = vec![
        set("established-1m", Table::Million, 1 << 20)?,
        minimal_1m,
        set("established-16k", Table::Default, 1 << 14)?,
        minimal_16k,
        established.clone(),
        minimal,
    ];
    cases.extend(other_established(&established)?);
    cases.extend(slow(&established)?);
    let without_flows = without_flows(&established)?;
    cases.extend(scheduled(&without_flows[0]));
    cases.extend(without_flows);
    cases.extend(for_scale(&established)?);
    cases.push(minimal_live);
    Ok(cases)
}

/// The row of which all others are variations.
fn established() -> Result<Case> {
    let route = Route::lone();
    Ok(Case {
        name: "established-1",
        against: Against::Row(MINIMAL_1),
        aim: Some(Aim::AtMost(0.9)),
        subject: Subject::Balancer(Table::Default),
        frames: vec![route.client_sends(Segment::Ack)?],
        walk: Walk::of(1),
        before: route.handshake()?,
        made_by: Vec::new(),
        expected: (TX, route.real_gets(Segment::Ack)?),
        count: Count::Packets([1, 0]),
        delivery: Delivery::Verdict,
    })
}

/// Established connections of many flows.
fn set(established: &Case, name: &'static str, table: Table, flows: u32) -> Result<Case> {
    let first = Route::of_set(0);
    let (against, aim) = match table {
        Table::Million => (MINIMAL_1M, 0.5),
        Table::Default | Table::New | Table::Handshakes | Table::Scheduled(_) => (MINIMAL_16K, 0.6),
    };
    Ok(Case {
        name,
        against: Against::Row(against),
        aim: Some(Aim::AtMost(aim)),
        subject: Subject::Balancer(table),
        frames: vec![first.client_sends(Segment::Ack)?],
        walk: Walk::of(flows),
        before: Vec::new(),
        made_by: first.handshake()?,
        expected: (TX, first.real_gets(Segment::Ack)?),
        ..established.clone()
    })
}

/// The reply direction, the other family and the other protocol.
fn other_established(established: &Case) -> Result<[Case; 3]> {
    let tcp = Route::lone();
    let udp = Route {
        virtual_address: (VIP_V4, UDP_PORT).into(),
        real: (REAL_V4, UDP_PORT).into(),
        ..tcp
    };
    let tcp6 = Route {
        client: (CLIENT_V6, CLIENT_PORT).into(),
        virtual_address: (VIP_V6, SERVICE_PORT).into(),
        real: (REAL_V6, REAL_PORT).into(),
        ..tcp
    };
    Ok([
        Case {
            name: "reply-1",
            frames: vec![tcp.real_sends(Segment::Ack)?],
            expected: (TX, tcp.client_gets(Segment::Ack)?),
            count: Count::Packets([0, 1]),
            ..established.clone()
        },
        Case {
            name: "established-1-ipv6",
            aim: Some(Aim::AtMost(1.2)),
            frames: vec![tcp6.client_sends(Segment::Ack)?],
            before: tcp6.handshake()?,
            expected: (TX, tcp6.real_gets(Segment::Ack)?),
            ..established.clone()
        },
        Case {
            name: "established-1-udp",
            frames: vec![udp.client_sends(Segment::Datagram)?],
            before: vec![udp.client_sends(Segment::Datagram)?],
            expected: (TX, udp.real_gets(Segment::Datagram)?),
            ..established.clone()
        },
    ])
}

/// What other programs than `balancer` take along a connection: one with full NAT, an ICMP error about it, a fragment that is not its
/// datagram's first.
fn slow(established: &Case) -> Result<[Case; 4]> {
    let tcp = Route::lone();
    let udp = Route {
        virtual_address: (VIP_V4, UDP_PORT).into(),
        real: (REAL_V4, UDP_PORT).into(),
        ..tcp
    };
    let full_nat = Route {
        virtual_address: (VIP_V4, FULL_NAT_PORT).into(),
        source: Some((SNAT_V4, SNAT_PORT).into()),
        ..tcp
    };
    let [complaint, translated] = tcp.complaint()?;
    let sent = udp.client_sends(Segment::Datagram)?;
    let later = fragment(sent.clone(), 8, false)?;
    let translated_later = fragment(udp.real_gets(Segment::Datagram)?, 8, false)?;
    Ok([
        Case {
            name: "full-nat",
            aim: None,
            frames: vec![full_nat.client_sends(Segment::Ack)?],
            before: full_nat.handshake()?,
            expected: (TX, full_nat.real_gets(Segment::Ack)?),
            ..established.clone()
        },
        Case {
            name: "full-nat-reply",
            aim: None,
            frames: vec![full_nat.real_sends(Segment::Ack)?],
            before: full_nat.handshake()?,
            expected: (TX, full_nat.client_gets(Segment::Ack)?),
            count: Count::Packets([0, 1]),
            ..established.clone()
        },
        Case {
            name: "icmp-error",
            aim: None,
            frames: vec![complaint],
            expected: (TX, translated),
            ..established.clone()
        },
        Case {
            name: "fragment",
            aim: None,
            before: vec![fragment(sent, 0, true)?],
            expected: (TX, with_headers_of(&translated_later, &later)),
            frames: vec![later],
            ..established.clone()
        },
    ])
}

/// Rows of packets that come once per connection, or belong to none.
fn without_flows(established: &Case) -> Result<[Case; 4]> {
    let first = Route::of_set(0);
    let stranger = Route {
        virtual_address: (NO_VIP_V4, SERVICE_PORT).into(),
        ..Route::lone()
    };
    let not_ours = stranger.client_sends(Segment::Ack)?;
    let new = Case {
        name: "new-connection",
        aim: Some(Aim::AtMost(11.0)),
        subject: Subject::Balancer(Table::New),
        frames: vec![first.client_sends(Segment::Syn)?],
        walk: Walk::of(NEW_FLOWS),
        before: Vec::new(),
        expected: (TX, first.real_gets(Segment::Syn)?),
        ..established.clone()
    };
    let on_two_cpus = Case {
        name: "new-connection-2-cpus",
        against: Against::Alone,
        aim: Some(Aim::AtMost(1.1)),
        ..new.clone()
    };
    let handshake = Case {
        name: "handshake",
        aim: Some(Aim::AtMost(6.0)),
        subject: Subject::Balancer(Table::Handshakes),
        frames: first.handshake()?,
        count: Count::Packets([2, 1]),
        ..new.clone()
    };
    let not_ours = Case {
        name: "not-ours",
        aim: Some(Aim::AtMost(0.95)),
        frames: vec![not_ours.clone()],
        before: Vec::new(),
        expected: (PASS, not_ours),
        count: Count::NotOurs,
        ..established.clone()
    };
    Ok([new, on_two_cpus, handshake, not_ours])
}

/// New connections whose real server is found in other ways, against one by one by turns.
fn scheduled(new: &Case) -> impl Iterator<Item = Case> {
    let rows = [
        ("persistence-hit", Arrangement::Persistent, Some(1.3)),
        ("new-connection-mh", Arrangement::Maglev, Some(1.1)),
        ("new-connection-wlc-10", Arrangement::Least(10), Some(1.3)),
        ("new-connection-wlc-100", Arrangement::Least(100), None),
        ("new-connection-wlc-1000", Arrangement::Least(1000), None),
    ];
    let new = new.clone();
    rows.into_iter().map(move |(name, arrangement, most)| Case {
        name,
        against: Against::Row("new-connection"),
        aim: most.map(Aim::AtMost),
        subject: Subject::Balancer(Table::Scheduled(arrangement)),
        ..new.clone()
    })
}

/// Rows without an aim: another interface, frames that are delivered, the kernel's route look-up.
fn for_scale(established: &Case) -> Result<[Case; 4]> {
    let tcp = Route::lone();
    let two_armed = Route {
        virtual_address: (VIP_V4, INSIDE_PORT).into(),
        real: (INSIDE_V4, REAL_PORT).into(),
        inside: [INSIDE_MAC, INSIDE_REAL_MAC],
        ..tcp
    };
    let redirected = Case {
        name: "established-1/two-armed",
        aim: None,
        frames: vec![two_armed.client_sends(Segment::Ack)?],
        before: two_armed.handshake()?,
        expected: (REDIRECT, two_armed.real_gets(Segment::Ack)?),
        ..established.clone()
    };
    Ok([
        Case {
            name: "live-established",
            against: Against::Row(MINIMAL_LIVE),
            aim: None,
            delivery: Delivery::Live,
            ..established.clone()
        },
        Case {
            name: "live-established/two-armed",
            against: Against::Row(MINIMAL_LIVE),
            delivery: Delivery::Live,
            ..redirected.clone()
        },
        redirected,
        Case {
            name: "established-1/fib-redirect",
            aim: None,
            subject: Subject::Reference("fib_redirect"),
            frames: vec![tcp.client_sends_directly(Segment::Ack)?],
            before: Vec::new(),
            expected: (REDIRECT, tcp.real_gets_untouched(Segment::Ack)?),
            count: Count::Done,
            ..established.clone()
        },
    ])
}

/// The rows of the minimal NAT.
fn minimal_nat(established: &Case) -> Result<[Case; 4]> {
    let (lone, first) = (Route::lone(), Route::of_set(0));
    let one = Case {
        name: MINIMAL_1,
        aim: None,
        subject: Subject::Reference("minimal_nat"),
        before: Vec::new(),
        expected: (TX, lone.real_gets_untouched(Segment::Ack)?),
        count: Count::Done,
        ..established.clone()
    };
    let expected = (TX, first.real_gets_untouched(Segment::Ack)?);
    let frame = first.client_sends(Segment::Ack)?;
    let of = |name, flows| Case {
        name,
        against: Against::Row(name),
        frames: vec![frame.clone()],
        walk: Walk::of(flows),
        expected: expected.clone(),
        ..one.clone()
    };
    Ok([
        one.clone(),
        of(MINIMAL_16K, 1 << 14),
        of(MINIMAL_1M, 1 << 20),
        Case {
            name: MINIMAL_LIVE,
            against: Against::Row(MINIMAL_LIVE),
            delivery: Delivery::Live,
            ..one
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row that `case` is compared with, if it is compared with a row.
    fn reference<'a>(cases: &'a [Case], case: &Case) -> Option<&'a Case> {
        let Against::Row(name) = case.against else {
            return None;
        };
        cases.iter().find(|other| other.name == name)
    }

    #[test]
    fn every_row_is_compared_with_a_row_of_as_many_flows_or_of_one() {
        let cases = all().unwrap();
        for case in &cases {
            if case.against == Against::Alone {
                continue;
            }
            let reference = reference(&cases, case).expect(case.name);
            assert_eq!(reference.delivery, case.delivery, "{}", case.name);
            let allowed = match case.walk.flows {
                NEW_FLOWS => [1, NEW_FLOWS],
                flows => [flows, flows],
            };
            assert!(allowed.contains(&reference.walk.flows), "{}", case.name);
        }
    }

    #[test]
    fn every_comparison_ends_at_a_row_that_is_compared_with_itself() {
        let cases = all().unwrap();
        for case in &cases {
            let mut last = case;
            for _ in 0..cases.len() {
                last = reference(&cases, last).unwrap_or(last);
            }
            let end = match case.against {
                Against::Alone => Against::Alone,
                Against::Row(_) => Against::Row(last.name),
            };
            assert_eq!(last.against, end, "{}", case.name);
        }
    }
}

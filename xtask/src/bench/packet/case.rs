//! The rows of the packet bench: which packets, on which table, and what must become of them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use balancer_common::{addr::TCP, conntrack::FlowKeyV4, nat::Translation, verdict::Discard};

use super::{
    frame::{Segment, frame},
    network::{
        BALANCER_MAC, CLIENT_V4, CLIENT_V6, GATEWAY_MAC, INSIDE_MAC, INSIDE_REAL_MAC, INSIDE_V4,
        NO_VIP_V4, REAL_MAC, REAL_V4, REAL_V6, VIP_V4, VIP_V6,
    },
    runner::{Delivery, SCATTERED, Walk},
    target::{INSIDE_PORT, REAL_PORT, SERVICE_PORT, UDP_PORT},
};

/// Connections that the table of most rows has room for: the product's default.
pub const DEFAULT_CONNECTIONS: u32 = 262_144;

/// XDP actions (`enum xdp_action`).
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// What is behind the front program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The program under test, with this table.
    Balancer(Table),
    /// One of the bench's own programs, for scale.
    Reference(&'static str),
}

/// Each table is a program of its own with its own maps, so that rows do not meet each other's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The default size.
    Default,
    /// Room for 1,048,576 connections, all of them there.
    Million,
    /// The default size; only SYNs come in.
    New,
    /// Room for every handshake of the run.
    Handshakes,
}

/// What the program must count for each round of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Translated packets: `[original, reply]` per turn of a flow.
    Packets([u64; 2]),
    /// One discard per packet.
    Discard(Discard),
    /// One packet that a reference has dealt with.
    Done,
}

/// A row.
#[derive(Clone)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What the issue asks for, as a ratio to the reference.
    pub aim: Option<f64>,
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

const ONE: Walk = Walk {
    flows: 1,
    multiplier: SCATTERED,
};

/// Flow 0 of the sets of flows, as the front program makes it.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FIRST_CLIENT_PORT: u16 = 32_768;
/// The client's port of all other rows.
const CLIENT_PORT: u16 = 40_000;

/// Tuples of SYNs: none comes twice in a run.
pub const NEW_FLOWS: u32 = 1 << 27;

/// The way of a connection through the balancer: who talks to whom.
#[derive(Clone, Copy)]
struct Route {
    client: SocketAddr,
    virtual_address: SocketAddr,
    real: SocketAddr,
    /// MAC addresses on the real server's side: the balancer's, the real server's.
    inside: [[u8; 6]; 2],
}

/// Time to live of what comes in; what leaves has one less.
const HOPS: u8 = 64;

impl Route {
    fn client_sends(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(
            [GATEWAY_MAC, BALANCER_MAC],
            self.client,
            self.virtual_address,
            segment,
            HOPS,
        )
    }

    fn real_gets(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(self.inside, self.client, self.real, segment, HOPS - 1)
    }

    fn real_sends(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(
            [REAL_MAC, BALANCER_MAC],
            self.real,
            self.client,
            segment,
            HOPS,
        )
    }

    fn client_gets(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(
            [BALANCER_MAC, GATEWAY_MAC],
            self.virtual_address,
            self.client,
            segment,
            HOPS - 1,
        )
    }

    /// The three frames that make a TCP connection, as they reach the balancer.
    fn handshake(&self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![
            self.client_sends(Segment::Syn)?,
            self.real_sends(Segment::SynAck)?,
            self.client_sends(Segment::Ack)?,
        ])
    }
}

/// All rows.
///
/// # Errors
/// None, as long as the addresses above are of one family each.
pub fn all() -> Result<Vec<Case>> {
    let tcp = Route {
        client: (CLIENT_V4, CLIENT_PORT).into(),
        virtual_address: (VIP_V4, SERVICE_PORT).into(),
        real: (REAL_V4, REAL_PORT).into(),
        inside: [BALANCER_MAC, REAL_MAC],
    };
    // Flow 0 of the sets, whose first frame is looked at.
    let first = Route {
        client: (FIRST_CLIENT, FIRST_CLIENT_PORT).into(),
        ..tcp
    };
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
    let two_armed = Route {
        virtual_address: (VIP_V4, INSIDE_PORT).into(),
        real: (INSIDE_V4, REAL_PORT).into(),
        inside: [INSIDE_MAC, INSIDE_REAL_MAC],
        ..tcp
    };
    let stranger = Route {
        virtual_address: (NO_VIP_V4, SERVICE_PORT).into(),
        ..tcp
    };

    let established = Case {
        name: "established-1",
        aim: Some(2.5),
        subject: Subject::Balancer(Table::Default),
        frames: vec![tcp.client_sends(Segment::Ack)?],
        walk: ONE,
        before: tcp.handshake()?,
        made_by: Vec::new(),
        expected: (TX, tcp.real_gets(Segment::Ack)?),
        count: Count::Packets([1, 0]),
        delivery: Delivery::Verdict,
    };
    let set = |flows| Walk { flows, ..ONE };
    let flows = |name, aim, table, flows| -> Result<Case> {
        Ok(Case {
            name,
            aim,
            subject: Subject::Balancer(table),
            frames: vec![first.client_sends(Segment::Ack)?],
            walk: set(flows),
            before: Vec::new(),
            made_by: first.handshake()?,
            expected: (TX, first.real_gets(Segment::Ack)?),
            ..established.clone()
        })
    };
    // The others are sent back out of the interface they came in by, as the floor is.
    let redirected = |name, delivery| -> Result<Case> {
        Ok(Case {
            name,
            aim: None,
            frames: vec![two_armed.client_sends(Segment::Ack)?],
            before: two_armed.handshake()?,
            expected: (REDIRECT, two_armed.real_gets(Segment::Ack)?),
            delivery,
            ..established.clone()
        })
    };
    let reference = Case {
        aim: None,
        before: Vec::new(),
        count: Count::Done,
        ..established.clone()
    };
    let not_ours = stranger.client_sends(Segment::Ack)?;
    Ok(vec![
        established.clone(),
        flows("established-16k", None, Table::Default, 1 << 14)?,
        flows("established-1m", Some(14.0), Table::Million, 1 << 20)?,
        Case {
            name: "reply-1",
            aim: None,
            frames: vec![tcp.real_sends(Segment::Ack)?],
            expected: (TX, tcp.client_gets(Segment::Ack)?),
            count: Count::Packets([0, 1]),
            ..established.clone()
        },
        Case {
            name: "established-1-ipv6",
            aim: None,
            frames: vec![tcp6.client_sends(Segment::Ack)?],
            before: tcp6.handshake()?,
            expected: (TX, tcp6.real_gets(Segment::Ack)?),
            ..established.clone()
        },
        Case {
            name: "established-1-udp",
            aim: None,
            frames: vec![udp.client_sends(Segment::Datagram)?],
            before: vec![udp.client_sends(Segment::Datagram)?],
            expected: (TX, udp.real_gets(Segment::Datagram)?),
            ..established.clone()
        },
        Case {
            name: "new-connection",
            aim: Some(20.0),
            subject: Subject::Balancer(Table::New),
            frames: vec![first.client_sends(Segment::Syn)?],
            walk: set(NEW_FLOWS),
            before: Vec::new(),
            expected: (TX, first.real_gets(Segment::Syn)?),
            ..established.clone()
        },
        Case {
            name: "handshake",
            aim: None,
            subject: Subject::Balancer(Table::Handshakes),
            frames: first.handshake()?,
            walk: set(NEW_FLOWS),
            before: Vec::new(),
            expected: (TX, first.real_gets(Segment::Syn)?),
            count: Count::Packets([2, 1]),
            ..established.clone()
        },
        Case {
            name: "not-ours",
            aim: Some(2.5),
            frames: vec![not_ours.clone()],
            before: Vec::new(),
            expected: (PASS, not_ours),
            count: Count::Discard(Discard::NoService),
            ..established.clone()
        },
        Case {
            name: "live-established",
            aim: Some(1.35),
            delivery: Delivery::Live,
            ..established.clone()
        },
        redirected("established-1/two-armed", Delivery::Verdict)?,
        redirected("live-established/two-armed", Delivery::Live)?,
        Case {
            name: "established-1/minimal-nat",
            subject: Subject::Reference("minimal_nat"),
            expected: (
                TX,
                frame(
                    [BALANCER_MAC, REAL_MAC],
                    tcp.client,
                    tcp.real,
                    Segment::Ack,
                    HOPS,
                )?,
            ),
            ..reference.clone()
        },
        Case {
            name: "established-1m/minimal-nat",
            subject: Subject::Reference("minimal_nat"),
            frames: vec![first.client_sends(Segment::Ack)?],
            walk: set(1 << 20),
            expected: (
                TX,
                frame(
                    [BALANCER_MAC, REAL_MAC],
                    first.client,
                    first.real,
                    Segment::Ack,
                    HOPS,
                )?,
            ),
            ..reference.clone()
        },
        Case {
            name: "established-1/fib-redirect",
            subject: Subject::Reference("fib_redirect"),
            frames: vec![frame(
                [GATEWAY_MAC, BALANCER_MAC],
                tcp.client,
                tcp.real,
                Segment::Ack,
                HOPS,
            )?],
            expected: (
                REDIRECT,
                frame(
                    [BALANCER_MAC, REAL_MAC],
                    tcp.client,
                    tcp.real,
                    Segment::Ack,
                    HOPS,
                )?,
            ),
            ..reference
        },
    ])
}

/// The key and translation of each of `flows` flows of a set, in the client's direction, or of the single flow.
pub fn translations(flows: u32) -> impl Iterator<Item = (FlowKeyV4, Translation<u32>)> {
    (0..flows).map(move |flow| {
        let (source, source_port) = if flows == 1 {
            (CLIENT_V4.to_bits(), CLIENT_PORT)
        } else {
            let ports = 1 << 10;
            (
                FIRST_CLIENT.to_bits() + flow / ports,
                FIRST_CLIENT_PORT + (flow % ports) as u16,
            )
        };
        let key = FlowKeyV4 {
            source: source.to_be(),
            destination: u32::from_ne_bytes(VIP_V4.octets()),
            source_port: source_port.to_be(),
            destination_port: SERVICE_PORT.to_be(),
            protocol: TCP.into(),
        };
        let mut translation = Translation::default();
        translation.dnat(
            &key,
            u32::from_ne_bytes(REAL_V4.octets()),
            REAL_PORT.to_be(),
        );
        (key, translation)
    })
}

//! The driver bench: the cost of a frame from the driver's hook to the far end of a veth pair, against what the kernel's own
//! stack takes to route it and to translate it.
//!
//! All get the same frames at the same place, an interface's native XDP hook: the packet program forwards them, and
//! for the kernel a program returns `XDP_PASS`. What makes the frames is measured with a program that drops them, and
//! subtracted. A figure counts only if the far end has seen each frame arrive at the real server's address, which for
//! all but routing means that it was translated.
//!
//! All flows of a run exist, for the packet program and for nftables alike, whether a row sends packets of one or of all of them.

mod nftables;
mod place;

use std::{path::Path, thread};

use anyhow::{Context as _, Result, bail};

use self::{nftables::Room, place::Place};
use super::{
    Options,
    packet::{
        self, connect, cpus,
        frame::Segment,
        route::Route,
        runner::{Delivery, Front, Walk},
        target::{DEFAULT_CONNECTIONS, Expected, Target},
    },
    report::{Aim, Row, median, minimum, ratios},
};

/// Packets of a row that are sent before the first round.
const WARM_UP: u32 = 300_000;

/// Connections in the table.
const CONNECTIONS: u32 = 1 << 16;

/// What the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// It routes frames that are addressed to the real server.
    Routing,
    /// It translates by nftables.
    Nftables,
}

/// A row: a peer and how many flows send.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    peer: Peer,
    flows: u32,
    /// How many times the packet program's time the peer should take.
    aim: f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "routing-1",
        peer: Peer::Routing,
        flows: 1,
        aim: 4.5,
    },
    Case {
        name: "nftables-1",
        peer: Peer::Nftables,
        flows: 1,
        aim: 8.0,
    },
    Case {
        name: "nftables-16k",
        peer: Peer::Nftables,
        flows: 1 << 14,
        aim: 6.0,
    },
    Case {
        name: "nftables-64k",
        peer: Peer::Nftables,
        flows: CONNECTIONS,
        aim: 4.0,
    },
];

/// Names of all rows.
pub fn rows() -> Vec<String> {
    CASES.iter().map(|case| case.name.to_owned()).collect()
}

/// Measures, prints the table, and returns its rows.
///
/// # Errors
/// No rights, a tool is missing, no object, or a void measurement.
pub fn run(options: &Options, built: &Path) -> Result<Vec<Row>> {
    let _room = Room::for_connections(CONNECTIONS)?;
    // On a thread of its own, which enters other network namespaces and stays on one CPU.
    thread::scope(|scope| {
        scope
            .spawn(|| Bench::new(options, built)?.run(options))
            .join()
            .unwrap_or_else(|_| bail!("the bench panicked"))
    })
}

struct Bench {
    /// The namespace of the packet program, in which the kernel also routes without rules.
    plain: Place,
    /// The namespace in which the kernel translates.
    translating: Place,
    target: Target,
    rows: Vec<Measured>,
}

/// A row while it is measured: nanoseconds per frame, by round, the generator's cost included.
struct Measured {
    case: Case,
    /// Sends frames to the VIP.
    front: Front,
    /// Sends the frames that the peer gets.
    to_peer: Front,
    ours: Vec<f64>,
    peer: Vec<f64>,
    generator: Vec<f64>,
}

impl Bench {
    fn new(options: &Options, built: &Path) -> Result<Self> {
        let own = packet::read(&built.join("bench"))?;
        let built = built.join("balancer");
        let object = packet::read(options.object.as_ref().unwrap_or(&built))?;
        let cpu = *cpus::allowed()?.last().context("no CPU may be used")?;
        cpus::stay_on(cpu)?;
        let route = Route::of_set(0);
        let frame = route.client_sends(Segment::Ack)?;

        let translating = Place::build(&own, &frame)?;
        nftables::translate()?;
        let tracked = track(&own, &translating, &route);
        tracked.context("making the connections that nftables translates")?;

        let plain = Place::build(&own, &frame)?;
        let target = Target::load(&object, DEFAULT_CONNECTIONS, &plain.interfaces)?;
        let near = plain.interfaces.near;
        connect::through(&target, &own, near, &route.handshake()?, CONNECTIONS)?;

        let wanted = CASES.into_iter().filter(|case| options.wants(case.name));
        let rows = wanted.map(|case| Measured::new(case, &own, &route));
        Ok(Self {
            rows: rows.collect::<Result<_>>()?,
            plain,
            translating,
            target,
        })
    }

    fn run(mut self, options: &Options) -> Result<Vec<Row>> {
        self.round(WARM_UP.min(options.packets))?;
        self.rows.iter_mut().for_each(Measured::clear);
        for round in 1..=options.rounds() {
            eprintln!("round {round} of {}", options.rounds());
            self.round(options.packets)?;
        }
        Ok(report(&self.rows))
    }

    fn round(&mut self, packets: u32) -> Result<()> {
        for row in &mut self.rows {
            crate::interrupt::check()?;
            let (name, peer) = (row.case.name, row.case.peer);
            self.plain.enter()?;
            row.round_of_ours(&self.plain, &self.target, packets)
                .with_context(|| format!("row {name}: the packet program"))?;
            let place = match peer {
                Peer::Routing => &self.plain,
                Peer::Nftables => &self.translating,
            };
            place.enter()?;
            row.round_of_peer(place, packets)
                .with_context(|| format!("row {name}: the kernel"))?;
        }
        Ok(())
    }
}

/// Lets the handshake of each flow through the kernel, which has its rules, frame by frame: what comes in together
/// would be looked up together, before anything is known of the connection.
fn track(own: &[u8], place: &Place, route: &Route) -> Result<()> {
    let walk = Walk::in_order(CONNECTIONS);
    let mut maker = Front::load(own, &route.handshake()?, walk, 0)?;
    maker.aim_own("pass")?;
    // The second frame of each flow goes to the client.
    place.delivering(2 * u64::from(CONNECTIONS), || {
        maker.measure(place.interfaces.near, 3 * CONNECTIONS, Delivery::LiveSingly)
    })?;
    nftables::expect_tracked(CONNECTIONS)
}

impl Measured {
    fn new(case: Case, own: &[u8], route: &Route) -> Result<Self> {
        let to_vip = [route.client_sends(Segment::Ack)?];
        let to_peer = match case.peer {
            Peer::Routing => [route.client_sends_directly(Segment::Ack)?],
            Peer::Nftables => to_vip.clone(),
        };
        let walk = Walk::of(case.flows);
        Ok(Self {
            case,
            front: Front::load(own, &to_vip, walk, 0)?,
            to_peer: Front::load(own, &to_peer, walk, 0)?,
            ours: Vec::new(),
            peer: Vec::new(),
            generator: Vec::new(),
        })
    }

    fn clear(&mut self) {
        for figures in [&mut self.ours, &mut self.peer, &mut self.generator] {
            figures.clear();
        }
    }

    fn round_of_ours(&mut self, place: &Place, target: &Target, packets: u32) -> Result<()> {
        let near = place.interfaces.near;
        self.front.aim_own("drop")?;
        let generator =
            place.delivering(0, || self.front.measure(near, packets, Delivery::Live))?;
        self.front.aim(target.program()?)?;
        let before = target.counters()?;
        let count = u64::from(packets);
        let ours = place.delivering(count, || self.front.measure(near, packets, Delivery::Live))?;
        let counted = target.counters()?.since(&before);
        counted.expect(Expected::Packets([count, 0]))?;
        self.generator.push(generator);
        self.ours.push(ours);
        Ok(())
    }

    fn round_of_peer(&mut self, place: &Place, packets: u32) -> Result<()> {
        let near = place.interfaces.near;
        self.to_peer.aim_own("pass")?;
        let peer = place.delivering(u64::from(packets), || {
            self.to_peer.measure(near, packets, Delivery::Live)
        })?;
        if self.case.peer == Peer::Nftables {
            nftables::expect_tracked(CONNECTIONS)?;
        }
        self.peer.push(peer);
        Ok(())
    }

    /// The time per frame without that of the generator in the same round.
    fn without_generator(&self, figures: &[f64]) -> Vec<f64> {
        let rounds = figures.iter().zip(&self.generator);
        rounds
            .map(|(figure, generator)| figure - generator)
            .collect()
    }

    /// The least time per frame, without the generator's least.
    fn least(&self, figures: &[f64]) -> f64 {
        minimum(figures) - minimum(&self.generator)
    }
}

fn report(rows: &[Measured]) -> Vec<Row> {
    println!(
        "ns per frame, delivered, less what making it costs (generator: front program, live frames, XDP_DROP).\n\
         ratio: the median over the rounds of the kernel's time to ours in the same round; of min.: the quotient of\n\
         both minima. {CONNECTIONS} connections are there in all rows; the name says how many of them send.\n"
    );
    println!(
        "{:<16} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}   aim",
        "row", "kernel ns", "minimum", "ours ns", "minimum", "generator", "ratio", "of min."
    );
    rows.iter().map(line).collect()
}

/// Prints a row and returns it.
fn line(row: &Measured) -> Row {
    let peer = row.without_generator(&row.peer);
    let ours = row.without_generator(&row.ours);
    let (least_of_peer, least_of_ours) = (row.least(&row.peer), row.least(&row.ours));
    let result = Row {
        suite: "driver",
        row: row.case.name.to_owned(),
        unit: "ns",
        median: median(&peer),
        minimum: least_of_peer,
        reference: median(&ours),
        ratio: median(&ratios(&peer, &ours)),
    };
    println!(
        "{:<16} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>7.2}x {:>7.2}x   {}",
        result.row,
        result.median,
        result.minimum,
        result.reference,
        least_of_ours,
        median(&row.generator),
        result.ratio,
        least_of_peer / least_of_ours,
        Aim::remark(Some(Aim::AtLeast(row.case.aim)), result.ratio),
    );
    result
}

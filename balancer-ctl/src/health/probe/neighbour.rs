//! What the kernel's neighbour table says about a target that has not answered: its next hop is on the link, and does not
//! answer ARP or neighbour discovery; or the table has no room for it.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use netlink_packet_route::neighbour::NeighbourState;
use nix::net::if_::if_nametoindex;

use super::ProbeFailure;
use crate::{
    model::check::Source,
    netlink::{
        Netlink, link,
        neighbour::{self, NextHop},
        neighbour_table::{self, NamespaceKind, NeighbourFamily},
        route::{self, RouteSource},
    },
};

/// Why packets to a target do not leave this host: the state of its next hop's neighbour entry. `None` = they leave, as far
/// as is known.
pub fn first_hop_failure(target: IpAddr, source: &Source) -> Option<ProbeFailure> {
    // A kernel that cannot be asked knows of no failure.
    let mut netlink = Netlink::open().ok()?;
    let hop = next_hop(&mut netlink, target, source)?;
    match neighbour::get(&mut netlink, hop).ok()? {
        Some(entry) => match entry.state {
            NeighbourState::Incomplete | NeighbourState::Failed => Some(unresolved(target, hop.1)),
            _ => None,
        },
        // The kernel makes an entry for whatever it asks for, if it can.
        None => {
            let sentence = full_tables()[usize::from(hop.1.is_ipv6())].take()?;
            let asks = link::asks_neighbours(&mut netlink, hop.0).ok()?;
            asks.then_some(ProbeFailure::Local(sentence))
        }
    }
}

/// Why a target's first hop has no neighbour entry: the kernel's table is full. Costs little while none is.
pub fn full_table(target: IpAddr, source: &Source) -> Option<String> {
    full_tables().iter().flatten().next()?;
    match first_hop_failure(target, source)? {
        ProbeFailure::Local(sentence) => Some(sentence),
        ProbeFailure::Target(_) => None,
    }
}

/// How long the fill of the tables counts as known: one look serves all probes that end together.
const FILL_LASTS: Duration = Duration::from_secs(1);

/// A sentence for each family's table that was full within the last second.
fn full_tables() -> [Option<String>; 2] {
    static LAST: Mutex<Option<(Instant, [Option<String>; 2])>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((read, full)) if read.elapsed() < FILL_LASTS => full.clone(),
        _ => {
            let full = read_full_tables().unwrap_or_default();
            *last = Some((Instant::now(), full.clone()));
            full
        }
    }
}

fn read_full_tables() -> anyhow::Result<[Option<String>; 2]> {
    let mut netlink = Netlink::open()?;
    let tables = neighbour_table::read(&mut netlink)?;
    if !tables.iter().any(|table| table.is_full(0)) {
        return Ok([None, None]);
    }
    let entries = neighbour::list(&mut netlink)?;
    let namespace = NamespaceKind::current();
    Ok(tables.map(|table| {
        let is_v6 = table.family == NeighbourFamily::V6;
        let uncounted = entries
            .iter()
            .filter(|(hop, entry)| hop.1.is_ipv6() == is_v6 && entry.uncounted);
        table.full_sentence(uncounted.count(), namespace)
    }))
}

/// Where packets to a target go, unless it is this host.
fn next_hop(netlink: &mut Netlink, target: IpAddr, source: &Source) -> Option<NextHop> {
    let interface = match &source.interface {
        Some(name) => Some(if_nametoindex(name.as_str()).ok()?),
        None => None,
    };
    let route_source = RouteSource {
        address: source.address,
        interface,
        mark: source.mark,
    };
    let route = route::lookup_from(netlink, target, route_source).ok()?;
    route.next_hop()
}

fn unresolved(target: IpAddr, hop: IpAddr) -> ProbeFailure {
    let question = match hop {
        IpAddr::V4(_) => "arp",
        IpAddr::V6(_) => "neighbour discovery",
    };
    match target == hop {
        true => format!("{target} does not answer {question}").into(),
        false => format!("the gateway {hop} does not answer {question}").into(),
    }
}

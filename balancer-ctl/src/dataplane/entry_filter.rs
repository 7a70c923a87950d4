//! A filter of connections in the representation of a table's entries.

use std::net::{IpAddr, SocketAddr};

use balancer_common::{
    addr::{Addr, Address},
    conntrack::ConntrackEntry,
    real_server::RealServer,
};

use super::{
    mapped_memory::MappedMemory,
    plan::{affinity::mask, tables::address_of},
};
use crate::model::{
    ServiceKey,
    connections::{ClientRef, ConnectionFilter},
};

/// A [`ConnectionFilter`] in the representation of one family's entries (network byte order); a field that is `None`
/// matches all.
#[derive(Debug)]
pub struct EntryFilter<A> {
    client: Option<Clients<A>>,
    vip: Option<(A, Option<u16>)>,
    protocol: Option<u32>,
    /// By real id.
    reals: Option<Vec<bool>>,
    /// The real server's port, and by real id the one that it has.
    real_port: Option<(u16, Vec<u16>)>,
    state: Option<u8>,
}

/// A [`ClientRef`] in the same representation.
#[derive(Debug)]
struct Clients<A> {
    first: A,
    /// The bits in which they equal the first one; `None` = all addresses.
    mask: Option<Addr>,
    port: Option<u16>,
}

impl<A: Address> Clients<A> {
    /// Converts them; `None` where they are of the other family.
    fn of(clients: ClientRef) -> Option<Self> {
        let ClientRef { prefix, port } = clients;
        let whole = if prefix.address.is_ipv4() { 32 } else { 128 };
        Some(Self {
            first: narrow(prefix.address)?,
            mask: (prefix.length > 0).then(|| mask(prefix.length, whole)),
            port: port.map(u16::to_be),
        })
    }

    fn matches(&self, address: A, port: u16) -> bool {
        let mask = self.mask.as_ref();
        mask.is_none_or(|mask| self.first.shares(address, mask))
            && self.port.is_none_or(|wanted| wanted == port)
    }
}

impl<A: Address> EntryFilter<A> {
    /// Converts a filter; `None` where it names an address of the other family.
    pub fn from_filter(
        filter: &ConnectionFilter,
        reals: &MappedMemory<RealServer>,
    ) -> Option<Self> {
        let host = |wanted: Option<(IpAddr, Option<u16>)>| -> Option<Option<(A, Option<u16>)>> {
            let Some((ip, port)) = wanted else {
                return Some(None);
            };
            let port = port.map(u16::to_be);
            Some(Some((narrow::<A>(ip)?, port)))
        };
        let service = filter.service.as_ref();
        let real = host(filter.real)?;
        Some(Self {
            client: match filter.client {
                Some(clients) => Some(Clients::of(clients)?),
                None => None,
            },
            vip: host(service.map(|service| {
                let port = service.address.port();
                (service.address.ip(), (port != 0).then_some(port))
            }))?,
            protocol: service.map(|service| u32::from(service.protocol.number())),
            real_port: real.and_then(|(_, port)| port).map(|port| {
                let ids = 0..reals.count();
                let port_of = |id| reals.read(id).map_or(0, |row| row.port);
                (port, ids.map(port_of).collect())
            }),
            reals: real.map(|(address, _)| {
                let ids = 0..reals.count();
                let is_it = |id| reals.read(id).is_some_and(|row| address.is(&row.address));
                ids.map(is_it).collect()
            }),
            state: filter.state.map(|state| state as u8),
        })
    }

    /// The connections of one real server of a service; `None` where it is of the other family.
    pub fn for_real(
        service: &ServiceKey,
        real: SocketAddr,
        reals: &MappedMemory<RealServer>,
    ) -> Option<Self> {
        let filter = ConnectionFilter {
            service: Some(*service),
            ..ConnectionFilter::default()
        };
        let ids = 0..reals.count();
        let is_it = |id| reals.read(id).is_some_and(|row| address_of(&row) == real);
        Some(Self {
            reals: Some(ids.map(is_it).collect()),
            ..Self::from_filter(&filter, reals)?
        })
    }

    /// Whether an original entry matches.
    pub fn matches(&self, entry: &ConntrackEntry<A>) -> bool {
        let end = |wanted: &Option<(A, Option<u16>)>, address: A, port: u16| {
            wanted.is_none_or(|(ip, wanted)| {
                ip == address && wanted.is_none_or(|wanted| wanted == port)
            })
        };
        // Where a real server has every port, packets keep theirs.
        let has_port = |(port, ports): &(u16, Vec<u16>)| match ports.get(usize::from(entry.real)) {
            None | Some(0) => *port == entry.ports.destination(),
            Some(own) => port == own,
        };
        let is_real = |reals: &Vec<bool>| reals.get(usize::from(entry.real)).is_some_and(|is| *is);
        self.state.is_none_or(|state| state == entry.word.state())
            && self
                .client
                .as_ref()
                .is_none_or(|clients| clients.matches(entry.source, entry.ports.source()))
            && end(&self.vip, entry.destination, entry.ports.destination())
            && self
                .protocol
                .is_none_or(|protocol| protocol == entry.word.protocol())
            && self.real_port.as_ref().is_none_or(has_port)
            && self.reals.as_ref().is_none_or(is_real)
    }
}

/// An address in the form of the family `A`; `None` if it is of the other one.
fn narrow<A: Address>(ip: IpAddr) -> Option<A> {
    let is_of_family = (size_of::<A>() == size_of::<u32>()) == ip.is_ipv4();
    is_of_family.then(|| A::narrow(Addr::from(ip)))
}

//! Lists connections. Raw entries are compared with the filter before they are converted.

use std::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

use aya::Pod;
use balancer_common::{
    addr::{Addr, Address},
    conntrack::{Bucket, ConntrackEntry, idle},
    real_server::RealServer,
    tcp::State,
};

use super::{
    Connection, ConnectionFilter,
    clock::Tick,
    conntrack::{Conntrack, ExpiryClock},
    mapped_memory::MappedMemory,
    table::{EntrySnapshot, EntryTable},
};
use crate::{
    dataplane::plan::tables::address_of,
    model::{Protocol, ServiceKey},
};

/// A [`ConnectionFilter`] in the representation of one family's entries (network byte order); a field that is `None`
/// matches all.
#[derive(Debug)]
pub struct EntryFilter<A> {
    client: Option<(A, Option<u16>)>,
    vip: Option<(A, Option<u16>)>,
    protocol: Option<u32>,
    /// By real id.
    reals: Option<Vec<bool>>,
    real_port: Option<u16>,
    state: Option<u8>,
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
            client: host(filter.client)?,
            vip: host(service.map(|service| {
                let port = service.address.port();
                (service.address.ip(), (port != 0).then_some(port))
            }))?,
            protocol: service.map(|service| u32::from(service.protocol.number())),
            real_port: real.and_then(|(_, port)| port),
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
        let is_real = |reals: &Vec<bool>| reals.get(usize::from(entry.real)).is_some_and(|is| *is);
        self.state.is_none_or(|state| state == entry.word.state())
            && end(&self.client, entry.source, entry.ports.source())
            && end(&self.vip, entry.destination, entry.ports.destination())
            && self
                .protocol
                .is_none_or(|protocol| protocol == entry.word.protocol())
            && self.real_port.is_none_or(|port| port == entry.port)
            && self.reals.as_ref().is_none_or(is_real)
    }
}

/// An address in the form of the family `A`; `None` if it is of the other one.
fn narrow<A: Address>(ip: IpAddr) -> Option<A> {
    let is_of_family = (size_of::<A>() == size_of::<u32>()) == ip.is_ipv4();
    is_of_family.then(|| A::narrow(Addr::from(ip)))
}

/// Reads connections from the tables.
#[derive(Debug)]
pub struct Lister {
    /// The tables.
    pub conntrack: Arc<Conntrack>,
    /// Which connections.
    pub filter: ConnectionFilter,
    /// Converts jiffies.
    pub tick: Tick,
    /// The time and the timeouts by which expired connections are left out.
    pub now: ExpiryClock,
}

impl Lister {
    /// Calls `take` for each connection that matches, until it breaks or the filter's limit is reached.
    pub fn each(&self, take: &mut dyn FnMut(Connection) -> ControlFlow<()>) {
        let mut left = self.filter.limit.unwrap_or(usize::MAX);
        let mut take = |connection| {
            left -= 1;
            let flow = take(connection);
            if left == 0 {
                ControlFlow::Break(())
            } else {
                flow
            }
        };
        if self.filter.limit != Some(0)
            && self
                .list_family(&self.conntrack.v4, &mut take)
                .is_continue()
        {
            let _ = self.list_family(&self.conntrack.v6, &mut take);
        }
    }

    fn list_family<A: Address>(
        &self,
        table: &EntryTable<A>,
        take: &mut dyn FnMut(Connection) -> ControlFlow<()>,
    ) -> ControlFlow<()>
    where
        Bucket<A>: Pod,
    {
        let Some(wanted) = EntryFilter::from_filter(&self.filter, &self.conntrack.reals) else {
            return ControlFlow::Continue(());
        };
        for slot in table.slots(0..table.buckets()) {
            if !slot.word().is_original() {
                continue;
            }
            let found = slot.read().filter(|found| wanted.matches(&found.entry));
            if let Some(connection) = found.and_then(|found| self.connection(table, &found)) {
                take(connection)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The connection of an original entry; `None` if it has expired.
    fn connection<A: Address>(
        &self,
        table: &EntryTable<A>,
        original: &EntrySnapshot<'_, A>,
    ) -> Option<Connection>
    where
        Bucket<A>: Pod,
    {
        let entry = &original.entry;
        let timeout = self.now.timeouts.of(entry.word.state());
        let left = |last_seen| timeout.checked_sub(idle(self.now.jiffies, last_seen));
        let reply = self.conntrack.partner(table, original);
        let reply = reply.and_then(|reply| left(reply.entry.last_seen));
        let left = left(entry.last_seen).max(reply)?;
        let socket = |address: A, port: u16| {
            SocketAddr::new(IpAddr::from(address.widen()), u16::from_be(port))
        };
        let real = self.conntrack.reals.read(usize::from(entry.real))?;
        Some(Connection {
            virtual_address: ServiceKey {
                protocol: if entry.word.is_udp() {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                },
                address: socket(entry.destination, entry.ports.destination()),
            },
            client: socket(entry.source, entry.ports.source()),
            real: SocketAddr::new(IpAddr::from(real.address), u16::from_be(entry.port)),
            state: State::from_number(entry.word.state())?,
            expires_in: self.tick.duration(left),
        })
    }
}

/// A list of connections that is still to be read, in any thread, while the data plane goes on.
pub struct Listing(ReadConnections);

type ReadConnections = Box<dyn FnOnce(&mut dyn FnMut(Connection) -> ControlFlow<()>) + Send>;

impl Listing {
    /// A list that `read` produces.
    pub fn new(
        read: impl FnOnce(&mut dyn FnMut(Connection) -> ControlFlow<()>) + Send + 'static,
    ) -> Self {
        Self(Box::new(read))
    }

    /// Calls `take` for each connection, until it breaks.
    pub fn each(self, mut take: impl FnMut(Connection) -> ControlFlow<()>) {
        (self.0)(&mut take);
    }

    /// Collects all connections.
    #[must_use]
    pub fn all(self) -> Vec<Connection> {
        let mut all = Vec::new();
        self.each(|connection| {
            all.push(connection);
            ControlFlow::Continue(())
        });
        all
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}

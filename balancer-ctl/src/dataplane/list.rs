//! Lists connections: the raw entry is held against the filter before anything is made of it.

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
    memory::Memory,
    table::{Found, Table},
};
use crate::{
    dataplane::plan::tables::address_of,
    model::{Protocol, ServiceKey},
};

/// What is asked of an original entry of one family, in the table's own words; what is `None` is not asked.
#[derive(Debug)]
pub struct Wanted<A> {
    client: Option<(A, Option<u16>)>,
    vip: Option<(A, Option<u16>)>,
    protocol: Option<u32>,
    /// By real id.
    reals: Option<Vec<bool>>,
    real_port: Option<u16>,
    state: Option<u8>,
}

impl<A: Address> Wanted<A> {
    /// Those that match a filter; none where the filter names an address of the other family.
    pub fn by(filter: &ConnectionFilter, reals: &Memory<RealServer>) -> Option<Self> {
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

    /// Those of a service's real server; none where it is of the other family.
    pub fn of_real(
        service: &ServiceKey,
        real: SocketAddr,
        reals: &Memory<RealServer>,
    ) -> Option<Self> {
        let filter = ConnectionFilter {
            service: Some(*service),
            ..ConnectionFilter::default()
        };
        let ids = 0..reals.count();
        let is_it = |id| reals.read(id).is_some_and(|row| address_of(&row) == real);
        Some(Self {
            reals: Some(ids.map(is_it).collect()),
            ..Self::by(&filter, reals)?
        })
    }

    /// Whether an original entry is one of them.
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

/// An address as a family's table has it.
fn narrow<A: Address>(ip: IpAddr) -> Option<A> {
    let is_of_family = (size_of::<A>() == size_of::<u32>()) == ip.is_ipv4();
    is_of_family.then(|| A::narrow(Addr::from(ip)))
}

/// Reads connections out of the tables.
#[derive(Debug)]
pub struct Lister {
    /// The tables.
    pub conntrack: Arc<Conntrack>,
    /// Which connections.
    pub filter: ConnectionFilter,
    /// How long a jiffy is.
    pub tick: Tick,
    /// When.
    pub now: ExpiryClock,
}

impl Lister {
    /// Gives each connection that matches to `take`, until that has enough or there are as many as the filter says.
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
        if self.filter.limit != Some(0) && self.family(&self.conntrack.v4, &mut take).is_continue()
        {
            let _ = self.family(&self.conntrack.v6, &mut take);
        }
    }

    fn family<A: Address>(
        &self,
        table: &Table<A>,
        take: &mut dyn FnMut(Connection) -> ControlFlow<()>,
    ) -> ControlFlow<()>
    where
        Bucket<A>: Pod,
    {
        let Some(wanted) = Wanted::by(&self.filter, &self.conntrack.reals) else {
            return ControlFlow::Continue(());
        };
        for place in table.places(0..table.buckets()) {
            if !place.word().is_original() {
                continue;
            }
            let found = place.read().filter(|found| wanted.matches(&found.entry));
            if let Some(connection) = found.and_then(|found| self.connection(table, &found)) {
                take(connection)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The connection of an original entry, unless it has been idle for too long.
    fn connection<A: Address>(
        &self,
        table: &Table<A>,
        original: &Found<'_, A>,
    ) -> Option<Connection>
    where
        Bucket<A>: Pod,
    {
        let entry = &original.entry;
        let timeout = self.now.timeouts.of(entry.word.state());
        let left = |last_seen| timeout.checked_sub(idle(self.now.jiffies, last_seen));
        let reply = self.conntrack.other(table, original);
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

/// Connections that are still to be read: on a thread that may take its time, whatever becomes of the data plane.
pub struct Listing(Read);

type Read = Box<dyn FnOnce(&mut dyn FnMut(Connection) -> ControlFlow<()>) + Send>;

impl Listing {
    /// Those that `read` gives.
    pub fn new(
        read: impl FnOnce(&mut dyn FnMut(Connection) -> ControlFlow<()>) + Send + 'static,
    ) -> Self {
        Self(Box::new(read))
    }

    /// Gives one after the other to `take`, until that breaks off.
    pub fn each(self, mut take: impl FnMut(Connection) -> ControlFlow<()>) {
        (self.0)(&mut take);
    }

    /// All at once.
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

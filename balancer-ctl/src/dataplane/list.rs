//! Lists connections. Raw entries are compared with the filter before they are converted.

use std::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{Bucket, idle},
    tcp::State,
};

use super::{
    Connection, ConnectionFilter,
    conntrack::{Conntrack, ExpiryClock},
    entry_filter::EntryFilter,
    jiffies::Tick,
    listing::Take,
    table::{EntrySnapshot, EntryTable},
};
use crate::model::{Protocol, ServiceKey};

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
    pub fn each(&self, take: Take<'_, Connection>) {
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
        take: Take<'_, Connection>,
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

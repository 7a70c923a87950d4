//! Lists connections, and closes those that it would list. Raw entries are compared with the filter before they are converted.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{Bucket, idle},
    tcp::{State, has_shown_client},
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

/// How often the tables are gone through at most to close connections.
const CLOSING_PASSES: u32 = 3;

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
    /// Ids of the services in which a hash gives a segment without a connection to a real server.
    pub hashing: HashSet<u32>,
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

    /// Closes each connection that matches, until the filter's limit is reached. Returns how many.
    pub fn close(&self) -> u64 {
        let limit = self.filter.limit.map_or(u64::MAX, |limit| limit as u64);
        let mut closed = 0;
        // Again, since a connection whose entry moved meanwhile was missed; not for ever, since clients open new ones.
        for _ in 0..CLOSING_PASSES {
            let before = closed;
            let flow = self.close_family(&self.conntrack.v4, limit, &mut closed);
            if flow.is_continue() {
                let _ = self.close_family(&self.conntrack.v6, limit, &mut closed);
            }
            if closed == before || closed == limit {
                break;
            }
        }
        closed
    }

    fn close_family<A: Address>(
        &self,
        table: &EntryTable<A>,
        limit: u64,
        closed: &mut u64,
    ) -> ControlFlow<()>
    where
        Bucket<A>: Pod,
    {
        self.each_original(table, |wanted, original| {
            if *closed == limit {
                return ControlFlow::Break(());
            }
            let mut found = Some(original);
            while let Some(original) = found.filter(|found| wanted.matches(&found.entry)) {
                if self.connection(table, &original).is_none() {
                    break;
                }
                if self.end(table, &original) {
                    *closed += 1;
                    break;
                }
                // Its state changed meanwhile, or it is gone.
                found = original.reread();
            }
            ControlFlow::Continue(())
        })
    }

    /// Ends the connection of an original entry, unless the entry changed since it was read; returns whether it did. Where the client's
    /// next segment would open the connection again, the entry stays until that has come.
    fn end<A: Address>(&self, table: &EntryTable<A>, original: &EntrySnapshot<'_, A>) -> bool
    where
        Bucket<A>: Pod,
    {
        let (word, real) = (original.entry.word, usize::from(original.entry.real));
        let real = self.conntrack.reals.read(real);
        let hashes = real.is_some_and(|real| self.hashing.contains(&real.service));
        if hashes && !word.is_udp() && has_shown_client(word.state()) {
            return original.slot.compare_exchange(word, word.ended());
        }
        let reply = self.conntrack.partner(table, original);
        self.conntrack
            .end_connection(table, original, reply.as_ref())
    }

    fn list_family<A: Address>(
        &self,
        table: &EntryTable<A>,
        take: Take<'_, Connection>,
    ) -> ControlFlow<()>
    where
        Bucket<A>: Pod,
    {
        self.each_original(table, |_, original| {
            match self.connection(table, &original) {
                Some(connection) => take(connection),
                None => ControlFlow::Continue(()),
            }
        })
    }

    /// Passes each original entry of a family that matches to `take`, until that breaks.
    fn each_original<'a, A: Address>(
        &self,
        table: &'a EntryTable<A>,
        mut take: impl FnMut(&EntryFilter<A>, EntrySnapshot<'a, A>) -> ControlFlow<()>,
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
            if let Some(found) = slot.read().filter(|found| wanted.matches(&found.entry)) {
                take(&wanted, found)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The connection of an original entry; `None` if it has expired, or the operator has ended it.
    fn connection<A: Address>(
        &self,
        table: &EntryTable<A>,
        original: &EntrySnapshot<'_, A>,
    ) -> Option<Connection>
    where
        Bucket<A>: Pod,
    {
        let entry = &original.entry;
        if entry.word.is_ended() {
            return None;
        }
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
            real: SocketAddr::new(
                IpAddr::from(real.address),
                u16::from_be(real.port_of(entry.ports.destination())),
            ),
            source: entry.word.is_full_nat().then(|| {
                let address: A = self.conntrack.snat_address(entry.word);
                socket(address, entry.port)
            }),
            state: State::from_number(entry.word.state())?,
            expires_in: self.tick.duration(left),
        })
    }
}

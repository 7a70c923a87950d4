//! What the connection tables hold: walks over both families and over the half-open records.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{ConntrackEntry, FlowKey, Timeouts, direction},
    half_open::HalfOpen,
    real_server::RealServer,
    stats::RealStats,
    tcp::State,
};

use super::{
    Connection, ConnectionFilter, Counters,
    clock::Tick,
    expiry::delete_pair,
    maps::Maps,
    settings::SettingsRow,
    table::{Table, Walk},
};
use crate::{
    model::{Protocol, ServiceKey},
    plan::tables::address_of,
};

/// Rows read in one call.
pub const CHUNK: u32 = 1 << 14;

/// Connections by real id: `[active, inactive]`.
pub type Census = Vec<[u64; 2]>;

/// Counts the connections of every real server that have rows.
pub fn count(maps: &Maps, reals: usize, now: u32, timeouts: &Timeouts) -> io::Result<Census> {
    let mut census = vec![[0; 2]; reals];
    count_rows(&maps.conntrack_v4, &mut census, now, timeouts)?;
    count_rows(&maps.conntrack_v6, &mut census, now, timeouts)?;
    Ok(census)
}

/// Adds the handshakes under way.
pub fn add_half_open(
    maps: &Maps,
    census: &mut Census,
    now: u32,
    timeouts: &Timeouts,
) -> io::Result<()> {
    half_open(maps, now, timeouts, |record| {
        if let Some(counts) = census.get_mut(record.real_id as usize) {
            counts[1] += 1;
        }
    })
}

fn count_rows<A>(
    table: &Table<FlowKey<A>, ConntrackEntry<A>>,
    census: &mut Census,
    now: u32,
    timeouts: &Timeouts,
) -> io::Result<()>
where
    A: Address,
    FlowKey<A>: Pod,
    ConntrackEntry<A>: Pod,
{
    let mut walk = Walk::new(CHUNK);
    while let Some(batch) = walk.next(table)? {
        let mut idle = Vec::new();
        for (key, row) in batch.filter(|(_, row)| row.direction == direction::ORIGINAL) {
            if row.is_expired(now, timeouts) {
                idle.push((key, row));
            } else {
                count_row(census, &row);
            }
        }
        // Spent, unless the other direction is not.
        for (key, row) in idle {
            if partner(table, &key, &row)?.is_some_and(|other| !other.is_expired(now, timeouts)) {
                count_row(census, &row);
            }
        }
    }
    Ok(())
}

/// Counts the connection of an original row.
pub fn count_row<A>(census: &mut Census, row: &ConntrackEntry<A>) {
    if let Some(counts) = census.get_mut(row.real as usize) {
        counts[usize::from(row.state != State::Established as u8)] += 1;
    }
}

/// The row of the other direction, if it belongs to the same connection.
pub fn partner<A>(
    table: &Table<FlowKey<A>, ConntrackEntry<A>>,
    key: &FlowKey<A>,
    row: &ConntrackEntry<A>,
) -> io::Result<Option<ConntrackEntry<A>>>
where
    A: Address,
    FlowKey<A>: Pod,
    ConntrackEntry<A>: Pod,
{
    let mut other_key = *key;
    row.translation.reply_key(key.protocol, &mut other_key);
    let other = table.get(&other_key)?;
    Ok(other.filter(|other| other.direction != row.direction && other.translation.answers(key)))
}

/// Deletes the connections that `is_to_go` says, by the connection and its real id. Returns how many.
pub fn purge(
    maps: &Maps,
    settings: &SettingsRow,
    is_to_go: impl Fn(&Connection, u32) -> bool,
) -> io::Result<u64> {
    let v4 = purge_rows(&maps.conntrack_v4, settings, &is_to_go)?;
    Ok(v4 + purge_rows(&maps.conntrack_v6, settings, &is_to_go)?)
}

fn purge_rows<A>(
    table: &Table<FlowKey<A>, ConntrackEntry<A>>,
    settings: &SettingsRow,
    is_to_go: &impl Fn(&Connection, u32) -> bool,
) -> io::Result<u64>
where
    A: Address,
    FlowKey<A>: Pod,
    ConntrackEntry<A>: Pod,
{
    let mut walk = Walk::new(CHUNK);
    let mut purged = 0;
    while let Some(batch) = walk.next(table)? {
        let originals = batch.filter(|(_, row)| row.direction == direction::ORIGINAL);
        let doomed =
            originals.filter(|(key, row)| of_row(key, row).is_some_and(|c| is_to_go(&c, row.real)));
        let mut removed = 0;
        for (key, row) in doomed {
            removed += u64::from(delete_pair(table, &key, &row)?);
        }
        settings.update(|settings| {
            settings.removed_by_daemon = settings.removed_by_daemon.wrapping_add(removed);
        })?;
        purged += removed;
    }
    Ok(purged)
}

/// Calls `f` with every handshake under way.
pub fn half_open(
    maps: &Maps,
    now: u32,
    timeouts: &Timeouts,
    mut f: impl FnMut(&HalfOpen),
) -> io::Result<()> {
    let mut walk = Walk::new(1 << 12);
    while let Some(batch) = walk.next(&maps.half_open)? {
        for (_, bucket) in batch {
            for record in &bucket.records {
                if record.is_under_way() && record.is_live(now, timeouts.half_open) {
                    f(record);
                }
            }
        }
    }
    Ok(())
}

/// Adds counters up.
pub fn sum(stats: &[RealStats]) -> RealStats {
    stats.iter().fold(RealStats::default(), |mut sum, one| {
        for (sum, one) in sum.directions.iter_mut().zip(&one.directions) {
            sum.packets = sum.packets.wrapping_add(one.packets);
            sum.bytes = sum.bytes.wrapping_add(one.bytes);
        }
        sum.connections = sum.connections.wrapping_add(one.connections);
        sum
    })
}

/// Counters in the daemon's words.
pub const fn counters(stats: &RealStats) -> Counters {
    let [original, reply] = stats.directions;
    Counters {
        connections: stats.connections,
        packets_in: original.packets,
        bytes_in: original.bytes,
        packets_out: reply.packets,
        bytes_out: reply.bytes,
    }
}

/// Lists connections.
#[derive(Debug)]
pub struct Lister {
    pub maps: Arc<Maps>,
    pub filter: ConnectionFilter,
    pub tick: Tick,
    pub now: u32,
    pub timeouts: Timeouts,
}

impl Lister {
    /// The connections that match, at most as many as the filter says.
    pub fn list(&self) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        half_open(&self.maps, self.now, &self.timeouts, |record| {
            if let Some(connection) = self.of_record(record) {
                self.add(&mut connections, connection);
            }
        })?;
        self.rows(&self.maps.conntrack_v4, &mut connections)?;
        self.rows(&self.maps.conntrack_v6, &mut connections)?;
        Ok(connections)
    }

    fn is_full(&self, connections: &[Connection]) -> bool {
        self.filter
            .limit
            .is_some_and(|limit| connections.len() >= limit)
    }

    fn add(&self, connections: &mut Vec<Connection>, connection: Connection) {
        if !self.is_full(connections) && matches(&self.filter, &connection) {
            connections.push(connection);
        }
    }

    fn rows<A>(
        &self,
        table: &Table<FlowKey<A>, ConntrackEntry<A>>,
        out: &mut Vec<Connection>,
    ) -> io::Result<()>
    where
        A: Address,
        FlowKey<A>: Pod,
        ConntrackEntry<A>: Pod,
    {
        let mut walk = Walk::new(CHUNK);
        while !self.is_full(out)
            && let Some(batch) = walk.next(table)?
        {
            let originals: Vec<_> = batch
                .filter(|(_, row)| row.direction == direction::ORIGINAL)
                .collect();
            for (key, row) in originals {
                if self.is_full(out) {
                    break;
                }
                let Some(mut connection) = of_row(&key, &row) else {
                    continue;
                };
                if !matches(&self.filter, &connection) {
                    continue;
                }
                let mut left = self.left(row.last_seen, row.state);
                if let Some(other) = partner(table, &key, &row)? {
                    left = left.max(self.left(other.last_seen, row.state));
                }
                if let Some(left) = left {
                    connection.expires_in = self.tick.duration(left);
                    out.push(connection);
                }
            }
        }
        Ok(())
    }

    /// Jiffies until a row expires; none when it has.
    fn left(&self, last_seen: u32, state: u8) -> Option<u32> {
        let idle = (self.now.wrapping_sub(last_seen) as i32).max(0);
        u32::try_from(self.timeouts.of(state) as i32 - idle).ok()
    }

    fn of_record(&self, record: &HalfOpen) -> Option<Connection> {
        let socket = |address: balancer_common::addr::Addr, port: u16| {
            SocketAddr::new(IpAddr::from(address), u16::from_be(port))
        };
        Some(Connection {
            virtual_address: ServiceKey {
                protocol: Protocol::Tcp,
                address: socket(record.vip, record.vip_port),
            },
            client: socket(record.client, record.client_port),
            real: socket(record.real, record.real_port),
            state: State::from_number(record.state)?,
            expires_in: self
                .tick
                .duration(self.left(record.last_seen, record.state)?),
        })
    }
}

/// The connection of an original row.
pub fn of_row<A: Address>(key: &FlowKey<A>, row: &ConntrackEntry<A>) -> Option<Connection> {
    let socket =
        |address: A, port: u16| SocketAddr::new(IpAddr::from(address.widen()), u16::from_be(port));
    let protocol = if key.protocol == u32::from(balancer_common::addr::TCP) {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    Some(Connection {
        virtual_address: ServiceKey {
            protocol,
            address: socket(key.destination, key.destination_port),
        },
        client: socket(key.source, key.source_port),
        real: socket(
            row.translation.destination,
            row.translation.destination_port,
        ),
        state: State::from_number(row.state)?,
        expires_in: std::time::Duration::ZERO,
    })
}

/// Whether a connection is to be listed.
fn matches(filter: &ConnectionFilter, connection: &Connection) -> bool {
    let end = |wanted: &Option<(IpAddr, Option<u16>)>, found: SocketAddr| {
        wanted.is_none_or(|(ip, port)| {
            ip == found.ip() && port.is_none_or(|port| port == found.port())
        })
    };
    let of_service = |service: &ServiceKey| {
        let found = &connection.virtual_address;
        let port = service.address.port();
        service.protocol == found.protocol
            && service.address.ip() == found.address.ip()
            && (port == 0 || port == found.address.port())
    };
    end(&filter.client, connection.client)
        && end(&filter.real, connection.real)
        && filter.service.as_ref().is_none_or(of_service)
        && filter.state.is_none_or(|state| state == connection.state)
}

/// Whether a connection belongs to a service and one of its real servers; `known` is what stands under the row's
/// real id.
pub fn belongs(
    connection: &Connection,
    service: &ServiceKey,
    real: SocketAddr,
    known: Option<&RealServer>,
) -> bool {
    let filter = ConnectionFilter {
        service: Some(*service),
        ..ConnectionFilter::default()
    };
    matches(&filter, connection) && known.map(address_of) == Some(real)
}

#[cfg(test)]
mod tests {
    use balancer_common::stats::Traffic;

    use super::*;

    #[test]
    fn counters_of_all_cpus_add_up() {
        let one = RealStats {
            directions: [
                Traffic {
                    packets: 1,
                    bytes: 100,
                },
                Traffic {
                    packets: 2,
                    bytes: 200,
                },
            ],
            connections: 3,
        };
        assert_eq!(
            counters(&sum(&[one, RealStats::default(), one])),
            Counters {
                connections: 6,
                packets_in: 2,
                bytes_in: 200,
                packets_out: 4,
                bytes_out: 400
            }
        );
    }

    #[test]
    fn filters_match_what_they_name() {
        let connection = Connection {
            virtual_address: ServiceKey {
                protocol: Protocol::Tcp,
                address: "192.0.2.80:80".parse().unwrap(),
            },
            client: "198.51.100.10:40000".parse().unwrap(),
            real: "192.168.0.2:8080".parse().unwrap(),
            state: State::Established,
            expires_in: std::time::Duration::ZERO,
        };
        let service = |text: &str, protocol| {
            Some(ServiceKey {
                protocol,
                address: text.parse().unwrap(),
            })
        };
        let all = ConnectionFilter::default();
        let client: IpAddr = "198.51.100.10".parse().unwrap();
        for (filter, expected) in [
            (all.clone(), true),
            (
                ConnectionFilter {
                    client: Some((client, None)),
                    ..all.clone()
                },
                true,
            ),
            (
                ConnectionFilter {
                    client: Some((client, Some(40_000))),
                    ..all.clone()
                },
                true,
            ),
            (
                ConnectionFilter {
                    client: Some((client, Some(1))),
                    ..all.clone()
                },
                false,
            ),
            (
                ConnectionFilter {
                    real: Some((client, None)),
                    ..all.clone()
                },
                false,
            ),
            (
                ConnectionFilter {
                    service: service("192.0.2.80:80", Protocol::Tcp),
                    ..all.clone()
                },
                true,
            ),
            (
                ConnectionFilter {
                    service: service("192.0.2.80:0", Protocol::Tcp),
                    ..all.clone()
                },
                true,
            ),
            (
                ConnectionFilter {
                    service: service("192.0.2.80:80", Protocol::Udp),
                    ..all.clone()
                },
                false,
            ),
            (
                ConnectionFilter {
                    service: service("192.0.2.80:81", Protocol::Tcp),
                    ..all.clone()
                },
                false,
            ),
            (
                ConnectionFilter {
                    state: Some(State::Closing),
                    ..all.clone()
                },
                false,
            ),
        ] {
            assert_eq!(matches(&filter, &connection), expected, "{filter:?}");
        }
    }
}

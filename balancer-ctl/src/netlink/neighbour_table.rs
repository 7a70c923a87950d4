//! How many neighbour entries the kernel holds, and how many it takes. There is one table for each family, shared by all
//! network namespaces of the machine; its limits can be read everywhere and set in the first namespace only.

use std::{io, path::Path};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage},
};

use super::Netlink;

/// Most next hops that are being resolved at a time: they take about three seconds each, so this is also about how many
/// requests leave a second while none answers.
const MOST_AT_A_TIME: usize = 256;
/// So many are tried also while the table is full: the kernel makes room by dropping what is unused.
const LEAST_AT_A_TIME: usize = 8;
/// The part of what is free in the table that unresolved entries may take.
const PART_OF_FREE: usize = 4;

/// Whose addresses a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 (ARP).
    V4,
    /// IPv6 (neighbour discovery).
    V6,
}

/// One family's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose.
    pub family: Family,
    /// Entries of all namespaces.
    pub entries: usize,
    /// Most entries (`gc_thresh3`).
    pub most: usize,
}

impl Table {
    /// What a kernel has unless it was told otherwise.
    const fn usual(family: Family) -> Self {
        Self {
            family,
            entries: 0,
            most: 1024,
        }
    }

    /// How many entries may be unresolved at a time, where `unresolved` are and `permanent` ones, set by hand, do not count
    /// against the limit.
    #[must_use]
    pub fn budget(&self, unresolved: usize, permanent: usize) -> usize {
        let taken = self.entries.saturating_sub(unresolved + permanent);
        let free = self.most.saturating_sub(taken);
        (free / PART_OF_FREE).clamp(LEAST_AT_A_TIME, MOST_AT_A_TIME)
    }

    /// What is wrong where `hops` next hops of ours do not fit beside `others`, entries that are not ours. Those count for half
    /// of the table at most: they come and go.
    #[must_use]
    pub fn too_small(&self, hops: usize, others: usize, place: Namespace) -> Option<String> {
        let wanted = hops + others.min(self.most / 2);
        if wanted <= self.most {
            return None;
        }
        let (name, key) = match self.family {
            Family::V4 => ("IPv4", "ipv4"),
            Family::V6 => ("IPv6", "ipv6"),
        };
        let needed = (wanted + wanted / 4).next_power_of_two();
        let enter = match place {
            Namespace::First => "",
            Namespace::Other => "nsenter --net=/proc/1/ns/net ",
        };
        Some(format!(
            "packets to real servers and gateways need {hops} {name} neighbours, and this machine's table holds {}: packets to the \
             others take the slower way through the kernel, and other addresses may not be found: {enter}sysctl -w \
             net.{key}.neigh.default.gc_thresh3={needed}",
            self.most
        ))
    }
}

/// In which network namespace this is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The machine's first, where the limits can be set.
    First,
    /// Another.
    Other,
}

impl Namespace {
    /// The calling thread's.
    #[must_use]
    pub fn current() -> Self {
        if Path::new("/proc/sys/net/ipv4/neigh/default/gc_thresh3").exists() {
            Self::First
        } else {
            Self::Other
        }
    }
}

/// The tables of IPv4 and IPv6.
///
/// # Errors
/// The kernel refused.
pub fn read(netlink: &mut Netlink) -> io::Result<[Table; 2]> {
    let mut tables = [Table::usual(Family::V4), Table::usual(Family::V6)];
    let request = RouteNetlinkMessage::GetNeighbourTable(NeighbourTableMessage::default());
    for answer in netlink.dump(request)? {
        let RouteNetlinkMessage::NewNeighbourTable(message) = answer else {
            continue;
        };
        let table = match message.header.family {
            AddressFamily::Inet => &mut tables[0],
            AddressFamily::Inet6 => &mut tables[1],
            _ => continue,
        };
        // A message about one interface's parameters holds none of these.
        for attribute in message.attributes {
            match attribute {
                NeighbourTableAttribute::Threshold3(value) => table.most = value as usize,
                NeighbourTableAttribute::Config(config) => table.entries = config.entries as usize,
                _ => {}
            }
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unresolved_entries_take_a_part_of_what_is_free() {
        let table = |entries, most| Table {
            entries,
            most,
            ..Table::usual(Family::V4)
        };
        for (table, unresolved, permanent, budget) in [
            (table(0, 1024), 0, 0, 256),
            (table(424, 1024), 0, 0, 150),
            // Those that are unresolved already are part of the budget.
            (table(424, 1024), 100, 0, 175),
            (table(2424, 1024), 0, 2000, 150),
            (table(1024, 1024), 0, 0, 8),
            (table(5000, 1024), 0, 0, 8),
            (table(10, 1 << 20), 0, 0, 256),
        ] {
            assert_eq!(table.budget(unresolved, permanent), budget, "{table:?}");
        }
    }

    #[test]
    fn a_table_that_is_too_small_is_told_with_the_value_needed() {
        let table = Table::usual(Family::V4);
        for (hops, others) in [(1024, 0), (1000, 24), (512, 5000)] {
            assert_eq!(table.too_small(hops, others, Namespace::First), None);
        }
        assert_eq!(
            table.too_small(10_000, 3, Namespace::First).unwrap(),
            "packets to real servers and gateways need 10000 IPv4 neighbours, and this machine's table holds 1024: packets to the \
             others take the slower way through the kernel, and other addresses may not be found: sysctl -w \
             net.ipv4.neigh.default.gc_thresh3=16384"
        );
        let elsewhere = Table::usual(Family::V6).too_small(1020, 5, Namespace::Other);
        let elsewhere = elsewhere.unwrap();
        assert!(
            elsewhere.ends_with(
                ": nsenter --net=/proc/1/ns/net sysctl -w net.ipv6.neigh.default.gc_thresh3=2048"
            ),
            "{elsewhere}"
        );
    }
}

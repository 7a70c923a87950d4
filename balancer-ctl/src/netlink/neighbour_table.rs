//! Fill and limit of the kernel's neighbour tables. There is one table per family, shared by all network namespaces of
//! the machine; its limits can be read in every namespace, and set in the initial one only.

use std::{io, path::Path};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage},
};

use super::Netlink;

/// The most next hops that are being resolved at a time. Each takes about three seconds and three requests, so this is
/// also about the number of requests per second while none answers.
const MAX_UNRESOLVED: usize = 256;
/// So many are probed even while the table is full: the kernel makes room by dropping unused entries.
const MIN_UNRESOLVED: usize = 8;
/// Unresolved entries may take the table's free entries divided by this.
const FREE_DIVISOR: usize = 4;

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourFamily {
    /// IPv4 (ARP).
    V4,
    /// IPv6 (neighbour discovery).
    V6,
}

/// One family's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourTable {
    /// Its address family.
    pub family: NeighbourFamily,
    /// Present entries of all namespaces.
    pub entries: usize,
    /// The limit of entries (`gc_thresh3`).
    pub max_entries: usize,
}

impl NeighbourTable {
    /// An empty table with the kernel's default limit.
    const fn kernel_default(family: NeighbourFamily) -> Self {
        Self {
            family,
            entries: 0,
            max_entries: 1024,
        }
    }

    /// How many entries may be unresolved at a time. `unresolved` is their present number, and `uncounted` that of
    /// entries which do not count against the limit.
    #[must_use]
    pub fn budget(&self, unresolved: usize, uncounted: usize) -> usize {
        let taken = self.entries.saturating_sub(unresolved + uncounted);
        let free = self.max_entries.saturating_sub(taken);
        (free / FREE_DIVISOR).clamp(MIN_UNRESOLVED, MAX_UNRESOLVED)
    }

    /// A warning when `hops` next hops of ours do not fit beside `others` entries that are not ours. The others count
    /// for half of the table at most, since they come and go.
    #[must_use]
    pub fn capacity_warning(
        &self,
        hops: usize,
        others: usize,
        namespace: NamespaceKind,
    ) -> Option<String> {
        let wanted = hops + others.min(self.max_entries / 2);
        if wanted <= self.max_entries {
            return None;
        }
        let needed = (wanted + wanted / 4).next_power_of_two();
        Some(format!(
            "packets to real servers and gateways need {hops} {} neighbours, and this machine's table holds {}: packets to the \
             others take the slower way through the kernel, and other addresses may not be found: {}",
            self.family_name(),
            self.max_entries,
            self.limit_command(needed, namespace)
        ))
    }

    /// Whether it has no room for another entry, or had none a moment ago: less than a sixteenth of it is free. `uncounted`
    /// entries do not count against the limit.
    #[must_use]
    pub const fn is_full(&self, uncounted: usize) -> bool {
        self.entries.saturating_sub(uncounted) >= self.max_entries - self.max_entries / 16
    }

    /// A sentence if the table is full.
    #[must_use]
    pub fn full_sentence(&self, uncounted: usize, namespace: NamespaceKind) -> Option<String> {
        let needed = self.max_entries.saturating_mul(2).next_power_of_two();
        self.is_full(uncounted).then(|| {
            format!(
                "this machine's table of {} neighbours is full ({} entries): {}",
                self.family_name(),
                self.max_entries,
                self.limit_command(needed, namespace)
            )
        })
    }

    const fn family_name(&self) -> &'static str {
        match self.family {
            NeighbourFamily::V4 => "IPv4",
            NeighbourFamily::V6 => "IPv6",
        }
    }

    /// The command that sets the limit.
    fn limit_command(&self, max_entries: usize, namespace: NamespaceKind) -> String {
        let enter = match namespace {
            NamespaceKind::First => "",
            NamespaceKind::Other => "nsenter --net=/proc/1/ns/net ",
        };
        let key = match self.family {
            NeighbourFamily::V4 => "ipv4",
            NeighbourFamily::V6 => "ipv6",
        };
        format!("{enter}sysctl -w net.{key}.neigh.default.gc_thresh3={max_entries}")
    }
}

/// Kind of network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// The initial one, where the limits can be set.
    First,
    /// Another.
    Other,
}

impl NamespaceKind {
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

/// Reads the tables of IPv4 and IPv6.
///
/// # Errors
/// The kernel refused.
pub fn read(netlink: &mut Netlink) -> io::Result<[NeighbourTable; 2]> {
    let mut tables = [
        NeighbourTable::kernel_default(NeighbourFamily::V4),
        NeighbourTable::kernel_default(NeighbourFamily::V6),
    ];
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
                NeighbourTableAttribute::Threshold3(value) => table.max_entries = value as usize,
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
        let table = |entries, max_entries| NeighbourTable {
            entries,
            max_entries,
            ..NeighbourTable::kernel_default(NeighbourFamily::V4)
        };
        for (table, unresolved, uncounted, budget) in [
            (table(0, 1024), 0, 0, 256),
            (table(424, 1024), 0, 0, 150),
            // Those that are unresolved already are part of the budget.
            (table(424, 1024), 100, 0, 175),
            (table(2424, 1024), 0, 2000, 150),
            (table(1024, 1024), 0, 0, 8),
            (table(5000, 1024), 0, 0, 8),
            (table(10, 1 << 20), 0, 0, 256),
        ] {
            assert_eq!(table.budget(unresolved, uncounted), budget, "{table:?}");
        }
    }

    #[test]
    fn a_full_table_is_reported_with_twice_its_limit() {
        let table = |entries| NeighbourTable {
            entries,
            ..NeighbourTable::kernel_default(NeighbourFamily::V6)
        };
        assert_eq!(table(959).full_sentence(0, NamespaceKind::First), None);
        assert_eq!(table(5000).full_sentence(4041, NamespaceKind::First), None);
        assert_eq!(
            table(5000).full_sentence(4040, NamespaceKind::First),
            table(960).full_sentence(0, NamespaceKind::First)
        );
        assert_eq!(
            table(960).full_sentence(0, NamespaceKind::First).unwrap(),
            "this machine's table of IPv6 neighbours is full (1024 entries): \
             sysctl -w net.ipv6.neigh.default.gc_thresh3=2048"
        );
        assert!(
            table(1024)
                .full_sentence(0, NamespaceKind::Other)
                .unwrap()
                .contains(": nsenter --net=/proc/1/ns/net sysctl -w ")
        );
    }

    #[test]
    fn a_table_that_is_too_small_is_reported_with_the_value_needed() {
        let table = NeighbourTable::kernel_default(NeighbourFamily::V4);
        for (hops, others) in [(1024, 0), (1000, 24), (512, 5000)] {
            assert_eq!(
                table.capacity_warning(hops, others, NamespaceKind::First),
                None
            );
        }
        assert_eq!(
            table
                .capacity_warning(10_000, 3, NamespaceKind::First)
                .unwrap(),
            "packets to real servers and gateways need 10000 IPv4 neighbours, and this machine's table holds 1024: packets to the \
             others take the slower way through the kernel, and other addresses may not be found: sysctl -w \
             net.ipv4.neigh.default.gc_thresh3=16384"
        );
        let elsewhere = NeighbourTable::kernel_default(NeighbourFamily::V6).capacity_warning(
            1020,
            5,
            NamespaceKind::Other,
        );
        let elsewhere = elsewhere.unwrap();
        assert!(
            elsewhere.ends_with(
                ": nsenter --net=/proc/1/ns/net sysctl -w net.ipv6.neigh.default.gc_thresh3=2048"
            ),
            "{elsewhere}"
        );
    }
}

//! The maps of this host's own addresses and of its networks' broadcast addresses: the packet program drops packets
//! from outside that have them as their source. Two threads write them: the data plane's owner and the watch thread.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use balancer_common::{
    addr::Addr,
    address_filter::{WORDS, bit_of},
    host_address::HostPrefix,
};

use super::map::Map;
use crate::{
    model::prefix::Prefix,
    netlink::{
        Netlink,
        local::{self, LocalRoute},
    },
};

/// Handle of both maps, shared between threads.
#[derive(Clone, Debug)]
pub struct HostAddresses(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    addresses: Map<HostPrefix, u32>,
    filter: Map<u32, u64>,
    /// The prefixes that both maps hold.
    written: BTreeSet<HostPrefix>,
}

impl HostAddresses {
    /// Reads what the maps pinned in `directory` hold.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let addresses = Map::<HostPrefix, u32>::open(directory, "HOST_ADDRESSES")?;
        let written = addresses
            .all()
            .context("cannot read the host's addresses")?
            .into_iter()
            .map(|(prefix, _)| prefix)
            .collect();
        Ok(Self(Arc::new(Mutex::new(Inner {
            addresses,
            filter: Map::open(directory, "HOST_FILTER")?,
            written,
        }))))
    }

    /// Makes the maps match the kernel's present local and broadcast routes.
    ///
    /// # Errors
    /// The kernel refused to list the routes or a map call, or there are more addresses than the map holds.
    pub fn refresh(&self, netlink: &mut Netlink) -> anyhow::Result<()> {
        let routes = local::list(netlink).context("cannot list the host's addresses")?;
        self.lock().write(wanted(&routes))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A writer that panicked has left an older set, which the next refresh replaces.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, wanted: BTreeSet<HostPrefix>) -> anyhow::Result<()> {
        if wanted == self.written {
            return Ok(());
        }
        ensure!(
            wanted.len() <= self.addresses.capacity() as usize,
            "this host has {} addresses, and the table of sources to refuse holds {}",
            wanted.len(),
            self.addresses.capacity()
        );
        // The packet program needs both the entry and the filter's bit: entries are written first and deleted last.
        for prefix in wanted.difference(&self.written) {
            self.addresses
                .set(prefix, &1)
                .context("cannot write the host's addresses")?;
        }
        let words: Vec<_> = (0..WORDS).zip(filter(&wanted)).collect();
        self.filter
            .set_many(&words)
            .context("cannot write the filter of the host's addresses")?;
        for prefix in self.written.difference(&wanted) {
            self.addresses
                .delete(prefix)
                .context("cannot delete one of the host's addresses")?;
        }
        self.written = wanted;
        Ok(())
    }
}

/// The prefixes of these routes. Loopback is left out: it is refused as a source without a table. So are link-local
/// addresses: each is this host's on one link only, and a router of another may have the same.
fn wanted(routes: &[LocalRoute]) -> BTreeSet<HostPrefix> {
    let prefixes = routes.iter().map(|route| route.prefix);
    let is_link_local = |address| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    prefixes
        .filter(|prefix| !prefix.address.is_loopback() && !is_link_local(prefix.address))
        .map(host_prefix)
        .collect()
}

/// The map's key for a prefix.
fn host_prefix(prefix: Prefix) -> HostPrefix {
    let before = if prefix.address.is_ipv4() { 96 } else { 0 };
    HostPrefix {
        length: before + u32::from(prefix.length),
        address: Addr::from(prefix.address),
    }
}

/// The filter with the bits of all addresses in these prefixes.
fn filter(prefixes: &BTreeSet<HostPrefix>) -> Vec<u64> {
    if prefixes.iter().any(|prefix| prefix.length < 128) {
        return vec![u64::MAX; WORDS as usize];
    }
    let mut words = vec![0; WORDS as usize];
    for prefix in prefixes {
        let bit = bit_of(IpAddr::from(prefix.address));
        if let Some(word) = words.get_mut(bit.word as usize) {
            *word |= bit.mask;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::local::Kind;

    fn routes(prefixes: &[(&str, u8)]) -> Vec<LocalRoute> {
        prefixes
            .iter()
            .map(|(address, length)| LocalRoute {
                prefix: Prefix::of(address.parse().unwrap(), *length),
                kind: Kind::Local,
            })
            .collect()
    }

    #[test]
    fn an_address_has_its_bit_and_a_prefix_has_them_all() {
        let addresses = wanted(&routes(&[
            ("127.0.0.0", 8),
            ("::1", 128),
            ("192.0.2.1", 32),
            ("169.254.0.1", 32),
            ("fd00::1", 128),
            ("fe80::1", 128),
        ]));
        let address = |text: &str| HostPrefix {
            length: 128,
            address: Addr::from(text.parse::<IpAddr>().unwrap()),
        };
        assert_eq!(
            addresses,
            BTreeSet::from([address("192.0.2.1"), address("fd00::1")])
        );
        let words = filter(&addresses);
        let has = |words: &[u64], address: &str| {
            let bit = bit_of(address.parse().unwrap());
            words[bit.word as usize] & bit.mask != 0
        };
        assert!(has(&words, "192.0.2.1") && has(&words, "fd00::1"));
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 2);

        let prefix = wanted(&routes(&[("198.51.100.0", 24)]));
        assert_eq!(
            prefix.first().map(|prefix| prefix.length),
            Some(96 + 24),
            "IPv4 in its 16-byte form"
        );
        assert!(has(&filter(&prefix), "198.51.100.77") && has(&filter(&prefix), "10.0.0.1"));
    }
}

//! Other ways to choose among real servers than by turns.

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap};
use balancer_common::{
    addr::{Addr, TCP},
    load::{Measure, RealLoad},
    persistence::{PersistenceEntry, PersistenceKey, Stickiness},
    real_server::{MAX_REALS, RealServer},
    scheduler::{self, MAGLEV_SLOTS, Ring, SLOTS_PER_WORD, pick},
    service::{PERSISTENT, Service, ServiceKeyV4},
};

use super::{
    network::{FIRST_CLIENT, NEW_FLOWS, PORTS, VIP_V4},
    target::{END_OF_REALS, SERVICE_PORT, Target},
};

/// How the TCP service of IPv4 chooses among real servers, all of which are one server, so that every packet's outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrangement {
    /// It is persistent, and every client keeps a real server.
    Persistent,
    /// A Maglev table over ten real servers.
    Maglev,
    /// The least loaded of so many real servers, by `wlc`.
    Least(u32),
}

/// Id of the first of the real servers of an [`Arrangement`].
const FIRST_OTHER: u32 = 16;
/// How many there may be.
const MOST_OTHERS: u32 = END_OF_REALS - FIRST_OTHER;

/// The value of `REAL_LOADS`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Loads([RealLoad; MAX_REALS as usize]);

// SAFETY: an array of plain data.
unsafe impl aya::Pod for Loads {}

impl Target {
    /// Makes the TCP service of IPv4 choose in another way.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn arrange(&mut self, arrangement: Arrangement) -> Result<()> {
        const ID: u32 = 1;
        let reals = match arrangement {
            Arrangement::Persistent => 1,
            Arrangement::Maglev => 10,
            Arrangement::Least(count) => count.min(MOST_OTHERS),
        };
        let real: RealServer = self.array("REALS")?.get(&ID, 0)?;
        let ids: Vec<_> = (FIRST_OTHER..FIRST_OTHER + reals).collect();
        for id in &ids {
            self.array("REALS")?.set(*id, real, 0)?;
        }
        self.weigh(&ids)?;
        let available = self.write_slots(FIRST_OTHER * SLOTS_PER_WORD, &ids)?;
        let mut service = Service {
            ring: available,
            available,
            id: ID,
            measure: Measure::WLC,
            ..Service::default()
        };
        match arrangement {
            Arrangement::Persistent => {
                service.flags = PERSISTENT;
                self.remember(real.address, FIRST_OTHER)?;
            }
            Arrangement::Maglev => {
                service.pick = pick::HASH;
                let slots: Vec<_> = (0..MAGLEV_SLOTS)
                    .map(|slot| ids[slot as usize % ids.len()])
                    .collect();
                let first = (FIRST_OTHER + MOST_OTHERS) * SLOTS_PER_WORD;
                service.ring = self.write_slots(first, &slots)?;
            }
            Arrangement::Least(_) => service.pick = pick::LEAST,
        }
        let key = ServiceKeyV4 {
            address: u32::from_ne_bytes(VIP_V4.octets()),
            port: SERVICE_PORT.to_be(),
            protocol: TCP.into(),
        };
        let map = self
            .ebpf
            .map_mut("SERVICES_V4")
            .context("no map SERVICES_V4")?;
        Ok(HashMap::try_from(map)?.insert(key, service, 0)?)
    }

    /// Gives real servers a weight.
    fn weigh(&mut self, ids: &[u32]) -> Result<()> {
        let map = self
            .ebpf
            .map_mut("REAL_LOADS")
            .context("no map REAL_LOADS")?;
        let mut loads: Array<_, Loads> = Array::try_from(map)?;
        let mut all = Box::new(loads.get(&0, 0)?);
        for id in ids {
            all.0[*id as usize].weight = 1;
        }
        Ok(loads.set(0, *all, 0)?)
    }

    /// Writes real ids into slots.
    fn write_slots(&mut self, offset: u32, ids: &[u32]) -> Result<Ring> {
        let mut rings = self.array::<u64>("RINGS")?;
        for (index, word) in (offset / SLOTS_PER_WORD..).zip(scheduler::words(ids)) {
            rings.set(index, word, 0)?;
        }
        let length = u32::try_from(ids.len())?;
        Ok(Ring { offset, length })
    }

    /// Makes every client of a set keep a real server: two addresses are one client, so that they just fill the product's map.
    fn remember(&mut self, server: Addr, real: u32) -> Result<()> {
        let stickiness = Stickiness {
            mask: Addr([u32::MAX, u32::MAX, u32::MAX, (u32::MAX << 1).to_be()]),
            group: 1,
            timeout: u32::MAX,
            zero: 0,
        };
        self.array("STICKINESS")?.set(1, stickiness, 0)?;
        let map = self
            .ebpf
            .map_mut("PERSISTENCE")
            .context("no map PERSISTENCE")?;
        let mut persistence: HashMap<_, PersistenceKey, PersistenceEntry> = HashMap::try_from(map)?;
        let first = FIRST_CLIENT.to_bits();
        for client in (first..=first + NEW_FLOWS / PORTS).step_by(2) {
            let key = stickiness.key(Addr::from_v4(client.to_be()));
            let entry = PersistenceEntry {
                server,
                last_used: 0,
                real,
            };
            persistence.insert(key, entry, 0)?;
        }
        Ok(())
    }
}

//! Which server each client keeps.

use std::{collections::BTreeMap, net::IpAddr, os::fd::AsFd as _};

use aya::maps::Map;
use balancer_common::{
    addr::Addr,
    persistence::{
        MemberKey, PENDING_WORDS, PersistenceEntry, PersistenceKey, RunningClient, Stickiness,
    },
    real_server::RealServer,
    service,
};

use crate::{bulk, dataplane::Dataplane, services::ServiceHandle};

/// Who keeps a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client {
    /// By which protocol it has shown that it exists: 6 or 17.
    pub protocol: u8,
    /// The number of a group of services.
    pub group: u64,
    /// Its address, or the first one of its network.
    pub address: IpAddr,
}

impl Client {
    const fn map(self) -> &'static str {
        match self.protocol {
            17 => "PERSISTENCE_UDP",
            _ => "PERSISTENCE",
        }
    }

    fn key(self) -> PersistenceKey {
        PersistenceKey {
            client: self.address.into(),
            group: self.group,
        }
    }
}

/// The server that a client keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its address.
    pub server: IpAddr,
    /// Real id of the client's last connection.
    pub real: u32,
    /// Low 32 bits of jiffies.
    pub last_used: u32,
}

impl From<PersistenceEntry> for Kept {
    fn from(entry: PersistenceEntry) -> Self {
        Self {
            server: entry.server.into(),
            real: entry.real,
            last_used: entry.last_used,
        }
    }
}

/// Jiffies for which a client's first connection decides about the next ones, in tests.
pub const PENDING: u32 = 20_000;

impl Dataplane {
    /// A service's clients keep their real servers, for `timeout` jiffies after their last use. Clients whose addresses have `prefix`
    /// leading bits in common are one client.
    pub fn set_persistence(
        &mut self,
        service: ServiceHandle,
        timeout: u32,
        prefix: u32,
        group: u64,
    ) {
        let before = if service.vip.is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - before - prefix).unwrap_or(0);
        let row = Stickiness {
            mask: Addr(std::array::from_fn(|word| {
                ((mask >> (96 - 32 * word)) as u32).to_be()
            })),
            group,
            timeout,
            zero: 0,
        };
        self.array_mut("STICKINESS")
            .set(service.id, row, 0)
            .expect("write STICKINESS");
        self.change_settings(|settings| settings.pending = PENDING);
        self.update_service(service, |value| value.flags |= service::PERSISTENT);
    }

    /// Names a real server as one of its service, which shares its clients with others.
    pub fn add_member(&mut self, real: u32) {
        let key = self.member(real);
        self.hash_mut("MEMBERS")
            .insert(key, real, 0)
            .expect("write MEMBERS");
    }

    /// Takes that back.
    pub fn remove_member(&mut self, real: u32) {
        let key = self.member(real);
        self.hash_mut::<MemberKey, u32>("MEMBERS")
            .remove(&key)
            .expect("delete from MEMBERS");
    }

    fn member(&self, real: u32) -> MemberKey {
        let value: RealServer = self.array("REALS").get(&real, 0).expect("read REALS");
        MemberKey {
            server: value.address,
            service: value.service,
        }
    }

    /// The server that a client, or a network of clients, keeps.
    #[must_use]
    pub fn kept(&self, client: Client) -> Option<Kept> {
        let map = self.hash::<PersistenceKey, PersistenceEntry>(client.map());
        map.get(&client.key(), 0).ok().map(Kept::from)
    }

    /// What all clients keep.
    ///
    /// # Panics
    /// A map cannot be read.
    #[must_use]
    pub fn all_kept(&self) -> BTreeMap<Client, Kept> {
        let mut all = BTreeMap::new();
        for (protocol, map) in [(6, "PERSISTENCE"), (17, "PERSISTENCE_UDP")] {
            let map = self.hash::<PersistenceKey, PersistenceEntry>(map);
            all.extend(map.iter().map(|entry| {
                let (key, value) = entry.expect("read what clients keep");
                let client = Client {
                    protocol,
                    group: key.group,
                    address: key.client.into(),
                };
                (client, value.into())
            }));
        }
        all
    }

    /// Lets the program `renew` renew what these clients keep, if it is the server at this address.
    ///
    /// # Panics
    /// The kernel refused the test run.
    pub fn renew(&mut self, clients: &[(Client, IpAddr)]) {
        let clients: Vec<_> = clients
            .iter()
            .map(|(client, server)| RunningClient {
                key: client.key(),
                server: (*server).into(),
                is_udp: u32::from(client.protocol == 17),
                zero: 0,
            })
            .collect();
        let program = self.loaded("renew");
        balancer_ctl::dataplane::renewal::renew(program, &clients).expect("a test run");
    }

    /// Lets so many jiffies pass for what a client keeps.
    ///
    /// # Panics
    /// It keeps nothing.
    pub fn age_kept(&mut self, client: Client, jiffies: u32) {
        let key = client.key();
        let mut map = self.hash_mut::<PersistenceKey, PersistenceEntry>(client.map());
        let mut entry = map.get(&key, 0).expect("what the client keeps");
        entry.last_used = entry.last_used.wrapping_sub(jiffies);
        map.insert(key, entry, 0).expect("write what it keeps");
    }

    /// The words of `PENDING` that say something, each with its place.
    ///
    /// # Panics
    /// The map cannot be read.
    #[must_use]
    pub fn pending(&self) -> Vec<(u32, u64)> {
        let Some(Map::Array(map)) = self.ebpf.map("PENDING") else {
            panic!("no array PENDING");
        };
        let words = bulk::read_array::<u64>(&map.fd().as_fd(), PENDING_WORDS);
        (0..).zip(words).filter(|(_, word)| *word != 0).collect()
    }

    /// Forgets which real servers first connections got.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn forget_pending(&mut self) {
        for (index, _) in self.pending() {
            self.array_mut("PENDING")
                .set(index, 0_u64, 0)
                .expect("write PENDING");
        }
    }
}

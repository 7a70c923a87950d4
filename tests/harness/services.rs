//! Services and real servers in the maps, written as the daemon writes them.

use std::{collections::BTreeSet, net::IpAddr, os::fd::AsFd as _};

use aya::{
    Pod,
    maps::{LpmTrie, Map, MapData, lpm_trie, xdp::DevMapHash},
};
use balancer_common::{
    addr::Addr,
    address_filter,
    failover::FailoverReal,
    load::Measure,
    next_hop::{self, NEXT_HOPS, NextHop, RouteVersions},
    real_server::{self, RealServer},
    scheduler::{self, Ring, SLOTS_PER_WORD},
    service::{self, Service, ServiceKey},
    settings::{Interface, Settings, interface_flags},
    snat::{MAX_SNAT_ADDRESSES, SnatPorts},
};

use crate::{
    addresses::{LB_INSIDE, LB_OUTSIDE, R, R6, V, V6},
    bulk,
    dataplane::Dataplane,
};

/// A virtual service in the maps.
#[derive(Clone, Copy, Debug)]
pub struct ServiceHandle {
    /// VIP.
    pub vip: IpAddr,
    /// Port; 0 = every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Its index in `TURNS` and `STICKINESS`.
    pub id: u32,
}

/// How a service chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// One of [`scheduler::pick`].
    pub pick: u8,
    /// One of [`scheduler::hashed`].
    pub hash: u8,
    /// How loads are compared.
    pub measure: Measure,
}

impl Schedule {
    /// `rr`, or `wrr`: the ring in turn.
    pub const TURN: Self = Self {
        pick: scheduler::pick::TURN,
        hash: scheduler::hashed::CLIENT,
        measure: Measure::WLC,
    };

    /// The least loaded by this measure.
    #[must_use]
    pub const fn least(measure: Measure) -> Self {
        Self {
            pick: scheduler::pick::LEAST,
            measure,
            ..Self::TURN
        }
    }

    /// The slot that a hash of this names.
    #[must_use]
    pub const fn hashing(hash: u8) -> Self {
        Self {
            pick: scheduler::pick::HASH,
            hash,
            ..Self::TURN
        }
    }
}

/// A service of each family with one real server each.
#[derive(Clone, Copy, Debug)]
pub struct Web {
    /// Real id of the IPv4 real server.
    pub real: u32,
    /// The IPv4 service.
    pub service: ServiceHandle,
    /// Real id of the IPv6 real server.
    pub real6: u32,
    /// The IPv6 service.
    pub service6: ServiceHandle,
}

impl Dataplane {
    /// Changes the settings.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        let settings = self.settings;
        self.array_mut("SETTINGS")
            .set(0, settings, 0)
            .expect("write SETTINGS");
    }

    /// Makes a real server that takes new connections and returns its id.
    pub fn add_real(&mut self, address: IpAddr, port: u16) -> u32 {
        let id = self.reals;
        self.reals += 1;
        self.set_real(id, address, port, real_server::state::TAKES_NEW);
        id
    }

    /// Marks an address as one of ours, as the daemon does before it names it anywhere.
    fn announce(&mut self, address: IpAddr) {
        let bit = address_filter::bit_of(address);
        let word: u64 = self
            .array("ADDRESSES")
            .get(&bit.word, 0)
            .expect("read ADDRESSES");
        self.array_mut("ADDRESSES")
            .set(bit.word, word | bit.mask, 0)
            .expect("write ADDRESSES");
    }

    /// Tells the program that packets from a real server's address and port may be its answers.
    fn announce_real(&mut self, real: &RealServer, protocol: u8) {
        self.insert_by_real("REAL_PORTS", real, protocol, 1_u32);
    }

    /// Writes a value to the map `NAME_V4` or `NAME_V6`, by a real server's address and port.
    fn insert_by_real<V: Pod>(&mut self, name: &str, real: &RealServer, protocol: u8, value: V) {
        let (port, protocol) = (real.port, u16::from(protocol));
        let name = format!("{name}_{}", if real.address.is_v4() { "V4" } else { "V6" });
        let inserted = if real.address.is_v4() {
            let key = ServiceKey {
                address: real.address.0[3],
                port,
                protocol,
            };
            self.hash_mut(&name).insert(key, value, 0)
        } else {
            let key = ServiceKey {
                address: real.address.0,
                port,
                protocol,
            };
            self.hash_mut(&name).insert(key, value, 0)
        };
        inserted.unwrap_or_else(|error| panic!("write {name}: {error}"));
    }

    /// Writes a real server.
    pub fn set_real(&mut self, id: u32, address: IpAddr, port: u16, state: u32) {
        self.announce(address);
        let real = RealServer {
            address: Addr::from(address),
            port: port.to_be(),
            state,
            ..RealServer::default()
        };
        self.array_mut("REALS")
            .set(id, real, 0)
            .expect("write REALS");
    }

    /// The sources of connections with full NAT: the first places of each family's part of `SNAT_ADDRESSES`, and `count` ports from `first`.
    ///
    /// # Panics
    /// There are more addresses than places.
    pub fn set_sources(&mut self, addresses: &[IpAddr], first: u16, count: u16) {
        let mut places = [0; 2];
        for address in addresses {
            let family = usize::from(address.is_ipv6());
            let place = places[family];
            assert!(place < MAX_SNAT_ADDRESSES, "too many addresses");
            places[family] += 1;
            let index = family as u32 * MAX_SNAT_ADDRESSES + place;
            self.array_mut("SNAT_ADDRESSES")
                .set(index, Addr::from(*address), 0)
                .expect("write SNAT_ADDRESSES");
        }
        self.change_settings(|settings| settings.snat_ports = SnatPorts { first, count });
    }

    /// Which of the sources packets to a real server may have, a bit each, and how it is reached: one of
    /// [`forwarding`](balancer_common::conntrack::forwarding).
    ///
    /// # Panics
    /// The kernel refused.
    pub fn set_forwarding(&mut self, id: u32, forwarding: u8, snat_addresses: u8) {
        let mut real: RealServer = self.array("REALS").get(&id, 0).expect("read REALS");
        real.forwarding = forwarding;
        real.snat_addresses = snat_addresses;
        self.array_mut("REALS")
            .set(id, real, 0)
            .expect("write REALS");
    }

    /// This host shares the network of a real server, whose addresses have these leading bits in common; 0 = it does not.
    pub fn set_network(&mut self, id: u32, bits: u32) {
        let mut real: RealServer = self.array("REALS").get(&id, 0).expect("read REALS");
        let ones = |bits: u32| u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let mask = if real.address.is_v4() {
            ones(bits) >> 96
        } else {
            ones(bits)
        };
        real.network_mask = Addr(std::array::from_fn(|word| {
            ((mask >> (96 - 32 * word)) as u32).to_be()
        }));
        self.array_mut("REALS")
            .set(id, real, 0)
            .expect("write REALS");
    }

    /// These addresses are this host's own, or broadcast addresses; each with its prefix length.
    pub fn set_host_addresses(&mut self, prefixes: &[(IpAddr, u32)]) {
        let mut words = vec![0_u64; address_filter::WORDS as usize];
        for (address, length) in prefixes {
            let before = if address.is_ipv4() { 96 } else { 0 };
            let length = before + length;
            let key = lpm_trie::Key::new(length, Addr::from(*address).0);
            let mut trie: LpmTrie<_, [u32; 4], u32> = self
                .ebpf
                .map_mut("HOST_ADDRESSES")
                .expect("HOST_ADDRESSES")
                .try_into()
                .expect("a trie");
            trie.insert(&key, 1, 0).expect("write HOST_ADDRESSES");
            if length < 128 {
                words.fill(u64::MAX);
            } else {
                let bit = address_filter::bit_of(*address);
                words[bit.word as usize] |= bit.mask;
            }
        }
        for (index, word) in (0..).zip(words) {
            self.array_mut("HOST_FILTER")
                .set(index, word, 0)
                .expect("write HOST_FILTER");
        }
    }

    /// Another node has begun connections to a real server, whose segments may come here until a time on the kernel's monotonic clock in
    /// nanoseconds.
    pub fn add_failover_real(&mut self, service: ServiceHandle, id: u32, until: u64) {
        let real: RealServer = self.array("REALS").get(&id, 0).expect("read REALS");
        let failover_real = FailoverReal {
            until,
            real: id,
            port: service.port.to_be(),
            zero: 0,
        };
        self.insert_by_real("FAILOVER_REALS", &real, service.protocol, failover_real);
    }

    /// Gives a real server to another service.
    pub fn set_real_service(&mut self, id: u32, service: u32) {
        let mut real: RealServer = self.array("REALS").get(&id, 0).expect("read REALS");
        real.service = service;
        self.array_mut("REALS")
            .set(id, real, 0)
            .expect("write REALS");
    }

    /// Changes what may happen to a real server: one of [`real_server::state`].
    pub fn set_real_state(&mut self, id: u32, state: u32) {
        let mut real: RealServer = self.array("REALS").get(&id, 0).expect("read REALS");
        real.state = state;
        self.array_mut("REALS")
            .set(id, real, 0)
            .expect("write REALS");
    }

    /// The real server has failed: its connections are reset.
    pub fn fail_real(&mut self, id: u32) {
        self.set_real_state(id, real_server::state::RESET);
    }

    /// Uses up what every CPU may answer now, or gives it back.
    pub fn exhaust_answers(&mut self, exhausted: bool) {
        let due = if exhausted { u64::MAX / 2 } else { 0 };
        let cpus = aya::util::nr_cpus().expect("the number of CPUs");
        let values = aya::maps::PerCpuValues::try_from(vec![due; cpus]).expect("a value for each");
        let mut map: aya::maps::PerCpuArray<_, u64> = self
            .ebpf
            .map_mut("ANSWERS")
            .expect("ANSWERS")
            .try_into()
            .expect("a per-CPU array");
        map.set(0, values, 0).expect("write ANSWERS");
    }

    /// Makes a service whose ring holds these real ids.
    pub fn add_service(
        &mut self,
        protocol: u8,
        vip: IpAddr,
        port: u16,
        ring: &[u32],
    ) -> ServiceHandle {
        let id = self.services;
        self.services += 1;
        let service = ServiceHandle {
            vip,
            port,
            protocol,
            id,
        };
        self.announce(vip);
        self.set_ring(service, ring);
        service
    }

    /// Makes a service choose in another way.
    pub fn set_schedule(&mut self, service: ServiceHandle, schedule: Schedule) {
        self.update_service(service, |value| {
            value.pick = schedule.pick;
            value.hash = schedule.hash;
            value.measure = schedule.measure;
        });
    }

    /// Sets flags of a service.
    pub fn add_service_flags(&mut self, service: ServiceHandle, flags: u16) {
        self.update_service(service, |value| value.flags |= flags);
    }

    /// Makes the service reject, instead of drop, what no real server takes.
    pub fn reject_without_reals(&mut self, service: ServiceHandle, ring: &[u32]) {
        self.set_ring(service, ring);
        self.update_service(service, |value| value.flags |= service::REJECT);
    }

    /// Gives a service a new ring, whose real servers all take new connections, in this order.
    pub fn set_ring(&mut self, service: ServiceHandle, ring: &[u32]) {
        let mut seen = BTreeSet::new();
        let distinct: Vec<_> = ring.iter().copied().filter(|id| seen.insert(*id)).collect();
        self.set_slots(service, ring, &distinct);
    }

    /// Gives a service a new ring, of whose real servers, all of them its own, only the `available` ones take new connections.
    pub fn set_slots(&mut self, service: ServiceHandle, ring: &[u32], available: &[u32]) {
        let own: BTreeSet<_> = ring.iter().chain(available).copied().collect();
        for real in &own {
            let mut value: RealServer = self.array("REALS").get(real, 0).expect("read REALS");
            value.service = service.id;
            value.vip = Addr::from(service.vip);
            value.service_port = service.port.to_be();
            value.delta = RealServer::between(&value.vip, &value.address);
            self.announce_real(&value, service.protocol);
            self.array_mut("REALS")
                .set(*real, value, 0)
                .expect("write REALS");
        }
        self.update_loads(own, |load| load.weight = load.weight.max(1));
        let (ring, available) = (self.write_slots(ring), self.write_slots(available));
        self.update_service(service, |value| {
            value.ring = ring;
            value.available = available;
        });
    }

    /// Writes real ids into slots that nobody has used.
    pub fn write_slots(&mut self, reals: &[u32]) -> Ring {
        let offset = self.ring_slots;
        for (index, word) in (offset / SLOTS_PER_WORD..).zip(scheduler::words(reals)) {
            self.array_mut("RINGS")
                .set(index, word, 0)
                .expect("write RINGS");
            self.ring_slots += SLOTS_PER_WORD;
        }
        Ring {
            offset,
            length: reals.len() as u32,
        }
    }

    /// Changes a service's value; a new one begins with an empty ring that it takes in turn.
    pub fn update_service(&mut self, service: ServiceHandle, change: impl FnOnce(&mut Service)) {
        let new = Service {
            id: service.id,
            pick: Schedule::TURN.pick,
            measure: Schedule::TURN.measure,
            ..Service::default()
        };
        let (port, protocol) = (service.port.to_be(), u16::from(service.protocol));
        let address = Addr::from(service.vip);
        match service.vip {
            IpAddr::V4(_) => {
                let key = ServiceKey {
                    address: address.0[3],
                    port,
                    protocol,
                };
                let mut services = self.hash_mut("SERVICES_V4");
                let mut value = services.get(&key, 0).unwrap_or(new);
                change(&mut value);
                services.insert(key, value, 0).expect("write SERVICES_V4");
            }
            IpAddr::V6(_) => {
                let key = ServiceKey {
                    address: address.0,
                    port,
                    protocol,
                };
                let mut services = self.hash_mut("SERVICES_V6");
                let mut value = services.get(&key, 0).unwrap_or(new);
                change(&mut value);
                services.insert(key, value, 0).expect("write SERVICES_V6");
            }
        }
    }

    /// One real server R:8080 behind TCP V:80, in both families.
    pub fn web(&mut self) -> Web {
        let real = self.add_real(R, 8080);
        let service = self.add_service(6, V, 80, &[real]);
        let real6 = self.add_real(R6, 8080);
        let service6 = self.add_service(6, V6, 80, &[real6]);
        Web {
            real,
            service,
            real6,
            service6,
        }
    }

    /// One real server R:8053 behind UDP V:53, in both families.
    pub fn dns(&mut self) -> Web {
        let real = self.add_real(R, 8053);
        let service = self.add_service(17, V, 53, &[real]);
        let real6 = self.add_real(R6, 8053);
        let service6 = self.add_service(17, V6, 53, &[real6]);
        Web {
            real,
            service,
            real6,
            service6,
        }
    }

    /// Retires what entries remember of their next hops, as the daemon does when any route may have changed.
    pub fn retire_routes(&mut self) {
        let mut map = self.array_mut("ROUTE_VERSIONS");
        let mut versions: RouteVersions = map.get(&0, 0).expect("read ROUTE_VERSIONS");
        for version in &mut versions.of {
            *version += 2;
        }
        map.set(0, versions, 0).expect("write ROUTE_VERSIONS");
    }

    /// Retires what entries remember whose packets go to this address, as the daemon does when a route to its network has
    /// changed.
    pub fn retire_route(&mut self, destination: IpAddr) {
        let mut map = self.array_mut("ROUTE_VERSIONS");
        let mut versions: RouteVersions = map.get(&0, 0).expect("read ROUTE_VERSIONS");
        versions.of[next_hop::slot(&Addr::from(destination))] += 2;
        map.set(0, versions, 0).expect("write ROUTE_VERSIONS");
    }

    /// The next hops that the program knows.
    #[must_use]
    pub fn next_hops(&self) -> Vec<(u32, NextHop)> {
        let Some(Map::Array(map)) = self.ebpf.map("NEXT_HOPS") else {
            panic!("no array NEXT_HOPS");
        };
        let all = bulk::read_array::<NextHop>(&map.fd().as_fd(), NEXT_HOPS);
        let all = (0..).zip(all);
        all.filter(|(_, hop)| hop.version != 0).collect()
    }

    /// Retires what entries remember of a next hop, as the daemon does when a neighbour has changed.
    pub fn retire_next_hop(&mut self, index: u32) {
        let mut map = self.array_mut("NEXT_HOPS");
        let mut hop: NextHop = map.get(&index, 0).expect("read NEXT_HOPS");
        hop.version += 2;
        map.set(index, hop, 0).expect("write NEXT_HOPS");
    }

    /// The interfaces are such that send frames back by a redirect only.
    pub fn redirect_back(&mut self) {
        self.redirects = true;
        self.write_interfaces();
    }

    pub(crate) fn write_interfaces(&mut self) {
        for (ifindex, mac) in [(self.outside, LB_OUTSIDE), (self.inside, LB_INSIDE)] {
            let interface = Interface {
                flags: u16::from(self.redirects) * interface_flags::REDIRECTS,
                ..Interface::new(mac, ifindex)
            };
            self.array_mut("INTERFACES")
                .set(ifindex, interface, 0)
                .expect("write INTERFACES");
        }
    }

    /// Takes an interface away from the program.
    pub fn clear_interface(&mut self, ifindex: u32) {
        self.array_mut("INTERFACES")
            .set(ifindex, Interface::default(), 0)
            .expect("write INTERFACES");
    }

    /// The interfaces that the program may send by.
    pub fn devices(&mut self) -> DevMapHash<&mut MapData> {
        self.ebpf
            .map_mut("DEVICES")
            .expect("DEVICES")
            .try_into()
            .expect("a device map")
    }
}

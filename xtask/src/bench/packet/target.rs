//! The program under test: loaded, its maps filled as the daemon would fill them, its counters read back.
//!
//! Everything that the benches know about the product's maps, globals and counters is here. Connections are not filled in:
//! they are made by frames that run through the program.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray, xdp::DevMapHash},
    programs::Xdp,
};
use balancer_common::{
    addr::{Addr, TCP, UDP},
    address_filter,
    conntrack::{TimeoutSettings, Timeouts, forwarding},
    flow_hash::{self, Seed},
    programs,
    real_server::{self, RealServer},
    scheduler::{Ring, SLOTS_PER_WORD},
    service::{Service, ServiceKeyV4, ServiceKeyV6},
    settings::{Interface, Settings},
    snat::SnatPorts,
    stats::RealStats,
    verdict::Discard,
};

use super::network::{
    BALANCER_MAC, INSIDE_MAC, INSIDE_V4, Interfaces, REAL_V4, REAL_V6, SNAT_V4, VIP_V4, VIP_V6,
};

/// How many connections a table of the default size has room for: the product's default.
pub const DEFAULT_CONNECTIONS: u32 = 262_144;

/// Port of the TCP services; their real server listens on [`REAL_PORT`].
pub const SERVICE_PORT: u16 = 80;
/// See [`SERVICE_PORT`].
pub const REAL_PORT: u16 = 8080;
/// Port of the UDP service and of its real server.
pub const UDP_PORT: u16 = 53;
/// Port of the TCP service whose real server is on the other interface.
pub const INSIDE_PORT: u16 = 81;

/// Port of the TCP service whose real server is reached by full NAT.
pub const FULL_NAT_PORT: u16 = 82;
/// The one port of the balancer for that.
pub const SNAT_PORT: u16 = 20_000;

/// Ids of real servers that any row uses are below this.
pub const END_OF_REALS: u32 = 1_016;

/// A service with its one real server, so that every packet's outcome is known beforehand. Its place in [`PAIRS`] plus
/// one is its id in `REALS` and `TURNS`.
struct Pair {
    vip: IpAddr,
    port: u16,
    protocol: u8,
    real: IpAddr,
    real_port: u16,
    forwarding: u8,
}

const PAIRS: [Pair; 5] = [
    Pair {
        vip: IpAddr::V4(VIP_V4),
        port: SERVICE_PORT,
        protocol: TCP,
        real: IpAddr::V4(REAL_V4),
        real_port: REAL_PORT,
        forwarding: forwarding::NAT,
    },
    Pair {
        vip: IpAddr::V4(VIP_V4),
        port: UDP_PORT,
        protocol: UDP,
        real: IpAddr::V4(REAL_V4),
        real_port: UDP_PORT,
        forwarding: forwarding::NAT,
    },
    Pair {
        vip: IpAddr::V6(VIP_V6),
        port: SERVICE_PORT,
        protocol: TCP,
        real: IpAddr::V6(REAL_V6),
        real_port: REAL_PORT,
        forwarding: forwarding::NAT,
    },
    Pair {
        vip: IpAddr::V4(VIP_V4),
        port: INSIDE_PORT,
        protocol: TCP,
        real: IpAddr::V4(INSIDE_V4),
        real_port: REAL_PORT,
        forwarding: forwarding::NAT,
    },
    Pair {
        vip: IpAddr::V4(VIP_V4),
        port: FULL_NAT_PORT,
        protocol: TCP,
        real: IpAddr::V4(REAL_V4),
        real_port: REAL_PORT,
        forwarding: forwarding::FULL_NAT,
    },
];

/// Prepares a loader for an object of the program under test: room for `max_connections` connections of either family,
/// and this log level.
pub fn loader(max_connections: u32, log_level: LogLevel) -> EbpfLoader<'static> {
    // Only one IPv6 connection is measured, in a table of the default size.
    let [v4, v6] = buckets(max_connections);
    let level: &'static u8 = match log_level {
        LogLevel::Silent => &0,
        LogLevel::All => &5,
    };
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("CONNTRACK_V4", v4)
        .map_max_entries("CONNTRACK_V6", v6)
        .override_global("AYA_LOG_LEVEL", level, false);
    loader
}

/// Buckets of the IPv4 and the IPv6 table.
fn buckets(max_connections: u32) -> [u32; 2] {
    [max_connections, max_connections.min(DEFAULT_CONNECTIONS)].map(flow_hash::buckets_for)
}

/// Which log lines the program keeps; the verifier drops the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// None.
    Silent,
    /// Every line.
    All,
}

/// The map by which an object with log lines is known.
pub const LOG_MAP: &str = "AYA_LOGS";

/// A loaded program with its own maps.
pub struct Target {
    pub(super) ebpf: Ebpf,
}

/// Everything the program counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets of all real servers: `[original, reply]`.
    pub packets: [u64; 2],
    /// By [`Discard`].
    discards: Vec<u64>,
}

/// What the program must have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Translated packets, `[original, reply]`, and no discard.
    Packets([u64; 2]),
    /// Packets that were passed because they are not for a service, and nothing else.
    NotOurs(u64),
    /// Packets of clients on two CPUs, of which at most one in [`CONTENDED`] was discarded, because it found a lock taken.
    Contended(u64),
}

/// See [`Expected::Contended`].
const CONTENDED: u64 = 1000;

impl Target {
    /// Loads `object` with room for `max_connections` connections of either family and makes it the balancer of the
    /// bench's network.
    ///
    /// # Errors
    /// The kernel refused the program, or the object is not the balancer's.
    pub fn load(object: &[u8], max_connections: u32, interfaces: &Interfaces) -> Result<Self> {
        let mut ebpf = loader(max_connections, LogLevel::Silent)
            .map_max_entries("INTERFACES", interfaces.near.max(interfaces.inside) + 1)
            .load(object)
            .context("loading the object under test")?;
        for name in ["balancer"].into_iter().chain(programs::CALLED) {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no program `{name}`"))?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("loading the program `{name}`"))?;
        }
        for (place, name) in (0..).zip(programs::CALLED) {
            let called: &Xdp = ebpf.program(name).context("just loaded")?.try_into()?;
            let called = called.fd()?.try_clone()?;
            let programs = ebpf.map_mut("PROGRAMS").context("no map PROGRAMS")?;
            ProgramArray::try_from(programs)?.set(place, &called, 0)?;
        }
        let mut target = Self { ebpf };
        target.fill(max_connections, interfaces)?;
        Ok(target)
    }

    fn fill(&mut self, max_connections: u32, interfaces: &Interfaces) -> Result<()> {
        // No row expires while the bench runs, whatever the kernel's clock rate.
        let timeout = 1 << 30;
        let settings = Settings {
            timeouts: Timeouts::new(&TimeoutSettings {
                established: timeout,
                closing: timeout,
                udp: timeout,
                udp_unreplied: timeout,
                half_open: timeout,
            }),
            buckets: buckets(max_connections),
            seed: Seed {
                ports: [0x5eed_5eed, 0x1234_5678],
                addresses: [0x9e37_79b9, 0x7f4a_7c15, 3, 4, 5, 6, 7, 8],
            },
            snat_ports: SnatPorts {
                first: SNAT_PORT,
                count: 1,
            },
            ..Default::default()
        };
        self.array("SNAT_ADDRESSES")?
            .set(0, Addr::from(IpAddr::V4(SNAT_V4)), 0)?;
        self.array("SETTINGS")?.set(0, settings, 0)?;
        for (ifindex, mac) in [
            (interfaces.near, BALANCER_MAC),
            (interfaces.inside, INSIDE_MAC),
        ] {
            self.array("INTERFACES")?
                .set(ifindex, Interface::new(mac, ifindex), 0)?;
            let mut devices =
                DevMapHash::try_from(self.ebpf.map_mut("DEVICES").context("no map DEVICES")?)?;
            devices.insert(ifindex, ifindex, None, 0)?;
        }
        let mut words = BTreeMap::new();
        for address in PAIRS.iter().flat_map(|pair| [pair.vip, pair.real]) {
            let bit = address_filter::bit_of(address);
            *words.entry(bit.word).or_insert(0_u64) |= bit.mask;
        }
        for (word, bits) in words {
            self.array("ADDRESSES")?.set(word, bits, 0)?;
        }
        for (id, pair) in (1..).zip(&PAIRS) {
            self.add(id, pair)?;
        }
        Ok(())
    }

    fn add(&mut self, id: u32, pair: &Pair) -> Result<()> {
        let real = RealServer {
            address: Addr::from(pair.real),
            vip: Addr::from(pair.vip),
            port: pair.real_port.to_be(),
            delta: RealServer::between(&Addr::from(pair.vip), &Addr::from(pair.real)),
            state: real_server::state::TAKES_NEW,
            service: id,
            forwarding: pair.forwarding,
            snat_addresses: u8::from(pair.forwarding == forwarding::FULL_NAT),
            ..Default::default()
        };
        self.array("REALS")?.set(id, real, 0)?;
        self.array("RINGS")?.set(id, u64::from(id), 0)?;
        let ring = Ring {
            offset: id * SLOTS_PER_WORD,
            length: 1,
        };
        let service = Service {
            ring,
            available: ring,
            id,
            ..Service::default()
        };
        let (port, protocol) = (pair.port.to_be(), pair.protocol.into());
        match pair.vip {
            IpAddr::V4(vip) => {
                let address = u32::from_ne_bytes(vip.octets());
                let map = self
                    .ebpf
                    .map_mut("SERVICES_V4")
                    .context("no map SERVICES_V4")?;
                let mut services: HashMap<_, ServiceKeyV4, Service> = HashMap::try_from(map)?;
                services.insert(
                    ServiceKeyV4 {
                        address,
                        port,
                        protocol,
                    },
                    service,
                    0,
                )?;
            }
            IpAddr::V6(_) => {
                let Addr(address) = Addr::from(pair.vip);
                let map = self
                    .ebpf
                    .map_mut("SERVICES_V6")
                    .context("no map SERVICES_V6")?;
                let mut services: HashMap<_, ServiceKeyV6, Service> = HashMap::try_from(map)?;
                services.insert(
                    ServiceKeyV6 {
                        address,
                        port,
                        protocol,
                    },
                    service,
                    0,
                )?;
            }
        }
        Ok(())
    }

    pub(super) fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}"))?;
        Array::try_from(map).with_context(|| format!("map {name} has another layout"))
    }

    /// The program.
    ///
    /// # Errors
    /// None once it is loaded.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program("balancer")
            .context("the object has no program `balancer`")?
            .try_into()?)
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn counters(&self) -> Result<Counters> {
        let mut counters = Counters {
            packets: [0; 2],
            discards: Vec::new(),
        };
        let stats: PerCpuArray<_, RealStats> =
            PerCpuArray::try_from(self.ebpf.map("REAL_STATS").context("no map REAL_STATS")?)?;
        for id in 1..END_OF_REALS {
            for of_cpu in stats.get(&id, 0)?.iter() {
                counters.packets[0] += of_cpu.directions[0].packets;
                counters.packets[1] += of_cpu.directions[1].packets;
            }
        }
        let discards: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map("DISCARDS").context("no map DISCARDS")?)?;
        for reason in 0..Discard::COUNT {
            let values: PerCpuValues<u64> = discards.get(&reason, 0)?;
            counters.discards.push(values.iter().sum());
        }
        Ok(counters)
    }
}

impl Counters {
    /// The counts since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            packets: [
                self.packets[0] - before.packets[0],
                self.packets[1] - before.packets[1],
            ],
            discards: self
                .discards
                .iter()
                .zip(&before.discards)
                .map(|(now, then)| now - then)
                .collect(),
        }
    }

    /// Compares everything that was counted with what must have been.
    ///
    /// # Errors
    /// They differ: the measurement is void.
    pub fn expect(&self, expected: Expected) -> Result<()> {
        let mut discards = vec![0; Discard::COUNT as usize];
        let packets = match expected {
            Expected::Packets(packets) => packets,
            Expected::NotOurs(count) => {
                discards[Discard::NoService as usize] = count;
                [0, 0]
            }
            Expected::Contended(count) => {
                let lost = self.discards.iter().sum::<u64>().min(count / CONTENDED);
                discards.clone_from(&self.discards);
                [count - lost, 0]
            }
        };
        ensure!(
            self.packets == packets && self.discards == discards,
            "the measurement is void: {:?} packets [from the client, from the real server] were translated instead of {packets:?}; discards: {:?}",
            self.packets,
            self.discards_by_name(),
        );
        Ok(())
    }

    /// The discarded packets by reason, as text.
    fn discards_by_name(&self) -> Vec<String> {
        let named = Discard::ALL.iter().zip(&self.discards);
        named
            .filter(|(_, n)| **n != 0)
            .map(|(reason, n)| format!("{}: {n}", reason.name()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_two_cpus_one_packet_in_a_thousand_may_give_up() {
        let counted = |translated, lost| {
            let mut discards = vec![0; Discard::COUNT as usize];
            discards[0] = lost;
            Counters {
                packets: [translated, 0],
                discards,
            }
        };
        let expected = Expected::Contended(4000);
        assert!(counted(4000, 0).expect(expected).is_ok());
        assert!(counted(3996, 4).expect(expected).is_ok());
        assert!(counted(3995, 5).expect(expected).is_err());
        assert!(counted(3999, 0).expect(expected).is_err());
    }
}

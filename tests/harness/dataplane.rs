//! The packet program, loaded without pins into maps of its own, in a network namespace of its own in which
//! the kernel's route look-ups find the set-up of the packet cases.

use std::{
    fs::{self, File},
    io::Write,
    net::IpAddr,
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, xdp::DevMapHash},
    programs::{ProgramInfo, Xdp, XdpMode},
};
use balancer_common::{
    addr::Addr,
    address_filter,
    conntrack::{ConntrackEntry, FlowKey, Timeouts, direction},
    half_open::{self, HalfOpen, HalfOpenBucket},
    real_server::{self, RealServer},
    scheduler::Ring,
    service::{Service, ServiceKey},
    settings::{Interface, Settings},
};
use balancer_ctl::object::OBJECT;
use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    addresses::{
        GATEWAY, LB_INSIDE, LB_OUTSIDE, Mac, R, R2, R6, R26, REAL, REAL2, S, S6, T, T6, V, V6,
    },
    bulk,
    packet::Packet,
    privileged,
};

/// The interface by which a frame enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the clients.
    Outside,
    /// Towards the real servers.
    Inside,
}

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `XDP_ABORTED`: the program failed.
    Aborted,
    /// `XDP_DROP`.
    Drop,
    /// `XDP_PASS`.
    Pass,
    /// `XDP_TX`.
    Transmit,
    /// `XDP_REDIRECT`.
    Redirect,
}

impl Verdict {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            4 => Self::Redirect,
            other => panic!("XDP has no verdict {other}"),
        }
    }
}

/// A virtual service in the maps.
#[derive(Clone, Copy, Debug)]
pub struct ServiceHandle {
    /// VIP.
    pub vip: IpAddr,
    /// Port; 0 = every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Its index in `TURNS`.
    pub id: u32,
    flags: u32,
}

/// Map sizes and settings that a test may want otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most connections of both families together.
    pub max_connections: u32,
    /// `AYA_LOG_LEVEL`: 0 = off, 5 = all.
    pub log_level: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 256,
            log_level: 0,
        }
    }
}

/// The timeouts that tests run with, in jiffies: far apart, so that none can be taken for another.
pub const TIMEOUTS: Timeouts = Timeouts {
    established: 900_000,
    closing: 120_000,
    udp: 300_000,
    half_open: 60_000,
};

/// The loaded program and everything around it.
pub struct Dataplane {
    ebpf: Ebpf,
    /// Interface index of the outside interface.
    pub outside: u32,
    /// Interface index of the inside interface.
    pub inside: u32,
    /// The settings as they stand in `SETTINGS`.
    settings: Settings,
    /// The route generation.
    pub generation: u32,
    /// Real ids given so far.
    pub(crate) reals: u32,
    /// Service ids given so far.
    pub(crate) services: u32,
    ring_slots: u32,
    home: File,
}

/// Runs a test on a freshly loaded program, or skips it (see [`privileged::skipped`]).
pub fn run(test: impl FnOnce(&mut Dataplane)) {
    run_with(Options::default(), test);
}

/// As [`run`], with other sizes.
pub fn run_with(options: Options, test: impl FnOnce(&mut Dataplane)) {
    if privileged::skipped() {
        return;
    }
    test(&mut Dataplane::load(options));
}

impl Dataplane {
    fn load(options: Options) -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("open this thread's namespace");
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace (needs root)");
        set_up_network();

        let mut ebpf = EbpfLoader::new()
            .map_max_entries("CONNTRACK_V4", 2 * options.max_connections)
            .map_max_entries("CONNTRACK_V6", 2 * options.max_connections)
            .map_max_entries("INTERFACES", 64)
            .override_global("AYA_LOG_LEVEL", &options.log_level, true)
            .load(OBJECT)
            .unwrap_or_else(|error| panic!("load the object: {error:?}"));
        for name in ["balancer", "clock"] {
            program_mut(&mut ebpf, name)
                .load()
                .unwrap_or_else(|error| panic!("load the program {name}: {error:#}"));
        }
        // A veth has the receive queue that a test run names only while a program is attached. `clock` is
        // at hand, and nothing here listens to what it does to frames.
        for name in ["outside", "inside"] {
            program_mut(&mut ebpf, "clock")
                .attach(name, XdpMode::Driver)
                .expect("attach clock");
        }
        let index = |name: &str| {
            nix::net::if_::if_nametoindex(name).expect("an interface that was just made")
        };
        let settings = Settings {
            zero: 0,
            any_port: 0,
            timeouts: TIMEOUTS,
            max_connections: u64::from(options.max_connections),
            removed_by_daemon: 0,
            seed: 0x0123_4567_89ab_cdef,
        };
        let mut this = Self {
            ebpf,
            outside: index("outside"),
            inside: index("inside"),
            settings,
            generation: 0,
            reals: 0,
            services: 0,
            ring_slots: 0,
            home,
        };
        this.change_settings(|_| {});
        this.raise_generation();
        for ifindex in [this.outside, this.inside] {
            this.devices()
                .insert(ifindex, ifindex, None, 0)
                .expect("insert into DEVICES");
        }
        this
    }

    /// Runs one frame through the program.
    #[must_use]
    pub fn send(&self, from: Side, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program: &Xdp = self
            .ebpf
            .program("balancer")
            .expect("balancer")
            .try_into()
            .expect("XDP");
        let (number, out) = test_run(program, self.ifindex(from), frame);
        (Verdict::from_number(number), out)
    }

    /// Runs one packet through the program and throws the result away: how a test gets to the state from
    /// which it starts. What happens on the way has cases of its own.
    pub fn pass_through(&self, from: Side, packet: &Packet) {
        let (verdict, _) = self.send(from, &packet.bytes());
        assert!(
            matches!(verdict, Verdict::Redirect | Verdict::Transmit),
            "a packet on the way to the test's start got {verdict:?}: {packet:?}"
        );
    }

    /// The interface index of a side.
    #[must_use]
    pub const fn ifindex(&self, side: Side) -> u32 {
        match side {
            Side::Outside => self.outside,
            Side::Inside => self.inside,
        }
    }

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

    /// Writes a real server.
    pub fn set_real(&mut self, id: u32, address: IpAddr, port: u16, state: u32) {
        self.announce(address);
        let real = RealServer {
            address: Addr::from(address),
            port: port.to_be(),
            zero: 0,
            state,
            service: 0,
        };
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
            flags: 0,
        };
        self.announce(vip);
        for real in ring {
            let mut value: RealServer = self.array("REALS").get(real, 0).expect("read REALS");
            value.service = id;
            self.array_mut("REALS")
                .set(*real, value, 0)
                .expect("write REALS");
        }
        self.set_ring(service, ring);
        service
    }

    /// Makes the service reject, instead of drop, what no real server takes.
    pub fn reject_without_reals(&mut self, service: ServiceHandle, ring: &[u32]) {
        self.set_ring(
            ServiceHandle {
                flags: balancer_common::service::REJECT,
                ..service
            },
            ring,
        );
    }

    /// Gives a service a new ring.
    pub fn set_ring(&mut self, service: ServiceHandle, ring: &[u32]) {
        let offset = self.ring_slots;
        self.ring_slots += ring.len() as u32;
        for (slot, real) in (offset..).zip(ring) {
            self.array_mut("RINGS")
                .set(slot, *real, 0)
                .expect("write RINGS");
        }
        let value = Service {
            ring: Ring {
                offset,
                length: ring.len() as u32,
            },
            id: service.id,
            flags: service.flags,
        };
        let (port, protocol) = (service.port.to_be(), u16::from(service.protocol));
        match service.vip {
            IpAddr::V4(vip) => {
                let address = u32::from_ne_bytes(vip.octets());
                let key = ServiceKey {
                    address,
                    port,
                    protocol,
                };
                self.hash_mut("SERVICES_V4")
                    .insert(key, value, 0)
                    .expect("write SERVICES_V4");
            }
            IpAddr::V6(_) => {
                let key = ServiceKey {
                    address: Addr::from(service.vip).0,
                    port,
                    protocol,
                };
                self.hash_mut("SERVICES_V6")
                    .insert(key, value, 0)
                    .expect("write SERVICES_V6");
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

    /// Raises the route generation of both interfaces.
    pub fn raise_generation(&mut self) {
        self.generation += 1;
        for (ifindex, mac) in [(self.outside, LB_OUTSIDE), (self.inside, LB_INSIDE)] {
            let interface = Interface::new(mac, self.generation);
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

    /// The kernel's jiffies now, as the program sees them.
    #[must_use]
    pub fn jiffies(&self) -> u64 {
        let program: &Xdp = self
            .ebpf
            .program("clock")
            .expect("clock")
            .try_into()
            .expect("XDP");
        let (_, out) = test_run(program, self.outside, &[0; 64]);
        u64::from_ne_bytes(out[..8].try_into().expect("eight bytes"))
    }

    /// The IPv4 rows.
    #[must_use]
    pub fn rows_v4(&self) -> Vec<(FlowKey<u32>, ConntrackEntry<u32>)> {
        self.hash("CONNTRACK_V4")
            .iter()
            .map(|row| row.expect("a row"))
            .collect()
    }

    /// The IPv6 rows.
    #[must_use]
    pub fn rows_v6(&self) -> Vec<(FlowKey<[u32; 4]>, ConntrackEntry<[u32; 4]>)> {
        self.hash("CONNTRACK_V6")
            .iter()
            .map(|row| row.expect("a row"))
            .collect()
    }

    /// Changes every IPv4 row.
    pub fn change_rows_v4(&mut self, change: impl Fn(&mut ConntrackEntry<u32>)) {
        for (key, mut row) in self.rows_v4() {
            change(&mut row);
            self.hash_mut("CONNTRACK_V4")
                .insert(key, row, 0)
                .expect("write CONNTRACK_V4");
        }
    }

    /// Deletes the connection of this, a client's packet, as the daemon does.
    pub fn delete_connection_v4(&mut self, packet: &Packet) {
        let mut rows = self.rows_v4().into_iter();
        let (key, row) = rows
            .find(|(key, row)| {
                row.direction == direction::ORIGINAL
                    && key.source_port == packet.source_port.to_be()
                    && key.destination_port == packet.destination_port.to_be()
                    && key.protocol == u32::from(packet.protocol())
            })
            .expect("the packet's connection");
        let other = other_half(&key, &row);
        let mut table = self.hash_mut::<FlowKey<u32>, ConntrackEntry<u32>>("CONNTRACK_V4");
        table.remove(&key).expect("the original row");
        table.remove(&other).expect("the reply row");
    }

    /// The records of handshakes, under way or ended.
    #[must_use]
    pub fn half_open(&self) -> Vec<HalfOpen> {
        self.half_open_buckets()
            .iter()
            .flat_map(|bucket| bucket.records)
            .filter(|record| record.state != 0)
            .collect()
    }

    /// Changes every record of a handshake.
    pub fn change_half_open(&mut self, change: impl Fn(&mut HalfOpen)) {
        for (index, mut bucket) in (0..).zip(self.half_open_buckets()) {
            let mut used = bucket
                .records
                .iter_mut()
                .filter(|record| record.state != 0)
                .peekable();
            if used.peek().is_some() {
                used.for_each(&change);
                self.array_mut("HALF_OPEN")
                    .set(index, bucket, 0)
                    .expect("write HALF_OPEN");
            }
        }
    }

    /// Frees the records of handshakes that have ended: otherwise they translate for a moment longer.
    pub fn forget_handshakes(&mut self) {
        self.change_half_open(|record| *record = HalfOpen::default());
    }

    fn half_open_buckets(&self) -> Vec<HalfOpenBucket> {
        let Some(Map::Array(map)) = self.ebpf.map("HALF_OPEN") else {
            panic!("no array HALF_OPEN");
        };
        bulk::read_array(&map.fd().as_fd(), half_open::BUCKETS)
    }

    /// What the kernel tells about the loaded packet program.
    #[must_use]
    pub fn program_info(&self) -> ProgramInfo {
        let program: &Xdp = self
            .ebpf
            .program("balancer")
            .expect("balancer")
            .try_into()
            .expect("XDP");
        program.info().expect("program info")
    }

    /// The packet program, for tests that run it from threads of their own.
    #[must_use]
    pub fn program(&self) -> &Xdp {
        self.ebpf
            .program("balancer")
            .expect("balancer")
            .try_into()
            .expect("XDP")
    }

    /// All maps of the object.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps()
    }

    pub(crate) fn array<V: Pod>(&self, name: &str) -> Array<&MapData, V> {
        self.ebpf
            .map(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }

    pub(crate) fn array_mut<V: Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        self.ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }

    pub(crate) fn per_cpu<V: Pod>(&self, name: &str) -> PerCpuArray<&MapData, V> {
        self.ebpf
            .map(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<&MapData, K, V> {
        self.ebpf
            .map(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }

    fn hash_mut<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        self.ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        // The namespace goes when nothing is in it any more; the thread may have another test to run.
        if let Err(error) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to the first network namespace: {error}");
        }
    }
}

/// The key of the other row of a connection, which the row with this key names by its translation.
#[must_use]
pub fn other_half<A: Copy>(key: &FlowKey<A>, row: &ConntrackEntry<A>) -> FlowKey<A> {
    FlowKey {
        source: row.translation.destination,
        destination: row.translation.source,
        source_port: row.translation.destination_port,
        destination_port: row.translation.source_port,
        ..*key
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

/// Runs `frame`, as if it had come in by the interface `ifindex`, through `program`: the verdict's number and
/// the frame afterwards.
pub fn test_run(program: &Xdp, ifindex: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut out = vec![0; frame.len() + 256];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        })
        .expect("test run");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// Runs an `ip` command in this thread's namespace.
///
/// # Panics
/// It fails.
pub fn ip(command: &str) {
    ip_batch(command);
}

fn ip_batch(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start ip (package iproute2)");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(commands.as_bytes())
        .expect("write to ip");
    assert!(
        child.wait().expect("wait for ip").success(),
        "ip refused one of:\n{commands}"
    );
}

/// Two veth pairs, the addresses, and next hops with fixed MAC addresses.
fn set_up_network() {
    let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    // No address of its own may come in between: a test's routes are what the test says.
    for name in ["all", "default"] {
        sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
        sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0");
        sysctl(&format!("ipv6/conf/{name}/forwarding"), "1");
        sysctl(&format!("ipv4/conf/{name}/forwarding"), "1");
    }
    ip_batch(&format!(
        "link set lo up
link add outside address {outside} type veth peer name outside-peer
link add inside address {inside} type veth peer name inside-peer
link set outside up
link set outside-peer up
link set inside up
link set inside-peer up
addr add {V}/32 dev lo
addr add {V6}/128 dev lo
addr add 203.0.113.2/24 dev outside
addr add 2001:db8:f::2/64 dev outside
addr add {S}/24 dev inside
addr add {S6}/64 dev inside
neigh add {T} lladdr {gateway} dev outside nud permanent
neigh add {T6} lladdr {gateway} dev outside nud permanent
neigh add {R} lladdr {real} dev inside nud permanent
neigh add {R6} lladdr {real} dev inside nud permanent
neigh add {R2} lladdr {real2} dev inside nud permanent
neigh add {R26} lladdr {real2} dev inside nud permanent
route add default via {T}
route add default via {T6}
",
        outside = mac(LB_OUTSIDE),
        inside = mac(LB_INSIDE),
        gateway = mac(GATEWAY),
        real = mac(REAL),
        real2 = mac(REAL2),
    ));
}

/// Writes a network sysctl of this thread's namespace, named by its path below `net`.
///
/// # Panics
/// It cannot be written.
pub fn sysctl(path: &str, value: &str) {
    let path = format!("/proc/sys/net/{path}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name)
        .unwrap_or_else(|| panic!("the object has no program {name}"))
        .try_into()
        .expect("an XDP program")
}

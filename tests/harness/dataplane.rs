//! The packet program, loaded without pins into maps of its own, in a network namespace of its own in which
//! the kernel's route look-ups find the set-up of the packet cases.

use std::{
    collections::BTreeMap,
    fs::File,
    mem::{self, ManuallyDrop},
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramError, ProgramInfo, Xdp, XdpMode, xdp::XdpLinkId},
};
use balancer_common::{
    addr::Addr,
    conntrack::{BucketV4, BucketV6, TimeoutSettings, Timeouts},
    flow_hash::{self, Seed},
    load::RealLoad,
    programs,
    real_server::{MAX_REALS, RealServer},
    settings::Settings,
    snat::MAX_SNAT_ADDRESSES,
};
use balancer_ctl::dataplane::object::OBJECT;
use nix::sched::{CloneFlags, setns, unshare};

use crate::{addresses::V, initial, mapped::Mapped, network, packet::Packet, privileged};

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

/// Map sizes and settings that a test may want otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Connections of either family that the tables are sized for.
    pub max_connections: u32,
    /// Clients that `PERSISTENCE` is sized for.
    pub max_clients: u32,
    /// `AYA_LOG_LEVEL`: 0 = off, 5 = all.
    pub log_level: u8,
}

impl Options {
    /// What most tests run with.
    pub const DEFAULT: Self = Self {
        max_connections: 256,
        max_clients: 1_024,
        log_level: 0,
    };
    /// For tests with some thousands of connections.
    pub const ROOMY: Self = Self {
        max_connections: 8_192,
        ..Self::DEFAULT
    };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The timeouts that tests run with, in jiffies: far apart, so that none can be taken for another.
pub const TIMEOUTS: TimeoutSettings = TimeoutSettings {
    established: 900_000,
    closing: 120_000,
    udp: 300_000,
    udp_unreplied: 30_000,
    half_open: 60_000,
};

/// The seed of the tables' hash that tests run with.
pub const SEED: Seed = Seed {
    ports: [0x0123_4567, 0x89ab_cdef],
    addresses: [
        0x243f_6a88,
        0x85a3_08d3,
        0x1319_8a2e,
        0x0370_7344,
        0xa409_3822,
        0x299f_31d0,
        0x082e_fa98,
        0xec4e_6c89,
    ],
};

/// Objects that a test is done with, their maps as after the load, and what they were loaded with.
static LOADED: Mutex<Vec<(Options, Ebpf)>> = Mutex::new(Vec::new());

/// The loaded program and everything around it.
pub struct Dataplane {
    pub(crate) ebpf: ManuallyDrop<Ebpf>,
    pub(crate) memory: Memory,
    options: Options,
    links: Vec<XdpLinkId>,
    /// Interface index of the outside interface.
    pub outside: u32,
    /// Interface index of the inside interface.
    pub inside: u32,
    /// The settings as they stand in `SETTINGS`.
    pub(crate) settings: Settings,
    /// Whether what leaves where it came in is redirected.
    pub(crate) redirects: bool,
    /// Real ids given so far.
    pub(crate) reals: u32,
    /// Service ids given so far.
    pub(crate) services: u32,
    pub(crate) ring_slots: u32,
    /// Rule ids given so far; they begin with 1.
    pub(crate) rules: u32,
    /// Whether a service limits its clients' connections.
    pub(crate) limits: bool,
    /// What the loads of real servers hold beside the connections of the tables, see [`Dataplane::set_load`].
    pub(crate) beside: BTreeMap<u32, u64>,
    /// Whether the maps hold what no daemon would write.
    is_filled: bool,
    home: File,
}

/// The maps that tests look at most, as memory.
pub struct Memory {
    pub(crate) v4: Mapped<BucketV4>,
    pub(crate) v6: Mapped<BucketV6>,
    pub(crate) reals: Mapped<RealServer>,
    pub(crate) snat_addresses: Mapped<Addr>,
    pub(crate) loads: Mapped<RealLoad>,
}

impl Memory {
    fn of(ebpf: &Ebpf, options: Options) -> Self {
        let array = |name: &str| match ebpf.map(name) {
            Some(Map::Array(map)) => map.fd().as_fd(),
            _ => panic!("no array {name}"),
        };
        let buckets = flow_hash::buckets_for(options.max_connections) as usize;
        Self {
            v4: Mapped::new(array("CONNTRACK_V4"), buckets),
            v6: Mapped::new(array("CONNTRACK_V6"), buckets),
            reals: Mapped::new(array("REALS"), MAX_REALS as usize),
            snat_addresses: Mapped::new(array("SNAT_ADDRESSES"), 2 * MAX_SNAT_ADDRESSES as usize),
            // One value that holds them all.
            loads: Mapped::new(array("REAL_LOADS"), MAX_REALS as usize),
        }
    }
}

/// Runs a test on a program whose maps are as after the load, or skips it (see [`privileged::skipped`]).
pub fn run(test: impl FnOnce(&mut Dataplane)) {
    run_with(Options::default(), test);
}

/// As [`run`], with other sizes.
pub fn run_with(options: Options, test: impl FnOnce(&mut Dataplane)) {
    if privileged::skipped() {
        return;
    }
    let mut lb = Dataplane::load(options);
    test(&mut lb);
    if !lb.is_filled {
        lb.assert_all_loads_are_exact();
    }
}

impl Dataplane {
    fn load(options: Options) -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("open this thread's namespace");
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace (needs root)");
        network::set_up();

        let mut ebpf = take(options).unwrap_or_else(|| load(options));
        // A veth has the receive queue that a test run names only while a program is attached. `clock` is
        // at hand, and nothing here listens to what it does to frames.
        let links = ["outside", "inside"].map(|name| {
            program_mut(&mut ebpf, "clock")
                .attach(name, XdpMode::Driver)
                .expect("attach clock")
        });
        let index = |name: &str| {
            nix::net::if_::if_nametoindex(name).expect("an interface that was just made")
        };
        let settings = Settings {
            timeouts: Timeouts::new(&TIMEOUTS),
            buckets: [flow_hash::buckets_for(options.max_connections); 2],
            seed: SEED,
            ..Settings::default()
        };
        let mut this = Self {
            memory: Memory::of(&ebpf, options),
            ebpf: ManuallyDrop::new(ebpf),
            options,
            links: links.into(),
            outside: index("outside"),
            inside: index("inside"),
            settings,
            redirects: false,
            reals: 0,
            services: 0,
            ring_slots: 0,
            rules: 0,
            limits: false,
            beside: BTreeMap::new(),
            is_filled: false,
            home,
        };
        this.change_settings(|_| {});
        this.write_interfaces();
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

    /// The kernel's jiffies now, as the program sees them.
    #[must_use]
    pub fn jiffies(&self) -> u64 {
        self.clock()[0]
    }

    /// The kernel's monotonic clock in nanoseconds, as the program sees it.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        self.clock()[1]
    }

    /// What the program `clock` writes.
    fn clock(&self) -> [u64; 2] {
        let program: &Xdp = self
            .ebpf
            .program("clock")
            .expect("clock")
            .try_into()
            .expect("XDP");
        let (_, out) = test_run(program, self.outside, &[0; 64]);
        [0, 8].map(|at| u64::from_ne_bytes(out[at..at + 8].try_into().expect("eight bytes")))
    }

    /// What the kernel tells about the loaded packet program.
    #[must_use]
    pub fn program_info(&self) -> ProgramInfo {
        self.info_of("balancer")
    }

    /// What the kernel tells about a loaded program.
    #[must_use]
    pub fn info_of(&self, name: &str) -> ProgramInfo {
        let program: &Xdp = self
            .ebpf
            .program(name)
            .unwrap_or_else(|| panic!("no program {name}"))
            .try_into()
            .expect("XDP");
        program.info().expect("program info")
    }

    /// A program that packets do not go through, loaded if no test has done so.
    ///
    /// # Panics
    /// There is none of that name, or the kernel refuses it.
    pub fn loaded(&mut self, name: &str) -> &Xdp {
        let program = program_mut(&mut self.ebpf, name);
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => program,
            Err(error) => panic!("load the program {name}: {error:#}"),
        }
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

    pub(crate) fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<&MapData, K, V> {
        self.ebpf
            .map(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }

    pub(crate) fn hash_mut<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        self.ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("no map {name}"))
            .try_into()
            .expect(name)
    }
}

impl Dataplane {
    /// What all maps hold; see [`initial::contents`].
    ///
    /// # Panics
    /// One cannot be read.
    #[must_use]
    pub fn contents(&self) -> Vec<(String, Vec<initial::Content>)> {
        initial::contents(&self.ebpf).expect("read the maps")
    }

    /// Writes something into every map, as `initial::fill` does.
    ///
    /// # Panics
    /// That fails.
    pub fn fill(&mut self) {
        self.is_filled = true;
        self.add_service(6, V, 80, &[1, 1, 1]);
        initial::fill(&self.ebpf, self.ring_slots).expect("write the maps");
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        for link in mem::take(&mut self.links) {
            if let Err(error) = program_mut(&mut self.ebpf, "clock").detach(link) {
                eprintln!("cannot detach clock: {error}");
            }
        }
        // The namespace goes when nothing is in it any more; the thread may have another test to run.
        if let Err(error) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to the first network namespace: {error}");
        }
        // SAFETY: this is the end of the value, and nothing below looks at the member.
        let ebpf = unsafe { ManuallyDrop::take(&mut self.ebpf) };
        if !initial::can_be_used_again(&self.options) {
            return;
        }
        match initial::restore(&ebpf, self.ring_slots) {
            Ok(()) => LOADED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((self.options, ebpf)),
            Err(error) => eprintln!("cannot empty the maps: {error}"),
        }
    }
}

/// Loads the object.
fn load(options: Options) -> Ebpf {
    let mut ebpf = EbpfLoader::new()
        .map_max_entries(
            "CONNTRACK_V4",
            flow_hash::buckets_for(options.max_connections),
        )
        .map_max_entries(
            "CONNTRACK_V6",
            flow_hash::buckets_for(options.max_connections),
        )
        .map_max_entries("PERSISTENCE", options.max_clients)
        .map_max_entries("PERSISTENCE_UDP", options.max_clients)
        .map_max_entries("INTERFACES", 64)
        .override_global("AYA_LOG_LEVEL", &options.log_level, true)
        .load(OBJECT)
        .unwrap_or_else(|error| panic!("load the object: {error:?}"));
    // The others are loaded where a test needs them: the verifier takes its time.
    for name in ["balancer", "clock"].into_iter().chain(programs::CALLED) {
        program_mut(&mut ebpf, name)
            .load()
            .unwrap_or_else(|error| panic!("load the program {name}: {error:#}"));
    }
    for (place, name) in (0..).zip(programs::CALLED) {
        let called = program_mut(&mut ebpf, name);
        let called = called.fd().expect("a loaded program");
        let called = called.try_clone().expect("another descriptor");
        let mut programs: ProgramArray<_> = ebpf
            .map_mut("PROGRAMS")
            .expect("PROGRAMS")
            .try_into()
            .expect("a program array");
        programs.set(place, &called, 0).expect("write PROGRAMS");
    }
    ebpf
}

/// Takes an object that an earlier test is done with.
fn take(options: Options) -> Option<Ebpf> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = loaded.iter().position(|(with, _)| *with == options)?;
    Some(loaded.swap_remove(at).1)
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

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name)
        .unwrap_or_else(|| panic!("the object has no program {name}"))
        .try_into()
        .expect("an XDP program")
}

//! A balancer between a client and two real servers, each in a network namespace, with a data plane of its own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use balancer_ctl::{
    config::read::DEFAULT_SNAT_PORTS,
    dataplane::{
        Connections, Dataplane, Real, Service,
        kernel::{self, KernelDataplane, OpenOptions},
    },
    model::{
        DataplaneSettings, Filter, ForwardMethod, Hairpin, HashKey, Mode, NoReal, Protocol,
        Scheduler, ServiceKey, StrayReplies, Timeouts,
    },
};
use balancer_tests::pass;
use nix::net::if_::if_nametoindex;
use xtask::lab::Namespace;

/// The namespaces, and the instance name of the data plane.
pub struct Scene {
    pub client: Namespace,
    pub balancer: Namespace,
    pub reals: [Namespace; 2],
    pub instance: String,
}

/// The service's address.
pub const VIP: &str = "192.168.1.35:80";

impl Scene {
    /// Has the client listen, as long as the value lives: what the balancer sends back on a veth arrives only where a program does.
    pub fn listen(&self) -> OwnedFd {
        let attach = || pass::attach(if_nametoindex("eth0").unwrap()).unwrap();
        self.client.run(attach).unwrap()
    }

    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Namespace::sweep("dp");
        let namespace = || Namespace::new("dp").unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let scene = Self {
            client: namespace(),
            balancer: namespace(),
            reals: [namespace(), namespace()],
            instance: format!("test-{}-{number}", std::process::id()),
        };
        let Self {
            client,
            balancer,
            reals,
            instance: _,
        } = &scene;
        balancer.connect("outside", client, "eth0").unwrap();
        balancer.connect("port1", &reals[0], "eth0").unwrap();
        balancer.connect("port2", &reals[1], "eth0").unwrap();
        balancer.address("outside", "192.168.1.35/24").unwrap();
        balancer.address("port1", "10.0.1.1/24").unwrap();
        balancer.address("port2", "10.0.2.1/24").unwrap();
        client.address("eth0", "192.168.1.10/24").unwrap();
        for (number, real) in (1..).zip(reals) {
            real.address("eth0", &format!("10.0.{number}.2/24"))
                .unwrap();
            real.gateway(&format!("10.0.{number}.1")).unwrap();
            real.plain_frames("eth0").unwrap();
            real.polling("eth0").unwrap();
        }
        client.plain_frames("eth0").unwrap();
        client.polling("eth0").unwrap();
        for port in ["outside", "port1", "port2"] {
            balancer.polling(port).unwrap();
        }
        scene
    }

    /// Runs `work` with the data plane open, in the balancer's namespace.
    pub fn with<T: Send>(
        &self,
        settings: DataplaneSettings,
        work: impl FnOnce(&mut KernelDataplane) -> T + Send,
    ) -> T {
        self.balancer
            .run(|| work(&mut self.open(settings).unwrap()))
            .unwrap()
    }

    /// Opens the data plane. Call it in the balancer's namespace.
    pub fn open(
        &self,
        settings: DataplaneSettings,
    ) -> Result<KernelDataplane, balancer_ctl::dataplane::DataplaneError> {
        self.open_with(settings, Vec::new())
    }

    /// Opens the data plane, filled with `services` if it starts anew. Call it in the balancer's namespace.
    pub fn open_with(
        &self,
        settings: DataplaneSettings,
        services: Vec<Service>,
    ) -> Result<KernelDataplane, balancer_ctl::dataplane::DataplaneError> {
        KernelDataplane::open(OpenOptions {
            instance: Some(self.instance.clone()),
            settings,
            services,
            packet_log: None,
        })
    }

    /// Opens the data plane in the balancer's namespace, and returns the error that this gives.
    pub fn open_error(&self, settings: DataplaneSettings, services: Vec<Service>) -> String {
        self.balancer
            .run(|| {
                let opened = self.open_with(settings, services).map(drop);
                opened.unwrap_err().to_string()
            })
            .unwrap()
    }

    /// The path of a pin of the present map layout.
    pub fn pin(&self, name: &str) -> PathBuf {
        let layout = format!("v{}", balancer_common::ABI_VERSION);
        self.pins().join(layout).join(name)
    }

    /// A pinned map of the data plane.
    pub fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pin(name)).unwrap()
    }

    /// A pinned array map of the data plane.
    pub fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        Map::Array(self.map(name)).try_into().unwrap()
    }

    /// The directory of the instance's pins.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/balancer").join(&self.instance)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let instance = self.instance.clone();
        let down = self
            .balancer
            .run(|| kernel::detach(Some(&instance)).map_err(|error| error.to_string()));
        if let Ok(Err(error)) = down
            && !std::thread::panicking()
        {
            panic!("the data plane cannot be taken down: {error}");
        }
    }
}

pub fn settings(interfaces: &[&str]) -> DataplaneSettings {
    DataplaneSettings {
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
        mode: Mode::Auto,
        max_connections: 1000,
        max_connections_ipv6: 1000,
        max_persistence: 1024,
        stray_replies: StrayReplies::Pass,
        snat_addresses: Vec::new(),
        snat_ports: DEFAULT_SNAT_PORTS,
        timeouts: Timeouts {
            tcp: Duration::from_secs(900),
            tcp_fin: Duration::from_secs(120),
            udp: Duration::from_secs(300),
        },
    }
}

pub fn all() -> DataplaneSettings {
    settings(&["outside", "port1", "port2"])
}

pub fn key(address: &str) -> ServiceKey {
    ServiceKey {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
    }
}

pub fn service(address: &str, reals: &[(&str, u32)]) -> Service {
    let reals = reals.iter().map(|(address, weight)| Real {
        address: address.parse::<SocketAddr>().unwrap(),
        weight: *weight,
        hash_weight: *weight,
        takes_persistent: false,
        upper: 0,
        lower: 0,
        forwarding: ForwardMethod::Nat,
        connections: Connections::Keep,
    });
    Service {
        key: key(address),
        scheduler: Scheduler::Wrr,
        hash: HashKey::Client,
        persistence: None,
        no_real: NoReal::Reject,
        hairpin: Hairpin::FullNat,
        filter: Filter::default(),
        unit: 1,
        reals: reals.collect(),
    }
}

/// More services than fit into the tables.
pub fn too_many() -> Vec<Service> {
    (1..=5000)
        .map(|port| service(&format!("192.168.1.35:{port}"), &[("10.0.1.2:8080", 1)]))
        .collect()
}

/// Runs the data plane's maintenance until `done`, for at most 10 s.
pub fn maintain_until(
    dataplane: &mut KernelDataplane,
    done: impl FnMut(&mut KernelDataplane) -> bool,
) {
    maintain_within(Duration::from_secs(10), dataplane, done);
}

/// Runs the data plane's maintenance until `done`, for at most `limit`.
pub fn maintain_within(
    limit: Duration,
    dataplane: &mut KernelDataplane,
    mut done: impl FnMut(&mut KernelDataplane) -> bool,
) {
    let start = Instant::now();
    while !done(dataplane) {
        assert!(start.elapsed() < limit, "{:?}", dataplane.status());
        dataplane.run_maintenance().unwrap();
        std::thread::sleep(dataplane.next_maintenance().min(Duration::from_millis(50)));
    }
}

/// Runs the data plane's maintenance without pauses as long as a sweep is in progress, and returns how long each step took.
/// Work that is due later, a round of the neighbours for instance, is not waited for.
pub fn maintain_now(dataplane: &mut KernelDataplane) -> Vec<Duration> {
    /// What `next_maintenance` says between two steps of a sweep.
    const SLICE_PAUSE: Duration = Duration::from_millis(20);
    let mut steps = Vec::new();
    while steps.is_empty() || dataplane.next_maintenance() <= SLICE_PAUSE {
        assert!(steps.len() < 10_000, "{:?}", dataplane.status());
        let start = Instant::now();
        dataplane.run_maintenance().unwrap();
        steps.push(start.elapsed());
    }
    steps
}

/// Both real servers behind the VIP.
pub fn both() -> Vec<Service> {
    vec![service(VIP, &[("10.0.1.2:8080", 1), ("10.0.2.2:8080", 1)])]
}

/// Answers each connection with `name`, then every byte with itself until an `x` or the end.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok()
                    && byte != *b"x"
                    && stream.write_all(&byte).is_ok()
                {}
            });
        }
    });
}

/// Starts both real servers, `A` and `B`.
pub fn start_reals(scene: &Scene) {
    for (namespace, name) in scene.reals.iter().zip(["A", "B"]) {
        let listener = namespace
            .run(|| TcpListener::bind("0.0.0.0:8080"))
            .unwrap()
            .unwrap();
        serve(listener, name);
    }
}

/// Opens a connection from the client and returns it with the name of the real server that answers.
pub fn connect(scene: &Scene) -> (TcpStream, String) {
    let stream = scene.client.run(|| {
        let address: SocketAddr = VIP.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        std::io::Result::Ok((stream, String::from_utf8_lossy(&name).into_owned()))
    });
    stream.unwrap().unwrap()
}

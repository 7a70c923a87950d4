//! The self-test of the packet program before it is attached: a handshake, data both ways, a datagram with its answer,
//! a stray segment and a packet of no service go through it by `BPF_PROG_TEST_RUN`, with maps and a network namespace
//! of its own.
//!
//! A verifier that takes two different states of a program for one removes instructions that are needed. Such a program
//! loads and attaches without an error: on Linux 6.1 no TCP connection worked once.

pub(super) mod frame;
mod report;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, MapData},
};
use balancer_common::{
    addr::{Addr, Address, TCP, UDP},
    address_filter::bit_of,
    conntrack::{Bucket, TimeoutSettings, Timeouts},
    flow_hash::Seed,
    next_hop::{NextHop, NextHopRef, RouteVersions, place, slot},
    real_server::{RealServer, state},
    scheduler::{Ring, SLOTS_PER_WORD},
    service::{REJECT, Service, ServiceKey},
    settings::{Interface, MAX_INTERFACES, Settings},
};
use nix::sched::{CloneFlags, unshare};

use self::{
    frame::{Content, Frame, NEIGHBOUR, NEXT_HOP, OURS, segment},
    report::{difference, refusal},
};
use super::load;
use crate::{
    dataplane::object::OBJECT,
    os::{
        paths,
        state_file::{StateFile, boot_id},
    },
};

/// The loopback interface of a new network namespace, by which test runs enter.
const INTERFACE: u32 = 1;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
struct Endpoints {
    client: IpAddr,
    vip: IpAddr,
    real: IpAddr,
}

/// Buckets of the connection tables: enough for the few connections here.
const BUCKETS: u32 = 8;

const SERVICE_PORT: u16 = 80;
const REAL_PORT: u16 = 8080;

fn endpoints() -> [Endpoints; 2] {
    let v4 = |last| IpAddr::from([192, 0, 2, last]);
    let v6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    [
        Endpoints {
            client: v4(1),
            vip: v4(2),
            real: v4(3),
        },
        Endpoints {
            client: v6(1),
            vip: v6(2),
            real: v6(3),
        },
    ]
}

/// What the program is expected to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Drop,
    Pass,
    Transmit,
}

impl Verdict {
    const fn number(self) -> u32 {
        match self {
            Self::Drop => 1,
            Self::Pass => 2,
            Self::Transmit => 3,
        }
    }
}

/// Runs the self-test, once per boot and program: success is noted in a file, since verifying the program takes most of
/// a start. `log_level` is that of the program under test.
///
/// # Errors
/// The program gave a wrong answer, with a sentence that says where; or it could not be tested.
pub fn run_once(log_level: u8) -> anyhow::Result<()> {
    let note = StateFile::at(&paths::proved());
    let text = note_text(log_level);
    if note.read().is_ok_and(|noted| noted == text) {
        return Ok(());
    }
    run_with_port(log_level, REAL_PORT)?;
    // Without the note the next start runs the test again.
    if let Err(error) = note.replace(|file| file.write_all(text.as_bytes())) {
        tracing::debug!("cannot note that the packet program was proved: {error}");
    }
    Ok(())
}

/// The note's content: a hash of the program, its log level and the boot id.
fn note_text(log_level: u8) -> String {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    let boot = boot_id().unwrap_or_default();
    format!("{:016x} {log_level} {boot}", hasher.finish())
}

/// As [`run_once`], but always, and with a real server's port other than the expected one: a test sees the refusal.
#[doc(hidden)]
pub fn run_with_port(log_level: u8, real_port: u16) -> anyhow::Result<()> {
    // In a thread of its own, so that the caller stays in its network namespace.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("proof".into())
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET)
                    .context(
                        "cannot make a network namespace to try the packet program in (is user.max_net_namespaces 0, or does the \
                         service's unit restrict namespaces?)",
                    )?;
                let mut run = TrialRun::begin(log_level, real_port)?;
                endpoints()
                    .iter()
                    .try_for_each(|endpoints| run_family(&mut run, endpoints))
            })
            .context("cannot start the thread that tries the packet program")?
            .join()
            .map_err(|_| anyhow!("the thread that tried the packet program failed"))?
    })
}

/// Sends the packets of one family.
fn run_family(run: &mut TrialRun, endpoints: &Endpoints) -> anyhow::Result<()> {
    let vip = SocketAddr::new(endpoints.vip, SERVICE_PORT);
    let real = SocketAddr::new(endpoints.real, REAL_PORT);
    let client = |port| SocketAddr::new(endpoints.client, port);
    let tcp = client(40_000);

    // The namespace has no routes, so translated packets are dropped until they are given next hops.
    let syn = Frame::new(tcp, vip, segment(true, false, 1000, 0), b"");
    run.expect(
        "a client's SYN",
        syn,
        Verdict::Drop,
        syn.translated(tcp, real),
    )?;
    let answer = Frame::new(real, tcp, segment(true, true, 9000, 1001), b"");
    run.expect(
        "a real server's SYN|ACK",
        answer,
        Verdict::Drop,
        answer.translated(vip, tcp),
    )?;
    let ack = Frame::new(tcp, vip, segment(false, true, 1001, 9001), b"");
    run.expect(
        "the last ACK of a handshake",
        ack,
        Verdict::Drop,
        ack.translated(tcp, real),
    )?;
    run.set_next_hops(endpoints, "a handshake")?;
    let data = Frame::new(tcp, vip, segment(false, true, 1001, 9001), b"question");
    run.expect(
        "a client's data",
        data,
        Verdict::Transmit,
        data.forwarded(tcp, real),
    )?;
    let data = Frame::new(real, tcp, segment(false, true, 9001, 1009), b"answer");
    run.expect(
        "a real server's data",
        data,
        Verdict::Transmit,
        data.forwarded(vip, tcp),
    )?;

    let udp = client(40_001);
    let query = Frame::new(udp, vip, Content::Datagram, b"query");
    run.expect(
        "a client's datagram",
        query,
        Verdict::Drop,
        query.translated(udp, real),
    )?;
    run.set_next_hops(endpoints, "a datagram")?;
    let reply = Frame::new(real, udp, Content::Datagram, b"reply");
    run.expect(
        "a real server's datagram",
        reply,
        Verdict::Transmit,
        reply.forwarded(vip, udp),
    )?;

    let stray = Frame::new(client(40_002), vip, segment(false, true, 5000, 6000), b"");
    let reset = Frame {
        macs: [NEIGHBOUR, OURS],
        content: Content::Segment {
            syn: false,
            ack: false,
            rst: true,
            sequence: 6000,
            acknowledgement: 0,
        },
        ..stray.translated(vip, stray.from)
    };
    run.expect("a stray segment", stray, Verdict::Transmit, reset)?;
    let other = SocketAddr::new(endpoints.vip, 22);
    let other = Frame::new(tcp, other, segment(true, false, 1, 0), b"");
    run.expect("a packet of no service", other, Verdict::Pass, other)
}

/// The program under test, with maps of its own.
struct TrialRun {
    ebpf: Ebpf,
    /// Number of conntrack entries by family, when they were last counted.
    entries: [usize; 2],
}

impl TrialRun {
    fn begin(log_level: u8, real_port: u16) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("CONNTRACK_V4", BUCKETS)
            .map_max_entries("CONNTRACK_V6", BUCKETS)
            // As large as in production, since the verifier knows the bounds of arrays.
            .map_max_entries("INTERFACES", MAX_INTERFACES)
            .override_global(aya_log::LEVEL, &log_level, false);
        let mut ebpf = loader
            .load(OBJECT)
            .context("cannot load the packet program's maps")?;
        load::load_programs(&mut ebpf)?;
        let mut run = Self {
            ebpf,
            entries: [0; 2],
        };
        run.fill(real_port)?;
        Ok(run)
    }

    fn fill(&mut self, real_port: u16) -> anyhow::Result<()> {
        const LONG: u32 = 1 << 24;
        let timeouts = Timeouts::new(&TimeoutSettings {
            established: LONG,
            closing: LONG,
            udp: LONG,
            udp_unreplied: LONG,
            half_open: LONG,
        });
        let settings = Settings {
            timeouts,
            buckets: [BUCKETS; 2],
            seed: Seed {
                ports: [1, 2],
                addresses: [3, 4, 5, 6, 7, 8, 9, 10],
            },
            ..Settings::default()
        };
        self.set("SETTINGS", 0, settings)?;
        self.set("INTERFACES", INTERFACE, Interface::new(OURS, INTERFACE))?;
        for (id, endpoints) in (0..).zip(endpoints()) {
            let [address, vip] = [endpoints.real, endpoints.vip].map(Addr::from);
            let real = RealServer {
                address,
                vip,
                delta: RealServer::between(&vip, &address),
                port: real_port.to_be(),
                state: state::TAKES_NEW,
                service: id,
                ..RealServer::default()
            };
            self.set("REALS", id, real)?;
            self.set("RINGS", id, u64::from(id))?;
            let ring = Ring {
                offset: id * SLOTS_PER_WORD,
                length: 1,
            };
            let service = Service {
                ring,
                available: ring,
                id,
                flags: REJECT,
                ..Service::default()
            };
            for address in [endpoints.vip, endpoints.real] {
                let bit = bit_of(address);
                let word = self.array::<u64>("ADDRESSES")?.get(&bit.word, 0)?;
                self.set("ADDRESSES", bit.word, word | bit.mask)?;
            }
            for protocol in [TCP, UDP] {
                if vip.is_v4() {
                    self.write_key::<u32>("SERVICES_V4", vip, SERVICE_PORT, protocol, service)?;
                    self.write_key::<u32>("REAL_PORTS_V4", address, real_port, protocol, 1_u32)?;
                } else {
                    self.write_key::<[u32; 4]>(
                        "SERVICES_V6",
                        vip,
                        SERVICE_PORT,
                        protocol,
                        service,
                    )?;
                    self.write_key::<[u32; 4]>(
                        "REAL_PORTS_V6",
                        address,
                        real_port,
                        protocol,
                        1_u32,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Writes the value of an address, port and protocol.
    fn write_key<A: Address>(
        &mut self,
        map: &str,
        address: Addr,
        port: u16,
        protocol: u8,
        value: impl Pod,
    ) -> anyhow::Result<()>
    where
        ServiceKey<A>: Pod,
    {
        let key = ServiceKey {
            address: A::narrow(address),
            port: port.to_be(),
            protocol: protocol.into(),
        };
        let map = self.ebpf.map_mut(map).context("a map is missing")?;
        HashMap::try_from(map)?
            .insert(key, value, 0)
            .context("cannot write a service")
    }

    fn array<V: Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, V>> {
        let map = self.ebpf.map_mut(name);
        Ok(map.with_context(|| format!("no map {name}"))?.try_into()?)
    }

    fn set<V: Pod>(&mut self, name: &str, index: u32, value: V) -> anyhow::Result<()> {
        self.array(name)?
            .set(index, value, 0)
            .with_context(|| format!("cannot write {name}"))
    }

    /// Runs a frame through the program, and compares the verdict and the frame that comes out.
    fn expect(
        &self,
        what: &str,
        frame: Frame,
        verdict: Verdict,
        expected: Frame,
    ) -> anyhow::Result<()> {
        let (input, expected) = (frame.bytes()?, expected.bytes()?);
        let mut output = vec![0; input.len() + 256];
        let result = load::program(&self.ebpf, "balancer")?
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut output),
                ..TestRunOptions::default()
            })
            .context("cannot try the packet program by a test run")?;
        output.truncate(result.data_size_out as usize);
        let family = if frame.from.is_ipv4() { "IPv4" } else { "IPv6" };
        if let Some(fault) = difference(
            (verdict.number(), &expected),
            (result.return_value, &output),
        ) {
            bail!(refusal(&format!("{what} ({family}) {fault}")));
        }
        Ok(())
    }

    /// Gives the connection that was opened since the last call its next hops, as a FIB look-up would.
    fn set_next_hops(&mut self, endpoints: &Endpoints, what: &str) -> anyhow::Result<()> {
        if endpoints.vip.is_ipv4() {
            self.set_next_hops_in::<u32>("CONNTRACK_V4", 0, endpoints, what)
        } else {
            self.set_next_hops_in::<[u32; 4]>("CONNTRACK_V6", 1, endpoints, what)
        }
    }

    fn set_next_hops_in<A: Address>(
        &mut self,
        map: &str,
        family: usize,
        endpoints: &Endpoints,
        what: &str,
    ) -> anyhow::Result<()>
    where
        Bucket<A>: Pod,
    {
        const VERSION: u32 = 2;
        let mut entries = 0;
        for index in 0..BUCKETS {
            let mut bucket: Bucket<A> = self.array(map)?.get(&index, 0)?;
            for entry in &mut bucket.entries {
                if !entry.word.is_used() {
                    continue;
                }
                entries += 1;
                let goes_to = if entry.word.is_original() {
                    Addr::from(endpoints.real)
                } else {
                    entry.destination.widen()
                };
                let row = place(&goes_to, INTERFACE);
                let hop = NextHop {
                    version: VERSION,
                    ifindex: INTERFACE,
                    macs: NextHop::join_macs(NEXT_HOP, OURS),
                    mtu: 1500,
                    address: goes_to,
                    ..NextHop::default()
                };
                self.set("NEXT_HOPS", row, hop)?;
                let versions: RouteVersions = self.array("ROUTE_VERSIONS")?.get(&0, 0)?;
                let routes = versions.of[slot(&goes_to)];
                entry.next_hop = NextHopRef::new(row, routes, VERSION, entry.word.serial());
            }
            self.set(map, index, bucket)?;
        }
        let before = std::mem::replace(&mut self.entries[family], entries);
        ensure!(
            entries == before + 2,
            refusal(&format!(
                "{what} has made {} entries of a connection instead of 2",
                entries - before.min(entries)
            ))
        );
        Ok(())
    }
}

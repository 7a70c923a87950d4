//! Test runs: one frame through one program, many times, and the CPU time it took.

use std::{net::SocketAddrV4, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use nix::time::{ClockId, clock_gettime};

use super::{
    minimal::{self, Key, Minimal},
    network::{FAR, INSIDE, INSIDE_FAR, NEAR},
    route::Route,
};

/// Frames per batch of a live run: as many as a driver's poll takes at most.
const LIVE_BATCH: u32 = 64;

/// The result of a single test run.
pub struct Outcome {
    /// The XDP action.
    pub action: u32,
    /// The frame after it.
    pub frame: Vec<u8>,
}

/// Whether frames are transmitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Only the verdict is computed; nothing is transmitted.
    Verdict,
    /// Frames leave by the veth pair and are dropped, natively, at its far end.
    Live,
    /// The same, but each frame has gone its whole way before the next comes.
    LiveSingly,
}

/// How the front program chooses flows.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Number of flows, a power of two.
    pub flows: u32,
    /// Odd: the distance from one flow to the next.
    pub multiplier: u64,
    /// Packets, or turns of three, that count as sent when the walk begins.
    pub start: u64,
}

impl Walk {
    /// Walks over `flows` flows as measurements do: successive ones are far from each other, unlike the order in which
    /// their rows were made.
    pub const fn of(flows: u32) -> Self {
        Self {
            flows,
            multiplier: 0x9e37_79b1,
            start: 0,
        }
    }

    /// Walks over `flows` flows one after the other, as rows are made.
    pub const fn in_order(flows: u32) -> Self {
        Self {
            multiplier: 1,
            ..Self::of(flows)
        }
    }
}

/// The context of a packet that came in by an interface (`struct xdp_md`).
fn context(ifindex: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    [0, length, 0, ifindex, 0, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// Runs `program` once.
///
/// # Errors
/// The kernel refused the run.
pub fn run_once(program: &Xdp, ifindex: u32, frame: &[u8]) -> Result<Outcome> {
    let mut out = vec![0; 256];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context(ifindex, frame.len())),
            ..TestRunOptions::new()
        })
        .context("a single test run")?;
    out.truncate(result.data_size_out as usize);
    Ok(Outcome {
        action: result.return_value,
        frame: out,
    })
}

/// Runs `program` on `packets` packets and returns the nanoseconds of CPU time that each took. CPU time, not the clock
/// on the wall: others may use the machine.
///
/// # Errors
/// The kernel refused the run.
pub fn measure(
    program: &Xdp,
    ifindex: u32,
    frame: &[u8],
    packets: u32,
    delivery: Delivery,
) -> Result<f64> {
    let attrs = match delivery {
        Delivery::Verdict => TestRunAttrs::new(),
        Delivery::Live => TestRunAttrs::new().xdp_live_frames(LIVE_BATCH),
        Delivery::LiveSingly => TestRunAttrs::new().xdp_live_frames(1),
    };
    let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(ifindex, frame.len())),
            repeat: packets,
            attrs,
            ..TestRunOptions::new()
        })
        .context("a test run")?;
    let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    let seconds = (after.tv_sec() - before.tv_sec()) as f64;
    let nanoseconds = (after.tv_nsec() - before.tv_nsec()) as f64;
    Ok((seconds * 1e9 + nanoseconds) / f64::from(packets))
}

/// The front program of one row, with the frames that it restores.
pub struct Front {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Front {
    /// Loads the bench's object for `frames`, all of one length and family; its minimal NAT has room for two rows for
    /// each of `nat_flows`.
    ///
    /// # Errors
    /// The kernel refused the program.
    pub fn load(object: &[u8], frames: &[Vec<u8>], walk: Walk, nat_flows: u32) -> Result<Self> {
        let frame = frames.first().context("a row needs a frame")?.clone();
        let ten_words = u32::from(frame.len() >= 80);
        let handshake = match frames.len() {
            1 => 0_u32,
            3 => 1,
            n => anyhow::bail!("a flow sends one frame or the three of a handshake, not {n}"),
        };
        let mask = walk.flows - 1;
        let mut ebpf = EbpfLoader::new()
            .override_global("TEN_WORDS", &ten_words, true)
            .override_global("FLOW_MASK", &mask, true)
            .override_global("HANDSHAKE", &handshake, true)
            .map_max_entries("NAT", (2 * nat_flows).max(1))
            .load(object)
            .context("loading the bench's object")?;
        for name in [
            "front",
            "empty",
            "floor",
            "drop",
            "pass",
            "arrive",
            "minimal_nat",
            "fib_redirect",
        ] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("loading the bench's program {name}"))?;
        }
        let mut templates: Array<_, [u64; 10]> =
            Array::try_from(ebpf.map_mut("FRAMES").context("no map FRAMES")?)?;
        for (number, frame) in (0..).zip(frames) {
            ensure!(
                frame.len() >= if ten_words == 1 { 80 } else { 56 },
                "a frame is too short to be restored"
            );
            let mut words = [0; 10];
            for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into()?);
            }
            templates.set(number, words, 0)?;
        }
        let mut front = Self { ebpf, frame };
        front.walk()?.set(0, [walk.start, walk.multiplier], 0)?;
        Ok(front)
    }

    /// Runs one of the bench's own programs without the front program, sees that its frames arrive if they leave, and
    /// returns what [`measure`] does.
    ///
    /// # Errors
    /// There is none of this name, the kernel refused the run, or frames were lost.
    pub fn measure_own(
        &self,
        name: &str,
        ifindex: u32,
        packets: u32,
        delivery: Delivery,
    ) -> Result<f64> {
        let arrived = self.arrived()?;
        let time = measure(self.program(name)?, ifindex, &self.frame, packets, delivery)?;
        if delivery != Delivery::Verdict {
            self.expect_arrival(arrived + u64::from(packets))?;
        }
        Ok(time)
    }

    /// Loads the bench's object to drop what reaches any end of the network in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel refused the program, or there is no such network.
    pub fn far_ends(object: &[u8], frame: &[u8]) -> Result<Self> {
        let mut front = Self::load(object, &[frame.to_vec()], Walk::of(1), 0)?;
        // All ends need a native program: without one at the far end frames are not delivered, and without one at the
        // near end the kernel knows no receive queue that test runs can name.
        for interface in [NEAR, FAR, INSIDE, INSIDE_FAR] {
            front.drop_at(interface)?;
        }
        Ok(front)
    }

    fn walk(&mut self) -> Result<Array<&mut MapData, [u64; 2]>> {
        Ok(Array::try_from(
            self.ebpf.map_mut("WALK").context("no map WALK")?,
        )?)
    }

    /// One of the bench's own programs.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }

    /// Makes connections known to the minimal NAT.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn fill_nat(&mut self, connections: &[Route]) -> Result<()> {
        let mut nat: HashMap<_, Key, Minimal> =
            HashMap::try_from(self.ebpf.map_mut("NAT").context("no map NAT")?)?;
        for connection in connections {
            for (key, row) in minimal::rows(connection)? {
                nat.insert(key, row, 0)?;
            }
        }
        Ok(())
    }

    /// Packets that the references have processed.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn done(&self) -> Result<u64> {
        let done: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map("DONE").context("no map DONE")?)?;
        Ok(done.get(&0, 0)?.iter().sum())
    }

    /// Puts a program behind the front program.
    ///
    /// # Errors
    /// The kernel will not tail-call from the one to the other.
    pub fn aim(&mut self, target: &Xdp) -> Result<()> {
        let fd = target.fd()?.try_clone()?;
        self.aim_at(&fd)
    }

    /// Puts one of the bench's own programs behind the front program.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn aim_own(&mut self, name: &str) -> Result<()> {
        let fd = self.program(name)?.fd()?.try_clone()?;
        self.aim_at(&fd)
    }

    fn aim_at(&mut self, fd: &ProgramFd) -> Result<()> {
        let mut targets =
            ProgramArray::try_from(self.ebpf.map_mut("TARGETS").context("no map TARGETS")?)?;
        targets
            .set(0, fd, 0)
            .context("putting the program under test behind the front program")
    }

    /// Runs the front program and what is behind it; see [`measure`].
    ///
    /// # Errors
    /// The kernel refused the run.
    pub fn measure(&self, ifindex: u32, packets: u32, delivery: Delivery) -> Result<f64> {
        measure(
            self.program("front")?,
            ifindex,
            &self.frame,
            packets,
            delivery,
        )
    }

    fn drop_at(&mut self, interface: &str) -> Result<()> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut("arrive")
            .context("no program arrive")?
            .try_into()?;
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("attaching to {interface}"))?;
        Ok(())
    }

    /// Names the destination of the frames that [`Self::awaited`] counts.
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn await_frames_to(&mut self, destination: SocketAddrV4) -> Result<()> {
        let mut awaited: Array<_, [u32; 2]> =
            Array::try_from(self.ebpf.map_mut("AWAITED").context("no map AWAITED")?)?;
        let address = u32::from_ne_bytes(destination.ip().octets());
        awaited.set(0, [address, destination.port().to_be().into()], 0)?;
        Ok(())
    }

    /// Frames that reached any end of the network; see [`Self::far_ends`].
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn arrived(&self) -> Result<u64> {
        Ok(self.arrived_in(0)? + self.awaited()?)
    }

    /// Frames among them to the destination named by [`Self::await_frames_to`].
    ///
    /// # Errors
    /// The kernel refused a map call.
    pub fn awaited(&self) -> Result<u64> {
        self.arrived_in(1)
    }

    fn arrived_in(&self, slot: u32) -> Result<u64> {
        let arrived: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map("ARRIVED").context("no map ARRIVED")?)?;
        Ok(arrived.get(&slot, 0)?.iter().sum())
    }
}

impl Front {
    /// Waits until `count` frames have arrived: the last ones may still be on their way.
    ///
    /// # Errors
    /// They did not arrive; the measurement is void.
    pub fn expect_arrival(&self, count: u64) -> Result<()> {
        expect(count, || self.arrived())
    }

    /// Waits until [`Self::awaited`] has counted `count` frames.
    ///
    /// # Errors
    /// They did not arrive; the measurement is void.
    pub fn expect_awaited(&self, count: u64) -> Result<()> {
        expect(count, || self.awaited())
    }
}

fn expect(count: u64, arrived: impl Fn() -> Result<u64>) -> Result<()> {
    let mut seen = 0;
    for _ in 0..20 {
        seen = arrived()?;
        if seen >= count {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(
        seen == count,
        "the measurement is void: {seen} frames arrived at the far end, not {count}"
    );
    Ok(())
}

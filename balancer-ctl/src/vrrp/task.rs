//! The thread of the virtual routers: nothing but advertisements, their timers and commands, before all other threads.
//!
//! ```text
//!   daemon ──Command──▶ ┌──────┐ ◀──advertisements──▶ other nodes
//!   watch ──Command───▶ │ vrrp │ ──Order──▶ guard ──▶ addresses
//!   daemon ◀──Update─── └──────┘ ◀─Answer──
//! ```
//!
//! It waits for nothing but the arrival of one of these: sockets are opened and closed by the thread that watches interfaces, since the
//! kernel may wait for its lock on interfaces then. A flood of advertisements does not keep it from its timers, nor other threads
//! from the CPU: after a full batch it lets the sockets rest.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd as _,
    sync::{Arc, mpsc as std_mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    REALTIME_PRIORITY, VirtualRouters,
    command::{Command, Commands, Outcome},
    engine::{Engine, Tracked},
    fsm::{Input, State},
    interfaces::BOOTING,
    report::{Report, Update},
    watch,
};
use crate::{
    model::vrrp::VirtualRouter,
    os::{clock, realtime},
};

/// How many updates may wait for the daemon.
const MAX_UPDATES: usize = 1024;
/// How long sockets rest when they had more than a batch of packets.
const REST: Duration = Duration::from_millis(1);
/// The longest sleep: a guard that has ended is started again.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// How long the daemon waits for a report. The thread answers within microseconds.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// The running thread, as the daemon sees it.
#[derive(Debug)]
pub struct Vrrp {
    commands: Commands,
    watched: std_mpsc::Sender<Vec<VirtualRouter>>,
    thread: Option<JoinHandle<()>>,
}

impl Vrrp {
    /// Starts it, and what belongs to it, in the network namespace of the calling thread. Returns also where it tells what happens.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn start() -> io::Result<(Self, mpsc::Receiver<Update>)> {
        // Here, since it may take long.
        lock_memory();
        let (sender, inbox) = std_mpsc::channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let commands = Commands::new(sender, Arc::clone(&wake));
        let (updates, updated) = mpsc::channel(MAX_UPDATES);
        let run = move || Loop::new(inbox, wake, updates).run();
        let thread = thread::Builder::new().name("vrrp".to_owned()).spawn(run)?;
        let (watched, wanted) = std_mpsc::channel();
        watch::start(commands.clone(), wanted)?;
        let vrrp = Self {
            commands,
            watched,
            thread: Some(thread),
        };
        Ok((vrrp, updated))
    }

    fn send(&self, command: Command) {
        // It ends with this value only.
        let _ = self.commands.send(command);
    }
}

impl VirtualRouters for Vrrp {
    fn remember(&mut self, failures: BTreeMap<String, Vec<Instant>>) {
        self.send(Command::Remember(failures));
    }

    fn configure(&mut self, routers: &[VirtualRouter]) {
        // First: virtual routers that go say farewell by their sockets, which the other thread then closes.
        self.send(Command::Configure(routers.to_vec()));
        let _ = self.watched.send(routers.to_vec());
    }

    fn track(&mut self, tracked: BTreeMap<String, Tracked>) {
        self.send(Command::Track(tracked));
    }

    fn give_up(&mut self, reply: oneshot::Sender<Outcome>) {
        self.send(Command::GiveUp(reply));
    }

    fn succeed(&mut self) {
        self.send(Command::Succeed);
    }

    fn set_maintenance(&mut self, on: bool) {
        self.send(Command::Maintenance(on));
    }

    fn report(&self) -> Option<Report> {
        let (reply, report) = std_mpsc::channel();
        self.commands.send(Command::Report(reply))?;
        report.recv_timeout(REPORT_TIMEOUT).ok()
    }
}

impl Drop for Vrrp {
    /// Gives all addresses up, and waits until another node has taken over or none has for an advertisement interval.
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    engine: Engine,
    inbox: std_mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    /// Groups that give up, and who wants to know what becomes of it.
    leaving: Vec<(Vec<u64>, oneshot::Sender<Outcome>)>,
    /// Until when the sockets rest.
    rests_until: Option<Instant>,
    is_stopping: bool,
}

/// What a turn of the loop found.
#[derive(Default)]
struct Ready {
    is_woken: bool,
    guard_speaks: bool,
    /// The sockets with advertisements, by their places.
    sockets: Vec<usize>,
}

impl Loop {
    fn new(
        inbox: std_mpsc::Receiver<Command>,
        wake: Arc<EventFd>,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        let mut engine = Engine::new(updates);
        if let Some(left) = BOOTING.checked_sub(clock::since_boot()) {
            engine.set_booting(clock::now_with_suspend() + left);
        }
        Self {
            engine,
            inbox,
            wake,
            leaving: Vec::new(),
            rests_until: None,
            is_stopping: false,
        }
    }

    fn run(mut self) {
        if let Err(error) = realtime::run_first(REALTIME_PRIORITY) {
            tracing::warn!(
                "virtual routers have no real-time priority ({error}): on a busy host another node may take over in vain"
            );
        }
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!("virtual routers end, since their thread cannot wait: {error}");
                    return;
                }
            };
            if ready.is_woken {
                let _ = self.wake.read();
                while let Ok(command) = self.inbox.try_recv() {
                    self.obey(command);
                }
            }
            if ready.guard_speaks {
                self.engine.hear_guard(clock::now_with_suspend());
            }
            for number in ready.sockets {
                if self.engine.receive(number, clock::now_with_suspend()) {
                    self.rests_until = Some(clock::now_with_suspend() + REST);
                }
            }
            self.engine.run(clock::now_with_suspend());
            self.report_outcomes();
            if self.is_stopping && self.engine.is_free() {
                return;
            }
        }
    }

    fn wait(&mut self) -> io::Result<Ready> {
        let now = clock::now_with_suspend();
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let deadlines = [self.engine.next_deadline(), self.rests_until];
        let next = deadlines.into_iter().flatten().min();
        let left = next.map_or(MAX_SLEEP, |next| next.saturating_duration_since(now));
        let mut waited = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let guard = self.engine.guard().socket();
        waited.extend(guard.map(|guard| PollFd::new(guard, PollFlags::POLLIN)));
        let first = waited.len();
        if self.rests_until.is_none() {
            let sockets = self.engine.ports().all();
            waited.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        }
        match ppoll(&mut waited, Some(TimeSpec::from(left.min(MAX_SLEEP))), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |one: &PollFd<'_>| one.revents().is_some_and(|events| !events.is_empty());
        let mut ready = Ready {
            is_woken: waited.first().is_some_and(is_ready),
            ..Ready::default()
        };
        ready.guard_speaks = first > 1 && waited.get(1).is_some_and(is_ready);
        let sockets = waited.iter().skip(first).enumerate();
        ready.sockets = sockets
            .filter(|(_, one)| is_ready(one))
            .map(|(number, _)| number)
            .collect();
        Ok(ready)
    }

    fn obey(&mut self, command: Command) {
        let now = clock::now_with_suspend();
        match command {
            Command::Remember(failures) => self.engine.remember(failures),
            Command::Configure(routers) => self.engine.configure(&routers, now),
            Command::Interfaces(interfaces, sockets) => {
                self.engine.set_interfaces(interfaces, sockets, now);
            }
            Command::Track(tracked) => self.engine.set_tracked(tracked, now),
            Command::Claimed {
                index,
                address,
                mac,
            } => self.engine.claimed(index, address, mac, now),
            Command::Forwards { index } => self.engine.link_forwards(index, now),
            Command::GiveUp(reply) => {
                // Those that are giving up already are waited for as well.
                let mut groups = self.engine.in_state(State::Active);
                groups.extend(self.engine.in_state(State::Leaving));
                self.engine.command(&Input::GiveUp, now);
                self.leaving.push((groups, reply));
            }
            Command::Succeed => self.engine.command(&Input::Succeed, now),
            Command::Maintenance(on) => self.engine.command(&Input::Maintenance(on), now),
            Command::Report(reply) => drop(reply.send(self.engine.report(now))),
            Command::Stop => {
                self.is_stopping = true;
                self.engine.command(&Input::Stop, now);
            }
        }
    }

    /// Tells those who asked groups to give up what became of it, once none of them is still leaving.
    fn report_outcomes(&mut self) {
        if self.leaving.is_empty() || !self.engine.in_state(State::Leaving).is_empty() {
            return;
        }
        for (groups, reply) in std::mem::take(&mut self.leaving) {
            // It is no error if nobody waits any more.
            let _ = reply.send(self.engine.outcome(&groups));
        }
    }
}

fn lock_memory() {
    match realtime::stay_in_memory() {
        Ok(true) => {}
        Ok(false) => tracing::info!(
            "memory is not locked, since the daemon lacks CAP_IPC_LOCK: a host that swaps may delay advertisements"
        ),
        Err(error) => tracing::warn!("cannot lock memory: {error}"),
    }
}

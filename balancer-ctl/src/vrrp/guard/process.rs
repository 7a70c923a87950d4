//! The guard's own process.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    ffi::OsStr,
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    process,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, SigSet, Signal, signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{MsgFlags, recv, send},
        time::TimeSpec,
    },
    unistd::setsid,
};

use super::{
    leases::{Action, Leases},
    orders::{Answer, Farewell, HeldAddress, MAX_SIZE, Order},
};
use crate::{
    netlink::{Netlink, address},
    os::{clock, realtime},
    vrrp::{REALTIME_PRIORITY, interfaces::is_foreign, packet::Family, socket::VrrpSocket},
};

/// The name by which the guard is started.
pub const NAME: &str = "balancer-vip-guard";
/// The file descriptor of the socket to the daemon.
const SOCKET: i32 = 0;

/// If the daemon has started this process as its guard: guards until the daemon is gone, and never returns. To be called before there is
/// a second thread.
pub fn run_if_asked() {
    if env::args_os().next().as_deref() != Some(OsStr::new(NAME)) {
        return;
    }
    // What is sent to the daemon's whole session or control group is not for it: it ends with the daemon. systemd's watchdog sends
    // SIGABRT.
    let _ = setsid();
    for ignored in [
        Signal::SIGABRT,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        // SAFETY: no handler is set.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let dies = die_signal();
    // As far as it is allowed: it does its work without.
    let _ = realtime::run_first(REALTIME_PRIORITY);
    let _ = realtime::stay_in_memory();
    let status = match Process::new() {
        Ok(mut guard) => {
            guard.run(dies.as_ref());
            0
        }
        Err(_) => 1,
    };
    process::exit(status);
}

/// What becomes readable when the daemon's thread has ended. Its files, the socket among them, may be closed some 30 ms later: the
/// kernel closes them one by one, and waits for readers of some. `None` = the kernel refused, and the socket has to do.
fn die_signal() -> Option<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block().ok()?;
    let file =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    set_pdeathsig(Signal::SIGUSR1).ok()?;
    Some(file)
}

struct Process {
    leases: Leases,
    netlink: Netlink,
    /// The addresses that it has set.
    set: BTreeSet<(u32, IpAddr)>,
    /// Sockets for farewells, opened beforehand.
    sockets: HashMap<(u32, Family), VrrpSocket>,
}

impl Process {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            leases: Leases::default(),
            netlink: Netlink::open()?,
            set: BTreeSet::new(),
            sockets: HashMap::new(),
        })
    }

    fn run(&mut self, dies: Option<&SignalFd>) {
        let mut buffer = vec![0; MAX_SIZE];
        loop {
            // A guard that is late finds all renewals that came meanwhile before it looks what has ended.
            let is_over = wait(dies, self.leases.next_deadline()).unwrap_or(true);
            if !self.read(&mut buffer) || is_over {
                break;
            }
            let actions = self.leases.run(clock::now_with_suspend());
            self.execute(actions);
        }
        let actions = self.leases.end_all();
        self.execute(actions);
    }

    /// Obeys all orders that have arrived; returns whether the daemon is still there.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match recv(SOCKET, buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return false,
                Ok(length) => {
                    if let Ok(order) = serde_json::from_slice(&buffer[..length]) {
                        self.obey(order);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return errno == Errno::EAGAIN,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let farewells = match &order {
            Order::Hold(holding) => holding.farewells.clone(),
            Order::Sweep | Order::Renew | Order::Free { .. } => Vec::new(),
        };
        let actions = self.leases.take(order, clock::now_with_suspend());
        self.execute(actions);
        for farewell in farewells {
            self.prepare(&farewell);
        }
    }

    fn execute(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Sweep => self.sweep(),
                Action::Set(group, addresses, lifetime) => {
                    let problems = self.set(&addresses, lifetime);
                    answer(&Answer::Set { group, problems });
                }
                Action::Remove(addresses) => self.remove(&addresses),
                Action::Say(farewell) => self.say(&farewell),
                Action::Report(group) => answer(&Answer::Ended { group }),
            }
        }
    }

    /// Removes what earlier guards have left.
    fn sweep(&mut self) {
        for left in address::list(&mut self.netlink).unwrap_or_default() {
            if left.is_ours() && !self.set.contains(&(left.index, left.address)) {
                let _ = address::remove(&mut self.netlink, left.index, left.address, left.length);
            }
        }
    }

    /// Sets addresses, or renews them; returns a sentence for each that could not be set. One that somebody else has set stays as it is.
    fn set(&mut self, addresses: &[HeldAddress], lifetime: Duration) -> Vec<String> {
        let is_new = |one: &&HeldAddress| !self.set.contains(&(one.index, one.address));
        let present = match addresses.iter().find(is_new) {
            Some(_) => address::list(&mut self.netlink).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut problems = Vec::new();
        for one in addresses {
            let key = (one.index, one.address);
            let is_theirs = present
                .iter()
                .any(|present| (present.index, present.address) == key && is_foreign(present));
            if is_theirs && !self.set.contains(&key) {
                continue;
            }
            match address::add(
                &mut self.netlink,
                one.index,
                one.address,
                one.length,
                lifetime,
            ) {
                Ok(()) => {
                    self.set.insert(key);
                }
                Err(error) => problems.push(format!(
                    "cannot set {}/{} on {}: {error}",
                    one.address, one.length, one.interface
                )),
            }
        }
        problems
    }

    fn remove(&mut self, addresses: &[HeldAddress]) {
        for one in addresses {
            if self.set.remove(&(one.index, one.address)) {
                let _ = address::remove(&mut self.netlink, one.index, one.address, one.length);
            }
        }
    }

    /// Opens the socket that a farewell will need.
    fn prepare(&mut self, farewell: &Farewell) {
        let family = family(farewell);
        let key = (farewell.index, family);
        if self.sockets.contains_key(&key) {
            return;
        }
        if let Ok(socket) = VrrpSocket::open(&farewell.interface, farewell.index, family) {
            self.sockets.insert(key, socket);
        }
    }

    fn say(&mut self, farewell: &Farewell) {
        self.prepare(farewell);
        if let Some(socket) = self.sockets.get(&(farewell.index, family(farewell))) {
            let _ = socket.send(&farewell.message, farewell.source, farewell.destination);
        }
    }
}

/// Waits for an order, at most until `deadline`; returns whether the daemon's thread has ended.
fn wait(dies: Option<&SignalFd>, deadline: Option<Instant>) -> io::Result<bool> {
    let left =
        deadline.map(|deadline| deadline.saturating_duration_since(clock::now_with_suspend()));
    let input = io::stdin();
    let mut waited = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    waited.extend(dies.map(|dies| PollFd::new(dies.as_fd(), PollFlags::POLLIN)));
    match ppoll(&mut waited, left.map(TimeSpec::from), None) {
        Ok(_) => {
            let mut ends = waited.iter().skip(1);
            Ok(ends.any(|one| one.revents().is_some_and(|events| !events.is_empty())))
        }
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

const fn family(farewell: &Farewell) -> Family {
    match farewell.source {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

/// A daemon that does not read is left alone.
fn answer(answer: &Answer) {
    if let Ok(bytes) = serde_json::to_vec(answer) {
        let _ = send(
            SOCKET,
            &bytes,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        );
    }
}

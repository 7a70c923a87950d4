//! The guard: a process of its own that sets and removes the VIPs, so that they do not stay behind when the daemon is killed or
//! stands still.
//!
//! ```text
//!   vrrp thread ──Order (hold, renew, free)──▶ guard ──netlink──▶ addresses
//!        ▲                                       │
//!        └────────────────Answer─────────────────┴─ priority 0, when a lease ends or the daemon is gone
//! ```
//!
//! Each group that is Active has a lease, which lasts as long as other nodes wait before they take over, and which the thread renews
//! with its advertisements. When it ends, or the daemon's end of the socket is closed, the guard removes the group's addresses and
//! sends the advertisement with priority 0 that the daemon has prepared. If the guard is killed as well, the kernel removes the
//! addresses some seconds later: the guard gives them a lifetime, which it renews. Orders never block the thread: neither netlink's
//! lock nor a guard that stands still delays an advertisement.

mod leases;
mod orders;
pub mod process;

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};

pub use self::orders::{Answer, Farewell, HeldAddress, Holding};
use self::orders::{MAX_SIZE, Order};
use crate::os::{clock, program::OWN_BINARY};

/// The guard is not started more often than once in this time.
const RESTART_INTERVAL: Duration = Duration::from_millis(200);

/// The guard, as the daemon sees it. It ends with this value, and removes what it holds.
#[derive(Debug)]
pub struct Guard {
    running: Option<Running>,
    started: Instant,
    /// What it holds, to tell the next one.
    held: BTreeMap<u64, Holding>,
    problem: Option<String>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: OwnedFd,
}

impl Guard {
    /// Starts it. It removes all addresses that an earlier daemon has left.
    #[must_use]
    pub fn start() -> Self {
        let mut guard = Self {
            running: None,
            started: clock::now(),
            held: BTreeMap::new(),
            problem: None,
        };
        guard.restart();
        guard
    }

    /// Why there is no guard at present.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What becomes readable when there is an answer, or the guard has ended.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|running| running.socket.as_fd())
    }

    /// Sets a group's addresses, in place of those that the group had, and begins its lease.
    pub fn hold(&mut self, holding: Holding) {
        // First, so that a guard that is started by this order is told, too.
        self.held.insert(holding.group, holding.clone());
        self.order(&Order::Hold(holding));
    }

    /// Removes a group's addresses.
    pub fn free(&mut self, group: u64) {
        self.held.remove(&group);
        self.order(&Order::Free { group });
    }

    /// Renews all leases.
    pub fn renew(&mut self) {
        if !self.held.is_empty() {
            self.order(&Order::Renew);
        }
    }

    /// The answers that have arrived. Starts the guard again if it has ended.
    pub fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; MAX_SIZE];
        while let Some(running) = &self.running {
            match recv(
                running.socket.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => self.restart_if_due(),
                Ok(length) => answers.extend(serde_json::from_slice::<Answer>(&buffer[..length])),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) => self.restart_if_due(),
            }
        }
        answers
    }

    /// Starts the guard again if it does not run; to be called now and then.
    pub fn revive(&mut self) {
        if self.running.is_none() {
            self.restart_if_due();
        }
    }

    /// Never waits: a guard that does not read is replaced.
    fn order(&mut self, order: &Order) {
        let Some(running) = &self.running else {
            return;
        };
        if let Err(error) = running.send(order) {
            self.problem = Some(format!(
                "the process that guards the VIPs does not answer: {error}"
            ));
            self.restart_if_due();
        }
    }

    fn restart_if_due(&mut self) {
        if let Some(mut running) = self.running.take() {
            // One that stands still must not remove, when it goes on, what its successor has set.
            let _ = running.child.kill();
            running.end();
        }
        if clock::now().duration_since(self.started) >= RESTART_INTERVAL {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.started = clock::now();
        let told = Running::start().and_then(|running| {
            // What is held stays: it is swept last.
            let holds = self.held.values().cloned().map(Order::Hold);
            for order in holds.chain([Order::Sweep]) {
                running.send(&order)?;
            }
            Ok(running)
        });
        match told {
            Ok(running) => (self.running, self.problem) = (Some(running), None),
            Err(error) => {
                self.running = None;
                self.problem = Some(format!(
                    "cannot start the process that guards the VIPs: {error}"
                ));
            }
        }
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let kind = (AddressFamily::Unix, SockType::SeqPacket);
        let (socket, far) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_CLOEXEC)?;
        let child = Command::new(OWN_BINARY)
            .arg0(process::NAME)
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        Ok(Self { child, socket })
    }

    /// Ends it by closing its socket. Who waits for that is another thread, since it may stand still.
    fn end(self) {
        let Self { mut child, socket } = self;
        drop(socket);
        let waits = thread::Builder::new().name("vip-guard".to_owned());
        // Without that thread it stays a zombie until the daemon ends.
        let _ = waits.spawn(move || child.wait());
    }

    fn send(&self, order: &Order) -> io::Result<()> {
        let bytes = serde_json::to_vec(order)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), &bytes, flags)?;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

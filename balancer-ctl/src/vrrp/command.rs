//! What the thread of the virtual routers is told, and how it is woken for it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, mpsc as std_mpsc},
    time::Instant,
};

use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;

use super::{engine::Tracked, interfaces::Interfaces, ports::Sockets, report::Report};
use crate::model::vrrp::VirtualRouter;

/// What became of an order to give up: a sentence for each group; `Err` = some are still Active.
pub type Outcome = Result<Vec<String>, Vec<String>>;

/// A command to the thread.
#[derive(Debug)]
pub enum Command {
    /// Groups failed at these times, by name, the latest last, before they are configured.
    Remember(BTreeMap<String, Vec<Instant>>),
    /// Run exactly these virtual routers.
    Configure(Vec<VirtualRouter>),
    /// The interfaces or their sockets have changed.
    Interfaces(Interfaces, Sockets),
    /// What is tracked has changed.
    Track(BTreeMap<String, Tracked>),
    /// Somebody else claims a VIP.
    Claimed {
        /// The interface.
        index: u32,
        /// The VIP.
        address: IpAddr,
        /// The other's MAC address.
        mac: [u8; 6],
    },
    /// An interface has received something after it came up.
    Forwards {
        /// The interface.
        index: u32,
    },
    /// Give all addresses up; says what became of it.
    GiveUp(oneshot::Sender<Outcome>),
    /// Take over first when the Active node gives up.
    Succeed,
    /// Keep away from being Active, or no longer.
    Maintenance(bool),
    /// Say all that is known.
    Report(std_mpsc::Sender<Report>),
    /// Give all addresses up, and end.
    Stop,
}

/// Sends commands to the thread, and wakes it.
#[derive(Clone, Debug)]
pub struct Commands {
    sender: std_mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl Commands {
    /// Sends to the other end of `sender`, and wakes who waits for `wake`.
    #[must_use]
    pub const fn new(sender: std_mpsc::Sender<Command>, wake: Arc<EventFd>) -> Self {
        Self { sender, wake }
    }

    /// Sends a command; `None` = the thread has ended.
    #[must_use]
    pub fn send(&self, command: Command) -> Option<()> {
        self.sender.send(command).ok()?;
        // Fails only when it is readable already.
        let _ = self.wake.write(1);
        Some(())
    }
}

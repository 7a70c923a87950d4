//! What the daemon tells the guard, and what the guard answers: a packet of JSON each.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// No packet is longer, in bytes.
pub const MAX_SIZE: usize = 128 * 1024;

/// An order to the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Remove all addresses that an earlier guard has left.
    Sweep,
    /// Set a group's addresses, in place of those that it had, and begin its lease.
    Hold(Holding),
    /// Begin all leases anew.
    Renew,
    /// Remove a group's addresses.
    Free {
        /// The group's number.
        group: u64,
    },
}

/// What the guard holds for a group of virtual routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The group's number.
    pub group: u64,
    /// The time without an order after which the addresses are removed.
    pub lease: Duration,
    /// The VIPs.
    pub addresses: Vec<HeldAddress>,
    /// What is sent when the addresses were removed without an order.
    pub farewells: Vec<Farewell>,
}

/// A VIP on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldAddress {
    /// The interface's index.
    pub index: u32,
    /// Its name, for messages.
    pub interface: String,
    /// The VIP.
    pub address: IpAddr,
    /// The length of its network's prefix in bits.
    pub length: u8,
}

/// An advertisement with priority 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// The sender's address.
    pub source: IpAddr,
    /// Multicast group or peer.
    pub destination: IpAddr,
    /// The message without its IP header.
    pub message: Vec<u8>,
}

/// What the guard says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The addresses of a group were set or renewed.
    Set {
        /// The group's number.
        group: u64,
        /// A sentence for each that could not be set.
        problems: Vec<String>,
    },
    /// A group's lease has ended, and its addresses are gone.
    Ended {
        /// The group's number.
        group: u64,
    },
}

//! What a state machine is told, what it says, and the states that it has. Pure.

use std::{net::IpAddr, time::Duration};

use crate::vrrp::packet::Interval;

/// The state of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It takes no part: because of a fault, or for maintenance.
    Initialize,
    /// Another node is Active, or it waits whether one is.
    Backup,
    /// It has the addresses.
    Active,
    /// It has the addresses, and waits for another node to take over.
    Leaving,
}

/// Why a group is in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has begun, or its fault or maintenance is over.
    Started,
    /// An interface has come up, so that it listens for longer.
    Listening,
    /// No Active node was heard for long enough.
    Silence,
    /// It owns the addresses.
    Owner,
    /// Another node is Active and has the better right to it.
    Other {
        /// Its address.
        source: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// It gave up on purpose, and another node took over.
    Relieved(IpAddr),
    /// It gave up on purpose, and no other node took over.
    Alone,
    /// It is giving up on purpose.
    Leaving,
    /// It did not run for this long while it was Active.
    Stalled(Duration),
    /// What makes it unable to be Active.
    Fault(String),
    /// An operator keeps it from being Active.
    Maintenance,
    /// The daemon stops.
    Stopped,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed, maybe to [`super::Machine::next_deadline`].
    Timeout,
    /// Another node's advertisement arrived.
    Advertisement {
        /// The virtual router's place in [`super::Settings::members`].
        member: usize,
        /// The other node's address.
        source: IpAddr,
        /// Its priority.
        priority: u8,
        /// Its interval.
        interval: Interval,
    },
    /// What is tracked has changed: the fault that keeps this node from being Active, if there is one, and its priority.
    Tracked {
        /// A sentence.
        fault: Option<String>,
        /// From 1; 255 = owner.
        priority: u8,
    },
    /// The interface of a virtual router has come up.
    LinkUp {
        /// The virtual router's place.
        member: usize,
    },
    /// That interface has received something, so that the switch's port does not block.
    LinkForwards {
        /// The virtual router's place.
        member: usize,
    },
    /// An operator gives the addresses up, to whoever takes them.
    GiveUp,
    /// An operator asks this node to take over as soon as the Active one gives up, before all others.
    Succeed,
    /// An operator keeps this node from being Active, or no longer.
    Maintenance(bool),
    /// The daemon stops.
    Stop,
    /// Others may have learnt wrong where the addresses are.
    Announce,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an advertisement.
    Advertise {
        /// The virtual router.
        member: usize,
        /// The priority to state.
        priority: u8,
    },
    /// Set all addresses.
    Acquire,
    /// Remove all addresses.
    Release,
    /// Tell neighbours by ARP and neighbour advertisements where all addresses are.
    Announce,
    /// Ask whether somebody else has the addresses: the other node was not heard for an interval.
    Probe,
    /// The state has changed.
    Entered(State, Cause),
    /// The advertisement interval of the Active node differs from the configured one, and is adopted.
    Adopted {
        /// The virtual router.
        member: usize,
        /// The Active node's.
        interval: Interval,
    },
    /// Nobody took over when this node gave up: it stays Active, or for maintenance the addresses are gone.
    NobodyTookOver,
}

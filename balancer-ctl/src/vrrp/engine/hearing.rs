//! What arrives from other nodes and other machines: advertisements, claims to VIPs, signs that a link forwards.

use std::{net::IpAddr, time::Instant};

use super::{
    DEFENCE_INTERVAL, Engine, MAX_PACKETS,
    running::{Heard, Running, shown_mac},
};
use crate::model::limits::OWNER;
use crate::vrrp::{
    fsm::{Input, LEAVING},
    group,
    packet::{Advertisement, Endpoints, Malformed},
    ports::PortKey,
};

/// A node that has not advertised for so many of its intervals is not heard any more.
const MISSED: u32 = 4;

impl Engine {
    /// Reads what has arrived at a socket; returns whether more may be there.
    pub fn receive(&mut self, number: usize, now: Instant) -> bool {
        let mut buffer = [0; 2048];
        for _ in 0..MAX_PACKETS {
            let Some(port) = self.ports.get(number) else {
                return false;
            };
            let key = port.key().clone();
            let received = match port.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return false,
                Err(error) => {
                    self.warn_of(port, "receive advertisements", &error, now);
                    return false;
                }
            };
            let Some(message) = buffer.get(received.message.clone()) else {
                continue;
            };
            let endpoints = Endpoints {
                source: received.source,
                destination: received.destination,
            };
            let decoded = Advertisement::decode(message, endpoints, received.hop_limit);
            // Which virtual router it is for, even if it is malformed.
            let id = message.get(1).copied();
            self.hear(&key, id, received.source, decoded, now);
        }
        true
    }

    fn hear(
        &mut self,
        key: &PortKey,
        id: Option<u8>,
        source: IpAddr,
        decoded: Result<Advertisement, Malformed>,
        now: Instant,
    ) {
        // Malformed in any case: the first counts it.
        let is_nobodys = id.is_none_or(|id| id == 0);
        let mut groups = std::mem::take(&mut self.groups);
        'all: for running in &mut groups {
            for number in 0..running.members.len() {
                let router = &running.group.routers[number];
                let is_it = (is_nobodys || Some(router.router_id) == id)
                    && router.interface == key.interface
                    && group::family(router) == key.family;
                if is_it {
                    self.hear_as(running, number, source, decoded, now);
                    break 'all;
                }
            }
        }
        self.groups = groups;
    }

    fn hear_as(
        &mut self,
        running: &mut Running,
        number: usize,
        source: IpAddr,
        decoded: Result<Advertisement, Malformed>,
        now: Instant,
    ) {
        let router = &running.group.routers[number];
        let member = &mut running.members[number];
        let advertisement = match decoded {
            Ok(advertisement) => advertisement,
            Err(malformed) => {
                let warning = member.refuse(
                    router,
                    source,
                    malformed.name(),
                    &malformed.to_string(),
                    now,
                );
                self.warn_if(warning);
                return;
            }
        };
        if member.source == Some(source) {
            let sentence = "it has this node's own address as its source: another node has this address, or the network \
                            sends back what this node sends";
            let warning = member.refuse(router, source, "own-address", sentence, now);
            self.warn_if(warning);
            return;
        }
        if !router.unicast_peers.is_empty() && !router.unicast_peers.contains(&source) {
            let sentence = "its source is none of unicast-peers";
            let warning = member.refuse(router, source, "unknown-peer", sentence, now);
            self.warn_if(warning);
            return;
        }
        member.received += 1;
        // Who answered for the VIPs meanwhile was the Active node.
        if !running.machine.is_active() {
            running.claims.clear();
        }
        if advertisement.priority == LEAVING {
            member.heard.take_if(|heard| heard.source == source);
        } else {
            member.heard = Some(Heard {
                source,
                priority: advertisement.priority,
                until: now + MISSED * advertisement.interval.duration(),
            });
        }
        if router.priority == OWNER && advertisement.priority == OWNER {
            running.second_owner = Some((source, now));
        }
        let warning = member.compare(router, source, &advertisement, now);
        self.warn_if(warning);
        let input = Input::Advertisement {
            member: number,
            source,
            priority: advertisement.priority,
            interval: advertisement.interval,
        };
        self.handle(running, input, now);
    }

    /// Somebody else on an interface says that it has an address.
    pub fn claimed(&mut self, index: u32, address: IpAddr, mac: [u8; 6], now: Instant) {
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            let routers = running.group.routers.iter().zip(&running.members);
            let is_claimed = routers.into_iter().any(|(router, member)| {
                member
                    .link
                    .is_some_and(|link| link.0 == index && link.1 != mac)
                    && router.addresses.iter().any(|one| one.address == address)
            });
            if !is_claimed {
                continue;
            }
            let is_active = running.is_settled(now);
            // A Backup node that hears nobody asks before it takes over.
            if !is_active && !running.machine.is_late() {
                continue;
            }
            if running.claims.insert(address, (mac, now)).is_none() {
                let group = running.group.key.name();
                let mac = shown_mac(mac);
                self.warn(format!(
                    "{group}: another machine, {mac}, answers for {address}"
                ));
            }
            let is_recent = |at: Instant| now.saturating_duration_since(at) < DEFENCE_INTERVAL;
            if is_active && !running.answered.is_some_and(is_recent) {
                running.answered = Some(now);
                self.handle(running, Input::Announce, now);
            }
        }
        self.groups = groups;
    }

    /// An interface has received something after it came up.
    pub fn link_forwards(&mut self, index: u32, now: Instant) {
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            for member in 0..running.members.len() {
                if running.members[member]
                    .link
                    .is_some_and(|link| link.0 == index)
                {
                    self.handle(running, Input::LinkForwards { member }, now);
                }
            }
        }
        self.groups = groups;
    }
}

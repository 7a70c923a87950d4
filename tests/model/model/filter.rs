//! Which clients may open connections to a service, and how many.

use std::{collections::HashMap, net::IpAddr};

use balancer_common::verdict::Discard;

use super::Step;

/// A rule about the clients of a prefix.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Address and length; none = everybody.
    prefix: Option<(IpAddr, u32)>,
    lets_in: bool,
    id: u32,
}

/// How many connections those may open together who have so many leading bits in common.
#[derive(Clone, Copy, Debug)]
struct Limit {
    connections: u64,
    bits: u32,
    id: u32,
}

/// A service's rules, and its limit.
#[derive(Clone, Debug, Default)]
struct Filter {
    rules: Vec<Rule>,
    limit: Option<Limit>,
    /// Whether the rules are asked, and the limit.
    is_asked: [bool; 2],
    /// Connections that were let in, by the clients' first address.
    opened: HashMap<IpAddr, u64>,
}

/// The filters of all services, and how often each rule or limit has counted a packet.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    of: HashMap<usize, Filter>,
    /// By id less one.
    pub counted: Vec<u64>,
}

impl Filters {
    fn next_id(&mut self) -> u32 {
        self.counted.push(0);
        self.counted.len() as u32
    }

    /// A service has a rule, in the place of one with the same prefix.
    pub fn add_rule(&mut self, service: usize, prefix: Option<(IpAddr, u32)>, lets_in: bool) {
        let id = self.next_id();
        let filter = self.of.entry(service).or_default();
        filter.is_asked[0] = true;
        filter.rules.retain(|rule| rule.prefix != prefix);
        filter.rules.push(Rule {
            prefix,
            lets_in,
            id,
        });
    }

    /// A service has a limit, in the place of the one it had: who has opened connections has opened them.
    pub fn set_limit(&mut self, service: usize, connections: u64, bits: u32) {
        let id = self.next_id();
        let filter = self.of.entry(service).or_default();
        filter.is_asked[1] = true;
        filter.limit = Some(Limit {
            connections,
            bits,
            id,
        });
    }

    /// A service lets in everybody, until it has another rule or limit.
    pub fn switch_off(&mut self, service: usize) {
        self.of.entry(service).or_default().is_asked = [false; 2];
    }

    /// That a client may open another connection to a service, which counts.
    pub(super) fn screen(&mut self, service: usize, client: IpAddr) -> Step<()> {
        let Some(filter) = self.of.get_mut(&service) else {
            return Ok(());
        };
        let rules = filter.rules.iter().filter(|_| filter.is_asked[0]);
        let rules = rules.filter(|rule| match rule.prefix {
            Some((address, bits)) => first(client, bits) == first(address, bits),
            None => true,
        });
        // The longest one.
        if let Some(rule) = rules.max_by_key(|rule| rule.prefix.map(|(_, bits)| bits)) {
            self.counted[rule.id as usize - 1] += 1;
            if !rule.lets_in {
                return Err(Discard::Denied);
            }
        }
        let Some(limit) = filter.limit.filter(|_| filter.is_asked[1]) else {
            return Ok(());
        };
        let opened = filter.opened.entry(first(client, limit.bits)).or_default();
        if *opened >= limit.connections {
            self.counted[limit.id as usize - 1] += 1;
            return Err(Discard::RateLimited);
        }
        *opened += 1;
        Ok(())
    }
}

/// The first address of those that have so many leading bits in common with this one.
fn first(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

//! Filters of services: rules about clients, and limits of their connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::maps::{LpmTrie, MapData, MapError, PerCpuHashMap, PerCpuValues, lpm_trie};
use balancer_common::{
    addr::Addr,
    filter::{ClientKey, RateLimit, Rule, verdict},
    service::{FILTERED, LIMITED},
    trace::Answer,
    verdict::Discard,
};

use crate::{
    dataplane::{Dataplane, test_run},
    packet::Packet,
    services::ServiceHandle,
};

/// Nanoseconds that a token takes to come back in tests: longer than any of them lasts.
pub const NEVER: u64 = 3_600_000_000_000;

/// A rule in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleHandle {
    /// Its id.
    pub id: u32,
}

impl Dataplane {
    /// Lets clients of these prefixes, or those in none where that is `None`, open connections to a service, or not.
    pub fn add_rule(
        &mut self,
        service: ServiceHandle,
        prefix: Option<(IpAddr, u32)>,
        lets_in: bool,
    ) -> RuleHandle {
        let [v6, v4] = ClientKey::BITS_BEFORE;
        let (length, client) = match prefix {
            None => (v6, Addr::default()),
            Some((address, length)) => {
                let before = if address.is_ipv4() { v4 } else { v6 };
                (before + length, Addr::from(address))
            }
        };
        let key = ClientKey {
            service: service.id,
            client,
        };
        let rule = Rule {
            verdict: if lets_in {
                verdict::ALLOW
            } else {
                verdict::DENY
            },
            id: self.add_count(),
        };
        self.filter_rules()
            .insert(&lpm_trie::Key::new(length, key), rule, 0)
            .expect("write FILTER_RULES");
        self.update_service(service, |value| value.flags |= FILTERED);
        RuleHandle { id: rule.id }
    }

    fn filter_rules(&mut self) -> LpmTrie<&mut MapData, ClientKey, Rule> {
        let map = self.ebpf.map_mut("FILTER_RULES").expect("FILTER_RULES");
        map.try_into().expect("a trie")
    }

    fn filter_counts(&mut self) -> PerCpuHashMap<&mut MapData, u32, u64> {
        self.hash_of_cpus("FILTER_COUNTS")
    }

    /// A counter for another rule.
    fn add_count(&mut self) -> u32 {
        self.rules += 1;
        let id = self.rules;
        let cpus = aya::util::nr_cpus().expect("the number of CPUs");
        let zero = PerCpuValues::try_from(vec![0; cpus]).expect("a value for each");
        self.filter_counts()
            .insert(id, zero, 0)
            .expect("write FILTER_COUNTS");
        id
    }

    /// Clients of a service, of which those are one that have so many leading bits in common, may open so many connections, and no more
    /// while the test lasts.
    pub fn set_limit(&mut self, service: ServiceHandle, tokens: u64, bits: u32) -> RuleHandle {
        let before = if service.vip.is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - before - bits).unwrap_or(0);
        let limit = RateLimit {
            mask: Addr(std::array::from_fn(|word| {
                ((mask >> (96 - 32 * word)) as u32).to_be()
            })),
            each: NEVER,
            burst: (tokens - 1) * NEVER,
            id: self.add_count(),
            zero: 0,
        };
        self.array_mut("RATE_LIMITS")
            .set(service.id, limit, 0)
            .expect("write RATE_LIMITS");
        self.update_service(service, |value| value.flags |= LIMITED);
        self.limits = true;
        RuleHandle { id: limit.id }
    }

    /// Deletes a rule's counter.
    pub fn forget_count(&mut self, rule: RuleHandle) {
        let mut counts = self.filter_counts();
        counts.remove(&rule.id).expect("write FILTER_COUNTS");
    }

    /// Deletes all rules, their counters and the clients' buckets. Ids begin anew.
    pub fn forget_filters(&mut self) {
        let buckets = self.token_buckets();
        let mut of_clients = self.hash_mut::<ClientKey, u64>("RATE_BUCKETS");
        for (service, client) in buckets {
            let client = client.into();
            let key = ClientKey { service, client };
            of_clients.remove(&key).expect("write RATE_BUCKETS");
        }
        for id in 1..=self.rules {
            self.forget_count(RuleHandle { id });
        }
        let mut rules = self.filter_rules();
        let keys: Result<Vec<_>, _> = rules.keys().collect();
        for key in keys.expect("read FILTER_RULES") {
            rules.remove(&key).expect("write FILTER_RULES");
        }
        (self.rules, self.limits) = (0, false);
    }

    /// What a rule has counted, on all CPUs.
    #[must_use]
    pub fn counted(&self, id: u32) -> u64 {
        let counts: PerCpuHashMap<_, u32, u64> = self
            .ebpf
            .map("FILTER_COUNTS")
            .expect("FILTER_COUNTS")
            .try_into()
            .expect("a per-CPU hash");
        match counts.get(&id, 0) {
            Ok(values) => values.iter().sum(),
            Err(MapError::KeyNotFound) => 0,
            Err(error) => panic!("read FILTER_COUNTS: {error}"),
        }
    }

    /// Packets to a service that were dropped or answered in its stead, by the reason's name, on all CPUs.
    #[must_use]
    pub fn discards_of(&self, service: ServiceHandle) -> BTreeMap<&'static str, u64> {
        let counts: PerCpuHashMap<_, u32, u64> = self
            .ebpf
            .map("SERVICE_DISCARDS")
            .expect("SERVICE_DISCARDS")
            .try_into()
            .expect("a per-CPU hash");
        let counted = Discard::ALL.iter().filter_map(|reason| {
            match counts.get(&reason.of_service(service.id), 0) {
                Ok(values) => Some((reason.name(), values.iter().sum())),
                Err(MapError::KeyNotFound) => None,
                Err(error) => panic!("read SERVICE_DISCARDS: {error}"),
            }
        });
        counted.collect()
    }

    fn hash_of_cpus(&mut self, name: &str) -> PerCpuHashMap<&mut MapData, u32, u64> {
        let map = self.ebpf.map_mut(name).expect("a map of this name");
        map.try_into().expect("a per-CPU hash")
    }

    /// The clients, or networks of clients, that have a token bucket, with their services' ids.
    #[must_use]
    pub fn token_buckets(&self) -> BTreeSet<(u32, IpAddr)> {
        if !self.limits {
            // Nobody makes any, and it takes long to look.
            return BTreeSet::new();
        }
        let buckets = self.hash::<ClientKey, u64>("RATE_BUCKETS");
        let keys = buckets.keys().map(|key| key.expect("read RATE_BUCKETS"));
        keys.map(|key| (key.service, IpAddr::from(key.client)))
            .collect()
    }

    /// Writes what stands in a client's bucket.
    pub fn set_bucket(&mut self, service: ServiceHandle, client: IpAddr, due: u64) {
        let key = ClientKey {
            service: service.id,
            client: client.into(),
        };
        self.hash_mut("RATE_BUCKETS")
            .insert(key, due, 0)
            .expect("write RATE_BUCKETS");
    }

    /// Asks the program `trace` what would become of a packet.
    #[must_use]
    pub fn ask(&mut self, packet: &Packet) -> Answer {
        let outside = self.outside;
        let (_, out) = test_run(self.loaded("trace"), outside, &packet.bytes());
        // SAFETY: the frame is longer, and every bit pattern is an answer.
        unsafe { out.as_ptr().cast::<Answer>().read_unaligned() }
    }
}

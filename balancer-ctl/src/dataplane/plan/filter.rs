//! What the packet program is told of services' filters, and the order in which a filter turns into another. Pure.
//!
//! Rules are written one by one while packets flow, and at every moment each client is treated as by the old filter or as by the new one:
//! one that both let in is never refused, and one that both refuse never let in. First the rules that are new or say something else are
//! written, the longest prefixes first; then those that are no more are deleted, the shortest first.
//!
//! Why: let `a` be a client's longest prefix among the old rules, `b` its longest among the new ones. While rules are written, no old one
//! is deleted. Until `b` is written nothing shorter than it has changed, so that `a` decides as before, unless `b` is longer and takes over
//! at that moment; and once it is written, only an `a` that is to be deleted can be longer. While rules are deleted, what is left
//! of the old rules that are longer than `b` is `a` itself until the last of them goes, and then `b` decides.
//!
//! The rule for all others is the shortest prefix of all and takes part in this. A service says that it has rules only after they are
//! written, and they are deleted only after it says that it has none.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use balancer_common::{
    addr::Addr,
    filter::{ClientKey, MAX_RULE_IDS, RateLimit, Rule, RulePrefix, verdict},
};

use super::{
    CapacityError, Planner, affinity,
    tables::{FilterRow, TableChange},
};
use crate::model::{
    Filter,
    filter::FilterRule,
    prefix::{self, Prefix},
};

/// Rule ids that nobody uses.
#[derive(Debug)]
pub struct RuleIds {
    used: HashSet<u32>,
    next: u32,
}

impl RuleIds {
    /// Those that these rows do not use.
    pub fn beside<'a>(rows: impl Iterator<Item = &'a FilterRow>) -> Self {
        let used = rows.flat_map(|row| {
            let rules = row.rules.values().map(|rule| rule.id);
            rules.chain([row.limit.id])
        });
        Self {
            used: used.collect(),
            next: 1,
        }
    }

    fn take(&mut self) -> Result<u32, CapacityError> {
        while self.next <= MAX_RULE_IDS {
            let id = self.next;
            self.next += 1;
            if !self.used.contains(&id) {
                return Ok(id);
            }
        }
        Err(CapacityError::Rules)
    }
}

/// What is done with a service's filter before the service is written, and after.
#[derive(Debug, Default)]
pub struct FilterChanges {
    /// Before.
    pub first: Vec<TableChange>,
    /// After.
    pub last: Vec<TableChange>,
}

impl Planner<'_> {
    /// The changes that give the service with this id the filter `desired`, where its VIP is `vip`.
    pub(super) fn filter_changes(
        &mut self,
        service: u32,
        desired: &Filter,
        vip: IpAddr,
    ) -> Result<FilterChanges, CapacityError> {
        let observed = self.observed;
        let none = FilterRow::default();
        let present = observed.filters.get(&service).unwrap_or(&none);
        if desired.is_off() && *present == none {
            return Ok(FilterChanges::default());
        }
        let ids = self
            .rule_ids
            .get_or_insert_with(|| RuleIds::beside(observed.filters.values()));
        let wanted = rules(desired, service, vip);
        let mut rules = Vec::new();
        let (mut new_ids, mut old_ids) = (Vec::new(), Vec::new());
        for (prefix, verdict) in wanted.iter().rev() {
            let before = present.rules.get(prefix);
            if before.is_some_and(|rule| rule.verdict == *verdict) {
                continue;
            }
            // Who counts what a rule does, counts nothing of what another one did.
            let id = ids.take()?;
            new_ids.push(id);
            old_ids.extend(before.map(|rule| rule.id));
            let verdict = *verdict;
            rules.push((*prefix, Rule { verdict, id }));
        }
        let gone = present.rules.iter();
        let gone = gone.filter(|(prefix, _)| !wanted.contains_key(*prefix));
        let (gone, ids_gone): (Vec<_>, Vec<_>) =
            gone.map(|(prefix, rule)| (*prefix, rule.id)).unzip();
        old_ids.extend(ids_gone);

        let limit = match desired.rate {
            None => RateLimit::default(),
            Some(rate) => {
                let id = match present.limit.id {
                    0 => {
                        let id = ids.take()?;
                        new_ids.push(id);
                        id
                    }
                    id => id,
                };
                let whole = prefix::whole(vip);
                let length = rate.length_for(vip).min(whole);
                RateLimit::new(rate.per_second, affinity::mask(length, whole), id)
            }
        };
        let mut changes = FilterChanges::default();
        if !new_ids.is_empty() {
            let ids = new_ids;
            changes.first.push(TableChange::AddRuleCounts { ids });
        }
        if !rules.is_empty() {
            changes.first.push(TableChange::SetRules { rules });
        }
        if !gone.is_empty() {
            let prefixes = gone;
            changes.last.push(TableChange::RemoveRules { prefixes });
        }
        if limit != present.limit {
            let is_end = limit == RateLimit::default();
            if is_end {
                old_ids.push(present.limit.id);
            }
            let changes = if is_end {
                &mut changes.last
            } else {
                &mut changes.first
            };
            changes.push(TableChange::SetRateLimit { service, limit });
        }
        if !old_ids.is_empty() {
            let ids = old_ids;
            changes.last.push(TableChange::RemoveRuleCounts { ids });
        }
        Ok(changes)
    }
}

/// A filter's rules, and the verdict of each.
fn rules(filter: &Filter, service: u32, vip: IpAddr) -> BTreeMap<RulePrefix, u32> {
    let mut rules = BTreeMap::new();
    if !filter.allow.is_empty() {
        rules.insert(others(service), verdict::DENY);
    }
    for (list, verdict) in [
        (&filter.allow, verdict::ALLOW),
        (&filter.deny, verdict::DENY),
    ] {
        // One of another family has no clients here.
        let of_family = list
            .iter()
            .filter(|prefix| prefix.address.is_ipv4() == vip.is_ipv4());
        // The prefix of all IPv6 addresses stands where the rule for others does, of which there are none then.
        rules.extend(of_family.map(|prefix| (rule_prefix(service, prefix), verdict)));
    }
    rules
}

/// The prefix of the rule for all clients in no other.
fn others(service: u32) -> RulePrefix {
    RulePrefix {
        length: ClientKey::BITS_BEFORE[0],
        first: ClientKey {
            service,
            client: Addr::default(),
        },
    }
}

fn rule_prefix(service: u32, prefix: &Prefix) -> RulePrefix {
    let [v6, v4] = ClientKey::BITS_BEFORE;
    let before = if prefix.address.is_ipv4() { v4 } else { v6 };
    RulePrefix {
        length: before + u32::from(prefix.length),
        first: ClientKey {
            service,
            client: prefix.address.into(),
        },
    }
}

/// What a rule is of a service's filter.
#[must_use]
pub fn rule_of(prefix: &RulePrefix, filter: &Filter) -> FilterRule {
    let address = IpAddr::from(prefix.first.client);
    let [v6, v4] = ClientKey::BITS_BEFORE;
    let before = if address.is_ipv4() { v4 } else { v6 };
    let length = u8::try_from(prefix.length.saturating_sub(before)).unwrap_or(u8::MAX);
    let all = Prefix::of(address, length);
    let is_named = |list: &[Prefix]| list.contains(&all);
    if prefix.length == v6 && !is_named(&filter.allow) && !is_named(&filter.deny) {
        return FilterRule::Others;
    }
    FilterRule::Prefix(all)
}

//! What the packet program is told of a service's scheduler and of its clients' persistence. Pure.

use std::net::Ipv6Addr;

use balancer_common::{
    addr::Addr,
    load::{Measure, RealLoad},
    persistence::Stickiness,
    scheduler::{hashed, pick},
};

use super::tables::Limits;
use crate::{
    dataplane::{Real, Service, jiffies::Tick, ring::RingKind},
    model::{HashKey, Scheduler, ServiceKey, persistence::Persistence, prefix::Prefix},
};

/// How the packet program finds the real server of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// One of [`pick`].
    pub pick: u8,
    /// One of [`hashed`].
    pub hash: u8,
    /// How loads are compared, where that is needed.
    pub measure: Measure,
    /// How its ring is filled; `None` = it has none.
    pub ring: Option<RingKind>,
}

/// The choice that a service's scheduler makes.
#[must_use]
pub const fn choice(scheduler: Scheduler, hash: HashKey) -> Choice {
    let of_client = match hash {
        HashKey::Client => hashed::CLIENT,
        HashKey::ClientPort => hashed::CLIENT_PORT,
    };
    let (pick, hash, measure, ring) = match scheduler {
        Scheduler::Rr => (pick::TURN, 0, Measure::WLC, Some(RingKind::Equal)),
        Scheduler::Wrr => (pick::TURN, 0, Measure::WLC, Some(RingKind::Weighted)),
        Scheduler::Twos => (pick::RANDOM, 0, Measure::WLC, Some(RingKind::Weighted)),
        Scheduler::Sh => (pick::HASH, of_client, Measure::WLC, Some(RingKind::Source)),
        Scheduler::Mh => (pick::HASH, of_client, Measure::WLC, Some(RingKind::Maglev)),
        Scheduler::Dh => (
            pick::HASH,
            hashed::DESTINATION,
            Measure::WLC,
            Some(RingKind::Destination),
        ),
        Scheduler::Lc => (pick::LEAST, 0, Measure::LC, None),
        Scheduler::Wlc => (pick::LEAST, 0, Measure::WLC, None),
        Scheduler::Sed => (pick::LEAST, 0, Measure::SED, None),
        Scheduler::Nq => (pick::LEAST, 0, Measure::NQ, None),
        Scheduler::Fo => (pick::LEAST, 0, Measure::FO, None),
        Scheduler::Ovf => (pick::LEAST, 0, Measure::OVF, None),
    };
    Choice {
        pick,
        hash,
        measure,
        ring,
    }
}

/// The real servers that take new connections, in the order in which the packet program compares them: the operator's, or by weight where
/// that decides. Each comes with its real id.
#[must_use]
pub fn available(choice: &Choice, reals: &[(u32, &Real)]) -> Vec<u32> {
    let mut available: Vec<_> = reals.iter().filter(|(_, real)| real.weight > 0).collect();
    if choice.measure.is_in_order() {
        available.sort_by_key(|(_, real)| std::cmp::Reverse(real.weight));
    }
    available.into_iter().map(|(id, _)| *id).collect()
}

/// The weight and the limits of a real server.
#[must_use]
pub const fn limits(real: &Real) -> Limits {
    Limits {
        weight: real.weight,
        upper: real.upper,
        resume: RealLoad::resume_below(real.upper, real.lower),
    }
}

/// What a service says of its clients' persistence.
#[must_use]
pub fn stickiness(service: &Service, tick: Tick) -> Stickiness {
    let Some(persistence) = &service.persistence else {
        return Stickiness::default();
    };
    let (ones, all) = prefix(&service.key, persistence);
    Stickiness {
        mask: mask(ones, all),
        group: group_number(&service.key, persistence),
        timeout: tick.jiffies(persistence.timeout),
        zero: 0,
    }
}

/// The prefix that tells clients apart, and the length of a whole address.
fn prefix(key: &ServiceKey, persistence: &Persistence) -> (u8, u8) {
    let all = if key.address.is_ipv4() { 32 } else { 128 };
    (persistence.netmask.unwrap_or(all), all)
}

/// The mask of the first `ones` of `all` bits of an address, in the shared form: all ones in front of an IPv4 address.
pub fn mask(ones: u8, all: u8) -> Addr {
    let all_ones = Ipv6Addr::from_bits(u128::MAX).into();
    Prefix::of(all_ones, 128 - all + ones).address.into()
}

/// The number under which a service's entries stand: that of its group, or its own. It names the prefix, too: under another one, entries
/// name other clients.
#[must_use]
pub fn group_number(key: &ServiceKey, persistence: &Persistence) -> u64 {
    let (ones, _) = prefix(key, persistence);
    let text = match &persistence.group {
        Some(group) => format!("group {group} /{ones}"),
        None => format!("service {key} /{ones}"),
    };
    // FNV-1a.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn masks_cover_their_prefix_in_the_shared_form() {
        let words = |mask: Addr| mask.0.map(u32::from_be);
        let ones = u32::MAX;
        assert_eq!(words(mask(32, 32)), [ones; 4]);
        assert_eq!(words(mask(24, 32)), [ones, ones, ones, 0xffff_ff00]);
        assert_eq!(words(mask(1, 32)), [ones, ones, ones, 0x8000_0000]);
        assert_eq!(words(mask(128, 128)), [ones; 4]);
        assert_eq!(words(mask(64, 128)), [ones, ones, 0, 0]);
        assert_eq!(words(mask(33, 128)), [ones, 0x8000_0000, 0, 0]);
    }

    #[test]
    fn services_of_a_group_share_a_number_and_others_do_not() {
        let key = |text: &str| ServiceKey {
            protocol: crate::model::Protocol::Tcp,
            address: text.parse().unwrap(),
        };
        let (one, other) = (key("192.0.2.80:80"), key("192.0.2.80:443"));
        let alone = Persistence::default();
        let grouped = Persistence {
            group: Some("shop".to_owned()),
            ..Persistence::default()
        };
        let wide = Persistence {
            netmask: Some(24),
            ..grouped.clone()
        };
        assert_eq!(group_number(&one, &grouped), group_number(&other, &grouped));
        let mut numbers = vec![
            group_number(&one, &grouped),
            group_number(&one, &alone),
            group_number(&other, &alone),
            group_number(&one, &wide),
        ];
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 4);
        let service = Service {
            persistence: Some(Persistence {
                timeout: Duration::from_secs(60),
                ..alone
            }),
            ..super::super::tests::service(1, &[])
        };
        assert_eq!(stickiness(&service, Tick::with_hz(250)).timeout, 15_000);
    }

    #[test]
    fn those_in_order_are_sorted_by_weight_and_the_others_stay_as_they_are() {
        let service = super::super::tests::service(1, &[(2, 1), (3, 0), (4, 5), (5, 5)]);
        let reals: Vec<_> = (10..).zip(&service.reals).collect();
        let of = |scheduler| available(&choice(scheduler, HashKey::Client), &reals);
        assert_eq!(of(Scheduler::Wlc), [10, 12, 13]);
        assert_eq!(of(Scheduler::Fo), [12, 13, 10]);
        assert_eq!(of(Scheduler::Ovf), [12, 13, 10]);
    }
}

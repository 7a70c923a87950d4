//! The rules of IPVS's schedulers, as its modules state them (`net/netfilter/ipvs/ip_vs_*.c`): the independent reference.

use balancer_common::load::Measure;

/// A real server as IPVS sees it. None is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    pub active: u32,
    pub inactive: u32,
    pub weight: u32,
}

impl Destination {
    /// `ip_vs_dest_conn_overhead`.
    fn overhead(self) -> u64 {
        (u64::from(self.active) << 8) + u64::from(self.inactive)
    }

    /// `ip_vs_sed_dest_overhead`.
    fn delay(self) -> u64 {
        u64::from(self.active) + 1
    }
}

/// The number of the one that is chosen.
pub fn choice(measure: Measure, destinations: &[Destination]) -> Option<usize> {
    let has_weight = |(_, destination): &(usize, Destination)| destination.weight > 0;
    let all = || destinations.iter().copied().enumerate().filter(has_weight);
    // `loh * dest->weight > doh * least->weight`
    let per_weight = |overhead: fn(Destination) -> u64| {
        all().reduce(|least, one| {
            let is_less = overhead(least.1) * u64::from(one.1.weight)
                > overhead(one.1) * u64::from(least.1.weight);
            if is_less { one } else { least }
        })
    };
    let heaviest = |may: fn(Destination) -> bool| {
        let may = all().filter(|(_, one)| may(*one));
        may.reduce(|first, one| {
            if one.1.weight > first.1.weight {
                one
            } else {
                first
            }
        })
    };
    let chosen = match measure {
        Measure::LC => all().reduce(|least, one| {
            if one.1.overhead() < least.1.overhead() {
                one
            } else {
                least
            }
        }),
        Measure::WLC => per_weight(Destination::overhead),
        Measure::SED => per_weight(Destination::delay),
        Measure::NQ => {
            let idle = all().find(|(_, one)| one.active == 0);
            idle.or_else(|| per_weight(Destination::delay))
        }
        Measure::FO => heaviest(|_| true),
        Measure::OVF => heaviest(|one| one.active <= one.weight),
        other => panic!("no scheduler of IPVS: {other:?}"),
    };
    chosen.map(|(at, _)| at)
}

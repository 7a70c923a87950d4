//! Refuses real servers whose address is this host's own or a broadcast address. Pure: the caller passes the host's addresses.

use std::net::IpAddr;

use super::{Place, Problem};
use crate::{
    model::Model,
    netlink::local::{Kind, LocalAddresses},
};

/// The real servers of `wanted` with such an address. Those that run already are not refused: their address may have been
/// added to this host later, which `status` reports.
#[must_use]
pub fn problems(wanted: &Model, running: &Model, local: &LocalAddresses) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, service) in wanted.services.iter().enumerate() {
        for (number, real) in service.reals.iter().enumerate() {
            let address = real.address.ip();
            if let Some(kind) = local.kind(address)
                && running.real(&service.key, real.address).is_none()
            {
                problems.push(Problem {
                    place: Place::Real(index, number, "address"),
                    sentence: sentence(address, kind),
                });
            }
        }
    }
    problems
}

/// Why a real server cannot have an address.
#[must_use]
pub fn sentence(address: IpAddr, kind: Kind) -> String {
    let what = match kind {
        Kind::Local => "an address of this host itself",
        Kind::Broadcast => "the broadcast address of a network that this host is connected to",
    };
    format!("address {address} of a real is {what}: it must be another host's address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{change::tests::model, prefix::Prefix},
        netlink::local::LocalRoute,
    };

    #[test]
    fn only_real_servers_that_do_not_run_yet_are_checked() {
        let local: LocalAddresses = [
            ("10.0.0.1", Kind::Local),
            ("10.0.0.255", Kind::Broadcast),
            ("fd00::1", Kind::Local),
        ]
        .map(|(address, kind)| LocalRoute {
            prefix: Prefix::of(address.parse().unwrap(), 128),
            kind,
        })
        .into_iter()
        .collect();
        let with = |addresses: &[&str]| {
            let reals = addresses
                .iter()
                .map(|address| format!("[[service.real]]\naddress = \"{address}\"\n"));
            model(&format!(
                "[[service]]\naddress = \"192.0.2.80:80\"\n[[service]]\naddress = \"192.0.2.81:80\"\n{}",
                reals.collect::<String>()
            ))
        };
        let wanted = with(&["10.0.0.2", "10.0.0.255", "10.0.0.1:8080"]);
        let problem = |number, sentence: &str| Problem {
            place: Place::Real(1, number, "address"),
            sentence: sentence.to_owned(),
        };
        let broadcast = problem(
            1,
            "address 10.0.0.255 of a real is the broadcast address of a network that this host is connected to: it must be \
             another host's address",
        );
        let own = problem(
            2,
            "address 10.0.0.1 of a real is an address of this host itself: it must be another host's address",
        );
        assert_eq!(
            problems(&wanted, &with(&[]), &local),
            [broadcast.clone(), own]
        );
        // The same address at another port is another real server.
        assert_eq!(
            problems(&wanted, &with(&["10.0.0.1", "10.0.0.1:8080"]), &local),
            [broadcast]
        );
        assert_eq!(problems(&wanted, &wanted, &local), []);
    }
}

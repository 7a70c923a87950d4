//! Which checks are not made: those that a Backup node leaves to the Active node, and those that would run a program which others than
//! root may have named. Pure.

use std::collections::{BTreeSet, HashSet};

use super::{availability::check_targets, tracking};
use crate::{
    health::{CheckStart, CheckTarget},
    model::{
        Model, VirtualService,
        check::Probe,
        vrrp::{Probes, VirtualRouter},
    },
};

/// Pauses the checkers that serve no service which is to be probed; `active` are the virtual routers that are Active here, by name.
pub fn pause(wanted: &mut [CheckStart], model: &Model, active: &BTreeSet<String>) {
    if !model.vrrp.iter().any(|router| is_paused(router, active)) {
        return;
    }
    let services = model.services.iter();
    let probed = services.filter(|service| !waits(service, model, active));
    let of_services = probed.flat_map(|service| {
        let reals = service.reals.iter();
        reals.flat_map(|real| check_targets(service, real))
    });
    let tracked = model.vrrp.iter().flat_map(tracking::check_targets);
    let needed: HashSet<CheckTarget> = of_services
        .chain(tracked.map(|(target, _)| target))
        .collect();
    for start in wanted {
        start.paused = !needed.contains(&*start.target);
    }
}

/// Pauses the checkers that run a program.
pub fn pause_programs(wanted: &mut [CheckStart]) {
    for start in wanted {
        start.paused |= matches!(start.target.check.probe, Probe::Exec(_));
    }
}

/// Whether the services on a virtual router's VIPs are not probed at present.
fn is_paused(router: &VirtualRouter, active: &BTreeSet<String>) -> bool {
    router.probes == Probes::ActiveOnly && !active.contains(&router.name)
}

/// Whether a service is not probed at present. One that a virtual router tracks always is: whether this node can take over depends on it.
fn waits(service: &VirtualService, model: &Model, active: &BTreeSet<String>) -> bool {
    let mut tracked = model.vrrp.iter().flat_map(|router| &router.track_services);
    let has_vip = |router: &&VirtualRouter| {
        let mut addresses = router.addresses.iter();
        addresses.any(|one| one.address == service.key.address.ip())
    };
    let router = model.vrrp.iter().find(has_vip);
    router.is_some_and(|router| is_paused(router, active))
        && !tracked.any(|tracked| service.is_called(&tracked.service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::read, control::availability::Availability, health::fake::FakeCheckers, os::clock,
    };

    const FILE: &str = r#"
        [dataplane]
        interfaces = ["eth0"]
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        check = { type = "tcp" }
        [[service.real]]
        address = "10.0.0.2:80"
        [[service.real]]
        address = "10.0.0.3:80"
        [[service]]
        name = "dns"
        address = "192.0.2.81:53"
        check = { type = "tcp" }
        [[service.real]]
        address = "10.0.0.4:53"
        [[service]]
        name = "own"
        address = "192.0.2.99:80"
        check = { type = "tcp" }
        [[service.real]]
        address = "10.0.0.3:80"
        [[vrrp]]
        name = "outside"
        interface = "eth0"
        router-id = 51
        addresses = ["192.0.2.80/24"]
        probes = "active-only"
        [[vrrp]]
        name = "other"
        interface = "eth0"
        router-id = 52
        addresses = ["192.0.2.81/24"]
        track-ping = { targets = ["192.0.2.1"] }
    "#;

    /// The ports and last bytes of what is not probed.
    fn paused(file: &str, active: &[&str]) -> Vec<String> {
        let model = read::model(file, "lb1").unwrap();
        let now = clock::now();
        let mut wanted = Availability::at_start(&model, &FakeCheckers::default(), now).checkers();
        wanted.extend(tracking::Tracking::checkers(&model));
        let active = active.iter().map(|name| (*name).to_owned()).collect();
        pause(&mut wanted, &model, &active);
        let paused = wanted.iter().filter(|start| start.paused);
        let mut paused: Vec<_> = paused
            .map(|start| start.target.target.to_string())
            .collect();
        paused.sort();
        paused
    }

    #[test]
    fn a_backup_node_leaves_probes_to_the_active_one_where_that_is_configured() {
        // 10.0.0.3 also serves a VIP of no virtual router.
        assert_eq!(paused(FILE, &[]), ["10.0.0.2:80"]);
        assert_eq!(paused(FILE, &["other"]), ["10.0.0.2:80"]);
        assert_eq!(paused(FILE, &["outside"]), [""; 0]);
        let every = FILE.replace("active-only", "every-node");
        assert_eq!(paused(&every, &[]), [""; 0]);
        let both = format!("{FILE}\nprobes = \"active-only\"\n");
        assert_eq!(paused(&both, &["outside"]), ["10.0.0.4:53"]);
        // Its priority depends on it.
        let tracked = FILE.replace("probes =", "track-services = [\"web\"]\n        probes =");
        assert_eq!(paused(&tracked, &[]), [""; 0]);
    }
}

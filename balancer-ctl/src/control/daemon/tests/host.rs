//! The host's addresses and routes: what is refused, what limits, and which events there are.

use super::*;
use crate::{
    model::prefix::Prefix,
    netlink::local::{Kind, LocalRoute},
};

/// A daemon on a host whose own address is 10.0.0.1, and 10.0.0.255 its network's broadcast address.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.dataplane.state().local = [("10.0.0.1", Kind::Local), ("10.0.0.255", Kind::Broadcast)]
        .map(|(address, kind)| LocalRoute {
            prefix: Prefix::of(address.parse().unwrap(), 32),
            kind,
        })
        .into_iter()
        .collect();
    scene
}

const OWN: &str = "address 10.0.0.1 of a real is an address of this host itself: it must be another host's address";

#[test]
fn a_real_server_that_is_this_host_or_a_whole_network_is_refused() {
    let mut scene = scene();
    for scope in [Scope::File, Scope::Runtime] {
        assert_eq!(scene.refusal(add_real("10.0.0.1:8080"), scope), OWN);
        assert_eq!(
            scene.refusal(add_real("10.0.0.255"), scope),
            "address 10.0.0.255 of a real is the broadcast address of a network that this host is connected to: it must be \
             another host's address"
        );
    }
    assert_eq!(scene.events(), [] as [&str; 0]);
    scene.change(add_real("10.0.0.3"), Scope::File).unwrap();
    assert_eq!(
        scene.state(),
        ["tcp/192.0.2.80:80 10.0.0.2:80=1 10.0.0.3:80=1"]
    );
}

#[test]
fn a_vip_that_no_packet_comes_for_is_warned_about_when_its_service_is_added() {
    let mut scene = scene();
    let local = LocalRoute {
        prefix: Prefix::of("203.0.113.0".parse().unwrap(), 24),
        kind: Kind::Local,
    };
    {
        let state = &mut scene.dataplane.state();
        state.local = state.local.prefixes().chain([local]).collect();
    }
    let mut add = |services: &[&str]| {
        let requests = services.iter().map(|service| {
            Request::AddService(service_key(service).unwrap(), ServiceSettings::default())
        });
        let requests = requests.collect();
        scene
            .ask(|reply| Message::Change(requests, Scope::Runtime, reply))
            .unwrap()
            .warnings
    };
    assert_eq!(add(&["192.0.2.80:81"]), [""; 0], "an interface has it");
    assert_eq!(add(&["203.0.113.7:80"]), [""; 0], "a local route");
    assert_eq!(
        add(&["192.0.2.81:80", "192.0.2.81:81", "[2001:db8::81]:80"]),
        [
            "no interface carries VIP 192.0.2.81, so nobody answers for it: `ip address add 192.0.2.81/32 dev eth0`",
            "no interface carries VIP 2001:db8::81, so nobody answers for it: `ip address add 2001:db8::81/128 dev eth0`"
        ]
    );
    // The status names all, and not the one with a local route.
    let mut reasons = scene.ask(Message::Status).unwrap().reasons;
    reasons.retain(|reason| reason.starts_with("no interface carries"));
    assert_eq!(reasons.len(), 2);
}

#[test]
fn a_file_with_such_real_servers_is_refused_with_their_places_and_nothing_changes() {
    let mut scene = scene();
    let text = format!(
        "{FILE}\n[[service.real]]\naddress = \"10.0.0.255\"\n\n[[service.real]]\nweight = 7\naddress = \"10.0.0.1:81\"\n"
    );
    fs::write(scene.path(), text).unwrap();
    let path = scene.path().display().to_string();
    let refusal = scene.ask(Message::Reload).unwrap_err().sentence;
    assert_eq!(
        refusal,
        format!(
            "{path}:13:11: address 10.0.0.255 of a real is the broadcast address of a network that this host is connected to: it \
             must be another host's address\n{path}:17:11: {OWN}"
        )
    );
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert_eq!(scene.events(), [format!("reload-failed {refusal}")]);
}

#[test]
fn an_address_that_came_to_this_host_later_limits_and_can_still_be_changed_and_loaded() {
    let mut scene = scene();
    let own = LocalRoute {
        prefix: Prefix::of("10.0.0.2".parse().unwrap(), 32),
        kind: Kind::Local,
    };
    scene.dataplane.state().local = [own].into_iter().collect();
    let obstacle = "10.0.0.2 is an address of this host: name another host's address";
    let address = "10.0.0.2".parse().unwrap();
    scene
        .dataplane
        .state()
        .obstacles
        .insert(address, obstacle.to_owned());
    let status = scene.ask(Message::Status).unwrap();
    assert_eq!(
        (status.overall, status.reasons),
        (
            view::Overall::Limited,
            vec![format!(
                "real 10.0.0.2:80 of service web cannot work: {obstacle}"
            )]
        )
    );
    let edit = Request::EditReal(ServiceRef::Only, real("10.0.0.2"), weight(3));
    scene.change(edit, Scope::File).unwrap();
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=3"]);
    // It goes with its cause.
    scene.dataplane.state().obstacles.clear();
    let status = scene.ask(Message::Status).unwrap();
    assert_eq!(
        (status.overall, status.reasons),
        (view::Overall::Running, vec![])
    );
}

#[test]
fn a_daemon_starts_with_a_file_that_it_would_not_load_again() {
    let scene = Scene::with_file(&FILE.replace("10.0.0.2:80", "10.0.0.1:80"));
    let services = scene.dataplane.state().services.clone();
    assert_eq!(services[0].reals[0].address, "10.0.0.1:80".parse().unwrap());
}

#[test]
fn status_lists_few_real_servers_that_cannot_work() {
    let mut scene = scene();
    for last in 10..30 {
        let address = format!("10.0.0.{last}");
        scene.change(add_real(&address), Scope::Runtime).unwrap();
        let obstacles = &mut scene.dataplane.state().obstacles;
        obstacles.insert(address.parse().unwrap(), "why".to_owned());
    }
    let reasons = scene.ask(Message::Status).unwrap().reasons;
    assert_eq!(reasons.len(), 11);
    assert_eq!(
        (reasons[0].as_str(), reasons[10].as_str()),
        (
            "real 10.0.0.10:80 of service web cannot work: why",
            "10 more real servers cannot work"
        )
    );
}

#[test]
fn unwatched_routes_limit_the_node_and_both_ends_are_events() {
    let mut scene = scene();
    for (unwatched, overall, reasons, events) in [
        (None, view::Overall::Running, &[][..], &[][..]),
        (
            Some("the socket failed"),
            view::Overall::Limited,
            &[
                "route changes are not watched, so that they take effect some seconds late; watching is tried again: the socket \
                 failed",
            ],
            &["routes-unwatched the socket failed"],
        ),
        (
            Some("no memory"),
            view::Overall::Limited,
            &[
                "route changes are not watched, so that they take effect some seconds late; watching is tried again: no memory",
            ],
            &[],
        ),
        (None, view::Overall::Running, &[], &["routes-watched"]),
    ] {
        scene.dataplane.state().watch_failure = unwatched.map(str::to_owned);
        scene.daemon.run_maintenance();
        let status = scene.ask(Message::Status).unwrap();
        assert_eq!(
            (status.overall, &*status.reasons),
            (
                overall,
                &reasons.iter().map(ToString::to_string).collect::<Vec<_>>()[..]
            )
        );
        scene.daemon.run_maintenance();
        assert_eq!(scene.events(), events, "once");
    }
}

#[test]
fn failed_maintenance_limits_the_node_and_both_ends_are_events() {
    let mut scene = scene();
    for (failure, reasons, events) in [
        (
            Some("no memory"),
            &["maintenance failed, it is tried again: no memory"][..],
            &["maintenance-failed no memory"][..],
        ),
        (
            Some("no space"),
            &["maintenance failed, it is tried again: no space"],
            &[],
        ),
        (None, &[], &["maintenance-recovered"]),
    ] {
        scene.dataplane.state().maintenance_failure = failure.map(str::to_owned);
        scene.daemon.run_maintenance();
        assert_eq!(scene.ask(Message::Status).unwrap().reasons, reasons);
        scene.daemon.run_maintenance();
        assert_eq!(scene.events(), events, "once");
    }
}

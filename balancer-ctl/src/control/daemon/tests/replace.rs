//! All services replaced at once, with one write of the file, or none.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
};

use super::*;
use crate::{
    control::daemon::Replacement,
    model::{PersistenceSettings, change::WantedService, prefix::Prefix},
    netlink::local::{Kind, LocalRoute},
};

fn wanted(address: &str, settings: ServiceSettings, reals: &[(&str, u32)]) -> WantedService {
    WantedService {
        key: service_key(address).unwrap(),
        settings,
        reals: reals
            .iter()
            .map(|(address, of)| (address.parse().unwrap(), weight(*of)))
            .collect(),
    }
}

/// The service of the file with another scheduler and real server, and a new service.
fn others() -> Vec<WantedService> {
    let settings = ServiceSettings {
        scheduler: Some(Scheduler::Rr),
        persistence: Some(PersistenceSettings::off()),
        ..ServiceSettings::default()
    };
    vec![
        wanted(
            "192.0.2.80:80",
            settings,
            &[("10.0.0.2:80", 1), ("10.0.0.3:80", 3)],
        ),
        wanted(
            "192.0.2.80:25",
            ServiceSettings::default(),
            &[("10.0.0.4:25", 1)],
        ),
    ]
}

const CHANGED: &str = r#"# ours
[dataplane]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "rr"

[[service.real]]
address = "10.0.0.2:80"   # old

[[service.real]]
address = "10.0.0.3:80"
weight = 3

[[service]]
address = "192.0.2.80:25"

[[service.real]]
address = "10.0.0.4:25"
"#;

impl Scene {
    fn replace(
        &mut self,
        services: Vec<WantedService>,
        scope: Scope,
        is_dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        let replacement = Replacement {
            services,
            scope,
            is_dry_run,
        };
        let result = self.ask(|reply| Message::Replace(replacement, reply))?;
        Ok(result.notes)
    }
}

#[test]
fn services_are_replaced_with_one_write_that_keeps_comments() {
    let mut scene = Scene::with_file(&format!(
        "{FILE}\n[[service]]\naddress = \"192.0.2.80:443\"\n"
    ));
    let before = fs::metadata(scene.path()).unwrap().ino();
    let changes = [
        "service-removed tcp/192.0.2.80:443",
        "service-changed tcp/192.0.2.80:80 scheduler wrr -> rr",
        "real-added tcp/192.0.2.80:80 10.0.0.3:80 weight 3, nat",
        "service-added tcp/192.0.2.80:25 scheduler wrr",
        "real-added tcp/192.0.2.80:25 10.0.0.4:25 weight 1, nat",
    ];
    // What it would change is the same, and nothing has changed then.
    let (state, text) = (scene.state(), scene.text());
    for scope in [Scope::File, Scope::Runtime] {
        assert_eq!(scene.replace(others(), scope, true).unwrap(), changes);
        assert_eq!((scene.state(), scene.text()), (state.clone(), text.clone()));
    }
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 1);
    assert_eq!(scene.dataplane.state().reconciled, 1, "only the start");

    assert_eq!(
        scene.replace(others(), Scope::File, false).unwrap(),
        changes
    );
    let state = [
        "tcp/192.0.2.80:80 10.0.0.2:80=1 10.0.0.3:80=3",
        "tcp/192.0.2.80:25 10.0.0.4:25=1",
    ];
    assert_eq!(scene.state(), state);
    assert_eq!(scene.text(), CHANGED);
    assert_eq!(scene.dataplane.state().reconciled, 2);
    assert_ne!(fs::metadata(scene.path()).unwrap().ino(), before);
    // Nothing is left to change, so that nothing is written.
    let old = scene.folder.path().join("balancer.toml~");
    assert_eq!(fs::read_to_string(&old).unwrap(), text);
    assert_eq!(scene.replace(others(), Scope::File, false), Ok(Vec::new()));
    assert_eq!(fs::read_to_string(&old).unwrap(), text);
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.state(), state);
}

#[test]
fn what_runs_already_is_made_permanent() {
    let mut scene = Scene::new();
    scene.replace(others(), Scope::Runtime, false).unwrap();
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80* 10.0.0.2:80=1 10.0.0.3:80=3*",
            "tcp/192.0.2.80:25* 10.0.0.4:25=1*"
        ]
    );
    assert_eq!(scene.text(), FILE);
    assert_eq!(
        scene.replace(others(), Scope::File, false).unwrap(),
        ["only the configuration file changes: what it says runs already"]
    );
    assert_eq!(scene.text(), CHANGED);
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80 10.0.0.2:80=1 10.0.0.3:80=3",
            "tcp/192.0.2.80:25 10.0.0.4:25=1"
        ]
    );
}

#[test]
fn without_a_file_what_runs_is_replaced() {
    let mut scene = Scene::without_file();
    scene.replace(others(), Scope::File, false).unwrap();
    assert_eq!(scene.state().len(), 2);
    scene.replace(Vec::new(), Scope::File, false).unwrap();
    assert_eq!(scene.state(), [] as [&str; 0]);
}

#[test]
fn a_replacement_that_is_refused_changes_nothing() {
    let mut scene = Scene::new();
    let route = LocalRoute {
        prefix: Prefix::of("10.0.0.1".parse().unwrap(), 32),
        kind: Kind::Local,
    };
    scene.dataplane.state().local = [route].into_iter().collect();
    let before = (scene.state(), scene.text());
    let with = |last: WantedService| {
        let mut services = others();
        services.push(last);
        services
    };
    let plain = ServiceSettings::default;
    for (services, sentence) in [
        (
            with(wanted("192.0.2.80:80", plain(), &[])),
            "service tcp/192.0.2.80:80 is named twice",
        ),
        (
            with(wanted("192.0.2.81:80", plain(), &[("10.0.0.1:80", 1)])),
            "address 10.0.0.1 of a real is an address of this host itself: it must be another host's address",
        ),
        (
            with(wanted("192.0.2.81:80", plain(), &[("[2001:db8::2]:80", 1)])),
            "real [2001:db8::2]:80 is not of the family of service tcp/192.0.2.81:80: both must be IPv4 or both IPv6",
        ),
    ] {
        for (scope, is_dry_run) in [
            (Scope::File, false),
            (Scope::File, true),
            (Scope::Runtime, false),
        ] {
            let refusal = scene
                .replace(services.clone(), scope, is_dry_run)
                .unwrap_err();
            assert_eq!(refusal.sentence, sentence);
            assert_eq!((scene.state(), scene.text()), before);
        }
    }
    let many: Vec<_> = (0..32_769_u32)
        .map(|index| {
            (
                SocketAddr::from((Ipv4Addr::from(0x0a01_0000 + index), 80)),
                weight(1),
            )
        })
        .collect();
    let mut too_many = wanted("192.0.2.81:80", plain(), &[]);
    too_many.reals = many;
    let refusal = scene.replace(vec![too_many], Scope::File, false);
    assert_eq!(
        refusal.unwrap_err().sentence,
        "32769 real servers are more than there can be: 32768"
    );
    // As with each change: the file has changed since, or the data plane has no room.
    scene.dataplane.state().max_services = Some(1);
    let refusal = scene.replace(others(), Scope::File, false).unwrap_err();
    assert_eq!(refusal.sentence, "there is room for 1 services");
    assert_eq!((scene.state(), scene.text()), before);
    fs::write(scene.path(), "# theirs\n").unwrap();
    for is_dry_run in [false, true] {
        let refusal = scene.replace(others(), Scope::File, is_dry_run);
        assert_eq!(
            refusal.unwrap_err().sentence,
            format!(
                "{} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime",
                scene.path().display()
            )
        );
    }
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_dry_run_warns_of_what_the_change_would_warn_of() {
    let mut scene = Scene::new();
    let local = LocalRoute {
        prefix: Prefix::of("203.0.113.0".parse().unwrap(), 24),
        kind: Kind::Local,
    };
    scene.dataplane.state().local = [local].into_iter().collect();
    let services = ["192.0.2.80:80", "192.0.2.81:80", "203.0.113.7:80"];
    for is_dry_run in [true, false] {
        let replacement = Replacement {
            services: services
                .map(|address| wanted(address, ServiceSettings::default(), &[]))
                .into(),
            scope: Scope::Runtime,
            is_dry_run,
        };
        let result = scene.ask(|reply| Message::Replace(replacement, reply));
        assert_eq!(
            result.unwrap().warnings,
            [
                "no interface carries VIP 192.0.2.81, so nobody answers for it: `ip address add 192.0.2.81/32 dev eth0`"
            ],
            "{is_dry_run}"
        );
    }
}

//! Changes to models, and what they mark.

use std::time::Duration;

use super::*;
use crate::{
    config,
    model::{AdminState, Backups, NoReal, OnDown, address::service_key},
};

/// A model with the services of a configuration file's text.
pub(crate) fn model(services: &str) -> Model {
    let text = format!("node.name = \"lb1\"\ndataplane.interfaces = [\"eth0\"]\n{services}");
    config::read::model(&text, "lb1").unwrap_or_else(|problems| panic!("{problems:?}"))
}

impl Change {
    /// The model after the change.
    pub(crate) fn after(&self, model: &Model) -> Result<Model, ApiError> {
        let mut model = model.clone();
        self.apply(&mut model.services)?;
        Ok(model)
    }
}

const WEB: &str = r#"
    [[service]]
    name = "web"
    address = "192.0.2.80:80"
    scheduler = "rr"
    [[service.real]]
    address = "10.0.0.2"
    weight = 3
"#;

fn web() -> ServiceKey {
    service_key("192.0.2.80:80").unwrap()
}

fn real(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn adding_gives_defaults_to_what_is_not_named() {
    let added = Change::AddService(web(), ServiceSettings::default())
        .after(&model(""))
        .unwrap();
    let added = Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default()).after(&added);
    let expected = r#"
        [[service]]
        address = "192.0.2.80:80"
        scheduler = "wrr"
        no-real = "reject"
        [[service.real]]
        address = "10.0.0.2:80"
        weight = 1
    "#;
    assert_eq!(added.unwrap(), model(expected));
}

#[test]
fn editing_keeps_what_is_not_named() {
    let settings = ServiceSettings {
        no_real: Some(NoReal::Drop),
        ..Default::default()
    };
    let edited = Change::EditService(web(), settings)
        .after(&model(WEB))
        .unwrap();
    let settings = RealSettings {
        weight: Some(0),
        ..Default::default()
    };
    let edited = Change::EditReal(web(), real("10.0.0.2:80"), settings)
        .after(&edited)
        .unwrap();
    let expected = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        scheduler = "rr"
        no-real = "drop"
        [[service.real]]
        address = "10.0.0.2"
        weight = 0
    "#;
    assert_eq!(edited, model(expected));
}

#[test]
fn deleting_takes_one_and_clearing_takes_all() {
    let without_real = Change::DelReal(web(), real("10.0.0.2:80"))
        .after(&model(WEB))
        .unwrap();
    assert_eq!(
        without_real,
        model("[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\nscheduler = \"rr\"\n")
    );
    assert_eq!(
        Change::DelService(web()).after(&model(WEB)).unwrap(),
        model("")
    );
    assert_eq!(Change::Clear.after(&model(WEB)).unwrap(), model(""));
}

#[test]
fn what_exists_cannot_be_added_and_what_does_not_cannot_be_changed() {
    let refusal = |change: Change| change.after(&model(WEB)).unwrap_err().to_string();
    let other = service_key("udp/192.0.2.80:80").unwrap();
    assert_eq!(
        refusal(Change::AddService(web(), ServiceSettings::default())),
        "service tcp/192.0.2.80:80 exists already: change it with `edit-service`"
    );
    assert_eq!(
        refusal(Change::AddReal(
            web(),
            real("10.0.0.2:80"),
            RealSettings::default()
        )),
        "real 10.0.0.2:80 of service tcp/192.0.2.80:80 exists already: change it with `edit-real`"
    );
    let absent_service = "there is no service udp/192.0.2.80:80: `list` shows all";
    assert_eq!(
        refusal(Change::EditService(other, ServiceSettings::default())),
        absent_service
    );
    assert_eq!(refusal(Change::DelService(other)), absent_service);
    assert_eq!(
        refusal(Change::AddReal(
            other,
            real("10.0.0.2:80"),
            RealSettings::default()
        )),
        absent_service
    );
    let absent_real = "service tcp/192.0.2.80:80 has no real 10.0.0.2:81: `list` shows all";
    assert_eq!(
        refusal(Change::EditReal(
            web(),
            real("10.0.0.2:81"),
            RealSettings::default()
        )),
        absent_real
    );
    assert_eq!(
        refusal(Change::DelReal(web(), real("10.0.0.2:81"))),
        absent_real
    );
}

#[test]
fn only_what_differs_from_the_file_is_marked() {
    let saved = model(WEB);
    let mut running = saved.clone();
    mark_runtime(&mut running, Some(&saved));
    assert!(is_saved(&running, &saved));

    let weight = RealSettings {
        weight: Some(7),
        ..Default::default()
    };
    let mut running = Change::EditReal(web(), real("10.0.0.2:80"), weight)
        .after(&saved)
        .unwrap();
    running = Change::AddReal(web(), real("10.0.0.3:80"), RealSettings::default())
        .after(&running)
        .unwrap();
    mark_runtime(&mut running, Some(&saved));
    let marks = |model: &Model| {
        let service = &model.services[0];
        (
            service.runtime,
            service
                .reals
                .iter()
                .map(|real| real.runtime)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(marks(&running), (false, vec![true, true]));
    assert!(!is_saved(&running, &saved));

    mark_runtime(&mut running, None);
    assert_eq!(marks(&running), (true, vec![true, true]));

    let mut without = Change::DelReal(web(), real("10.0.0.2:80"))
        .after(&saved)
        .unwrap();
    mark_runtime(&mut without, Some(&saved));
    assert_eq!(marks(&without), (true, vec![]));
    assert!(!is_saved(&without, &saved));

    for (service, real) in changes_of_health() {
        let mut running = Change::EditService(web(), service).after(&saved).unwrap();
        running = Change::EditReal(web(), self::real("10.0.0.2:80"), real)
            .after(&running)
            .unwrap();
        let changed = (
            running.services[0] != saved.services[0],
            running.services[0].reals[0] != saved.services[0].reals[0],
        );
        mark_runtime(&mut running, Some(&saved));
        assert_eq!(marks(&running), (!changed.1, vec![changed.1]));
        assert!(changed.0 && !is_saved(&running, &saved));
    }

    let mut deleted = Change::Clear.after(&saved).unwrap();
    mark_runtime(&mut deleted, Some(&saved));
    assert!(!is_saved(&deleted, &saved));
}
/// Changes that each set one thing.
fn changes_of_health() -> Vec<(ServiceSettings, RealSettings)> {
    let checks = config::read::checks("{ type = \"tcp\" }".parse().unwrap()).unwrap();
    let service = |settings| (settings, RealSettings::default());
    let real = |settings| (ServiceSettings::default(), settings);
    vec![
        service(ServiceSettings {
            checks: Some(checks),
            ..Default::default()
        }),
        service(ServiceSettings {
            on_down: Some(OnDown::Keep),
            ..Default::default()
        }),
        service(ServiceSettings {
            persistence: Some(serde_json::from_str(r#"{"timeout":"1m"}"#).unwrap()),
            ..Default::default()
        }),
        service(ServiceSettings {
            slow_start: Some(Duration::from_secs(1)),
            ..Default::default()
        }),
        service(ServiceSettings {
            quorum: Some(2),
            ..Default::default()
        }),
        service(ServiceSettings {
            hysteresis: Some(1),
            ..Default::default()
        }),
        service(ServiceSettings {
            backups: Some(Backups::All),
            ..Default::default()
        }),
        real(RealSettings {
            backup: Some(true),
            ..Default::default()
        }),
        real(RealSettings {
            upper: Some(9),
            ..Default::default()
        }),
        real(RealSettings {
            state: Some(AdminState::Drain),
            ..Default::default()
        }),
    ]
}

#[test]
fn persistence_begins_with_a_timeout_and_changes_field_by_field() {
    let edit = |json: &str| {
        let settings = ServiceSettings {
            persistence: Some(serde_json::from_str(json).unwrap()),
            ..Default::default()
        };
        Change::EditService(web(), settings)
    };
    let persistence = |model: &Model| model.services[0].persistence.clone().unwrap();
    let plain = model(WEB);
    let netmask = edit(r#"{"netmask":24}"#);
    assert_eq!(
        netmask.after(&plain).unwrap_err().sentence,
        "netmask without persistence: give service tcp/192.0.2.80:80 a timeout too, as in `--persistent 300`"
    );
    let begun = edit(r#"{"timeout":"10m"}"#).after(&plain).unwrap();
    assert_eq!(persistence(&begun).to_string(), "10m");
    let masked = netmask.after(&begun).unwrap();
    assert_eq!(persistence(&masked).to_string(), "10m netmask 24");
    assert_eq!(edit(r#"{"timeout":"0s"}"#).after(&masked).unwrap(), plain);
    // What the file lacks is added to it in full.
    let plan = PersistencePlan::new(
        &Change::AddService(web(), ServiceSettings::default()),
        &masked,
        &model(""),
    );
    let saved = plan.saved.after(&model("")).unwrap();
    assert_eq!(persistence(&saved), persistence(&masked));
}

#[test]
fn what_was_added_at_runtime_lasts_with_its_health_when_it_is_said_again() {
    let saved = model("");
    let text = r#"
        [[service]]
        address = "192.0.2.80:80"
        scheduler = "mh"
        hash = "client-port"
        persistence = { timeout = "1m", netmask = 24, group = "shop", drain = "keep" }
        on-down = "keep"
        slow-start = "30s"
        quorum = 2
        hysteresis = 1
        backups = "all"
        check = { type = "http", interval = "1s" }
        [[service.real]]
        address = "10.0.0.2"
        upper = 9
        lower = 3
        backup = true
        state = "maintenance"
    "#;
    let running = model(text);
    let again =
        |change: &Change, saved: &Model| PersistencePlan::new(change, &running, saved).saved;
    let service = Change::AddService(web(), ServiceSettings::default());
    let saved = again(&service, &saved).after(&saved).unwrap();
    let real = Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default());
    assert_eq!(again(&real, &saved).after(&saved).unwrap(), running);
}

//! Conditions while services, real servers and entries are changed and removed.

use super::*;

#[test]
fn the_event_of_a_removed_service_has_its_name() {
    let mut entry = notify(&[EventKind::ServiceRemoved]);
    entry.services = vec!["web".to_owned()];
    let mut scene = Scene::new(&[entry]);
    scene.configure(|model| drop(model.services.remove(0)));
    let event = scene.event(EventKind::ServiceRemoved, WEB, "");
    let notifications = scene.policy.handle(&event, scene.zero);
    assert_eq!(notifications.len(), 1);
    assert_eq!(notifications[0].event.name.as_deref(), Some("web"));
}

#[test]
fn conditions_of_what_is_removed_or_no_longer_checked_end_with_the_reason() {
    for (change, why) in [
        (
            (|model| model.services[0].reals.truncate(0)) as fn(&mut Model),
            "no longer watched: removed",
        ),
        (
            |model| drop(model.services.remove(0)),
            "no longer watched: the service was removed",
        ),
        (
            |model| model.services[0].checks.clear(),
            "no longer watched: it has no check",
        ),
        (
            |model| model.services[0].reals[0].state = AdminState::Maintenance,
            "no longer watched: in maintenance",
        ),
    ] {
        let mut young = health(1000, None, true);
        young.run = vec!["/usr/local/bin/young".to_owned()];
        let mut scene = Scene::new(&[health(0, Some(1000), false), young]);
        scene.down(0);
        scene.at(0, EventKind::RealDown, MAIL, "10.0.0.2:25");
        scene.now = 500;
        scene.configure(change);
        scene.wait_until(1000);
        scene.expect(&[
            "0: #0 real-down 10.0.0.2:80 at 0",
            "0: #0 real-down 10.0.0.2:25 at 0",
            &format!("500: #0 real-up 10.0.0.2:80 {why}"),
            "1000: #0 real-down 10.0.0.2:25 at 0 again 1",
            "1000: #1 real-down 10.0.0.2:25 at 0",
        ]);
    }
}

#[test]
fn an_entry_that_reported_the_beginning_reports_the_end_also_of_a_renamed_service() {
    let named = |name: &str| Notify {
        services: vec![name.to_owned()],
        run: vec![format!("/usr/local/bin/{name}")],
        ..health(0, None, false)
    };
    let mut scene = Scene::new(&[named("web"), named("shop")]);
    scene.down(0);
    scene.at(0, EventKind::RealDown, WEB, "10.0.0.3:80");
    scene.configure(|model| model.services[0].name = Some("shop".to_owned()));
    scene.at(1, EventKind::RealUp, WEB, "10.0.0.2:80");
    scene.now = 2;
    scene.configure(|model| drop(model.services.remove(0)));
    scene.expect(&[
        "0: #0 real-down 10.0.0.2:80 at 0",
        "0: #0 real-down 10.0.0.3:80 at 0",
        "1: #0 real-up 10.0.0.2:80 at 1",
        "2: #0 real-up 10.0.0.3:80 no longer watched: the service was removed",
    ]);
}

#[test]
fn a_removed_services_lost_quorum_ends_with_the_conditions_of_its_real_servers() {
    use EventKind::{QuorumLost, QuorumRegained, RealDown, RealUp};
    let mut scene = Scene::new(&[notify(&[RealDown, RealUp, QuorumLost, QuorumRegained])]);
    scene.down(0);
    scene.at(0, QuorumLost, WEB, "");
    scene.reported.clear();
    scene.now = 1;
    scene.configure(|model| drop(model.services.remove(0)));
    scene.at(2, EventKind::ServiceRemoved, WEB, "");
    scene.expect(&[
        "1: #0 quorum-regained no longer watched: the service was removed",
        "1: #0 real-up 10.0.0.2:80 no longer watched: the service was removed",
    ]);
}

#[test]
fn entries_keep_their_conditions_over_a_reload() {
    let (first, second) = (health(0, None, false), health(100, None, false));
    let mut scene = Scene::new(&[first.clone(), second.clone()]);
    scene.down(0);
    scene.expect(&["0: #0 real-down 10.0.0.2:80 at 0"]);
    // In another order, with a new entry of another program, which has no conditions.
    let other = Notify {
        run: vec!["/usr/local/bin/other".to_owned()],
        ..first.clone()
    };
    scene.configure(|model| model.notify = vec![second, other.clone(), first]);
    scene.wait_until(100);
    scene.up(200);
    scene.expect(&[
        "100: #1 real-down 10.0.0.2:80 at 0",
        "200: #1 real-up 10.0.0.2:80 at 200",
        "200: #0 real-up 10.0.0.2:80 at 200",
    ]);
    // With another setting but the same program, an entry keeps its conditions.
    scene.down(300);
    scene.reported.clear();
    let often = Notify {
        alert_every: Some(ms(1000)),
        ..other
    };
    scene.configure(|model| model.notify = vec![often]);
    scene.wait_until(1300);
    scene.up(1400);
    scene.expect(&[
        "1300: #2 real-down 10.0.0.2:80 at 300 again 1",
        "1400: #2 real-up 10.0.0.2:80 at 1400",
    ]);
}

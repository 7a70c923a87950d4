//! The policy on a virtual clock: what is reported when.

use std::{collections::HashSet, time::SystemTime};

use proptest::prelude::*;

use super::*;
use crate::model::{AdminState, change::tests::model, notify::Stdin};

const WEB: &str = "tcp/192.0.2.80:80";
const MAIL: &str = "tcp/192.0.2.80:25";

const SERVICES: &str = r#"
    [[service]]
    name = "web"
    address = "192.0.2.80:80"
    check = { type = "tcp" }
    [[service.real]]
    address = "10.0.0.2"
    [[service.real]]
    address = "10.0.0.3"
    [[service]]
    address = "192.0.2.80:25"
    check = { type = "tcp" }
    [[service.real]]
    address = "10.0.0.2"
"#;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn notify(on: &[EventKind]) -> Notify {
    Notify {
        user: None,
        on: on.to_vec(),
        services: Vec::new(),
        run: vec!["/usr/local/bin/alert".to_owned()],
        timeout: ms(10_000),
        alert_after: Duration::ZERO,
        alert_every: None,
        always_up: false,
        stdin: Stdin::Json,
    }
}

/// An entry for `real-down` and `real-up`.
fn health(after: u64, every: Option<u64>, always_up: bool) -> Notify {
    Notify {
        user: None,
        alert_after: ms(after),
        alert_every: every.map(ms),
        always_up,
        ..notify(&[EventKind::RealDown, EventKind::RealUp])
    }
}

/// A policy and its time, in milliseconds since it began.
struct Scene {
    policy: Policy,
    model: Model,
    zero: Instant,
    now: u64,
    reported: Vec<String>,
}

impl Scene {
    fn new(entries: &[Notify]) -> Self {
        let mut model = model(SERVICES);
        model.notify = entries.to_vec();
        let mut policy = Policy::default();
        policy.configure(&model, "");
        Self {
            policy,
            model,
            zero: Instant::now(),
            now: 0,
            reported: Vec::new(),
        }
    }

    fn configure(&mut self, change: impl FnOnce(&mut Model)) {
        change(&mut self.model);
        let time = self.event(EventKind::Stopping, "", "").time;
        let notifications = self.policy.configure(&self.model, &time);
        self.note(notifications);
    }

    fn event(&self, event: EventKind, service: &str, real: &str) -> EventRecord {
        let time = SystemTime::UNIX_EPOCH + ms(self.now);
        EventRecord {
            time: humantime::format_rfc3339_millis(time).to_string(),
            event,
            service: Some(service.to_owned()).filter(|service| !service.is_empty()),
            real: (!real.is_empty()).then(|| real.parse().unwrap()),
            message: format!("at {}", self.now),
        }
    }

    fn note(&mut self, notifications: Vec<Notification>) {
        for Notification {
            entry,
            event:
                NotificationEvent {
                    record: event,
                    repeats: again,
                    ..
                },
            ..
        } in notifications
        {
            let again = if again == 0 {
                String::new()
            } else {
                format!(" again {again}")
            };
            let real = event.real.map(|real| format!(" {real}"));
            self.reported.push(format!(
                "{}: #{} {}{} {}{again}",
                self.now,
                entry.0,
                event.event.name(),
                real.unwrap_or_default(),
                event.message
            ));
        }
    }

    /// Handles an event at this time.
    fn at(&mut self, time: u64, kind: EventKind, service: &str, real: &str) {
        self.now = time;
        let event = self.event(kind, service, real);
        let notifications = self.policy.handle(&event, self.zero + ms(time));
        self.note(notifications);
    }

    fn down(&mut self, time: u64) {
        self.at(time, EventKind::RealDown, WEB, "10.0.0.2:80");
    }

    fn up(&mut self, time: u64) {
        self.at(time, EventKind::RealUp, WEB, "10.0.0.2:80");
    }

    /// Lets time pass and meets each deadline exactly.
    fn wait_until(&mut self, time: u64) {
        while let Some(deadline) = self.policy.next_deadline()
            && deadline <= self.zero + ms(time)
        {
            self.now = u64::try_from((deadline - self.zero).as_millis()).unwrap();
            let notifications = self.policy.expire(deadline);
            self.note(notifications);
            assert!(
                self.policy
                    .next_deadline()
                    .is_none_or(|next| next > deadline),
                "no progress"
            );
        }
        self.now = time;
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut self.reported), expected);
    }
}

/// The state in which a row of the table begins.
#[derive(Clone, Copy, Debug)]
enum State {
    None,
    Pending,
    Reported,
}

#[test]
fn every_input_in_every_state() {
    use EventKind::{RealAdded, RealDown, RealRemoved, RealUp, ServiceRemoved, Stopping};
    use State::{None, Pending, Reported};

    // (state, input, reported, reported with always-up, whether the condition lasts afterwards)
    let (gone, all) = (RealRemoved, ServiceRemoved);
    type Row = (
        State,
        EventKind,
        &'static [&'static str],
        &'static [&'static str],
        bool,
    );
    let rows: [Row; 18] = [
        (None, RealDown, &[], &[], true),
        (None, RealUp, &[], &["real-up"], false),
        (None, gone, &["real-removed"], &["real-removed"], false),
        (None, RealAdded, &["real-added"], &["real-added"], false),
        (None, all, &["service-removed"], &["service-removed"], false),
        (None, Stopping, &["stopping"], &["stopping"], false),
        (Pending, RealDown, &[], &[], true),
        (Pending, RealUp, &[], &["real-up"], false),
        (Pending, gone, &["real-removed"], &["real-removed"], false),
        (Pending, RealAdded, &["real-added"], &["real-added"], false),
        (
            Pending,
            all,
            &["service-removed"],
            &["service-removed"],
            false,
        ),
        (Pending, Stopping, &["stopping"], &["stopping"], true),
        (Reported, RealDown, &[], &[], true),
        (Reported, RealUp, &["real-up"], &["real-up"], false),
        (Reported, gone, &["real-removed"], &["real-removed"], false),
        (Reported, RealAdded, &["real-added"], &["real-added"], false),
        (
            Reported,
            all,
            &["service-removed"],
            &["service-removed"],
            false,
        ),
        (Reported, Stopping, &["stopping"], &["stopping"], true),
    ];
    for (state, input, reported, reported_always, lasts) in rows {
        for (always_up, reported) in [(false, reported), (true, reported_always)] {
            let mut entry = health(100, Some(1000), always_up);
            entry.on.extend([gone, all, RealAdded, Stopping]);
            let mut scene = Scene::new(&[entry]);
            match state {
                None => {}
                Pending => scene.down(0),
                Reported => {
                    scene.down(0);
                    scene.wait_until(100);
                }
            }
            scene.reported.clear();
            let (service, real) = match input {
                Stopping => ("", ""),
                ServiceRemoved => (WEB, ""),
                _ => (WEB, "10.0.0.2:80"),
            };
            scene.now = 150;
            // A pending condition is handled before `alert-after` is over.
            let now = scene.zero + ms(if matches!(state, Pending) { 50 } else { 150 });
            let notifications = scene.policy.handle(&scene.event(input, service, real), now);
            let names: Vec<_> = notifications
                .iter()
                .map(|notification| notification.event.record.event.name())
                .collect();
            let row = format!("{state:?} {input:?} always_up {always_up}");
            assert_eq!(names, reported, "{row}");
            let incidents = scene.policy.entries[0].incidents.len();
            assert_eq!(incidents, usize::from(lasts), "{row}");
        }
    }
}

#[test]
fn without_alert_after_a_condition_and_its_end_are_reported_at_once() {
    let mut scene = Scene::new(&[health(0, None, false)]);
    scene.up(5);
    scene.down(10);
    scene.wait_until(100_000);
    scene.up(100_000);
    scene.up(100_001);
    scene.expect(&[
        "10: #0 real-down 10.0.0.2:80 at 10",
        "100000: #0 real-up 10.0.0.2:80 at 100000",
    ]);
    assert_eq!(scene.policy.next_deadline(), None);
}

#[test]
fn a_condition_shorter_than_alert_after_is_not_reported_and_neither_is_its_end() {
    let mut scene = Scene::new(&[health(1000, None, false)]);
    scene.down(0);
    scene.wait_until(999);
    scene.up(999);
    scene.wait_until(5000);
    scene.expect(&[]);
    scene.down(6000);
    // It ends just when `alert-after` is over: it is reported.
    scene.up(7000);
    scene.expect(&[
        "7000: #0 real-down 10.0.0.2:80 at 6000",
        "7000: #0 real-up 10.0.0.2:80 at 7000",
    ]);
}

#[test]
fn a_condition_is_reported_again_while_it_lasts() {
    let mut scene = Scene::new(&[health(300, Some(1000), false)]);
    scene.down(0);
    // A repeated event updates the message and is not reported by itself.
    scene.down(1200);
    scene.wait_until(3299);
    scene.up(3299);
    scene.wait_until(10_000);
    scene.expect(&[
        "1200: #0 real-down 10.0.0.2:80 at 0",
        "2200: #0 real-down 10.0.0.2:80 at 1200 again 1",
        "3200: #0 real-down 10.0.0.2:80 at 1200 again 2",
        "3299: #0 real-up 10.0.0.2:80 at 3299",
    ]);
}

#[test]
fn after_a_stall_missed_repetitions_are_reported_once() {
    let mut scene = Scene::new(&[health(0, Some(1000), false)]);
    scene.down(0);
    let notifications = scene.policy.expire(scene.zero + ms(60_500));
    scene.now = 60_500;
    scene.note(notifications);
    scene.wait_until(61_500);
    scene.expect(&[
        "0: #0 real-down 10.0.0.2:80 at 0",
        "60500: #0 real-down 10.0.0.2:80 at 0 again 1",
        "61500: #0 real-down 10.0.0.2:80 at 0 again 2",
    ]);
}

#[test]
fn an_entry_for_ends_alone_reports_those_of_conditions_that_lasted_alert_after() {
    let mut only_up = health(1000, Some(100), false);
    only_up.on = vec![EventKind::RealUp];
    let mut scene = Scene::new(&[only_up]);
    scene.up(0);
    scene.down(1);
    scene.up(500);
    scene.down(1000);
    scene.wait_until(3000);
    scene.up(3000);
    scene.expect(&["3000: #0 real-up 10.0.0.2:80 at 3000"]);
}

#[test]
fn an_entry_for_beginnings_alone_reports_each() {
    let mut only_down = health(0, None, true);
    only_down.on = vec![EventKind::RealDown];
    let mut scene = Scene::new(&[only_down]);
    scene.down(0);
    scene.up(1);
    scene.down(2);
    scene.expect(&[
        "0: #0 real-down 10.0.0.2:80 at 0",
        "2: #0 real-down 10.0.0.2:80 at 2",
    ]);
}

#[test]
fn conditions_are_kept_by_real_server_service_and_kind() {
    use EventKind::{QuorumLost, QuorumRegained, RealDown, RealUp, TableFull, TableRecovered};
    let on = [
        RealDown,
        RealUp,
        QuorumLost,
        QuorumRegained,
        TableFull,
        TableRecovered,
    ];
    let mut scene = Scene::new(&[notify(&on)]);
    scene.at(1, RealDown, WEB, "10.0.0.2:80");
    scene.at(2, QuorumLost, WEB, "");
    scene.at(3, TableFull, "", "");
    // The same address in another service, and another address in the same: their beginnings were not reported.
    scene.at(4, RealUp, MAIL, "10.0.0.2:25");
    scene.at(5, RealUp, WEB, "10.0.0.3:80");
    scene.at(6, QuorumRegained, MAIL, "");
    scene.at(7, TableRecovered, "", "");
    scene.at(8, QuorumRegained, WEB, "");
    scene.at(9, RealUp, WEB, "10.0.0.2:80");
    scene.expect(&[
        "1: #0 real-down 10.0.0.2:80 at 1",
        "2: #0 quorum-lost at 2",
        "3: #0 table-full at 3",
        "7: #0 table-recovered at 7",
        "8: #0 quorum-regained at 8",
        "9: #0 real-up 10.0.0.2:80 at 9",
    ]);
}

#[test]
fn services_match_by_name_or_address_and_the_nodes_events_always_pass() {
    let of = |services: &[&str]| Notify {
        services: services.iter().map(ToString::to_string).collect(),
        on: vec![EventKind::RealDown, EventKind::Stopping],
        ..health(0, None, false)
    };
    let entries = [
        of(&[]),
        of(&["web"]),
        of(&["192.0.2.80:80"]),
        of(&["tcp/192.0.2.80:80", MAIL]),
        of(&["udp/192.0.2.80:80", "mail"]),
    ];
    let mut scene = Scene::new(&entries);
    scene.down(1);
    scene.at(2, EventKind::RealDown, MAIL, "10.0.0.2:25");
    scene.at(3, EventKind::Stopping, "", "");
    scene.expect(&[
        "1: #0 real-down 10.0.0.2:80 at 1",
        "1: #1 real-down 10.0.0.2:80 at 1",
        "1: #2 real-down 10.0.0.2:80 at 1",
        "1: #3 real-down 10.0.0.2:80 at 1",
        "2: #0 real-down 10.0.0.2:25 at 2",
        "2: #3 real-down 10.0.0.2:25 at 2",
        "3: #0 stopping at 3",
        "3: #1 stopping at 3",
        "3: #2 stopping at 3",
        "3: #3 stopping at 3",
        "3: #4 stopping at 3",
    ]);
}

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

#[test]
fn reports_due_before_a_restart_are_not_repeated_and_those_due_meanwhile_are_made() {
    // The condition began 2500 ms before the restart, which is at 10000.
    let quick = health(0, None, false);
    let often = health(300, Some(1000), false);
    let slow = health(3000, None, false);
    let mut only_up = health(1000, Some(100), false);
    only_up.on = vec![EventKind::RealUp];
    let reported = |until: u64, ends: u64| {
        let mut scene = Scene::new(&[quick.clone(), often.clone(), slow.clone(), only_up.clone()]);
        scene.now = 7500;
        let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
        let at = |time| scene.zero + ms(time);
        scene.policy.assume(&event, at(7500), at(until));
        scene.now = 10_000;
        let notifications = scene.policy.expire(at(10_000));
        scene.note(notifications);
        scene.wait_until(ends);
        scene.up(ends);
        scene.reported
    };
    // The earlier daemon ran until the new one started.
    assert_eq!(
        reported(10_000, 10_100),
        [
            "10100: #0 real-up 10.0.0.2:80 at 10100",
            "10100: #1 real-up 10.0.0.2:80 at 10100",
            "10100: #3 real-up 10.0.0.2:80 at 10100",
        ]
    );
    assert_eq!(
        reported(10_000, 12_000),
        [
            // Reported at 7800, 8800 and 9800 before.
            "10500: #2 real-down 10.0.0.2:80 at 7500",
            "10800: #1 real-down 10.0.0.2:80 at 7500 again 3",
            "11800: #1 real-down 10.0.0.2:80 at 7500 again 4",
            "12000: #0 real-up 10.0.0.2:80 at 12000",
            "12000: #1 real-up 10.0.0.2:80 at 12000",
            "12000: #2 real-up 10.0.0.2:80 at 12000",
            "12000: #3 real-up 10.0.0.2:80 at 12000",
        ]
    );
    // It stopped at 7700, when only the first entry had reported.
    assert_eq!(
        reported(7700, 10_400),
        [
            "10000: #1 real-down 10.0.0.2:80 at 7500",
            "10400: #0 real-up 10.0.0.2:80 at 10400",
            "10400: #1 real-up 10.0.0.2:80 at 10400",
            "10400: #3 real-up 10.0.0.2:80 at 10400",
        ]
    );
}

#[test]
fn a_restart_within_alert_after_neither_loses_a_condition_nor_reports_a_false_end() {
    for (ends, reported) in [
        (500, &[][..]),
        (
            1500,
            &[
                "1000: #0 real-down 10.0.0.2:80 at 0",
                "1500: #0 real-up 10.0.0.2:80 at 1500",
            ],
        ),
    ] {
        let mut scene = Scene::new(&[health(1000, None, false)]);
        let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
        scene
            .policy
            .assume(&event, scene.zero, scene.zero + ms(400));
        scene.wait_until(ends);
        scene.up(ends);
        scene.expect(reported);
    }
}

#[test]
fn a_condition_that_began_after_the_restart_counts_from_then() {
    let mut scene = Scene::new(&[health(1000, Some(1000), false)]);
    let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
    scene.policy.assume(&event, scene.zero + ms(50), scene.zero);
    scene.wait_until(1100);
    scene.expect(&["1050: #0 real-down 10.0.0.2:80 at 0"]);
}

#[test]
fn each_notification_has_the_conditions_history() {
    let mut scene = Scene::new(&[health(0, None, true)]);
    let mut past = |time: u64, kind| {
        scene.now = time;
        let event = scene.event(kind, WEB, "10.0.0.2:80");
        let notifications = scene.policy.handle(&event, scene.zero + ms(time));
        notifications.first().map(|notification| {
            let of = |time: Option<SystemTime>| {
                time.map(|time| {
                    time.duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap()
                        .as_millis()
                })
            };
            let ConditionHistory {
                first_failure,
                last_failure,
                last_success,
            } = notification.event.past;
            [of(first_failure), of(last_failure), of(last_success)]
        })
    };
    let (down, up) = (EventKind::RealDown, EventKind::RealUp);
    assert_eq!(past(10, up), Some([None, None, Some(10)]));
    assert_eq!(past(20, down), Some([Some(20), Some(20), Some(10)]));
    assert_eq!(past(30, down), None);
    assert_eq!(past(40, up), Some([Some(20), Some(30), Some(40)]));
    assert_eq!(past(50, down), Some([Some(50), Some(50), Some(40)]));
}

#[test]
fn deadlines_beyond_the_clock_never_come() {
    let mut entry = health(0, None, false);
    entry.alert_after = Duration::MAX;
    let mut scene = Scene::new(&[entry]);
    scene.down(0);
    assert_eq!(scene.policy.next_deadline(), None);
    scene.up(1000);
    let mut entry = health(0, None, false);
    entry.alert_every = Some(Duration::ZERO);
    scene.configure(|model| model.notify = vec![entry]);
    scene.down(2000);
    assert_eq!(scene.policy.next_deadline(), None);
    scene.expect(&["2000: #0 real-down 10.0.0.2:80 at 2000"]);
}

/// What one entry reports of one real server by definition, computed over the whole of each condition.
fn by_definition(entry: &Notify, steps: &[(u64, bool)], end: u64) -> Vec<(u64, &'static str)> {
    let after = u64::try_from(entry.alert_after.as_millis()).unwrap();
    let every = entry
        .alert_every
        .map(|every| u64::try_from(every.as_millis()).unwrap());
    let mut reported = Vec::new();
    let mut began = None;
    for (time, is_down) in steps.iter().copied().chain([(end, true)]) {
        if is_down && time < end {
            began = began.or(Some(time));
            continue;
        }
        let mut was_reported = entry.always_up && time < end;
        if let Some(began) = began {
            let mut at = began + after;
            while at <= time {
                reported.push((at, "real-down"));
                was_reported |= time < end;
                let Some(every) = every else { break };
                at += every;
            }
        }
        if was_reported {
            reported.push((time, "real-up"));
        }
        began = None;
    }
    reported
}

proptest! {
    #[test]
    fn reports_are_as_the_definition_says(
        after in 0_u64..40,
        every in proptest::option::of(1_u64..40),
        always_up in any::<bool>(),
        steps in proptest::collection::vec((1_u64..30, any::<bool>()), 0..40),
    ) {
        let entry = health(after, every, always_up);
        let mut time = 0;
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(pause, is_down)| {
                time += pause;
                (time, is_down)
            })
            .collect();
        let end = time + 100;
        let mut scene = Scene::new(std::slice::from_ref(&entry));
        for (time, is_down) in &steps {
            scene.wait_until(*time);
            if *is_down { scene.down(*time) } else { scene.up(*time) }
        }
        scene.wait_until(end);
        let expected: Vec<_> = by_definition(&entry, &steps, end)
            .into_iter()
            .map(|(time, name)| format!("{time}: #0 {name}"))
            .collect();
        let reported: Vec<_> = scene
            .reported
            .iter()
            .map(|line| line.split(" 10.0.0.2").next().unwrap().to_owned())
            .collect();
        prop_assert_eq!(reported, expected);
    }

    #[test]
    fn whatever_happens_an_end_follows_a_beginning_and_waiting_is_finite(
        inputs in proptest::collection::vec((0_u64..50, 0_usize..6, 0_usize..3), 0..80),
    ) {
        use EventKind::{QuorumLost, QuorumRegained, RealDown, RealRemoved, RealUp, ServiceRemoved};
        let kinds = [RealDown, RealUp, RealRemoved, ServiceRemoved, QuorumLost, QuorumRegained];
        let places = [(WEB, "10.0.0.2:80"), (WEB, "10.0.0.3:80"), (MAIL, "10.0.0.2:25")];
        let mut entry = health(20, Some(30), false);
        entry.on = vec![RealDown, RealUp, QuorumLost, QuorumRegained];
        let mut scene = Scene::new(&[entry]);
        let mut open = HashSet::new();
        let mut time = 0;
        for (pause, kind, place) in inputs {
            time += pause;
            let (service, real) = places[place];
            let kind = kinds[kind];
            let real = if matches!(kind, RealDown | RealUp | RealRemoved) { real } else { "" };
            scene.now = time;
            let event = scene.event(kind, service, real);
            match kind {
                RealRemoved => drop(open.remove(&(RealDown, event.service.clone(), event.real))),
                ServiceRemoved => open.retain(|(_, service, _)| *service != event.service),
                _ => {}
            }
            for notification in scene.policy.handle(&event, scene.zero + ms(time)) {
                let EventRecord { event, service, real, .. } = notification.event.record;
                match event {
                    RealDown | QuorumLost => drop(open.insert((event, service, real))),
                    RealUp => prop_assert!(open.remove(&(RealDown, service, real))),
                    QuorumRegained => prop_assert!(open.remove(&(QuorumLost, service, real))),
                    _ => prop_assert!(false, "{event:?} was not asked for"),
                }
            }
        }
        scene.wait_until(time + 1000);
    }
}

//! The policy on a virtual clock: what is reported when.

mod nodes;
mod properties;
mod reload;
mod restart;

use std::time::SystemTime;

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
            peer: None,
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

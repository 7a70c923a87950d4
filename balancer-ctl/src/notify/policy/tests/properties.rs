//! What holds for any sequence of events.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

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

//! Events and runs that wait, and those that do not fit.

use super::*;

#[tokio::test]
async fn a_flood_of_events_waits_for_no_program_and_is_reported_in_order_as_far_as_it_fits() {
    let place = Place::new();
    let (log, go) = (place.path("log"), place.path("go"));
    // Until the file `go` is there, the first run goes on, and so no other begins. It ends with the test, too.
    let script = format!(
        "#!/bin/sh\nwhile [ -e \"$0\" ] && [ ! -e '{go}' ]; do sleep 0.01; done\necho \"$BALANCER_EVENT\" >> '{log}'\n"
    );
    let program = place.program("program", &script);
    let notifier = started(&[entry(&[&program])]);
    for second in 0..100_000 {
        notifier.handle(down("10.0.0.2:80", second));
        notifier.handle(up("10.0.0.2:80", second));
        assert!(notifier.shared.queued.load(Ordering::Relaxed) <= MAX_QUEUED_EVENTS);
    }
    assert_eq!(place.read("log"), "", "no run has ended");
    fs::write(go, "").unwrap();
    let lines = place.lines("log", 20).await;
    assert_eq!(lines[..20], ["real-down", "real-up"].repeat(10));
    let begun = Instant::now();
    notifier.stop().await;
    assert!(begun.elapsed() < DRAIN_TIMEOUT + Duration::from_secs(2));
}

#[test]
fn events_that_do_not_fit_in_the_queue_are_counted() {
    // Nothing reads the queue.
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let notifier = Notifier {
        messages,
        shared: Arc::default(),
        done: oneshot::channel().1,
    };
    notifier.handle(down("10.0.0.2:80", 0));
    assert!(inbox.is_empty(), "no program is configured");
    let mut model = model(SERVICES);
    notifier.configure(&model);
    assert!(inbox.is_empty(), "nor was any before");
    model.notify.push(entry(&["/a"]));
    notifier.configure(&model);
    for second in 0..MAX_QUEUED_EVENTS as u64 + 7 {
        notifier.handle(down("10.0.0.2:80", second));
    }
    assert_eq!(inbox.len(), 1 + MAX_QUEUED_EVENTS);
    assert_eq!(notifier.shared.dropped.load(Ordering::Relaxed), 7);
    // A configuration is never dropped, also not one that removes the last entry.
    model.notify.clear();
    notifier.configure(&model);
    notifier.configure(&model);
    assert_eq!(inbox.len(), 2 + MAX_QUEUED_EVENTS);
    assert!(matches!(inbox.try_recv(), Ok(Message::Configure(_))));
}

#[test]
fn a_full_queue_refuses_runs_and_entries_take_turns() {
    let mut model = model(SERVICES);
    model.notify = vec![entry(&["/a"]), entry(&["/b"])];
    let mut policy = Policy::default();
    policy.configure(&model, "");
    let notifications = policy.handle(&down("10.0.0.2:80", 0), Instant::now());
    let mut queues = Queues::default();
    for _ in 0..MAX_QUEUED_PER_ENTRY {
        assert!(queues.push(notifications[0].clone()));
    }
    assert!(!queues.push(notifications[0].clone()));
    assert!(queues.push(notifications[1].clone()));
    assert!(queues.push(notifications[1].clone()));
    let (a, b) = (notifications[0].entry, notifications[1].entry);
    let next = |queues: &mut Queues| queues.next().map(|notification| notification.entry);
    assert_eq!([next(&mut queues), next(&mut queues)], [Some(a), Some(b)]);
    assert_eq!(next(&mut queues), None);
    queues.mark_free(b);
    queues.mark_free(a);
    assert_eq!([next(&mut queues), next(&mut queues)], [Some(b), Some(a)]);
    queues.mark_free(b);
    assert_eq!(next(&mut queues), None);
    assert_eq!(queues.waiting(), MAX_QUEUED_PER_ENTRY - 2);
    // The queue of a removed entry is dropped, also while its program runs.
    queues.retain(&HashSet::from([b]));
    queues.mark_free(a);
    assert_eq!((next(&mut queues), queues.waiting()), (None, 0));
}

#[test]
fn drops_are_logged_at_once_and_then_once_per_interval() {
    let now = Instant::now();
    let mut dropped = DroppedCounts::default();
    dropped.log(now);
    assert_eq!((dropped.last_logged, dropped.next_log()), (None, None));
    dropped.events = 3;
    dropped.log(now);
    assert_eq!((dropped.events, dropped.next_log()), (0, None));
    dropped.runs = 2;
    let next = now + DROP_LOG_INTERVAL;
    dropped.log(next - Duration::from_nanos(1));
    assert_eq!((dropped.runs, dropped.next_log()), (2, Some(next)));
    dropped.log(next);
    assert_eq!((dropped.runs, dropped.last_logged), (0, Some(next)));
}

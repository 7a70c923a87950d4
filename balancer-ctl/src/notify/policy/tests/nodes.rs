//! Other nodes that are down.

use super::*;

#[test]
fn a_node_that_is_down_is_a_condition_of_its_own() {
    let nodes = |after, every, always_up| Notify {
        on: vec![EventKind::NodeDown, EventKind::NodeUp],
        ..health(after, every, always_up)
    };
    let mut scene = Scene::new(&[
        nodes(0, None, false),
        nodes(1000, Some(5000), false),
        nodes(0, None, true),
    ]);
    let mut at = |time, kind, name: &str| {
        scene.wait_until(time);
        let event = EventRecord {
            peer: Some(name.to_owned()),
            message: name.to_owned(),
            ..scene.event(kind, "", "")
        };
        let notifications = scene.policy.handle(&event, scene.zero + ms(time));
        scene.note(notifications);
    };
    let (down, up) = (EventKind::NodeDown, EventKind::NodeUp);
    // After a start, nodes come that were not down.
    at(0, up, "lb2");
    at(0, up, "lb3");
    at(10_000, down, "lb2");
    at(10_500, down, "lb3");
    at(10_900, up, "lb3");
    at(20_000, up, "lb2");
    at(30_000, down, "lb2");
    scene.wait_until(32_000);
    let peers = ["lb2", "lb3"].map(str::to_owned);
    assert_eq!(scene.policy.retain_peers(&peers, ""), []);
    // It is taken out: nothing reports it again.
    let notifications = scene.policy.retain_peers(&peers[1..], "");
    assert!(
        notifications
            .iter()
            .all(|notification| notification.event.is_unknown)
    );
    scene.note(notifications);
    scene.wait_until(100_000);
    scene.expect(&[
        "0: #2 node-up lb2",
        "0: #2 node-up lb3",
        "10000: #0 node-down lb2",
        "10000: #2 node-down lb2",
        "10500: #0 node-down lb3",
        "10500: #2 node-down lb3",
        "10900: #0 node-up lb3",
        "10900: #2 node-up lb3",
        "11000: #1 node-down lb2",
        "16000: #1 node-down lb2 again 1",
        "20000: #0 node-up lb2",
        "20000: #1 node-up lb2",
        "20000: #2 node-up lb2",
        "30000: #0 node-down lb2",
        "30000: #2 node-down lb2",
        "31000: #1 node-down lb2",
        "32000: #0 node-up no longer watched: the node was taken out",
        "32000: #1 node-up no longer watched: the node was taken out",
        "32000: #2 node-up no longer watched: the node was taken out",
    ]);
}

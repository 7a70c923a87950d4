//! What `--problems` shows: what is not well of the status, or of the services. Pure.

use crate::model::{
    view::{Overall, Peer, RealState, ServiceStatus, Services, Status, Tracked},
    vrrp::VirtualRouterState,
};

/// What is printed where all is well.
pub const NONE: &str = "Nothing is wrong.\n";
/// What is printed where all is well with the services.
pub const NONE_OF_SERVICES: &str = "No service has a problem of its own: `balancer-ctl status --problems` shows those of the node.\n";

/// The status without what is well, and without counters.
pub fn of_status(mut status: Status) -> Status {
    status
        .vrrp
        .retain(|router| router.state == VirtualRouterState::Fault);
    retain_down(&mut status.tracked);
    for peer in &mut status.peers {
        retain_down(&mut peer.tracked);
    }
    status.peers.retain(is_peer_unwell);
    status.successor = None;
    status.peer_refusals.clear();
    // One that is generic against the operator's wish is among the reasons.
    status.dataplane.interfaces.clear();
    status.dataplane.discards.clear();
    status.services.retain(is_service_unwell);
    status
}

fn retain_down(tracked: &mut Vec<Tracked>) {
    tracked.retain(|tracked| !tracked.up);
}

/// Whether a node does not answer, is in fault, has other services, or tracks something that is down.
fn is_peer_unwell(peer: &Peer) -> bool {
    !peer.connected || peer.role == "fault" || !peer.same_services || !peer.tracked.is_empty()
}

/// Whether a service has no real server, one that is not up, or too little live weight.
fn is_service_unwell(service: &ServiceStatus) -> bool {
    service.reals_total == 0
        || service.reals_up < service.reals_total
        || service.quorum == Some(false)
}

/// Whether nothing is left of a status that [`of_status`] returned.
pub fn is_well(status: &Status) -> bool {
    status.overall == Overall::Running
        && status.vrrp.is_empty()
        && status.tracked.is_empty()
        && status.peers.is_empty()
        && status.services.is_empty()
}

/// The services with real servers that are not up, and only these real servers; services that no real server takes new connections
/// for, with all that they have.
pub fn of_services(mut services: Services) -> Services {
    services.services.retain_mut(|service| {
        if !service.reals.iter().any(|real| real.effective_weight > 0) {
            return true;
        }
        service.reals.retain(|real| real.state != RealState::Up);
        !service.reals.is_empty()
    });
    services
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, connected: bool, tracked: &Value) -> Value {
        json!({
            "name": name, "address": "192.0.2.9:1", "role": "backup", "version": "1", "last_seen_ms": 1, "connected": connected,
            "ready": true, "maintenance": false, "priority": 1, "same_services": true, "synchronised": true, "trouble": null,
            "tracked": tracked
        })
    }

    fn router(name: &str, state: &str) -> Value {
        json!({
            "name": name, "state": state, "reason": "", "priority": 1, "addresses": [], "since": "", "interface": "eth0",
            "router_id": 1, "group": null, "probes": "every-node", "active_node": null, "sent": 0, "received": 0, "refused": {}
        })
    }

    fn service(name: &str, [up, total]: [u8; 2], quorum: &Value) -> Value {
        json!({"name": name, "reals_up": up, "reals_total": total, "live_weight": 1, "quorum": quorum})
    }

    /// A status with these lists; all else in it is the same.
    fn status(lists: [Value; 6]) -> Status {
        let [vrrp, peers, tracked, interfaces, services, counters] = lists;
        let table = json!({"connections": 0, "max_connections": 1, "bytes": 1});
        let status = json!({
            "node": "lb1", "version": "1", "overall": "running", "reasons": [], "high_availability": false, "role": "active",
            "vrrp": vrrp, "peers": peers, "tracked": tracked, "successor": null, "peer_refusals": counters,
            "dataplane": {
                "interfaces": interfaces, "connections": 0, "max_connections": 2, "ipv4": table, "ipv6": table,
                "discards": counters, "redirect_failures": 3
            },
            "services": services, "config": null, "runtime_changes": true
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_is_well_is_left_out_of_the_status() {
        let (up, down) = (
            json!({"name": "eth0", "up": true}),
            json!({"name": "eth1", "up": false}),
        );
        let (native, generic) = (
            json!({"name": "eth0", "mode": "native", "program_id": 1}),
            json!({"name": "eth1", "mode": "generic", "program_id": 1}),
        );
        let whole = status([
            json!([
                router("a", "active"),
                router("b", "fault"),
                router("c", "backup")
            ]),
            json!([
                node("lb2", true, &json!([up])),
                node("lb3", false, &json!([])),
                node("lb4", true, &json!([up, down]))
            ]),
            json!([up, down]),
            json!([native, generic]),
            json!([
                service("good", [2, 2], &json!(true)),
                service("new", [1, 1], &Value::Null),
                service("one-down", [1, 2], &json!(true)),
                service("empty", [0, 0], &Value::Null),
                service("weak", [2, 2], &json!(false)),
            ]),
            json!({"some": 1}),
        ]);
        let left = status([
            json!([router("b", "fault")]),
            json!([
                node("lb3", false, &json!([])),
                node("lb4", true, &json!([down]))
            ]),
            json!([down]),
            json!([]),
            json!([
                service("one-down", [1, 2], &json!(true)),
                service("empty", [0, 0], &Value::Null),
                service("weak", [2, 2], &json!(false)),
            ]),
            json!({}),
        ]);
        let found = of_status(whole);
        assert_eq!(found, left);
        assert!(!is_well(&found));
    }

    #[test]
    fn nothing_is_left_of_a_status_that_is_well_and_a_reason_is_enough_not_to_be() {
        let none = || json!([]);
        let mut status = of_status(status([
            none(),
            none(),
            none(),
            none(),
            none(),
            json!({"some": 1}),
        ]));
        assert!(is_well(&status));
        status.overall = Overall::Limited;
        assert!(!is_well(&status));
    }
}

//! `--problems`: only what is not well.

use crate::scene::Scene;

const NOTHING: &str = "Nothing is wrong.\n";
const NO_SERVICE: &str = "No service has a problem of its own: `balancer-ctl status --problems` shows those of the node.\n";

fn json(scene: &Scene, arguments: &str) -> serde_json::Value {
    serde_json::from_str(&scene.done(arguments)).expect("JSON")
}

#[test]
fn where_all_is_well_that_is_said() {
    for scene in [Scene::new(), Scene::tutorial()] {
        assert_eq!(scene.done("status --problems"), NOTHING);
        for arguments in ["list --problems", "list --problems --stats"] {
            assert_eq!(scene.done(arguments), NO_SERVICE);
        }
        let services = json(&scene, "list --problems --json");
        assert_eq!(services, serde_json::json!({ "services": [] }));
        let status = json(&scene, "status --problems --json");
        assert_eq!(status["overall"], "running");
        for list in ["reasons", "services", "vrrp", "peers", "tracked"] {
            assert_eq!(status[list], serde_json::json!([]), "{list}");
        }
        assert_eq!(status["dataplane"]["interfaces"], serde_json::json!([]));
        assert_eq!(status["dataplane"]["discards"], serde_json::json!({}));
    }
}

#[test]
fn only_what_is_not_well_is_shown() {
    let scene = Scene::tutorial();
    scene.done("maintenance 192.168.0.3 --service web");
    scene.done("add-service 192.168.1.35:81");
    assert_eq!(
        scene.done("list --problems"),
        "\
Service                    Scheduler
  -> Real                  Forwarding  Weight  Effective  State        Active  Inactive
tcp/192.168.1.35:80 (web)  rr
  -> 192.168.0.3:80        nat              3          0  maintenance       0         0  by the operator
tcp/192.168.1.35:81        wrr
"
    );
    assert_eq!(
        scene.done("list web --problems --stats"),
        "\
Service                    Conns  InPkts  OutPkts  InBytes  OutBytes
  -> Real
tcp/192.168.1.35:80 (web)      0       0        0        0         0
  -> 192.168.0.3:80            0       0        0        0         0
"
    );
    assert_eq!(
        scene.done("list udp/[2001:db8::35]:53 --problems"),
        NO_SERVICE
    );
    assert_eq!(
        scene.done("status --problems"),
        "\
overall   limited
because   service tcp/192.168.1.35:81 has no real server: `balancer-ctl add-real ADDRESS --service tcp/192.168.1.35:81` adds one
services  web                  1 of 2 reals up
          tcp/192.168.1.35:81  0 of 0 reals up
"
    );
    let status = json(&scene, "status --problems --json");
    let names = status["services"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|service| &service["name"]).collect();
    assert_eq!(names, ["web", "tcp/192.168.1.35:81"]);
}

#[test]
fn the_line_for_monitoring_has_no_selection() {
    Scene::new().refused(
        "status --check --problems",
        2,
        "error: the argument '--check' cannot be used with '--problems'\n\n\
         Usage: balancer-ctl status --check\n\nFor more information, try '--help'.\n",
    );
}

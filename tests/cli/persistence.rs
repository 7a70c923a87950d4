//! Persistence, hash key and thresholds: from the command line to the file, the data plane, `list` and events. And which clients keep
//! which server.

use std::time::Duration;

use balancer_ctl::{
    dataplane::KeptClient,
    model::{HashKey, Persistence, PersistenceDrain, Scheduler, address::service_key},
};

use crate::{
    scene::{FILE, Scene},
    socket::{failure, request},
};

#[test]
fn what_ipvsadm_calls_persistent_is_set_shown_and_taken_away() {
    let scene = Scene::new();
    for arguments in [
        "add-service -t 192.168.1.35:80 -s mh --hash client-port -p 600 -M 255.255.255.0 --group shop",
        "add-real -t 192.168.1.35:80 192.168.0.2 -x 100 -y 80",
        "edit-service --persistence-drain keep",
    ] {
        assert_eq!(scene.done(arguments), "");
    }
    let service =
        "[[service]]\naddress = \"192.168.1.35:80\"\nscheduler = \"mh\"\nhash = \"client-port\"\n";
    let real = "\n[[service.real]]\naddress = \"192.168.0.2:80\"\nupper = 100\nlower = 80\n";
    let persistence = "persistence = { timeout = \"10m\", netmask = \"255.255.255.0\", group = \"shop\", drain = \"keep\" }\n";
    assert_eq!(
        scene.text(),
        format!("{FILE}\n{service}{persistence}{real}")
    );
    assert_eq!(
        scene.done("list"),
        "\
Service              Scheduler
  -> Real            Forwarding  Weight  Effective  State  Active  Inactive
tcp/192.168.1.35:80  mh                                                      hash client-port, persistent 600 netmask 24 group shop drain keep
  -> 192.168.0.2:80  nat              1          1  up          0         0  upper 100, lower 80
"
    );
    let listed: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    assert_eq!(
        listed["services"][0]["persistence"],
        serde_json::json!({"timeout": "10m", "netmask": 24, "group": "shop", "drain": "keep"})
    );
    {
        let state = scene.dataplane.state();
        let service = &state.services[0];
        let persistence = Persistence {
            timeout: Duration::from_secs(600),
            netmask: Some(24),
            group: Some("shop".to_owned()),
            drain: PersistenceDrain::Keep,
        };
        assert_eq!(
            (service.scheduler, service.hash, &service.persistence),
            (Scheduler::Mh, HashKey::ClientPort, &Some(persistence))
        );
        assert_eq!((service.reals[0].upper, service.reals[0].lower), (100, 80));
    }
    for (arguments, persistence) in [
        (
            "edit-service -p 60 -M 32 --group=",
            "persistence = { timeout = \"1m\", netmask = 32, drain = \"keep\" }\n",
        ),
        ("edit-service -p 0", ""),
        ("edit-service -p", "persistence = { timeout = \"5m\" }\n"),
    ] {
        assert_eq!(scene.done(arguments), "");
        assert_eq!(
            scene.text(),
            format!("{FILE}\n{service}{persistence}{real}"),
            "{arguments}"
        );
    }
    scene.done("edit-real 192.168.0.2 -x 0 -y 0");
    let listed = scene.done("list");
    assert!(
        listed.contains(" hash client-port, persistent 300\n"),
        "{listed}"
    );
    assert!(!listed.contains("upper"), "{listed}");
}

#[test]
fn services_of_one_group_have_one_timeout() {
    let scene = Scene::new();
    scene.done("add-service 192.168.1.35:80 -p --group shop");
    scene.refused(
        "add-service 192.168.1.35:443 -p 600 --group shop",
        1,
        "error: timeout 10m of service tcp/192.168.1.35:443 differs from 5m of service tcp/192.168.1.35:80, which is in \
         group `shop` too: services of one group have one timeout\n",
    );
    scene.done("add-service 192.168.1.35:443 -p --group shop");
}

fn client(client: &str, services: &[&str], server: &str, seconds: u64) -> KeptClient {
    let services = services
        .iter()
        .map(|key| service_key(key).expect("a service"));
    KeptClient {
        client: client.parse().expect("a client"),
        services: services.collect::<Vec<_>>().into(),
        server: server.parse().expect("a server"),
        expires_in: Duration::from_millis(seconds * 1000 + 999),
    }
}

/// Two services of a group with two clients, and one over IPv6 with a network of clients.
fn shop() -> Scene {
    let scene = Scene::new();
    for arguments in [
        "add-service 192.168.1.35:80 --name web -p --group shop",
        "add-service 192.168.1.35:443 -p --group shop",
        "add-service udp/[2001:db8::35]:53 -p -M 64",
        "add-service 192.168.1.35:21 --name plain",
    ] {
        scene.done(arguments);
    }
    let both = ["192.168.1.35:80", "192.168.1.35:443"];
    scene.dataplane.state().kept_clients = vec![
        client("198.51.100.7", &both, "192.168.0.2", 299),
        client("198.51.100.8", &both, "192.168.0.3", 60),
        client(
            "2001:db8:f::/64",
            &["udp/[2001:db8::35]:53"],
            "2001:db8:1::2",
            7200,
        ),
    ];
    scene
}

const TITLE: &str = "Client           Server         Expires  Group  Services\n";

#[test]
fn clients_that_keep_a_server_are_listed_and_filtered() {
    let scene = shop();
    let lines = [
        "198.51.100.7     192.168.0.2      04:59  shop   web, tcp/192.168.1.35:443\n",
        "198.51.100.8     192.168.0.3      01:00  shop   web, tcp/192.168.1.35:443\n",
        "2001:db8:f::/64  2001:db8:1::2   120:00  -      udp/[2001:db8::35]:53\n",
    ];
    let all = format!("{TITLE}{}", lines.concat());
    assert_eq!(scene.done("persistence"), all);
    assert_eq!(scene.done("connections --persistence"), all);
    let first = &["198.51.100.7"][..];
    let two = &["198.51.100.7", "198.51.100.8"][..];
    for (filter, clients) in [
        ("--client 198.51.100.7", first),
        ("--client 198.51.100.0/24", two),
        ("--client 2001:db8:f::9", &["2001:db8:f::/64"]),
        ("--client 198.51.100.0/31", &[]),
        ("--service web", two),
        ("--service 192.168.1.35:443", two),
        ("-t 192.168.1.35:443", two),
        ("-u [2001:db8::35]:53", &["2001:db8:f::/64"]),
        ("--service plain", &[]),
        ("--real 192.168.0.2", first),
        (
            "--service web --client 198.51.100.7 --real 192.168.0.3",
            &[],
        ),
        ("--limit 1", first),
    ] {
        for command in ["persistence", "connections --persistence"] {
            let arguments = format!("{command} --json {filter}");
            let listed: serde_json::Value =
                serde_json::from_str(&scene.done(&arguments)).expect("JSON");
            let entries = listed["entries"].as_array().expect("a list").iter();
            let found: Vec<_> = entries.map(|entry| &entry["client"]).collect();
            assert_eq!(found, clients, "{arguments}");
            assert_eq!(listed["more"], filter == "--limit 1", "{arguments}");
        }
    }
    let of_group: serde_json::Value =
        serde_json::from_str(&scene.done("persistence --json --group shop --limit 1"))
            .expect("JSON");
    let expected = serde_json::json!({"entries": [{
        "client": "198.51.100.7", "group": "shop", "services": ["web", "tcp/192.168.1.35:443"],
        "server": "192.168.0.2", "expires_in_ms": 299_999
    }], "more": true});
    assert_eq!(of_group, expected);
    assert!(
        scene
            .done("persistence --limit 2")
            .ends_with("\n2 clients shown, there are more: `--limit 0` shows all\n")
    );
    assert_eq!(
        scene.done("persistence --service plain"),
        "Client  Server  Expires  Group  Services\n"
    );
}

#[test]
fn list_counts_the_clients_that_keep_a_server() {
    let scene = shop();
    let text = scene.done("list");
    let notes: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.split_once(" wrr")?.1.trim()))
        .collect();
    assert_eq!(
        notes,
        [
            "persistent 300 group shop, 2 clients kept",
            "persistent 300 group shop, 2 clients kept",
            "persistent 300 netmask 64, 1 client kept",
            "",
        ]
    );
    let listed: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    for (service, count) in [(0, 2), (1, 2), (2, 1)] {
        assert_eq!(listed["services"][service]["persistence_entries"], count);
    }
    let plain = &listed["services"][3];
    assert_eq!(plain.get("persistence_entries"), None);
}

#[test]
fn clients_are_forgotten_by_the_same_filters() {
    for (arguments, said, left) in [
        (
            "--client 198.51.100.8",
            "1 client forgotten\n",
            &["198.51.100.7", "2001:db8:f::/64"][..],
        ),
        (
            "--client 198.51.100.0/24",
            "2 clients forgotten\n",
            &["2001:db8:f::/64"],
        ),
        (
            "--group shop",
            "2 clients forgotten\n",
            &["2001:db8:f::/64"],
        ),
        (
            "--service web --real 192.168.0.2",
            "1 client forgotten\n",
            &["198.51.100.8", "2001:db8:f::/64"],
        ),
        (
            "--service plain",
            "0 clients forgotten\n",
            &["198.51.100.7", "198.51.100.8", "2001:db8:f::/64"],
        ),
        ("--all", "3 clients forgotten\n", &[]),
        ("--all --json", "{\n  \"deleted\": 3\n}\n", &[]),
    ] {
        let scene = shop();
        let before = scene.text();
        assert_eq!(
            scene.done(&format!("persistence --delete {arguments}")),
            said,
            "{arguments}"
        );
        let state = scene.dataplane.state();
        let clients = state.kept_clients.iter();
        let clients: Vec<_> = clients.map(|client| client.client.to_string()).collect();
        assert_eq!(clients, left, "{arguments}");
        assert_eq!(scene.text(), before);
    }
}

#[test]
fn nobody_is_forgotten_by_mistake() {
    let scene = shop();
    let usage =
        |sentence: &str| format!("error: {sentence}\n\nFor more information, try '--help'.\n");
    for (arguments, sentence) in [
        (
            "persistence --delete",
            "error: say which clients to forget: give --client, --service, --group or --real, or --all for all\n".to_owned(),
        ),
        (
            "persistence --delete --client 198.51.100.7/24",
            usage(
                "invalid value '198.51.100.7/24' for '--client <CLIENT>': `198.51.100.7/24` has bits behind its prefix: \
                 write `198.51.100.0/24`",
            ),
        ),
        (
            "persistence --client 198.51.100.7:80",
            usage(
                "invalid value '198.51.100.7:80' for '--client <CLIENT>': `198.51.100.7:80` is neither an address nor a prefix: \
                 write `198.51.100.7`, `198.51.100.0/24` or `2001:db8::/64`",
            ),
        ),
        (
            "persistence --delete --real 192.168.0.2:80",
            usage(
                "invalid value '192.168.0.2:80' for '--real <ADDRESS>': `192.168.0.2:80` has a port, and clients keep a server \
                 whatever its port: write `192.168.0.2`",
            ),
        ),
        (
            "persistence --delete --service -",
            "error: `-` is no service: leave it out for the only service there is\n".to_owned(),
        ),
        (
            "connections --persistence --client 198.51.100.7:80",
            "error: clients keep servers whatever the port: write `--client 198.51.100.7`\n".to_owned(),
        ),
        (
            "connections --persistence --real 192.168.0.2:80",
            "error: clients keep servers whatever the port: write `--real 192.168.0.2`\n".to_owned(),
        ),
    ] {
        scene.refused(arguments, 2, &sentence);
    }
    for arguments in [
        "persistence --delete --all --service web",
        "persistence --delete --all -t 192.168.1.35:80",
        "persistence --delete --group shop --limit 1",
        "persistence --all",
        "connections --persistence --state udp",
        "connections --persistence --delete",
    ] {
        assert_eq!(scene.run(arguments).status, 2, "{arguments}");
    }
    for (arguments, sentence) in [
        (
            "persistence --service mail",
            "there is no service `mail`: `list` shows all",
        ),
        (
            "persistence --delete --group store",
            "no service is in a group `store`: `list` shows all",
        ),
        (
            "persistence --delete --group shop --service plain",
            "the service is not in group `shop`: name the service or the group",
        ),
    ] {
        scene.refused(arguments, 1, &format!("error: {sentence}\n"));
    }
    assert_eq!(scene.dataplane.state().kept_clients.len(), 3);
}

#[test]
fn the_socket_lists_and_forgets_with_the_same_words() {
    let scene = shop();
    let path = "/v1/persistence";
    for (method, query, status, answer) in [
        (
            "DELETE",
            "",
            400,
            failure(
                "say which clients to forget: client, service, group or real, or all=true for all",
            ),
        ),
        (
            "DELETE",
            "?all=false",
            400,
            failure(
                "say which clients to forget: client, service, group or real, or all=true for all",
            ),
        ),
        (
            "DELETE",
            "?all=true&real=192.168.0.2",
            400,
            failure("all=true means all clients: leave it out, or the filters"),
        ),
        (
            "DELETE",
            "?client=198.51.100.7%2F24",
            400,
            failure("`198.51.100.7/24` has bits behind its prefix: write `198.51.100.0/24`"),
        ),
        (
            "DELETE",
            "?group=store",
            404,
            failure("no service is in a group `store`: `list` shows all"),
        ),
        (
            "GET",
            "?real=192.168.0.2:80",
            400,
            failure(
                "`192.168.0.2:80` has a port, and clients keep a server whatever its port: write `192.168.0.2`",
            ),
        ),
        (
            "DELETE",
            "?client=198.51.100.0%2F24&real=192.168.0.3",
            200,
            "{\"deleted\":1}\n".to_owned(),
        ),
        ("DELETE", "?all=true", 200, "{\"deleted\":2}\n".to_owned()),
    ] {
        let answered = request(&scene, method, &format!("{path}{query}"), "");
        assert_eq!(answered, (status, answer), "{method} {query}");
    }
    // It comes in chunks.
    let (status, body) = request(&scene, "GET", path, "");
    assert_eq!(status, 200);
    assert!(body.contains("{\"entries\":[],\"more\":false}"), "{body}");
    let (status, _) = request(&scene, "DELETE", "/v1/persistence?all=true&limit=1", "");
    assert_eq!(status, 400);
}

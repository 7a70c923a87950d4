//! `status`: the node on one screen, as JSON, and for a monitoring system.

use std::fs;

use balancer_common::verdict::Discard;

use crate::{
    commands::busy,
    scene::{Scene, ran},
};

#[test]
fn status_shows_the_node_on_one_screen() {
    let scene = busy();
    scene.dataplane.state().discards = vec![(Discard::NoService, 1_234), (Discard::TableFull, 5)];
    let path = scene.file().display().to_string();
    assert_eq!(
        scene.done("status"),
        format!(
            "\
node         lb1, balancerd 0.1.0
overall      running
config       {path}
interfaces   eth0 native, program 42
             eth1 native, program 43
connections  IPv4  3 of 262144  20.0 MiB of memory
             IPv6  1 of 65536   10.0 MiB of memory
services     web                    2 of 2 reals up
             udp/[2001:db8::35]:53  1 of 1 real up
discards     no-service  1234  passed   no virtual service has this address, port and protocol
             table-full     5  dropped  the connection table is full
"
        )
    );
    scene.dataplane.state().warnings =
        vec!["eth1 runs in generic mode, which is slower".to_owned()];
    scene.done("edit-real 2001:db8:1::2 --service udp/[2001:db8::35]:53 -w 0 --runtime");
    let text = scene.done("status");
    let head: Vec<_> = text.lines().take(5).collect();
    assert_eq!(
        head,
        [
            "node         lb1, balancerd 0.1.0",
            "overall      down",
            "because      no real server of service udp/[2001:db8::35]:53 takes new connections: give one a weight \
             with `balancer-ctl edit-real`",
            "             eth1 runs in generic mode, which is slower",
            &format!("config       {path} (changes made with --runtime are not in it)"),
        ]
    );
}

#[test]
fn status_as_json_has_the_contracts_fields() {
    let scene = busy();
    scene.dataplane.state().discards = vec![(Discard::NoService, 7)];
    let mut status: serde_json::Value =
        serde_json::from_str(&scene.done("status --json")).expect("JSON");
    let discards = status["dataplane"]["discards"].take();
    assert_eq!(discards["no-service"], 7);
    assert_eq!(
        discards.as_object().expect("an object").len(),
        Discard::COUNT as usize
    );
    let expected = serde_json::json!({
        "node": "lb1", "version": "0.1.0", "overall": "running", "reasons": [], "high_availability": false,
        "role": "standalone", "vrrp": [], "peers": [], "successor": null, "tracked": [], "peer_refusals": {},
        "dataplane": {
            "interfaces": [
                {"name": "eth0", "mode": "native", "program_id": 42},
                {"name": "eth1", "mode": "native", "program_id": 43}
            ],
            "connections": 4, "max_connections": 327_680,
            "ipv4": {"connections": 3, "max_connections": 262_144, "bytes": 20_971_520},
            "ipv6": {"connections": 1, "max_connections": 65_536, "bytes": 10_485_760},
            "discards": null, "redirect_failures": 0
        },
        "services": [
            {"name": "web", "reals_up": 2, "reals_total": 2, "live_weight": 4, "quorum": true},
            {
                "name": "udp/[2001:db8::35]:53", "reals_up": 1, "reals_total": 1, "live_weight": 1, "quorum": true
            }
        ],
        "config": scene.file(), "runtime_changes": false
    });
    assert_eq!(status, expected);
}

#[test]
fn status_for_a_monitoring_system_is_one_line_and_an_exit_status() {
    let mut scene = busy();
    let check = |scene: &Scene| {
        let ran = scene.run("status --check");
        assert_eq!(ran.stderr, "");
        (ran.status, ran.stdout)
    };
    assert_eq!(
        check(&scene),
        (
            0,
            "running: 2 services, 3 of 3 reals up, 4 of 327680 connections\n".to_owned()
        )
    );
    let warning = "warning: no interface carries VIP 192.0.2.1, so nobody answers for it: `ip address add 192.0.2.1/32 dev eth0`\n";
    let added = scene.run("add-service 192.0.2.1:80");
    assert_eq!(
        (added.status, &*added.stdout, &*added.stderr),
        (0, "", warning)
    );
    let added = scene.done("add-service 192.0.2.1:81 --runtime --json");
    let added: serde_json::Value = serde_json::from_str(&added).expect("JSON");
    let warning = warning.trim_start_matches("warning: ").trim_end();
    assert_eq!(added, serde_json::json!({ "warnings": [warning] }));
    scene.done("del-service 192.0.2.1:81 --runtime");
    scene.done("add-real 192.168.0.2 --service 192.0.2.1:80");
    let limited = "no interface carries VIP 192.0.2.1, so nobody answers for it: `ip address add 192.0.2.1/32 dev eth0`";
    assert_eq!(check(&scene), (1, format!("limited: {limited}\n")));
    scene.done("edit-real 192.168.0.2 -w 0 --service 192.0.2.1:80");
    let down = "no real server of service tcp/192.0.2.1:80 takes new connections: give one a weight with `balancer-ctl edit-real`";
    assert_eq!(check(&scene), (2, format!("down: {down}; {limited}\n")));
    scene.done("del-real 192.168.0.2 --service 192.0.2.1:80");
    let empty = "service tcp/192.0.2.1:80 has no real server: `balancer-ctl add-real ADDRESS --service tcp/192.0.2.1:80` adds one";
    assert_eq!(check(&scene), (1, format!("limited: {empty}; {limited}\n")));
    scene.stop();
    let socket = scene.socket().display().to_string();
    let unknown = format!(
        "unknown: no balancerd answers on {socket}: start it, or name its socket with --socket or --instance\n"
    );
    assert_eq!(check(&scene), (3, unknown));
}

#[test]
fn a_host_without_ipv6_services_is_not_limited_by_what_does_not_work_for_ipv6() {
    let scene = Scene::new();
    let warning = "this kernel does not forward IPv6";
    scene.dataplane.state().family_warnings[1] = vec![warning.to_owned()];
    scene.done("add-service 192.168.1.35:80");
    scene.done("add-real 192.168.0.2:80");
    let running = "running: 1 service, 1 of 1 real up, 0 of 327680 connections\n";
    assert_eq!(scene.done("status --check"), running);
    scene.done("add-service [2001:db8::35]:80");
    scene.done("add-real 2001:db8:1::2 --service [2001:db8::35]:80");
    let ran = scene.run("status --check");
    assert_eq!(
        (ran.status, ran.stdout),
        (1, format!("limited: {warning}\n"))
    );
}

#[test]
fn a_file_that_is_not_the_one_that_was_loaded_limits() {
    let scene = Scene::tutorial();
    let path = scene.file().display().to_string();
    let text = scene.text();
    let check = || {
        let ran = scene.run("status --check");
        (ran.status, ran.stdout)
    };
    let running = "running: 2 services, 3 of 3 reals up, 0 of 327680 connections\n";
    assert_eq!(check(), (0, running.to_owned()));
    fs::write(scene.file(), text.replace("web", "shop")).expect("write the file");
    let changed = "has changed since it was loaded: `balancer-ctl reload` loads it";
    assert_eq!(check(), (1, format!("limited: {path} {changed}\n")));
    let shown = scene.done("status");
    let lines: Vec<_> = shown.lines().skip(1).take(2).collect();
    assert_eq!(
        lines,
        [
            "overall      limited",
            &format!("because      {path} {changed}")
        ]
    );
    fs::write(scene.file(), format!("{text}weight = 70000\n")).expect("write the file");
    let line = text.lines().count() + 1;
    let wrong = format!(
        "limited: the configuration file has changed and no longer loads: {path}:{line}:10: weight 70000 of real [2001:db8:1::2]:53 is \
         out of range: 0..=65535\n"
    );
    assert_eq!(check(), (1, wrong));
    fs::write(scene.file(), text.replace("web", "shop")).expect("write the file");
    assert_eq!(scene.done("reload"), "");
    assert_eq!(check(), (0, running.to_owned()));
}

#[test]
fn states_are_in_colour_on_a_terminal_only_and_where_it_is_wanted() {
    let scene = Scene::tutorial();
    let shown = |arguments: &str, variables: &[(&str, &str)]| {
        let mut command = scene.command(arguments);
        ran(command.envs(variables.iter().copied())).stdout
    };
    let forced = ("CLICOLOR_FORCE", "1");
    for (arguments, plain, coloured) in [
        ("list", " up ", " \u{1b}[32mup\u{1b}[0m "),
        (
            "status",
            "overall      running\n",
            "overall      \u{1b}[32mrunning\u{1b}[0m\n",
        ),
    ] {
        let without = shown(arguments, &[]);
        assert!(
            without.contains(plain) && !without.contains('\u{1b}'),
            "{without}"
        );
        let with = shown(arguments, &[forced]);
        assert!(with.contains(coloured), "{with}");
        assert_eq!(
            with.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""),
            without
        );
        assert_eq!(shown(arguments, &[forced, ("NO_COLOR", "1")]), without);
    }
    let json = shown("status --json", &[forced]);
    assert!(!json.contains('\u{1b}'), "{json}");
}

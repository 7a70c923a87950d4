//! `status`: the node on one screen, as JSON, and for a monitoring system.

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
        "role": "standalone", "vrrp": [], "peers": [], "successor": null,
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
    scene.done("add-service 192.0.2.1:80");
    scene.done("add-real 192.168.0.2 --service 192.0.2.1:80");
    let limited = "no interface carries VIP 192.0.2.1, so nobody answers for it: `ip address add 192.0.2.1/32 dev eth0`";
    assert_eq!(check(&scene), (1, format!("limited: {limited}\n")));
    scene.done("del-real 192.168.0.2 --service 192.0.2.1:80");
    let down = "service tcp/192.0.2.1:80 has no real server: add one with `balancer-ctl add-real`";
    assert_eq!(check(&scene), (2, format!("down: {down}; {limited}\n")));
    scene.stop();
    let socket = scene.socket().display().to_string();
    let unknown = format!(
        "unknown: no balancerd answers on {socket}: start it, or name its socket with --socket or --instance\n"
    );
    assert_eq!(check(&scene), (3, unknown));
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

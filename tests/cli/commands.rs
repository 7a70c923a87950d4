//! Commands that do their work, and what they print.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};

use balancer_common::tcp::State;
use balancer_ctl::{
    dataplane::{Connection, Counters},
    model::{ServiceKey, address::service_key},
};
use nix::pty::openpty;
use xtask::lab::wait_until;

use crate::{
    scene::{FILE, Scene, ran},
    socket::{exchange, failure, request},
};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn web() -> ServiceKey {
    service_key("192.168.1.35:80").expect("a service")
}

fn dns() -> ServiceKey {
    service_key("udp/[2001:db8::35]:53").expect("a service")
}

fn connection(
    service: ServiceKey,
    client: &str,
    real: &str,
    state: State,
    seconds: u64,
) -> Connection {
    Connection {
        virtual_address: service,
        client: address(client),
        real: address(real),
        source: None,
        state,
        expires_in: Duration::from_millis(seconds * 1000 + 999),
    }
}

pub fn busy() -> Scene {
    let scene = Scene::tutorial();
    scene.dataplane.state().connections = vec![
        connection(
            web(),
            "192.168.1.10:40000",
            "192.168.0.2:80",
            State::Established,
            899,
        ),
        connection(
            web(),
            "192.168.1.10:40001",
            "192.168.0.3:80",
            State::Established,
            60,
        ),
        connection(
            web(),
            "192.168.1.11:40000",
            "192.168.0.3:80",
            State::Closing,
            119,
        ),
        connection(
            dns(),
            "[2001:db8::10]:5353",
            "[2001:db8:1::2]:53",
            State::Udp,
            299,
        ),
    ];
    scene
}

#[test]
fn the_tutorial_says_nothing_and_writes_the_file() {
    let scene = Scene::new();
    assert_eq!(
        scene.done("list"),
        "there is no service: add one with `balancer-ctl add-service`\n"
    );
    for arguments in [
        "add-service -t 192.168.1.35:80 -s rr",
        "add-real -t 192.168.1.35:80 192.168.0.2:80 -m",
        "add-real 192.168.0.3 --weight 2",
        "edit-real 192.168.0.3:80 -w 0",
        "edit-service --name web --no-real drop",
        "del-real 192.168.0.2 --service web",
    ] {
        assert_eq!(scene.done(arguments), "");
    }
    assert_eq!(
        scene.text(),
        format!(
            "{FILE}\n[[service]]\naddress = \"192.168.1.35:80\"\nscheduler = \"rr\"\nname = \"web\"\n\
             no-real = \"drop\"\n\n[[service.real]]\naddress = \"192.168.0.3:80\"\nweight = 0\n"
        )
    );
    assert_eq!(scene.done("del-service web"), "");
    assert_eq!(scene.text(), FILE);
}

#[test]
fn list_shows_services_and_reals() {
    let scene = busy();
    scene.done("edit-real 192.168.0.3 -w 0 --service web");
    scene.done("add-real 192.168.0.4:8080 --service web --runtime");
    assert_eq!(
        scene.done("list"),
        "\
Service                    Scheduler
  -> Real                  Forwarding  Weight  Effective  State     Active  Inactive
tcp/192.168.1.35:80 (web)  rr
  -> 192.168.0.2:80        nat              1          1  up             1         0
  -> 192.168.0.3:80        nat              0          0  draining       1         1  weight 0
  -> 192.168.0.4:8080      nat              1          1  up             0         0  runtime
udp/[2001:db8::35]:53      wrr                                                        no-real drop
  -> [2001:db8:1::2]:53    nat              1          1  up             0         1
"
    );
    assert_eq!(scene.done("ls"), scene.done("list"));
    let other = "\
Service                  Scheduler
  -> Real                Forwarding  Weight  Effective  State  Active  Inactive
udp/[2001:db8::35]:53    wrr                                                     no-real drop
  -> [2001:db8:1::2]:53  nat              1          1  up          0         1
";
    assert_eq!(scene.done("list udp/[2001:db8::35]:53"), other);
    assert_eq!(scene.done("list -u [2001:db8::35]:53"), other);
    scene.refused(
        "list mail",
        1,
        "error: there is no service `mail`: `list` shows all\n",
    );
}

#[test]
fn list_shows_counters_scaled_or_exact() {
    let scene = Scene::tutorial();
    let counters = Counters {
        connections: 999,
        packets_in: 12_345,
        bytes_in: 1_234_567,
        packets_out: 1_000,
        bytes_out: 9_876_543_210,
    };
    {
        let mut state = scene.dataplane.state();
        let shown = state.snapshot.services.entry(web()).or_default();
        shown.counters = counters;
        shown
            .reals
            .entry(address("192.168.0.3:80"))
            .or_default()
            .counters = counters;
    }
    assert_eq!(
        scene.done("list --stats"),
        "\
Service                    Conns  InPkts  OutPkts  InBytes  OutBytes
  -> Real
tcp/192.168.1.35:80 (web)    999   12.3K    1.00K    1.23M     9.87G
  -> 192.168.0.2:80            0       0        0        0         0
  -> 192.168.0.3:80          999   12.3K    1.00K    1.23M     9.87G
udp/[2001:db8::35]:53          0       0        0        0         0
  -> [2001:db8:1::2]:53        0       0        0        0         0
"
    );
    assert_eq!(
        scene.done("list --stats --exact"),
        "\
Service                    Conns  InPkts  OutPkts  InBytes    OutBytes
  -> Real
tcp/192.168.1.35:80 (web)    999   12345     1000  1234567  9876543210
  -> 192.168.0.2:80            0       0        0        0           0
  -> 192.168.0.3:80          999   12345     1000  1234567  9876543210
udp/[2001:db8::35]:53          0       0        0        0           0
  -> [2001:db8:1::2]:53        0       0        0        0           0
"
    );
}

#[test]
fn list_shows_rates_over_the_next_second() {
    let scene = Scene::tutorial();
    let before = scene.dataplane.state().snapshots;
    let child = scene
        .command("list --rate --json")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    // The first look is taken at once, the second a second later.
    let looked = || Ok(scene.dataplane.state().snapshots > before);
    wait_until("the first look", Duration::from_secs(20), looked).expect("it is taken");
    scene
        .dataplane
        .state()
        .snapshot
        .services
        .entry(web())
        .or_default()
        .counters
        .connections = 1_000;
    let output = child.wait_with_output().expect("it ends");
    let services: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rate = services["services"][0]["rates"]["connections"]
        .as_u64()
        .expect("a rate");
    // How much later than a second is the machine's business.
    assert!((1..=1_000).contains(&rate), "{rate}");
    assert_eq!(services["services"][1]["rates"]["connections"], 0);
    let text = scene.done("list --rate");
    assert_eq!(
        text.lines().next(),
        Some("Service                    CPS  InPPS  OutPPS  InBPS  OutBPS")
    );
}

#[test]
fn list_as_json_has_the_contracts_fields() {
    let scene = busy();
    let listed: serde_json::Value = serde_json::from_str(&scene.done("--json list")).expect("JSON");
    let counters = serde_json::json!(
        {"connections": 0, "packets_in": 0, "bytes_in": 0, "packets_out": 0, "bytes_out": 0}
    );
    let real = |address: &str, weight: u32, active: u32, inactive: u32| {
        serde_json::json!({
            "address": address, "weight": weight, "effective_weight": weight, "forwarding": "nat",
            "upper": 0, "lower": 0, "backup": false, "state": "up", "reason": null,
            "admin": "ready", "health": null, "agent": null, "active": active, "inactive": inactive,
            "counters": counters, "runtime": false
        })
    };
    let expected = serde_json::json!({"services": [
        {
            "name": "web", "protocol": "tcp", "address": "192.168.1.35:80", "scheduler": "rr",
            "hash": "client", "persistence": null, "no_real": "reject", "forwarding": "nat", "hairpin": "full-nat", "check": [], "on_down": "reset", "slow_start": "0s",
            "quorum": 1, "hysteresis": 0, "backups": "first", "allow": [], "deny": [], "rate": null, "runtime": false,
            "reals": [real("192.168.0.2:80", 1, 1, 0), real("192.168.0.3:80", 3, 1, 1)],
            "counters": counters, "discards": {}
        },
        {
            "name": null, "protocol": "udp", "address": "[2001:db8::35]:53", "scheduler": "wrr",
            "hash": "client", "persistence": null, "no_real": "drop", "forwarding": "nat", "hairpin": "full-nat", "check": [], "on_down": "reset", "slow_start": "0s",
            "quorum": 1, "hysteresis": 0, "backups": "first", "allow": [], "deny": [], "rate": null, "runtime": false,
            "reals": [real("[2001:db8:1::2]:53", 1, 0, 1)],
            "counters": counters, "discards": {}
        }
    ]});
    assert_eq!(listed, expected);
}

#[test]
fn connections_are_listed_and_filtered() {
    let scene = busy();
    let title = "Protocol  State        Expires  Client               Virtual            Real\n";
    let lines = [
        "tcp       established    14:59  192.168.1.10:40000   192.168.1.35:80    192.168.0.2:80\n",
        "tcp       established    01:00  192.168.1.10:40001   192.168.1.35:80    192.168.0.3:80\n",
        "tcp       closing        01:59  192.168.1.11:40000   192.168.1.35:80    192.168.0.3:80\n",
        "udp       udp            04:59  [2001:db8::10]:5353  [2001:db8::35]:53  [2001:db8:1::2]:53\n",
    ];
    assert_eq!(
        scene.done("connections"),
        format!("{title}{}", lines.concat())
    );
    for (filter, clients) in [
        (
            "--client 192.168.1.10",
            &["192.168.1.10:40000", "192.168.1.10:40001"][..],
        ),
        ("--client 192.168.1.10:40001", &["192.168.1.10:40001"]),
        (
            "--client 192.168.0.0/16",
            &[
                "192.168.1.10:40000",
                "192.168.1.10:40001",
                "192.168.1.11:40000",
            ],
        ),
        ("--client 192.168.1.11/32", &["192.168.1.11:40000"]),
        ("--client 10.0.0.0/8", &[]),
        ("--client 2001:db8::/32", &["[2001:db8::10]:5353"]),
        (
            "--service web",
            &[
                "192.168.1.10:40000",
                "192.168.1.10:40001",
                "192.168.1.11:40000",
            ],
        ),
        ("-u [2001:db8::35]:53", &["[2001:db8::10]:5353"]),
        (
            "--real 192.168.0.3",
            &["192.168.1.10:40001", "192.168.1.11:40000"],
        ),
        ("--real 192.168.0.3:81", &[]),
        ("--state closing", &["192.168.1.11:40000"]),
        (
            "--service web --state established --limit 1",
            &["192.168.1.10:40000"],
        ),
    ] {
        let listed: serde_json::Value =
            serde_json::from_str(&scene.done(&format!("connections --json {filter}")))
                .expect("JSON");
        let found: Vec<_> = listed["connections"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| &c["client"])
            .collect();
        assert_eq!(found, clients, "{filter}");
    }
    let listed: serde_json::Value =
        serde_json::from_str(&scene.done("connections --json --limit 1")).expect("JSON");
    let expected = serde_json::json!({"connections": [{
        "protocol": "tcp", "state": "established", "expires_in_ms": 899_999,
        "client": "192.168.1.10:40000", "virtual": "192.168.1.35:80", "real": "192.168.0.2:80"
    }], "more": true});
    assert_eq!(listed, expected);
}

#[test]
fn a_thousand_connections_are_listed_unless_the_limit_is_higher() {
    let scene = Scene::tutorial();
    let many = |count: u64| {
        (0..count)
            .map(|number| {
                let client = format!("198.51.100.10:{}", 10_000 + number);
                connection(web(), &client, "192.168.0.2:80", State::Established, 60)
            })
            .collect()
    };
    let cut = "1000 connections shown, there are more: `--limit 0` shows all";
    for (there, arguments, lines, last) in [
        (1000, "", 1001, None),
        (1001, "", 1002, Some(cut)),
        (1001, "--limit 0", 1002, None),
        (1001, "--limit 1001", 1002, None),
        (
            1001,
            "--limit 1",
            3,
            Some("1 connection shown, there are more: `--limit 0` shows all"),
        ),
    ] {
        scene.dataplane.state().connections = many(there);
        let text = scene.done(&format!("connections {arguments}"));
        assert_eq!(text.lines().count(), lines, "{there} {arguments}");
        let found = text.lines().last().filter(|line| !line.starts_with("tcp"));
        assert_eq!(found, last, "{there} {arguments}");
    }
}

#[test]
fn purging_tells_how_many_connections_went() {
    let scene = busy();
    assert_eq!(
        scene.done("del-real 192.168.0.3 --service web --purge"),
        "2 connections of real 192.168.0.3:80 deleted\n"
    );
    assert_eq!(scene.done("del-real 192.168.0.2 --service web"), "");
    assert_eq!(scene.dataplane.state().connections.len(), 2);
}

#[test]
fn connections_are_closed_by_the_filters_that_list_them() {
    let all = [
        "192.168.1.10:40000",
        "192.168.1.10:40001",
        "192.168.1.11:40000",
        "[2001:db8::10]:5353",
    ];
    for (arguments, said, left) in [
        ("--client 192.168.1.10", "2 connections closed\n", &all[2..]),
        (
            "--client 192.168.1.10:40000",
            "1 connection closed\n",
            &all[1..],
        ),
        (
            "--client 192.168.1.0/24",
            "3 connections closed\n",
            &all[3..],
        ),
        (
            "--service web --real 192.168.0.2",
            "1 connection closed\n",
            &all[1..],
        ),
        ("--state syn-sent", "0 connections closed\n", &all),
        (
            "--service web --limit 2",
            "2 connections closed\n",
            &all[2..],
        ),
        ("--limit 1", "1 connection closed\n", &all[1..]),
        (
            "--service web --limit 0",
            "3 connections closed\n",
            &all[3..],
        ),
        ("--all", "4 connections closed\n", &[]),
        ("--all --json", "{\n  \"closed\": 4\n}\n", &[]),
    ] {
        let scene = busy();
        let before = scene.text();
        assert_eq!(
            scene.done(&format!("connections --close {arguments}")),
            said,
            "{arguments}"
        );
        assert_eq!(clients(&scene), left, "{arguments}");
        assert_eq!(scene.text(), before);
    }
}

/// The clients that still have a connection.
fn clients(scene: &Scene) -> Vec<String> {
    let state = scene.dataplane.state();
    let connections = state.connections.iter();
    connections.map(|one| one.client.to_string()).collect()
}

#[test]
fn more_connections_than_a_list_shows_are_closed() {
    let scene = Scene::tutorial();
    scene.dataplane.state().connections = (0..1500)
        .map(|number| {
            let client = format!("198.51.100.10:{}", 10_000 + number);
            connection(web(), &client, "192.168.0.2:80", State::Established, 60)
        })
        .collect();
    assert_eq!(
        scene.done("connections --close --service web"),
        "1500 connections closed\n"
    );
}

#[test]
fn no_connection_is_closed_by_mistake() {
    let scene = busy();
    let which = "error: say which connections to close: give --client, --service, --real, --state or --limit, or --all for all\n";
    scene.refused("connections --close", 2, which);
    scene.refused("connections --close --limit 0", 2, which);
    scene.refused(
        "connections --close --client 10.1.2.3/8",
        2,
        "error: invalid value '10.1.2.3/8' for '--client <CLIENT>': `10.1.2.3/8` has bits behind its prefix: write `10.0.0.0/8`\n\n\
         For more information, try '--help'.\n",
    );
    scene.refused(
        "connections --close --service mail",
        1,
        "error: there is no service `mail`: `list` shows all\n",
    );
    for arguments in [
        "--all",
        "--close --all --service web",
        "--close --all -t 192.168.1.35:80",
        "--close --all --limit 1",
        "--close --persistence",
    ] {
        let arguments = format!("connections {arguments}");
        assert_eq!(scene.run(&arguments).status, 2, "{arguments}");
    }
    assert_eq!(clients(&scene).len(), 4);
}

#[test]
fn the_socket_closes_connections_with_the_same_words() {
    let scene = busy();
    let which = failure(
        "say which connections to close: client, service, real, state or limit, or all=true for all",
    );
    for (query, status, answer) in [
        ("", 400, which.clone()),
        ("?all=false", 400, which.clone()),
        ("?limit=0", 400, which),
        (
            "?all=true&state=udp",
            400,
            failure("all=true means all connections: leave it out, or the filters"),
        ),
        (
            "?client=10.1.2.3%2F8",
            400,
            failure("`10.1.2.3/8` has bits behind its prefix: write `10.0.0.0/8`"),
        ),
        (
            "?state=gone",
            400,
            failure(&format!(
                "state `gone` is not known: expected {}",
                balancer_ctl::model::enumeration::listed(&State::ALL.map(State::name))
            )),
        ),
        (
            "?service=mail",
            404,
            failure("there is no service `mail`: `list` shows all"),
        ),
        (
            "?client=192.168.1.0%2F24&limit=1",
            200,
            "{\"closed\":1}\n".to_owned(),
        ),
        ("?all=true", 200, "{\"closed\":3}\n".to_owned()),
    ] {
        let answered = request(&scene, "DELETE", &format!("/v1/connections{query}"), "");
        assert_eq!(answered, (status, answer), "{query}");
    }
    assert_eq!(clients(&scene), Vec::<String>::new());
}

#[test]
fn zero_takes_one_service_or_all() {
    let scene = Scene::tutorial();
    scene.done("zero web");
    scene.done("zero -u [2001:db8::35]:53");
    scene.done("zero");
    assert_eq!(
        scene.dataplane.state().zeroed,
        [Some(web()), Some(dns()), None]
    );
}

#[test]
fn clear_deletes_all_services() {
    let scene = Scene::tutorial();
    assert_eq!(
        scene.done("clear --yes --runtime"),
        "2 services deleted: `balancer-ctl reload` brings back those of the file\n"
    );
    assert_eq!(scene.dataplane.state().services, []);
    scene.done("reload");
    assert_eq!(scene.dataplane.state().services.len(), 2);
    let before = scene.text();
    let file = scene.file().display().to_string();
    assert_eq!(
        scene.done("clear --yes"),
        format!(
            "2 services deleted: `cp {file}~ {file}`, then `balancer-ctl reload` brings back those of the file\n"
        )
    );
    assert_eq!(
        (
            scene.dataplane.state().services.len(),
            scene.text().as_str()
        ),
        (0, FILE)
    );
    // What is in no file has no way back.
    scene.done("add-service 192.168.1.35:81 --runtime");
    assert_eq!(scene.done("clear --yes"), "1 service deleted\n");
    // Once more does not lose the way back, which is as it says.
    assert_eq!(scene.done("clear --yes"), "there was no service\n");
    fs::copy(format!("{file}~"), &file).expect("it is copied");
    scene.done("reload");
    assert_eq!(scene.dataplane.state().services.len(), 2);
    assert_eq!(scene.text(), before);
}

#[test]
fn clear_asks_on_a_terminal_and_needs_a_yes_elsewhere() {
    let scene = Scene::tutorial();
    scene.refused(
        "clear",
        2,
        "error: `clear` deletes all services: give --yes if that is meant\n",
    );
    for (answer, status, stderr, left) in [
        ("n\n", 1, "error: nothing was deleted\n", 2),
        ("\n", 1, "error: nothing was deleted\n", 2),
        ("y\n", 0, "", 0),
    ] {
        let terminal = openpty(None, None).expect("a terminal");
        File::from(terminal.master.try_clone().expect("its other end"))
            .write_all(answer.as_bytes())
            .expect("it is typed");
        let ran = ran(scene.command("clear").stdin(terminal.slave));
        assert_eq!(
            (ran.status, ran.stderr),
            (
                status,
                format!("delete all services, 2 services? [y/N] {stderr}")
            )
        );
        assert_eq!(scene.dataplane.state().services.len(), left);
    }
}

#[test]
fn the_file_before_the_last_command_stays_beside_it() {
    let scene = Scene::new();
    let old = scene.file().with_extension("toml~");
    scene.done("add-service 192.168.1.35:80");
    assert_eq!(fs::read_to_string(&old).expect("it is kept"), FILE);
    let before = scene.text();
    scene.done("add-real 192.168.0.2");
    // What writes nothing, or is refused, leaves it.
    scene.done("add-real 192.168.0.3 --runtime");
    assert_eq!(scene.run("add-real 192.168.0.2").status, 1);
    assert_eq!(fs::read_to_string(&old).expect("it is kept"), before);
    // A change is not given up because this cannot be kept.
    fs::remove_file(&old).expect("it is removed");
    fs::create_dir(&old).expect("a folder");
    let ran = scene.run("add-real 192.168.0.4");
    assert_eq!(
        (ran.status, ran.stdout, ran.stderr),
        (
            0,
            String::new(),
            format!(
                "warning: the file as it was before could not be kept as {}: Is a directory (os error 21)\n",
                old.display()
            )
        )
    );
    assert!(scene.text().contains("192.168.0.4"));
}

#[test]
fn whatever_is_printed_or_answered_ends_with_a_newline() {
    let scene = busy();
    let file = scene.file().display().to_string();
    for arguments in [
        "list",
        "list --stats",
        "health",
        "health --history",
        "connections",
        "connections --limit 1",
        "connections --state syn-sent",
        "persistence",
        "status",
        "status --check",
        "trace --client 198.51.100.7:40000 web",
        "events --since 1h --no-follow",
        "zero",
        "reload",
        "edit-real 192.168.0.2 --weight 2 --service web",
        "connections --close --state closing",
        "del-real 192.168.0.3 --service web --purge",
        &format!("check {file}"),
        "completions bash",
        "man",
    ] {
        for json in ["", " --json"] {
            let ran = scene.run(&format!("{arguments}{json}"));
            for text in [&ran.stdout, &ran.stderr] {
                let ends = text.is_empty() || text.ends_with('\n') && !text.ends_with("\n\n");
                assert!(ends, "{arguments}{json}: {text:?}");
            }
            let is_silent = ran.stdout.is_empty() && ran.stderr.is_empty();
            assert!(json.is_empty() || !is_silent, "{arguments}");
        }
    }
    for path in [
        "/healthz",
        "/readyz",
        "/nothing",
        "/v1/status",
        "/v1/health",
        "/v1/services",
        "/v1/services?service=mail",
        "/v1/connections",
        "/v1/connections?limit=x",
        "/v1/persistence",
        "/v1/trace?client=198.51.100.7:40000&service=web",
        "/v1/zero",
    ] {
        // Of HTTP/1.0, so that the answer comes without chunks.
        let request = format!("GET {path} HTTP/1.0\r\nhost: balancer\r\n\r\n");
        let answer = exchange(&scene, request.as_bytes());
        assert!(answer.ends_with('\n'), "{path}: {answer:?}");
    }
}

#[test]
fn the_old_spellings_say_the_same() {
    let new = Scene::new();
    new.done("add-service tcp/192.168.1.35:80 --scheduler rr");
    new.done("add-real 192.168.0.2:80 --service tcp/192.168.1.35:80 --nat --weight 1");
    let old = Scene::new();
    old.done("add-service -t 192.168.1.35:80 -s rr");
    old.done("add-real -t 192.168.1.35:80 192.168.0.2:80 -m -w 1");
    assert_eq!(old.text(), new.text());
    assert_eq!(
        old.dataplane.state().services,
        new.dataplane.state().services
    );
}

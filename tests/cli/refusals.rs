//! Commands that are refused: exit status and words, and that nothing changed.

use std::fs;

use crate::scene::{FILE, Ran, Scene, program, ran};

/// What clap adds to an error.
fn usage(sentence: &str) -> String {
    format!("error: {sentence}\n\nFor more information, try '--help'.\n")
}

#[test]
fn wrong_addresses_ports_and_weights() {
    let scene = Scene::tutorial();
    let not_an_address = |text: &str| {
        format!(
            "`{text}` is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)"
        )
    };
    for (arguments, sentence) in [
        (
            "add-service 192.168.1.36",
            "invalid value '192.168.1.36' for '<SERVICE>': `192.168.1.36` has no port: write `192.168.1.36:80` \
             (port 0 stands for every port)"
                .to_owned(),
        ),
        (
            "add-service 192.168.1.36:99999",
            "invalid value '192.168.1.36:99999' for '<SERVICE>': port `99999` is not a number in 0..=65535".to_owned(),
        ),
        (
            "add-service sctp/192.168.1.36:80",
            "invalid value 'sctp/192.168.1.36:80' for '<SERVICE>': protocol `sctp` is not known: write `tcp/` or \
             `udp/` in front of the address"
                .to_owned(),
        ),
        (
            "add-service www.example.org:80",
            format!("invalid value 'www.example.org:80' for '<SERVICE>': {}", not_an_address("www.example.org:80")),
        ),
        ("add-real 300.1.1.1", format!("invalid value '300.1.1.1' for '<REAL>': {}", not_an_address("300.1.1.1"))),
        (
            "add-real 192.168.0.4 -t web",
            format!("invalid value 'web' for '-t <ADDRESS:PORT>': {}", not_an_address("web")),
        ),
        (
            "add-real 192.168.0.4 --service web -w 65536",
            "invalid value '65536' for '--weight <N>': expected a whole number from 0 to 65535".to_owned(),
        ),
        (
            "add-real 192.168.0.4 --service web -w -1",
            "invalid value '-1' for '--weight <N>': expected a whole number from 0 to 65535".to_owned(),
        ),
        (
            "connections --limit -1",
            "invalid value '-1' for '--limit <N>': expected a whole number, 0 or more".to_owned(),
        ),
        (
            "edit-real 192.168.0.2 --service web --weight=-1",
            "invalid value '-1' for '--weight <N>': expected a whole number from 0 to 65535".to_owned(),
        ),
        (
            "add-service 192.168.1.36:80 --slow-start -5s",
            "invalid value '-5s' for '--slow-start <TIME>': not a duration: a number and a unit, such as 30s"
                .to_owned(),
        ),
        (
            "add-service 192.168.1.36:80 -s random",
            "invalid value 'random' for '--scheduler <SCHEDULER>': expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, \
             `mh`, `fo`, `ovf` or `twos`"
                .to_owned(),
        ),
        (
            "add-service 192.168.1.36:80 --no-real ignore",
            "invalid value 'ignore' for '--no-real <ANSWER>': expected `reject` or `drop`".to_owned(),
        ),
        (
            "connections --state open",
            "invalid value 'open' for '--state <STATE>': expected `syn-sent`, `syn-received`, `established`, \
             `fin-client`, `fin-real`, `closing`, `closed`, `udp`, `udp-unreplied`, `udp-unconfirmed`, `closed-client`, `time-wait` or `picked-up`"
                .to_owned(),
        ),
        (
            "list --instance a/b",
            "invalid value 'a/b' for '--instance <NAME>': an instance's name is 1 to 32 letters, digits, `-` or `_`"
                .to_owned(),
        ),
    ] {
        scene.refused(arguments, 2, &usage(&sentence));
    }
}

#[test]
fn commands_that_lack_something() {
    let scene = Scene::tutorial();
    for (arguments, sentence) in [
        (
            "add-service",
            "a new service needs its address, as in `add-service 192.0.2.80:80`",
        ),
        (
            "add-service web2",
            "a new service needs its address: `add-service ADDRESS:PORT --name web2`",
        ),
        (
            "edit-service web",
            "nothing to change: give --scheduler, --name, --no-real, --check, --no-check, --hash, --persistent, --netmask, \
             --group, --persistence-drain, --forwarding, --hairpin, --on-down, --slow-start, --quorum, --hysteresis, --backups, \
             --allow, --deny or --rate",
        ),
        (
            "edit-real 192.168.0.2 --service web",
            "nothing to change: give --weight, --nat, --upper, --lower, --backup, --full-nat or --no-backup",
        ),
        (
            "zero -",
            "`-` is no service: leave it out for the only service there is",
        ),
    ] {
        scene.refused(arguments, 2, &format!("error: {sentence}\n"));
    }
}

#[test]
fn what_this_version_does_not_have_is_refused_by_name() {
    let scene = Scene::tutorial();
    scene.refused(
        "edit-service web -s lblc",
        2,
        &usage(
            "invalid value 'lblc' for '--scheduler <SCHEDULER>': not offered, as it chooses a cache for each of many \
             destinations, and a virtual service has one: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, \
             `mh`, `fo`, `ovf` or `twos`",
        ),
    );
    for (arguments, option) in [
        ("add-real 192.168.0.4 --service web -g", "--direct"),
        ("add-real 192.168.0.4 --service web -i", "--tunnel"),
    ] {
        scene.refused(
            arguments,
            2,
            &format!("error: this version does not have `{option}` yet: leave it out\n"),
        );
    }
    for (arguments, command, mend) in [
        ("top", "top", "use `list --rate`"),
        ("doctor", "doctor", "use `status`"),
    ] {
        let sentence =
            format!("error: this version does not have the command `{command}` yet: {mend}\n");
        scene.refused(arguments, 2, &sentence);
    }
}

#[test]
fn changes_that_contradict_what_is_there() {
    let scene = Scene::tutorial();
    for (arguments, sentence) in [
        (
            "add-service 192.168.1.35:80",
            "service tcp/192.168.1.35:80 exists already: change it with `edit-service`",
        ),
        (
            "add-service 192.168.1.35:81 --name web",
            "name `web` is taken by service tcp/192.168.1.35:80: choose another",
        ),
        (
            "add-real 192.168.0.2:80 --service web",
            "real 192.168.0.2:80 of service tcp/192.168.1.35:80 exists already: change it with `edit-real`",
        ),
        (
            "add-real 2001:db8:1::9 --service web",
            "real [2001:db8:1::9]:80 is not of the family of service tcp/192.168.1.35:80: both must be IPv4 or both IPv6",
        ),
        (
            "add-real 192.168.0.4 --service udp/[2001:db8::35]:53",
            "real 192.168.0.4:53 is not of the family of service udp/[2001:db8::35]:53: both must be IPv4 or both IPv6",
        ),
        (
            "add-real 192.168.0.4:0 --service web",
            "real 192.168.0.4:0 has port 0, but service tcp/192.168.1.35:80 is on one port: give the real's port",
        ),
        (
            "add-real 192.168.1.35:80 --service web",
            "real 192.168.1.35:80 is itself the address of a service: name the server behind it",
        ),
        (
            "add-service 0.0.0.0:80",
            "address 0.0.0.0 of a service is unspecified: use the address itself",
        ),
        (
            "add-service 224.0.0.1:80",
            "address 224.0.0.1 of a service is a multicast address: use a unicast address",
        ),
        (
            "edit-service web --name 1web",
            "`1web` is no name for a service: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
        ),
        (
            "add-service 192.168.1.36:80 -M 24",
            "netmask without persistence: give service tcp/192.168.1.36:80 a timeout too, as in `--persistent 300`",
        ),
        (
            "edit-service web --group shop",
            "group without persistence: give service tcp/192.168.1.35:80 a timeout too, as in `--persistent 300`",
        ),
        (
            "edit-service web -p -M 33",
            "netmask 33 of service tcp/192.168.1.35:80 is out of range: 1..=32",
        ),
        (
            "edit-service udp/[2001:db8::35]:53 -p -M 255.255.255.0",
            "netmask of an IPv6 service must be a prefix length in 1..=128, as in 64",
        ),
        (
            "edit-service web --hash client-port",
            "hash client-port is of no use with scheduler rr, which does not hash clients: use scheduler sh or mh, or leave \
             hash out",
        ),
        (
            "edit-service web --hash client",
            "hash client is of no use with scheduler rr, which does not hash clients: use scheduler sh or mh, or leave \
             hash out",
        ),
        (
            "add-service 192.168.1.36:80 -s dh --hash client",
            "hash client is of no use with scheduler dh, which does not hash clients: use scheduler sh or mh, or leave \
             hash out",
        ),
        (
            "edit-real 192.168.0.2 --service web -y 10",
            "lower 10 of real 192.168.0.2:80 without upper: give it upper too, or leave lower out",
        ),
        (
            "edit-real 192.168.0.2 --service web -x 9 -y 10",
            "lower 10 of real 192.168.0.2:80 is above upper 9: make it 9 at most",
        ),
        (
            "del-service mail",
            "there is no service `mail`: `list` shows all",
        ),
        (
            "del-service 192.168.1.35:81",
            "there is no service tcp/192.168.1.35:81: `list` shows all",
        ),
        (
            "del-real 192.168.0.9 --service web",
            "service tcp/192.168.1.35:80 has no real 192.168.0.9:80: `list` shows all",
        ),
        (
            "edit-real 192.168.0.2:81 --service web -w 1",
            "service tcp/192.168.1.35:80 has no real 192.168.0.2:81: `list` shows all",
        ),
        (
            "add-real 192.168.0.4",
            "say which service: `web` or `udp/[2001:db8::35]:53`",
        ),
        (
            "del-service",
            "say which service: `web` or `udp/[2001:db8::35]:53`",
        ),
        ("zero mail", "there is no service `mail`: `list` shows all"),
        (
            "connections --service mail",
            "there is no service `mail`: `list` shows all",
        ),
    ] {
        scene.refused(arguments, 1, &format!("error: {sentence}\n"));
    }
}

#[test]
fn a_service_is_deleted_only_if_it_is_named() {
    let scene = Scene::new();
    let none = "error: there is no service: add one with `add-service`\n";
    scene.refused("del-service", 1, none);
    scene.done("add-service 192.168.1.35:80");
    let one = "error: say which service, even if it is the only one: `tcp/192.168.1.35:80`\n";
    scene.refused("del-service", 1, one);
    scene.refused("del-service --runtime", 1, one);
    scene.done("edit-service --name web");
    scene.refused(
        "del-service",
        1,
        "error: say which service, even if it is the only one: `web`\n",
    );
    scene.done("del-service -t 192.168.1.35:80");
}

#[test]
fn ipvsadms_letters_are_answered_with_the_command() {
    let scene = Scene::tutorial();
    for (arguments, sentence) in [
        (
            "-A -t 1.2.3.4:80 -s rr",
            "`-A` is `balancer-ctl --socket SOCKET add-service -t 1.2.3.4:80 -s rr` here",
        ),
        (
            "-a -t 192.168.1.35:80 -r 192.168.0.9:80 -m -w 2",
            "`-a` is `balancer-ctl --socket SOCKET add-real 192.168.0.9:80 -t 192.168.1.35:80 -m -w 2` here",
        ),
        (
            "--edit-server -t 192.168.1.35:80 -r 192.168.0.2:80 -i",
            "`--edit-server` is `balancer-ctl edit-real` here: `balancer-ctl edit-real --help` shows its options",
        ),
        ("-Ln", "`-Ln` is `balancer-ctl --socket SOCKET list` here"),
        ("-C", "`-C` is `balancer-ctl --socket SOCKET clear` here"),
        ("-S -n", "`-S` is `balancer-ctl --socket SOCKET save` here"),
        ("-R", "`-R` is `balancer-ctl --socket SOCKET restore` here"),
    ] {
        let socket = scene.socket().display().to_string();
        let sentence = sentence.replace("SOCKET", &socket);
        scene.refused(arguments, 2, &format!("error: {sentence}\n"));
    }
}

#[test]
fn a_full_data_plane_refuses_and_nothing_is_written() {
    let scene = Scene::tutorial();
    scene.dataplane.state().max_services = Some(2);
    scene.refused(
        "add-service 192.168.1.36:80",
        1,
        "error: there is room for 2 services\n",
    );
}

#[test]
fn a_file_that_changed_meanwhile_is_not_overwritten() {
    let scene = Scene::tutorial();
    let path = scene.file().display().to_string();
    fs::write(scene.file(), format!("{}# theirs\n", scene.text())).expect("write the file");
    scene.refused(
        "add-real 192.168.0.4 --service web",
        1,
        &format!("error: {path} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime\n"),
    );
    scene.done("add-real 192.168.0.4 --service web --runtime");
    scene.done("reload");
    scene.done("add-real 192.168.0.4 --service web");
    assert!(scene.text().ends_with("# theirs\n"), "{}", scene.text());
}

#[test]
fn a_reload_of_a_wrong_file_tells_all_and_what_ran_goes_on() {
    let scene = Scene::tutorial();
    let before = scene.done("list");
    let path = scene.file().display().to_string();
    let text = format!("{FILE}colour = 1\n[[service]]\nadress = \"192.168.1.35:80\"\n");
    fs::write(scene.file(), text).expect("write the file");
    scene.refused(
        "reload",
        1,
        &format!(
            "error: {path}:7:1: unknown key `colour` in `dataplane`: expected `interfaces`, `mode`, `max-connections`, \
             `max-connections-ipv6`, `max-persistence`, `stray-replies`, `snat-addresses`, `snat-ports` or `masquerade`\n\
             {path}:8:1: service has no address: add one, as in `address = \"192.0.2.80:80\"`\n\
             {path}:9:1: unknown key `adress` in `service`: expected `name`, `address`, `protocol`, `scheduler`, \
             `hash`, `persistence`, `no-real`, `forwarding`, `hairpin`, `check`, `on-down`, `slow-start`, `quorum`, `hysteresis`, `backups`, `allow`, `deny`, `rate` or `real`\n"
        ),
    );
    assert_eq!(scene.done("list"), before);
    // A file that was cut off while it was written.
    fs::write(scene.file(), "[dataplane]\ninterfaces = [\"eth0").expect("write the file");
    scene.refused(
        "reload",
        1,
        &format!("error: {path}:2:20: unclosed array, expected `]`\n"),
    );
    fs::remove_file(scene.file()).expect("remove the file");
    let ran = scene.run("reload");
    let sentence =
        format!("error: configuration file {path}: No such file or directory (os error 2)\n");
    assert_eq!(
        ran,
        Ran {
            status: 1,
            stdout: String::new(),
            stderr: sentence
        }
    );
    assert_eq!(scene.done("list"), before);
}

#[test]
fn without_a_daemon_every_command_says_where_it_looked() {
    let mut scene = Scene::new();
    scene.stop();
    let sentence = format!(
        "error: no balancerd answers on {}: start it, or name its socket with --socket or --instance\n",
        scene.socket().display()
    );
    for arguments in [
        "list",
        "status",
        "events",
        "connections",
        "persistence",
        "persistence --delete --all",
        "reload",
        "clear --yes",
        "save",
        "zero",
        "health",
        "drain 192.168.0.2",
        "add-service 192.168.1.35:80",
        "del-real 192.168.0.2",
    ] {
        scene.refused(arguments, 3, &sentence);
    }
    for (arguments, socket) in [
        (
            &["--instance", "absent-instance", "list"][..],
            "/run/balancer/absent-instance/control.sock",
        ),
        (
            &["list", "--instance", "absent-instance"],
            "/run/balancer/absent-instance/control.sock",
        ),
        (
            &["list", "--socket", "/nonexistent/sock"],
            "/nonexistent/sock",
        ),
    ] {
        let ran = ran(program("balancer-ctl").args(arguments));
        let sentence = format!(
            "error: no balancerd answers on {socket}: start it, or name its socket with --socket or --instance\n"
        );
        assert_eq!(
            ran,
            Ran {
                status: 3,
                stdout: String::new(),
                stderr: sentence
            }
        );
    }
    let ran = ran(program("balancer-ctl")
        .arg("list")
        .env("BALANCER_SOCKET", "/nonexistent/sock"));
    assert_eq!(ran.status, 3);
}

#[test]
fn a_dash_is_no_service_wherever_one_is_named() {
    let scene = Scene::tutorial();
    for arguments in [
        "edit-service - -s rr",
        "zero -",
        "health -",
        "drain 192.168.0.2 --service -",
        "add-real 192.168.0.4 --service -",
        "edit-real 192.168.0.2 --service - -w 2",
        "del-real 192.168.0.2 --service -",
        "connections --service -",
    ] {
        scene.refused(
            arguments,
            2,
            "error: `-` is no service: leave it out for the only service there is\n",
        );
    }
}

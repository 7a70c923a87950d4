//! What the lines look like, what is read of them, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::{
    api::WholeService,
    config::write::tests::services,
    model::change::{Change, WantedService, changes_to, tests::model},
};

/// The services of a model as the API tells them.
fn told(services: &[VirtualService]) -> Vec<view::Service> {
    let told = services.iter().map(|service| {
        let reals = service.reals.iter().map(|real| view::Real {
            address: real.address,
            weight: real.weight,
            effective_weight: real.weight,
            forwarding: real.forwarding.unwrap_or(service.forwarding),
            upper: real.upper,
            lower: real.lower,
            backup: real.backup,
            state: view::RealState::Up,
            reason: None,
            admin: real.state,
            health: None,
            agent: None,
            active: 0,
            inactive: 0,
            counters: crate::model::counters::Counters::default(),
            rates: None,
            runtime: false,
        });
        view::Service {
            reals: reals.collect(),
            ..view::Service::from(service)
        }
    });
    told.collect()
}

/// The services that lines ask for, as the daemon reads them from the request.
fn wanted(lines: &str) -> Vec<WantedService> {
    let services = read(lines).unwrap().into_iter();
    let wanted = services.map(|WholeService { service, reals }| {
        let key = ServiceKey {
            protocol: service.protocol.unwrap(),
            address: service.address.parse().unwrap(),
        };
        // Over the socket and back.
        let settings = serde_json::to_string(&service.settings).unwrap();
        WantedService {
            key,
            settings: serde_json::from_str::<crate::api::EditService>(&settings)
                .unwrap()
                .with_checks(|_| Err("lines have no checks"))
                .unwrap(),
            reals: reals
                .into_iter()
                .map(|real| (real.address.parse().unwrap(), real.settings))
                .collect(),
        }
    });
    wanted.collect()
}

/// What restoring lines makes of services.
fn restored(mut services: Vec<VirtualService>, lines: &str) -> Vec<VirtualService> {
    for change in changes_to(&services, &wanted(lines)) {
        change.apply(&mut services).unwrap();
    }
    services
}

fn sorted(mut services: Vec<VirtualService>) -> Vec<VirtualService> {
    services.sort_by_key(|service| service.key);
    for service in &mut services {
        service.reals.sort_by_key(|real| real.address);
    }
    services
}

/// A service with only what a line holds.
fn held(service: &VirtualService) -> VirtualService {
    let mut held = VirtualService::new(service.key);
    held.scheduler = service.scheduler;
    held.hash = service.hash.filter(|hash| *hash != HashKey::default());
    held.persistence = service
        .persistence
        .as_ref()
        .map(|own| crate::model::Persistence {
            timeout: own.timeout,
            netmask: own.netmask,
            ..crate::model::Persistence::default()
        });
    held.reals = service.reals.clone();
    for real in &mut held.reals {
        real.forwarding = None;
        real.backup = false;
        real.state = AdminState::default();
    }
    held
}

const SERVICES: &str = r#"
    [[service]]
    name = "web"
    address = "192.168.1.35:80"
    scheduler = "wrr"
    persistence = { timeout = "5m", netmask = 24, group = "shop" }
    no-real = "drop"
    check = { type = "http" }
    [[service.real]]
    address = "192.168.0.2:8080"
    weight = 3
    upper = 100
    lower = 80
    [[service.real]]
    address = "192.168.0.3:80"
    weight = 0
    backup = true
    state = "drain"
    [[service]]
    address = "[2001:db8::35]:53"
    protocol = "udp"
    scheduler = "mh"
    hash = "client-port"
    persistence = { timeout = "1s500ms", netmask = 64, drain = "keep" }
    [[service.real]]
    address = "[2001:db8:1::2]:53"
"#;

const LINES: &str = "\
-A -t 192.168.1.35:80 -s wrr -p 300 -M 255.255.255.0
-a -t 192.168.1.35:80 -r 192.168.0.2:8080 -m -w 3 -x 100 -y 80
-a -t 192.168.1.35:80 -r 192.168.0.3:80 -m -w 0
-A -u [2001:db8::35]:53 -s mh -p 1 -M 64 -b mh-port
-a -u [2001:db8::35]:53 -r [2001:db8:1::2]:53 -m -w 1";

const SEEDS: &[&[u8]] = &[LINES.as_bytes()];

#[test]
fn services_are_written_as_ipvsadm_does() {
    let lines = Lines::of(&told(&model(SERVICES).services));
    assert_eq!(lines.lines.join("\n"), LINES);
    assert_eq!(
        lines.left_out,
        [
            "service tcp/192.168.1.35:80: these lines do not hold check, name, no-real, persistence group",
            "real 192.168.0.3:80 of service tcp/192.168.1.35:80: these lines do not hold backup, state",
            "service udp/[2001:db8::35]:53: these lines do not hold persistence drain, persistence milliseconds of the timeout",
        ]
    );
    assert_eq!(Lines::of(&[]), Lines::default());
}

#[test]
fn lines_are_read_in_each_form_that_ipvsadm_has() {
    // As another program orders them, in scripts, and with comments.
    let other = "\
# our services
ipvsadm -A -s wrr -M 255.255.255.0 -p -t 192.168.1.35:80

  /sbin/ipvsadm -a -m -r 192.168.0.2:8080 -t 192.168.1.35:80 -y 80 -w 3 -x 100 # the first
-a -t 192.168.1.35:80 -r 192.168.0.3:80 --masquerading --weight 0
--add-service --udp-service [2001:db8::35]:53 -6 --scheduler mh --persistent 1 --netmask 64 -b mh-fallback,mh-port
--add-server -u [2001:db8::35]:53 --real-server [2001:db8:1::2] -m -n\r
";
    assert_eq!(read(other).unwrap(), read(LINES).unwrap());
    let least = "-A -t 192.168.1.35:80\n-a -t 192.168.1.35:80 -r 192.168.0.2 -m";
    let all =
        "-A -t 192.168.1.35:80 -s wlc\n-a -t 192.168.1.35:80 -r 192.168.0.2:80 -m -w 1 -x 0 -y 0";
    assert_eq!(read(least).unwrap(), read(all).unwrap());
    assert_eq!(read("").unwrap(), []);
}

#[test]
fn what_lines_have_no_place_for_stays_where_it_is() {
    let services = model(SERVICES).services;
    // The lines of the file itself change only what they cannot say exactly.
    let mut same = services.clone();
    let persistence = same[1].persistence.as_mut().unwrap();
    persistence.timeout = std::time::Duration::from_secs(1);
    assert_eq!(restored(services.clone(), LINES), same);
    let lines = LINES
        .replace("-x 100 -y 80", "")
        .replace("-s wrr -p 300 -M 255.255.255.0", "-s rr");
    let web = &restored(services.clone(), &lines)[0];
    assert_eq!(web.name.as_deref(), Some("web"));
    assert_eq!(web.checks, services[0].checks);
    assert_eq!(
        (web.persistence.as_ref(), web.scheduler.name()),
        (None, "rr")
    );
    assert_eq!((web.reals[0].upper, web.reals[0].lower), (0, 0));
    assert_eq!(web.reals[1], services[0].reals[1]);
    let plain = LINES.replace(" -b mh-port", "");
    assert_eq!(restored(services, &plain)[1].hash, Some(HashKey::Client));
}

#[test]
fn the_changes_are_only_those_that_are_needed() {
    let services = model(SERVICES).services;
    let lines = LINES.replace("-w 3", "-w 4");
    let changes = changes_to(&services[..1], &wanted(&lines)[..1]);
    let [Change::EditReal(_, address, settings)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!(address.to_string(), "192.168.0.2:8080");
    let weight = crate::model::RealSettings {
        weight: Some(4),
        ..Default::default()
    };
    assert_eq!(*settings, weight);
}

#[test]
fn what_cannot_be_restored_is_named_with_its_line() {
    let scheduler =
        "expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, `fo`, `ovf` or `twos`";
    let address =
        "is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)";
    let web = "-A -t 192.0.2.80:80 -s rr";
    let real = "-a -t 192.0.2.80:80 -r 10.0.0.2:80";
    for (line, sentence) in [
        ("-A -f 7 -s rr", "`-f 7`: a service has an address and a port here, and no firewall mark".to_owned()),
        ("-A -f 7 -6 -s rr", "`-f 7`: a service has an address and a port here, and no firewall mark".to_owned()),
        ("-A --sctp-service 192.0.2.81:80 -s rr", "`--sctp-service 192.0.2.81:80`: only TCP and UDP are balanced".to_owned()),
        ("-A -t 192.0.2.81:80 -s best", format!("`-s best`: {scheduler}")),
        ("-A -t 192.0.2.81:80 -s lblc", format!("`-s lblc`: not offered, as it chooses a cache for each of many destinations, and a virtual service has one: {scheduler}")),
        ("-A -t 192.0.2.81:80 -s", format!("`-s`: {scheduler}")),
        ("-A -u 192.0.2.81:53 -s rr ops", "`ops`: one-packet scheduling is not offered".to_owned()),
        ("-A -u 192.0.2.81:53 -s rr -o", "`-o`: one-packet scheduling is not offered".to_owned()),
        ("-A -u 192.0.2.81:53 -s rr -p 60 --pe sip", "`--pe sip`: no persistence engine is offered".to_owned()),
        ("-A -t 192.0.2.81:80 -s sh -b flag-1", "`-b flag-1`: flag `flag-1` is not known: expected `sh-port`, `sh-fallback`, `mh-port` or `mh-fallback`".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -b sh-port", "`-b`: only the schedulers `sh` and `mh` hash the client's port".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -p 0", "`-p 0`: expected a whole number from 1 to 604800".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -p 604801", "`-p 604801`: expected a whole number from 1 to 604800".to_owned()),
        ("-a -t 192.0.2.80:80 -r [2001:db8::2]:80 -m", "real [2001:db8::2]:80 is not of the family of service tcp/192.0.2.80:80: both must be IPv4 or both IPv6".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -p 60 -M 255.0.255.0", "`-M 255.0.255.0`: `255.0.255.0` is no netmask: a prefix length, as in 24, or for IPv4 a mask as in 255.255.255.0".to_owned()),
        ("-A -t [2001:db8::80]:80 -s rr -p 60 -M 255.255.255.0", "`-M`: netmask of an IPv6 service must be a prefix length in 1..=128, as in 64".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -M 255.255.255.0", "`-M` without -p: a netmask is part of persistence".to_owned()),
        ("-A -t 192.0.2.81:80 -6 -s rr", "`-6`: the service has an IPv4 address".to_owned()),
        ("-A -t 192.0.2.81:80 -s rr -s wrr", "`-s` is given twice".to_owned()),
        ("-A -t 192.0.2.81:80 -u 192.0.2.81:80 -s rr", "`-u 192.0.2.81:80` is a second service in one line".to_owned()),
        ("-A -t 192.0.2.81 -s rr", "`-t 192.0.2.81`: `192.0.2.81` has no port: write `192.0.2.81:80` (port 0 stands for every port)".to_owned()),
        ("-A -t www.example.org:http -s rr", format!("`-t www.example.org:http`: `www.example.org:http` {address}")),
        ("-A -s rr", "there is no service: -t ADDRESS:PORT or -u ADDRESS:PORT".to_owned()),
        ("-A -t 192.0.2.80:80 -s wrr", "service tcp/192.0.2.80:80 is added twice".to_owned()),
        ("-A -t 192.0.2.81:80 -w 1", "`-w` belongs to a real server, in a line with -a".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -m -s rr", "`-s` belongs to a service, in a line with -A".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -g -w 1", "`-g`: direct routing is not offered, real servers are reached by NAT (-m) only".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -i", "`-i`: tunnelling is not offered, real servers are reached by NAT (-m) only".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80", "without a forwarding method it means direct routing, and real servers are reached by NAT only: write -m".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -m --tun-type gue", "`--tun-type gue` is not known".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -m -w 65536", "`-w 65536`: expected a whole number from 0 to 65535".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.3:80 -m -x many", "`-x many`: expected a whole number from 0 to 16777216".to_owned()),
        ("-a -t 192.0.2.80:80 -r server -m", format!("`-r server`: `server` {address}")),
        ("-a -t 192.0.2.80:80 -m", "there is no real server: -r ADDRESS:PORT".to_owned()),
        ("-a -t 192.0.2.80:80 -r 10.0.0.2 -m", "real 10.0.0.2:80 of service tcp/192.0.2.80:80 is added twice".to_owned()),
        ("-a -t 192.0.2.99:80 -r 10.0.0.2:80 -m", "no line above adds service tcp/192.0.2.99:80".to_owned()),
        ("-C", "`-C` is no line that `ipvsadm -S -n` prints: it begins with -A or -a".to_owned()),
        ("hello", "`hello` is no line that `ipvsadm -S -n` prints: it begins with -A or -a".to_owned()),
    ] {
        let lines = format!("{web}\n{real} -m\n\n{line}\n");
        assert_eq!(read(&lines).unwrap_err(), [format!("line 4: {sentence}")], "{line}");
    }
    // All lines, and all that is wrong with one; the real servers of a wrong service are not wrong too.
    let lines = format!("-A -t 192.0.2.80:80 -s best ops\n{real} -m\n{real} -g -w x");
    assert_eq!(
        read(&lines).unwrap_err(),
        [
            format!("line 1: `-s best`: {scheduler}"),
            "line 1: `ops`: one-packet scheduling is not offered".to_owned(),
            "line 3: `-g`: direct routing is not offered, real servers are reached by NAT (-m) only".to_owned(),
            "line 3: `-w x`: expected a whole number from 0 to 65535".to_owned(),
            "line 3: real 10.0.0.2:80 of service tcp/192.0.2.80:80 is added twice".to_owned(),
        ]
    );
}

#[test]
fn of_many_lines_that_cannot_be_restored_the_first_are_told_and_the_rest_is_counted() {
    let problems = read(&"hello\n".repeat(250)).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100], "and 150 more");
}

proptest! {
    /// Whatever the services were when they were saved, and are when they are restored.
    #[test]
    fn what_was_saved_is_restored(mut saved in services(), present in services()) {
        for service in &mut saved {
            // A line has whole seconds.
            if let Some(persistence) = &mut service.persistence {
                persistence.timeout = std::time::Duration::from_secs(persistence.timeout.as_secs());
            }
        }
        let lines = Lines::of(&told(&saved)).lines.join("\n");
        let held_of = |services: &[VirtualService]| sorted(services.iter().map(held).collect());
        prop_assert_eq!(held_of(&restored(present, &lines)), held_of(&saved));
        // Over what was saved it changes nothing.
        prop_assert_eq!(changes_to(&saved, &wanted(&lines)), []);
    }

    #[test]
    fn any_text_is_read_or_refused_with_sentences(text in crate::os::fuzz::bytes(SEEDS)) {
        let text = String::from_utf8_lossy(&text);
        if let Err(sentences) = read(&text) {
            prop_assert!(!sentences.is_empty());
            prop_assert!(sentences.iter().all(|sentence| sentence.starts_with("line ")));
        }
    }
}

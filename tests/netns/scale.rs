//! Many real servers and many services.

use std::{
    collections::HashSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use balancer_tests::{
    client::request,
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, socket},
};

/// The page names the address that was asked.
const PAGE: &str = "location = / { return 200 \"$server_addr:$server_port\\n\"; }";

/// One machine with 100 addresses and 10 ports on each, which counts for 1,000 real servers.
fn topology() -> Topology {
    let mut topology = Topology::new(Arms::Two, 1);
    let real = &mut topology.reals[0];
    for host in 100..200 {
        let address = format!("192.168.0.{host}/24");
        real.namespace
            .address("eth0", &address)
            .expect("an address");
    }
    let mut server = String::from("listen 80; ");
    for port in 8000..8010 {
        let _ = write!(server, "listen {port}; ");
    }
    real.start_nginx(&(server + PAGE));
    topology
}

/// Loads the file, three times from the other one, and gives the shortest time. It is printed, not judged: how long it
/// takes is the machine's business and what else it does.
fn loading_time(daemon: &Daemon, file: &str, other: &str) -> Duration {
    let mut shortest = Duration::MAX;
    for round in 0..3 {
        if round > 0 {
            daemon.write(other);
            daemon.ctl("reload");
        }
        daemon.write(file);
        let start = Instant::now();
        daemon.ctl("reload");
        shortest = shortest.min(start.elapsed());
    }
    shortest
}

fn service(address: &str, scheduler: &str, reals: impl Iterator<Item = String>) -> String {
    let mut text = format!("[[service]]\naddress = \"{address}\"\nscheduler = \"{scheduler}\"\n");
    for real in reals {
        let _ = write!(text, "[[service.real]]\naddress = \"{real}\"\n");
    }
    text
}

fn thousand_reals() -> impl Iterator<Item = String> {
    (8000..8010).flat_map(|port| (100..200).map(move |host| format!("192.168.0.{host}:{port}")))
}

const DATAPLANE: &str = "[dataplane]\ninterfaces = [\"outside\", \"inside\"]\n";

/// Memory of the daemon's own, in MB, when it has come to rest: what it shares with the kernel, the connection tables, is not
/// counted.
fn own_memory(daemon: &mut Daemon) -> u64 {
    let sizes = (0..10).map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        own_memory_now(daemon)
    });
    sizes.min().unwrap_or_default()
}

fn own_memory_now(daemon: &mut Daemon) -> u64 {
    let status = format!("/proc/{}/status", daemon.process().id());
    let status = std::fs::read_to_string(status).expect("the daemon's status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.expect("a number of kB") / 1024
}

/// Edits of a large configuration use each of the daemon's threads.
fn edits_leave_the_daemon_as_large_as_it_was(daemon: &mut Daemon) {
    let mut sizes = Vec::new();
    for round in 0..4 {
        for weight in 1..=6 {
            daemon.ctl(&format!(
                "edit-real 192.168.0.102:8000 --service 192.0.2.80:1500 -w {weight}"
            ));
        }
        sizes.push(own_memory(daemon));
        println!("{} MB after {} edits", sizes[round], 6 * (round + 1));
    }
    daemon.ctl("edit-real 192.168.0.102:8000 --service 192.0.2.80:1500 -w 1");
    let [first, .., last] = sizes[..] else {
        panic!("several rounds");
    };
    assert!(last <= 60 && last <= first + 10, "{sizes:?}");
}

#[test]
fn a_service_with_a_thousand_real_servers_loads_and_changes_in_place() {
    if privileged::skipped() {
        return;
    }
    let topology = topology();
    let few = service("192.0.2.80:80", "rr", thousand_reals().take(10));
    let daemon = Daemon::start(&topology, &few);
    let load = topology.start_load(socket(VIP, 80));
    load.wait_for(20);
    let all = service("192.0.2.80:80", "rr", thousand_reals());
    let took = loading_time(
        &daemon,
        &format!("{DATAPLANE}{all}"),
        &format!("{DATAPLANE}{few}"),
    );
    println!("1,000 real servers loaded in {took:?}");
    load.wait_for(20);
    // Weights, one real server less, one more, and another scheduler, while requests run.
    daemon.ctl("edit-real 192.168.0.100:8000 -w 0");
    daemon.ctl("del-real 192.168.0.101:8000");
    daemon.ctl("edit-service -s wrr");
    daemon.ctl("add-real 192.168.0.101:8000");
    daemon.ctl("edit-real 192.168.0.100:8000 -w 1");
    daemon.ctl("edit-service -s rr");
    load.wait_for(20);
    load.finish();
    // Now each of them gets exactly one of a thousand.
    let answers = topology.curl(&format!("http://{VIP}/"), 1000);
    let answers: HashSet<_> = answers.into_iter().collect();
    assert_eq!(answers, thousand_reals().collect());
}

#[test]
fn a_thousand_services_load_and_change_in_place() {
    if privileged::skipped() {
        return;
    }
    let topology = topology();
    // The first service has real servers of its own. A client that comes by way of another service, with a port that it
    // used a moment ago, is a stranger to a real server that still remembers the older connection.
    let reals = |host| (8000..8010).map(move |port| format!("192.168.0.{host}:{port}"));
    let first = service("192.0.2.80:1000", "rr", reals(100));
    let mut daemon = Daemon::start(&topology, &first);
    let load = topology.start_load(socket(VIP, 1000));
    load.wait_for(20);
    let mut all = format!("{DATAPLANE}{first}");
    for port in 1001..2000 {
        all += &service(&format!("192.0.2.80:{port}"), "rr", reals(102));
    }
    let took = loading_time(&daemon, &all, &format!("{DATAPLANE}{first}"));
    println!("1,000 services with 10 real servers each loaded in {took:?}");
    load.wait_for(20);
    // All services get another real server, then all but the first go.
    let start = Instant::now();
    daemon.write(
        &all.replace("0.100:8009", "0.101:8009")
            .replace("0.102:8009", "0.103:8009"),
    );
    daemon.ctl("reload");
    println!("one real server of each changed in {:?}", start.elapsed());
    load.wait_for(20);
    let answers: HashSet<_> = topology
        .client
        .run(|| {
            (1990..2000)
                .flat_map(|port| {
                    (0..10).map(move |_| request(socket(VIP, port)).expect("an answer"))
                })
                .collect()
        })
        .expect("enter the client");
    edits_leave_the_daemon_as_large_as_it_was(&mut daemon);
    let expected: HashSet<_> = (8000..8009)
        .map(|port| format!("192.168.0.102:{port}"))
        .chain(["192.168.0.103:8009".to_owned()])
        .collect();
    assert_eq!(answers, expected);
    daemon.write(&format!("{DATAPLANE}{first}"));
    daemon.ctl("reload");
    load.wait_for(20);
    load.finish();
    let refused = topology
        .client
        .run(|| request(socket(VIP, 1500)))
        .expect("enter the client");
    assert!(refused.is_err(), "its service is gone");
}

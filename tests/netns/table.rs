//! A connection table that is full.

use std::time::Duration;

use balancer_tests::{
    client::request,
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, socket},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use xtask::lab::wait_until;

use crate::{KeepAlive, WEB};

/// Lets this process and those that it starts have so many files open.
fn allow_files(number: u64) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, number.min(most), most).expect("a higher limit");
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_the_old() {
    // The least that a configuration may say.
    const MOST: usize = 1024;
    if privileged::skipped() {
        return;
    }
    allow_files(4 * MOST as u64);
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start_with(
        &topology,
        &format!(
            "[dataplane]\ninterfaces = [\"outside\", \"inside\"]\nmax-connections = {MOST}\n\
             [timeouts]\ntcp-fin = \"1s\"\n{WEB}"
        ),
    );
    // The table has a quarter more places than it is sized for. Few find none before that size, and most beyond it.
    let (mut old, mut refused) = (Vec::new(), 0);
    while refused < 10 {
        match topology.connect(socket(VIP, 80), Duration::from_millis(200)) {
            Ok(stream) => old.push(KeepAlive::of(stream)),
            Err(_) => refused += 1,
        }
        assert!(old.len() <= MOST * 5 / 4, "there is no room for another");
    }
    assert!(old.len() >= MOST * 9 / 10, "{} connections", old.len());
    let names: Vec<_> = old
        .iter_mut()
        .map(|old| old.request().expect("an answer"))
        .collect();
    let status = daemon.json("status");
    let table = &status["dataplane"]["ipv4"];
    assert_eq!(table["max_connections"], MOST);
    assert_eq!(table["bytes"], 80 * MOST);
    assert!(
        table["connections"].as_u64() >= Some(old.len() as u64),
        "{status}"
    );
    assert!(
        status["dataplane"]["discards"]["table-full"].as_u64() >= Some(refused),
        "{status}"
    );
    for (old, name) in old.iter_mut().zip(&names) {
        assert_eq!(&old.request().expect("it goes on"), name);
    }
    // Where connections end there is room again, as soon as their grace time is over.
    drop(old.split_off(MOST / 2));
    wait_until("room in the table", Duration::from_secs(10), || {
        Ok(topology.client.run(|| request(socket(VIP, 80)))?.is_ok())
    })
    .unwrap_or_else(|error| panic!("{error:#}"));
    for (old, name) in old.iter_mut().zip(&names) {
        assert_eq!(&old.request().expect("it goes on"), name);
    }
}

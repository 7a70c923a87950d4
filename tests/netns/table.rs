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
    let mut old: Vec<_> = (0..MOST).map(|_| KeepAlive::connect(&topology)).collect();
    let names: Vec<_> = old
        .iter_mut()
        .map(|old| old.request().expect("an answer"))
        .collect();
    for _ in 0..3 {
        let refused = topology.connect(socket(VIP, 80), Duration::from_millis(200));
        assert!(refused.is_err(), "there is no room for another");
    }
    let status = daemon.json("status");
    assert_eq!(status["dataplane"]["connections"], MOST);
    assert_eq!(status["dataplane"]["max_connections"], MOST);
    assert!(
        status["dataplane"]["discards"]["table-full"].as_u64() >= Some(3),
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

//! The channel between nodes: the ways that it takes, and strangers on its port.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::Duration,
};

use balancer_ctl::peer::ClusterKey;
use balancer_tests::{pair::Pair, privileged, topology::INSIDE};
use serde_json::Value;

use crate::view::{config, hears, peers};

/// Longest wait for a connection, or for its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the second node join the first, with the key on standard input.
fn join(pair: &Pair, address: &str) {
    let key = pair.nodes[0].daemon().ctl("node key");
    let mut command = pair.nodes[1].daemon().command("balancer-ctl");
    command.args(["node", "join", &format!("-@{address}")]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(key.as_bytes()).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
    for node in &pair.nodes[..2] {
        node.wait_for_status("the other node", hears(1));
    }
}

fn refusals(status: &Value, reason: &str) -> u64 {
    status["peer_refusals"][reason].as_u64().unwrap_or_default()
}

#[test]
fn the_channel_runs_over_ipv6_and_over_its_interface_alone() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    let channel = format!("[peers]\nlisten = \"[::]:4446\"\ninterface = \"{INSIDE}\"\n");
    for (number, node) in pair.nodes.iter_mut().enumerate() {
        node.start(&config(number, &channel));
    }
    join(&pair, "[fd00:1::21]:4446");
    for (node, other) in [(0, "[fd00:1::22]:4446"), (1, "[fd00:1::21]:4446")] {
        let status = pair.nodes[node].daemon().json("status");
        let address = &peers(&status).next().expect("the other node")["address"];
        assert_eq!(address, other, "{status:#}");
    }
    // Nobody reaches it from the other side, by either family.
    let connected = pair.client.run(|| {
        ["203.0.113.21:4446", "[2001:db8:f::21]:4446"].map(|target| {
            let target: SocketAddr = target.parse().expect("an address");
            TcpStream::connect_timeout(&target, PATIENCE).map(drop)
        })
    });
    for connected in connected.expect("the namespace") {
        assert_eq!(
            connected.expect_err("nobody listens").kind(),
            std::io::ErrorKind::ConnectionRefused
        );
    }
    // A cable that is out is noticed, and back again.
    pair.plug(1, INSIDE, false);
    pair.nodes[0].wait_for_status("the loss", hears(0));
    pair.plug(1, INSIDE, true);
    pair.nodes[0].wait_for_status("the return", hears(1));
}

#[test]
fn strangers_are_counted_and_seldom_logged_and_disturb_nobody() {
    const STRANGERS: u64 = 40;
    if privileged::skipped() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    let other = ClusterKey::from([7; 32]).to_string();
    fs::write(&file, other).expect("write the key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its permissions");
    let mut pair = Pair::new(3, 0);
    for number in 0..2 {
        pair.nodes[number].start(&config(number, ""));
    }
    let address = pair.nodes[0].address();
    join(&pair, &address);
    // A node that has another key.
    let wrong = format!(
        "[peers]\nkey-file = \"{}\"\nnodes = [\"{address}\"]\n",
        file.display()
    );
    pair.nodes[2].start(&config(2, &wrong));
    let target: SocketAddr = format!("{address}:4446").parse().expect("an address");
    let garbage = pair.client.run(|| -> std::io::Result<()> {
        for _ in 0..STRANGERS {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[0xff; 100])?;
            // It is ended without an answer.
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{read:?}: {rest:?}");
        }
        Ok(())
    });
    garbage.expect("the namespace").expect("connections");
    let status = pair.nodes[0].wait_for_status("the counts", |status| {
        refusals(status, "garbage") == STRANGERS && refusals(status, "wrong-key") > 0
    });
    assert_eq!(refusals(&status, "forged"), 0, "{status:#}");
    let shown = pair.nodes[0].daemon().ctl("status");
    assert!(shown.contains("no handshake, or no message"), "{shown}");
    let log = pair.nodes[0].daemon().log();
    let lines = log.lines().filter(|line| line.contains("is not let in"));
    assert!((1..=5).contains(&lines.count()), "{log}");
    // The one with another key sees why; it is none of the nodes, and the two are as before.
    pair.nodes[2].wait_for_reason("it has another key");
    for node in &pair.nodes[..2] {
        let status = node.daemon().json("status");
        assert!(hears(1)(&status), "{status:#}");
        assert_eq!(peers(&status).count(), 1, "{status:#}");
    }
    assert!(!log.contains("another node is lost"), "{log}");
}

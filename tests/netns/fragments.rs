//! Datagrams larger than a frame, both ways, between kernels that fragment and put together.

use std::{net::UdpSocket, thread, time::Duration};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, VIP6, socket},
};

/// Has every real server send back what it gets on port 53, in either family.
fn echo(topology: &Topology) {
    for real in &topology.reals {
        for address in [&real.address, &real.address6] {
            let bound = real.namespace.run(|| UdpSocket::bind(socket(address, 53)));
            let server = bound.expect("enter the real server").expect("bind");
            thread::spawn(move || {
                let mut data = vec![0; 65_535];
                while let Ok((length, from)) = server.recv_from(&mut data) {
                    // The client sees what is missing.
                    let _ = server.send_to(&data[..length], from);
                }
            });
        }
    }
}

/// Whether a datagram comes back as it was sent; a busy machine may lose a fragment, and then all of it is sent again.
fn comes_back(client: &UdpSocket, sent: &[u8]) -> bool {
    let mut got = vec![0; 65_535];
    (0..5).any(|_| {
        client.send(sent).expect("send");
        matches!(client.recv(&mut got), Ok(length) if got[..length] == *sent)
    })
}

fn datagrams_come_back(arms: Arms) {
    let topology = Topology::new(arms, 2);
    let daemon = Daemon::start(&topology, "");
    echo(&topology);
    for (vip, first, second) in [
        (VIP.to_owned(), "192.168.0.2", "192.168.0.3"),
        (format!("[{VIP6}]"), "[fd00:1::2]", "[fd00:1::3]"),
    ] {
        daemon.ctl(&format!("add-service udp/{vip}:53 -s rr"));
        for real in [first, second] {
            daemon.ctl(&format!("add-real {real}:53 --service udp/{vip}:53"));
        }
    }
    for (vip, any) in [(VIP, "0.0.0.0"), (VIP6, "::")] {
        // Of both real servers, several at once.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let bound = topology.client.run(|| UdpSocket::bind(socket(any, 0)));
                let client = bound.expect("enter the client").expect("bind");
                client
                    .set_read_timeout(Some(Duration::from_secs(1)))
                    .expect("a limit");
                client.connect(socket(vip, 53)).expect("connect");
                client
            })
            .collect();
        for (number, length) in [100, 1_473, 2_000, 8_000, 8_001, 20_000].iter().enumerate() {
            let sent: Vec<Vec<u8>> = (0..clients.len())
                .map(|client| {
                    (0..*length)
                        .map(|at| (at * 31 + client + number) as u8)
                        .collect()
                })
                .collect();
            for (client, sent) in clients.iter().zip(&sent) {
                assert!(comes_back(client, sent), "{vip}: {length} bytes");
            }
        }
    }
    let discards = daemon.json("status")["dataplane"]["discards"].clone();
    for reason in [
        "fragment",
        "fragment-unmatched",
        "fragment-tiny",
        "malformed",
    ] {
        assert_eq!(discards[reason], 0, "{discards:#}");
    }
}

#[test]
fn datagrams_larger_than_a_frame_come_back_with_two_arms() {
    if privileged::skipped() {
        return;
    }
    datagrams_come_back(Arms::Two);
}

#[test]
fn datagrams_larger_than_a_frame_come_back_with_one_arm() {
    if privileged::skipped() {
        return;
    }
    datagrams_come_back(Arms::One);
}

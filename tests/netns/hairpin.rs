//! Clients beside the real servers: their answers would not come back through the balancer.

use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, VIP6, socket},
};

/// Two real servers in each family, for TCP and UDP.
fn services() -> String {
    let mut text = String::new();
    for (vip, network) in [
        (VIP.to_owned(), "192.168.0."),
        (format!("[{VIP6}]"), "[fd00:1::"),
    ] {
        let close = if network.starts_with('[') { "]" } else { "" };
        for protocol in ["tcp", "udp"] {
            text += &format!(
                "[[service]]\naddress = \"{vip}:80\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\nhairpin = \"refuse\"\n"
            );
            for host in [2, 3] {
                text += &format!("[[service.real]]\naddress = \"{network}{host}{close}:80\"\n");
            }
        }
    }
    text
}

#[test]
fn a_client_in_the_real_servers_own_network_is_refused_at_once() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, &services());
    let discarded = || {
        daemon.json("status")["dataplane"]["discards"]["hairpin"]
            .as_u64()
            .unwrap_or(0)
    };
    for vip in [VIP, VIP6] {
        let to: SocketAddr = socket(vip, 80);
        // Real server 1 may be given real server 2, which would answer it past the balancer.
        let before = discarded();
        let neighbour = &topology.reals[0].namespace;
        let refused = neighbour
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
            .expect("enter a real server")
            .expect_err("no connection");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{vip}");
        let unreachable = neighbour
            .run(|| {
                let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let udp = UdpSocket::bind(local)?;
                udp.connect(to)?;
                udp.set_read_timeout(Some(Duration::from_secs(5)))?;
                udp.send(b"query")?;
                udp.recv(&mut [0; 16])
            })
            .expect("enter a real server")
            .expect_err("no answer");
        assert_eq!(
            unreachable.kind(),
            io::ErrorKind::ConnectionRefused,
            "{vip}"
        );
        assert_eq!(discarded() - before, 2, "{vip}");
        // Clients elsewhere are served by both.
        let url = if to.is_ipv4() {
            format!("http://{vip}/")
        } else {
            format!("http://[{vip}]/")
        };
        let mut answers = topology.curl(&url, 2);
        answers.sort();
        assert_eq!(answers, ["real1", "real2"]);
    }
}

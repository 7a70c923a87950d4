//! Routers with smaller MTUs in front of the balancer and behind it: what they report finds its way, and so does what the balancer
//! reports itself.

use std::{
    io::{self, IoSliceMut, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, CLIENT6, Topology, VIP, VIP6, socket},
};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use xtask::lab::Namespace;

/// The client behind the router before the balancer.
const FAR: [&str; 2] = ["198.51.100.10", "2001:db8:c::10"];
/// The router before the balancer, towards it.
const BEFORE: [&str; 2] = [CLIENT, CLIENT6];
/// The router before the balancer, towards the client.
const FIRST: [&str; 2] = ["198.51.100.1", "2001:db8:c::1"];
/// The router behind the balancer, towards it.
const BEHIND: [&str; 2] = ["192.168.0.2", "fd00:1::2"];
/// The real server behind that router.
const DEEP: [&str; 2] = ["10.77.0.2", "fd00:77::2"];
const VIPS: [&str; 2] = [VIP, VIP6];
/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD: usize = 50 << 20;
const UPLOAD: usize = 20 << 20;

/// ```text
///  far ── client, a router ── balancer ── real1, a router ── deep
/// ```
struct Path {
    far: Namespace,
    deep: Namespace,
    topology: Topology,
}

/// Builds the network. Each router's way to the end behind it carries packets of so many bytes.
fn path(before: u32, behind: u32) -> anyhow::Result<Path> {
    let topology = Topology::new(Arms::Two, 1);
    for label in ["far", "deep"] {
        Namespace::sweep(&format!("tests-{label}"));
    }
    let (far, deep) = (Namespace::new("tests-far")?, Namespace::new("tests-deep")?);
    let (client, real) = (&topology.client, &topology.reals[0].namespace);
    for (end, [address, address6], router, [gateway, gateway6], mtu) in [
        (&far, FAR, client, FIRST, before),
        (&deep, DEEP, real, ["10.77.0.1", "fd00:77::1"], behind),
    ] {
        end.connect("eth0", router, "end")?;
        end.plain_frames("eth0")?;
        router.plain_frames("end")?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        end.address("eth0", &format!("{address}/24"))?;
        end.address("eth0", &format!("{address6}/64"))?;
        router.address("end", &format!("{gateway}/24"))?;
        router.address("end", &format!("{gateway6}/64"))?;
        end.gateway(gateway)?;
        end.ip(&format!("-6 route add default via {gateway6}"))?;
        router.ip(&format!("route add {address}/32 dev end mtu lock {mtu}"))?;
        router.ip(&format!(
            "-6 route add {address6}/128 dev end mtu lock {mtu}"
        ))?;
    }
    let balancer = &topology.balancer;
    for (network, gateway) in [
        ("198.51.100.0/24", BEFORE[0]),
        ("2001:db8:c::/64", BEFORE[1]),
        ("10.77.0.0/24", BEHIND[0]),
        ("fd00:77::/64", BEHIND[1]),
    ] {
        balancer.ip(&format!("route add {network} via {gateway}"))?;
    }
    Ok(Path {
        far,
        deep,
        topology,
    })
}

/// An address as it stands in front of a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// Has the VIPs' port `port` served by the real server at [`DEEP`], and by nobody else.
fn serve(daemon: &Daemon, protocol: &str, port: u16) {
    for (vip, real) in VIPS.iter().zip(DEEP) {
        let (vip, real) = (bracketed(vip), bracketed(real));
        daemon.ctl(&format!("add-service {protocol}/{vip}:{port}"));
        daemon.ctl(&format!(
            "add-real {real}:{port} --service {protocol}/{vip}:{port}"
        ));
    }
}

/// A server that gives [`DOWNLOAD`] bytes to whoever sends a `d`, and counts what others send until they end, for them.
fn start_server(host: &Namespace, address: &str) {
    let listener = host
        .run(|| TcpListener::bind(socket(address, 80)))
        .expect("enter the real server")
        .expect("listen");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(connection) = connection else { return };
            // Whoever asks sees what is missing.
            let _ = answer(connection);
        }
    });
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut kind = [0];
    connection.read_exact(&mut kind)?;
    if kind == *b"d" {
        return connection.write_all(&vec![7; DOWNLOAD]);
    }
    let mut received = Vec::new();
    connection.read_to_end(&mut received)?;
    connection.write_all(&received.len().to_be_bytes())
}

fn connect(path: &Path, vip: &str) -> TcpStream {
    let connected = path
        .far
        .run(|| TcpStream::connect_timeout(&socket(vip, 80), LIMIT));
    let connection = connected.expect("enter the client").expect("connect");
    connection.set_read_timeout(Some(LIMIT)).expect("a limit");
    connection.set_write_timeout(Some(LIMIT)).expect("a limit");
    connection
}

/// Bytes that a client gets.
fn download(path: &Path, vip: &str) -> usize {
    let mut connection = connect(path, vip);
    connection.write_all(b"d").expect("ask");
    let mut received = Vec::new();
    connection.read_to_end(&mut received).expect("a download");
    received.len()
}

/// Bytes that the server has got, as it says.
fn upload(path: &Path, vip: &str) -> usize {
    let mut connection = connect(path, vip);
    connection.write_all(b"u").expect("begin");
    connection.write_all(&vec![7; UPLOAD]).expect("an upload");
    connection.shutdown(Shutdown::Write).expect("end");
    let mut count = [0; 8];
    connection.read_exact(&mut count).expect("an answer");
    usize::from_be_bytes(count)
}

/// What a host knows of the MTU of its way to an address.
fn known_mtu(host: &Namespace, to: &str) -> String {
    let route = host.output("ip", &["route", "get", to]).expect("a route");
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu");
    words.next().unwrap_or("none").to_owned()
}

#[test]
fn downloads_and_uploads_get_through_smaller_mtus_on_either_side() {
    if privileged::skipped() {
        return;
    }
    let path = path(1300, 1290).expect("the network");
    let daemon = Daemon::start(&path.topology, "");
    serve(&daemon, "tcp", 80);
    for (family, vip) in VIPS.iter().enumerate() {
        start_server(&path.deep, DEEP[family]);
        assert_eq!(download(&path, vip), DOWNLOAD, "{vip}");
        // The real server was told of the router before the balancer, and the client of the one behind it.
        assert_eq!(known_mtu(&path.deep, FAR[family]), "1300");
        assert_eq!(upload(&path, vip), UPLOAD, "{vip}");
        assert_eq!(known_mtu(&path.far, vip), "1290");
    }
    let discards = daemon.json("status")["dataplane"]["discards"].clone();
    assert_eq!(discards["too-big"], 0, "{discards:#}");
    assert_eq!(discards["unanswered"], 0, "{discards:#}");
}

#[test]
fn the_balancer_reports_the_mtu_of_its_own_ways() {
    if privileged::skipped() {
        return;
    }
    let path = path(1500, 1500).expect("the network");
    let balancer = &path.topology.balancer;
    // The second is smaller: each end states in its SYN what it knows already.
    for (network, gateway, mtu) in [
        ("198.51.100.0/24", BEFORE[0], 1320),
        ("2001:db8:c::/64", BEFORE[1], 1320),
        ("10.77.0.0/24", BEHIND[0], 1310),
        ("fd00:77::/64", BEHIND[1], 1310),
    ] {
        let route = format!("route replace {network} via {gateway} mtu lock {mtu}");
        balancer.ip(&route).expect("a route");
    }
    let daemon = Daemon::start(&path.topology, "");
    serve(&daemon, "tcp", 80);
    for (family, vip) in VIPS.iter().enumerate() {
        start_server(&path.deep, DEEP[family]);
        assert_eq!(download(&path, vip), DOWNLOAD, "{vip}");
        assert_eq!(known_mtu(&path.deep, FAR[family]), "1320");
        assert_eq!(upload(&path, vip), UPLOAD, "{vip}");
        assert_eq!(known_mtu(&path.far, vip), "1310");
    }
    let discards = daemon.json("status")["dataplane"]["discards"].clone();
    assert!(discards["too-big"].as_u64() > Some(0), "{discards:#}");
}

/// Who reports what about a datagram that the client sends to a VIP with so many hops: address, type and code.
fn reporter(path: &Path, vip: &str, hops: u8) -> Option<(IpAddr, u8, u8)> {
    let to = socket(vip, 53);
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let bound = path.far.run(|| UdpSocket::bind(SocketAddr::new(any, 0)));
    let sender = bound.expect("enter the client").expect("bind");
    if to.is_ipv4() {
        setsockopt(&sender, sockopt::Ipv4RecvErr, &true).expect("errors");
        setsockopt(&sender, sockopt::Ipv4Ttl, &hops.into()).expect("hops");
    } else {
        setsockopt(&sender, sockopt::Ipv6RecvErr, &true).expect("errors");
        setsockopt(&sender, sockopt::Ipv6Ttl, &hops.into()).expect("hops");
    }
    sender.send_to(b"where", to).expect("send");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let (mut data, flags) = ([0; 512], MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT);
        let mut parts = [IoSliceMut::new(&mut data)];
        let received =
            recvmsg::<SockaddrStorage>(sender.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let Ok(message) = received else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        for message in message.cmsgs().expect("whole control messages") {
            match message {
                ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                    let from = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
                    return Some((from.into(), error.ee_type, error.ee_code));
                }
                ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                    let from = Ipv6Addr::from(from.sin6_addr.s6_addr);
                    return Some((from.into(), error.ee_type, error.ee_code));
                }
                _ => {}
            }
        }
    }
    None
}

#[test]
fn a_traceroute_to_a_vip_shows_the_balancer_once() {
    if privileged::skipped() {
        return;
    }
    let path = path(1500, 1500).expect("the network");
    let daemon = Daemon::start(&path.topology, "");
    serve(&daemon, "udp", 53);
    let exceeded = [(11, 0), (3, 0)];
    let unreachable = [(3, 3), (1, 4)];
    for (family, vip) in VIPS.iter().enumerate() {
        let hops = [FIRST[family], vip, BEHIND[family]];
        let (kind, code) = exceeded[family];
        for (hop, number) in hops.iter().zip(1..) {
            let from: IpAddr = hop.parse().expect("an address");
            assert_eq!(reporter(&path, vip, number), Some((from, kind, code)));
        }
        // Nobody listens at the real server: it says so, as the service.
        let (kind, code) = unreachable[family];
        let from = vip.parse().expect("an address");
        assert_eq!(reporter(&path, vip, 4), Some((from, kind, code)));
    }
}

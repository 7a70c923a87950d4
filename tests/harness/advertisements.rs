//! Who advertised what, and when, as the switch saw it.

use std::{
    collections::HashMap,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use balancer_ctl::vrrp::packet::{Advertisement, Endpoints, PROTOCOL};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use xtask::lab::Namespace;

/// An advertisement that a node sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it arrived at the switch.
    pub at: SystemTime,
    /// The node's place among the nodes.
    pub node: usize,
    /// Its source address.
    pub source: IpAddr,
    /// Multicast group or peer.
    pub destination: IpAddr,
    /// What it says.
    pub said: Advertisement,
}

/// Listens at the switch's ports. Dropped, it ends.
pub struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Listens at these ports of the switch: the index of each, and the node behind it.
    ///
    /// # Panics
    /// The kernel refused.
    #[must_use]
    pub fn start(switch: &Namespace, ports: HashMap<u32, usize>) -> Self {
        let socket = switch.run(open).expect("enter the switch");
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (all, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let found = receive(&socket, &ports);
                lock(&all).extend(found);
            }
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// What was sent from this moment on, in the order in which it was sent.
    #[must_use]
    pub fn since(&self, from: SystemTime) -> Vec<Seen> {
        let all = lock(&self.seen);
        let mut later: Vec<_> = all.iter().filter(|one| one.at >= from).cloned().collect();
        later.sort_by_key(|one| one.at);
        later
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The longest time for which the same two nodes said that they are Active for one virtual router, each within an interval of
/// the other. Of three nodes that follow one another each two are looked at alone.
#[must_use]
pub fn contest(seen: &[Seen]) -> Duration {
    let active: Vec<_> = seen.iter().filter(|one| one.said.priority > 0).collect();
    let mut sides: Vec<_> = active.iter().map(|one| (router(one), one.node)).collect();
    sides.sort_unstable();
    sides.dedup();
    let mut longest = Duration::ZERO;
    for (number, one) in sides.iter().enumerate() {
        for other in sides
            .iter()
            .skip(number + 1)
            .filter(|other| other.0 == one.0)
        {
            let of_both = |seen: &&&Seen| [*one, *other].contains(&(router(seen), seen.node));
            let of_both: Vec<_> = active.iter().filter(of_both).copied().collect();
            longest = longest.max(contest_of_two(&of_both));
        }
    }
    longest
}

/// [`contest`] of the advertisements of two nodes for one virtual router.
fn contest_of_two(active: &[&Seen]) -> Duration {
    let is_contested = |one: &&&Seen| {
        let interval = one.said.interval.duration();
        active
            .iter()
            .any(|other| other.node != one.node && distance(other, one) < interval)
    };
    let mut contested = active.iter().filter(is_contested);
    let Some(mut first) = contested.next() else {
        return Duration::ZERO;
    };
    let mut last = first;
    let mut longest = Duration::ZERO;
    for one in contested {
        if distance(last, one) > 2 * one.said.interval.duration() {
            first = one;
        }
        last = one;
        longest = longest.max(distance(first, last));
    }
    longest
}

/// What a virtual router is known by on a link: its id, and whether it is of IPv6.
fn router(seen: &Seen) -> (u8, bool) {
    (seen.said.router_id, seen.source.is_ipv6())
}

fn distance(one: &Seen, other: &Seen) -> Duration {
    let (earlier, later) = (one.at.min(other.at), one.at.max(other.at));
    later.duration_since(earlier).unwrap_or_default()
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> Socket {
    // At the ports themselves: what a bridge takes from them only a socket of all protocols sees.
    let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("a packet socket");
    socket
        .attach_filter(&advertisements_only())
        .expect("a filter");
    let timeout = Some(Duration::from_millis(50));
    socket.set_read_timeout(timeout).expect("a timeout");
    setsockopt(&socket, ReceiveTimestampns, &true).expect("timestamps");
    socket
}

/// Passes IP packets of VRRP's protocol in Ethernet frames.
fn advertisements_only() -> [SockFilter; 9] {
    let load =
        |size: u32, at| SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, at);
    let jump = |value: u32, equal, other| {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        SockFilter::new(code, equal, other, value)
    };
    let result = |length| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, length);
    [
        load(libc::BPF_H, 12),
        jump(libc::ETH_P_IP as u32, 0, 2),
        load(libc::BPF_B, 23),
        jump(PROTOCOL.into(), 3, 4),
        jump(libc::ETH_P_IPV6 as u32, 0, 3),
        load(libc::BPF_B, 20),
        jump(PROTOCOL.into(), 0, 1),
        result(u32::MAX),
        result(0),
    ]
}

/// The next advertisement that a node sent; `None` if there is none for some time, or it is another packet.
fn receive(socket: &Socket, ports: &HashMap<u32, usize>) -> Option<Seen> {
    let mut frame = [0; 2048];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let (length, from, at) = {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::empty();
        let received =
            recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
        let at = received.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(SystemTime::UNIX_EPOCH + at.into()),
            _ => None,
        })?;
        (received.bytes, received.address?, at)
    };
    // What leaves by a port has come in by another.
    let is_outgoing = from.pkttype() == libc::PACKET_OUTGOING;
    let node = *ports
        .get(&u32::try_from(from.ifindex()).ok()?)
        .filter(|_| !is_outgoing)?;
    let (endpoints, hop_limit, message) = parse(frame.get(14..length)?)?;
    let said = Advertisement::decode(message, endpoints, hop_limit).ok()?;
    Some(Seen {
        at,
        node,
        source: endpoints.source,
        destination: endpoints.destination,
        said,
    })
}

/// Endpoints, hop limit and content of an IP packet without options.
fn parse(packet: &[u8]) -> Option<(Endpoints, u8, &[u8])> {
    let (source, destination, hop_limit, content) = match packet.first()? >> 4 {
        4 => {
            let length = u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?);
            let header: &[u8; 20] = packet.first_chunk()?;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            let content = packet.get(20..usize::from(length))?;
            (address(12)?, address(16)?, header[8], content)
        }
        6 => {
            let length = u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?);
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            let content = packet.get(40..40 + usize::from(length))?;
            (address(8)?, address(24)?, *packet.get(7)?, content)
        }
        _ => return None,
    };
    let endpoints = Endpoints {
        source,
        destination,
    };
    Some((endpoints, hop_limit, content))
}

#[cfg(test)]
mod tests {
    use balancer_ctl::vrrp::packet::Interval;

    use super::*;

    /// An advertisement of a node after so many milliseconds, at an interval of 100 ms.
    fn seen(after: u64, node: usize, priority: u8) -> Seen {
        let source: IpAddr = "203.0.113.21".parse().expect("an address");
        Seen {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(after),
            node,
            source,
            destination: source,
            said: Advertisement {
                router_id: 51,
                priority,
                interval: Interval::from_centiseconds(10).expect("an interval"),
                addresses: vec![source],
            },
        }
    }

    #[test]
    fn a_contest_is_measured_and_a_handover_is_none() {
        let handover = [
            seen(0, 0, 200),
            seen(100, 0, 200),
            seen(150, 0, 0),
            seen(210, 1, 100),
            seen(310, 1, 100),
        ];
        assert_eq!(contest(&handover), Duration::ZERO);
        let preempted = [seen(0, 0, 100), seen(60, 1, 200), seen(160, 1, 200)];
        assert_eq!(contest(&preempted), Duration::from_millis(60));
        let both: Vec<_> = (0..10)
            .map(|number| seen(number * 50, number as usize % 2, 100))
            .collect();
        assert_eq!(contest(&both), Duration::from_millis(450));
    }

    #[test]
    fn nodes_that_follow_one_another_are_not_one_contest() {
        // As three nodes that start at once: each is preempted by the next.
        let preempted = [
            seen(0, 1, 100),
            seen(75, 2, 150),
            seen(175, 2, 150),
            seen(199, 0, 200),
            seen(299, 0, 200),
        ];
        assert_eq!(contest(&preempted), Duration::from_millis(75));
    }
}

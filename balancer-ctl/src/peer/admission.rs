//! Which connections may shake hands at the same time. Pure.
//!
//! Whoever connects has not shown the key yet, so a newcomer is never turned away for those who say nothing: it takes the place of the
//! oldest. Each source has few places. The addresses of known nodes have places of their own, each as many as a source: a stranger in
//! the same network of IPv6 takes none of them.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr},
};

/// Handshakes of strangers at the same time, of all sources together.
pub const MAX_HANDSHAKES: usize = 64;
/// Handshakes of one source at the same time.
pub const MAX_PER_SOURCE: usize = 8;

/// Identifies a handshake.
pub type HandshakeId = u64;

/// The handshakes that go on at present, oldest first.
#[derive(Debug, Default)]
pub struct Admission {
    running: VecDeque<Handshake>,
    next: HandshakeId,
}

#[derive(Debug)]
struct Handshake {
    id: HandshakeId,
    source: Source,
}

/// Who counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The address of a known node.
    Node(IpAddr),
    /// A stranger's address of IPv4, or network of 64 bits of IPv6.
    Stranger(IpAddr),
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The new handshake.
    pub id: HandshakeId,
    /// The handshake that has to end for it.
    pub evicted: Option<HandshakeId>,
}

impl Admission {
    /// Admits a connection from this address; `is_known` = it is a known node's.
    pub fn admit(&mut self, address: IpAddr, is_known: bool) -> Admitted {
        let source = if is_known {
            Source::Node(address.to_canonical())
        } else {
            Source::Stranger(network_of(address))
        };
        let is_of_source = |other: &Handshake| other.source == source;
        let is_stranger = |other: &Handshake| matches!(other.source, Source::Stranger(_));
        let count = |is_it: &dyn Fn(&Handshake) -> bool| {
            self.running.iter().filter(|other| is_it(other)).count()
        };
        let evicted = if count(&is_of_source) >= MAX_PER_SOURCE {
            self.running.iter().position(is_of_source)
        } else if !is_known && count(&is_stranger) >= MAX_HANDSHAKES {
            self.running.iter().position(is_stranger)
        } else {
            None
        };
        let evicted = evicted.and_then(|place| self.running.remove(place));
        let id = self.next;
        self.next += 1;
        self.running.push_back(Handshake { id, source });
        Admitted {
            id,
            evicted: evicted.map(|handshake| handshake.id),
        }
    }

    /// Takes note that a handshake is over.
    pub fn ended(&mut self, id: HandshakeId) {
        self.running.retain(|handshake| handshake.id != id);
    }
}

/// An address of IPv4, or the network of 64 bits of one of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_eight_places_and_its_oldest_goes_first() {
        let mut admission = Admission::default();
        let mut admit = |source: &str| admission.admit(address(source), false).evicted;
        for _ in 0..8 {
            assert_eq!(admit("192.0.2.1"), None);
        }
        assert_eq!(admit("192.0.2.2"), None);
        assert_eq!(admit("192.0.2.1"), Some(0));
        assert_eq!(admit("::ffff:192.0.2.1"), Some(1));
        admission.ended(3);
        assert_eq!(admission.admit(address("192.0.2.1"), false).evicted, None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let mut admission = Admission::default();
        for host in 0..100_u128 {
            let source = IpAddr::V6((0x2001_0db8_u128 << 96 | host).into());
            let evicted = admission.admit(source, false).evicted;
            assert_eq!(evicted.is_some(), host >= 8);
        }
        assert_eq!(admission.running.len(), MAX_PER_SOURCE);
    }

    #[test]
    fn strangers_of_many_sources_leave_known_nodes_their_places() {
        let mut admission = Admission::default();
        let node = admission.admit(address("198.51.100.1"), true);
        for source in 0..1000_u32 {
            let evicted = admission.admit(IpAddr::V4(source.into()), false).evicted;
            assert_ne!(evicted, Some(node.id));
            assert_eq!(evicted.is_some(), source >= 64);
        }
        assert_eq!(admission.running.len(), MAX_HANDSHAKES + 1);
        assert_eq!(admission.admit(address("198.51.100.2"), true).evicted, None);
        assert_eq!(admission.running.len(), MAX_HANDSHAKES + 2);
    }

    #[test]
    fn strangers_in_a_node_s_own_network_leave_it_its_places() {
        let mut admission = Admission::default();
        let of_network = |host: u128| IpAddr::V6((0x2001_0db8_u128 << 96 | host).into());
        let nodes = [1, 2].map(|host| admission.admit(of_network(host), true));
        assert!(nodes.iter().all(|node| node.evicted.is_none()));
        for host in 3..100 {
            let evicted = admission.admit(of_network(host), false).evicted;
            assert!(nodes.iter().all(|node| evicted != Some(node.id)), "{host}");
        }
        // Nor do they keep it from another, and each node displaces only itself.
        for _ in 0..7 {
            assert_eq!(admission.admit(of_network(1), true).evicted, None);
        }
        let evicted = admission.admit(of_network(1), true).evicted;
        assert_eq!(evicted, Some(nodes[0].id));
    }
}

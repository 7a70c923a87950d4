//! Announcements and probes between two hosts on one link, and who is heard claiming an address.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use balancer_ctl::{
    netlink::{Netlink, neighbour},
    vrrp::{
        announce::{Announcer, ClaimWatch, Heard},
        announcement::{Claim, Mac, gratuitous_arp},
        packet::Family,
    },
};
use balancer_tests::{privileged, raw::RawSocket};
use xtask::lab::{Namespace, wait_until};

use super::scene;

/// A VIP of each family, and an address of the neighbour.
const FAMILIES: [(Family, &str, &str); 2] = [
    (Family::Ipv4, "10.9.0.100", "10.9.0.2"),
    (Family::Ipv6, "fd00:9::100", "fd00:9::2"),
];

/// What is on the link of an interface of a namespace.
struct Station {
    announcer: Announcer,
    watches: [ClaimWatch; 2],
    mac: Mac,
}

impl Station {
    fn new(namespace: &Namespace, interface: &str) -> Self {
        let index = namespace.index(interface).unwrap();
        namespace
            .run(|| Self {
                announcer: Announcer::open(index).unwrap(),
                watches: [Family::Ipv4, Family::Ipv6]
                    .map(|family| ClaimWatch::open(index, family).unwrap()),
                mac: namespace.mac(interface).unwrap(),
            })
            .unwrap()
    }

    fn watch(&self, family: Family) -> &ClaimWatch {
        &self.watches[usize::from(family == Family::Ipv6)]
    }

    /// Who claims an address within this time.
    fn heard_within(&self, address: IpAddr, limit: Duration) -> Option<Mac> {
        let start = Instant::now();
        while start.elapsed() < limit {
            match self.watch(Family::of(address)).read().unwrap() {
                Heard::Claim(claim) if claim.address == address => return Some(claim.mac),
                Heard::Nothing => std::thread::sleep(Duration::from_millis(5)),
                Heard::Claim(_) | Heard::NoClaim => {}
            }
        }
        None
    }

    fn heard(&self, address: IpAddr) -> Option<Mac> {
        self.heard_within(address, Duration::from_secs(2))
    }

    fn has_heard_nothing(&self, address: IpAddr) -> bool {
        self.heard_within(address, Duration::from_millis(200))
            .is_none()
    }
}

/// The MAC address that a namespace's kernel has for an address.
fn known_mac(namespace: &Namespace, address: IpAddr) -> Option<Vec<u8>> {
    let entries = namespace.run(|| neighbour::list(&mut Netlink::open().unwrap()).unwrap());
    let entries = entries.unwrap().into_iter();
    let mut found = entries.filter(|((_, of), _)| *of == address);
    found.next().and_then(|(_, entry)| entry.mac)
}

#[test]
fn an_announcement_moves_the_neighbours_entry_and_is_a_claim_for_others_only() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    other.address("eth0", "10.9.0.2/24").unwrap();
    other.address("eth0", "fd00:9::2/64").unwrap();
    let ours = Station::new(&host, "outside");
    let theirs = Station::new(&other, "eth0");
    for (_, vip, _) in FAMILIES {
        let former = "lladdr 02:00:00:00:00:99 dev eth0 nud stale";
        other.ip(&format!("neigh add {vip} {former}")).unwrap();
        let vip: IpAddr = vip.parse().unwrap();
        assert_eq!(known_mac(&other, vip), Some(vec![2, 0, 0, 0, 0, 0x99]));
        ours.announcer.announce(vip, ours.mac, true).unwrap();
        wait_until("the entry to move", Duration::from_secs(2), || {
            Ok(known_mac(&other, vip).as_deref() == Some(&ours.mac))
        })
        .unwrap();
        assert_eq!(theirs.heard(vip), Some(ours.mac));
        assert!(ours.has_heard_nothing(vip), "{vip}");
        // Another host takes it.
        theirs.announcer.announce(vip, theirs.mac, false).unwrap();
        assert_eq!(ours.heard(vip), Some(theirs.mac));
    }
}

#[test]
fn who_has_an_address_answers_a_probe_and_learns_nothing_by_it() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    other.address("eth0", "10.9.0.2/24").unwrap();
    other.address("eth0", "fd00:9::2/64").unwrap();
    let ours = Station::new(&host, "outside");
    let theirs = Station::new(&other, "eth0");
    for (_, vip, present) in FAMILIES {
        let [vip, present]: [IpAddr; 2] = [vip, present].map(|text| text.parse().unwrap());
        ours.announcer.probe(present, ours.mac).unwrap();
        assert_eq!(ours.heard(present), Some(theirs.mac));
        ours.announcer.probe(vip, ours.mac).unwrap();
        assert!(ours.has_heard_nothing(vip), "{vip}");
        // A probe is no claim.
        assert!(theirs.has_heard_nothing(vip), "{vip}");
        assert_eq!(known_mac(&other, vip), None);
    }
}

#[test]
fn a_frame_of_another_vlan_claims_nothing_here() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    let ours = Station::new(&host, "outside");
    let raw = RawSocket::open(&other, "eth0");
    let vip = "10.9.0.100".parse().unwrap();
    let frame = gratuitous_arp(vip, [2, 0, 0, 0, 0, 0x99]);
    let tagged = [&frame[..12], &[0x81, 0x00, 0, 7], &frame[12..]].concat();
    raw.send(&tagged);
    assert!(ours.has_heard_nothing(vip.into()));
    raw.send(&frame);
    assert_eq!(ours.heard(vip.into()), Some([2, 0, 0, 0, 0, 0x99]));
}

#[test]
fn an_interface_that_was_down_is_used_again_with_the_same_sockets() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    let ours = Station::new(&host, "outside");
    let theirs = Station::new(&other, "eth0");
    host.ip("link set dev outside down").unwrap();
    for (family, vip, _) in FAMILIES {
        let vip = vip.parse().unwrap();
        let down = ours.watch(family).read().unwrap_err();
        assert_eq!(down.raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(ours.watch(family).read().unwrap(), Heard::Nothing);
        let refused = ours.announcer.announce(vip, ours.mac, false).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENETDOWN));
    }
    host.ip("link set dev outside up").unwrap();
    for (family, vip, _) in FAMILIES {
        let vip: IpAddr = vip.parse().unwrap();
        let claim = Claim {
            address: vip,
            mac: theirs.mac,
        };
        wait_until("both to hear each other", Duration::from_secs(5), || {
            // The announcer's socket still has the error of the time when the interface was down.
            let _ = ours.announcer.announce(vip, ours.mac, false);
            theirs.announcer.announce(vip, theirs.mac, false)?;
            let heard = theirs.heard_within(vip, Duration::from_millis(100));
            Ok(heard == Some(ours.mac) && ours.watch(family).read()? == Heard::Claim(claim))
        })
        .unwrap();
    }
    let gone = host.run(|| Announcer::open(77).unwrap_err()).unwrap();
    assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
}

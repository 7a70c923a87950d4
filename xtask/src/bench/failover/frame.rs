//! What the frames on the switch say: advertisements, announcements of the VIP, and its answers to the probe.

use std::net::Ipv4Addr;

use super::record::What;

/// EtherTypes and protocols, as they are on the wire.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const ICMP: u8 = 1;
const VRRP: u8 = 112;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Where an ARP packet for IPv4 has the sender's and the target's IPv4 address.
const SENDER: usize = 14;
const TARGET: usize = 24;

/// Reads an Ethernet frame that a node sent; `None` = it is of no interest.
pub fn read(frame: &[u8], vip: Ipv4Addr) -> Option<What> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    match [*header.get(12)?, *header.get(13)?] {
        ARP => {
            let address = |at: usize| packet.get(at..at + 4);
            let is_announcement =
                address(SENDER)? == vip.octets() && address(TARGET)? == vip.octets();
            is_announcement.then_some(What::Announcement)
        }
        IPV4 => {
            let length = usize::from(packet.first()? & 0x0f) * 4;
            let payload = packet.get(length..)?;
            let source = packet.get(12..16)?;
            match (*packet.get(9)?, *payload.first()?) {
                // Type 0 is an echo reply.
                (ICMP, 0) if source == vip.octets() => Some(What::Answer),
                // The priority is in the third byte, behind version and type, and the router id.
                (VRRP, _) => Some(What::Advertisement {
                    priority: *payload.get(2)?,
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 75, 0, 100);

    fn frame(ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[0xff; 12][..], &ether_type, packet].concat()
    }

    fn ipv4(protocol: u8, source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source.octets());
        frame(IPV4, &[&header[..], payload].concat())
    }

    fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut packet = [0; 28];
        packet[SENDER..SENDER + 4].copy_from_slice(&sender.octets());
        packet[TARGET..TARGET + 4].copy_from_slice(&target.octets());
        frame(ARP, &packet)
    }

    #[test]
    fn only_what_concerns_the_vip_is_read() {
        let own = Ipv4Addr::new(10, 75, 0, 1);
        let advertisement = What::Advertisement { priority: 200 };
        for (frame, expected) in [
            (ipv4(VRRP, own, &[0x31, 51, 200, 1]), Some(advertisement)),
            (ipv4(ICMP, VIP, &[0, 0, 0, 0]), Some(What::Answer)),
            (ipv4(ICMP, VIP, &[8, 0, 0, 0]), None),
            (ipv4(ICMP, own, &[0, 0, 0, 0]), None),
            (ipv4(17, VIP, &[0, 0, 0, 0]), None),
            (arp(VIP, VIP), Some(What::Announcement)),
            // An ordinary answer for the VIP, and a probe whether somebody has it.
            (arp(VIP, own), None),
            (arp(Ipv4Addr::UNSPECIFIED, VIP), None),
            (frame([0x86, 0xdd], &[0x60; 40]), None),
        ] {
            assert_eq!(read(&frame, VIP), expected, "{frame:?}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_is_nothing() {
        let whole = ipv4(VRRP, VIP, &[0x31, 51, 200]);
        assert!(read(&whole, VIP).is_some());
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length], VIP), None, "{length}");
        }
    }
}

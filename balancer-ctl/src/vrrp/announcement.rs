//! Frames that say to the link, or ask it, who has an address: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC
//! 4861, RFC 4862). Pure.
//!
//! All fields are in network byte order.
//!
//! ```text
//!  ARP, behind the Ethernet header
//!  0       2       4   5   6       8               14              18              24             28
//!  ┌───────┬───────┬───┬───┬───────┬───────────────┬───────────────┬───────────────┬──────────────┐
//!  │ 1     │0x0800 │ 6 │ 4 │opcode │ sender's MAC  │ sender's IPv4 │ target's MAC  │ target's IPv4│
//!  └───────┴───────┴───┴───┴───────┴───────────────┴───────────────┴───────────────┴──────────────┘
//!
//!  A neighbour advertisement or solicitation, behind the IPv6 header
//!  0    1    2          4          8                       24   25   26                 32
//!  ┌────┬────┬──────────┬──────────┬───────────────────────┬────┬────┬──────────────────┐
//!  │type│ 0  │ checksum │ flags    │ target                │ 2  │ 1  │ target's MAC     │
//!  └────┴────┴──────────┴──────────┴───────────────────────┴────┴────┴──────────────────┘
//!                                                           an option, of 8 bytes
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{PseudoHeader, checksum};

/// A MAC address.
pub type Mac = [u8; 6];

/// That a host says it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The MAC address that it says the address is at.
    pub mac: Mac,
}

/// The length of an ARP frame in bytes.
pub const ARP_FRAME: usize = ETHERNET + ARP;
/// The length of a frame with a neighbour advertisement and its option in bytes.
pub const ADVERTISEMENT_FRAME: usize = ETHERNET + IPV6 + 32;
/// The length of a frame with a neighbour solicitation without options in bytes.
pub const SOLICITATION_FRAME: usize = ETHERNET + IPV6 + 24;

/// Lengths of headers, and of an ARP packet, in bytes.
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ARP: usize = 28;

/// EtherTypes.
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// The beginning of an ARP packet: Ethernet and IPv4.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const BROADCAST: Mac = [0xff; 6];

/// The IP protocol ICMPv6.
pub(super) const ICMPV6: u8 = 58;
/// The hop limit of neighbour discovery: a packet that arrives with it is from this link.
pub(super) const HOP_LIMIT: u8 = 255;
/// Types of ICMPv6 messages.
const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement: that its sender forwards packets; that it replaces what is known.
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
/// The type of the option with the target's MAC address, and its length in units of 8 bytes.
const TARGET_MAC: [u8; 2] = [2, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A gratuitous ARP request: `vip` is at `mac` from now on.
#[must_use]
pub fn gratuitous_arp(vip: Ipv4Addr, mac: Mac) -> [u8; ARP_FRAME] {
    arp_request(mac, vip, BROADCAST, vip)
}

/// An ARP probe: has another host `vip`? It changes nobody's table.
#[must_use]
pub fn arp_probe(vip: Ipv4Addr, mac: Mac) -> [u8; ARP_FRAME] {
    arp_request(mac, Ipv4Addr::UNSPECIFIED, [0; 6], vip)
}

fn arp_request(
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
) -> [u8; ARP_FRAME] {
    joined([
        &BROADCAST,
        &sender_mac,
        &TYPE_ARP,
        &ARP_KIND,
        &ARP_REQUEST,
        &sender_mac,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ])
}

/// An unsolicited neighbour advertisement to all hosts: `vip` is at `mac` from now on. `is_router` says whether this
/// host forwards IPv6: hosts drop a router that says it is none from their default routers.
#[must_use]
pub fn unsolicited_advertisement(
    vip: Ipv6Addr,
    mac: Mac,
    is_router: bool,
) -> [u8; ADVERTISEMENT_FRAME] {
    let flags = OVERRIDE | if is_router { ROUTER } else { 0 };
    let message: [u8; 32] = joined([
        &[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0],
        &vip.octets(),
        &TARGET_MAC,
        &mac,
    ]);
    icmpv6(mac, vip, ALL_NODES, message)
}

/// A neighbour solicitation as duplicate address detection sends it: has another host `vip`? It changes nobody's
/// table.
#[must_use]
pub fn duplicate_solicitation(vip: Ipv6Addr, mac: Mac) -> [u8; SOLICITATION_FRAME] {
    let message: [u8; 24] = joined([&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &vip.octets()]);
    icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(vip), message)
}

/// The group that every host with this address has joined: `ff02::1:ff` and the last three bytes.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits();
    Ipv6Addr::from_bits(group | address.to_bits() & 0x00ff_ffff)
}

/// A frame with an ICMPv6 message to a group; the message has no checksum yet.
fn icmpv6<const MESSAGE: usize, const FRAME: usize>(
    mac: Mac,
    source: Ipv6Addr,
    group: Ipv6Addr,
    mut message: [u8; MESSAGE],
) -> [u8; FRAME] {
    let pseudo_header = PseudoHeader {
        source: source.into(),
        destination: group.into(),
        protocol: ICMPV6,
    };
    let sum = checksum(&message, Some(pseudo_header));
    message[2..4].copy_from_slice(&sum);
    let [.., a, b, c, d] = group.octets();
    let length = u16::try_from(MESSAGE).unwrap_or(u16::MAX).to_be_bytes();
    joined([
        &[0x33, 0x33, a, b, c, d],
        &mac,
        &TYPE_IPV6,
        &[0x60, 0, 0, 0],
        &length,
        &[ICMPV6, HOP_LIMIT],
        &source.octets(),
        &group.octets(),
        &message,
    ])
}

/// These parts one after the other, which are as long as the whole.
fn joined<const PARTS: usize, const LENGTH: usize>(parts: [&[u8]; PARTS]) -> [u8; LENGTH] {
    let mut whole = [0; LENGTH];
    for (to, from) in whole.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    whole
}

/// What an ARP packet, without its Ethernet header, claims: that its sender has its address. A probe claims nothing.
#[must_use]
pub fn arp_claim(packet: &[u8]) -> Option<Claim> {
    let rest = packet.first_chunk::<ARP>()?.strip_prefix(&ARP_KIND)?;
    // Behind the opcode: requests and replies alike tell who has what.
    let mac: Mac = *rest.get(2..)?.first_chunk()?;
    let address = Ipv4Addr::from(*rest.get(8..)?.first_chunk::<4>()?);
    (!address.is_unspecified()).then_some(Claim {
        address: address.into(),
        mac,
    })
}

/// What a neighbour advertisement claims: that its target is at the MAC address in its option, or if there is none at
/// the frame's source, `from`. `packet` begins with the IPv6 header.
#[must_use]
pub fn advertisement_claim(packet: &[u8], from: Mac) -> Option<Claim> {
    let (header, rest) = packet.split_first_chunk::<IPV6>()?;
    let message = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let (target, options) = message.get(8..)?.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<16>()?));
    let pseudo_header = PseudoHeader {
        source: address(8)?,
        destination: address(24)?,
        protocol: ICMPV6,
    };
    let is_advertisement = header[0] >> 4 == 6
        && header[6..8] == [ICMPV6, HOP_LIMIT]
        && message[..2] == [ADVERTISEMENT, 0]
        // All options are of whole units of 8 bytes.
        && options.len().is_multiple_of(8)
        && !target.is_multicast()
        && checksum(message, Some(pseudo_header)) == [0, 0];
    is_advertisement.then(|| Claim {
        address: target.into(),
        mac: target_mac(options).unwrap_or(from),
    })
}

/// The MAC address in the option that has it.
fn target_mac(mut options: &[u8]) -> Option<Mac> {
    while let [kind, units, ..] = *options {
        if [kind, units] == TARGET_MAC {
            return options.get(2..)?.first_chunk().copied();
        }
        // An option without a length would be the last.
        let length = usize::from(units) * 8;
        options = options.get(length..).filter(|_| length > 0)?;
    }
    None
}

#[cfg(test)]
mod tests;

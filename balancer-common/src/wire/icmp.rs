//! ICMP errors of both families (RFC 792, RFC 4443): their header, and what translating the quoted packet does to their checksum.

use super::{IpHeader, Ipv4, Ipv6};
use crate::checksum::{Delta, DeltaSum};

/// What the two families' ICMP differ in.
pub trait Icmp: IpHeader {
    /// IP protocol number.
    const PROTOCOL: u8;
    /// Whether the checksum covers the pseudo header (RFC 4443 section 2.3).
    const COVERS_ADDRESSES: bool;
    /// Type and code of "port unreachable" (RFC 792, RFC 4443 section 3.1).
    const PORT_UNREACHABLE: [u8; 2];
    /// Type and code of "time to live exceeded in transit" (RFC 792, RFC 4443 section 3.3).
    const TIME_EXCEEDED: [u8; 2];
    /// Type and code of "fragmentation needed and DF set" (RFC 1191 section 4), of "packet too big" (RFC 4443 section 3.2).
    const TOO_BIG: [u8; 2];

    /// Whether a message of this type reports an error and quotes a packet: destination unreachable, time exceeded, parameter problem
    /// (RFC 792); in IPv6 packet too big as well (RFC 4443 section 2.1). A redirect does not.
    fn is_error(kind: u8) -> bool;
    /// The rest of the header of [`Self::TOO_BIG`], which names the way's MTU in bytes.
    fn mtu_field(mtu: u32) -> [u8; 4];
}

impl Icmp for Ipv4 {
    const PROTOCOL: u8 = 1;
    const COVERS_ADDRESSES: bool = false;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const TIME_EXCEEDED: [u8; 2] = [11, 0];
    const TOO_BIG: [u8; 2] = [3, 4];

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn mtu_field(mtu: u32) -> [u8; 4] {
        let [.., high, low] = mtu.to_be_bytes();
        [0, 0, high, low]
    }
}

impl Icmp for Ipv6 {
    const PROTOCOL: u8 = 58;
    const COVERS_ADDRESSES: bool = true;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const TIME_EXCEEDED: [u8; 2] = [3, 0];
    const TOO_BIG: [u8; 2] = [2, 0];

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn mtu_field(mtu: u32) -> [u8; 4] {
        mtu.to_be_bytes()
    }
}

/// The header of an ICMP error of either family (RFC 792, RFC 4443 section 3.1).
///
/// ```text
///   type 8 | code 8 | checksum 16
///   rest of the header 32: the MTU of "too big", else unused
///   the packet that the error is about: the quoted packet
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IcmpError {
    pub(super) kind: [u8; 2],
    pub(super) checksum: [u8; 2],
    pub(super) rest: [u8; 4],
}

impl IcmpError {
    /// Length in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// The type.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind[0]
    }

    /// Brings the checksum along.
    #[inline(always)]
    pub const fn sum_up(&mut self, delta: Delta) {
        self.checksum = delta.apply(u16::from_ne_bytes(self.checksum)).to_ne_bytes();
    }
}

/// What translating a quoted packet makes of the checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuoteDeltas {
    /// Of the quoted transport checksum, where it is quoted and not an IPv4 UDP datagram's zero.
    pub transport: Delta,
    /// Of the ICMP error's own.
    pub error: Delta,
}

impl QuoteDeltas {
    /// Where a quoted packet's address changes by `address` and its port by `port`, and the outer header's address by `outer`.
    /// `is_summed`: the quoted transport checksum is brought along.
    #[inline(always)]
    #[must_use]
    pub const fn new<H: Icmp>(address: Delta, port: Delta, outer: Delta, is_summed: bool) -> Self {
        let transport = DeltaSum::from(address).plus(port).fold();
        let mut error = DeltaSum::from(port);
        if H::COVERS_ADDRESSES {
            error = error.plus(outer).plus(address);
        }
        // A quoted IPv4 header sums up to the same as before: its own checksum makes up for the address.
        if is_summed {
            error = error.plus(transport.inverse());
        }
        Self {
            transport,
            error: error.fold(),
        }
    }
}

const _: () = assert!(align_of::<IcmpError>() == 1 && IcmpError::LENGTH == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;

    /// An ICMP error's checksum over these halves, in memory order.
    fn sum(halves: &[u16]) -> u16 {
        let sum = halves
            .iter()
            .fold(Sum::new(), |sum, half| sum.add(u64::from(*half)));
        sum.checksum()
    }

    /// A quoted packet in halves: an address, in IPv4 the header's checksum, a port, a transport checksum.
    struct Quoted {
        address: u16,
        header: u16,
        port: u16,
        transport: u16,
    }

    fn check<H: Icmp>(quoted: &Quoted, address: u16, port: u16, is_summed: bool, rest: u16) {
        let delta = DeltaSum::new().half(quoted.address, address).fold();
        let port_delta = DeltaSum::new().half(quoted.port, port).fold();
        // The outer address changes as the quoted one does.
        let deltas = QuoteDeltas::new::<H>(delta, port_delta, delta, is_summed);
        let halves = |address, header, port, transport| {
            if H::COVERS_ADDRESSES {
                // The pseudo header's address beside the quoted one.
                vec![rest, address, address, port, transport]
            } else {
                vec![rest, address, header, port, transport]
            }
        };
        let before = sum(&halves(
            quoted.address,
            quoted.header,
            quoted.port,
            quoted.transport,
        ));
        let transport = if is_summed {
            deltas.transport.apply(quoted.transport)
        } else {
            quoted.transport
        };
        let after = sum(&halves(
            address,
            delta.apply(quoted.header),
            port,
            transport,
        ));
        assert_eq!(deltas.error.apply(before), after);
    }

    #[test]
    fn the_checksum_of_an_error_follows_its_quoted_packet() {
        const VALUES: [u16; 5] = [1, 0x1234, 0x8000, 0xfffe, 0xffff];
        for number in 0..VALUES.len().pow(6) {
            let value = |place| VALUES[number / VALUES.len().pow(place) % VALUES.len()];
            let quoted = Quoted {
                address: value(0),
                header: value(1),
                port: value(2),
                transport: value(3),
            };
            for is_summed in [false, true] {
                for rest in VALUES {
                    check::<Ipv4>(&quoted, value(4), value(5), is_summed, rest);
                    check::<Ipv6>(&quoted, value(4), value(5), is_summed, rest);
                }
            }
        }
    }
}

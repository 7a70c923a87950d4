//! Addresses, ports and protocols as they stand in packets and map keys: network byte order, whole words.

/// An address of either family in network byte order. IPv4 is kept v4-mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Addr(pub [u32; 4]);

crate::plain_data!(Addr);

/// The third word of a v4-mapped address, in network byte order.
pub const MAPPED_WORD: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// Maps an IPv4 address (network byte order) into the shared form.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(address: u32) -> Self {
        Self([0, 0, MAPPED_WORD, address])
    }

    /// Tells whether this is a v4-mapped address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED_WORD
    }
}

/// An address as a packet header and a connection key of one family hold it, in network byte order.
pub trait Address: Copy + PartialEq + 'static {
    /// 0 of IPv4, 1 of IPv6: the family's place where both have one.
    const FAMILY: usize;
    /// What fills a connection's entry of this family up to a power of two.
    type Spare: Copy + core::fmt::Debug + Default + Eq + 'static;

    /// Zero where both addresses are the same: a comparison without branches, which the verifier would follow one by one.
    fn difference(self, other: Self) -> u32;

    /// The part of a flow's hash that its two addresses make, with eight words of the seed: see [`crate::flow_hash`].
    fn hash_pair(source: Self, destination: Self, seed: &[u32; 8]) -> u64;
    /// Widens to the shared 16-byte form.
    fn widen(self) -> Addr;
    /// Takes the family's part out of the shared form.
    fn narrow(address: Addr) -> Self;
    /// Whether the shared form is this address.
    fn is(self, address: &Addr) -> bool;
    /// The address as 32-bit words added up, for a checksum: each word's two halves count alike.
    fn word_sum(self) -> u64;
    /// Whether no packet from afar can have this source: unspecified, loopback, multicast, broadcast or reserved.
    fn is_martian(self) -> bool;
    /// Whether both addresses have the same bits where `mask` has ones; with a mask of zeroes they never count as such.
    fn shares(self, other: Self, mask: &Addr) -> bool;
}

impl Address for u32 {
    const FAMILY: usize = 0;
    type Spare = [u32; 0];

    #[inline(always)]
    fn difference(self, other: Self) -> u32 {
        self ^ other
    }

    #[inline(always)]
    fn hash_pair(source: Self, destination: Self, seed: &[u32; 8]) -> u64 {
        product(source, seed[0], destination, seed[1])
    }

    #[inline(always)]
    fn widen(self) -> Addr {
        Addr::from_v4(self)
    }

    #[inline(always)]
    fn narrow(address: Addr) -> Self {
        address.0[3]
    }

    #[inline(always)]
    fn is(self, address: &Addr) -> bool {
        address.0[3] == self && address.is_v4()
    }

    #[inline(always)]
    fn word_sum(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        // 0/8, 127/8, 224/4 (class D) and 240/4 (class E, with the broadcast address).
        let first = self.to_ne_bytes()[0];
        first == 0 || first == 127 || first >= 224
    }

    #[inline(always)]
    fn shares(self, other: Self, mask: &Addr) -> bool {
        mask.0[3] != 0 && (self ^ other) & mask.0[3] == 0
    }
}

impl Address for [u32; 4] {
    const FAMILY: usize = 1;
    type Spare = [u32; 2];

    #[inline(always)]
    fn difference(self, other: Self) -> u32 {
        (self[0] ^ other[0]) | (self[1] ^ other[1]) | (self[2] ^ other[2]) | (self[3] ^ other[3])
    }

    #[inline(always)]
    fn hash_pair(source: Self, destination: Self, seed: &[u32; 8]) -> u64 {
        product(source[0], seed[0], source[1], seed[1])
            .wrapping_add(product(source[2], seed[2], source[3], seed[3]))
            .wrapping_add(product(destination[0], seed[4], destination[1], seed[5]))
            .wrapping_add(product(destination[2], seed[6], destination[3], seed[7]))
    }

    #[inline(always)]
    fn widen(self) -> Addr {
        Addr(self)
    }

    #[inline(always)]
    fn narrow(address: Addr) -> Self {
        address.0
    }

    #[inline(always)]
    fn is(self, address: &Addr) -> bool {
        // From the end: hosts of one network differ there.
        address.0[3] == self[3]
            && address.0[2] == self[2]
            && address.0[1] == self[1]
            && address.0[0] == self[0]
    }

    #[inline(always)]
    fn word_sum(self) -> u64 {
        self[0] as u64 + self[1] as u64 + self[2] as u64 + self[3] as u64
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        // ff00::/8; :: and ::1. Mapped IPv4 addresses never come so far.
        self[0].to_ne_bytes()[0] == 0xff
            || (self[0] | self[1] | self[2]) == 0 && u32::from_be(self[3]) <= 1
    }

    #[inline(always)]
    fn shares(self, other: Self, mask: &Addr) -> bool {
        // Without branches, which the verifier would follow one by one.
        let difference = (self[0] ^ other[0]) & mask.0[0]
            | (self[1] ^ other[1]) & mask.0[1]
            | (self[2] ^ other[2]) & mask.0[2]
            | (self[3] ^ other[3]) & mask.0[3];
        mask.0[0] != 0 && difference == 0
    }
}

/// One product of the hash NH: two words, each with a secret added.
#[inline(always)]
pub(crate) const fn product(a: u32, secret_a: u32, b: u32, secret_b: u32) -> u64 {
    a.wrapping_add(secret_a) as u64 * b.wrapping_add(secret_b) as u64
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Addr;

    impl From<IpAddr> for Addr {
        fn from(address: IpAddr) -> Self {
            match address {
                IpAddr::V4(v4) => Self::from_v4(u32::from_ne_bytes(v4.octets())),
                IpAddr::V6(v6) => {
                    let bytes = v6.octets();
                    let word = |i: usize| {
                        u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]])
                    };
                    Self([word(0), word(4), word(8), word(12)])
                }
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(address: Addr) -> Self {
            if address.is_v4() {
                return Self::V4(Ipv4Addr::from(address.0[3].to_ne_bytes()));
            }
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip(address.0) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            Self::V6(Ipv6Addr::from(bytes))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn addresses_of_both_families_survive_the_round_trip() {
            for text in ["192.0.2.80", "2001:db8:80::80", "0.0.0.0", "::1"] {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(IpAddr::from(Addr::from(address)), address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_share_what_the_mask_covers() {
        let v4 = |address: [u8; 4]| u32::from_ne_bytes(address);
        let mask = |words: [u32; 4]| Addr(words.map(u32::to_be));
        let (a, b) = (v4([192, 168, 0, 2]), v4([192, 168, 0, 130]));
        for (bits, shared) in [(0xffff_ff00, true), (0xffff_ff80, false), (0, false)] {
            assert_eq!(a.shares(b, &mask([0, 0, 0, bits])), shared, "{bits:x}");
        }
        assert!(a.shares(a, &mask([0, 0, 0, u32::MAX])));
        let v6 = |words: [u32; 4]| words.map(u32::to_be);
        let a = v6([0xfd00_0001, 0, 0, 2]);
        let ones = u32::MAX;
        for (b, words, shared) in [
            (v6([0xfd00_0001, 0, 0, 3]), [ones, ones, 0, 0], true),
            (v6([0xfd00_0001, 0, 0, 3]), [ones; 4], false),
            (v6([0xfd00_0001, 1, 0, 2]), [ones, ones, 0, 0], false),
            (v6([0xfd00_0001, 1, 0, 2]), [ones, 0, 0, 0], true),
            (v6([0xfd00_0002, 0, 0, 2]), [ones, 0, 0, 0], false),
            (a, [0; 4], false),
            (a, [ones; 4], true),
        ] {
            assert_eq!(a.shares(b, &mask(words)), shared, "{b:x?} {words:x?}");
        }
    }

    #[test]
    fn martians_are_told_from_clients() {
        let v4 = |address: [u8; 4]| u32::from_ne_bytes(address).is_martian();
        for address in [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [127, 255, 255, 255],
            [224, 0, 0, 1],
            [239, 255, 255, 250],
            [240, 0, 0, 1],
            [255, 255, 255, 255],
        ] {
            assert!(v4(address), "{address:?}");
        }
        for address in [
            [1, 0, 0, 0],
            [10, 0, 0, 1],
            [126, 1, 1, 1],
            [128, 0, 0, 1],
            [223, 255, 255, 254],
        ] {
            assert!(!v4(address), "{address:?}");
        }
        let v6 = |words: [u32; 4]| words.map(u32::to_be).is_martian();
        for words in [
            [0, 0, 0, 0],
            [0, 0, 0, 1],
            [0xff02_0000, 0, 0, 1],
            [0xffff_ffff; 4],
        ] {
            assert!(v6(words), "{words:x?}");
        }
        for words in [
            [0, 0, 0, 2],
            [0x2001_0db8, 0, 0, 1],
            [0xfe80_0000, 0, 0, 1],
            [0, 0, 1, 1],
        ] {
            assert!(!v6(words), "{words:x?}");
        }
    }
}

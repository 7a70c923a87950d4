//! A quick answer to "can this packet be ours?": one bit per hashed address, set for every VIP and every real server.
//!
//! A packet without a row whose source and destination both have no bit is for no service, and costs no further
//! look-up. A bit may be set for strangers too; a clear one is certain.

use crate::addr::Address;

/// Number of 64-bit words: 65,536 bits, 8 KiB.
pub const WORDS: u32 = 1024;

/// Where an address's bit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// Index of the word.
    pub word: u32,
    /// The bit in it.
    pub mask: u64,
}

/// The bit of an address. Multiplicative hashing of its words' sum: enough for addresses that an operator chose.
#[inline(always)]
#[must_use]
pub fn bit<A: Address>(address: A) -> Bit {
    let hash = address.word_sum().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    Bit {
        word: (hash >> 6) as u32,
        mask: 1 << (hash & 63),
    }
}

/// The bit of an address of either family.
#[cfg(feature = "user")]
#[must_use]
pub fn bit_of(address: std::net::IpAddr) -> Bit {
    let crate::addr::Addr(words) = address.into();
    if address.is_ipv4() {
        bit(words[3])
    } else {
        bit(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_addresses_have_bits_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for host in 0..1000_u32 {
            let bit = bit((0xc0a8_0000 | host).to_be());
            assert!(bit.word < WORDS);
            seen.insert((bit.word, bit.mask));
        }
        assert!(seen.len() > 980, "{}", seen.len());
    }
}

//! Translations: what a connection's packets get in place of their addresses and ports.

use crate::{
    addr::Address,
    checksum::{Delta, DeltaSum},
    conntrack::FlowKey,
};

/// The resolved rewrite of one direction of a connection. Addresses and ports in network byte order.
///
/// The checksum differences are stored so that a packet costs one addition per checksum: they depend
/// only on the key and the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Translation<A> {
    /// New source address.
    pub source: A,
    /// New destination address.
    pub destination: A,
    /// New source port.
    pub source_port: u16,
    /// New destination port.
    pub destination_port: u16,
    /// Difference for the IPv4 header checksum (IPv6 has none: unused there).
    pub ip_delta: Delta,
    /// Difference for the TCP or UDP checksum, whose pseudo header holds the addresses.
    pub l4_delta: Delta,
}

impl<A: Address> Translation<A> {
    /// Destination NAT: `key`'s packets go to `address`:`port`, their source stays.
    #[inline(always)]
    pub fn dnat(key: &FlowKey<A>, address: A, port: u16) -> Self {
        Self::between(key, key.source, key.source_port, address, port)
    }

    /// Translates packets of `key` to the given tuple.
    #[inline(always)]
    pub fn between(
        key: &FlowKey<A>,
        source: A,
        source_port: u16,
        destination: A,
        destination_port: u16,
    ) -> Self {
        let addresses = DeltaSum::new()
            .words(key.source.word_sum(), source.word_sum())
            .words(key.destination.word_sum(), destination.word_sum());
        let all = addresses
            .half(key.source_port, source_port)
            .half(key.destination_port, destination_port);
        Self {
            source,
            destination,
            source_port,
            destination_port,
            ip_delta: addresses.fold(),
            l4_delta: all.fold(),
        }
    }

    /// The translation of the other direction, whose packets arrive under [`Self::reply_key`].
    #[inline(always)]
    pub fn reply(&self, key: &FlowKey<A>) -> Self {
        Self::between(
            &self.reply_key(key.protocol),
            key.destination,
            key.destination_port,
            key.source,
            key.source_port,
        )
    }

    /// The key under which answers to translated packets arrive.
    #[inline(always)]
    pub fn reply_key(&self, protocol: u8) -> FlowKey<A> {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol,
            zero: [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> FlowKey<u32> {
        FlowKey {
            source: u32::from_ne_bytes([198, 51, 100, 10]),
            destination: u32::from_ne_bytes([192, 0, 2, 80]),
            source_port: 40000_u16.to_be(),
            destination_port: 80_u16.to_be(),
            protocol: 6,
            zero: [0; 3],
        }
    }

    #[test]
    fn the_reply_translation_undoes_the_original_one() {
        let key = key();
        let there = Translation::dnat(&key, u32::from_ne_bytes([192, 168, 0, 2]), 8080_u16.to_be());
        let reply_key = there.reply_key(6);
        let back = there.reply(&key);
        assert_eq!(back.reply_key(6), key);
        assert_eq!(back.reply(&reply_key).reply_key(6), reply_key);
        assert_eq!(back.source, key.destination);
        assert_eq!(back.source_port, key.destination_port);
    }

    #[test]
    fn checksums_of_the_first_packet_case_come_out() {
        // Case 1 of the conformance list: 4e41 -> 50e7 includes TTL 64 -> 63, a difference of +0100.
        let there = Translation::dnat(&key(), u32::from_ne_bytes([192, 168, 0, 2]), 8080_u16.to_be());
        assert_eq!(there.ip_delta.apply(0x4e41_u16.to_be()), 0x4fe7_u16.to_be());
        assert_eq!(there.l4_delta.apply(0x27eb_u16.to_be()), 0x0a51_u16.to_be());
    }
}

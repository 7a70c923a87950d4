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
    pub fn dnat(&mut self, key: &FlowKey<A>, address: A, port: u16) {
        self.between(key, key.source, key.source_port, address, port);
    }

    /// Translates packets of `key` to the given tuple. Writes in place: a copy of an IPv6 translation is a tenth of
    /// a BPF stack.
    #[inline(always)]
    pub fn between(
        &mut self,
        key: &FlowKey<A>,
        source: A,
        source_port: u16,
        destination: A,
        destination_port: u16,
    ) {
        let addresses = DeltaSum::new()
            .words(key.source.word_sum(), source.word_sum())
            .words(key.destination.word_sum(), destination.word_sum());
        let all = addresses
            .half(key.source_port, source_port)
            .half(key.destination_port, destination_port);
        self.source = source;
        self.destination = destination;
        self.source_port = source_port;
        self.destination_port = destination_port;
        self.ip_delta = addresses.fold();
        self.l4_delta = all.fold();
    }

    /// Becomes the translation of the other direction of `original`, which translates `key`: what was new
    /// is old now, so the differences change their sign.
    #[inline(always)]
    pub fn reply(&mut self, original: &Self, key: &FlowKey<A>) {
        self.source = key.destination;
        self.destination = key.source;
        self.source_port = key.destination_port;
        self.destination_port = key.source_port;
        self.ip_delta = original.ip_delta.inverse();
        self.l4_delta = original.l4_delta.inverse();
    }

    /// Writes the key under which answers to translated packets arrive.
    #[inline(always)]
    pub fn reply_key(&self, protocol: u32, key: &mut FlowKey<A>) {
        key.source = self.destination;
        key.destination = self.source;
        key.source_port = self.destination_port;
        key.destination_port = self.source_port;
        key.protocol = protocol;
    }

    /// Whether this reply translation leads back to the client and service of `key`.
    #[inline(always)]
    pub fn answers(&self, key: &FlowKey<A>) -> bool {
        self.source_port == key.destination_port
            && self.destination_port == key.source_port
            && self.source == key.destination
            && self.destination == key.source
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
        }
    }

    fn dnat() -> Translation<u32> {
        let mut there = Translation::default();
        there.dnat(
            &key(),
            u32::from_ne_bytes([192, 168, 0, 2]),
            8080_u16.to_be(),
        );
        there
    }

    #[test]
    fn the_reply_translation_undoes_the_original_one() {
        let (key, there) = (key(), dnat());
        let (mut back, mut reply_key, mut again) = (
            Translation::default(),
            FlowKey::default(),
            FlowKey::default(),
        );
        there.reply_key(6, &mut reply_key);
        back.reply(&there, &key);
        back.reply_key(6, &mut again);
        assert_eq!(again, key);
        assert!(back.answers(&key));
        for checksum in [0x0001_u16, 0x27eb, 0xfffe] {
            assert_eq!(
                back.l4_delta.apply(there.l4_delta.apply(checksum)),
                checksum
            );
            assert_eq!(
                back.ip_delta.apply(there.ip_delta.apply(checksum)),
                checksum
            );
        }
        let mut computed = Translation::default();
        computed.between(
            &reply_key,
            back.source,
            back.source_port,
            back.destination,
            back.destination_port,
        );
        assert_eq!(computed, back);
    }

    #[test]
    fn checksums_of_the_first_packet_case_come_out() {
        // Case 1 of the conformance list: 4e41 -> 50e7 includes TTL 64 -> 63, a difference of +0100.
        let there = dnat();
        assert_eq!(there.ip_delta.apply(0x4e41_u16.to_be()), 0x4fe7_u16.to_be());
        assert_eq!(there.l4_delta.apply(0x27eb_u16.to_be()), 0x0a51_u16.to_be());
    }
}

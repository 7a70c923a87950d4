//! Bytes for tests of what reads others' bytes: any, and such as are nearly right.

use proptest::prelude::*;

use super::printable::is_printable;

/// A change of a byte string: at a place, a byte is overwritten, put in, or so many are taken out.
#[derive(Clone, Copy, Debug)]
enum Mutation {
    Overwrite(u8),
    Insert(u8),
    Remove(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        any::<u8>().prop_map(Mutation::Overwrite),
        any::<u8>().prop_map(Mutation::Insert),
        (1..20_usize).prop_map(Mutation::Remove),
    ]
}

/// Any bytes, or one of `seeds`, which are good, with a few mutations.
pub fn bytes(seeds: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let seed = prop::sample::select(seeds);
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), mutation()), 0..6);
    let mutated = (seed, mutations).prop_map(|(seed, mutations)| {
        let mut bytes = seed.to_vec();
        for (place, mutation) in mutations {
            let at = place.index(bytes.len() + 1);
            match mutation {
                Mutation::Insert(byte) => bytes.insert(at, byte),
                Mutation::Overwrite(byte) => {
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
                Mutation::Remove(count) => {
                    let end = bytes.len().min(at + count);
                    bytes.drain(at..end);
                }
            }
        }
        bytes
    });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        4 => mutated,
    ]
}

/// The same as text; what is no UTF-8 in them is replaced.
pub fn text(seeds: &'static [&'static [u8]]) -> impl Strategy<Value = String> {
    bytes(seeds).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a sentence fits on a line and cannot steer a terminal.
pub fn is_printable_line(sentence: &str) -> bool {
    !sentence.is_empty() && sentence.chars().all(is_printable)
}

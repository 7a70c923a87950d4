//! Incremental Internet checksums (RFC 1624): what changes in a header becomes one 16-bit difference.
//!
//! All words are taken as they lie in memory; the one's-complement sum does not depend on byte order
//! (RFC 1071 section 2 B), so nothing is swapped.

/// The one's-complement difference between old and new words of a header: `sum(~old) + sum(new)`, folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Delta(pub u16);

/// Collects changed words; wide enough that no carry is lost before [`DeltaSum::fold`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DeltaSum(u64);

impl DeltaSum {
    /// Starts with no difference.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Starts with a difference that is known.
    #[inline(always)]
    #[must_use]
    pub const fn from(delta: Delta) -> Self {
        Self(delta.0 as u64)
    }

    /// Adds a difference that is known.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, delta: Delta) -> Self {
        Self(self.0 + delta.0 as u64)
    }

    /// Replaces a 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Replaces a sum of 32-bit words that holds at most four of them (an address).
    ///
    /// `~word` is `0xffff_ffff - word`, and a multiple of `0xffff` more or less is no difference in
    /// one's complement, so four times `0xffff_ffff` stands for the complement of up to four words.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, old: u64, new: u64) -> Self {
        Self(self.0 + (4 * 0xffff_ffff_u64 - old) + new)
    }

    /// Folds the sum into 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn fold(self) -> Delta {
        Delta(fold(self.0))
    }
}

impl Delta {
    /// The difference that undoes this one.
    #[inline(always)]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// Applies the difference to a checksum field: `~(~checksum + delta)`, RFC 1624 equation 3.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = (!checksum) as u32 + self.0 as u32;
        !((sum + (sum >> 16)) as u16)
    }
}

/// A full checksum over few words (RFC 1071), for headers that are written from nothing. Words in memory order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Starts at zero.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds a 16-bit word, or a sum of words of 16 or 32 bits.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, words: u64) -> Self {
        Self(self.0 + words)
    }

    /// Adds a number in host byte order that the header holds in 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn number(self, number: u16) -> Self {
        self.add(number.to_be() as u64)
    }

    /// The checksum of all that was added.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// Folds a sum of 16-bit or 32-bit words into 16 bits with end-around carry.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The full sum of RFC 1071 over memory-order words, the reference for every incremental update.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// A small linear generator: the tests need many headers, not randomness.
    fn headers() -> impl Iterator<Item = [u16; 10]> {
        let mut state = 0x1234_5678_9abc_def0_u64;
        core::iter::repeat_with(move || {
            core::array::from_fn(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 48) as u16
            })
        })
    }

    #[test]
    fn an_incremental_update_equals_the_full_sum() {
        for (mut header, change) in headers().zip(headers()).take(10_000) {
            let before = full(&header);
            let word =
                |h: &[u16; 10], i: usize| u64::from(u32::from(h[i]) << 16 | u32::from(h[i + 1]));
            let delta = DeltaSum::new()
                .half(header[2], change[2])
                .words(
                    word(&header, 4) + word(&header, 6),
                    word(&change, 4) + word(&change, 6),
                )
                .fold();
            header[2] = change[2];
            header[4..8].copy_from_slice(&change[4..8]);
            assert_eq!(delta.apply(before), full(&header));
        }
    }

    #[test]
    fn a_result_of_zero_is_sent_as_zero_not_as_all_ones() {
        // ~HC + delta == 0xffff: equation 2 of RFC 1141 would give 0xffff here.
        assert_eq!(DeltaSum::new().half(0x1111, 0x2222).fold().apply(0x1111), 0);
    }

    #[test]
    fn no_change_is_no_difference() {
        for checksum in [0_u16, 1, 0x7fff, 0xfffe] {
            let delta = DeltaSum::new().half(7, 7).words(9, 9).fold();
            assert_eq!(delta.apply(checksum), checksum);
        }
    }
}

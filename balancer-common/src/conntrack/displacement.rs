//! Who gives way to a newcomer.

use super::{FREE, TAKEN, WAYS, Word};
use crate::tcp::State;

/// Who may have a connection's places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Over, or idle for longer than its timeout: any newcomer.
    Spent,
    /// A handshake, a UDP client that nobody has confirmed, a connection that its client has reset or that was picked up and that
    /// no real server has confirmed: a newcomer that finds no spent one, the oldest first.
    Opening,
    /// UDP that its client has confirmed: a newcomer that finds no opening one. Who sends twice in another's name
    /// confirms blindly, so that such clients must not refuse others their place.
    Confirmed,
    /// Nobody while it lives.
    Assured,
}

/// The class of a connection in `state`, which is not idle for too long.
#[inline(always)]
#[must_use]
pub const fn class(state: u8) -> Class {
    const ASSURED: u64 = 1 << State::Established as u64
        | 1 << State::FinOriginal as u64
        | 1 << State::FinReply as u64
        | 1 << State::Closing as u64;
    if state == State::Udp as u8 {
        return Class::Confirmed;
    }
    let state = 1 << (state & 0xf) as u64;
    if SPENT & state != 0 {
        Class::Spent
    } else if ASSURED & state != 0 {
        Class::Assured
    } else {
        Class::Opening
    }
}

/// Whether a newcomer goes to its first bucket, given the free places of its two: as long as half of the first is free,
/// so that most packets look at one bucket only, and else where more is free.
#[inline(always)]
#[must_use]
pub const fn prefers_first(free_in_first: usize, free_in_second: usize) -> bool {
    free_in_first >= WAYS / 2 || free_in_first >= free_in_second
}

/// How gladly a newcomer takes the place of an entry with this word, silent for so many jiffies of its state's `timeout`: 0 =
/// never, then what is confirmed, what is opening, and most what is over; of one class, the longest silent. Without
/// branches: the packet program asks eight at a time.
#[inline(always)]
#[must_use]
pub const fn rank(word: Word, idle: u32, timeout: u32) -> u32 {
    const NEVER: u64 = 1 << FREE | 1 << TAKEN;
    const OPENING: u64 = states_of(Class::Opening);
    const UNASSURED: u64 = OPENING | states_of(Class::Confirmed);
    let state = word.state() as u64;
    // Bit 63 of a difference tells which number is greater.
    let is_over = ones_if(SPENT >> state | (timeout as u64).wrapping_sub(idle as u64) >> 63);
    let lives = ones_if(UNASSURED >> state) & ((idle & 0x1fff_ffff) + 1)
        | ones_if(OPENING >> state) & 1 << 30;
    let rank = is_over & (1 << 31 | idle >> 1) | !is_over & lives;
    rank & !ones_if(NEVER >> state)
}

/// A bit for each state of a class.
const fn states_of(wanted: Class) -> u64 {
    let mut states = 0;
    let mut state = 1;
    while state < TAKEN {
        if class(state) as u8 == wanted as u8 {
            states |= 1 << state;
        }
        state += 1;
    }
    states
}

/// All ones where the lowest bit is set, else zero.
#[inline(always)]
const fn ones_if(condition: u64) -> u32 {
    0_u32.wrapping_sub((condition & 1) as u32)
}

/// A bit for each state whose connections are over.
const SPENT: u64 = 1 << State::TimeWait as u64 | 1 << State::Closed as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction;

    #[test]
    fn the_longest_silent_is_displaced_first_and_the_assured_never() {
        let rank = |state: u8, idle| {
            let word = Word::new(Word(7 << 16), state, direction::ORIGINAL, false);
            rank(word, idle, 100)
        };
        let (opening, confirmed, over) = (
            State::SynSent as u8,
            State::Udp as u8,
            State::TimeWait as u8,
        );
        let order = [
            (over, 5),
            (over, 2),
            (opening, 50),
            (opening, 40),
            (opening, 0),
            (confirmed, 100),
            (confirmed, 0),
        ];
        assert!(
            order.is_sorted_by(|one, other| rank(one.0, one.1) > rank(other.0, other.1)),
            "{:?}",
            order.map(|(state, idle)| rank(state, idle))
        );
        assert!(rank(confirmed, 0) > 0);
        for state in State::ALL {
            let over = rank(state as u8, 101);
            assert!(over > rank(opening, 100), "{state:?}");
            if class(state as u8) == Class::Assured {
                assert_eq!(rank(state as u8, 100), 0, "{state:?}");
            }
        }
        for state in [FREE, TAKEN] {
            assert_eq!(rank(state, 1000), 0);
        }
    }

    #[test]
    fn a_newcomer_goes_to_its_first_bucket_while_half_of_it_is_free() {
        for (first, second, prefers) in [
            (4, 4, true),
            (2, 4, true),
            (1, 4, false),
            (1, 1, true),
            (0, 1, false),
            (0, 0, true),
        ] {
            assert_eq!(prefers_first(first, second), prefers, "{first} {second}");
        }
    }
}

//! What an entry is, in one word that changes by compare-exchange.

/// The state of an entry that nobody uses.
pub const FREE: u8 = 0;
/// The state of an entry that is being written.
pub const TAKEN: u8 = 15;

/// Forwarding methods.
pub mod forwarding {
    /// The service's address and port are replaced by the real server's, and back.
    pub const NAT: u8 = 0;
    /// The client's are replaced as well, by an address and a port of this host.
    pub const FULL_NAT: u8 = 1;
}

/// What an entry is.
///
/// ```text
///   31             16 15 13 12 11 10  9  8  7 6   5   4 3    0
///  +-----------------+-----+--+--+--+--+--+-----+---+---+------+
///  |  serial number  |snat |en|dt|cp|rh|oh| fwd |udp|rep| state|
///  +-----------------+-----+--+--+--+--+--+-----+---+---+------+
///   state   FREE, TAKEN, or a State      oh   the client was heard after a reset
///   rep     reply direction              rh   the real server was heard after a reset
///   udp     UDP, else TCP                cp   a copy in another place, which may yet be undone
///   fwd     one of `forwarding`          dt   the daemon has taken the place, to free it
///   snat    of full NAT: the place of    en   the operator has ended the connection: its client is to hear it
///           its source in `SNAT_ADDRESSES`
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Word(pub u32);

impl Word {
    const STATE: u32 = 0xf;
    const REPLY: u32 = 1 << 4;
    const UDP: u32 = 1 << 5;
    const FORWARDING_SHIFT: u32 = 6;
    const HEARD: [u32; 2] = [1 << 8, 1 << 9];
    const COPY: u32 = 1 << 10;
    const BY_DAEMON: u32 = 1 << 11;
    const ENDED: u32 = 1 << 12;
    const SNAT_SHIFT: u32 = 13;
    const SERIAL: u32 = 0xffff_0000;

    /// The word of an entry in `state` and `direction` whose place was taken with the word `taken`.
    #[inline(always)]
    #[must_use]
    pub const fn new(taken: Self, state: u8, direction: u8, is_udp: bool) -> Self {
        Self(
            taken.0 & Self::SERIAL
                | state as u32
                | (direction as u32) << 4
                | if is_udp { Self::UDP } else { 0 },
        )
    }

    /// [`FREE`], [`TAKEN`], or a [`State`](crate::tcp::State) as a number.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 & Self::STATE) as u8
    }

    /// The same entry in another state, with nobody heard.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(self, state: u8) -> Self {
        Self(self.0 & !(Self::STATE | Self::HEARD[0] | Self::HEARD[1]) | state as u32)
    }

    /// One of [`direction`](crate::direction).
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> u8 {
        (self.0 >> 4 & 1) as u8
    }

    /// Whether this is the original direction's entry.
    #[inline(always)]
    #[must_use]
    pub const fn is_original(self) -> bool {
        self.0 & Self::REPLY == 0
    }

    /// Whether packets are UDP datagrams; else TCP segments.
    #[inline(always)]
    #[must_use]
    pub const fn is_udp(self) -> bool {
        self.0 & Self::UDP != 0
    }

    /// IP protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u32 {
        if self.is_udp() {
            crate::addr::UDP as u32
        } else {
            crate::addr::TCP as u32
        }
    }

    /// The same entry of a connection with full NAT, whose source towards the real server stands at this place of `SNAT_ADDRESSES`, below
    /// [`MAX_SNAT_ADDRESSES`](crate::snat::MAX_SNAT_ADDRESSES).
    #[inline(always)]
    #[must_use]
    pub const fn with_full_nat(self, snat_address: u32) -> Self {
        Self(
            self.0
                | (forwarding::FULL_NAT as u32) << Self::FORWARDING_SHIFT
                | snat_address << Self::SNAT_SHIFT & 0xe000,
        )
    }

    /// The forwarding method: one of [`forwarding`].
    #[inline(always)]
    #[must_use]
    pub const fn forwarding(self) -> u8 {
        (self.0 >> Self::FORWARDING_SHIFT & 3) as u8
    }

    /// Whether the packets' both addresses are replaced.
    #[inline(always)]
    #[must_use]
    pub const fn is_full_nat(self) -> bool {
        self.0 >> Self::FORWARDING_SHIFT & 3 == forwarding::FULL_NAT as u32
    }

    /// Of full NAT: the place of its source towards the real server in `SNAT_ADDRESSES`.
    #[inline(always)]
    #[must_use]
    pub const fn snat_address(self) -> u32 {
        self.0 >> Self::SNAT_SHIFT & 7
    }

    /// The word with `direction` heard after a reset.
    #[inline(always)]
    #[must_use]
    pub const fn hear(self, direction: u8) -> Self {
        Self(self.0 | Self::HEARD[(direction & 1) as usize])
    }

    /// Whether both sides were heard after a reset.
    #[inline(always)]
    #[must_use]
    pub const fn is_heard(self) -> bool {
        let both = Self::HEARD[0] | Self::HEARD[1];
        self.0 & both == both
    }

    /// The word of an original entry whose connection the operator has ended: the client's next segment is answered with a reset, and
    /// only then is the entry gone. Without it that segment might open the connection again, by a hash.
    #[must_use]
    pub const fn ended(self) -> Self {
        Self(self.0 | Self::ENDED)
    }

    /// Whether the operator has ended the connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }

    /// How often the place has been taken, 16 bits that wrap.
    #[inline(always)]
    #[must_use]
    pub const fn serial(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Whether `other` is a word of the same entry, in whatever state: the place has not changed hands.
    #[inline(always)]
    #[must_use]
    pub const fn is_same_entry(self, other: Self) -> bool {
        (self.0 ^ other.0) & Self::SERIAL == 0
    }

    /// Whether an entry stands here that packets may use.
    #[inline(always)]
    #[must_use]
    pub const fn is_used(self) -> bool {
        self.state() != FREE && self.state() != TAKEN
    }

    /// The word of a copy of this entry in another place, which was taken with the word `taken`. Packets use the copy, and nobody
    /// changes it until [`Word::settled`] stands there.
    #[inline(always)]
    #[must_use]
    pub const fn copied_to(self, taken: Self) -> Self {
        Self(self.0 & !Self::SERIAL | taken.0 & Self::SERIAL | Self::COPY)
    }

    /// The word of a copy whose original place was taken: the entry itself. Of any other word, that word.
    #[inline(always)]
    #[must_use]
    pub const fn settled(self) -> Self {
        Self(self.0 & !Self::COPY)
    }

    /// The word of this place, taken by the daemon.
    #[must_use]
    pub const fn taken_by_daemon(self) -> Self {
        Self(self.taken().0 | Self::BY_DAEMON)
    }

    /// The word of this place, taken.
    #[inline(always)]
    #[must_use]
    pub const fn taken(self) -> Self {
        Self((self.0 & Self::SERIAL).wrapping_add(1 << 16) | TAKEN as u32)
    }

    /// The word of this place, free.
    #[inline(always)]
    #[must_use]
    pub const fn freed(self) -> Self {
        Self((self.0 & Self::SERIAL).wrapping_add(1 << 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{direction, tcp::State};

    #[test]
    fn a_word_keeps_what_was_put_in() {
        let place = Word(0xffff_0000);
        let taken = place.taken();
        assert_eq!((taken.state(), taken.serial()), (TAKEN, 0));
        assert!(!taken.is_used() && !taken.is_same_entry(place));
        let word = Word::new(taken, State::Established as u8, direction::REPLY, true);
        assert!(word.is_used() && word.is_udp() && !word.is_original());
        assert_eq!(word.protocol(), 17);
        assert_eq!(word.direction(), direction::REPLY);
        assert_eq!(
            (word.forwarding(), word.is_full_nat()),
            (forwarding::NAT, false)
        );
        for snat_address in 0..8 {
            let full = word.with_full_nat(snat_address);
            assert!(full.is_full_nat() && full.is_same_entry(word) && full.is_used());
            assert_eq!(full.forwarding(), forwarding::FULL_NAT);
            assert_eq!(full.snat_address(), snat_address);
            assert_eq!(full.state(), word.state());
            let after = full
                .with_state(State::Closing as u8)
                .copied_to(place)
                .settled();
            assert_eq!(
                (after.is_full_nat(), after.snat_address()),
                (true, snat_address)
            );
            assert!(!full.taken().is_full_nat() && !full.freed().is_full_nat());
        }
        assert!(word.is_same_entry(taken));
        let heard = word.hear(direction::ORIGINAL);
        assert!(!heard.is_heard() && heard.is_same_entry(word));
        assert!(heard.hear(direction::REPLY).is_heard());
        assert_eq!(
            heard.with_state(State::Closing as u8),
            word.with_state(State::Closing as u8)
        );
        let copy = word.copied_to(place);
        assert!(copy.is_used() && copy.is_same_entry(place) && copy != copy.settled());
        assert_eq!(copy.settled().0 & 0xffff, word.0 & 0xffff);
        let ended = word.ended();
        assert!(ended.is_ended() && !word.is_ended() && ended.is_same_entry(word));
        let later = ended.with_state(State::FinReply as u8);
        assert_eq!(later, word.with_state(State::FinReply as u8).ended());
        assert!(ended.copied_to(place).is_ended());
        assert!(!ended.taken().is_ended() && !ended.freed().is_ended());
        let by_daemon = word.taken_by_daemon();
        assert!(by_daemon.is_same_entry(word.taken()) && by_daemon != word.taken());
        assert_eq!(
            (by_daemon.state(), by_daemon.freed().0 & 0xffff),
            (TAKEN, 0)
        );
        let freed = word.freed();
        assert_eq!((freed.state(), freed.serial()), (FREE, 1));
        assert_eq!(freed.0 & 0xffff, 0);
    }
}

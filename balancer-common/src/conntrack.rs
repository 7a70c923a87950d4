//! The connection table: one per address family, for all of a connection's life.
//!
//! A connection is two entries, one per direction, each found by its own packets' 5-tuple. Entries lie in buckets of
//! [`WAYS`], and an entry is in one of two buckets that [`crate::flow_hash`] names. What all connections of a real
//! server share (address, VIP, checksum constants, forwarding method) stands in its
//! [`RealServer`](crate::real_server::RealServer), what all packets to a next hop share in its
//! [`NextHop`](crate::next_hop::NextHop).
//!
//! # Rules
//! - One word of each entry ([`Word`]) says what the entry is. It changes by compare-exchange only, so that each
//!   change has one winner. The original entry's word is the connection's: who ends a connection or brings it to another
//!   state changes that one first, and then the reply entry's after it.
//! - Whoever wants a place takes a free one, else a spent connection's, else that of the oldest opening one
//!   ([`Class`]); an assured connection is never displaced. Who takes one entry of a connection takes the other as well.
//! - An entry is written while its word says [`TAKEN`], the word last, the reply's before the original's; each taking counts the
//!   word's serial number on. Who has read an entry's fields reads the word again before it uses them.
//! - Where all eight places are assured, an entry moves to its other bucket if that has room: a copy is made before the old
//!   place is given to the newcomer, so whoever finds nothing looks again before it takes an entry for gone.
//! - The daemon frees entries by the same compare-exchange, and holds no lock: it may be killed at any instruction. A reply
//!   entry that it leaves behind without its original serves its real server's packets until it is idle, or somebody wants
//!   the place or the key.
//!
//! # Room for what is next
//! - Full NAT: the original entry's `port` is the source port that was reserved for it, and the real server's port is
//!   what its row says (or the packet's own). The reply entry is found by the balancer's address and that port; the real
//!   server's address, which its id implies, gives its place in `source` to the client's address, and `port` is the client's.
//! - SYN cookies: `extra` of the reply entry, which is free, is the shift of the sequence numbers.
//! - Direct routing and tunnels: the two bits of [`Word::method`].
//! - Persistence: a real server's row names its service, hence its group; an entry needs nothing more.
//! - Replication: an entry without node-local numbers is its key, its state and the real server's address and VIP; real id,
//!   next hop and serial are each node's own. The daemon inserts as it frees, by compare-exchange.
//! - Exact counts of active connections: each transition of the original entry's word has one winner, which counts it.

use crate::{addr::Address, next_hop::NextHopRef, plain_data, tcp::State};

/// Entries per bucket.
pub const WAYS: usize = 4;

/// Ports as they lie in a transport header: source, then destination, each in network byte order; read as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Ports(pub u32);

impl Ports {
    /// Joins two ports, both in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: u16, destination: u16) -> Self {
        if cfg!(target_endian = "little") {
            Self(source as u32 | (destination as u32) << 16)
        } else {
            Self((source as u32) << 16 | destination as u32)
        }
    }

    /// The source port, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u16 {
        if cfg!(target_endian = "little") {
            self.0 as u16
        } else {
            (self.0 >> 16) as u16
        }
    }

    /// The destination port, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u16 {
        if cfg!(target_endian = "little") {
            (self.0 >> 16) as u16
        } else {
            self.0 as u16
        }
    }
}

/// One direction's 5-tuple, in network byte order: what an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Both ports.
    pub ports: Ports,
    /// IP protocol number, 6 or 17, in host byte order.
    pub protocol: u32,
}

/// Key of an IPv4 flow, 16 bytes.
pub type FlowKeyV4 = FlowKey<u32>;
/// Key of an IPv6 flow, 40 bytes.
pub type FlowKeyV6 = FlowKey<[u32; 4]>;

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
plain_data!(FlowKeyV4, FlowKeyV6);

/// Which way a flow's packets travel.
pub mod direction {
    /// From the client to the real server.
    pub const ORIGINAL: u8 = 0;
    /// From the real server to the client.
    pub const REPLY: u8 = 1;
}

/// The state of an entry that nobody uses.
pub const FREE: u8 = 0;
/// The state of an entry that is being written.
pub const TAKEN: u8 = 15;

/// What an entry is.
///
/// ```text
///   31             16 15      10  9  8  7 6   5   4 3    0
///  +-----------------+----------+--+--+-----+---+---+------+
///  |  serial number  |   zero   |rh|oh| fwd |udp|rep| state|
///  +-----------------+----------+--+--+-----+---+---+------+
///   state   FREE, TAKEN, or a State      fwd  forwarding method; 0 = NAT
///   rep     reply direction              oh   the client was heard after a reset
///   udp     UDP, else TCP                rh   the real server was heard after a reset
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Word(pub u32);

impl Word {
    const STATE: u32 = 0xf;
    const REPLY: u32 = 1 << 4;
    const UDP: u32 = 1 << 5;
    const METHOD_SHIFT: u32 = 6;
    const HEARD: [u32; 2] = [1 << 8, 1 << 9];
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

    /// [`FREE`], [`TAKEN`], or a [`State`] as a number.
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

    /// One of [`direction`].
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

    /// The forwarding method; 0 = NAT.
    #[inline(always)]
    #[must_use]
    pub const fn method(self) -> u8 {
        (self.0 >> Self::METHOD_SHIFT & 3) as u8
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

    /// The word of this entry in another place, which was taken with the word `taken`.
    #[inline(always)]
    #[must_use]
    pub const fn moved_to(self, taken: Self) -> Self {
        Self(self.0 & !Self::SERIAL | taken.0 & Self::SERIAL)
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

/// An entry: one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct ConntrackEntry<A: Address> {
    /// Source address of the packets as they come in, network byte order.
    pub source: A,
    /// Destination address of the packets as they come in, network byte order.
    pub destination: A,
    /// Both ports of the packets as they come in, network byte order.
    pub ports: Ports,
    /// A [`Word`].
    pub word: Word,
    /// Low 32 bits of the kernel's jiffies at the last packet of this direction, refreshed at most every
    /// [`REFRESH_JIFFIES`].
    pub last_seen: u32,
    /// Index of the real server in `REALS`.
    pub real: u16,
    /// What replaces the service's port (original) or the real server's (reply), network byte order.
    pub port: u16,
    /// Its next hop; zero = it was not looked up.
    pub next_hop: NextHopRef,
    /// Of an original entry: the sequence number of the SYN|ACK, host byte order. It tells one that is sent again from one
    /// that begins a new connection.
    pub extra: u32,
    /// Always zero.
    pub spare: A::Spare,
}

/// [`WAYS`] entries. IPv4: one pair of cache lines, since the map begins at a page. No greater alignment is stated, for which LLVM
/// (22) has no copies on this target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Bucket<A: Address> {
    /// The entries.
    pub entries: [ConntrackEntry<A>; WAYS],
}

/// An IPv4 entry, 32 bytes.
pub type ConntrackEntryV4 = ConntrackEntry<u32>;
/// An IPv6 entry, 64 bytes.
pub type ConntrackEntryV6 = ConntrackEntry<[u32; 4]>;
/// An IPv4 bucket, 128 bytes.
pub type BucketV4 = Bucket<u32>;
/// An IPv6 bucket, 256 bytes.
pub type BucketV6 = Bucket<[u32; 4]>;

const _: () = assert!(size_of::<ConntrackEntryV4>() == 32);
const _: () = assert!(size_of::<ConntrackEntryV6>() == 64);
const _: () = assert!(size_of::<BucketV4>() == 128);
const _: () = assert!(size_of::<BucketV6>() == 256);
plain_data!(ConntrackEntryV4, ConntrackEntryV6, BucketV4, BucketV6);

impl<A: Address> ConntrackEntry<A> {
    /// What this entry, which has the word `word`, is found by.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, word: Word) -> FlowKey<A> {
        FlowKey {
            source: self.source,
            destination: self.destination,
            ports: self.ports,
            protocol: word.protocol(),
        }
    }

    /// What the connection's other entry is found by, `word` being this one's. `server` is the address that replaces the
    /// service's (original) or the real server's (reply): the real server's or the VIP.
    #[inline(always)]
    #[must_use]
    pub const fn other_key(&self, server: A, word: Word) -> FlowKey<A> {
        let protocol = word.protocol();
        if word.is_original() {
            FlowKey {
                source: server,
                destination: self.source,
                ports: Ports::new(self.port, self.ports.source()),
                protocol,
            }
        } else {
            FlowKey {
                source: self.destination,
                destination: server,
                ports: Ports::new(self.ports.destination(), self.port),
                protocol,
            }
        }
    }
}

/// Who may have a connection's places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Over, or idle for longer than its timeout: any newcomer.
    Spent,
    /// A handshake, a UDP client that nobody has confirmed, a connection that its client has reset: a newcomer that
    /// finds no spent one, the oldest first.
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
        | 1 << State::FinReply as u64;
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

/// How many jiffies may pass before a packet writes `last_seen` again: a hot entry's cache line stays clean,
/// and no timeout is shorter than seconds.
pub const REFRESH_JIFFIES: u32 = 64;

/// Whether more than `timeout` jiffies have passed between `then` and `now`, low 32 bits of a clock that wraps. A
/// `then` that lies a little ahead was written after `now` was read.
#[inline(always)]
#[must_use]
pub const fn is_older(now: u32, then: u32, timeout: u32) -> bool {
    let idle = idle(now, then);
    idle > timeout
}

/// Jiffies between `then` and `now`; 0 where `then` lies a little ahead.
#[inline(always)]
#[must_use]
pub const fn idle(now: u32, then: u32) -> u32 {
    // Nobody holds a reading of the clock for so long, not even a process that was stopped: 3 days at 1,000 jiffies a second.
    const AHEAD: u32 = u32::MAX - (1 << 28);
    let idle = now.wrapping_sub(then);
    if idle < AHEAD { idle } else { 0 }
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
const SPENT: u64 = 1 << State::Closing as u64 | 1 << State::Closed as u64;

/// Idle timeouts in jiffies, by a connection's state. A table, since the packet program asks for them where each branch
/// would make the verifier follow two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Timeouts {
    by_state: [u32; 16],
}

/// What a connection's state waits for: idle timeouts in jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// TCP, handshake complete.
    pub established: u32,
    /// TCP, a FIN or RST was seen.
    pub closing: u32,
    /// UDP, answered.
    pub udp: u32,
    /// UDP, never answered.
    pub udp_unreplied: u32,
    /// TCP, handshake not complete.
    pub half_open: u32,
}

impl Timeouts {
    /// The timeouts of all states.
    #[must_use]
    pub fn new(settings: &TimeoutSettings) -> Self {
        let mut by_state = [0; 16];
        for state in State::ALL {
            by_state[state as usize] = match state {
                State::SynSent | State::SynReceived => settings.half_open,
                State::Established => settings.established,
                State::FinOriginal
                | State::FinReply
                | State::Closing
                | State::Closed
                | State::ClosedOriginal => settings.closing,
                State::Udp | State::UdpUnconfirmed => settings.udp,
                State::UdpUnreplied => settings.udp_unreplied,
            };
        }
        Self { by_state }
    }

    /// The timeout for a [`State`] given as a number.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, state: u8) -> u32 {
        self.by_state[(state & 0xf) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: TimeoutSettings = TimeoutSettings {
        established: 900,
        closing: 120,
        udp: 300,
        udp_unreplied: 30,
        half_open: 60,
    };

    #[test]
    fn every_state_has_its_timeout_and_its_class() {
        for (state, timeout, class_of) in [
            (State::SynSent, 60, Class::Opening),
            (State::SynReceived, 60, Class::Opening),
            (State::Established, 900, Class::Assured),
            (State::FinOriginal, 120, Class::Assured),
            (State::FinReply, 120, Class::Assured),
            (State::Closing, 120, Class::Spent),
            (State::Closed, 120, Class::Spent),
            (State::Udp, 300, Class::Confirmed),
            (State::UdpUnreplied, 30, Class::Opening),
            (State::UdpUnconfirmed, 300, Class::Opening),
            (State::ClosedOriginal, 120, Class::Opening),
        ] {
            assert_eq!(
                Timeouts::new(&TIMEOUTS).of(state as u8),
                timeout,
                "{state:?}"
            );
            assert_eq!(class(state as u8), class_of, "{state:?}");
        }
    }

    #[test]
    fn time_passes_across_the_wrap_of_the_clock() {
        let then = u32::MAX - 10;
        assert!(!is_older(then.wrapping_add(60), then, 60));
        assert!(is_older(then.wrapping_add(61), then, 60));
        // Half the clock and more does not bring anything back to life.
        for idle in [1_u32 << 31, (1 << 31) + 5, u32::MAX - (1 << 28) - 1] {
            assert!(is_older(idle, 0, 900), "{idle}");
        }
        // What was written just after the clock was read is not old.
        assert!(!is_older(4, 5, 900));
        assert!(!is_older(0, 100_000_000, 900));
        assert_eq!(idle(4, 5), 0);
    }

    #[test]
    fn the_longest_silent_is_displaced_first_and_the_assured_never() {
        let rank = |state: u8, idle| {
            let word = Word::new(Word(7 << 16), state, direction::ORIGINAL, false);
            rank(word, idle, 100)
        };
        let (opening, confirmed, over) =
            (State::SynSent as u8, State::Udp as u8, State::Closing as u8);
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
    fn a_word_keeps_what_was_put_in() {
        let place = Word(0xffff_0000);
        let taken = place.taken();
        assert_eq!((taken.state(), taken.serial()), (TAKEN, 0));
        assert!(!taken.is_used() && !taken.is_same_entry(place));
        let word = Word::new(taken, State::Established as u8, direction::REPLY, true);
        assert!(word.is_used() && word.is_udp() && !word.is_original());
        assert_eq!(word.protocol(), 17);
        assert_eq!(word.direction(), direction::REPLY);
        assert_eq!(word.method(), 0);
        assert!(word.is_same_entry(taken));
        let heard = word.hear(direction::ORIGINAL);
        assert!(!heard.is_heard() && heard.is_same_entry(word));
        assert!(heard.hear(direction::REPLY).is_heard());
        assert_eq!(
            heard.with_state(State::Closing as u8),
            word.with_state(State::Closing as u8)
        );
        let freed = word.freed();
        assert_eq!((freed.state(), freed.serial()), (FREE, 1));
        assert_eq!(freed.0 & 0xffff, 0);
    }

    #[test]
    fn the_entries_of_a_connection_name_each_other() {
        let (client, vip, real) = (1_u32, 2, 3);
        let (client_port, port, real_port) = (40, 80, 8080);
        let original = ConntrackEntryV4 {
            source: client,
            destination: vip,
            ports: Ports::new(client_port, port),
            word: Word::new(Word(0), State::SynSent as u8, direction::ORIGINAL, false),
            port: real_port,
            ..Default::default()
        };
        let reply = ConntrackEntryV4 {
            source: real,
            destination: client,
            ports: Ports::new(real_port, client_port),
            word: Word::new(Word(0), State::SynSent as u8, direction::REPLY, false),
            port,
            ..Default::default()
        };
        assert_eq!(
            original.other_key(real, original.word),
            reply.key(reply.word)
        );
        assert_eq!(
            reply.other_key(vip, reply.word),
            original.key(original.word)
        );
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

//! What becomes of a packet: the verdict, or the named reason why it left early.

/// Where a translated packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of the interface it came in by.
    Transmit,
    /// Out of another interface; the kernel already knows which.
    Redirect,
}

/// What happens to a packet that leaves early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel's own stack gets it as it came, unless it comes in this host's own name ([`Discard::Martian`]).
    Pass,
    /// The kernel's own stack gets it translated, and forwards it.
    Forward,
    /// It is gone.
    Drop,
    /// Its sender is answered in the virtual service's place, and the packet is gone.
    Answer,
}

macro_rules! discards {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $outcome:ident;)+) => {
        /// Why a packet left early. Each reason is one counter, shown by `balancer-ctl status`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Discard { $($(#[doc = $doc])+ $variant,)+ }

        impl Discard {
            /// All reasons in numeric order; the index is the reason's place in `DISCARDS`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Number of reasons, the capacity of `DISCARDS`.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// Key in `SERVICE_DISCARDS` of this reason's counter for the service with this id.
            #[inline(always)]
            #[must_use]
            pub const fn of_service(self, service: u32) -> u32 {
                service * Self::COUNT + self as u32
            }

            /// The reason's name in JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The reason with this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.name() == name)
            }

            /// The reason in a sentence for the operator.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// What happens to the packet.
            #[inline(always)]
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome),+ }
            }
        }
    };
}

discards! {
    /// the frame is for another machine, or for many (broadcast, multicast)
    OtherMac = "other-mac", Pass;
    /// the frame carries neither IPv4 nor IPv6
    NotIp = "not-ip", Pass;
    /// a header is cut short or contradicts itself
    Malformed = "malformed", Pass;
    /// the packet carries neither TCP nor UDP nor an ICMP error, or behind extension headers that are not looked through
    NotTcpUdp = "not-tcp-udp", Pass;
    /// the ICMP error quotes no packet of a connection
    IcmpUnmatched = "icmp-unmatched", Pass;
    /// the packet is a fragment of a datagram that belongs to no connection
    Fragment = "fragment", Pass;
    /// a fragment to or from a VIP's or a real server's address came before its datagram's beginning, without it, or 30 seconds after it
    FragmentUnmatched = "fragment-unmatched", Drop;
    /// a fragment to or from a VIP's or a real server's address cuts the headers, or would overwrite them
    FragmentTiny = "fragment-tiny", Drop;
    /// the packet to a VIP's or a real server's address has more IPv6 extension headers than are looked through, or a routing header of
    /// type 0
    ExtensionHeaders = "extension-headers", Drop;
    /// an IPv6 packet carries a v4-mapped address
    MappedAddress = "mapped-address", Pass;
    /// no virtual service has this address, port and protocol
    NoService = "no-service", Pass;
    /// the TCP packet belongs to no connection and opens none; the client was answered with a reset
    NoConnection = "no-connection", Answer;
    /// the connection's real server has failed, or the operator has closed it; the client was answered with a reset
    RealReset = "real-reset", Answer;
    /// a reset that belongs to no connection, or to one whose real server has failed
    StrayReset = "stray-reset", Drop;
    /// a SYN with ACK to a virtual service that belongs to no connection
    StraySynAck = "stray-syn-ack", Drop;
    /// a real server's packet belongs to no connection; the real server was answered with a reset or that the port is
    /// unreachable
    StrayReply = "stray-reply", Answer;
    /// the UDP length is below 8 or beyond the packet
    UdpLength = "udp-length", Drop;
    /// UDP over IPv6 without a checksum
    UdpNoChecksum = "udp-no-checksum", Drop;
    /// the packet names routers to go through (IPv4 options LSRR and SSRR)
    SourceRoute = "source-route", Drop;
    /// the frame carries more than two priority tags (802.1Q or 802.1ad without a VLAN) in each other
    NestedTags = "nested-tags", Drop;
    /// no real server takes new connections; the client was answered with a reset or that the port is unreachable
    NoRealReject = "no-real-reject", Answer;
    /// no real server takes new connections
    NoReal = "no-real", Drop;
    /// every real server that takes new connections has reached its upper limit; the client was answered with a reset or that the
    /// port is unreachable
    RealsFullReject = "reals-full-reject", Answer;
    /// every real server that takes new connections has reached its upper limit
    RealsFull = "reals-full", Drop;
    /// an answer was due, but this CPU has given as many as it may, or the packet cannot be answered
    Unanswered = "unanswered", Drop;
    /// the source address is none that a packet from outside can have: loopback, multicast, reserved, this host's own
    /// address or a broadcast address of its networks
    Martian = "martian", Drop;
    /// the connection table is full
    TableFull = "table-full", Drop;
    /// another CPU was opening a connection of the same client for too long, or the connection's place changed hands
    /// meanwhile
    Busy = "busy", Drop;
    /// the client is in the real servers' own network, where their answers would reach it past the balancer; it was answered
    /// with a reset or that the port is unreachable
    Hairpin = "hairpin", Answer;
    /// every source address and port towards the real server is taken, or there is none; the client was answered with a reset or
    /// that the port is unreachable
    SnatExhausted = "snat-exhausted", Answer;
    /// the real server already serves this client port for another virtual service
    Collision = "collision", Drop;
    /// the packet's time to live ended here; its sender was told so by ICMP
    TimeExceeded = "time-exceeded", Answer;
    /// the packet is larger than the way out carries and must not be fragmented; its sender was told the MTU by ICMP
    TooBig = "too-big", Answer;
    /// the packet was translated, and the host's stack fragments it, or sends it on as it did its datagram's first fragment
    ToFragment = "to-fragment", Forward;
    /// the packet was translated, and the host's stack finds the next hop's MAC address
    NoNeighbour = "no-neighbour", Forward;
    /// the route is a blackhole
    Blackhole = "blackhole", Drop;
    /// the route is unreachable
    Unreachable = "unreachable", Drop;
    /// the route is prohibited
    Prohibited = "prohibited", Drop;
    /// forwarding is switched off on the interface where the packet came in
    ForwardingOff = "forwarding-off", Drop;
    /// there is no route to forward by, or the destination is this host itself
    NotForwarded = "not-forwarded", Drop;
    /// the way out leads through an interface that the program cannot transmit on
    NoEgress = "no-egress", Drop;
    /// the service's `allow` and `deny` do not let the client open connections
    Denied = "denied", Drop;
    /// the client has opened as many connections to the service as the service's `rate` lets it
    RateLimited = "rate-limited", Drop;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_in_order() {
        for (index, reason) in Discard::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(
                Discard::ALL
                    .iter()
                    .filter(|r| r.name() == reason.name())
                    .count(),
                1
            );
            assert!(!reason.sentence().is_empty());
        }
    }
}

//! Packets built from nothing, with every checksum computed by a full sum: the independent reference for
//! what the packet program does incrementally.

mod frame;

use std::net::IpAddr;

use crate::{
    addresses::{C, C6, GATEWAY, LB_INSIDE, LB_OUTSIDE, Mac, REAL, V, V6, mac_of},
    dataplane::Side,
};

/// TCP flag bits.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Where a transport checksum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The full sum.
    Right,
    /// This value, right or not.
    Given(u16),
}

/// What the IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Flags.
        flags: u8,
        /// Window.
        window: u16,
        /// Options, a multiple of four bytes.
        options: Vec<u8>,
    },
    /// UDP.
    Udp,
    /// Another protocol: its number; the payload follows the IP header at once.
    Other(u8),
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Nobody listens on the port.
    PortUnreachable,
    /// The packet's hops ended on the way.
    TimeExceeded,
    /// The packet is too big for this MTU, in bytes.
    TooBig(u32),
}

impl Icmp {
    fn protocol(self, about: &Packet) -> u8 {
        if about.source.is_ipv4() { 1 } else { 58 }
    }

    /// Type and code in the family of the packet.
    fn kind(self, about: &Packet) -> [u8; 2] {
        match (self, about.source.is_ipv4()) {
            (Self::PortUnreachable, true) => [3, 3],
            (Self::PortUnreachable, false) => [1, 4],
            (Self::TimeExceeded, true) => [11, 0],
            (Self::TimeExceeded, false) => [3, 0],
            (Self::TooBig(_), true) => [3, 4],
            (Self::TooBig(_), false) => [2, 0],
        }
    }

    /// The header's second word. In IPv4 the MTU has its lower half.
    fn rest(self, is_v6: bool) -> [u8; 4] {
        match self {
            Self::TooBig(mtu) if is_v6 => mtu.to_be_bytes(),
            Self::TooBig(mtu) => (mtu & 0xffff).to_be_bytes(),
            Self::PortUnreachable | Self::TimeExceeded => [0; 4],
        }
    }
}

/// A frame with all its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Receiver's MAC address.
    pub mac_destination: Mac,
    /// Sender's MAC address.
    pub mac_source: Mac,
    /// VLAN tags, outermost first: tag protocol and control information.
    pub tags: Vec<(u16, u16)>,
    /// Source address; the family follows it.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 flags and fragment offset as the header has them; 0x4000 is DF.
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers, and the number of the first.
    pub extensions: Option<(u8, Vec<u8>)>,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Transport header.
    pub transport: Transport,
    /// Data.
    pub payload: Vec<u8>,
    /// Transport checksum.
    pub checksum: Checksum,
    /// UDP length, where it shall not be the right one.
    pub udp_length: Option<u16>,
    /// Bytes after the IP packet (Ethernet padding).
    pub padding: Vec<u8>,
}

/// Don't fragment.
pub const DF: u16 = 0x4000;

impl Packet {
    /// A packet from the outside to the balancer with the fields that the cases state: TTL 64, IP id 1, DF.
    fn from_client(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self {
            mac_destination: LB_OUTSIDE,
            mac_source: GATEWAY,
            tags: Vec::new(),
            source,
            destination,
            hops: 64,
            tos: 0,
            id: 1,
            fragment: DF,
            ip_options: Vec::new(),
            extensions: None,
            flow_label: 0,
            source_port: 0,
            destination_port: 0,
            transport,
            payload: Vec::new(),
            checksum: Checksum::Right,
            udp_length: None,
            padding: Vec::new(),
        }
    }

    /// TCP from C:40000 to V:80.
    #[must_use]
    pub fn tcp(flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        let transport = Transport::Tcp {
            sequence,
            acknowledgement,
            flags,
            window: 64240,
            options: Vec::new(),
        };
        Self {
            source_port: 40000,
            destination_port: 80,
            ..Self::from_client(C, V, transport)
        }
    }

    /// UDP from C:40001 to V:53.
    #[must_use]
    pub fn udp(payload: &[u8]) -> Self {
        Self {
            source_port: 40001,
            destination_port: 53,
            payload: payload.to_vec(),
            ..Self::from_client(C, V, Transport::Udp)
        }
    }

    /// Another IP protocol from C to V.
    #[must_use]
    pub fn other(protocol: u8, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..Self::from_client(C, V, Transport::Other(protocol))
        }
    }

    /// The same between the IPv6 client and the IPv6 VIP.
    #[must_use]
    pub fn v6(mut self) -> Self {
        (self.source, self.destination) = (C6, V6);
        self
    }

    /// From another client port.
    #[must_use]
    pub fn client_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// To another destination port.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        self.destination_port = port;
        self
    }

    /// With this payload.
    #[must_use]
    pub fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// What must leave towards a real server when this, a client's packet, is balanced: new destination and
    /// MAC addresses, one hop less.
    #[must_use]
    pub fn delivered(&self, real: IpAddr, port: u16) -> Self {
        Self {
            mac_destination: mac_of(real),
            mac_source: LB_INSIDE,
            destination: real,
            destination_port: port,
            hops: self.hops - 1,
            ..self.clone()
        }
    }

    /// The frame of a real server that answers this, a client's packet: from the real server to the client,
    /// through the balancer's inside interface.
    #[must_use]
    pub fn answered(&self, real: IpAddr, port: u16) -> Self {
        Self {
            mac_destination: LB_INSIDE,
            mac_source: mac_of(real),
            source: real,
            destination: self.source,
            source_port: port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }

    /// The frame that goes back to the sender in this one's stead, with a header of its own.
    fn turned_back(&self, transport: Transport) -> Self {
        Self {
            mac_destination: self.mac_source,
            mac_source: self.mac_destination,
            id: 0,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..Self::from_client(self.destination, self.source, transport)
        }
    }

    /// The reset that answers this, a client's segment, with these numbers and flags.
    #[must_use]
    pub fn reset(&self, flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        self.turned_back(Transport::Tcp {
            sequence,
            acknowledgement,
            flags,
            window: 0,
            options: Vec::new(),
        })
    }

    /// The ICMP error that says that nobody listens where this datagram goes. It quotes the headers.
    #[must_use]
    pub fn port_unreachable(&self) -> Self {
        self.error_in_its_stead(Icmp::PortUnreachable)
    }

    /// The ICMP error that goes back in this packet's stead, from its destination, with the headers quoted.
    #[must_use]
    pub fn error_in_its_stead(&self, icmp: Icmp) -> Self {
        let header = match self.transport {
            Transport::Tcp { .. } => 20,
            _ => 8,
        };
        let error = self.turned_back(Transport::Other(icmp.protocol(self)));
        let mut error = error.quoting(icmp, self, header);
        // The ICMP header, and at most so much of the packet.
        error.payload.truncate(8 + 128);
        error.sum_icmp();
        error
    }

    /// An ICMP error about this packet, from `source` to its sender, which a router makes at `side`: it quotes so many bytes of what
    /// follows the IP header.
    #[must_use]
    pub fn icmp_error(&self, side: Side, source: IpAddr, icmp: Icmp, quoted: usize) -> Self {
        let (mac_destination, mac_source) = match side {
            Side::Outside => (LB_OUTSIDE, GATEWAY),
            Side::Inside => (LB_INSIDE, REAL),
        };
        Self {
            mac_destination,
            mac_source,
            fragment: 0,
            ..Self::from_client(source, self.source, Transport::Other(icmp.protocol(self)))
        }
        .quoting(icmp, self, quoted)
    }

    /// This ICMP error with another quotation and the checksum that belongs to it.
    #[must_use]
    pub fn quoting(mut self, icmp: Icmp, about: &Self, quoted: usize) -> Self {
        let packet = about.bytes();
        let end = (about.transport_offset() + quoted).min(packet.len() - about.padding.len());
        let rest = icmp.rest(about.source.is_ipv6());
        self.payload = [
            &icmp.kind(about)[..],
            &[0; 2],
            &rest,
            &packet[about.ip_offset()..end],
        ]
        .concat();
        self.sum_icmp();
        self
    }

    /// Writes the checksum of the ICMP message that this is.
    pub fn sum_icmp(&mut self) {
        self.payload[2..4].fill(0);
        let sum = if self.source.is_ipv4() {
            frame::full_sum(&[&self.payload])
        } else {
            self.full_transport_sum(&self.payload)
        };
        self.payload[2..4].copy_from_slice(&sum.to_be_bytes());
    }

    /// The fragments of this packet, each with at most `size` bytes behind its headers, a multiple of eight.
    #[must_use]
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        let whole = self.transport_bytes();
        let protocol = self.protocol();
        let parts = whole.chunks(size).zip(0..);
        let fragment = |(part, number): (&[u8], usize)| {
            let offset = (number * size / 8) as u16;
            let more = (number + 1) * size < whole.len();
            let mut fragment = Self {
                transport: Transport::Other(protocol),
                payload: part.to_vec(),
                ..self.clone()
            };
            if self.source.is_ipv4() {
                fragment.fragment = offset | u16::from(more) << 13;
            } else {
                let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
                let id = u32::from(self.id).to_be_bytes();
                let header = [&[protocol, 0, high, low], &id[..]].concat();
                fragment.extensions = Some((44, header));
            }
            fragment
        };
        parts.map(fragment).collect()
    }

    /// With these TCP fields.
    ///
    /// # Panics
    /// This is not TCP.
    #[must_use]
    pub fn segment(mut self, new_flags: u8, new_sequence: u32, new_acknowledgement: u32) -> Self {
        let Transport::Tcp {
            sequence,
            acknowledgement,
            flags,
            ..
        } = &mut self.transport
        else {
            panic!("not TCP");
        };
        (*sequence, *acknowledgement, *flags) = (new_sequence, new_acknowledgement, new_flags);
        self
    }

    /// With these TCP options.
    ///
    /// # Panics
    /// This is not TCP.
    #[must_use]
    pub fn tcp_options(mut self, new: &[u8]) -> Self {
        let Transport::Tcp { options, .. } = &mut self.transport else {
            panic!("not TCP");
        };
        *options = new.to_vec();
        self
    }

    /// What must leave towards the client when this, a real server's packet, is translated back.
    #[must_use]
    pub fn returned(&self, vip: IpAddr, port: u16) -> Self {
        Self {
            mac_destination: GATEWAY,
            mac_source: LB_OUTSIDE,
            source: vip,
            source_port: port,
            hops: self.hops - 1,
            ..self.clone()
        }
    }

    /// Number of the transport protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
            Transport::Other(number) => number,
        }
    }

    /// Length of the IP packet, which is what the counters count.
    #[must_use]
    pub fn ip_length(&self) -> u64 {
        let header = if self.source.is_ipv4() {
            20 + self.ip_options.len()
        } else {
            40 + self.extensions.as_ref().map_or(0, |(_, bytes)| bytes.len())
        };
        (header + self.transport_bytes().len()) as u64
    }

    /// Offset of the IP header in the frame.
    #[must_use]
    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the transport header in the frame.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        let header = if self.source.is_ipv4() {
            20 + self.ip_options.len()
        } else {
            40 + self.extensions.as_ref().map_or(0, |(_, bytes)| bytes.len())
        };
        self.ip_offset() + header
    }
}

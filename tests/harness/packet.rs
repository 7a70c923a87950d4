//! Packets built from nothing, with every checksum computed by a full sum: the independent reference for
//! what the packet program does incrementally.

mod frame;

use std::net::IpAddr;

use crate::addresses::{C, C6, GATEWAY, LB_INSIDE, LB_OUTSIDE, Mac, V, V6, mac_of};

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
        let quoted = &self.bytes()[self.ip_offset()..self.transport_offset() + 8];
        let (protocol, kind) = if self.source.is_ipv4() {
            (1, [3, 3])
        } else {
            (58, [1, 4])
        };
        let mut error = self.turned_back(Transport::Other(protocol));
        error.payload = [&[kind[0], kind[1], 0, 0, 0, 0, 0, 0], quoted].concat();
        let sum = if self.source.is_ipv4() {
            frame::full_sum(&[&error.payload])
        } else {
            error.full_transport_sum(&error.payload)
        };
        error.payload[2..4].copy_from_slice(&sum.to_be_bytes());
        error
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

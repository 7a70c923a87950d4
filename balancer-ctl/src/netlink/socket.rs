//! A netlink socket for requests: one request, all its answers.

use std::io;

use anyhow::Context;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open() -> anyhow::Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Makes the kernel honour filters in dump requests (Linux 4.20).
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("cannot open a netlink socket")?,
            sequence: 0,
        })
    }

    /// Sends a dump request, and returns all its answers.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Sends a request that queries or changes one object, and returns its answers; `flags` are added to the usual
    /// ones.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn request(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK | flags)
    }

    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages(&datagram) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io()),
                    },
                    _ => {}
                }
            }
        }
    }
}

/// The messages in a datagram; messages that cannot be parsed are left out.
pub(super) fn messages(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Some(length) = rest
        .first_chunk::<4>()
        .map(|bytes| u32::from_ne_bytes(*bytes) as usize)
    {
        if length < 16 || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            messages.push(message);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

//! The way of a connection through the balancer, and the frames that travel it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{
    frame::{Segment, frame, icmp_error},
    network::{
        BALANCER_MAC, CLIENT_V4, FIRST_CLIENT, GATEWAY_MAC, PORTS, REAL_MAC, REAL_V4, VIP_V4,
    },
    target::{REAL_PORT, SERVICE_PORT},
};

/// The client's port of flow 0 of a set.
pub const FIRST_CLIENT_PORT: u16 = 32_768;
/// The client's port of a flow that is in no set.
pub const CLIENT_PORT: u16 = 40_000;

/// Time to live of what comes in; what leaves has one less.
const HOPS: u8 = 64;

/// A connection through the balancer: its endpoints.
#[derive(Clone, Copy)]
pub struct Route {
    /// The client.
    pub client: SocketAddr,
    /// The virtual service's address.
    pub virtual_address: SocketAddr,
    /// The real server.
    pub real: SocketAddr,
    /// What the real server sees of the client, where that is another address.
    pub source: Option<SocketAddr>,
    /// MAC addresses on the real server's side: the balancer's, the real server's.
    pub inside: [[u8; 6]; 2],
}

impl Route {
    /// A flow that is in no set, to the TCP service of IPv4.
    pub fn lone() -> Self {
        Self {
            client: (CLIENT_V4, CLIENT_PORT).into(),
            virtual_address: (VIP_V4, SERVICE_PORT).into(),
            real: (REAL_V4, REAL_PORT).into(),
            source: None,
            inside: [BALANCER_MAC, REAL_MAC],
        }
    }

    /// Flow `number` of a set, to the TCP service of IPv4.
    pub fn of_set(number: u32) -> Self {
        let address = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + number / PORTS);
        let port = FIRST_CLIENT_PORT + (number % PORTS) as u16;
        Self {
            client: (address, port).into(),
            ..Self::lone()
        }
    }

    /// What the real server sees of the client.
    fn seen(&self) -> SocketAddr {
        self.source.unwrap_or(self.client)
    }

    /// What the client sends, as it reaches the balancer.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn client_sends(&self, segment: Segment) -> Result<Vec<u8>> {
        let (from, to) = (self.client, self.virtual_address);
        frame([GATEWAY_MAC, BALANCER_MAC], from, to, segment, HOPS)
    }

    /// The same as it reaches the real server.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn real_gets(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(self.inside, self.seen(), self.real, segment, HOPS - 1)
    }

    /// The same from a NAT that does not decrement the time to live.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn real_gets_untouched(&self, segment: Segment) -> Result<Vec<u8>> {
        frame(self.inside, self.client, self.real, segment, HOPS)
    }

    /// What a client sends to the real server's own address, as it reaches the balancer.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn client_sends_directly(&self, segment: Segment) -> Result<Vec<u8>> {
        let (from, to) = (self.client, self.real);
        frame([GATEWAY_MAC, BALANCER_MAC], from, to, segment, HOPS)
    }

    /// What the real server sends, as it reaches the balancer.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn real_sends(&self, segment: Segment) -> Result<Vec<u8>> {
        let (from, to) = (self.real, self.seen());
        frame([REAL_MAC, BALANCER_MAC], from, to, segment, HOPS)
    }

    /// The same as it reaches the client.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn client_gets(&self, segment: Segment) -> Result<Vec<u8>> {
        let (from, to) = (self.virtual_address, self.client);
        frame([BALANCER_MAC, GATEWAY_MAC], from, to, segment, HOPS - 1)
    }

    /// A router's complaint about a packet that the client was sent, as it reaches the balancer, and as it reaches the real server.
    ///
    /// # Errors
    /// The addresses are not IPv4.
    pub fn complaint(&self) -> Result<[Vec<u8>; 2]> {
        let router = self.client.ip();
        let (vip, real) = (self.virtual_address.ip(), self.real.ip());
        let sent = self.client_gets(Segment::Ack)?;
        // As the real server sent it, one hop later.
        let (from, to) = (self.real, self.client);
        let own = frame([REAL_MAC, BALANCER_MAC], from, to, Segment::Ack, HOPS - 1)?;
        let macs = [GATEWAY_MAC, BALANCER_MAC];
        Ok([
            icmp_error(macs, router, vip, &sent, HOPS)?,
            icmp_error(self.inside, router, real, &own, HOPS - 1)?,
        ])
    }

    /// The three frames that make a TCP connection, as they reach the balancer.
    ///
    /// # Errors
    /// The addresses are not of one family.
    pub fn handshake(&self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![
            self.client_sends(Segment::Syn)?,
            self.real_sends(Segment::SynAck)?,
            self.client_sends(Segment::Ack)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_goes_through_the_ports_of_an_address_before_the_next_address() {
        assert_eq!(Route::of_set(0).client.to_string(), "198.18.0.1:32768");
        assert_eq!(Route::of_set(1023).client.to_string(), "198.18.0.1:33791");
        assert_eq!(Route::of_set(1024).client.to_string(), "198.18.0.2:32768");
    }
}

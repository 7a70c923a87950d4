//! The filter with which connections are listed and closed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use balancer_common::tcp::State;

use super::{
    ServiceKey,
    address::{AddressError, RealRef},
    prefix::Prefix,
};

/// Which connections to list or close; a field that is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// The clients.
    pub client: Option<ClientRef>,
    /// The virtual service.
    pub service: Option<ServiceKey>,
    /// Real server's address and port; a port of `None` matches all ports.
    pub real: Option<(IpAddr, Option<u16>)>,
    /// The connection's state.
    pub state: Option<State>,
    /// List or close at most this many.
    pub limit: Option<usize>,
}

/// Clients as a command names them: `ADDRESS`, `ADDRESS:PORT` or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRef {
    /// Their addresses.
    pub prefix: Prefix,
    /// The port of the only address; `None` matches all ports.
    pub port: Option<u16>,
}

impl ClientRef {
    /// Whether connections from this address and port are meant.
    #[must_use]
    pub fn matches(&self, client: SocketAddr) -> bool {
        self.prefix.contains(&Prefix::of(client.ip(), u8::MAX))
            && self.port.is_none_or(|port| port == client.port())
    }
}

impl FromStr for ClientRef {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('/') {
            let prefix = text.parse()?;
            return Ok(Self { prefix, port: None });
        }
        let RealRef { address, port } = text.parse()?;
        let prefix = Prefix::of(address, u8::MAX);
        Ok(Self { prefix, port })
    }
}

impl fmt::Display for ClientRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.prefix.address, port).fmt(f),
            None => self.prefix.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_an_address_with_or_without_a_port_or_a_prefix() {
        for (text, shown, matching, others) in [
            (
                "198.51.100.7",
                "198.51.100.7",
                &["198.51.100.7:1", "198.51.100.7:65535"][..],
                &["198.51.100.8:1", "[2001:db8::7]:1"][..],
            ),
            (
                "198.51.100.7:1",
                "198.51.100.7:1",
                &["198.51.100.7:1"],
                &["198.51.100.7:2"],
            ),
            (
                "[2001:db8::7]:1",
                "[2001:db8::7]:1",
                &["[2001:db8::7]:1"],
                &["[2001:db8::8]:1"],
            ),
            (
                "10.0.0.0/8",
                "10.0.0.0/8",
                &["10.0.0.0:1", "10.255.255.255:2"],
                &["11.0.0.0:1", "[::a]:1"],
            ),
            (
                "2001:db8::/32",
                "2001:db8::/32",
                &["[2001:db8:ffff::]:1"],
                &["[2001:db9::]:1", "10.0.0.1:1"],
            ),
            ("0.0.0.0/0", "0.0.0.0/0", &["10.0.0.1:1"], &["[::1]:1"]),
        ] {
            let client: ClientRef = text.parse().unwrap();
            assert_eq!(client.to_string(), shown);
            let is_it = |address: &&str| client.matches(address.parse().unwrap());
            assert!(matching.iter().all(is_it), "{text}");
            assert!(!others.iter().any(is_it), "{text}");
        }
    }

    #[test]
    fn what_names_no_clients_is_refused() {
        for (text, sentence) in [
            (
                "10.1.2.3/8",
                "`10.1.2.3/8` has bits behind its prefix: write `10.0.0.0/8`",
            ),
            (
                "2001:db8::1/32",
                "`2001:db8::1/32` has bits behind its prefix: write `2001:db8::/32`",
            ),
            (
                "10.0.0.0/33",
                "`10.0.0.0/33` is neither an address nor a prefix: write `198.51.100.7`, `198.51.100.0/24` or `2001:db8::/64`",
            ),
            (
                "10.0.0.1:99999",
                "port `99999` is not a number in 0..=65535",
            ),
        ] {
            assert_eq!(text.parse::<ClientRef>().unwrap_err().to_string(), sentence);
        }
    }
}

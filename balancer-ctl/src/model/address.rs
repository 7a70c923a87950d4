//! Parses and prints virtual services and real servers as people write them. Pure: host names are never looked up.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::model::{Protocol, ServiceKey};

/// Longest name of a virtual service.
const MAX_NAME: usize = 63;

/// A virtual service as it is named in a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceRef {
    /// By protocol, VIP and port.
    Key(ServiceKey),
    /// By its name.
    Name(String),
    /// The only one there is; written `-`.
    Only,
}

impl FromStr for ServiceRef {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "-" {
            return Ok(Self::Only);
        }
        if is_name(text) {
            return Ok(Self::Name(text.to_owned()));
        }
        service_key(text).map(Self::Key)
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Only => f.write_str("-"),
        }
    }
}

/// A real server as a command names it; without a port it has the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealRef {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: Option<u16>,
}

impl RealRef {
    /// The real server's address in `service`.
    #[must_use]
    pub fn within(self, service: &ServiceKey) -> SocketAddr {
        SocketAddr::new(
            self.address,
            self.port.unwrap_or_else(|| service.address.port()),
        )
    }
}

impl FromStr for RealRef {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (address, port) = split(text)?;
        Ok(Self { address, port })
    }
}

impl fmt::Display for RealRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A service without a port.
    #[error("`{text}` has no port: write `{right}` (port 0 stands for every port)")]
    NoPort {
        /// What was written.
        text: String,
        /// The same with a port.
        right: String,
    },
    /// A client without a port.
    #[error(
        "`{0}` is no client's address and port: write `198.51.100.7:40000`, with a port in 1..=65535"
    )]
    Client(String),
    /// A port beyond 65535, or no number.
    #[error("port `{0}` is not a number in 0..=65535")]
    Port(String),
    /// Neither an address nor a name.
    #[error(
        "`{0}` is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)"
    )]
    Address(String),
    /// Neither an address nor a prefix.
    #[error(
        "`{0}` is neither an address nor a prefix: write `198.51.100.7`, `198.51.100.0/24` or `2001:db8::/64`"
    )]
    Prefix(String),
    /// A prefix with ones behind its length.
    #[error("`{text}` has bits behind its prefix: write `{right}`")]
    BehindPrefix {
        /// What was written.
        text: String,
        /// The same without these bits.
        right: String,
    },
    /// A port where a server is known by its address alone.
    #[error("`{text}` has a port, and clients keep a server whatever its port: write `{right}`")]
    ServerPort {
        /// What was written.
        text: String,
        /// The same without the port.
        right: IpAddr,
    },
    /// An unknown protocol.
    #[error("protocol `{0}` is not known: write `tcp/` or `udp/` in front of the address")]
    Protocol(String),
}

/// Parses the address of a server, which has no port.
///
/// # Errors
/// It has another form.
pub fn server(text: &str) -> Result<IpAddr, AddressError> {
    let (address, port) = split(text)?;
    match port {
        None => Ok(address),
        Some(_) => Err(AddressError::ServerPort {
            text: text.to_owned(),
            right: address,
        }),
    }
}

/// Parses `[tcp/|udp/]ADDRESS:PORT`.
///
/// # Errors
/// It has another form.
pub fn service_key(text: &str) -> Result<ServiceKey, AddressError> {
    let (protocol, rest) = match text.split_once('/') {
        Some(("tcp", rest)) => (Protocol::Tcp, rest),
        Some(("udp", rest)) => (Protocol::Udp, rest),
        Some((other, _)) => return Err(AddressError::Protocol(other.to_owned())),
        None => (Protocol::Tcp, text),
    };
    service_address(rest).map(|address| ServiceKey { protocol, address })
}

/// Parses a virtual service's `ADDRESS:PORT`.
///
/// # Errors
/// It has another form.
pub fn service_address(text: &str) -> Result<SocketAddr, AddressError> {
    let (address, port) = split(text)?;
    let Some(port) = port else {
        let right = SocketAddr::new(address, 80).to_string();
        return Err(AddressError::NoPort {
            text: text.to_owned(),
            right,
        });
    };
    Ok(SocketAddr::new(address, port))
}

/// Parses a client's `ADDRESS:PORT`.
///
/// # Errors
/// It has another form, or port 0.
pub fn client(text: &str) -> Result<SocketAddr, AddressError> {
    match split(text)? {
        (IpAddr::V6(address), _) if address.to_ipv4_mapped().is_some() => {
            Err(AddressError::Client(text.to_owned()))
        }
        (address, Some(port)) if port > 0 => Ok(SocketAddr::new(address, port)),
        _ => Err(AddressError::Client(text.to_owned())),
    }
}

/// Whether this may be a virtual service's name: it begins with a letter, so no address is one.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Splits `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn split(text: &str) -> Result<(IpAddr, Option<u16>), AddressError> {
    let wrong = || AddressError::Address(text.to_owned());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
        let address = address.parse().map(IpAddr::V6).map_err(|_| wrong())?;
        return match rest.strip_prefix(':') {
            Some(text) => Ok((address, Some(port(text)?))),
            None if rest.is_empty() => Ok((address, None)),
            None => Err(wrong()),
        };
    }
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    let (address, text) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.parse().map(IpAddr::V4).map_err(|_| wrong())?;
    Ok((address, Some(port(text)?)))
}

fn port(text: &str) -> Result<u16, AddressError> {
    // `u16::from_str` would accept a plus sign.
    if !text.starts_with('+')
        && let Ok(port) = text.parse()
    {
        return Ok(port);
    }
    Err(AddressError::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(text: &str) -> String {
        text.parse::<ServiceRef>().unwrap_err().to_string()
    }

    #[test]
    fn every_spelling_of_a_service_is_read_and_printed_in_its_full_form() {
        for (text, printed) in [
            ("192.0.2.80:80", "tcp/192.0.2.80:80"),
            ("tcp/192.0.2.80:0", "tcp/192.0.2.80:0"),
            ("udp/192.0.2.80:53", "udp/192.0.2.80:53"),
            ("[2001:db8::80]:443", "tcp/[2001:db8::80]:443"),
            ("udp/[2001:db8::80]:53", "udp/[2001:db8::80]:53"),
            ("web", "web"),
            ("web-1.example_2", "web-1.example_2"),
            ("-", "-"),
        ] {
            assert_eq!(text.parse::<ServiceRef>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn a_wrong_service_is_refused_with_the_right_form() {
        assert_eq!(
            sentence("192.0.2.80"),
            "`192.0.2.80` has no port: write `192.0.2.80:80` (port 0 stands for every port)"
        );
        assert_eq!(
            sentence("2001:db8::80"),
            "`2001:db8::80` has no port: write `[2001:db8::80]:80` (port 0 stands for every port)"
        );
        assert_eq!(
            sentence("192.0.2.80:65536"),
            "port `65536` is not a number in 0..=65535"
        );
        assert_eq!(
            sentence("192.0.2.80:http"),
            "port `http` is not a number in 0..=65535"
        );
        assert_eq!(
            sentence("[2001:db8::80]:+1"),
            "port `+1` is not a number in 0..=65535"
        );
        assert_eq!(
            sentence("sctp/192.0.2.80:80"),
            "protocol `sctp` is not known: write `tcp/` or `udp/` in front of the address"
        );
        for text in [
            "",
            "256.0.2.80:80",
            "www.example.org:80",
            "[192.0.2.80]:80",
            "[::1",
            "[::1]80",
            "1web",
        ] {
            assert_eq!(
                sentence(text),
                format!(
                    "`{text}` is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)"
                )
            );
        }
        assert!("a".repeat(63).parse::<ServiceRef>().is_ok());
        assert!("a".repeat(64).parse::<ServiceRef>().is_err());
    }

    #[test]
    fn a_server_has_no_port() {
        for text in ["10.0.0.2", "2001:db8::2", "[2001:db8::2]"] {
            let bare = text.trim_matches(['[', ']']);
            assert_eq!(server(text).unwrap().to_string(), bare);
        }
        assert_eq!(
            server("10.0.0.2:80").unwrap_err().to_string(),
            "`10.0.0.2:80` has a port, and clients keep a server whatever its port: write `10.0.0.2`"
        );
    }

    #[test]
    fn a_real_without_a_port_takes_the_services() {
        let service = service_key("192.0.2.80:80").unwrap();
        for (text, address) in [
            ("10.0.0.2", "10.0.0.2:80"),
            ("10.0.0.2:8080", "10.0.0.2:8080"),
        ] {
            let real: RealRef = text.parse().unwrap();
            assert_eq!(real.within(&service).to_string(), address);
            assert_eq!(real.to_string(), text);
        }
        let service = service_key("[2001:db8::80]:443").unwrap();
        for text in ["2001:db8::2", "[2001:db8::2]", "[2001:db8::2]:443"] {
            assert_eq!(
                text.parse::<RealRef>()
                    .unwrap()
                    .within(&service)
                    .to_string(),
                "[2001:db8::2]:443"
            );
        }
    }
}

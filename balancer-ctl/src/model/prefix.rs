//! Prefixes of addresses: networks, and clients that count as one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::address::AddressError;

/// An address and how many of its leading bits count; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The first address in it.
    pub address: IpAddr,
    /// Length in bits: 0 to 32, or to 128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that contains `address`; a length beyond the family's means the whole address.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        let length = length.min(whole(address));
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self { address, length }
    }

    /// Whether it has one address only.
    #[must_use]
    pub const fn is_address(&self) -> bool {
        self.length == whole(self.address)
    }

    /// Whether all addresses of `other` are in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && Self::of(other.address, self.length) == *self
    }
}

/// The length of a whole address, in bits.
#[must_use]
pub const fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    /// As in `198.51.100.0/24`; a whole address without its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_address() {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.length)
        }
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::Prefix(text.to_owned());
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length = match length {
            None => whole(address),
            Some(length) => {
                let digits = length.bytes().all(|byte| byte.is_ascii_digit());
                let length = length.parse().ok().filter(|_| digits);
                let length = length.filter(|length| *length <= whole(address));
                length.ok_or_else(wrong)?
            }
        };
        let prefix = Self::of(address, length);
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(AddressError::BehindPrefix {
                text: text.to_owned(),
                right: prefix.to_string(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_are_read_and_shown() {
        for (text, shown) in [
            ("198.51.100.7", "198.51.100.7"),
            ("198.51.100.7/32", "198.51.100.7"),
            ("198.51.100.0/24", "198.51.100.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/64", "2001:db8::/64"),
            ("2001:db8::7/128", "2001:db8::7"),
        ] {
            assert_eq!(prefix(text).to_string(), shown);
        }
    }

    #[test]
    fn a_prefix_holds_only_the_bits_that_count() {
        for (address, length, kept) in [
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 8, "10.0.0.0/8"),
            ("10.1.2.3", 0, "0.0.0.0/0"),
            ("10.1.2.3", 99, "10.1.2.3"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("2001:db8:1::1", 33, "2001:db8::/33"),
            ("2001:db8::1", 0, "::/0"),
        ] {
            let prefix = Prefix::of(address.parse().unwrap(), length);
            assert_eq!(prefix.to_string(), kept);
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_what_is_one() {
        let sentence = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        for text in [
            "",
            "web",
            "198.51.100.7:80",
            "198.51.100.0/33",
            "198.51.100.0/",
            "198.51.100.0/+8",
            "198.51.100.0/24/8",
            "2001:db8::/129",
            "[2001:db8::7]",
        ] {
            assert_eq!(
                sentence(text),
                format!(
                    "`{text}` is neither an address nor a prefix: write `198.51.100.7`, `198.51.100.0/24` or `2001:db8::/64`"
                )
            );
        }
        assert_eq!(
            sentence("198.51.100.7/24"),
            "`198.51.100.7/24` has bits behind its prefix: write `198.51.100.0/24`"
        );
    }

    #[test]
    fn a_prefix_contains_longer_ones_of_its_family() {
        for (outer, inner, contains) in [
            ("198.51.100.0/24", "198.51.100.7", true),
            ("198.51.100.0/24", "198.51.100.0/24", true),
            ("198.51.100.0/24", "198.51.0.0/16", false),
            ("198.51.100.0/24", "198.51.101.7", false),
            ("0.0.0.0/0", "198.51.100.7", true),
            ("::/0", "198.51.100.7", false),
            ("2001:db8::/64", "2001:db8::7", true),
            ("2001:db8::7", "2001:db8::7", true),
        ] {
            assert_eq!(
                prefix(outer).contains(&prefix(inner)),
                contains,
                "{outer} {inner}"
            );
        }
    }
}

//! Filters in front of a service: which clients may open connections to it, and how many of them in a second. Pure.

use std::{fmt, net::IpAddr, ops::Deref, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    prefix::Prefix,
    setting::{SettingValue, Value, text},
};

/// The filter of a virtual service. The longest prefix that contains a client decides; a client that is in none may open connections
/// unless the service lets in only some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Prefixes of clients that may open connections; if there are any, others may not.
    pub allow: Prefixes,
    /// Prefixes of clients that may not.
    pub deny: Prefixes,
    /// How many connections each client may open.
    pub rate: Option<Rate>,
}

/// What of a filter decides about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterRule {
    /// A prefix in one of its lists.
    Prefix(Prefix),
    /// The client is in none of its prefixes, and it lets in only some.
    Others,
    /// Its limit.
    Rate,
}

impl Filter {
    /// Whether it lets all clients open as many connections as they like.
    #[must_use]
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// A rule in words: "deny 198.51.100.0/24".
    #[must_use]
    pub fn words(&self, rule: FilterRule, vip: IpAddr) -> String {
        match rule {
            FilterRule::Prefix(prefix) if self.allow.contains(&prefix) => format!("allow {prefix}"),
            FilterRule::Prefix(prefix) => format!("deny {prefix}"),
            FilterRule::Others => "not in allow".to_owned(),
            FilterRule::Rate => {
                let rate = self.rate.map(|rate| rate.in_full(vip));
                format!("rate {}", rate.as_deref().unwrap_or("none"))
            }
        }
    }
}

/// Prefixes, in the order in which they are given. Copies share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Arc<[Prefix]>);

impl Prefixes {
    /// Reads what an option gives: prefixes with commas between them; `none`, or nothing, for an empty list.
    ///
    /// # Errors
    /// One of them is no prefix: a sentence.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        if is_none(text) {
            return Ok(Self::default());
        }
        let prefixes = text.split(',').map(|one| one.trim().parse::<Prefix>());
        prefixes
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }
}

/// Whether an option says that there is to be none.
fn is_none(text: &str) -> bool {
    matches!(text.trim(), "" | "none")
}

impl Deref for Prefixes {
    type Target = [Prefix];

    fn deref(&self) -> &[Prefix] {
        &self.0
    }
}

impl FromIterator<Prefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        Self(prefixes.into_iter().collect())
    }
}

impl SettingValue for Prefixes {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        let Value::List(texts) = value else {
            return Err(format!(
                "{key} must be a list of prefixes in quotes, as in [\"198.51.100.0/24\"]"
            ));
        };
        let prefixes = texts.iter().map(|text| text.parse::<Prefix>());
        prefixes
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{key} {error}"))
    }

    fn written(&self) -> Value<'static> {
        if self.is_empty() {
            return Value::Unset;
        }
        Value::List(
            self.iter()
                .map(|prefix| prefix.to_string().into())
                .collect(),
        )
    }
}

impl Serialize for Prefixes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(ToString::to_string))
    }
}

/// For serde's `deserialize_with`: a list of prefixes, of which `null` is an empty one.
///
/// # Errors
/// Those of the deserializer, or one of them is no prefix.
pub fn prefixes<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Prefixes>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(value)?.unwrap_or_default();
    let prefixes = texts.iter().map(|text| text.parse::<Prefix>());
    prefixes
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(D::Error::custom)
}

/// How many connections a client may open in a second, and as many at once after a second without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Connections in a second, `1..=MAX_RATE`.
    pub per_second: u32,
    /// Clients whose addresses agree in a prefix of this length count as one; `None` = in [`default_length`].
    pub length: Option<u8>,
}

/// Clients of a family whose addresses agree in so many bits count as one, unless something else is said: of IPv6, whoever has an address
/// mostly has all 2^64 of its network.
#[must_use]
pub const fn default_length(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 64 }
}

impl Rate {
    /// The length of the prefix in which clients of a VIP's family agree that count as one.
    #[must_use]
    pub fn length_for(&self, vip: IpAddr) -> u8 {
        self.length.unwrap_or(default_length(vip))
    }

    /// As in `100/s per /32`, also where the length is the default.
    #[must_use]
    pub fn in_full(&self, vip: IpAddr) -> String {
        let length = Some(self.length_for(vip));
        Self { length, ..*self }.to_string()
    }
}

impl fmt::Display for Rate {
    /// As in `100/s per /24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)?;
        match self.length {
            Some(length) => write!(f, " per /{length}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads it; the error continues a sentence that begins with the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "is no limit of connections: write `100/s`, or `100/s per /24` for networks that count as one client".to_owned()
        };
        let mut words = text.split_ascii_whitespace();
        let number = words.next().and_then(|word| word.strip_suffix("/s"));
        let number = number
            .filter(|number| is_digits(number))
            .ok_or_else(wrong)?;
        let length = match (words.next(), words.next(), words.next()) {
            (None, None, None) => None,
            (Some("per"), Some(length), None) => {
                let length = length.strip_prefix('/').filter(|length| is_digits(length));
                let length = length.ok_or_else(wrong)?;
                // What is too long for any family, the validator refuses with what is allowed.
                Some(length.parse().unwrap_or(u8::MAX))
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            // As above.
            per_second: number.parse().unwrap_or(u32::MAX),
            length,
        })
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A service's limit as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSetting {
    /// None; JSON's `null`.
    Off,
    /// This one.
    Limit(Rate),
}

impl RateSetting {
    /// Reads what an option gives.
    ///
    /// # Errors
    /// It is no limit: a sentence.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        if is_none(text) {
            return Ok(Self::Off);
        }
        let rate = text.parse().map(Self::Limit);
        rate.map_err(|sentence| format!("`{text}` {sentence}; `none` ends it"))
    }

    /// The limit that it makes for a VIP.
    #[must_use]
    pub fn limit(self, vip: IpAddr) -> Option<Rate> {
        let Self::Limit(rate) = self else {
            return None;
        };
        let length = rate.length.filter(|length| *length != default_length(vip));
        Some(Rate { length, ..rate })
    }
}

impl From<Option<Rate>> for RateSetting {
    fn from(rate: Option<Rate>) -> Self {
        rate.map_or(Self::Off, Self::Limit)
    }
}

impl SettingValue for RateSetting {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        let text = text(key, value)?;
        let rate = text.parse().map(Self::Limit);
        rate.map_err(|sentence| format!("{key} `{text}` {sentence}"))
    }

    fn written(&self) -> Value<'static> {
        match self {
            Self::Off => Value::Unset,
            Self::Limit(rate) => Value::Text(rate.to_string().into()),
        }
    }
}

impl Serialize for RateSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_none(),
            Self::Limit(rate) => serializer.collect_str(rate),
        }
    }
}

/// For serde's `deserialize_with`: a limit, of which `null` is none.
///
/// # Errors
/// Those of the deserializer, or it is no limit.
pub fn rate<'de, D: Deserializer<'de>>(value: D) -> Result<Option<RateSetting>, D::Error> {
    let Some(text) = Option::<String>::deserialize(value)? else {
        return Ok(Some(RateSetting::Off));
    };
    let rate = text.parse().map(RateSetting::Limit).map(Some);
    rate.map_err(|sentence| D::Error::custom(format!("rate `{text}` {sentence}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_shown() {
        let v4 = "192.0.2.80".parse().unwrap();
        let v6 = "2001:db8::80".parse().unwrap();
        for (text, shown, full) in [
            ("100/s", "100/s", "100/s per /32"),
            ("100/s per /32", "100/s", "100/s per /32"),
            ("  7/s   per  /24 ", "7/s per /24", "7/s per /24"),
            ("1000000/s per /0", "1000000/s per /0", "1000000/s per /0"),
        ] {
            let rate = RateSetting::from_argument(text).unwrap().limit(v4).unwrap();
            assert_eq!(rate.to_string(), shown);
            assert_eq!(rate.in_full(v4), full);
        }
        let of_v6 = |text| RateSetting::from_argument(text).unwrap().limit(v6).unwrap();
        assert_eq!(of_v6("5/s").in_full(v6), "5/s per /64");
        assert_eq!(of_v6("5/s per /64").to_string(), "5/s");
        assert_eq!(of_v6("5/s per /32").to_string(), "5/s per /32");
        for text in ["none", ""] {
            assert_eq!(RateSetting::from_argument(text), Ok(RateSetting::Off));
        }
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_is_one() {
        for text in [
            "100",
            "/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "100/m",
            "100/s /32",
            "100/s per 32",
            "100/s per /",
            "100/s per /-1",
            "100/s per /32 please",
            "100 /s",
        ] {
            assert_eq!(
                RateSetting::from_argument(text).unwrap_err(),
                format!(
                    "`{text}` is no limit of connections: write `100/s`, or `100/s per /24` for networks that count as one client; \
                     `none` ends it"
                )
            );
        }
        // These are limits, but out of range.
        let rate: Rate = "99999999999/s per /999".parse().unwrap();
        assert_eq!(
            rate,
            Rate {
                per_second: u32::MAX,
                length: Some(u8::MAX)
            }
        );
    }

    #[test]
    fn lists_are_read_from_options() {
        let read = |text| Prefixes::from_argument(text).map(|read| read.to_vec());
        assert_eq!(read("none"), Ok(Vec::new()));
        assert_eq!(read(" "), Ok(Vec::new()));
        assert_eq!(
            read("198.51.100.0/24, 2001:db8::7"),
            Ok(vec![
                "198.51.100.0/24".parse().unwrap(),
                "2001:db8::7/128".parse().unwrap()
            ])
        );
        assert_eq!(
            read("198.51.100.7/24"),
            Err("`198.51.100.7/24` has bits behind its prefix: write `198.51.100.0/24`".to_owned())
        );
        assert!(
            read("198.51.100.0/24,")
                .unwrap_err()
                .starts_with("`` is neither")
        );
    }
}

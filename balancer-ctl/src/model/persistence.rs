//! Persistence: that a client's later connections go to the real server of its first. What may be set on it is listed here once, as
//! the settings of a service are in [`super::service`].

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    ServiceKey,
    argument::named,
    duration,
    key::{Key, key},
    names::names,
    prefix::{self, Prefix},
    setting::{self, Setting, SettingValue, Value, setting},
};

/// How long a client stays with a real server for which no timeout is given, as in IPVS.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// The persistence of a virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client stays with its real server after its latest connection began, `1 s..=MAX_TIMEOUT`.
    pub timeout: Duration,
    /// Prefix length, `1..=31` or `1..=127`: clients whose addresses agree in it are one. `None` = the whole address.
    pub netmask: Option<u8>,
    /// The services of one group share their clients' real servers, which are known by their addresses without the ports.
    pub group: Option<String>,
    /// What becomes of the clients of a draining real server.
    pub drain: PersistenceDrain,
}

impl Default for Persistence {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            netmask: None,
            group: None,
            drain: PersistenceDrain::default(),
        }
    }
}

impl fmt::Display for Persistence {
    /// In words: "5m netmask 24 group shop".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeout = duration::exact(self.timeout);
        f.write_str(&timeout)?;
        write_details(f, self.netmask, self.group.as_deref(), self.drain)
    }
}

/// Writes what is set beside the timeout: " netmask 24 group shop drain keep".
///
/// # Errors
/// Those of `to`.
pub fn write_details(
    to: &mut impl fmt::Write,
    netmask: Option<u8>,
    group: Option<&str>,
    drain: PersistenceDrain,
) -> fmt::Result {
    if let Some(netmask) = netmask {
        write!(to, " netmask {netmask}")?;
    }
    if let Some(group) = group {
        write!(to, " group {group}")?;
    }
    if drain != PersistenceDrain::default() {
        write!(to, " drain {}", drain.name())?;
    }
    Ok(())
}

/// What becomes of the clients that stay with a real server while it drains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PersistenceDrain {
    /// Their next connection goes to another real server, with which they stay from then on.
    #[default]
    Move,
    /// They stay with it until their timeout; only new clients go elsewhere.
    Keep,
}

names!(PersistenceDrain {
    Move = "move",
    Keep = "keep",
});

/// What may be set on a service's persistence; what is `None` has the default or keeps its value. Without a timeout it changes the
/// persistence that there is and begins none. The comments are the help of the options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct PersistenceSettings {
    /// A client's later connections go to the same real, until so long after the latest began: seconds, or as in 5m; bare 300, 0 = off
    #[arg(
        short = 'p',
        long = "persistent",
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "300",
        allow_negative_numbers = true,
        value_parser = seconds
    )]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "duration::option"
    )]
    pub timeout: Option<Duration>,
    /// Clients that agree in so much of their addresses stay together: a prefix length, or a mask as in 255.255.255.0
    #[arg(short = 'M', long, value_name = "PREFIX", allow_negative_numbers = true, value_parser = Netmask::from_argument)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "netmask"
    )]
    pub netmask: Option<Netmask>,
    /// Persistence shared with the other services of this group; '' = none
    #[arg(long, value_name = "NAME")]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "group"
    )]
    pub group: Option<String>,
    /// Clients of a real that drains: move, keep [default of a new service: move]
    #[arg(long = "persistence-drain", value_name = "WHAT", value_parser = named::<PersistenceDrain>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<PersistenceDrain>,
}

/// The settings as the file has them.
pub const PERSISTENCE_SETTINGS: [Setting<PersistenceSettings>; 4] = [
    setting!("timeout", timeout),
    setting!("netmask", netmask),
    Setting {
        written: |settings| {
            let group = settings.group.clone()?;
            Some(if group.is_empty() {
                Value::Unset
            } else {
                Value::Text(group.into())
            })
        },
        ..setting!("group", group)
    },
    setting!("drain", drain),
];

/// All keys of a service's `persistence`, as messages and the manual list them.
pub const PERSISTENCE_KEYS: [Key; 4] = [
    key(
        "timeout",
        "how long a client stays with its real server, 1s to 7days",
        "`5m`",
    ),
    key(
        "netmask",
        "clients that agree in so much of their addresses stay together: a prefix length, or for IPv4 a mask as in `\"255.255.255.0\"`",
        "the whole address",
    ),
    key(
        "group",
        "services with this group share their clients' real servers, which are known by their addresses, whatever the port, as `http` and `https` of a shop; named as a service is",
        "none",
    ),
    key(
        "drain",
        "clients of a real server that drains (weight 0, `drain`): `move` lets their next connection go elsewhere, `keep` lets them come back to it until their timeout, which does not end while they have a connection to it",
        "`move`",
    ),
];

impl PersistenceSettings {
    /// Settings that switch persistence off.
    #[must_use]
    pub fn off() -> Self {
        Self {
            timeout: Some(Duration::ZERO),
            ..Self::default()
        }
    }

    /// Whether they switch persistence off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.timeout.is_some_and(|timeout| timeout.is_zero())
    }

    /// What they make of a service's `present` persistence, where its VIP is `vip`.
    #[must_use]
    pub fn applied(self, present: Option<Persistence>, vip: IpAddr) -> Option<Persistence> {
        match (self.timeout, present) {
            _ if self.is_off() => None,
            (_, Some(present)) => Some(self.over(present, vip)),
            (Some(_), None) => Some(self.over(Persistence::default(), vip)),
            (None, None) => None,
        }
    }

    /// `persistence` with these settings, where the VIP is `vip`.
    #[must_use]
    pub fn over(self, persistence: Persistence, vip: IpAddr) -> Persistence {
        let whole = prefix::whole(vip);
        let netmask = match self.netmask {
            None => persistence.netmask,
            Some(Netmask::Whole) => None,
            Some(Netmask::Prefix(length) | Netmask::Dotted(length)) => Some(length),
        };
        let group = self.group.or(persistence.group);
        Persistence {
            timeout: self.timeout.unwrap_or(persistence.timeout),
            netmask: netmask.filter(|length| *length != whole),
            group: group.filter(|group| !group.is_empty()),
            drain: self.drain.unwrap_or(persistence.drain),
        }
    }

    /// Why they cannot be set on the service `key`, whose persistence is `present`, if so.
    #[must_use]
    pub fn refusal(&self, key: &ServiceKey, present: Option<&Persistence>) -> Option<String> {
        let is_on = match self.timeout {
            Some(_) => !self.is_off(),
            None => present.is_some(),
        };
        if is_on {
            return self.unfit(key.address.ip());
        }
        let settings = PERSISTENCE_SETTINGS.iter();
        let mut others = settings.filter(|setting| setting.key != "timeout");
        let other = others.find(|setting| (setting.written)(self).is_some());
        match other {
            Some(setting) => Some(format!(
                "{} without persistence: give service {key} a timeout too, as in `--persistent 300`",
                setting.key
            )),
            None if self.is_off() => None,
            None => Some("persistence without a timeout: give one, as in \"5m\"".to_owned()),
        }
    }

    /// Why they are none for a VIP of this family, if so; the validator tells what is out of range.
    #[must_use]
    pub fn unfit(&self, vip: IpAddr) -> Option<String> {
        let is_dotted = matches!(self.netmask, Some(Netmask::Dotted(_)));
        (is_dotted && vip.is_ipv6()).then(|| {
            "netmask of an IPv6 service must be a prefix length in 1..=128, as in 64".to_owned()
        })
    }

    /// Fills each unset setting with that of `persistence`, unless it has the default there. The timeout is always filled.
    #[must_use]
    pub fn or(mut self, persistence: &Persistence) -> Self {
        if !self.is_off() {
            let default = Self {
                timeout: None,
                ..Persistence::default().settings()
            };
            let all = persistence.settings();
            setting::fill(&PERSISTENCE_SETTINGS, &mut self, &all, &default);
        }
        self
    }
}

impl Persistence {
    /// All its settings.
    #[must_use]
    pub fn settings(&self) -> PersistenceSettings {
        let Self {
            timeout,
            netmask,
            group,
            drain,
        } = self;
        PersistenceSettings {
            timeout: Some(*timeout),
            netmask: netmask.map(Netmask::Prefix),
            group: group.clone(),
            drain: Some(*drain),
        }
    }
}

/// How much of a client's address counts, as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netmask {
    /// All of it; JSON's `null`.
    Whole,
    /// A prefix of this length, `1..=128`.
    Prefix(u8),
    /// An IPv4 prefix of this length, `1..=32`, written as in 255.255.255.0.
    Dotted(u8),
}

impl Netmask {
    fn prefix(number: i64) -> Result<Self, String> {
        let length = u8::try_from(number).ok();
        let length = length.filter(|length| (1..=128).contains(length));
        length
            .map(Self::Prefix)
            .ok_or_else(|| format!("{number} is out of range: 1..=32 for IPv4, 1..=128 for IPv6"))
    }

    fn dotted(text: &str) -> Result<Self, String> {
        let mask = text.parse::<Ipv4Addr>().map(u32::from).ok();
        let mask = mask.filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= u32::BITS);
        let length = mask.and_then(|mask| u8::try_from(mask.leading_ones()).ok());
        let length = length.filter(|length| *length > 0);
        length.map(Self::Dotted).ok_or_else(|| {
            format!(
                "`{text}` is no netmask: a prefix length, as in 24, or for IPv4 a mask as in 255.255.255.0"
            )
        })
    }

    /// Reads a value; the error continues a sentence that begins with the key.
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        match value {
            Value::Number(number) => Self::prefix(*number),
            Value::Text(text) => Self::dotted(text),
            Value::Flag(_) | Value::List(_) | Value::Unset | Value::Other => Err(
                "must be a prefix length, as in 24, or for IPv4 a mask, as in \"255.255.255.0\""
                    .to_owned(),
            ),
        }
    }

    /// Reads what an option gives.
    ///
    /// # Errors
    /// It is no netmask: a sentence.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        let number = text.parse().ok();
        number.map_or_else(|| Self::dotted(text), Self::prefix)
    }
}

impl SettingValue for Netmask {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        Self::from_value(value).map_err(|sentence| format!("{key} {sentence}"))
    }

    fn written(&self) -> Value<'static> {
        match self {
            Self::Whole => Value::Unset,
            Self::Prefix(length) => Value::Number((*length).into()),
            Self::Dotted(length) => Value::Text(mask(*length).to_string().into()),
        }
    }
}

/// The mask of so many bits of an IPv4 address.
#[must_use]
pub fn mask(length: u8) -> IpAddr {
    Prefix::of(Ipv4Addr::BROADCAST.into(), length).address
}

impl Serialize for Netmask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole => serializer.serialize_none(),
            Self::Prefix(length) => serializer.serialize_u8(*length),
            Self::Dotted(length) => serializer.collect_str(&mask(*length)),
        }
    }
}

impl<'de> Deserialize<'de> for Netmask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given<'a> {
            Number(i64),
            Text(#[serde(borrow)] Cow<'a, str>),
            Flag(bool),
            Other(serde::de::IgnoredAny),
        }
        let given = Given::deserialize(deserializer)?;
        let value = match given {
            Given::Number(number) => Value::Number(number),
            Given::Text(text) => Value::Text(text),
            Given::Flag(flag) => Value::Flag(flag),
            Given::Other(_) => Value::Other,
        };
        Self::from_value(&value).map_err(D::Error::custom)
    }
}

/// Reads a netmask; `null` is the whole address.
fn netmask<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Netmask>, D::Error> {
    let netmask = Option::deserialize(value)?;
    Ok(Some(netmask.unwrap_or(Netmask::Whole)))
}

/// Reads a group's name; `null` is none.
fn group<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let group = Option::deserialize(value)?;
    Ok(Some(group.unwrap_or_default()))
}

/// For serde's `deserialize_with`: settings of persistence, of which `null` is none.
///
/// # Errors
/// Those of the deserializer.
pub fn or_off<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<PersistenceSettings>, D::Error> {
    let settings = Option::deserialize(value)?;
    Ok(Some(settings.unwrap_or_else(PersistenceSettings::off)))
}

/// Parses the timeout on the command line: seconds, as in ipvsadm, or a duration.
fn seconds(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    duration::parse(text).map_err(|_| {
        "expected a number of seconds, or one with its unit as in 5m; with neither, write -p last"
            .to_owned()
    })
}

#[cfg(test)]
mod tests;

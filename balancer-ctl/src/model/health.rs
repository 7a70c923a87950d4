//! Administrative states, health policies of services, and what agents request.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::model::{duration, names::names};

/// Administrative state of a real server, which the operator sets, or its agent requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// It serves.
    #[default]
    Ready,
    /// It keeps its connections and takes no new ones.
    Drain,
    /// It is down on purpose: not probed, no new connections, and its old ones as `on-down` says.
    Maintenance,
}

names!(AdminState {
    Ready = "ready",
    Drain = "drain",
    Maintenance = "maintenance",
});

/// How a service reacts to the health of its real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// What becomes of the connections of a real server that went down.
    pub on_down: OnDown,
    /// How long the weight of a real server that came back takes to grow to its full value; zero = it is full at once.
    pub slow_start: Duration,
    /// Least live weight that the service needs; at least 1.
    pub quorum: u32,
    /// Quorum is lost below `quorum - hysteresis` and regained at `quorum + hysteresis`; less than `quorum`.
    pub hysteresis: u32,
    /// Which backups step in.
    pub backups: Backups,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            on_down: OnDown::default(),
            slow_start: Duration::ZERO,
            quorum: 1,
            hysteresis: 0,
            backups: Backups::default(),
        }
    }
}

/// What becomes of the connections of a real server that went down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// They stay.
    Keep,
    /// A TCP client's next packet is answered with a reset, a UDP client's goes to another real server.
    #[default]
    Reset,
    /// They stay this long, then as `Reset`.
    ResetAfter(Duration),
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Reset => f.write_str("reset"),
            Self::ResetAfter(delay) => write!(f, "reset-after {}", duration::exact(*delay)),
        }
    }
}

impl Serialize for OnDown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnDown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|sentence: String| D::Error::custom(format!("`{text}` {sentence}")))
    }
}

impl FromStr for OnDown {
    type Err = String;

    /// Reads `keep`, `reset` or `reset-after DURATION`; the error continues a sentence that begins with the key and the
    /// value.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "reset" => Ok(Self::Reset),
            _ => text
                .strip_prefix("reset-after ")
                .and_then(|delay| duration::parse(delay.trim()).ok())
                .map(Self::ResetAfter)
                .ok_or_else(|| {
                    "is not known: expected `keep`, `reset` or `reset-after DURATION`, as in \"reset-after 30s\""
                        .to_owned()
                }),
        }
    }
}

/// Which backups step in when they are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backups {
    /// The first that is up, in the service's order.
    #[default]
    First,
    /// All that are up.
    All,
}

names!(Backups {
    First = "first",
    All = "all",
});

/// The weight and administrative state that a real server requests. `None` = as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRequest {
    /// Administrative state: ready, drain or maintenance.
    pub state: Option<AdminState>,
    /// Weight to use instead of the configured one.
    pub weight: Option<RequestedWeight>,
}

impl AgentRequest {
    /// Merges two requests: each field of `other` that is set wins.
    #[must_use]
    pub fn overridden_by(self, other: Self) -> Self {
        Self {
            state: other.state.or(self.state),
            weight: other.weight.or(self.weight),
        }
    }
}

/// A weight that a real server requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestedWeight {
    /// Replaces the configured weight.
    Absolute(u32),
    /// Per cent of the configured weight.
    Percent(u32),
}

impl fmt::Display for RequestedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(weight) => weight.fmt(f),
            Self::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

//! A real server and what may be set on it: the one place that lists the settings. The file's reader and writer, the API's
//! bodies, the options of `add-real` and `edit-real` and the events all follow from [`RealSettings`] and [`REAL_SETTINGS`].

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{
    AdminState, ForwardMethod,
    argument::{named, number},
    key::{Key, key},
    limits::{MAX_THRESHOLD, MAX_WEIGHT},
    setting::{self, Setting, setting},
};

/// Weight of a real server for which none is given.
pub const DEFAULT_WEIGHT: u32 = 1;

/// A real server of a virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Address and port; port 0 only in a service on every port.
    pub address: SocketAddr,
    /// Share of new connections, `0..=MAX_WEIGHT`; 0 = draining.
    pub weight: u32,
    /// How packets reach it; `None` = as its service says.
    pub forwarding: Option<ForwardMethod>,
    /// Connections at which it takes no new ones, `0..=MAX_THRESHOLD`; 0 = no limit.
    pub upper: u32,
    /// Connections below which it takes new ones again; 0 = three quarters of `upper`.
    pub lower: u32,
    /// Whether it serves only when the others cannot.
    pub backup: bool,
    /// Its administrative state, set by the operator.
    pub state: AdminState,
    /// Whether it (or its last change) is not in the configuration file.
    pub runtime: bool,
}

/// What may be set on a real server; what is `None` has the default or keeps its value. The comments are the help of the
/// options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct RealSettings {
    /// Its share of new connections, 0..=65535; 0 = draining [default of a new real: 1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number(text, 0..=MAX_WEIGHT))]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "number_up_to::<MAX_WEIGHT, _>"
    )]
    pub weight: Option<u32>,
    /// Forward by destination NAT, replies come back through the balancer (default, unless the service says otherwise)
    #[arg(
        short = 'm',
        long = "nat",
        num_args = 0,
        default_missing_value = "nat",
        value_parser = named::<ForwardMethod>
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<ForwardMethod>,
    /// Connections at which it takes no new ones; 0 = no limit [default of a new real: 0]
    #[arg(short = 'x', long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number(text, 0..=MAX_THRESHOLD))]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "number_up_to::<MAX_THRESHOLD, _>"
    )]
    pub upper: Option<u32>,
    /// Connections below which it takes new ones again; 0 = 3/4 of --upper [default of a new real: 0]
    #[arg(short = 'y', long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number(text, 0..=MAX_THRESHOLD))]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "number_up_to::<MAX_THRESHOLD, _>"
    )]
    pub lower: Option<u32>,
    /// It serves only when the others cannot
    #[arg(
        long,
        num_args = 0,
        default_missing_value = "true",
        conflicts_with = "no_backup"
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
    /// Its administrative state, which has commands of its own.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// The settings as the file has them.
pub const REAL_SETTINGS: [Setting<RealSettings>; 6] = [
    setting!("weight", weight, 0..=MAX_WEIGHT),
    setting!("forwarding", forwarding),
    setting!("upper", upper, 0..=MAX_THRESHOLD),
    setting!("lower", lower, 0..=MAX_THRESHOLD),
    setting!("backup", backup),
    setting!("state", state),
];

/// All keys of `[[service.real]]`, as messages and the manual list them.
pub const REAL_KEYS: [Key; 7] = [
    key(
        "address",
        "address and port; without a port, the service's",
        "must be named",
    ),
    key(
        "weight",
        "its share of new connections, 0 to 65535; 0 = it gets none and keeps those it has",
        "1",
    ),
    key(
        "forwarding",
        "how packets reach it: `nat`, or `full-nat`, where clients have an address of the balancer to it",
        "the service's",
    ),
    key(
        "upper",
        "connections, active and inactive (a flood of forged SYNs fills it for a minute), at which it gets no new ones, 0 to 16777216; 0 = no limit",
        "0",
    ),
    key(
        "lower",
        "connections below which it gets new ones again, at most `upper`; 0 = three quarters of `upper`",
        "0",
    ),
    key(
        "backup",
        "whether it serves only when the others cannot: `true` or `false`",
        "`false`",
    ),
    key(
        "state",
        "what the operator decided: `ready`, `drain` or `maintenance`",
        "`ready`",
    ),
];

impl RealServer {
    /// A real server with all defaults.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: DEFAULT_WEIGHT,
            forwarding: None,
            upper: 0,
            lower: 0,
            backup: false,
            state: AdminState::default(),
            runtime: false,
        }
    }

    /// Changes what is set in `settings`.
    pub fn set(&mut self, settings: RealSettings) {
        let RealSettings {
            weight,
            forwarding,
            upper,
            lower,
            backup,
            state,
        } = settings;
        self.weight = weight.unwrap_or(self.weight);
        self.forwarding = forwarding.or(self.forwarding);
        self.upper = upper.unwrap_or(self.upper);
        self.lower = lower.unwrap_or(self.lower);
        self.backup = backup.unwrap_or(self.backup);
        self.state = state.unwrap_or(self.state);
    }

    /// All its settings.
    #[must_use]
    pub const fn settings(&self) -> RealSettings {
        let Self {
            address: _,
            weight,
            forwarding,
            upper,
            lower,
            backup,
            state,
            runtime: _,
        } = self;
        RealSettings {
            weight: Some(*weight),
            forwarding: *forwarding,
            upper: Some(*upper),
            lower: Some(*lower),
            backup: Some(*backup),
            state: Some(*state),
        }
    }

    /// Its share of the clients where they are hashed: its configured weight, whatever its health and state, so that no client of
    /// another real server moves when those change. A weight of 0 counts as `lightest`, the service's lightest. `serves` tells
    /// whether it has its turn: a backup that stands by has no share.
    #[must_use]
    pub const fn hash_weight(&self, lightest: u32, serves: bool) -> u32 {
        match self.weight {
            _ if !serves => 0,
            0 => lightest,
            weight => weight,
        }
    }

    /// Those of its settings that are not the default.
    #[must_use]
    pub fn settings_beside_defaults(&self) -> RealSettings {
        RealSettings::default().or(self)
    }
}

impl RealSettings {
    /// Fills each unset setting with that of `real`, unless it has the default there.
    #[must_use]
    pub fn or(mut self, real: &RealServer) -> Self {
        let default = RealServer::new(real.address).settings();
        setting::fill(&REAL_SETTINGS, &mut self, &real.settings(), &default);
        self
    }
}

/// Reads a number. One that is no `u32` is refused here, with the range; the validator checks all others.
fn number_up_to<'de, const MOST: u32, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<u32>, D::Error> {
    let out_of_range = |number| D::Error::custom(format!("{number} is out of range: 0..={MOST}"));
    let number = Option::<i64>::deserialize(value)?;
    number
        .map(|number| u32::try_from(number).map_err(|_| out_of_range(number)))
        .transpose()
}

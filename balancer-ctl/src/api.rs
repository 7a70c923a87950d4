//! The control socket: HTTP/1.1 with JSON. Here are the bodies of requests; answers are in [`crate::model::view`].

pub mod accept;
pub mod client;
mod connections;
pub mod daemon_handle;
pub mod follow;
pub mod listen;
mod refusal;
pub mod server;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    config::read,
    model::{
        AdminState, Backups, Check, ForwardMethod, MAX_WEIGHT, NoReal, Protocol, Scheduler,
        change::{RealSettings, ServiceSettings},
        duration,
        error::ApiError,
        toml_json,
    },
};

/// Body of `POST /v1/services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewService {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// With no real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_real: Option<NoReal>,
    /// What becomes of the connections of a real server that went down, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<String>,
    /// How long a real server's weight grows after it came back, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// Least live weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// How far from the quorum it is lost and regained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<u32>,
    /// Which backups step in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    /// All its checks in the file's keys: an object, or a list of them; empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<serde_json::Value>,
}

/// Body of `PATCH /v1/services/{service}`; what is absent keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditService {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// With no real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_real: Option<NoReal>,
    /// What becomes of the connections of a real server that went down, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<String>,
    /// How long a real server's weight grows after it came back, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// Least live weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// How far from the quorum it is lost and regained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<u32>,
    /// Which backups step in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    /// All its checks in the file's keys: an object, or a list of them; empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<serde_json::Value>,
}

/// Body of `POST /v1/services/{service}/reals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReal {
    /// `ADDRESS[:PORT]`.
    pub address: String,
    /// Weight.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "weight"
    )]
    pub weight: Option<u32>,
    /// Forwarding method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<ForwardMethod>,
    /// Whether it serves only when the others cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
    /// Administrative state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// Body of `PATCH /v1/services/{service}/reals/{real}`; what is absent keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditReal {
    /// Weight.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "weight"
    )]
    pub weight: Option<u32>,
    /// Forwarding method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<ForwardMethod>,
    /// Whether it serves only when the others cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
    /// Administrative state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

impl NewService {
    /// Its settings, as those of a service that is changed.
    fn settings(self) -> Result<ServiceSettings, ApiError> {
        EditService {
            name: self.name,
            scheduler: self.scheduler,
            no_real: self.no_real,
            on_down: self.on_down,
            slow_start: self.slow_start,
            quorum: self.quorum,
            hysteresis: self.hysteresis,
            backups: self.backups,
            check: self.check,
        }
        .settings()
    }
}

impl EditService {
    fn settings(self) -> Result<ServiceSettings, ApiError> {
        let Self {
            name,
            scheduler,
            no_real,
            on_down,
            slow_start,
            quorum,
            hysteresis,
            backups,
            check,
        } = self;
        Ok(ServiceSettings {
            name,
            scheduler,
            no_real,
            checks: check.map(|check| checks(&check)).transpose()?,
            on_down: worded("on_down", on_down, str::parse)?,
            slow_start: worded("slow_start", slow_start, duration::parse)?,
            quorum,
            hysteresis,
            backups,
        })
    }
}

/// The checks that a body means; the file's reader judges them.
fn checks(json: &serde_json::Value) -> Result<Vec<Check>, ApiError> {
    toml_json::from_json(json)
        .and_then(read::checks)
        .map_err(|sentence| ApiError::invalid(format!("check: {sentence}")))
}

fn worded<T>(
    key: &str,
    value: Option<String>,
    rule: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    match rule(&value) {
        Ok(value) => Ok(Some(value)),
        Err(sentence) => Err(ApiError::invalid(format!("{key} `{value}` {sentence}"))),
    }
}

impl NewReal {
    const fn settings(&self) -> RealSettings {
        RealSettings {
            weight: self.weight,
            forwarding: self.forwarding,
            backup: self.backup,
            state: self.state,
        }
    }
}

impl EditReal {
    const fn settings(&self) -> RealSettings {
        RealSettings {
            weight: self.weight,
            forwarding: self.forwarding,
            backup: self.backup,
            state: self.state,
        }
    }
}

/// Any whole number is told its range; the validator knows what is in it.
fn weight<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    let out_of_range =
        |number| D::Error::custom(format!("{number} is out of range: 0..={MAX_WEIGHT}"));
    let number = Option::<i64>::deserialize(value)?;
    number
        .map(|number| u32::try_from(number).map_err(|_| out_of_range(number)))
        .transpose()
}

/// Answer to a change: a sentence about what is not part of the change itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResult {
    /// What the operator should know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The sentence.
    pub error: String,
}

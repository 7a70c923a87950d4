//! The control socket: HTTP/1.1 with JSON. Here are the bodies of requests; answers are in [`crate::view`].

pub mod accept;
pub mod client;
pub mod follow;
pub mod listen;
pub mod server;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::model::{ForwardMethod, MAX_WEIGHT, NoReal, Protocol, Scheduler};

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
pub struct Done {
    /// What the operator should know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The sentence.
    pub error: String,
}

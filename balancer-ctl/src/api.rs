//! The control socket's API: HTTP/1.1 with JSON. The bodies of requests contain the model's settings; the types of answers are
//! in [`crate::model::view`].

pub mod accept;
mod answer;
mod body;
pub mod client;
mod connections;
pub mod daemon_handle;
pub mod follow;
pub mod listen;
mod lists;
mod nodes;
mod persistence;
mod refusal;
mod replace;
mod request;
pub mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    body::{NewReal, NewService},
    replace::{AllServices, WholeService},
};
pub use crate::model::view::ChangeResult;
use crate::{
    config::read,
    model::{Check, RealSettings, ServiceSettings, error::ApiError, toml_json},
};

/// Body of `PATCH /v1/services/{service}`; what is absent keeps its value.
pub type EditService = ServiceSettings<serde_json::Value>;
/// Body of `PATCH /v1/services/{service}/reals/{real}`; what is absent keeps its value.
pub type EditReal = RealSettings;

/// Reads the checks of a body, as those of the file are read.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is passed to `with_checks`"
)]
fn checks(json: serde_json::Value) -> Result<Vec<Check>, ApiError> {
    toml_json::from_json(&json)
        .and_then(read::checks)
        .map_err(|sentence| ApiError::invalid(format!("check: {sentence}")))
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The sentence.
    pub error: String,
}

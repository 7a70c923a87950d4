//! What requests carry: names, queries and bodies; each comes with the sentence about what is wrong with it. What is answered to a change.

use std::convert::Infallible;

use axum::{
    extract::{Path, Query},
    response::{IntoResponse as _, Response},
};
use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeOwned, Error as _},
};

use super::{ChangeResult, answer::Json, refusal::Refused};
use crate::{
    control::{daemon::Scope, load::check_problem},
    model::{address, error::ApiError, service::ServiceSettings},
};

/// How many items are listed if the request names no limit.
const DEFAULT_LIMIT: usize = 1000;

/// What a handler returns.
pub type Answer = Result<Response, Refused>;

/// For serde's `deserialize_with`: a limit in a query.
///
/// # Errors
/// It is no number.
pub fn limit<'de, D: Deserializer<'de>>(value: D) -> Result<Option<usize>, D::Error> {
    let text = String::deserialize(value)?;
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format!(
            "`{text}` is not a whole number from 0 (for all) on"
        ))
    })
}

/// The limit of a list, given that of the request; `None` = all are listed.
pub const fn or_default(limit: Option<usize>) -> Option<usize> {
    match limit {
        None => Some(DEFAULT_LIMIT),
        // 0 stands for all.
        Some(0) => None,
        some => some,
    }
}

/// Reads what a request names.
///
/// # Errors
/// It has another form.
pub fn parsed<T: std::str::FromStr<Err = address::AddressError>>(
    text: &str,
) -> Result<T, ApiError> {
    text.parse().map_err(invalid)
}

/// The refusal of what has another form.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
pub fn invalid(error: address::AddressError) -> ApiError {
    ApiError::invalid(error.to_string())
}

/// Whether a change outlives the next load of the file, given the request's `runtime`.
pub const fn scope(runtime: bool) -> Scope {
    if runtime { Scope::Runtime } else { Scope::File }
}

/// Refuses settings whose checks name files or programs that are missing or bad. This is done here because a slow disk would
/// delay the daemon.
///
/// # Errors
/// They do; the sentence names the file.
pub async fn check_files(settings: ServiceSettings) -> Result<ServiceSettings, ApiError> {
    if settings.checks.as_ref().is_none_or(Vec::is_empty) {
        return Ok(settings);
    }
    let checked = tokio::task::spawn_blocking(move || {
        let checks = settings.checks.iter().flatten();
        let problem = checks.filter_map(check_problem).next();
        problem.map_or(Ok(settings), |sentence| Err(ApiError::invalid(sentence)))
    });
    checked
        .await
        .map_err(|error| ApiError::failed(format!("cannot look at files: {error}")))?
}

/// Reads the body of a request.
///
/// # Errors
/// It is no JSON, or another type's.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut body = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut body).map_err(|error| {
        let (field, reason) = (error.path(), error.inner().to_string());
        // A wrong value of a setting is refused with the same sentence as in the file: "on_down `never` is not known: …".
        match reason.rsplit_once(" at line ") {
            Some((reason, _)) if reason.starts_with('`') => {
                ApiError::invalid(format!("{field} {reason}"))
            }
            _ => ApiError::invalid(format!("the request's body: {error}")),
        }
    })?;
    body.end()
        .map_err(|error| ApiError::invalid(format!("the request's body: {error}")))?;
    Ok(value)
}

/// The parameters in a path, or the sentence about what is wrong with them.
pub struct Segments<T>(pub Result<T, ApiError>);

impl<T: DeserializeOwned + Send, S: Send + Sync> axum::extract::FromRequestParts<S>
    for Segments<T>
{
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Infallible> {
        let segments = Path::<T>::from_request_parts(parts, state).await;
        Ok(Self(segments.map(|Path(names)| names).map_err(
            |rejection| ApiError::invalid(format!("the request's path: {}", rejection.body_text())),
        )))
    }
}

/// A query string, or the sentence about what is wrong with it.
pub struct Parameters<T>(pub Result<T, ApiError>);

impl<T: DeserializeOwned, S: Send + Sync> axum::extract::FromRequestParts<S> for Parameters<T> {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Infallible> {
        Ok(Self(match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(query),
            Err(rejection) => Err(ApiError::invalid(format!(
                "the request's query: {}",
                rejection.body_text()
            ))),
        }))
    }
}

/// The answer to a change that was made, with what there is to say of it.
#[expect(clippy::unnecessary_wraps, reason = "handlers return it")]
pub fn done(notes: Vec<String>) -> Answer {
    let result = ChangeResult {
        notes,
        ..ChangeResult::default()
    };
    Ok(Json(result).into_response())
}

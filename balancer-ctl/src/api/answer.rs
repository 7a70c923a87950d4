//! Bodies in JSON. Each ends with a newline, so that what a terminal shows next begins on a line of its own.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::os::printable::printable_json;

/// A value as a JSON document of which a terminal shows all.
///
/// # Errors
/// It has no form in JSON.
pub fn json_text(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(printable_json(&serde_json::to_string(value)?))
}

/// An answer in JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match json_text(&self.0) {
            Ok(text) => ([(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the answer cannot be written: {error}\n"),
            )
                .into_response(),
        }
    }
}

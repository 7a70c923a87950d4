//! Refused requests as HTTP answers.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{ErrorBody, answer::Json};
use crate::{
    model::error::{ApiError, ApiErrorKind},
    os::printable::printable_lines,
};

/// A refused request: status and sentence of the HTTP answer.
#[derive(Debug)]
pub struct Refused(pub StatusCode, pub String);

impl From<ApiError> for Refused {
    fn from(refusal: ApiError) -> Self {
        let status = match refusal.kind {
            ApiErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
            ApiErrorKind::Conflict => StatusCode::CONFLICT,
            ApiErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refusal.sentence)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refuse(self.0, self.1)
    }
}

/// An HTTP answer whose body is an error's sentence.
pub fn refuse(status: StatusCode, sentence: impl Into<String>) -> Response {
    (
        status,
        Json(ErrorBody {
            error: printable_lines(&sentence.into()),
        }),
    )
        .into_response()
}

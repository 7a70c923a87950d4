//! Why a request was refused: the kind, which becomes an HTTP status, and a sentence for the user.

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiErrorKind {
    /// The request itself is wrong.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// It contradicts what exists.
    Conflict,
    /// The daemon could not carry it out.
    Failed,
}

/// A refused request: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct ApiError {
    /// What kind of refusal.
    pub kind: ApiErrorKind,
    /// What is wrong and what to do.
    pub sentence: String,
}

impl ApiError {
    /// The request itself is wrong.
    pub fn invalid(sentence: impl Into<String>) -> Self {
        Self {
            kind: ApiErrorKind::Invalid,
            sentence: sentence.into(),
        }
    }

    /// What the request names does not exist.
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self {
            kind: ApiErrorKind::NotFound,
            sentence: sentence.into(),
        }
    }

    /// The request contradicts what exists.
    pub fn conflict(sentence: impl Into<String>) -> Self {
        Self {
            kind: ApiErrorKind::Conflict,
            sentence: sentence.into(),
        }
    }

    /// The daemon could not carry the request out.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self {
            kind: ApiErrorKind::Failed,
            sentence: sentence.into(),
        }
    }
}

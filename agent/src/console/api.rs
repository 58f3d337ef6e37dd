//! Responses of the console's API: JSON, or a [`ApiError`] with an error code and a message that
//! says what to do; and the parsing of query parameters, including the requested range of a list.

use axum::{
    Json,
    extract::Query,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use streamhouse_core::{Error, ErrorCode};

/// The result of an API request.
pub(super) type ApiResult<T> = Result<Json<T>, ApiError>;

/// An error response of the API.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    error: Error,
}

impl ApiError {
    /// Creates an error with a status of its own.
    pub(super) fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }

    /// Creates the error for an unknown path.
    pub(super) fn not_found(message: &'static str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Error::new(ErrorCode::InvalidRequest, message),
        )
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self {
            status: http_status(error.code()),
            error,
        }
    }
}

impl From<streamhouse_metadata::Error> for ApiError {
    fn from(error: streamhouse_metadata::Error) -> Self {
        Error::from(error).into()
    }
}

/// Maps an error code to the HTTP status for clients that do not read the body.
fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::GroupIdNotFound => StatusCode::NOT_FOUND,
        ErrorCode::SaslAuthenticationFailed => StatusCode::UNAUTHORIZED,
        ErrorCode::ClusterAuthorizationFailed
        | ErrorCode::GroupAuthorizationFailed
        | ErrorCode::TopicAuthorizationFailed => StatusCode::FORBIDDEN,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidTopic
        | ErrorCode::InvalidGroupId
        | ErrorCode::OffsetOutOfRange => StatusCode::BAD_REQUEST,
        ErrorCode::RequestTimedOut => StatusCode::GATEWAY_TIMEOUT,
        code if code.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({
            "error": {
                "code": self.error.code().name(),
                "message": self.error.message(),
                "retryable": self.error.is_retryable(),
            }
        });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let later = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, later);
        }
        response
    }
}

/// Parses the query parameters.
///
/// # Errors
/// `InvalidRequest` if a parameter is unknown, repeated or of the wrong type.
pub(super) fn parse_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let asked = Query::<T>::try_from_uri(uri).map_err(|error| {
        let message = error.to_string();
        Error::new(
            ErrorCode::InvalidRequest,
            message.replace("Failed to deserialize query string", "the request's parameters"),
        )
    })?;
    Ok(asked.0)
}

/// A range of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub(super) struct PageRange {
    /// Number of items before the range.
    pub(super) offset: usize,
    /// Maximum number of items in the range.
    pub(super) limit: usize,
}

impl PageRange {
    /// Creates the range that a request asks for: `usual` items if it names no limit, and never
    /// more than `most`.
    pub(super) fn new(offset: Option<usize>, limit: Option<usize>, usual: usize, most: usize) -> Self {
        Self {
            offset: offset.unwrap_or(0),
            limit: limit.unwrap_or(usual).clamp(1, most),
        }
    }

    /// Returns the items of this range.
    pub(super) fn select<T>(self, items: impl Iterator<Item = T>) -> Vec<T> {
        items.skip(self.offset).take(self.limit).collect()
    }
}

/// Returns whether `name` contains `wanted`, ignoring case; an empty `wanted` matches every name.
pub(super) fn name_contains(name: &str, wanted: &str) -> bool {
    wanted.is_empty() || name.to_lowercase().contains(&wanted.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TestQuery {
        limit: Option<usize>,
    }

    #[test]
    fn a_parameter_that_makes_no_sense_is_refused() {
        let asked = |uri: &'static str| parse_query::<TestQuery>(&Uri::from_static(uri));
        assert_eq!(asked("/topics?limit=7").unwrap().limit, Some(7));
        assert_eq!(asked("/topics").unwrap().limit, None);
        for bad in [
            "/topics?limit=x",
            "/topics?limit=-1",
            "/topics?limti=1",
            "/topics?limit=1&limit=2",
        ] {
            let problem = asked(bad).unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{bad}");
            assert_eq!(problem.error.code(), ErrorCode::InvalidRequest, "{bad}");
        }
    }

    #[test]
    fn a_part_of_a_list_is_bounded() {
        let part = |offset, limit| PageRange::new(offset, limit, 2, 3).select(0..10);
        assert_eq!(part(None, None), [0, 1]);
        assert_eq!(part(Some(8), Some(1000)), [8, 9]);
        assert_eq!(part(Some(1), Some(0)), [1], "the minimum is one item");
        assert_eq!(part(Some(usize::MAX), Some(usize::MAX)), [0; 0]);
    }

    #[test]
    fn every_code_has_a_status_that_tells_who_has_to_do_something() {
        for &code in ErrorCode::ALL {
            let status = http_status(code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            assert!(!(status.is_client_error() && code == ErrorCode::StorageCorrupt));
        }
    }
}

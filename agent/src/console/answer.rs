//! What the console's data is answered with: JSON, or a [`Problem`] with a code and a message that says what to do. And how a
//! request says which part of a long list it wants.

use axum::{
    Json,
    extract::Query,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use streamhouse_core::{Error, ErrorCode};

/// The answer to a request for data.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: Error,
}

impl Problem {
    /// With a status of its own.
    pub(super) fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }

    /// Nothing stands at this address.
    pub(super) fn not_found(message: &'static str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Error::new(ErrorCode::InvalidRequest, message),
        )
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            status: status(error.code()),
            error,
        }
    }
}

impl From<streamhouse_metadata::Error> for Problem {
    fn from(error: streamhouse_metadata::Error) -> Self {
        Error::from(error).into()
    }
}

/// The status that says the same to programs that know only HTTP.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::GroupIdNotFound => StatusCode::NOT_FOUND,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidTopic
        | ErrorCode::InvalidGroupId
        | ErrorCode::OffsetOutOfRange => StatusCode::BAD_REQUEST,
        ErrorCode::RequestTimedOut => StatusCode::GATEWAY_TIMEOUT,
        code if code.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
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

/// What a request asks for; a parameter that is unknown or of the wrong kind is refused.
pub(super) fn asked<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let asked = Query::<T>::try_from_uri(uri).map_err(|error| {
        let message = error.to_string();
        Error::new(
            ErrorCode::InvalidRequest,
            message.replace("Failed to deserialize query string", "the request's parameters"),
        )
    })?;
    Ok(asked.0)
}

/// A part of a list: from where, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub(super) struct Part {
    /// Items before it.
    pub(super) offset: usize,
    /// Items at most.
    pub(super) limit: usize,
}

impl Part {
    /// From what a request says, with so many when it does not say, and never more than `most`.
    pub(super) fn new(offset: Option<usize>, limit: Option<usize>, usual: usize, most: usize) -> Self {
        Self {
            offset: offset.unwrap_or(0),
            limit: limit.unwrap_or(usual).clamp(1, most),
        }
    }

    /// This part of all items.
    pub(super) fn of<T>(self, items: impl Iterator<Item = T>) -> Vec<T> {
        items.skip(self.offset).take(self.limit).collect()
    }
}

/// Whether a name holds the text that is looked for, whatever the case of both.
pub(super) fn holds(name: &str, wanted: &str) -> bool {
    wanted.is_empty() || name.to_lowercase().contains(&wanted.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        limit: Option<usize>,
    }

    #[test]
    fn a_parameter_that_makes_no_sense_is_refused() {
        let asked = |uri: &'static str| asked::<Asked>(&Uri::from_static(uri));
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
        let part = |offset, limit| Part::new(offset, limit, 2, 3).of(0..10);
        assert_eq!(part(None, None), [0, 1]);
        assert_eq!(part(Some(8), Some(1000)), [8, 9]);
        assert_eq!(part(Some(1), Some(0)), [1], "none at all is of no use");
        assert_eq!(part(Some(usize::MAX), Some(usize::MAX)), [0; 0]);
    }

    #[test]
    fn every_code_has_a_status_that_tells_who_has_to_do_something() {
        for &code in ErrorCode::ALL {
            let status = status(code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            assert!(!(status.is_client_error() && code == ErrorCode::StorageCorrupt));
        }
    }
}

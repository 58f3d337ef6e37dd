//! Translates errors of S3 and the SDK into [`StoreError`]s that say what to do.

use std::{error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use super::{
    super::{StoreError, StoreErrorKind},
    environment::MalformedCredentials,
};

/// Describes one request, for its error messages.
pub(super) struct S3Attempt<'a> {
    pub(super) what: &'static str,
    pub(super) key: &'a str,
    pub(super) bucket: &'a str,
}

impl S3Attempt<'_> {
    /// Translates the failure of a request.
    pub(super) fn translate<E>(&self, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let response = error.raw_response();
        let status = response.map(|response| response.status().as_u16());
        match error {
            SdkError::ServiceError(service) => {
                let retry_after = response.and_then(|response| response.headers().get("retry-after"));
                let retry_after = retry_after
                    .and_then(|seconds| seconds.parse().ok())
                    .map(Duration::from_secs);
                self.service_error(service.err().code(), service.err().message(), status, retry_after)
            }
            SdkError::ResponseError(_) => match status {
                // A proxy in front of the store may respond in another format than XML.
                Some(status @ 300..) => self.service_error(None, None, Some(status), None),
                _ => self.unavailable(&format!(
                    "the response cannot be parsed: {}",
                    DisplayErrorContext(error)
                )),
            },
            SdkError::TimeoutError(_) => self.error(StoreErrorKind::Timeout, "no answer in time"),
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => self.dispatch_error(error),
            _ => self.other(&DisplayErrorContext(error).to_string()),
        }
    }

    /// Translates a request that was not sent: no connection, or no credentials to sign with.
    fn dispatch_error(&self, error: &(dyn Error + 'static)) -> StoreError {
        let causes = || std::iter::successors(Some(error), |error| (*error).source());
        let credentials = causes().find_map(|cause| cause.downcast_ref::<CredentialsError>());
        if let Some(malformed) = causes().find_map(|cause| cause.downcast_ref::<MalformedCredentials>()) {
            return self.error(StoreErrorKind::Unauthorized, &malformed.to_string());
        }
        let text = DisplayErrorContext(error).to_string();
        match credentials {
            Some(CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)) => {
                self.unavailable(&format!("the credentials service does not respond: {text}"))
            }
            Some(_) => self.error(
                StoreErrorKind::Unauthorized,
                "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the agent an IAM role",
            ),
            None if causes().any(<dyn Error>::is::<rustls::Error>) || text.contains("TLS handshake failed") => self
                .unavailable(&format!("the store's certificate is not accepted: {text}; set the CA file of its issuer")),
            None => self.unavailable(&format!("the store cannot be reached: {text}; check the endpoint")),
        }
    }

    /// Translates an error response, by its code or else by its status.
    pub(super) fn service_error(
        &self,
        code: Option<&str>,
        message: Option<&str>,
        status: Option<u16>,
        retry_after: Option<Duration>,
    ) -> StoreError {
        use StoreErrorKind as Kind;
        let kind = match (code.unwrap_or_default(), status.unwrap_or_default()) {
            ("NoSuchBucket", _) => return self.missing_bucket(),
            ("NoSuchKey", _) => Kind::NotFound,
            ("NotImplemented", _) | (_, 501) => return self.unsupported(message),
            (
                "SlowDown"
                | "SlowDownRead"
                | "SlowDownWrite"
                | "Throttling"
                | "ThrottlingException"
                | "RequestThrottled"
                | "RequestLimitExceeded"
                | "TooManyRequests"
                | "BandwidthLimitExceeded",
                _,
            ) => Kind::Throttled,
            ("PreconditionFailed", _) => Kind::AlreadyExists,
            ("InvalidRange", _) => Kind::InvalidRange,
            // Truncated or damaged in transit, or racing with another request for the key.
            (
                "RequestTimeout"
                | "IncompleteBody"
                | "BadDigest"
                | "ConditionalRequestConflict"
                | "OperationAborted"
                | "InternalError",
                _,
            ) => Kind::Unavailable,
            ("RequestTimeTooSkewed", _) => {
                return self.error(
                    Kind::Unauthorized,
                    "the clocks differ too much; synchronize this machine's clock",
                );
            }
            ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) => {
                return self.other(&format!(
                    "{}; set the region of the bucket",
                    message.unwrap_or("wrong region")
                ));
            }
            ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId", _)
            | ("AccessDenied" | "SignatureDoesNotMatch" | "AllAccessDisabled" | "AccountProblem", _)
            | (_, 401 | 403) => Kind::Unauthorized,
            (_, 404) if self.what == "put" || self.what == "list" => return self.missing_bucket(),
            (_, 404) => Kind::NotFound,
            (_, 412) => Kind::AlreadyExists,
            (_, 416) => Kind::InvalidRange,
            (_, 429) => Kind::Throttled,
            (_, 408 | 409 | 500..) => Kind::Unavailable,
            _ => Kind::Other,
        };
        let status = status.map(|status| format!("status {status}"));
        let said = code.or(status.as_deref()).unwrap_or("no reason given");
        let said = message.map_or_else(|| said.to_owned(), |message| format!("{said}: {message}"));
        let advice = match kind {
            Kind::Unauthorized => "; check the credentials and that they may read, write, list and delete",
            _ => "",
        };
        self.error(kind, &format!("{said}{advice}"))
            .with_retry_after(retry_after)
    }

    /// Translates an error of a store that lacks a feature. The only special requirement of a put
    /// is that it must not overwrite.
    fn unsupported(&self, message: Option<&str>) -> StoreError {
        let lacks = match self.what {
            "put" => "the store does not support conditional writes (If-None-Match)",
            _ => "the store does not support this request",
        };
        let said = message.map(|message| format!(" ({message})")).unwrap_or_default();
        let advice = "use one that does, such as AWS S3, MinIO or Ceph";
        self.error(StoreErrorKind::Unsupported, &format!("{lacks}{said}; {advice}"))
    }

    pub(super) fn missing_bucket(&self) -> StoreError {
        let message = format!(
            "there is no bucket {}; create it, or correct the object store's url",
            self.bucket
        );
        StoreError::new(StoreErrorKind::MissingBucket, message)
    }

    pub(super) fn body_error(&self, error: &(dyn Error + 'static)) -> StoreError {
        self.unavailable(&format!(
            "the response was interrupted: {}",
            DisplayErrorContext(error)
        ))
    }

    pub(super) fn unavailable(&self, why: &str) -> StoreError {
        self.error(StoreErrorKind::Unavailable, why)
    }

    pub(super) fn other(&self, why: &str) -> StoreError {
        self.error(StoreErrorKind::Other, why)
    }

    fn error(&self, kind: StoreErrorKind, why: &str) -> StoreError {
        StoreError::new(
            kind,
            format!(
                "cannot {} {} in bucket {}: {why}",
                self.what, self.key, self.bucket
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: S3Attempt<'static> = S3Attempt {
        what: "get",
        key: "a/b",
        bucket: "data",
    };

    #[test]
    fn answers_are_told_apart() {
        use StoreErrorKind as Kind;
        for (code, status, kind) in [
            (Some("NoSuchBucket"), 404, Kind::MissingBucket),
            (Some("NoSuchKey"), 404, Kind::NotFound),
            (None, 404, Kind::NotFound),
            (Some("PreconditionFailed"), 412, Kind::AlreadyExists),
            (Some("ConditionalRequestConflict"), 409, Kind::Unavailable),
            (Some("SlowDown"), 503, Kind::Throttled),
            (Some("ServiceUnavailable"), 503, Kind::Unavailable),
            (None, 429, Kind::Throttled),
            (None, 502, Kind::Unavailable),
            (Some("AccessDenied"), 403, Kind::Unauthorized),
            (Some("SignatureDoesNotMatch"), 403, Kind::Unauthorized),
            (Some("RequestTimeTooSkewed"), 403, Kind::Unauthorized),
            (Some("InvalidRange"), 416, Kind::InvalidRange),
            (Some("InvalidArgument"), 400, Kind::Other),
            (Some("RequestTimeout"), 400, Kind::Unavailable),
            (Some("NotImplemented"), 501, Kind::Unsupported),
            (None, 501, Kind::Unsupported),
        ] {
            assert_eq!(
                ATTEMPT.service_error(code, None, Some(status), None).kind(),
                kind,
                "{code:?} {status}"
            );
        }
    }

    #[test]
    fn a_put_that_finds_nothing_lacks_its_bucket() {
        let put = S3Attempt {
            what: "put",
            ..ATTEMPT
        };
        assert_eq!(
            put.service_error(None, None, Some(404), None).kind(),
            StoreErrorKind::MissingBucket
        );
    }

    #[test]
    fn a_wish_to_wait_is_kept() {
        let error = ATTEMPT.service_error(Some("SlowDown"), None, Some(503), Some(Duration::from_secs(2)));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    }
}

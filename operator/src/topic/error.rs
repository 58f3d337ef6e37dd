//! Errors while a plan is applied, and their conditions. Used by the steps of a pass.

use std::time::Duration;

use streamhouse_metadata as metadata;

use super::validate::TopicProblem;
use crate::{conditions::ConditionStatus, crd::ConditionReason};

/// Timeout of one call to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a Topic is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicError {
    /// The metadata store failed.
    #[error("{0}")]
    Store(#[from] metadata::Error),
    /// The API server rejected the request or did not answer.
    #[error("the API server: {0}")]
    Api(String),
    /// Another client changed the topic since the query. The next pass sees the change.
    #[error("the topic was changed concurrently: {0}")]
    Conflict(String),
    /// The resource was deleted, or another one has its name, so no status can be written.
    #[error("the resource was deleted")]
    Gone,
}

impl TopicError {
    /// Returns the status and reason of the Ready condition; `None` if the next pass determines it.
    pub(super) fn ready_condition(&self) -> Option<(ConditionStatus, TopicProblem)> {
        match self {
            Self::Store(error) => Some((
                ConditionStatus::Unknown,
                TopicProblem::new(ConditionReason::ClusterNotReady, error.to_string()),
            )),
            Self::Api(_) => Some((
                ConditionStatus::False,
                TopicProblem::new(ConditionReason::InternalError, self.to_string()),
            )),
            Self::Conflict(_) | Self::Gone => None,
        }
    }
}

impl From<kube::Error> for TopicError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            kube::Error::Api(status) => Self::Api(status.message),
            other => Self::Api(other.to_string()),
        }
    }
}

/// Limits the duration of a call to the API server.
pub(super) async fn with_timeout<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, TopicError> {
    match tokio::time::timeout(API_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(TopicError::Api(format!(
            "no response within {} s",
            API_TIMEOUT.as_secs()
        ))),
    }
}

//! Errors while a plan is applied, and their conditions. Used by the steps of a pass.

use streamhouse_metadata as metadata;

use super::validate::TopicProblem;
use crate::{api_calls::ApiError, conditions::ConditionStatus, crd::ConditionReason};

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

impl TopicError {
    /// Returns the error of a change of the finalizers, which others may change, too.
    pub(super) fn of_finalizer(error: ApiError) -> Self {
        match error {
            ApiError::Conflict(message) => Self::Conflict(message),
            other => other.into(),
        }
    }
}

impl From<ApiError> for TopicError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NotFound => Self::Gone,
            other => Self::Api(other.to_string()),
        }
    }
}

//! Why the reconciliation of a User stops, and the conditions that report it.

use streamhouse_metadata as metadata;

use super::owner::UserOwner;
use crate::{api_calls::ApiError, conditions::ConditionStatus, crd::ConditionReason};

/// A problem in the form of the condition Ready. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserProblem {
    pub(super) reason: ConditionReason,
    /// Says what to do.
    pub(super) message: String,
}

impl UserProblem {
    pub(super) fn new(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    pub(super) fn invalid_spec(message: impl Into<String>) -> Self {
        Self::new(ConditionReason::InvalidSpec, message)
    }
}

/// Why a reconciliation stops.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserError {
    /// A user must change something.
    #[error("{}", .0.message)]
    Problem(UserProblem),
    /// The metadata store failed.
    #[error("{0}")]
    Store(metadata::Error),
    /// The API server rejected the request or did not answer.
    #[error("the API server: {0}")]
    Api(String),
    /// A bug of the operator.
    #[error("a bug of the operator: {0}")]
    Internal(&'static str),
    /// The resource was deleted, or another one has its name, so no status can be written.
    #[error("the resource was deleted")]
    Gone,
}

impl UserError {
    /// Returns the error of a call about the User itself.
    pub(super) fn of_user(error: ApiError) -> Self {
        match error {
            ApiError::NotFound => Self::Gone,
            other => other.into(),
        }
    }

    /// Returns the status and problem of the Ready condition; `None` for a resource that is gone.
    pub(super) fn ready_condition(&self) -> Option<(ConditionStatus, UserProblem)> {
        match self {
            Self::Problem(problem) => Some((ConditionStatus::False, problem.clone())),
            Self::Store(error) => {
                let problem = UserProblem::new(ConditionReason::ClusterNotReady, error.to_string());
                Some((ConditionStatus::Unknown, problem))
            }
            Self::Api(_) | Self::Internal(_) => {
                let problem = UserProblem::new(ConditionReason::InternalError, self.to_string());
                Some((ConditionStatus::False, problem))
            }
            Self::Gone => None,
        }
    }
}

impl From<UserProblem> for UserError {
    fn from(problem: UserProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<metadata::Error> for UserError {
    fn from(error: metadata::Error) -> Self {
        match error {
            metadata::Error::InvalidSecurityChange(message) | metadata::Error::SecurityLimit(message) => {
                Self::Problem(UserProblem::invalid_spec(message))
            }
            metadata::Error::OwnerConflict { what, owner } => Self::Problem(ownership_problem(&what, &owner)),
            other => Self::Store(other),
        }
    }
}

impl From<ApiError> for UserError {
    fn from(error: ApiError) -> Self {
        Self::Api(error.to_string())
    }
}

/// The user or the quota is managed by this owner, or was made by hand if the owner is empty.
pub(super) fn ownership_problem(what: &str, owner: &str) -> UserProblem {
    if owner.is_empty() {
        let message = format!(
            "{what} was made by hand and spec.adopt is Never: set it to IfExists to manage the user, or choose another name"
        );
        return UserProblem::new(ConditionReason::AlreadyExists, message);
    }
    let other = UserOwner::parse(owner).map_or_else(|| owner.to_owned(), |other| other.to_string());
    let message = format!("{what} is managed by {other}: delete one of the two Users");
    UserProblem::new(ConditionReason::OwnershipConflict, message)
}

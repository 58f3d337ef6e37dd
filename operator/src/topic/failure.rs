//! Errors while a plan is applied, and their conditions. Used by the steps of a pass.

use std::time::Duration;

use streamhouse_metadata as metadata;

use super::validate::Problem;
use crate::{conditions::State, crd::Reason};

/// Timeout of one call to the API server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a Topic is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The metadata store failed.
    #[error("{0}")]
    Store(#[from] metadata::Error),
    /// The API server rejected the request or did not answer.
    #[error("the API server: {0}")]
    Api(String),
    /// Another client changed the topic since the query. The next pass sees the change.
    #[error("the topic was changed concurrently: {0}")]
    Raced(String),
    /// The resource was deleted, or another one has its name, so no status can be written.
    #[error("the resource was deleted")]
    Gone,
}

impl Failure {
    /// Returns the status and reason of the Ready condition; `None` if the next pass determines it.
    pub(super) fn ready(&self) -> Option<(State, Problem)> {
        match self {
            Self::Store(error) => Some((
                State::Unknown,
                Problem::new(Reason::ClusterNotReady, error.to_string()),
            )),
            Self::Api(_) => Some((
                State::False,
                Problem::new(Reason::InternalError, self.to_string()),
            )),
            Self::Raced(_) | Self::Gone => None,
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            kube::Error::Api(status) => Self::Api(status.message),
            other => Self::Api(other.to_string()),
        }
    }
}

/// Limits the duration of a call to the API server.
pub(super) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Api(format!("no response within {} s", PATIENCE.as_secs()))),
    }
}

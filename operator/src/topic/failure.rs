//! What can go wrong while a plan is carried out, and what is said of it. Called by the steps of a pass.

use std::time::Duration;

use streamhouse_metadata as metadata;

use super::validate::Problem;
use crate::{conditions::State, crd::Reason};

/// No call of the API server takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a Topic is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The metadata store failed.
    #[error("{0}")]
    Store(#[from] metadata::Error),
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Api(String),
    /// Somebody changed the topic since it was looked at. The next look tells.
    #[error("the topic changed meanwhile: {0}")]
    Raced(String),
    /// The resource is gone, or another one has its name: nobody is left to tell.
    #[error("the resource is gone")]
    Gone,
}

impl Failure {
    /// What the resource's Ready condition says of it; nothing when the next look will tell.
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

/// Waits for the API server, though not for ever.
pub(super) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Api(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

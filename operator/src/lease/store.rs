//! Where the Lease is: what the elector needs of it, as a trait, so that a simulation can stand in.

use async_trait::async_trait;

use super::state::{Record, Stored};

/// A Lease somewhere. Each method is one try; the elector repeats.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// The newest record: never one from before a write that had been answered. `None` when there is no Lease.
    async fn get(&self) -> Result<Option<Stored>, StoreError>;

    /// Makes the Lease; [`StoreError::Conflict`] if there is one.
    async fn create(&self, record: &Record) -> Result<Stored, StoreError>;

    /// Writes over `version`; [`StoreError::Conflict`], and nothing is changed, if that is not what is stored. Must not succeed in
    /// any other case, however late it arrives.
    async fn update(&self, record: &Record, version: &str) -> Result<Stored, StoreError>;
}

/// Why a call did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has written.
    #[error("the lease was changed by somebody else")]
    Conflict,
    /// It failed, or nobody knows; says how.
    #[error("{0}")]
    Failed(String),
}

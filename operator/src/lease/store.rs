//! The storage of the Lease as a trait, so that tests can simulate it.

use async_trait::async_trait;

use super::state::{LeaseRecord, VersionedLease};

/// Stores one Lease. Each method is one attempt; the elector retries.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Returns the newest record, never one that precedes an acknowledged write; `None` if there is
    /// no Lease.
    async fn get(&self) -> Result<Option<VersionedLease>, LeaseStoreError>;

    /// Creates the Lease; returns [`LeaseStoreError::Conflict`] if it exists.
    async fn create(&self, record: &LeaseRecord) -> Result<VersionedLease, LeaseStoreError>;

    /// Replaces `version`; returns [`LeaseStoreError::Conflict`] without a change if another
    /// version is stored. Must not succeed in any other case, however late the request arrives.
    async fn update(&self, record: &LeaseRecord, version: &str) -> Result<VersionedLease, LeaseStoreError>;
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseStoreError {
    /// Another client has written the Lease.
    #[error("the lease was changed by another client")]
    Conflict,
    /// The call failed or its outcome is unknown; contains the cause.
    #[error("{0}")]
    Failed(String),
}

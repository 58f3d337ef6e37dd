//! The storage of the Lease as a trait, so that tests can simulate it.

use async_trait::async_trait;

use super::state::{Record, Stored};

/// Stores one Lease. Each method is one attempt; the elector retries.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Returns the newest record, never one that precedes an acknowledged write; `None` if there is
    /// no Lease.
    async fn get(&self) -> Result<Option<Stored>, StoreError>;

    /// Creates the Lease; returns [`StoreError::Conflict`] if it exists.
    async fn create(&self, record: &Record) -> Result<Stored, StoreError>;

    /// Replaces `version`; returns [`StoreError::Conflict`] without a change if another version is
    /// stored. Must not succeed in any other case, however late the request arrives.
    async fn update(&self, record: &Record, version: &str) -> Result<Stored, StoreError>;
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another client has written the Lease.
    #[error("the lease was changed by another client")]
    Conflict,
    /// The call failed or its outcome is unknown; contains the cause.
    #[error("{0}")]
    Failed(String),
}

//! The object store as the agent sees it: immutable objects under keys, created once and never overwritten. Opened by
//! [`open()`]; used by produce (WAL objects), fetch (ranged reads through [`blocks`]) and the background jobs.
//!
//! Every back end keeps the rules of [`ObjectStore`]; one conformance suite (`tests/store_conformance`) holds them to it.
//! Decorators ([`fault`], [`metered`]) are the same trait.

pub mod blocks;
pub mod error;
pub mod fault;
pub mod local;
#[cfg(test)]
pub(crate) mod memory;
pub mod metered;
pub mod open;
pub mod retry;
pub mod s3;

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{StoreError, StoreErrorKind};
pub use open::{Credentials, StoreSettings, check, check_url, open};
pub use retry::{Retry, put_settled};

/// How many keys one delete request carries at most; S3's limit.
pub const DELETE_BATCH: usize = 1000;
/// The longest key, in bytes. S3 allows 1024; the rest is room for the prefix of the bucket.
pub const MAX_KEY: usize = 800;
/// The longest part of a key between slashes, in bytes: what file systems allow.
const MAX_KEY_PART: usize = 255;

/// Which bytes of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetRange {
    /// All of them.
    Full,
    /// `start..end`. What lies after the object's end is left out; a start at or after the end, or an empty range, is
    /// [`StoreErrorKind::InvalidRange`].
    Bounded(Range<u64>),
    /// The last so many bytes, or all when there are fewer; none, or an empty object, is
    /// [`StoreErrorKind::InvalidRange`].
    Suffix(u64),
}

impl GetRange {
    /// How many bytes the answer has at most; `None` when only the object knows.
    pub fn max_len(&self) -> Option<u64> {
        match self {
            Self::Full => None,
            Self::Bounded(range) => Some(range.end.saturating_sub(range.start)),
            Self::Suffix(length) => Some(*length),
        }
    }

    /// The range within an object of `size` bytes.
    pub fn within(&self, key: &str, size: u64) -> Result<Range<u64>, StoreError> {
        let range = match self {
            Self::Full => return Ok(0..size),
            Self::Bounded(range) => range.start..range.end.min(size),
            Self::Suffix(length) => size.saturating_sub(*length)..size,
        };
        if range.start < range.end {
            Ok(range)
        } else {
            Err(StoreError::invalid_range(key, self))
        }
    }
}

/// The operations of [`ObjectStore`], as metrics and faults name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ObjectStore::put_new`].
    Put,
    /// [`ObjectStore::get`].
    Get,
    /// [`ObjectStore::head`].
    Head,
    /// [`ObjectStore::delete`].
    Delete,
    /// [`ObjectStore::list`].
    List,
}

impl Operation {
    /// Every operation, in order.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::Delete, Self::List];

    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key, without the prefix of the store.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was created, in milliseconds since the Unix epoch by the store's clock.
    pub modified_ms: i64,
}

/// Immutable objects under keys. An implementation MUST
/// - create an object whole or not at all, at most once for a key, also when several race, and have it durable when
///   [`put_new`](Self::put_new) returns;
/// - report a failure of which it does not know whether the object was created as retryable, never as success;
/// - never retry by itself for long: the caller owns deadlines and back-off ([`Retry`]);
/// - never put credentials into errors, [`describe`](Self::describe) or `Debug`.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Creates the object; never overwrites: [`StoreErrorKind::AlreadyExists`] when the key is taken.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Reads the object or a part of it.
    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError>;

    /// Size and age of the object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError>;

    /// Deletes the objects; those that do not exist are fine. After an error some may be deleted: ask again.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// The first `limit` objects whose key begins with `prefix` and is greater than `after`, in the order of the keys'
    /// bytes. Fewer than `limit` means that there are no more.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError>;

    /// For people: `s3://bucket/prefix`, `file:/path`.
    fn describe(&self) -> String;
}

/// Refuses keys that some back end could not hold, or that lead out of its directory.
pub fn validate_key(key: &str) -> Result<(), StoreError> {
    let problem = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY {
        "it is too long"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "it has a control character or backslash"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "it has an empty, \".\" or \"..\" part between slashes"
    } else if key.split('/').any(|part| part.len() > MAX_KEY_PART) {
        "a part between slashes is too long"
    } else if key.starts_with(local::TEMP_DIRECTORY) {
        "this prefix is reserved"
    } else {
        return Ok(());
    };
    let shown: String = key.chars().take(100).collect();
    Err(StoreError::new(
        StoreErrorKind::InvalidKey,
        format!("{shown:?} is not a legal object key: {problem}"),
    ))
}

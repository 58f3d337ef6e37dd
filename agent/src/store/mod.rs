//! The object store as the agent sees it: immutable objects, created once under a key and never
//! overwritten. Opened by [`open_store()`]; used by produce (WAL objects), fetch (ranged reads
//! through [`blocks`]) and the background jobs.
//!
//! Every back end keeps the rules of [`ObjectStore`], which one conformance suite
//! (`tests/store_conformance`) verifies. Decorators ([`fault`], [`health`], [`metered`]) implement
//! the same trait.

pub mod blocks;
pub mod error;
pub mod fault;
pub mod health;
pub mod local;
#[cfg(test)]
pub(crate) mod memory;
pub mod metered;
pub mod open;
pub mod retry;
pub mod s3;
pub mod settings;

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{StoreError, StoreErrorKind};
pub use open::{check_store, check_url, open_store};
pub use retry::{RetryPolicy, put_settled};
pub use settings::{S3Credentials, StoreSettings};

/// Maximum number of keys in one delete request; S3's limit.
pub const DELETE_BATCH: usize = 1000;
/// Maximum length of a key in bytes. S3 allows 1024; the rest is room for the store's prefix.
pub const MAX_KEY_LEN: usize = 800;
/// Maximum length of a part of a key between slashes in bytes: the limit of file systems.
const MAX_KEY_PART_LEN: usize = 255;

/// The bytes of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetRange {
    /// The whole object.
    Full,
    /// `start..end`, cut off at the object's end. A start at or after the end, or an empty range,
    /// is [`StoreErrorKind::InvalidRange`].
    Bounded(Range<u64>),
    /// The last so many bytes, or all if there are fewer; zero, or an empty object, is
    /// [`StoreErrorKind::InvalidRange`].
    Suffix(u64),
}

impl GetRange {
    /// Returns the maximum length of the read bytes; `None` if it depends on the object.
    pub fn max_len(&self) -> Option<u64> {
        match self {
            Self::Full => None,
            Self::Bounded(range) => Some(range.end.saturating_sub(range.start)),
            Self::Suffix(length) => Some(*length),
        }
    }

    /// Returns the byte range within an object of `size` bytes.
    ///
    /// # Errors
    /// [`StoreErrorKind::InvalidRange`] if it is empty.
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
pub enum StoreOperation {
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

impl StoreOperation {
    /// Every operation, in order.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::Delete, Self::List];

    /// Returns the label value in metrics.
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

/// The metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, without the prefix of the store.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of creation in milliseconds since the Unix epoch, by the store's clock.
    pub modified_ms: i64,
}

/// A store of immutable objects. An implementation MUST
/// - create an object completely or not at all, at most once per key even if several callers race,
///   and have it durable when [`put_new`](Self::put_new) returns;
/// - report a failure after which the object may exist as retryable, never as success;
/// - not retry for long itself: the caller owns deadlines and back-off ([`RetryPolicy`]);
/// - never put credentials into errors, [`describe`](Self::describe) or `Debug`.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Creates the object; never overwrites.
    ///
    /// # Errors
    /// [`StoreErrorKind::AlreadyExists`] if the key is taken.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Reads the object or a part of it.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] without such an object, [`StoreErrorKind::InvalidRange`] if the
    /// range lies outside of it.
    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError>;

    /// Returns size and age of the object.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] without such an object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError>;

    /// Deletes the objects; missing ones are ignored.
    ///
    /// # Errors
    /// After an error some may be deleted: try again with the same keys.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Lists the first `limit` objects whose key begins with `prefix` and is greater than `after`,
    /// in the order of the keys' bytes. Fewer than `limit` means that there are no more.
    ///
    /// # Errors
    /// Fails if the store does.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Describes the store for people: `s3://bucket/prefix`, `file:/path`.
    fn describe(&self) -> String;
}

/// Checks that every back end can store the key, and that it does not lead out of its directory.
///
/// # Errors
/// [`StoreErrorKind::InvalidKey`] if it is not valid.
pub fn validate_key(key: &str) -> Result<(), StoreError> {
    let problem = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY_LEN {
        "it is too long"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "it contains a control character or a backslash"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "it contains an empty, \".\" or \"..\" part between slashes"
    } else if key.split('/').any(|part| part.len() > MAX_KEY_PART_LEN) {
        "a part between slashes is too long"
    } else if key.starts_with(local::TEMP_DIRECTORY) {
        "this prefix is reserved"
    } else {
        return Ok(());
    };
    let shown: String = key.chars().take(100).collect();
    Err(StoreError::new(
        StoreErrorKind::InvalidKey,
        format!("{shown:?} is not a valid object key: {problem}"),
    ))
}

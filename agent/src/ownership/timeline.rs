//! Owns the bucket's timeline marks: one object for each timeline number that the metadata store
//! issued, created once. A metadata store whose number is lower than the newest mark is an older
//! copy of the store that this bucket was written with.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streamhouse_core::{Incarnation, time::Entropy};
use streamhouse_metadata::Timeline;
use tokio::time::{Duration, Instant};

use super::OwnershipError;
use crate::store::{GetRange, ObjectStore, RetryPolicy, StoreErrorKind, put_settled};

/// Key prefix of the marks.
const MARK_PREFIX: &str = "_cluster/timeline/";
/// Number of marks that are kept.
const KEPT_MARKS: usize = 8;
/// Objects per listing page.
const LIST_PAGE_SIZE: usize = 1000;
/// How long the put of a mark is retried.
const PUT_TIMEOUT: Duration = Duration::from_secs(10);

/// Content of a mark, which lets a store restored from a backup continue beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TimelineMark {
    timeline: u64,
    incarnation: i64,
    producer_id: i64,
    /// Random, to distinguish the marks of two copies of one store.
    nonce: u64,
}

fn mark_key(number: u64) -> String {
    format!("{MARK_PREFIX}{number:020}")
}

/// Returns the number in a mark's key, or `None` for any other key.
pub fn parse_mark_key(text: &str) -> Option<u64> {
    let number = text.strip_prefix(MARK_PREFIX)?.parse().ok()?;
    (mark_key(number) == text).then_some(number)
}

/// Lists the numbers of all marks, lowest first.
async fn list_marks(store: &dyn ObjectStore) -> Result<Vec<u64>, OwnershipError> {
    let mut numbers = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store
            .list(MARK_PREFIX, after.as_deref(), LIST_PAGE_SIZE)
            .await
            .map_err(OwnershipError::store_error(store))?;
        numbers.extend(page.iter().filter_map(|object| parse_mark_key(&object.key)));
        if page.len() < LIST_PAGE_SIZE {
            return Ok(numbers);
        }
        after = page.last().map(|object| object.key.clone());
    }
}

/// Returns the greatest number that the bucket is marked with.
///
/// # Errors
/// If the object store fails.
pub async fn newest_mark(store: &dyn ObjectStore) -> Result<Option<u64>, OwnershipError> {
    Ok(list_marks(store).await?.into_iter().max())
}

/// Returns the greatest values of the newest marks.
///
/// # Errors
/// If the object store fails.
pub async fn furthest_timeline(store: &dyn ObjectStore) -> Result<Timeline, OwnershipError> {
    let mut furthest = Timeline::default();
    for number in list_marks(store).await?.into_iter().rev().take(KEPT_MARKS) {
        furthest.number = furthest.number.max(number);
        let body = match store.get(&mark_key(number), GetRange::Full).await {
            Ok(body) => body,
            Err(error) if error.kind() == StoreErrorKind::NotFound => continue,
            Err(error) => return Err(OwnershipError::store_error(store)(error)),
        };
        // A mark that cannot be parsed still counts with its number.
        let Ok(mark) = serde_json::from_slice::<TimelineMark>(&body) else {
            continue;
        };
        furthest.incarnation = furthest.incarnation.max(Incarnation(mark.incarnation));
        furthest.producer_id = furthest.producer_id.max(mark.producer_id);
    }
    Ok(furthest)
}

/// Marks the bucket with a number that the metadata store has just issued.
///
/// # Errors
/// [`OwnershipError::OlderMetadata`] if the mark exists already: another copy of the store issued
/// the same number.
pub async fn put_mark(
    store: &dyn ObjectStore,
    risen: &Timeline,
    entropy: &dyn Entropy,
    retry: &RetryPolicy,
) -> Result<(), OwnershipError> {
    let mark = TimelineMark {
        timeline: risen.number,
        incarnation: risen.incarnation.0,
        producer_id: risen.producer_id,
        nonce: entropy.next_u64(),
    };
    let key = mark_key(risen.number);
    let body = serde_json::to_vec(&mark).map_err(|_| OwnershipError::Marker {
        store: store.describe(),
        key: key.clone(),
    })?;
    let retry = retry.clone().with_deadline(Instant::now() + PUT_TIMEOUT);
    match put_settled(store, &key, Bytes::from(body), &retry).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => Err(OwnershipError::OlderMetadata {
            store: store.describe(),
            ours: risen.number,
            theirs: newest_mark(store).await.ok().flatten().unwrap_or(risen.number),
        }),
        stored => stored.map_err(OwnershipError::store_error(store)),
    }
}

/// Deletes all but the newest marks.
///
/// # Errors
/// If the object store fails.
pub async fn prune_marks(store: &dyn ObjectStore) -> Result<(), OwnershipError> {
    let numbers = list_marks(store).await?;
    let old: Vec<String> = numbers
        .iter()
        .rev()
        .skip(KEPT_MARKS)
        .map(|&number| mark_key(number))
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    store
        .delete(&old)
        .await
        .map_err(OwnershipError::store_error(store))
}

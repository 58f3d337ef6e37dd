//! Owns the bucket's timeline marks: one object for each timeline number that the metadata store
//! issued, created once. A metadata store whose number is lower than the newest mark is an older
//! copy of the store that this bucket was written with.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streamhouse_core::{Incarnation, time::Entropy};
use streamhouse_metadata::Timeline;
use tokio::time::{Duration, Instant};

use super::OwnershipError;
use crate::store::{GetRange, ObjectStore, Retry, StoreErrorKind, put_settled};

/// Key prefix of the marks.
const PREFIX: &str = "_cluster/timeline/";
/// Number of marks that are kept.
const KEPT: usize = 8;
/// Objects per listing page.
const PAGE: usize = 1000;
/// How long the put of a mark is retried.
const TRIES: Duration = Duration::from_secs(10);

/// Content of a mark, which lets a store restored from a backup continue beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    timeline: u64,
    incarnation: i64,
    producer_id: i64,
    /// Random, to distinguish the marks of two copies of one store.
    nonce: u64,
}

fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

/// Returns the number in a mark's key, or `None` for any other key.
pub fn parse(text: &str) -> Option<u64> {
    let number = text.strip_prefix(PREFIX)?.parse().ok()?;
    (key(number) == text).then_some(number)
}

/// Lists the numbers of all marks, lowest first.
async fn numbers(store: &dyn ObjectStore) -> Result<Vec<u64>, OwnershipError> {
    let mut numbers = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store
            .list(PREFIX, after.as_deref(), PAGE)
            .await
            .map_err(OwnershipError::unreachable(store))?;
        numbers.extend(page.iter().filter_map(|object| parse(&object.key)));
        if page.len() < PAGE {
            return Ok(numbers);
        }
        after = page.last().map(|object| object.key.clone());
    }
}

/// Returns the greatest number that the bucket is marked with.
///
/// # Errors
/// If the object store fails.
pub async fn newest(store: &dyn ObjectStore) -> Result<Option<u64>, OwnershipError> {
    Ok(numbers(store).await?.into_iter().max())
}

/// Returns the greatest values of the newest marks.
///
/// # Errors
/// If the object store fails.
pub async fn furthest(store: &dyn ObjectStore) -> Result<Timeline, OwnershipError> {
    let mut furthest = Timeline::default();
    for number in numbers(store).await?.into_iter().rev().take(KEPT) {
        furthest.number = furthest.number.max(number);
        let body = match store.get(&key(number), GetRange::Full).await {
            Ok(body) => body,
            Err(error) if error.kind() == StoreErrorKind::NotFound => continue,
            Err(error) => return Err(OwnershipError::unreachable(store)(error)),
        };
        // A mark that cannot be parsed still counts with its number.
        let Ok(mark) = serde_json::from_slice::<Mark>(&body) else {
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
pub async fn put(
    store: &dyn ObjectStore,
    risen: &Timeline,
    entropy: &dyn Entropy,
    retry: &Retry,
) -> Result<(), OwnershipError> {
    let mark = Mark {
        timeline: risen.number,
        incarnation: risen.incarnation.0,
        producer_id: risen.producer_id,
        nonce: entropy.next_u64(),
    };
    let key = key(risen.number);
    let body = serde_json::to_vec(&mark).map_err(|_| OwnershipError::Marker {
        store: store.describe(),
        key: key.clone(),
    })?;
    let retry = retry.clone().until(Instant::now() + TRIES);
    match put_settled(store, &key, Bytes::from(body), &retry).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => Err(OwnershipError::OlderMetadata {
            store: store.describe(),
            ours: risen.number,
            theirs: newest(store).await.ok().flatten().unwrap_or(risen.number),
        }),
        stored => stored.map_err(OwnershipError::unreachable(store)),
    }
}

/// Deletes all but the newest marks.
///
/// # Errors
/// If the object store fails.
pub async fn prune(store: &dyn ObjectStore) -> Result<(), OwnershipError> {
    let numbers = numbers(store).await?;
    let old: Vec<String> = numbers
        .iter()
        .rev()
        .skip(KEPT)
        .map(|&number| key(number))
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    store
        .delete(&old)
        .await
        .map_err(OwnershipError::unreachable(store))
}

//! A cache with a time to live, so that any number of open pages costs the stores no more than one:
//! concurrent requests for the same key share one fetch. Failures are cached as well, so that a
//! failing store is not asked once per page.

use std::{collections::HashMap, fmt, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use streamhouse_core::Error;
use tokio::time::{Duration, Instant};

type CachedResult<V> = Result<Arc<V>, Error>;
/// A cached result with the time it was fetched. Locked during the fetch.
type CacheSlot<V> = tokio::sync::Mutex<Option<(Instant, CachedResult<V>)>>;

/// Caches one result per key.
pub(super) struct TtlCache<K, V> {
    ttl: Duration,
    capacity: usize,
    slots: Mutex<HashMap<K, Arc<CacheSlot<V>>>>,
}

impl<K: Eq + Hash + Clone, V> TtlCache<K, V> {
    /// Creates a cache of `capacity` entries that expire after `ttl`.
    pub(super) fn new(for_long: Duration, most: usize) -> Self {
        Self {
            ttl: for_long,
            capacity: most,
            slots: Mutex::default(),
        }
    }

    /// Returns the cached result for `key`, or fetches it with `ask`.
    ///
    /// # Errors
    /// The error of `ask`, or a cached one.
    pub(super) async fn get_or_fetch(
        &self,
        key: &K,
        ask: impl Future<Output = Result<V, Error>>,
    ) -> CachedResult<V> {
        let slot = self.slot(key);
        let mut answer = slot.lock().await;
        if let Some((at, outcome)) = answer.as_ref()
            && at.elapsed() < self.ttl
        {
            return outcome.clone();
        }
        let outcome = ask.await.map(Arc::new);
        *answer = Some((Instant::now(), outcome.clone()));
        outcome
    }

    fn slot(&self, key: &K) -> Arc<CacheSlot<V>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        if slots.len() >= self.capacity {
            // Evicts entries without a waiting request; those with one are bounded by the number of
            // concurrent requests.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

impl<K, V> fmt::Debug for TtlCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use streamhouse_core::ErrorCode;
    use tokio::task::yield_now;

    use super::*;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_answer_until_it_is_old() {
        let asked = AtomicU32::new(0);
        let get = async |kept: &TtlCache<&str, u32>| {
            let ask = async {
                yield_now().await;
                Ok(asked.fetch_add(1, Ordering::Relaxed))
            };
            *kept.get_or_fetch(&"topics", ask).await.unwrap()
        };
        let kept = TtlCache::new(LONG, 4);
        assert_eq!(join_all((0..50).map(|_| get(&kept))).await, [0; 50]);
        assert_eq!(get(&kept).await, 0);
        let old_at_once = TtlCache::new(Duration::ZERO, 4);
        assert_eq!(get(&old_at_once).await, 1);
        assert_eq!(get(&old_at_once).await, 2);
    }

    #[tokio::test]
    async fn a_failure_is_shared_too_and_forgotten_as_soon() {
        let fail = async || Err(Error::new(ErrorCode::MetadataUnavailable, "no answer"));
        let kept: TtlCache<(), u32> = TtlCache::new(LONG, 4);
        assert!(kept.get_or_fetch(&(), fail()).await.is_err());
        let spared = kept.get_or_fetch(&(), async { Ok(1) }).await;
        assert_eq!(spared.unwrap_err().code(), ErrorCode::MetadataUnavailable);
        let old_at_once: TtlCache<(), u32> = TtlCache::new(Duration::ZERO, 4);
        assert!(old_at_once.get_or_fetch(&(), fail()).await.is_err());
        assert_eq!(*old_at_once.get_or_fetch(&(), async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_is_asked_for_again() {
        let kept: TtlCache<(), u32> = TtlCache::new(LONG, 4);
        let given_up =
            tokio::time::timeout(Duration::ZERO, kept.get_or_fetch(&(), std::future::pending())).await;
        assert!(given_up.is_err());
        assert_eq!(*kept.get_or_fetch(&(), async { Ok(2) }).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_allowed() {
        let kept = TtlCache::new(LONG, 3);
        for key in 0..100 {
            assert_eq!(*kept.get_or_fetch(&key, async { Ok(key) }).await.unwrap(), key);
            assert!(kept.slots.lock().len() <= 3);
        }
    }
}

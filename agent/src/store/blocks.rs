//! The block cache for reads of older records. Bounded in bytes; each block is read once, however
//! many readers wait for it; adjacent misses become one ranged GET.
//!
//! Objects are immutable, so nothing is invalidated for freshness; blocks are evicted for space.
//! Failures are returned to the waiting readers and not cached. The cache does not check blocks:
//! readers check the CRCs of what they use.

mod inflight;

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use moka::{policy::EvictionPolicy, sync::Cache};
use prometheus::{IntCounter, IntGauge};

use self::inflight::InflightReads;
use super::{ObjectStore, StoreError, StoreErrorKind};

/// Usual size of a block.
pub const DEFAULT_BLOCK_SIZE: u64 = 1 << 20;
/// Cost of an entry besides its bytes.
const ENTRY_OVERHEAD: usize = 128;

/// Identifies a block of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BlockId {
    key: Arc<str>,
    index: u64,
}

/// The counters of the cache, registered by the caller. Bytes read from the store are counted by
/// the store's own decorator.
#[derive(Debug, Clone)]
pub struct BlockMetrics {
    /// Blocks found in memory.
    pub hits: IntCounter,
    /// Blocks that were read or waited for.
    pub misses: IntCounter,
    /// Cached bytes, as of the last read.
    pub held_bytes: IntGauge,
}

/// An in-memory cache of blocks of objects; clones share it.
#[derive(Debug, Clone)]
pub struct BlockCache {
    cache: Cache<BlockId, Bytes>,
    inflight: Arc<InflightReads>,
    block: u64,
    metrics: BlockMetrics,
}

impl BlockCache {
    /// Creates a cache of at most `capacity` bytes of `store`'s objects, in blocks of `block` bytes
    /// (at least 4 KiB). In addition, up to 32 blocks may be in flight.
    pub fn new(store: Arc<dyn ObjectStore>, capacity: u64, block: u64, metrics: BlockMetrics) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity)
            // The default policy keeps new blocks out of a full cache until they were asked for
            // more often than those in it: nearly all blocks are read once, and those that are read
            // ahead were not asked for yet.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|id: &BlockId, bytes: &Bytes| {
                u32::try_from(bytes.len() + id.key.len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .build();
        let block = block.max(4096);
        let flights = Arc::new(InflightReads::new(store, cache.clone(), block));
        Self {
            cache,
            inflight: flights,
            block,
            metrics,
        }
    }

    /// Reads the bytes `range` of the object `key`; pass its `size` if it is known. A range within
    /// one block is not copied. Dropping the future does not cancel its reads: other readers may
    /// wait for them.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] if the object ends before the range does, else the error of the
    /// store.
    pub async fn read(&self, key: &str, size: Option<u64>, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() && range.start <= range.end {
            return Ok(Bytes::new());
        }
        let pieces = self.read_blocks(key, size, range.clone()).await?;
        pieces.slice(&range).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Corrupt,
                format!("object {key} ends before byte {}", range.end),
            )
        })
    }

    /// Reads the blocks that contain the non-empty `range`, like [`read`](Self::read), but without
    /// joining them, so that a reader of many bytes need not hold them twice.
    ///
    /// # Errors
    /// [`StoreErrorKind::InvalidRange`] if the range is empty or exceeds `size`, else the error of
    /// the store.
    pub async fn read_blocks(
        &self,
        key: &str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<CachedBlocks, StoreError> {
        if range.start >= range.end || size.is_some_and(|size| range.end > size) {
            return Err(StoreError::new(
                StoreErrorKind::InvalidRange,
                format!("{range:?} lies outside of object {key}, which has {size:?} bytes"),
            ));
        }
        let key: Arc<str> = key.into();
        let indexes = range.start / self.block..(range.end - 1) / self.block + 1;
        let mut blocks: Vec<Option<Bytes>> = indexes
            .clone()
            .map(|index| self.get_cached(&key, index))
            .collect();
        let missing: Vec<u64> = indexes
            .clone()
            .zip(&blocks)
            .filter(|(_, block)| block.is_none())
            .map(|(index, _)| index)
            .collect();
        self.metrics.hits.inc_by((blocks.len() - missing.len()) as u64);
        self.metrics.misses.inc_by(missing.len() as u64);
        for landing in self.inflight.join_or_start(&key, size, &missing) {
            let (index, bytes) = landing.wait().await?;
            blocks[(index - indexes.start) as usize] = Some(bytes);
        }
        self.metrics
            .held_bytes
            .set(i64::try_from(self.cache.weighted_size()).unwrap_or(i64::MAX));
        Ok(CachedBlocks {
            first: indexes.start,
            block: self.block,
            blocks: blocks.into_iter().flatten().collect(),
        })
    }

    /// Returns the bytes of blocks in flight, each counted twice: as it arrives, and in the cache.
    pub fn in_flight_bytes(&self) -> u64 {
        self.inflight.inflight_blocks() as u64 * self.block * 2
    }

    /// Starts to read blocks that will be needed soon, unless many are in flight already. Must be
    /// called within a runtime.
    pub fn prefetch(&self, key: &str, size: Option<u64>, range: Range<u64>) {
        let size_or_more = size.unwrap_or(u64::MAX);
        let range = range.start.min(size_or_more)..range.end.min(size_or_more);
        if range.is_empty() || self.inflight.is_busy() {
            return;
        }
        let key: Arc<str> = key.into();
        let indexes = range.start / self.block..(range.end - 1) / self.block + 1;
        let missing: Vec<u64> = indexes
            .take(inflight::MAX_INFLIGHT_BLOCKS)
            .filter(|&index| {
                !self.cache.contains_key(&BlockId {
                    key: key.clone(),
                    index,
                })
            })
            .collect();
        drop(self.inflight.join_or_start(&key, size, &missing));
    }

    /// Drops the blocks that contain `range`, because their bytes are damaged: the next read asks
    /// the store again.
    pub fn invalidate(&self, key: &str, range: Range<u64>) {
        let key: Arc<str> = key.into();
        for index in range.start / self.block..range.end.div_ceil(self.block) {
            self.cache.invalidate(&BlockId {
                key: key.clone(),
                index,
            });
        }
    }

    fn get_cached(&self, key: &Arc<str>, index: u64) -> Option<Bytes> {
        self.cache.get(&BlockId {
            key: key.clone(),
            index,
        })
    }
}

/// Adjacent blocks of an object.
#[derive(Debug)]
pub struct CachedBlocks {
    first: u64,
    block: u64,
    blocks: Vec<Bytes>,
}

impl CachedBlocks {
    /// Returns the bytes `range` of the object: a slice of one block, or a copy if it spans
    /// several. `None` if these are not its blocks, or the object ends before.
    pub fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let whole = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let indexes = range.start / self.block..range.end.div_ceil(self.block);
        let single = indexes.end - indexes.start == 1;
        let mut joined = BytesMut::new();
        for index in indexes {
            let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
            let (bytes, first) = (self.blocks.get(at)?, index * self.block);
            let start = usize::try_from(range.start.saturating_sub(first)).ok()?;
            let end = usize::try_from((range.end - first).min(self.block)).ok()?;
            if end > bytes.len() {
                return None;
            }
            if single {
                return Some(bytes.slice(start..end));
            }
            joined.reserve(if joined.is_empty() { whole } else { 0 });
            joined.extend_from_slice(&bytes[start..end]);
        }
        Some(joined.freeze())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::store::local::LocalStore;

    const BLOCK: u64 = 4096;

    fn new_metrics() -> BlockMetrics {
        BlockMetrics {
            hits: IntCounter::new("hits", "hits").unwrap(),
            misses: IntCounter::new("misses", "misses").unwrap(),
            held_bytes: IntGauge::new("held", "held").unwrap(),
        }
    }

    #[tokio::test]
    async fn a_block_that_was_read_ahead_is_in_a_full_cache_when_it_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(directory.path()).await.unwrap());
        let metrics = new_metrics();
        let cache = BlockCache::new(store.clone(), 8 * BLOCK, BLOCK, metrics.clone());
        let size = 40 * BLOCK;
        store.put_new("a", vec![1; size as usize].into()).await.unwrap();
        for start in (0..size).step_by(BLOCK as usize) {
            cache.read("a", Some(size), start..start + BLOCK).await.unwrap();
            let next = start + BLOCK;
            cache.prefetch("a", Some(size), next..next + BLOCK);
            let arrived = async {
                while next < size && cache.get_cached(&"a".into(), next / BLOCK).is_none() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(10), arrived).await.unwrap();
        }
        assert_eq!((metrics.misses.get(), metrics.hits.get()), (1, 39));
    }

    /// Without explicit maintenance the cache evicts lazily: many large blocks would be in memory
    /// and in no budget.
    #[tokio::test]
    async fn the_cache_never_holds_more_than_its_capacity_for_longer_than_a_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(directory.path()).await.unwrap());
        let metrics = new_metrics();
        let capacity = 8 * BLOCK;
        let cache = BlockCache::new(store.clone(), capacity, BLOCK, metrics);
        let size = 40 * BLOCK;
        store.put_new("a", vec![1; size as usize].into()).await.unwrap();
        for start in (0..size).step_by(2 * BLOCK as usize) {
            cache
                .read("a", Some(size), start..start + 2 * BLOCK)
                .await
                .unwrap();
            // The reading task evicts after it has answered.
            while cache.in_flight_bytes() > 0 {
                tokio::task::yield_now().await;
            }
            let held: usize = cache.cache.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(held as u64 <= capacity, "{held} of {capacity}");
        }
    }
}

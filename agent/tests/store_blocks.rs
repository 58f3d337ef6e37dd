//! The block cache: correct bytes, one read for many readers, bounded memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use prometheus::{IntCounter, IntGauge, Registry};
use streamhouse_agent::store::{
    ObjectStore, StoreErrorKind, StoreOperation,
    blocks::{BlockCache, BlockMetrics},
    fault::{FaultStore, Toxic, ToxicKind},
    local::LocalStore,
    metered::MeteredObjectStore,
};
use streamhouse_core::time::system_entropy;

const BLOCK: u64 = 4096;

struct BlockCacheFixture {
    _directory: tempfile::TempDir,
    faults: Arc<FaultStore>,
    metered: Arc<MeteredObjectStore>,
    cache: BlockCache,
    metrics: BlockMetrics,
}

async fn fixture(capacity: u64) -> BlockCacheFixture {
    let directory = tempfile::tempdir().unwrap();
    let local = LocalStore::open(directory.path()).await.unwrap();
    let metered = Arc::new(MeteredObjectStore::new(Arc::new(local), &Registry::new()).unwrap());
    let faults = Arc::new(FaultStore::new(metered.clone(), system_entropy()));
    let metrics = BlockMetrics {
        hits: IntCounter::new("hits", "hits").unwrap(),
        misses: IntCounter::new("misses", "misses").unwrap(),
        held_bytes: IntGauge::new("held", "held").unwrap(),
    };
    let cache = BlockCache::new(faults.clone(), capacity, BLOCK, metrics.clone());
    BlockCacheFixture {
        _directory: directory,
        faults,
        metered,
        cache,
        metrics,
    }
}

fn body(size: u64) -> Bytes {
    (0..size)
        .map(|n| (n.wrapping_mul(31) ^ (n >> 8)) as u8)
        .collect::<Vec<_>>()
        .into()
}

#[tokio::test]
async fn every_range_gives_the_right_bytes() {
    let BlockCacheFixture { faults, cache, .. } = &fixture(1 << 20).await;
    for size in [1, 4095, 4096, 4097, 20_000] {
        let (key, whole) = (format!("{size}"), body(size));
        faults.put_new(&key, whole.clone()).await.unwrap();
        for start in [0, 1, 4095, 4096, 8192, 19_999] {
            for end in [1, 4096, 4097, 12_288, size] {
                if start <= end && end <= size {
                    for known in [Some(size), None] {
                        let read = cache.read(&key, known, start..end).await.unwrap();
                        assert_eq!(
                            read,
                            whole.slice(start as usize..end as usize),
                            "{key}: {start}..{end}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn what_lies_outside_is_refused() {
    let BlockCacheFixture { faults, cache, .. } = &fixture(1 << 20).await;
    faults.put_new("a", body(5000)).await.unwrap();
    let kind = async |size, range| cache.read("a", size, range).await.unwrap_err().kind();
    assert_eq!(kind(Some(5000), 0..5001).await, StoreErrorKind::InvalidRange);
    assert_eq!(
        kind(Some(9000), 0..9000).await,
        StoreErrorKind::Corrupt,
        "the metadata names a larger size"
    );
    assert_eq!(kind(None, 0..5001).await, StoreErrorKind::Corrupt);
    assert_eq!(kind(None, 0..20_000).await, StoreErrorKind::Corrupt);
    assert_eq!(kind(None, 8192..8193).await, StoreErrorKind::Corrupt);
    assert_eq!(
        cache.read("a", Some(5000), 0..5000).await.unwrap(),
        body(5000),
        "failed reads do no harm"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_of_a_block_cause_one_read() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        metrics,
        ..
    } = &fixture(1 << 20).await;
    faults.put_new("a", body(4096)).await.unwrap();
    let hang = faults.add(Toxic::new(ToxicKind::Hang).on(&[StoreOperation::Get]));
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.read("a", Some(4096), 10..20).await })
        })
        .collect();
    while metrics.misses.get() < 50 {
        tokio::task::yield_now().await;
    }
    faults.remove(hang);
    for read in join_all(readers).await {
        assert_eq!(read.unwrap().unwrap(), body(4096).slice(10..20));
    }
    assert_eq!(metered.counts().get, 1);
    cache.read("a", Some(4096), 0..4096).await.unwrap();
    assert_eq!((metered.counts().get, metrics.hits.get()), (1, 1));
}

#[tokio::test]
async fn neighbours_are_read_at_once() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        metrics,
        ..
    } = &fixture(1 << 20).await;
    let whole = body(40 * BLOCK);
    faults.put_new("a", whole.clone()).await.unwrap();
    cache
        .read("a", Some(whole.len() as u64), 3 * BLOCK + 5..6 * BLOCK)
        .await
        .unwrap();
    assert_eq!((metered.counts().get, metered.counts().bytes_get), (1, 3 * BLOCK));
    // Blocks 3 to 5 are cached: one read before them, one after.
    let read = cache
        .read("a", Some(whole.len() as u64), 0..10 * BLOCK)
        .await
        .unwrap();
    assert_eq!(read, whole.slice(..10 * BLOCK as usize));
    assert_eq!(
        (metered.counts().get, metered.counts().bytes_get),
        (3, 10 * BLOCK)
    );
    assert_eq!((metrics.hits.get(), metrics.misses.get()), (3, 10));
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_not_remembered() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        ..
    } = &fixture(1 << 20).await;
    faults.put_new("a", body(4096)).await.unwrap();
    faults.add(
        Toxic::new(ToxicKind::Error(StoreErrorKind::Throttled))
            .on(&[StoreOperation::Get])
            .times(1),
    );
    let (one, two) = (
        cache.read("a", Some(4096), 0..1),
        cache.read("a", Some(4096), 5..6),
    );
    let (one, two) = futures::future::join(one, two).await;
    assert_eq!(one.unwrap_err().kind(), StoreErrorKind::Throttled);
    assert_eq!(two.unwrap_err().kind(), StoreErrorKind::Throttled);
    assert_eq!(metered.counts().get, 0);
    assert_eq!(
        cache.read("a", Some(4096), 5..6).await.unwrap(),
        body(4096).slice(5..6)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_does_not_take_the_block_with_it() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        metrics,
        ..
    } = &fixture(1 << 20).await;
    faults.put_new("a", body(4096)).await.unwrap();
    let hang = faults.add(Toxic::new(ToxicKind::Hang).on(&[StoreOperation::Get]));
    let read = |cache: BlockCache| tokio::spawn(async move { cache.read("a", Some(4096), 0..4096).await });
    let (first, second) = (read(cache.clone()), read(cache.clone()));
    while metrics.misses.get() < 2 || faults.hits(hang) < 1 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    faults.remove(hang);
    assert_eq!(second.await.unwrap().unwrap(), body(4096));
    assert_eq!(metered.counts().get, 1);
}

#[tokio::test]
async fn memory_is_bounded() {
    let capacity = 64 * 1024;
    let BlockCacheFixture {
        faults,
        cache,
        metrics,
        ..
    } = &fixture(capacity).await;
    for n in 0..20 {
        let (key, whole) = (format!("{n}"), body(5 * BLOCK));
        faults.put_new(&key, whole.clone()).await.unwrap();
        assert_eq!(
            cache.read(&key, Some(5 * BLOCK), 0..5 * BLOCK).await.unwrap(),
            whole
        );
    }
    // The cache evicts while it is used.
    while u64::try_from(metrics.held_bytes.get()).unwrap() > capacity {
        cache.read("0", Some(5 * BLOCK), 0..1).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_read_ahead_is_there_when_it_is_wanted() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        metrics,
        ..
    } = &fixture(1 << 20).await;
    let size = 6 * BLOCK - 100;
    faults.put_new("a", body(size)).await.unwrap();
    cache.prefetch("a", Some(size), BLOCK..100 * BLOCK);
    cache.prefetch("a", Some(size), 50 * BLOCK..100 * BLOCK);
    while metered.counts().bytes_get < size - BLOCK {
        tokio::task::yield_now().await;
    }
    let read = cache.read("a", Some(size), BLOCK..size).await.unwrap();
    assert_eq!(read, body(size).slice(BLOCK as usize..));
    assert_eq!(metered.counts().get, 1);
    assert_eq!(metrics.misses.get() + metrics.hits.get(), 5);
}

#[tokio::test]
async fn forgotten_blocks_are_read_anew() {
    let BlockCacheFixture {
        faults,
        metered,
        cache,
        ..
    } = &fixture(1 << 20).await;
    faults.put_new("a", body(3 * BLOCK)).await.unwrap();
    cache.read("a", Some(3 * BLOCK), 0..3 * BLOCK).await.unwrap();
    cache.invalidate("a", BLOCK..BLOCK + 1);
    cache.read("a", Some(3 * BLOCK), 0..3 * BLOCK).await.unwrap();
    assert_eq!((metered.counts().get, metered.counts().bytes_get), (2, 4 * BLOCK));
}

//! Puts that resolve ambiguous outcomes, and the faults that prove it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use streamhouse_agent::store::{
    GetRange, ObjectStore, RetryPolicy, StoreErrorKind, StoreOperation,
    fault::{FaultStore, Toxic, ToxicKind},
    local::LocalStore,
    put_settled,
};
use streamhouse_core::{
    backoff::{BackoffJitter, BackoffPolicy},
    time::Entropy,
};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Reproducible randomness.
#[derive(Debug)]
struct SeededEntropy(AtomicU64);

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        // SplitMix64.
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

struct FaultStoreFixture {
    _directory: tempfile::TempDir,
    store: Arc<FaultStore>,
    retry: RetryPolicy,
}

async fn fixture(seed: u64) -> FaultStoreFixture {
    let directory = tempfile::tempdir().unwrap();
    let entropy = Arc::new(SeededEntropy(AtomicU64::new(seed)));
    let local = LocalStore::open(directory.path()).await.unwrap();
    let store = Arc::new(FaultStore::new(Arc::new(local), entropy.clone()));
    let retry = RetryPolicy {
        backoff: BackoffPolicy::new(Duration::from_millis(1), Duration::from_millis(4))
            .with_jitter(BackoffJitter::Below(0.5)),
        ..RetryPolicy::new(entropy)
    };
    FaultStoreFixture {
        _directory: directory,
        store,
        retry,
    }
}

const BODY: Bytes = Bytes::from_static(b"the bytes");

#[tokio::test]
async fn throttling_is_waited_out() {
    let FaultStoreFixture { store, retry, .. } = &fixture(1).await;
    for kind in [
        StoreErrorKind::Throttled,
        StoreErrorKind::Unavailable,
        StoreErrorKind::Timeout,
    ] {
        store.add(
            Toxic::new(ToxicKind::Error(kind))
                .on(&[StoreOperation::Put])
                .times(5),
        );
    }
    put_settled(store.as_ref(), "a", BODY, retry).await.unwrap();
    assert_eq!(store.get("a", GetRange::Full).await.unwrap(), BODY);
}

#[tokio::test]
async fn a_bucket_or_credentials_under_repair_are_waited_for() {
    let FaultStoreFixture { store, retry, .. } = &fixture(2).await;
    for kind in [StoreErrorKind::MissingBucket, StoreErrorKind::Unauthorized] {
        store.add(Toxic::new(ToxicKind::Error(kind)).times(3));
    }
    put_settled(store.as_ref(), "a", BODY, retry).await.unwrap();
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_looking() {
    let FaultStoreFixture { store, retry, .. } = &fixture(3).await;
    let lost = store.add(
        Toxic::new(ToxicKind::LoseReply)
            .on(&[StoreOperation::Put])
            .times(1),
    );
    // Reading the object for comparison fails as well, at first.
    store.add(
        Toxic::new(ToxicKind::Error(StoreErrorKind::Unavailable))
            .on(&[StoreOperation::Get, StoreOperation::Head])
            .times(2),
    );
    put_settled(store.as_ref(), "a", BODY, retry).await.unwrap();
    assert_eq!(store.hits(lost), 1);
    assert_eq!(store.get("a", GetRange::Full).await.unwrap(), BODY);
}

#[tokio::test]
async fn somebody_elses_object_is_never_taken_for_ours() {
    let FaultStoreFixture { store, retry, .. } = &fixture(4).await;
    for (key, theirs) in [("same-size", "9 bytes.."), ("other-size", "more than nine bytes")] {
        store.put_new(key, Bytes::from(theirs)).await.unwrap();
        store.add(
            Toxic::new(ToxicKind::Error(StoreErrorKind::Timeout))
                .on(&[StoreOperation::Put])
                .times(1),
        );
        let error = put_settled(store.as_ref(), key, BODY, retry).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::AlreadyExists, "{key}");
        assert!(error.message().contains("two writers"), "{error}");
    }
    // Without an earlier failed attempt of this call, even equal bytes are refused.
    store.put_new("first", BODY).await.unwrap();
    let error = put_settled(store.as_ref(), "first", BODY, retry)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_failure_for_good_ends_at_once() {
    let FaultStoreFixture { store, retry, .. } = &fixture(5).await;
    let toxic = store.add(Toxic::new(ToxicKind::Error(StoreErrorKind::Other)));
    assert_eq!(
        put_settled(store.as_ref(), "a", BODY, retry)
            .await
            .unwrap_err()
            .kind(),
        StoreErrorKind::Other
    );
    assert_eq!(store.hits(toxic), 1);
    assert_eq!(
        put_settled(store.as_ref(), "", BODY, retry)
            .await
            .unwrap_err()
            .kind(),
        StoreErrorKind::Other
    );
    store.clear();
    assert_eq!(
        put_settled(store.as_ref(), "", BODY, retry)
            .await
            .unwrap_err()
            .kind(),
        StoreErrorKind::InvalidKey
    );
}

#[tokio::test]
async fn the_deadline_ends_it_with_the_last_failure() {
    let FaultStoreFixture { store, retry, .. } = &fixture(6).await;
    let toxic = store.add(Toxic::new(ToxicKind::Error(StoreErrorKind::Unavailable)));
    let retry = retry
        .clone()
        .with_deadline(Instant::now() + Duration::from_millis(100));
    let error = put_settled(store.as_ref(), "a", BODY, &retry).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(store.hits(toxic) > 1);
}

#[tokio::test]
async fn a_store_that_hangs_is_left_at_the_deadline_and_by_cancellation() {
    let FaultStoreFixture { store, retry, .. } = &fixture(7).await;
    let toxic = store.add(Toxic::new(ToxicKind::Hang).on(&[StoreOperation::Put]));
    let until = retry
        .clone()
        .with_deadline(Instant::now() + Duration::from_millis(50));
    assert_eq!(
        put_settled(store.as_ref(), "a", BODY, &until)
            .await
            .unwrap_err()
            .kind(),
        StoreErrorKind::Timeout
    );

    let cancel = CancellationToken::new();
    let cancelled = retry.clone().with_cancellation(cancel.clone());
    let put = tokio::spawn({
        let store = store.clone();
        async move { put_settled(store.as_ref(), "a", BODY, &cancelled).await }
    });
    while store.hits(toxic) < 2 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert_eq!(put.await.unwrap().unwrap_err().kind(), StoreErrorKind::Cancelled);
}

#[tokio::test]
async fn what_hangs_goes_on_when_the_toxic_is_removed() {
    let FaultStoreFixture { store, .. } = &fixture(8).await;
    let toxic = store.add(Toxic::new(ToxicKind::Hang).on(&[StoreOperation::Put]));
    let put = tokio::spawn({
        let store = store.clone();
        async move { store.put_new("a", BODY).await }
    });
    while store.hits(toxic) < 1 {
        tokio::task::yield_now().await;
    }
    assert!(store.head("a").await.is_err());
    store.remove(toxic);
    put.await.unwrap().unwrap();
    assert_eq!(store.get("a", GetRange::Full).await.unwrap(), BODY);
}

#[tokio::test]
async fn toxics_hit_only_what_they_name() {
    let FaultStoreFixture { store, .. } = &fixture(9).await;
    let toxic = Toxic::new(ToxicKind::Error(StoreErrorKind::Other))
        .on(&[StoreOperation::Put, StoreOperation::Delete])
        .with_prefix("x/");
    let id = store.add(toxic);
    store.put_new("y/a", BODY).await.unwrap();
    assert!(store.put_new("x/a", BODY).await.is_err());
    assert!(store.delete(&["y/a".to_owned(), "x/a".to_owned()]).await.is_err());
    assert_eq!(store.list("x/", None, 1).await.unwrap(), []);
    store.delete(&["y/a".to_owned()]).await.unwrap();
    assert_eq!(store.hits(id), 2);
}

#[tokio::test]
async fn chance_repeats_with_its_seed() {
    async fn run(seed: u64) -> Vec<bool> {
        let FaultStoreFixture { store, .. } = &fixture(seed).await;
        store.add(Toxic::new(ToxicKind::Error(StoreErrorKind::Other)).with_probability(0.5));
        let mut failed = Vec::new();
        for _ in 0..64 {
            failed.push(store.head("a").await.unwrap_err().kind() == StoreErrorKind::Other);
        }
        failed
    }
    let first = run(10).await;
    assert_eq!(first, run(10).await);
    assert_ne!(first, run(11).await);
    assert!(first.contains(&true) && first.contains(&false));
}

#[tokio::test]
async fn reads_are_tried_again_by_the_same_rules() {
    let FaultStoreFixture { store, retry, .. } = &fixture(12).await;
    store.put_new("a", BODY).await.unwrap();
    store.add(Toxic::new(ToxicKind::Error(StoreErrorKind::Throttled)).times(4));
    let read = retry
        .run("get", "a", || store.get("a", GetRange::Full))
        .await
        .unwrap();
    assert_eq!(read, BODY);
    let error = retry
        .run("get", "b", || store.get("b", GetRange::Full))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
}

#[tokio::test]
async fn a_put_or_deletion_that_is_late_happens_after_its_caller_gave_up() {
    let fixture = fixture(1).await;
    let store = &fixture.store;
    let late = store.add(Toxic::new(ToxicKind::Late).on(&[StoreOperation::Put, StoreOperation::Delete]));
    for key in ["a", "b"] {
        let error = store.put_new(key, BODY).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Timeout);
    }
    store.wait_late(2).await;
    assert_eq!(
        store.head("a").await.unwrap_err().kind(),
        StoreErrorKind::NotFound
    );
    store.remove(late);
    store.wait_settled().await;
    assert_eq!(store.get("a", GetRange::Full).await.unwrap(), BODY);
    let late = store.add(
        Toxic::new(ToxicKind::Late)
            .on(&[StoreOperation::Delete])
            .with_prefix("b"),
    );
    assert!(store.delete(&["b".to_owned()]).await.unwrap_err().is_retryable());
    assert_eq!(store.get("b", GetRange::Full).await.unwrap(), BODY);
    store.remove(late);
    store.wait_settled().await;
    assert_eq!(
        store.head("b").await.unwrap_err().kind(),
        StoreErrorKind::NotFound
    );
}

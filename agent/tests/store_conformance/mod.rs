//! The rules of [`ObjectStore`] as plain functions, which the test of each back end calls through
//! [`run_all`]. Each function uses a prefix of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use bytes::Bytes;
use futures::future::{join, join_all};
use streamhouse_agent::store::{
    DELETE_BATCH, GetRange, MAX_KEY_LEN, ObjectStore, StoreError, StoreErrorKind,
};

/// Checks every rule, one after the other.
pub(crate) async fn run_all(store: &dyn ObjectStore) {
    an_object_is_created_once(store).await;
    one_of_many_racers_wins(store).await;
    what_is_read_is_what_was_written(store).await;
    ranges_are_cut_out(store).await;
    an_empty_object_has_no_ranges(store).await;
    a_missing_object_is_not_found(store).await;
    head_tells_size_and_age(store).await;
    deleting_is_idempotent(store).await;
    many_are_deleted_at_once(store).await;
    listing_is_ordered_and_paged(store).await;
    long_listings_are_complete(store).await;
    a_large_object_survives(store).await;
    half_an_object_is_never_seen(store).await;
    illegal_keys_are_refused(store).await;
    unusual_keys_are_kept(store).await;
    nothing_secret_is_told(store);
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.expect_err("this must fail").kind()
}

/// Returns bytes that depend on position and seed.
fn body(size: usize, seed: u32) -> Bytes {
    (0..size as u32)
        .map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect::<Vec<_>>()
        .into()
}

async fn an_object_is_created_once(store: &dyn ObjectStore) {
    let key = "once/a";
    store.put_new(key, body(100, 1)).await.unwrap();
    assert_eq!(
        kind(store.put_new(key, body(50, 2)).await),
        StoreErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(store.put_new(key, body(100, 1)).await),
        StoreErrorKind::AlreadyExists,
        "not even the same bytes"
    );
    assert_eq!(store.get(key, GetRange::Full).await.unwrap(), body(100, 1));
}

async fn one_of_many_racers_wins(store: &dyn ObjectStore) {
    for round in 0..4 {
        let key = format!("race/{round}");
        let racers = (0..16).map(|racer| store.put_new(&key, body(300_000, racer)));
        let outcomes = join_all(racers).await;
        let winners: Vec<u32> = (0..16)
            .zip(&outcomes)
            .filter(|(_, done)| done.is_ok())
            .map(|(n, _)| n)
            .collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        for lost in outcomes.into_iter().filter(Result::is_err) {
            assert_eq!(kind(lost), StoreErrorKind::AlreadyExists);
        }
        assert_eq!(
            store.get(&key, GetRange::Full).await.unwrap(),
            body(300_000, winners[0])
        );
    }
}

async fn what_is_read_is_what_was_written(store: &dyn ObjectStore) {
    for size in [0, 1, 4095, 4096, 65_537, 1 << 20] {
        let key = format!("sizes/{size}");
        store.put_new(&key, body(size, 3)).await.unwrap();
        assert_eq!(
            store.get(&key, GetRange::Full).await.unwrap(),
            body(size, 3),
            "{size} bytes"
        );
    }
}

async fn ranges_are_cut_out(store: &dyn ObjectStore) {
    let (key, whole) = ("ranges/a", body(1000, 4));
    store.put_new(key, whole.clone()).await.unwrap();
    for (range, expected) in [
        (GetRange::Bounded(0..1000), 0..1000),
        (GetRange::Bounded(0..1), 0..1),
        (GetRange::Bounded(999..1000), 999..1000),
        (GetRange::Bounded(100..200), 100..200),
        (GetRange::Bounded(900..5000), 900..1000),
        (GetRange::Suffix(1), 999..1000),
        (GetRange::Suffix(1000), 0..1000),
        (GetRange::Suffix(5000), 0..1000),
        (GetRange::Full, 0..1000),
    ] {
        assert_eq!(
            store.get(key, range.clone()).await.unwrap(),
            whole.slice(expected),
            "{range:?}"
        );
    }
    #[allow(clippy::reversed_empty_ranges)] // that is the point
    for range in [
        GetRange::Bounded(1000..1001),
        GetRange::Bounded(4000..5000),
        GetRange::Bounded(10..10),
        GetRange::Bounded(20..10),
        GetRange::Suffix(0),
    ] {
        assert_eq!(
            kind(store.get(key, range.clone()).await),
            StoreErrorKind::InvalidRange,
            "{range:?}"
        );
    }
}

async fn an_empty_object_has_no_ranges(store: &dyn ObjectStore) {
    let key = "empty/a";
    store.put_new(key, Bytes::new()).await.unwrap();
    assert_eq!(store.get(key, GetRange::Full).await.unwrap(), Bytes::new());
    assert_eq!(store.head(key).await.unwrap().size, 0);
    assert_eq!(
        kind(store.get(key, GetRange::Bounded(0..1)).await),
        StoreErrorKind::InvalidRange
    );
    assert_eq!(
        kind(store.get(key, GetRange::Suffix(1)).await),
        StoreErrorKind::InvalidRange
    );
    assert_eq!(
        kind(store.put_new(key, body(1, 1)).await),
        StoreErrorKind::AlreadyExists
    );
}

async fn a_missing_object_is_not_found(store: &dyn ObjectStore) {
    for key in ["missing", "missing/deep/inside"] {
        assert_eq!(
            kind(store.get(key, GetRange::Full).await),
            StoreErrorKind::NotFound
        );
        assert_eq!(
            kind(store.get(key, GetRange::Suffix(5)).await),
            StoreErrorKind::NotFound
        );
        assert_eq!(kind(store.head(key).await), StoreErrorKind::NotFound);
    }
    store.put_new("missing-not/a/b", body(1, 1)).await.unwrap();
    assert_eq!(
        kind(store.get("missing-not/a", GetRange::Full).await),
        StoreErrorKind::NotFound,
        "no object, a prefix"
    );
    assert_eq!(kind(store.head("missing-not/a").await), StoreErrorKind::NotFound);
}

async fn head_tells_size_and_age(store: &dyn ObjectStore) {
    store.put_new("head/a", body(77, 1)).await.unwrap();
    store.put_new("head/b", body(78, 1)).await.unwrap();
    let (first, second) = (
        store.head("head/a").await.unwrap(),
        store.head("head/b").await.unwrap(),
    );
    assert_eq!((first.key.as_str(), first.size), ("head/a", 77));
    assert!(
        first.modified_ms > 1_600_000_000_000,
        "milliseconds since 1970, not seconds: {first:?}"
    );
    assert!(second.modified_ms >= first.modified_ms);
}

async fn deleting_is_idempotent(store: &dyn ObjectStore) {
    let keys = [
        "delete/a".to_owned(),
        "delete/b/c".to_owned(),
        "delete/never".to_owned(),
    ];
    store.put_new(&keys[0], body(10, 1)).await.unwrap();
    store.put_new(&keys[1], body(10, 1)).await.unwrap();
    store.put_new("delete/stays", body(10, 1)).await.unwrap();
    store.delete(&keys).await.unwrap();
    store.delete(&keys).await.unwrap();
    store.delete(&[]).await.unwrap();
    assert_eq!(
        kind(store.get(&keys[0], GetRange::Full).await),
        StoreErrorKind::NotFound
    );
    assert_eq!(kind(store.head(&keys[1]).await), StoreErrorKind::NotFound);
    assert_eq!(store.list("delete/", None, 10).await.unwrap().len(), 1);
    store.put_new(&keys[1], body(20, 2)).await.unwrap();
    assert_eq!(store.get(&keys[1], GetRange::Full).await.unwrap(), body(20, 2));
}

async fn many_are_deleted_at_once(store: &dyn ObjectStore) {
    let keys: Vec<String> = (0..DELETE_BATCH + 50).map(|n| format!("many/{n:06}")).collect();
    let there = [
        &keys[0],
        &keys[DELETE_BATCH - 1],
        &keys[DELETE_BATCH],
        &keys[DELETE_BATCH + 49],
    ];
    join_all(there.map(|key| store.put_new(key, body(1, 1))))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    store.delete(&keys).await.unwrap();
    assert_eq!(store.list("many/", None, 10).await.unwrap(), []);
}

async fn listing_is_ordered_and_paged(store: &dyn ObjectStore) {
    // In the order of their bytes; a directory walk that sorts by names would put "l/a/1" first.
    let keys = [
        "l/a-1", "l/a.dat", "l/a/1", "l/a/b/2", "l/a0", "l/b", "l/bb/1", "l/z", "l/ü", "l/日本",
    ];
    join_all(
        keys.iter()
            .rev()
            .map(|key| store.put_new(key, body(key.len(), 1))),
    )
    .await
    .into_iter()
    .for_each(Result::unwrap);
    store.put_new("l2", body(1, 1)).await.unwrap();
    let names = async |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
        store
            .list(prefix, after, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|object| object.key)
            .collect()
    };
    assert_eq!(names("l/", None, 100).await, keys);
    for object in store.list("l/", None, 100).await.unwrap() {
        assert_eq!(object.size, object.key.len() as u64);
        assert!(object.modified_ms > 1_600_000_000_000);
    }
    assert_eq!(names("l/a", None, 100).await, keys[..5]);
    assert_eq!(names("l/a/", None, 100).await, keys[2..4]);
    assert_eq!(names("l/a/b", None, 100).await, keys[3..4]);
    assert_eq!(names("l/b", None, 100).await, keys[5..7]);
    assert_eq!(names("l/c", None, 100).await, [""; 0]);
    assert_eq!(
        names("l/", Some("l/a/1"), 2).await,
        keys[3..5],
        "what comes after does not include it"
    );
    assert_eq!(
        names("l/", Some("l/a/"), 2).await,
        keys[2..4],
        "after need not exist"
    );
    assert_eq!(names("l/a/", Some("l/b"), 10).await, [""; 0]);
    assert_eq!(
        names("l/b", Some("l/a"), 10).await,
        keys[5..7],
        "after lies before the prefix"
    );
    assert_eq!(names("l/", None, 0).await, [""; 0]);
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = names("l/", after.as_deref(), 3).await;
        all.extend_from_slice(&page);
        if page.len() < 3 {
            break;
        }
        after = page.last().cloned();
    }
    assert_eq!(all, keys);
}

async fn long_listings_are_complete(store: &dyn ObjectStore) {
    let keys: Vec<String> = (0..1100).map(|n| format!("long/{}/{n:04}", n / 500)).collect();
    for some in keys.chunks(50) {
        join_all(some.iter().map(|key| store.put_new(key, Bytes::new())))
            .await
            .into_iter()
            .for_each(Result::unwrap);
    }
    let listed = store.list("long/", None, 5000).await.unwrap();
    assert!(
        listed.iter().map(|object| &object.key).eq(&keys),
        "{} of {}",
        listed.len(),
        keys.len()
    );
    let listed = store.list("long/", None, 1050).await.unwrap();
    assert!(listed.iter().map(|object| &object.key).eq(&keys[..1050]));
    store.delete(&keys).await.unwrap();
}

async fn a_large_object_survives(store: &dyn ObjectStore) {
    let (key, size) = ("large/a", 20 << 20);
    let whole = body(size, 5);
    store.put_new(key, whole.clone()).await.unwrap();
    assert_eq!(store.head(key).await.unwrap().size, size as u64);
    let middle = 7 << 20..12 << 20;
    let read = store
        .get(key, GetRange::Bounded(middle.start as u64..middle.end as u64))
        .await
        .unwrap();
    assert!(read == whole.slice(middle));
    assert!(store.get(key, GetRange::Suffix(3 << 20)).await.unwrap() == whole.slice(17 << 20..));
    assert!(store.get(key, GetRange::Full).await.unwrap() == whole);
    store.delete(&[key.to_owned()]).await.unwrap();
}

async fn half_an_object_is_never_seen(store: &dyn ObjectStore) {
    let (key, whole) = ("half/a", body(8 << 20, 6));
    let write = store.put_new(key, whole.clone());
    let read = async {
        loop {
            match store.get(key, GetRange::Full).await {
                Ok(seen) => break assert!(seen == whole, "{} of {} bytes", seen.len(), whole.len()),
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::NotFound),
            }
        }
    };
    let (written, ()) = join(write, read).await;
    written.unwrap();
}

async fn illegal_keys_are_refused(store: &dyn ObjectStore) {
    let (long, long_part) = ("a/".repeat(MAX_KEY_LEN / 2) + "a", "x".repeat(256));
    for key in [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", "a\nb", "a\\b", &long,
        &long_part,
    ] {
        assert_eq!(
            kind(store.put_new(key, Bytes::new()).await),
            StoreErrorKind::InvalidKey,
            "{key:?}"
        );
        assert_eq!(
            kind(store.get(key, GetRange::Full).await),
            StoreErrorKind::InvalidKey,
            "{key:?}"
        );
        assert_eq!(kind(store.head(key).await), StoreErrorKind::InvalidKey, "{key:?}");
        assert_eq!(
            kind(store.delete(&[key.to_owned()]).await),
            StoreErrorKind::InvalidKey,
            "{key:?}"
        );
    }
}

async fn unusual_keys_are_kept(store: &dyn ObjectStore) {
    let mut keys = [
        "odd/ü ñ",
        "odd/日本/語",
        "odd/a+b&c=d",
        "odd/%41",
        "odd/<x>'\"",
        "odd/...",
        "odd/*?#:;,@$!~",
        "odd/_canary",
    ];
    keys.sort_unstable();
    for key in keys {
        store
            .put_new(key, Bytes::copy_from_slice(key.as_bytes()))
            .await
            .unwrap();
    }
    for key in keys {
        assert_eq!(store.get(key, GetRange::Full).await.unwrap(), key.as_bytes());
        assert_eq!(store.head(key).await.unwrap().key, key);
    }
    let listed = store.list("odd/", None, 100).await.unwrap();
    assert!(
        listed.iter().map(|object| object.key.as_str()).eq(keys),
        "{listed:?}"
    );
    store.delete(&keys.map(str::to_owned)).await.unwrap();
    assert_eq!(store.list("odd/", None, 100).await.unwrap(), []);
}

fn nothing_secret_is_told(store: &dyn ObjectStore) {
    let told = format!("{store:?} {}", store.describe());
    assert!(!told.contains("minioadmin"), "{told}");
}

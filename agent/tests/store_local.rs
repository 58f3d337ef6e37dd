//! The local directory as object store: the common rules, and those of a directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

mod store_conformance;

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use prometheus::Registry;
use streamhouse_agent::store::{
    GetRange, ObjectStore, S3Credentials, StoreErrorKind, StoreSettings, check_store, fault::FaultStore,
    local::LocalStore, metered::MeteredObjectStore, open_store,
};
use streamhouse_core::{
    ErrorCode,
    time::{SystemEntropy, system_entropy},
};

async fn open_local_store(root: &Path) -> LocalStore {
    LocalStore::open(root).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_keeps_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    store_conformance::run_all(&open_local_store(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decorators_keep_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let faults = FaultStore::new(
        Arc::new(open_local_store(directory.path()).await),
        system_entropy(),
    );
    store_conformance::run_all(&MeteredObjectStore::new(Arc::new(faults), &registry).unwrap()).await;
}

#[tokio::test]
async fn requests_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let store =
        MeteredObjectStore::new(Arc::new(open_local_store(directory.path()).await), &registry).unwrap();
    store.put_new("a", Bytes::from_static(b"12345")).await.unwrap();
    store
        .put_new("a", Bytes::from_static(b"12345"))
        .await
        .unwrap_err();
    store.get("a", GetRange::Suffix(2)).await.unwrap();
    store.head("a").await.unwrap();
    store.list("", None, 10).await.unwrap();
    store.delete(&["a".to_owned()]).await.unwrap();
    let counts = store.counts();
    assert_eq!(
        (counts.put, counts.get, counts.head, counts.list, counts.delete),
        (2, 1, 1, 1, 1)
    );
    assert_eq!(
        (counts.bytes_put, counts.bytes_get),
        (5, 2),
        "refused bytes do not count"
    );
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for line in [
        "streamhouse_agent_object_store_requests_total{operation=\"put\",outcome=\"ok\"} 1",
        "streamhouse_agent_object_store_requests_total{operation=\"put\",outcome=\"already_exists\"} 1",
        "streamhouse_agent_object_store_bytes_total{operation=\"put\"} 5",
        "streamhouse_agent_object_store_request_duration_seconds_count{operation=\"put\"} 2",
        "streamhouse_agent_object_store_request_duration_seconds_bucket{operation=\"get\",le=\"0.001\"}",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn what_a_dead_process_left_unfinished_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join(".unfinished");
    let live = open_local_store(directory.path()).await;
    fs::create_dir_all(unfinished.join("dead")).unwrap();
    fs::write(unfinished.join("dead/0"), b"half").unwrap();
    fs::write(unfinished.join("dead.owner"), b"").unwrap();
    let second = open_local_store(directory.path()).await;
    assert!(!unfinished.join("dead").exists() && !unfinished.join("dead.owner").exists());
    live.put_new("a", Bytes::from_static(b"1")).await.unwrap();
    second.put_new("b", Bytes::from_static(b"2")).await.unwrap();
    let temporary: Vec<_> = fs::read_dir(&unfinished)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && fs::read_dir(path).unwrap().next().is_some())
        .collect();
    assert!(temporary.is_empty(), "nothing is left after a put: {temporary:?}");
    assert_eq!(
        live.list("", None, 10).await.unwrap().len(),
        2,
        "unfinished objects are never listed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (
        open_local_store(directory.path()).await,
        open_local_store(directory.path()).await,
    );
    for round in 0..50 {
        // Deleting the only object removes its directory while the other process uses it.
        let key = format!("topic/{round}/segment");
        let puts = [&one, &two].map(|store| store.put_new(&key, Bytes::from_static(b"x")));
        assert_eq!(join_all(puts).await.iter().filter(|done| done.is_ok()).count(), 1);
        let other = format!("topic/{round}/other");
        let keys = [key.clone()];
        let (deleted, put) =
            futures::future::join(one.delete(&keys), two.put_new(&other, Bytes::from_static(b"y"))).await;
        deleted.unwrap();
        put.unwrap();
        assert_eq!(one.get(&other, GetRange::Full).await.unwrap(), "y");
    }
}

#[tokio::test]
async fn an_empty_directory_goes_with_its_last_object() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_local_store(directory.path()).await;
    store.put_new("topic/0/a", Bytes::new()).await.unwrap();
    store.put_new("topic/1/a", Bytes::new()).await.unwrap();
    store.delete(&["topic/0/a".to_owned()]).await.unwrap();
    assert!(!directory.path().join("topic/0").exists() && directory.path().join("topic/1").exists());
    store.delete(&["topic/1/a".to_owned()]).await.unwrap();
    assert!(!directory.path().join("topic").exists() && directory.path().exists());
}

#[tokio::test]
async fn a_vanished_directory_is_no_empty_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_local_store(directory.path()).await;
    store.put_new("a", Bytes::new()).await.unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    let keys = ["a".to_owned()];
    for error in [
        store.get("a", GetRange::Full).await.unwrap_err(),
        store.head("a").await.unwrap_err(),
        store.put_new("b", Bytes::new()).await.unwrap_err(),
        store.list("", None, 1).await.unwrap_err(),
        store.delete(&keys).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::MissingBucket, "{error}");
        assert_eq!(
            error.code(),
            ErrorCode::StorageUnavailable,
            "its records are not lost, the disk is not mounted"
        );
    }
    assert!(!directory.path().exists());
}

#[tokio::test]
async fn no_key_leads_to_unfinished_objects() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_local_store(directory.path()).await;
    let error = store
        .put_new(".unfinished/open.lock", Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::InvalidKey);
}

#[tokio::test]
async fn the_settings_lead_to_a_checked_store() {
    let directory = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        url: format!("file:{}", directory.path().display()),
        ..StoreSettings::default()
    };
    let store = open_store(&settings).await.unwrap();
    check_store(store.as_ref(), &SystemEntropy).await.unwrap();
    assert_eq!(store.list("", None, 10).await.unwrap(), [], "the check cleans up");

    let blocked = directory.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let wrong = StoreSettings {
        url: format!("file:{}", blocked.display()),
        ..StoreSettings::default()
    };
    let error = open_store(&wrong).await.unwrap_err();
    assert!(error.message().contains("check the path"), "{error}");
}

#[tokio::test]
async fn a_wrong_url_is_refused_without_repeating_it() {
    let settings = StoreSettings {
        url: "s3://id:hush@bucket".to_owned(),
        credentials: Some(S3Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "hush".to_owned(),
            session_token: None,
        }),
        ..StoreSettings::default()
    };
    let error = open_store(&settings).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
}

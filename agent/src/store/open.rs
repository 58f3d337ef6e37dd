//! Opens the store that the settings name, and checks at start that it supports what the agent
//! needs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use streamhouse_core::time::Entropy;
use tokio::time::{Duration, Instant, timeout};

use super::{
    GetRange, ObjectMeta, ObjectStore, RetryPolicy, StoreError, StoreErrorKind, StoreSettings,
    local::LocalStore, s3::S3Store,
};

/// A parsed url.
#[derive(Debug, PartialEq, Eq)]
enum StoreLocation<'a> {
    S3 { bucket: &'a str, prefix: &'a str },
    Local(&'a Path),
}

fn parse_url(url: &str) -> Result<StoreLocation<'_>, StoreError> {
    if let Some(rest) = url.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if (3..=63).contains(&bucket.len()) && bucket.chars().all(legal) && prefix.len() <= 200 {
            return Ok(StoreLocation::S3 { bucket, prefix });
        }
    } else if let Some(path) = url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.is_empty() {
            return Ok(StoreLocation::Local(Path::new(path)));
        }
    }
    // The url is not repeated: a wrong one may contain a password.
    Err(StoreError::new(
        StoreErrorKind::Other,
        "the object store's url is not s3://bucket, s3://bucket/prefix or file:/path; correct it",
    ))
}

/// Checks that the url names a store, before anything is opened.
///
/// # Errors
/// Fails if it does not; the message does not repeat the url.
pub fn check_url(url: &str) -> Result<(), StoreError> {
    parse_url(url).map(drop)
}

/// Opens the store. Sends no request to S3 yet: see [`check_store`].
///
/// # Errors
/// Fails if the settings are not valid, or if a local directory cannot be opened.
pub async fn open_store(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(match parse_url(&settings.url)? {
        StoreLocation::S3 { bucket, prefix } => Arc::new(S3Store::new(bucket, prefix, settings).await?),
        StoreLocation::Local(path) => Arc::new(LocalStore::open(path).await?),
    })
}

/// Prefix of the objects of [`check_store`].
pub const CANARY_PREFIX: &str = "_canary/";
/// Maximum duration of each request of a check, retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Age from which on a canary counts as abandoned.
const ABANDONED_AFTER_MS: i64 = 60_000;
/// Maximum number of abandoned canaries that one check removes.
const MAX_ABANDONED: usize = 1000;

/// Creates, reads and deletes one small object, and verifies that it cannot be created twice: a
/// store that ignores `If-None-Match` would lose data. Each request is retried on its own, so that
/// a store that refuses some of them passes.
///
/// The object is deleted in any case, as far as the store allows; a successful check also removes
/// the canaries that earlier checks left behind.
///
/// # Errors
/// The message says what to do; the caller repeats the check while [`StoreError::is_retryable`].
pub async fn check_store(store: &dyn ObjectStore, entropy: &dyn Entropy) -> Result<(), StoreError> {
    let key = format!("{CANARY_PREFIX}{:016x}", entropy.next_u64());
    let body = Bytes::from(key.clone().into_bytes());
    let proved = exercise_store(store, &key, &body).await;
    let abandoned = if proved.is_ok() {
        // Only housekeeping: a failure here is not a failure of the check.
        let listed = timeout(REQUEST_TIMEOUT, store.list(CANARY_PREFIX, None, MAX_ABANDONED)).await;
        listed.map_or_else(
            |_| Vec::new(),
            |listed| abandoned_canaries(&listed.unwrap_or_default(), &key),
        )
    } else {
        Vec::new()
    };
    let ours = [key.clone()];
    // A store that did not respond is not asked for long, so that the failure is reported soon.
    let patience = if proved.is_ok() {
        REQUEST_TIMEOUT
    } else {
        REQUEST_TIMEOUT / 4
    };
    let deleted = request_retry(patience)
        .run("delete", &key, || store.delete(&ours))
        .await;
    if !abandoned.is_empty()
        && let Err(error) = request_retry(REQUEST_TIMEOUT)
            .run("delete", CANARY_PREFIX, || store.delete(&abandoned))
            .await
    {
        tracing::debug!(%error, "canaries of earlier checks could not be deleted; the next check tries again");
    }
    proved.and(deleted)
}

/// Returns the retry policy of one request.
fn request_retry(patience: Duration) -> RetryPolicy {
    RetryPolicy::default().with_deadline(Instant::now() + patience)
}

async fn exercise_store(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<(), StoreError> {
    let problem = |why: &str| {
        StoreError::new(
            StoreErrorKind::Unsupported,
            format!("{} {why}; use a store that does", store.describe()),
        )
    };
    create_canary(store, key, body).await?;
    match request_retry(REQUEST_TIMEOUT)
        .run("put", key, || store.put_new(key, body.clone()))
        .await
    {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(problem("does not support conditional writes (If-None-Match)")),
    }
    let read = request_retry(REQUEST_TIMEOUT)
        .run("get", key, || store.get(key, GetRange::Suffix(3)))
        .await?;
    if read != body.slice(body.len() - 3..) {
        return Err(problem("does not give back the bytes that were written"));
    }
    Ok(())
}

/// Creates the canary. If it exists after an attempt without a response, that attempt succeeded:
/// the key is new.
async fn create_canary(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<(), StoreError> {
    let attempts = AtomicU32::new(0);
    let retry = request_retry(REQUEST_TIMEOUT);
    let put = retry.run("put", key, || {
        attempts.fetch_add(1, Ordering::Relaxed);
        store.put_new(key, body.clone())
    });
    match put.await {
        Err(error)
            if error.kind() == StoreErrorKind::AlreadyExists && attempts.load(Ordering::Relaxed) > 1 =>
        {
            Ok(())
        }
        created => created,
    }
}

/// Returns the canaries that are much older than this check's own, by the store's clock.
fn abandoned_canaries(canaries: &[ObjectMeta], ours: &str) -> Vec<String> {
    let Some(now) = canaries.iter().find(|canary| canary.key == ours) else {
        return Vec::new();
    };
    let before = now.modified_ms.saturating_sub(ABANDONED_AFTER_MS);
    let old = canaries.iter().filter(|canary| canary.modified_ms < before);
    old.map(|canary| canary.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use streamhouse_core::time::{SystemEntropy, system_entropy};

    use super::*;
    use crate::store::{
        StoreOperation,
        fault::{FaultStore, Toxic, ToxicKind},
        memory::MemoryStore,
    };

    #[test]
    fn urls_lead_to_stores() {
        assert_eq!(
            parse_url("s3://data").unwrap(),
            StoreLocation::S3 {
                bucket: "data",
                prefix: ""
            }
        );
        assert_eq!(
            parse_url("s3://data/a/b").unwrap(),
            StoreLocation::S3 {
                bucket: "data",
                prefix: "a/b"
            }
        );
        assert_eq!(
            parse_url("file:/var/data").unwrap(),
            StoreLocation::Local(Path::new("/var/data"))
        );
        assert_eq!(
            parse_url("file:///var/data").unwrap(),
            StoreLocation::Local(Path::new("/var/data"))
        );
        assert_eq!(
            parse_url("file:data").unwrap(),
            StoreLocation::Local(Path::new("data"))
        );
        for bad in [
            "",
            "data",
            "s3://",
            "s3://a",
            "s3://key:secret@bucket",
            "file:",
            "gs://bucket",
            "http://s3",
        ] {
            let error = parse_url(bad).unwrap_err();
            assert!(!error.message().contains("secret"), "{error}");
        }
    }

    /// Refuses every third request.
    #[derive(Debug, Default)]
    struct RefusingStore {
        inner: MemoryStore,
        requests: AtomicU32,
    }

    impl RefusingStore {
        fn admit(&self) -> Result<(), StoreError> {
            if self.requests.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return Err(StoreError::new(StoreErrorKind::Unavailable, "not this one"));
            }
            Ok(())
        }
    }

    #[async_trait]
    impl ObjectStore for RefusingStore {
        async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
            self.admit()?;
            self.inner.put_new(key, body).await
        }

        async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
            self.admit()?;
            self.inner.get(key, range).await
        }

        async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
            self.admit()?;
            self.inner.head(key).await
        }

        async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
            self.admit()?;
            self.inner.delete(keys).await
        }

        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<ObjectMeta>, StoreError> {
            self.inner.list(prefix, after, limit).await
        }

        fn describe(&self) -> String {
            "a store that refuses".to_owned()
        }
    }

    #[tokio::test]
    async fn a_store_that_refuses_each_third_request_can_be_used() {
        let store = RefusingStore::default();
        for _ in 0..5 {
            check_store(&store, &SystemEntropy).await.unwrap();
            assert_eq!(store.inner.keys(), Vec::<String>::new(), "the canary is gone");
        }
    }

    #[tokio::test]
    async fn a_check_that_fails_leaves_nothing_behind() {
        let inner = Arc::new(MemoryStore::default());
        let store = FaultStore::new(inner.clone(), system_entropy());
        let denied = Toxic::new(ToxicKind::Error(StoreErrorKind::Unauthorized)).on(&[StoreOperation::Get]);
        let denied = store.add(denied);
        let error = check_store(&store, &SystemEntropy).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unauthorized);
        assert_eq!(inner.keys(), Vec::<String>::new());
        store.remove(denied);
        // A lost reply is not taken for a store without conditional writes.
        store.add(
            Toxic::new(ToxicKind::LoseReply)
                .on(&[StoreOperation::Put])
                .times(1),
        );
        check_store(&store, &SystemEntropy).await.unwrap();
        assert_eq!(inner.keys(), Vec::<String>::new());
    }

    #[test]
    fn canaries_that_are_old_belong_to_nobody() {
        let canary = |key: &str, modified_ms| ObjectMeta {
            key: key.to_owned(),
            size: 1,
            modified_ms,
        };
        let found = [
            canary("_canary/a", 1_000),
            canary("_canary/b", 40_001),
            canary("_canary/ours", 100_000),
            canary("_canary/c", 39_999),
        ];
        assert_eq!(
            abandoned_canaries(&found, "_canary/ours"),
            ["_canary/a", "_canary/c"]
        );
        assert_eq!(
            abandoned_canaries(&found, "_canary/unlisted"),
            Vec::<String>::new()
        );
    }
}

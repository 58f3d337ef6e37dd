//! Opens the store that the settings name, and proves at start that it can do what the agent needs.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use streamhouse_core::time::Entropy;
use tokio::time::{Duration, Instant, timeout};

use super::{GetRange, ObjectStore, Retry, StoreError, StoreErrorKind, local::LocalStore, s3::S3Store};

/// Where objects are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// `s3://bucket`, `s3://bucket/prefix` or `file:/absolute/path` (also `file:relative/path`).
    pub url: String,
    /// The S3 endpoint, such as `http://127.0.0.1:9000`; AWS's own when none is given.
    pub endpoint: Option<String>,
    /// The S3 region; from the environment when none is given.
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host name; by default when an endpoint is given.
    pub path_style: Option<bool>,
    /// PEM certificates to trust besides the platform's.
    pub ca_file: Option<PathBuf>,
    /// Fixed credentials; without them the standard chain is asked (environment, profile, web identity, instance role).
    pub credentials: Option<Credentials>,
}

/// Fixed S3 credentials. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
    /// For temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The parsed url.
#[derive(Debug, PartialEq, Eq)]
enum Location<'a> {
    S3 { bucket: &'a str, prefix: &'a str },
    Local(&'a Path),
}

fn parse(url: &str) -> Result<Location<'_>, StoreError> {
    if let Some(rest) = url.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if (3..=63).contains(&bucket.len()) && bucket.chars().all(legal) && prefix.len() <= 200 {
            return Ok(Location::S3 { bucket, prefix });
        }
    } else if let Some(path) = url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.is_empty() {
            return Ok(Location::Local(Path::new(path)));
        }
    }
    // The url itself may hold a password where none belongs, so it is not repeated.
    Err(StoreError::new(
        StoreErrorKind::Other,
        "the object store's url is not s3://bucket, s3://bucket/prefix or file:/path; correct it",
    ))
}

/// Whether the url names a store; for checking settings before anything is opened.
pub fn check_url(url: &str) -> Result<(), StoreError> {
    parse(url).map(drop)
}

/// Opens the store. Of S3 nothing is asked yet: see [`check`].
pub async fn open(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(match parse(&settings.url)? {
        Location::S3 { bucket, prefix } => Arc::new(S3Store::new(bucket, prefix, settings).await?),
        Location::Local(path) => Arc::new(LocalStore::open(path).await?),
    })
}

/// Where the objects of [`check`] stand.
pub const CANARY_PREFIX: &str = "_canary/";
/// How long the requests of one check are tried again.
const CHECK: Duration = Duration::from_secs(15);
/// How long one of them may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long the canary may take to go.
const CLEAN: Duration = Duration::from_secs(3);
/// A canary of this age belongs to nobody any more.
const ABANDONED_MS: i64 = 60_000;
/// How many abandoned canaries one check clears away.
const MOST_ABANDONED: usize = 1000;

/// Creates, reads and deletes one small object, and makes sure that it cannot be created twice: a store that ignores
/// `If-None-Match` would lose data. The error says what to do. Each request is tried again by itself, so that a store
/// that refuses some of them is no obstacle; the caller tries the whole again while [`StoreError::is_retryable`].
///
/// The object goes in any case, as far as the store allows; a check that succeeds also removes those of earlier ones that
/// could not, or whose process was killed.
pub async fn check(store: &dyn ObjectStore, entropy: &dyn Entropy) -> Result<(), StoreError> {
    let key = format!("{CANARY_PREFIX}{:016x}", entropy.next_u64());
    let body = Bytes::from(key.clone().into_bytes());
    let retry = Retry {
        attempt: ATTEMPT,
        ..Retry::default()
    };
    let proved = prove(store, &key, &body, &retry.clone().until(Instant::now() + CHECK)).await;
    let abandoned = match &proved {
        Ok(()) => abandoned(store, &key).await,
        Err(_) => Vec::new(),
    };
    let retry = retry.until(Instant::now() + CLEAN);
    let ours = [key.clone()];
    let deleted = retry.run("delete", &key, || store.delete(&ours)).await;
    if !abandoned.is_empty()
        && let Err(error) = retry
            .run("delete", CANARY_PREFIX, || store.delete(&abandoned))
            .await
    {
        tracing::debug!(%error, "canaries of earlier checks are left; the next check tries again");
    }
    proved.and(deleted)
}

async fn prove(store: &dyn ObjectStore, key: &str, body: &Bytes, retry: &Retry) -> Result<(), StoreError> {
    let problem = |why: &str| {
        StoreError::new(
            StoreErrorKind::Other,
            format!("{} {why}; use a store that does", store.describe()),
        )
    };
    create(store, key, body, retry).await?;
    match retry.run("put", key, || store.put_new(key, body.clone())).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(problem("does not support conditional writes (If-None-Match)")),
    }
    let read = retry
        .run("get", key, || store.get(key, GetRange::Suffix(3)))
        .await?;
    if read != body.slice(body.len() - 3..) {
        return Err(problem("does not give back the bytes that were written"));
    }
    Ok(())
}

/// Creates the canary. That it is there after an attempt without an answer is what was wanted: the key is new.
async fn create(store: &dyn ObjectStore, key: &str, body: &Bytes, retry: &Retry) -> Result<(), StoreError> {
    let attempts = AtomicU32::new(0);
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

/// The canaries that are much older than ours, by the store's own clock. Only tidying: a failure is no failure of the
/// store's.
async fn abandoned(store: &dyn ObjectStore, ours: &str) -> Vec<String> {
    let listed = timeout(CLEAN, store.list(CANARY_PREFIX, None, MOST_ABANDONED)).await;
    let Ok(Ok(canaries)) = listed else {
        return Vec::new();
    };
    let Some(now) = canaries.iter().find(|canary| canary.key == ours) else {
        return Vec::new();
    };
    let before = now.modified_ms.saturating_sub(ABANDONED_MS);
    let old = canaries.iter().filter(|canary| canary.modified_ms < before);
    old.map(|canary| canary.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_stores() {
        assert_eq!(
            parse("s3://data").unwrap(),
            Location::S3 {
                bucket: "data",
                prefix: ""
            }
        );
        assert_eq!(
            parse("s3://data/a/b").unwrap(),
            Location::S3 {
                bucket: "data",
                prefix: "a/b"
            }
        );
        assert_eq!(
            parse("file:/var/data").unwrap(),
            Location::Local(Path::new("/var/data"))
        );
        assert_eq!(
            parse("file:///var/data").unwrap(),
            Location::Local(Path::new("/var/data"))
        );
        assert_eq!(parse("file:data").unwrap(), Location::Local(Path::new("data")));
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
            let error = parse(bad).unwrap_err();
            assert!(!error.message().contains("secret"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let credentials = Some(Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "hush".to_owned(),
            session_token: None,
        });
        let settings = StoreSettings {
            url: "s3://data".to_owned(),
            credentials,
            ..StoreSettings::default()
        };
        assert!(!format!("{settings:?}").contains("hush"));
    }
}

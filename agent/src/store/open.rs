//! Opens the store that the settings name, and proves at start that it can do what the agent needs.

use std::{fmt, path::Path, path::PathBuf, sync::Arc};

use bytes::Bytes;
use streamhouse_core::time::Entropy;

use super::{GetRange, ObjectStore, StoreError, StoreErrorKind, local::LocalStore, s3::S3Store};

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

/// Creates, reads and deletes one small object, and makes sure that it cannot be created twice: a store that ignores
/// `If-None-Match` would lose data. The error says what to do. Does not retry: the caller does while
/// [`StoreError::is_retryable`].
pub async fn check(store: &dyn ObjectStore, entropy: &dyn Entropy) -> Result<(), StoreError> {
    let key = format!("{CANARY_PREFIX}{:016x}", entropy.next_u64());
    let body = Bytes::from(key.clone().into_bytes());
    store.put_new(&key, body.clone()).await?;
    let proved = prove(store, &key, &body).await;
    let deleted = store.delete(&[key]).await;
    proved.and(deleted)
}

async fn prove(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<(), StoreError> {
    let problem = |why: &str| {
        StoreError::new(
            StoreErrorKind::Unsupported,
            format!("{} {why}; use a store that does", store.describe()),
        )
    };
    match store.put_new(key, body.clone()).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(problem("does not support conditional writes (If-None-Match)")),
    }
    if store.get(key, GetRange::Suffix(3)).await? != body.slice(body.len() - 3..) {
        return Err(problem("does not give back the bytes that were written"));
    }
    Ok(())
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

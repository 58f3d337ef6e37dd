//! S3 and compatible services (MinIO and others) as object store.
//!
//! One client for the lifetime of the agent: connections are kept and reused. Creation is a PUT
//! with `If-None-Match: *`. The SDK's own retries are disabled: callers own deadlines and back-off.
//! Each request has a timeout that grows with its size. Bodies are not hashed for the signature,
//! since the batches carry CRCs of their own; that saves a pass over all data.

mod client;
mod environment;
mod failure;

use std::future::Future;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{Delete, Object, ObjectIdentifier},
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use md5::{Digest as _, Md5};
use tokio::time::{Duration, timeout};

pub use self::environment::check_environment;
use self::failure::S3Attempt;
use super::{
    DELETE_BATCH, GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind, StoreSettings,
    retry::timeout_for, validate_key,
};

/// Timeout of a request without a body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Assumed length of a read of unknown size: a full segment.
const ASSUMED_READ_SIZE: u64 = 128 << 20;
/// Maximum number of objects in one listing of S3.
const LIST_PAGE: usize = 1000;

/// Stores objects in one bucket, below one prefix.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Empty, or ends in a slash.
    prefix: String,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the client, whose configuration refers to the credentials.
        write!(f, "S3Store({})", self.describe())
    }
}

impl S3Store {
    /// Creates a store for `bucket`, with its keys below `prefix` (may be empty). Sends no request
    /// to S3 yet.
    ///
    /// # Errors
    /// Fails if a setting is not valid, or if the CA file cannot be read.
    pub async fn new(bucket: &str, prefix: &str, settings: &StoreSettings) -> Result<Self, StoreError> {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        Ok(Self {
            client: client::build_client(settings).await?,
            bucket: bucket.to_owned(),
            prefix,
        })
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn attempt<'a>(&'a self, what: &'static str, key: &'a str) -> S3Attempt<'a> {
        S3Attempt {
            what,
            key,
            bucket: &self.bucket,
        }
    }

    /// Sends a request and translates its failure; `bytes` is the maximum number of bytes it
    /// transfers.
    async fn send<T, E>(
        &self,
        attempt: &S3Attempt<'_>,
        bytes: u64,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, StoreError>
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        with_timeout(attempt, bytes, async {
            request.await.map_err(|error| attempt.translate(&error))
        })
        .await
    }

    /// Distinguishes a missing bucket from a missing object, which a HEAD response does not.
    async fn confirm_missing(&self, not_found: StoreError) -> StoreError {
        let attempt = self.attempt("find bucket of", not_found.message());
        match self
            .send(&attempt, 0, self.client.head_bucket().bucket(&self.bucket).send())
            .await
        {
            Err(error) if error.kind() == StoreErrorKind::NotFound => attempt.missing_bucket(),
            _ => not_found,
        }
    }
}

/// Limits `work` to the time that `bytes` may take.
async fn with_timeout<T>(
    attempt: &S3Attempt<'_>,
    bytes: u64,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let limit = timeout_for(REQUEST_TIMEOUT, bytes);
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(StoreError::timeout(attempt.what, attempt.key, limit)))
}

/// Reads the body into one buffer, and refuses responses that do not match the request.
async fn collect_body(
    attempt: &S3Attempt<'_>,
    range: &GetRange,
    output: GetObjectOutput,
) -> Result<Bytes, StoreError> {
    let promised = output
        .content_length()
        .and_then(|length| u64::try_from(length).ok());
    if *range != GetRange::Full && promised == Some(0) {
        // An empty object has no ranges; some stores return an empty body instead of an error.
        return Err(StoreError::invalid_range(attempt.key, range));
    }
    if *range != GetRange::Full && output.content_range().is_none() {
        return Err(attempt.other("the store ignores range requests; use one that supports them"));
    }
    if let (Some(most), Some(promised)) = (range.max_len(), promised)
        && promised > most
    {
        return Err(attempt.other("the store returned more bytes than requested"));
    }
    let mut body = output.body;
    let (mut bytes, mut first) = (BytesMut::new(), Bytes::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| attempt.body_error(&error))?;
        if first.is_empty() && bytes.is_empty() {
            // Small objects arrive in one chunk, which needs no copy.
            first = chunk;
            continue;
        }
        if bytes.is_empty() {
            let size = promised
                .or(range.max_len())
                .and_then(|size| usize::try_from(size).ok());
            bytes.reserve(
                size.unwrap_or_default()
                    .min(ASSUMED_READ_SIZE as usize)
                    .max(first.len() + chunk.len()),
            );
            bytes.extend_from_slice(&std::mem::take(&mut first));
        }
        bytes.extend_from_slice(&chunk);
    }
    let bytes = if first.is_empty() { bytes.freeze() } else { first };
    match promised {
        Some(promised) if promised != bytes.len() as u64 => {
            Err(attempt.unavailable("the response was truncated"))
        }
        _ => Ok(bytes),
    }
}

/// Adds the MD5 of the body, which some stores require of a deletion instead of a newer checksum.
fn add_content_md5(request: &mut HttpRequest) {
    if let Some(body) = request.body().bytes() {
        let md5 = STANDARD.encode(Md5::digest(body));
        request.headers_mut().insert("content-md5", md5);
    }
}

fn range_header(range: &GetRange) -> Option<String> {
    match range {
        GetRange::Full => None,
        GetRange::Bounded(range) => Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1))),
        GetRange::Suffix(length) => Some(format!("bytes=-{length}")),
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        validate_key(key)?;
        let (attempt, size) = (self.attempt("put", key), body.len() as u64);
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .if_none_match("*")
            .body(ByteStream::from(body))
            .customize()
            .disable_payload_signing();
        self.send(&attempt, size, request.send()).await?;
        Ok(())
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        if range.max_len() == Some(0) {
            return Err(StoreError::invalid_range(key, &range));
        }
        let attempt = self.attempt("get", key);
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .set_range(range_header(&range))
            .send();
        with_timeout(&attempt, range.max_len().unwrap_or(ASSUMED_READ_SIZE), async {
            let output = request.await.map_err(|error| attempt.translate(&error))?;
            collect_body(&attempt, &range, output).await
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        validate_key(key)?;
        let attempt = self.attempt("head", key);
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full_key(key));
        match self.send(&attempt, 0, request.send()).await {
            Ok(head) => {
                let size = head.content_length().and_then(|size| u64::try_from(size).ok());
                Ok(ObjectMeta {
                    key: key.to_owned(),
                    size: size.ok_or_else(|| attempt.other("the store did not return the object's size"))?,
                    modified_ms: head
                        .last_modified()
                        .and_then(|at| at.to_millis().ok())
                        .unwrap_or_default(),
                })
            }
            Err(error) if error.kind() == StoreErrorKind::NotFound => Err(self.confirm_missing(error).await),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        for batch in keys.chunks(DELETE_BATCH) {
            let attempt = self.attempt("delete", &batch[0]);
            let objects = batch
                .iter()
                .map(|key| ObjectIdentifier::builder().key(self.full_key(key)).build());
            let objects = objects
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| attempt.other(&error.to_string()))?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
            let delete = delete.map_err(|error| attempt.other(&error.to_string()))?;
            let request = self
                .client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(delete)
                .customize()
                .mutate_request(add_content_md5);
            let output = self.send(&attempt, 0, request.send()).await?;
            if let Some(error) = output
                .errors()
                .iter()
                .find(|error| error.code() != Some("NoSuchKey"))
            {
                return Err(attempt.service_error(error.code(), error.message(), None, None));
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let attempt = self.attempt("list", prefix);
        let mut found = Vec::new();
        let mut after = after.map(|after| self.full_key(after));
        while found.len() < limit {
            let page = (limit - found.len()).min(LIST_PAGE);
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.full_key(prefix))
                .set_start_after(after.take())
                .max_keys(i32::try_from(page).unwrap_or(i32::MAX));
            let output = self.send(&attempt, 0, request.send()).await?;
            let more = output.is_truncated() == Some(true);
            let objects = output.contents.unwrap_or_default();
            after = objects.last().and_then(|last| last.key().map(str::to_owned));
            found.extend(
                objects
                    .into_iter()
                    .filter_map(|object| self.to_object_meta(object)),
            );
            if !more || after.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
    }
}

impl S3Store {
    fn to_object_meta(&self, object: Object) -> Option<ObjectMeta> {
        Some(ObjectMeta {
            key: object.key()?.strip_prefix(&self.prefix)?.to_owned(),
            size: u64::try_from(object.size()?).ok()?,
            modified_ms: object
                .last_modified()
                .and_then(|at| at.to_millis().ok())
                .unwrap_or_default(),
        })
    }
}

//! Retries with capped exponential back-off and jitter, and a create-only put that resolves
//! ambiguous outcomes. Used by all writers of objects; the back ends themselves never retry.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use streamhouse_core::{
    backoff::{BackoffJitter, BackoffPolicy},
    time::{Entropy, system_entropy},
};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{GetRange, ObjectStore, StoreError, StoreErrorKind};
use crate::traces;

/// How to retry, and when to give up. Without a deadline and a cancellation it retries without end.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// The pauses between attempts.
    pub backoff: BackoffPolicy,
    /// The maximum duration of one attempt; extended with the size of the body.
    pub attempt_timeout: Duration,
    /// No attempt starts or continues after this time.
    pub deadline: Option<Instant>,
    /// Ends the attempts.
    pub cancel: CancellationToken,
    /// Source of the jitter.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(system_entropy())
    }
}

/// Half of each pause is random, so that callers that failed together do not retry together.
const DEFAULT_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(3))
    .with_jitter(BackoffJitter::Below(0.5));

/// The slowest upload that does not count as broken.
const MIN_BYTES_PER_SECOND: u64 = 512 * 1024;

/// Returns `base` plus the time that `bytes` take on a slow line.
pub(crate) fn timeout_for(base: Duration, bytes: u64) -> Duration {
    base + Duration::from_millis(bytes.saturating_mul(1000) / MIN_BYTES_PER_SECOND)
}

impl RetryPolicy {
    /// Creates a policy: pauses of 50 ms to 3 s, attempts of 30 s, no deadline.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self {
            backoff: DEFAULT_BACKOFF,
            attempt_timeout: Duration::from_secs(30),
            deadline: None,
            cancel: CancellationToken::new(),
            entropy,
        }
    }

    /// Gives up at `deadline`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Gives up when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancellation(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Runs `operation` until it succeeds, fails permanently, or the time is over. `what` and `key`
    /// are for the log.
    ///
    /// # Errors
    /// The permanent failure, or the last retryable one when the time is over.
    pub async fn run<T, F, Fut>(&self, what: &str, key: &str, mut operation: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let mut attempts = 0;
        let mut last: Option<StoreError> = None;
        loop {
            match self
                .run_attempt(what, key, self.attempt_timeout, operation())
                .await
            {
                // A timeout at the deadline says less than the failure of the previous attempt.
                Err(error) if error.kind() == StoreErrorKind::Timeout && self.is_expired() => {
                    return Err(last.unwrap_or(error));
                }
                Err(error) if error.is_retryable() => {
                    last = Some(error.clone());
                    self.back_off(what, key, &mut attempts, error).await?;
                }
                done => return done,
            }
        }
    }

    fn is_expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Runs one attempt, bounded by `limit`, the deadline and the cancellation.
    async fn run_attempt<T>(
        &self,
        what: &str,
        key: &str,
        limit: Duration,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(limit, |left| left.min(limit));
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled_error(what, key)),
            done = timeout(limit, operation) => {
                done.unwrap_or_else(|_| Err(StoreError::timeout(what, key, limit)))
            }
        }
    }

    /// Waits before the next attempt; returns `error` if there is no time for one.
    async fn back_off(
        &self,
        what: &str,
        key: &str,
        attempts: &mut u32,
        error: StoreError,
    ) -> Result<(), StoreError> {
        *attempts += 1;
        let jittered = self.backoff.delay_after(*attempts, &*self.entropy);
        let pause = error
            .retry_after()
            .map_or(jittered, |wait| wait.min(self.backoff.max_delay()).max(jittered));
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() + pause >= deadline)
        {
            return Err(error);
        }
        warn!(key, attempts = *attempts, ?pause, error = %error, "{what} failed, trying again");
        traces::record_retry_in_current_span(&error.to_string());
        tokio::select! {
            () = self.cancel.cancelled() => Err(cancelled_error(what, key)),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

fn cancelled_error(what: &str, key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Cancelled, format!("{what} {key} was cancelled"))
}

/// Creates the object and resolves ambiguous outcomes: `Ok` means that exactly these bytes are
/// stored under the key, durably.
///
/// Retryable failures are retried as `retry` says, and so are a missing bucket and refused
/// credentials: the bytes wait for the repair. If an attempt may have happened without a response
/// and the next one finds the key taken, the object is read and compared; equal bytes count as
/// success.
///
/// # Errors
/// [`StoreErrorKind::AlreadyExists`] if another object has the key, else the failure that ended the
/// attempts; after it the object may still come to exist.
pub async fn put_settled(
    store: &dyn ObjectStore,
    key: &str,
    body: Bytes,
    retry: &RetryPolicy,
) -> Result<(), StoreError> {
    let limit = timeout_for(retry.attempt_timeout, body.len() as u64);
    let (mut attempts, mut ambiguous) = (0, false);
    loop {
        let outcome = match retry
            .run_attempt("put", key, limit, store.put_new(key, body.clone()))
            .await
        {
            Err(error) if ambiguous && error.kind() == StoreErrorKind::AlreadyExists => {
                retry
                    .run_attempt("compare", key, limit, compare_object(store, key, &body))
                    .await
            }
            outcome => outcome,
        };
        match outcome {
            Err(error) if error.is_retryable() || error.kind().is_repairable() => {
                ambiguous |= error.is_retryable();
                retry.back_off("put", key, &mut attempts, error).await?;
            }
            settled => return settled,
        }
    }
}

/// Checks whether the object under `key` holds `body`.
async fn compare_object(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<(), StoreError> {
    let same =
        store.head(key).await?.size == body.len() as u64 && store.get(key, GetRange::Full).await? == *body;
    if same {
        return Ok(());
    }
    Err(StoreError::new(
        StoreErrorKind::AlreadyExists,
        format!("object {key} exists with other contents; two writers use the same key"),
    ))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_time_does_not_hide_why_the_attempts_failed() {
        let retry = RetryPolicy::default().with_deadline(Instant::now() + Duration::from_millis(300));
        let mut attempts = 0;
        let outcome: Result<(), StoreError> = retry
            .run("get", "a", || {
                attempts += 1;
                let first = attempts == 1;
                async move {
                    if first {
                        return Err(StoreError::new(StoreErrorKind::Unavailable, "no TLS there"));
                    }
                    pending().await
                }
            })
            .await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        let retry = RetryPolicy::default().with_deadline(Instant::now() + Duration::from_millis(20));
        let error = retry.run("get", "a", pending::<Result<(), _>>).await.unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Timeout,
            "nothing else is known: {error}"
        );
    }
}

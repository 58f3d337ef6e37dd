//! The errors inside a transaction, before they become the crate's [`Error`], and the macros that
//! run a SQLite transaction.
//!
//! The macros begin, run and commit a transaction, and repeat it after a conflict with another
//! transaction until a time limit.

use std::time::Duration;

use streamhouse_core::backoff::BackoffPolicy;

use crate::Error;

/// The result inside a transaction.
pub(crate) type TransactionResult<T> = Result<T, TransactionError>;

/// The reason why a transaction failed.
#[derive(Debug)]
pub(crate) enum TransactionError {
    /// The database returned an error, or the connection failed.
    Sql(sqlx::Error),
    /// A rule of the store refused the transaction.
    Refused(Error),
    /// No answer arrived in time.
    TimedOut,
}

impl From<sqlx::Error> for TransactionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for TransactionError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Classifies an error of the database for the caller.
pub(crate) enum SqliteErrorClass {
    /// Another transaction conflicted (deadlock, serialization): a retry may succeed at once.
    Retryable(Error),
    /// A retry within this call would not succeed.
    Final(Error),
}

/// The maximum number of attempts at a transaction that conflicts with others.
pub(crate) const MAX_ATTEMPTS: u32 = 6;

/// Back-off between attempts at a transaction that conflicts with others.
const CONFLICT_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(4), Duration::from_millis(512));

/// Returns the delay after attempt `attempt`, counted from 1.
pub(crate) fn retry_delay(attempt: u32) -> Duration {
    CONFLICT_BACKOFF.base_delay(attempt)
}

/// Returns the error of a call that was given up after `limit`.
pub(crate) fn timeout_error(limit: Duration) -> Error {
    Error::Unavailable(format!(
        "no answer within {limit:?}; the call may have taken effect"
    ))
}

/// Waits for `future`.
///
/// # Errors
///
/// [`Error::Unavailable`] once `limit` has passed; otherwise the error of `future`.
pub(crate) async fn with_timeout<T>(
    limit: Duration,
    future: impl Future<Output = crate::Result<T>>,
) -> crate::Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(answer) => answer,
        Err(_) => Err(timeout_error(limit)),
    }
}

/// Runs `$attempt` (an expression that is a future of [`TransactionResult`]), and again when
/// `$classify` classifies its error as a conflict, until `$limit` has passed.
macro_rules! retry_on_conflict {
    ($limit:expr, $classify:path, $attempt:expr) => {{
        let limit: std::time::Duration = $limit;
        let until = tokio::time::Instant::now() + limit;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome: $crate::transaction::TransactionResult<_> = tokio::time::timeout_at(until, $attempt)
                .await
                .unwrap_or(Err($crate::transaction::TransactionError::TimedOut));
            match outcome {
                Ok(value) => break Ok(value),
                Err($crate::transaction::TransactionError::Refused(error)) => break Err(error),
                Err($crate::transaction::TransactionError::TimedOut) => {
                    break Err($crate::transaction::timeout_error(limit));
                }
                Err($crate::transaction::TransactionError::Sql(error)) => match $classify(error) {
                    $crate::transaction::SqliteErrorClass::Retryable(error)
                        if attempt >= $crate::transaction::MAX_ATTEMPTS
                            || tokio::time::Instant::now() >= until =>
                    {
                        break Err(error);
                    }
                    $crate::transaction::SqliteErrorClass::Retryable(_) => {
                        tokio::time::sleep($crate::transaction::retry_delay(attempt)).await
                    }
                    $crate::transaction::SqliteErrorClass::Final(error) => break Err(error),
                },
            }
        }
    }};
}
pub(crate) use retry_on_conflict;

/// Runs `$body` (a future of [`TransactionResult`]) with [`retry_on_conflict`] in a transaction
/// `$tx` that `$begin` opens.
macro_rules! transact {
    ($limit:expr, $begin:expr, $classify:path, $tx:ident => $body:expr) => {
        $crate::transaction::retry_on_conflict!($limit, $classify, async {
            let mut $tx = $begin.await?;
            match $body.await {
                Ok(value) => {
                    $tx.commit().await?;
                    Ok(value)
                }
                Err(failure) => {
                    // Releases the locks now. If it fails, the connection is broken, which releases
                    // them too.
                    let _ = $tx.rollback().await;
                    Err(failure)
                }
            }
        })
    };
}
pub(crate) use transact;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_retried_after_milliseconds_and_never_later_than_half_a_second() {
        let delays: Vec<_> = (1..=9).map(|attempt| retry_delay(attempt).as_millis()).collect();
        assert_eq!(delays, [4, 8, 16, 32, 64, 128, 256, 512, 512]);
    }
}

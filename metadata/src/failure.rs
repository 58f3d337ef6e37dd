//! The errors inside a transaction, before they become the crate's [`Error`], and the macros that
//! run a SQLite transaction.
//!
//! The macros begin, run and commit a transaction, and repeat it after a conflict with another
//! transaction until a time limit.

use std::time::Duration;

use crate::Error;

/// The result inside a transaction.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// The reason why a transaction failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database returned an error, or the connection failed.
    Sql(sqlx::Error),
    /// A rule of the store refused the transaction.
    Refused(Error),
    /// No answer arrived in time.
    Late,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Classifies an error of the database for the caller.
pub(crate) enum Meaning {
    /// Another transaction conflicted (deadlock, serialization): a retry may succeed at once.
    TryAgain(Error),
    /// A retry within this call would not succeed.
    Final(Error),
}

/// The maximum number of attempts at a transaction that conflicts with others.
pub(crate) const ATTEMPTS: u32 = 6;

/// Returns the delay before attempt `attempt`, counted from 1.
pub(crate) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(2 << attempt.min(8))
}

/// Returns the error of a call that was given up after `limit`.
pub(crate) fn no_answer(limit: Duration) -> Error {
    Error::Unavailable(format!(
        "no answer within {limit:?}; the call may have taken effect"
    ))
}

/// Waits for `future`.
///
/// # Errors
///
/// [`Error::Unavailable`] once `limit` has passed; otherwise the error of `future`.
pub(crate) async fn within<T>(
    limit: Duration,
    future: impl Future<Output = crate::Result<T>>,
) -> crate::Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer(limit)),
    }
}

/// Runs `$attempt` (an expression that is a future of [`Outcome`]), and again when `$meaning`
/// classifies its error as a conflict, until `$limit` has passed.
macro_rules! attempts {
    ($limit:expr, $meaning:path, $attempt:expr) => {{
        let limit: std::time::Duration = $limit;
        let until = tokio::time::Instant::now() + limit;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome: $crate::failure::Outcome<_> = tokio::time::timeout_at(until, $attempt)
                .await
                .unwrap_or(Err($crate::failure::Failure::Late));
            match outcome {
                Ok(value) => break Ok(value),
                Err($crate::failure::Failure::Refused(error)) => break Err(error),
                Err($crate::failure::Failure::Late) => break Err($crate::failure::no_answer(limit)),
                Err($crate::failure::Failure::Sql(error)) => match $meaning(error) {
                    $crate::failure::Meaning::TryAgain(error)
                        if attempt >= $crate::failure::ATTEMPTS || tokio::time::Instant::now() >= until =>
                    {
                        break Err(error);
                    }
                    $crate::failure::Meaning::TryAgain(_) => {
                        tokio::time::sleep($crate::failure::pause(attempt)).await
                    }
                    $crate::failure::Meaning::Final(error) => break Err(error),
                },
            }
        }
    }};
}
pub(crate) use attempts;

/// Runs `$body` (a future of [`Outcome`]) with [`attempts`] in a transaction `$tx` that `$begin`
/// opens.
macro_rules! transact {
    ($limit:expr, $begin:expr, $meaning:path, $tx:ident => $body:expr) => {
        $crate::failure::attempts!($limit, $meaning, async {
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

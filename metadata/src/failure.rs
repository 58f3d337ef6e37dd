//! How a statement fails inside a store, before it becomes the crate's [`Error`], and the loop that runs a transaction of SQLite:
//! begin, body, commit, and all of it again when the database says that a rival was in the way, within a bound.

use std::time::Duration;

use crate::Error;

/// The result inside a transaction.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Why a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database said no, or nothing.
    Sql(sqlx::Error),
    /// The rules said no.
    Refused(Error),
    /// Nothing came back in time.
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

/// What a database's error means for the caller.
pub(crate) enum Meaning {
    /// A rival was in the way (deadlock, serialization): the same transaction may succeed at once.
    TryAgain(Error),
    /// Final for this call.
    Final(Error),
}

/// How often a transaction that lost against a rival is run at most.
pub(crate) const ATTEMPTS: u32 = 6;

/// How long to wait before attempt `attempt`, counted from 1.
pub(crate) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(2 << attempt.min(8))
}

/// What is told of a call that was given up after `limit`.
pub(crate) fn no_answer(limit: Duration) -> Error {
    Error::Unavailable(format!(
        "no answer within {limit:?}; what became of the call is open"
    ))
}

/// Waits for `$future` until `$limit` has passed; then [`Error::Unavailable`].
pub(crate) async fn within<T>(
    limit: Duration,
    future: impl Future<Output = crate::Result<T>>,
) -> crate::Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer(limit)),
    }
}

/// Runs `$attempt` (an expression that is a future of [`Outcome`]), and again when `$meaning` says that a rival was in the way; until
/// `$limit` has passed.
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

/// [`attempts`] at `$body` (a future of [`Outcome`]) in a transaction `$tx` that `$begin` opens.
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
                    // Gives the locks back now; when it cannot, the connection is broken and they are free anyway.
                    let _ = $tx.rollback().await;
                    Err(failure)
                }
            }
        })
    };
}
pub(crate) use transact;

//! How a statement fails inside a store, before it becomes the crate's [`Error`], and the loop that runs a transaction:
//! begin, body, commit, and all of it again when the database says that a rival was in the way.

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

/// Runs `$attempt` (an expression that is a future of [`Outcome`]), and again when `$meaning` says that a rival was in the way.
macro_rules! attempts {
    ($meaning:path, $attempt:expr) => {{
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome: $crate::failure::Outcome<_> = $attempt.await;
            match outcome {
                Ok(value) => break Ok(value),
                Err($crate::failure::Failure::Refused(error)) => break Err(error),
                Err($crate::failure::Failure::Sql(error)) => match $meaning(error) {
                    $crate::failure::Meaning::TryAgain(error) if attempt >= $crate::failure::ATTEMPTS => {
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
    ($begin:expr, $meaning:path, $tx:ident => $body:expr) => {
        $crate::failure::attempts!($meaning, async {
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

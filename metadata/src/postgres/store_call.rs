//! One call of the store: a connection, a transaction and its body, repeated where a retry may
//! help, within a time limit.
//!
//! Two timeouts bound a call. The server's (`statement_timeout` and related settings) end a
//! statement cleanly. The client's ends the call when the server does not respond: the call fails,
//! its connection is closed, and its outcome is unknown.

use tokio::time::{Duration, Instant, sleep};

use super::{
    connection::TransactionScope,
    errors::{PostgresErrorClass, classify_error},
    pool::{ConnectionPool, PoolPurpose, PooledConnection},
};
use crate::{
    Result,
    transaction::{MAX_ATTEMPTS, TransactionError, TransactionResult, retry_delay, timeout_error},
};

/// The state of one call over its attempts.
pub(super) struct StoreCall<'a> {
    pool: &'a ConnectionPool,
    scope: TransactionScope,
    /// Whether the call may be repeated although it may have taken effect: it only reads, or it is
    /// a step of garbage collection.
    is_repeatable: bool,
    /// The time limit of one attempt once it has a connection.
    attempt_limit: Duration,
    /// The deadline of all attempts.
    call_deadline: Instant,
    attempt: u32,
}

impl<'a> StoreCall<'a> {
    /// Creates a call that takes `total` at most, and `attempt_limit` once it has a connection.
    pub(super) fn new(
        lane: &'a ConnectionPool,
        purpose: PoolPurpose,
        scope: TransactionScope,
        (limit, total): (Duration, Duration),
    ) -> Self {
        Self {
            pool: lane,
            scope,
            is_repeatable: purpose == PoolPurpose::Reads || scope == TransactionScope::ReadOnlySnapshot,
            attempt_limit: limit,
            call_deadline: Instant::now() + total,
            attempt: 0,
        }
    }

    /// Acquires a connection for the next attempt.
    pub(super) async fn acquire(&mut self) -> TransactionResult<PooledConnection> {
        self.attempt += 1;
        self.pool.acquire(self.call_deadline).await
    }

    /// Returns the deadline of the attempt that begins now.
    pub(super) fn attempt_deadline(&self) -> Instant {
        self.call_deadline.min(Instant::now() + self.attempt_limit)
    }

    /// Begins what the call's scope requires.
    pub(super) async fn begin(&self, connection: &mut PooledConnection) -> TransactionResult<()> {
        connection.begin(self.scope).await
    }

    /// Returns the result of the call, or `None` for another attempt. `connection` is `None` if
    /// there was no connection.
    pub(super) async fn finish_attempt<T>(
        &mut self,
        connection: Option<PooledConnection>,
        outcome: TransactionResult<T>,
    ) -> Option<Result<T>> {
        let in_doubt = connection
            .as_ref()
            .is_some_and(|connection| !self.is_repeatable && connection.is_in_doubt(self.scope));
        let class = match outcome {
            Err(TransactionError::Sql(error)) => {
                // The server reported an error. After any other failure, part of an answer may be
                // in flight.
                let in_order = matches!(error, sqlx::Error::Database(_));
                let class = classify_error(error);
                if in_order
                    && matches!(
                        class,
                        PostgresErrorClass::Retryable(_) | PostgresErrorClass::Final(_)
                    )
                {
                    return_connection(connection);
                }
                class
            }
            Err(TransactionError::TimedOut) => {
                // Other connections may be unresponsive too.
                self.pool.expire_connections();
                return Some(Err(timeout_error(self.attempt_limit)));
            }
            Ok(value) => {
                return_connection(connection);
                return Some(Ok(value));
            }
            Err(TransactionError::Refused(error)) => {
                return_connection(connection);
                return Some(Err(error));
            }
        };
        let exhausted = self.attempt >= MAX_ATTEMPTS || Instant::now() >= self.call_deadline;
        match class {
            PostgresErrorClass::Final(error) => Some(Err(error)),
            PostgresErrorClass::Retryable(error) if exhausted => Some(Err(error)),
            PostgresErrorClass::Retryable(_) => {
                sleep(retry_delay(self.attempt)).await;
                None
            }
            PostgresErrorClass::StaleConnection(error) | PostgresErrorClass::BrokenConnection(error)
                if exhausted =>
            {
                self.pool.expire_connections();
                Some(Err(error))
            }
            PostgresErrorClass::StaleConnection(_) => {
                self.pool.expire_connections();
                None
            }
            PostgresErrorClass::BrokenConnection(error) => {
                self.pool.expire_connections();
                in_doubt.then_some(Err(error))
            }
        }
    }
}

fn return_connection(connection: Option<PooledConnection>) {
    if let Some(connection) = connection {
        connection.return_to_pool();
    }
}

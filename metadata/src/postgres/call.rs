//! One call of the store: a connection, a transaction and its body, repeated where a retry may
//! help, within a time limit.
//!
//! Two timeouts bound a call. The server's (`statement_timeout` and related settings) end a
//! statement cleanly. The client's ends the call when the server does not respond: the call fails,
//! its connection is closed, and its outcome is unknown.

use tokio::time::{Duration, Instant, sleep};

use super::{
    connection::Scope,
    errors::{Meaning, meaning},
    lane::{Lane, Lent, Purpose},
};
use crate::{
    Result,
    failure::{ATTEMPTS, Failure, Outcome, no_answer, pause},
};

/// The state of one call over its attempts.
pub(super) struct Call<'a> {
    lane: &'a Lane,
    scope: Scope,
    /// Whether the call may be repeated although it may have taken effect: it only reads, or it is
    /// a step of garbage collection.
    repeatable: bool,
    /// The time limit of one attempt once it has a connection.
    limit: Duration,
    /// The deadline of all attempts.
    until: Instant,
    attempt: u32,
}

impl<'a> Call<'a> {
    /// Creates a call that takes `total` at most, and `limit` once it has a connection.
    pub(super) fn new(
        lane: &'a Lane,
        purpose: Purpose,
        scope: Scope,
        (limit, total): (Duration, Duration),
    ) -> Self {
        Self {
            lane,
            scope,
            repeatable: purpose == Purpose::Reads || scope == Scope::Moment,
            limit,
            until: Instant::now() + total,
            attempt: 0,
        }
    }

    /// Acquires a connection for the next attempt.
    pub(super) async fn acquire(&mut self) -> Outcome<Lent> {
        self.attempt += 1;
        self.lane.acquire(self.until).await
    }

    /// Returns the deadline of the attempt that begins now.
    pub(super) fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.limit)
    }

    /// Begins what the call's scope requires.
    pub(super) async fn begin(&self, lent: &mut Lent) -> Outcome<()> {
        lent.begin(self.scope).await
    }

    /// Returns the result of the call, or `None` for another attempt. `lent` is `None` if there was
    /// no connection.
    pub(super) async fn settle<T>(&mut self, lent: Option<Lent>, outcome: Outcome<T>) -> Option<Result<T>> {
        let in_doubt = lent
            .as_ref()
            .is_some_and(|lent| !self.repeatable && lent.is_in_doubt(self.scope));
        let meant = match outcome {
            Err(Failure::Sql(error)) => {
                // The server reported an error. After any other failure, part of an answer may be
                // in flight.
                let in_order = matches!(error, sqlx::Error::Database(_));
                let meant = meaning(error);
                if in_order && matches!(meant, Meaning::TryAgain(_) | Meaning::Final(_)) {
                    keep(lent);
                }
                meant
            }
            Err(Failure::Late) => {
                // Other connections may be unresponsive too.
                self.lane.expire();
                return Some(Err(no_answer(self.limit)));
            }
            Ok(value) => {
                keep(lent);
                return Some(Ok(value));
            }
            Err(Failure::Refused(error)) => {
                keep(lent);
                return Some(Err(error));
            }
        };
        let exhausted = self.attempt >= ATTEMPTS || Instant::now() >= self.until;
        match meant {
            Meaning::Final(error) => Some(Err(error)),
            Meaning::TryAgain(error) if exhausted => Some(Err(error)),
            Meaning::TryAgain(_) => {
                sleep(pause(self.attempt)).await;
                None
            }
            Meaning::Stale(error) | Meaning::Broken(error) if exhausted => {
                self.lane.expire();
                Some(Err(error))
            }
            Meaning::Stale(_) => {
                self.lane.expire();
                None
            }
            Meaning::Broken(error) => {
                self.lane.expire();
                in_doubt.then_some(Err(error))
            }
        }
    }
}

fn keep(lent: Option<Lent>) {
    if let Some(lent) = lent {
        lent.keep();
    }
}

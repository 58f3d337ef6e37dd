//! One call of the store: a connection, a transaction, its body, all of it again when that may help, and an end to the waiting.
//!
//! Two clocks bound a call. The server's (`statement_timeout` and its like) end a statement in good order. This one's ends it when
//! the server says nothing at all: the call fails, its connection is closed, and the outcome is open.

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

/// The state of one call, over its attempts.
pub(super) struct Call<'a> {
    lane: &'a Lane,
    scope: Scope,
    /// May be run again though it may have happened: it only looks, or it tidies.
    repeatable: bool,
    /// For one attempt, once it has a connection.
    limit: Duration,
    /// For all attempts.
    until: Instant,
    attempt: u32,
}

impl<'a> Call<'a> {
    /// A call that takes `total` at most, and `limit` once it has a connection.
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

    /// A connection for the next attempt.
    pub(super) async fn acquire(&mut self) -> Outcome<Lent> {
        self.attempt += 1;
        self.lane.acquire(self.until).await
    }

    /// When the attempt that begins now is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.limit)
    }

    /// Begins what the call's scope says.
    pub(super) async fn begin(&self, lent: &mut Lent) -> Outcome<()> {
        lent.begin(self.scope).await
    }

    /// The end of the call, or `None` for another attempt. `lent` is `None` when there was no connection.
    pub(super) async fn settle<T>(&mut self, lent: Option<Lent>, outcome: Outcome<T>) -> Option<Result<T>> {
        let in_doubt = lent
            .as_ref()
            .is_some_and(|lent| !self.repeatable && lent.is_in_doubt(self.scope));
        let meant = match outcome {
            Err(Failure::Sql(error)) => {
                // The server refused in order; after anything else half an answer may be on its way.
                let in_order = matches!(error, sqlx::Error::Database(_));
                let meant = meaning(error);
                if in_order && matches!(meant, Meaning::TryAgain(_) | Meaning::Final(_)) {
                    keep(lent);
                }
                meant
            }
            Err(Failure::Late) => {
                // Others may be as silent.
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

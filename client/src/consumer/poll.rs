//! [`Consumer::poll`]: brings the group, the fetched batches and the caller together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use streamhouse_core::batch::BatchError;
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use super::{
    Consumer, GAPS, Records, Shared,
    assignment::{Fetched, SkippedRange},
};
use crate::{
    error::{Error, Result},
    retry::Deadline,
};

/// Marks the consumer as polling while it lives.
struct Polling(Arc<Shared>);

impl Polling {
    fn new(shared: &Arc<Shared>) -> Self {
        if shared.member.lock().start_poll(Instant::now()) {
            shared.member_changed();
        }
        Self(shared.clone())
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.member.lock().end_poll(Instant::now());
    }
}

impl Consumer {
    /// Returns records, as soon as there are any; none after `timeout`. Also where the consumer joins its group, calls the
    /// rebalance listener and commits (in automatic mode) what the polls before returned, so call it often: at least
    /// every `max_poll_interval`. Dropping the future loses nothing. [`ConsumerHandle::wakeup`](super::ConsumerHandle::wakeup)
    /// makes it return early, without records.
    ///
    /// # Errors
    ///
    /// What keeps a partition from being read: [`Error::Corrupt`] and [`Error::NoOffset`] until a seek;
    /// [`Error::Unreadable`], and UNKNOWN_TOPIC_OR_PARTITION for a topic that is gone, until it can be read. Each is told once,
    /// and as long as it lasts again after a second; other partitions go on meanwhile. Besides, what the group refuses, and
    /// [`Error::Closed`].
    pub async fn poll(&mut self, timeout_after: Duration) -> Result<Records> {
        let polled = self.poll_once(timeout_after).await;
        if polled.as_ref().map_or(true, Records::is_empty) {
            // A caller who polls again at once must not keep the other tasks of its thread from running.
            yield_now().await;
        }
        polled
    }

    async fn poll_once(&mut self, timeout_after: Duration) -> Result<Records> {
        if self.closed {
            return Err(Error::Closed);
        }
        let _polling = Polling::new(&self.shared);
        let deadline = Deadline::after(timeout_after);
        let started = Instant::now();
        self.commit_if_due();
        loop {
            self.drive_membership().await?;
            // First, or the records of other partitions could hide it for ever.
            if let Some(error) = self.shared.assignment.lock().due_error(Instant::now()) {
                return Err(error);
            }
            let records = self.take_ready();
            if !records.is_empty() {
                self.shared.metrics.polled(started.elapsed());
                self.shared.traces.received(&records);
                return Ok(records);
            }
            let next_error = self.shared.assignment.lock().next_error(Instant::now());
            if self.shared.woken.swap(false, Ordering::AcqRel) {
                return Ok(records);
            }
            if deadline.is_over() {
                // A membership that is over for good stays an error, without a poll that returns at once for ever.
                return match self.shared.member.lock().fatal() {
                    Some(error) => Err(error),
                    None => Ok(records),
                };
            }
            let until_error = next_error.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = deadline.left().min(until_error.unwrap_or(Duration::MAX));
            let _ = timeout(wait, self.shared.news.notified()).await;
        }
    }

    /// Takes what was fetched, up to `max_poll_records` and `max_poll_bytes`, and moves the positions over it.
    fn take_ready(&self) -> Records {
        let mut records = Records::default();
        let now_ms = self.shared.client.now_ms();
        let config = &self.shared.config;
        let mut bytes = 0;
        while records.len() < config.max_poll_records && bytes < config.max_poll_bytes {
            let Some(mut fetched) = self.shared.assignment.lock().next_ready() else {
                break;
            };
            if fetched.is_control() {
                self.shared.assignment.lock().skip(&fetched);
                continue;
            }
            match fetched.decode() {
                Ok(decoded) => {
                    let left = config.max_poll_records - records.len();
                    // The records hold all of the part, also where they are only some of it.
                    let held = decoded.bytes();
                    let mut assignment = self.shared.assignment.lock();
                    if let Some(piece) = assignment.consume(fetched, decoded, left, now_ms) {
                        records.push(piece);
                        bytes += held;
                    }
                }
                Err(error) => self.damaged(&fetched, &error),
            }
        }
        // There is room for more.
        self.shared.changed.notify_one();
        records
    }

    /// A batch cannot be decoded: it is passed over, or `poll` says so.
    fn damaged(&self, fetched: &Fetched, error: &BatchError) {
        let skip = self.shared.config.skip_damaged;
        let skipped = self
            .shared
            .assignment
            .lock()
            .damaged(fetched, error.to_string(), skip);
        if let Some(SkippedRange { from, to }) = skipped {
            let (partition, count) = (&fetched.key, to - from);
            tracing::warn!(target: GAPS, %partition, from, to, count, %error, "skipping damaged records");
        }
    }

    /// In automatic mode: commits, in the background, what was returned by the polls before this one.
    fn commit_if_due(&mut self) {
        let Some(every) = self
            .shared
            .config
            .auto_commit
            .filter(|_| self.shared.config.group.is_some())
        else {
            return;
        };
        if self.last_commit.elapsed() < every {
            return;
        }
        self.last_commit = Instant::now();
        let deadline = Deadline::after(every.max(Duration::from_secs(1)));
        self.committer().commit_in_background(deadline);
    }
}

//! [`Consumer::poll`]: group membership, fetched batches and automatic commits, driven by the
//! caller.

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
    Consumer, ConsumerRecords, ConsumerShared, GAP_LOG_TARGET,
    assignment::{FetchedBatch, SkippedRange},
};
use crate::{
    error::{Error, Result},
    retry::Deadline,
};

/// Marks the consumer as polling until it is dropped.
struct PollGuard(Arc<ConsumerShared>);

impl PollGuard {
    fn new(shared: &Arc<ConsumerShared>) -> Self {
        if shared.member.lock().start_poll(Instant::now()) {
            shared.notify_member_changed();
        }
        Self(shared.clone())
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        self.0.member.lock().end_poll(Instant::now());
    }
}

impl Consumer {
    /// Returns the next records as soon as there are any, or no records after `timeout`.
    ///
    /// Also joins the group, calls the rebalance listener and, with automatic commits, commits what
    /// earlier polls returned; so call it at least every `max_poll_interval`.
    /// [`ConsumerHandle::wakeup`](super::ConsumerHandle::wakeup) makes it return early without
    /// records.
    ///
    /// Cancel safe: dropping the future loses no records.
    ///
    /// # Errors
    /// Errors that keep a partition from being read: [`Error::Corrupt`] and [`Error::NoOffset`]
    /// until a seek; [`Error::Unreadable`], and UNKNOWN_TOPIC_OR_PARTITION for a deleted topic,
    /// until the partition can be read. Each is returned at once and, while it lasts, about every
    /// second; other partitions are read meanwhile. Also errors of the group membership, and
    /// [`Error::Closed`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Consumer, Result};
    /// # async fn example(mut consumer: Consumer) -> Result<()> {
    /// use std::time::Duration;
    ///
    /// for record in &consumer.poll(Duration::from_secs(1)).await? {
    ///     println!("{}-{}@{}", record.topic, record.partition, record.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn poll(&mut self, timeout: Duration) -> Result<ConsumerRecords> {
        let polled = self.poll_once(timeout).await;
        if polled.as_ref().map_or(true, ConsumerRecords::is_empty) {
            // Yield, so that a caller that polls in a loop does not starve the other tasks of its
            // thread.
            yield_now().await;
        }
        polled
    }

    async fn poll_once(&mut self, timeout_after: Duration) -> Result<ConsumerRecords> {
        if self.closed {
            return Err(Error::Closed);
        }
        let _polling = PollGuard::new(&self.shared);
        let deadline = Deadline::after(timeout_after);
        let started = Instant::now();
        self.commit_if_due();
        loop {
            self.drive_membership().await?;
            // Errors come first: records of other partitions could otherwise hide them forever.
            if let Some(error) = self.shared.assignment.lock().take_due_error(Instant::now()) {
                return Err(error);
            }
            let records = self.drain_ready();
            if !records.is_empty() {
                self.shared.metrics.record_poll(started.elapsed());
                self.shared.traces.trace_records(&records);
                return Ok(records);
            }
            let next_error = self.shared.assignment.lock().next_error_at(Instant::now());
            if self.shared.woken.swap(false, Ordering::AcqRel) {
                return Ok(records);
            }
            if deadline.is_over() {
                // Keep returning a final membership error, but only after the time-out, so that
                // polls in a loop do not spin.
                return match self.shared.member.lock().fatal_error() {
                    Some(error) => Err(error),
                    None => Ok(records),
                };
            }
            let until_error = next_error.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = deadline.remaining().min(until_error.unwrap_or(Duration::MAX));
            let _ = timeout(wait, self.shared.poll_notifier.notified()).await;
        }
    }

    /// Takes fetched records, up to `max_poll_records` and `max_poll_bytes`, and advances the
    /// positions past them.
    fn drain_ready(&self) -> ConsumerRecords {
        let mut records = ConsumerRecords::default();
        let now_ms = self.shared.client.now_ms();
        let config = &self.shared.config;
        let mut bytes = 0;
        while records.len() < config.max_poll_records && bytes < config.max_poll_bytes {
            let Some(mut fetched) = self.shared.assignment.lock().next_ready() else {
                break;
            };
            if fetched.is_control() {
                self.shared.assignment.lock().skip_batch(&fetched);
                continue;
            }
            match fetched.decode() {
                Ok(decoded) => {
                    let left = config.max_poll_records - records.len();
                    // Count the whole part: the records keep it in memory even if only some of it
                    // is returned.
                    let held = decoded.bytes();
                    let mut assignment = self.shared.assignment.lock();
                    if let Some(piece) = assignment.consume(fetched, decoded, left, now_ms) {
                        records.push(piece);
                        bytes += held;
                    }
                }
                Err(error) => self.handle_damaged_batch(&fetched, &error),
            }
        }
        // The buffer has room again: wake the fetcher.
        self.shared.fetcher_wake.notify_one();
        records
    }

    /// Handles a batch that cannot be decoded: skips it, or makes `poll` fail.
    fn handle_damaged_batch(&self, fetched: &FetchedBatch, error: &BatchError) {
        let skip = self.shared.config.skip_damaged;
        let skipped = self
            .shared
            .assignment
            .lock()
            .handle_damaged(fetched, error.to_string(), skip);
        if let Some(SkippedRange { from, to }) = skipped {
            let (partition, count) = (&fetched.key, to - from);
            tracing::warn!(target: GAP_LOG_TARGET, %partition, from, to, count, %error, "skipping damaged records");
        }
    }

    /// With automatic commits, starts a background commit of what earlier polls returned.
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

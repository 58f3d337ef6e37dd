//! [`Consumer::poll`]: brings the group, the fetched batches and the caller together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{Consumer, Records, Shared, assignment::Assignment};
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
    pub async fn poll(&mut self, timeout_after: Duration) -> Result<Records> {
        if self.closed {
            return Err(Error::Closed);
        }
        let _polling = Polling::new(&self.shared);
        let deadline = Deadline::after(timeout_after);
        let started = Instant::now();
        self.commit_if_due();
        loop {
            self.drive_membership().await?;
            let records = self.take_ready();
            if !records.is_empty() {
                self.shared.metrics.polled(started.elapsed());
                self.shared.traces.received(&records);
                return Ok(records);
            }
            if let Some(error) = self.shared.assignment.lock().first_error() {
                return Err(error);
            }
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
            let _ = timeout(deadline.left(), self.shared.news.notified()).await;
        }
    }

    /// Takes what was fetched, up to `max_poll_records`, and moves the positions over it.
    fn take_ready(&self) -> Records {
        let mut records = Records::default();
        let now_ms = self.shared.client.now_ms();
        let most = self.shared.config.max_poll_records;
        while records.len() < most {
            let Some(fetched) = self.shared.assignment.lock().next_ready() else {
                break;
            };
            if Assignment::is_control(&fetched) {
                self.shared.assignment.lock().skip(&fetched);
                continue;
            }
            match fetched.decode() {
                Ok(decoded) => {
                    let left = most - records.len();
                    if let Some(piece) = self
                        .shared
                        .assignment
                        .lock()
                        .consume(fetched, decoded, left, now_ms)
                    {
                        records.push(piece);
                    }
                }
                Err(error) => self.shared.assignment.lock().corrupt(&fetched, error.to_string()),
            }
        }
        // There is room for more.
        self.shared.changed.notify_one();
        records
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

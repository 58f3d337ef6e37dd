//! [`Consumer::poll`]: brings the group, the fetched batches and the caller together.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Consumer, Records, Shared, assignment::Assignment, commit::Committer};
use crate::{
    error::{Error, Result},
    retry::Deadline,
};

/// While a subscribed topic does not exist, metadata are asked for this often.
const MISSING_TOPIC: Duration = Duration::from_secs(1);

/// Marks the consumer as polling while it lives.
struct Polling(Arc<Shared>);

impl Polling {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.identity.lock().polling = true;
        Self(shared.clone())
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        let mut identity = self.0.identity.lock();
        identity.polling = false;
        identity.last_poll = Instant::now();
    }
}

impl Consumer {
    /// Returns records, as soon as there are any; none after `timeout`. Also where the consumer joins its group, calls the
    /// rebalance listener and commits (in automatic mode) what the polls before returned, so call it often: at least
    /// every `max_poll_interval`. Dropping the future loses nothing.
    pub async fn poll(&mut self, timeout_after: Duration) -> Result<Records> {
        if self.closed {
            return Err(Error::Closed);
        }
        let _polling = Polling::new(&self.shared);
        let deadline = Deadline::after(timeout_after);
        let started = Instant::now();
        self.commit_if_due();
        loop {
            if let Some(membership) = &mut self.membership {
                membership.drive(&self.shared).await?;
            }
            let records = self.take_ready();
            if !records.is_empty() {
                self.shared.metrics.polled(started.elapsed());
                self.shared.traces.received(&records);
                return Ok(records);
            }
            if let Some(error) = self.shared.assignment.lock().first_error() {
                return Err(error);
            }
            if deadline.is_over() {
                return Ok(records);
            }
            let wait = if self
                .membership
                .as_ref()
                .is_some_and(|membership| membership.misses_topics())
            {
                self.shared.client.cache().request_refresh();
                deadline.left().min(MISSING_TOPIC)
            } else {
                deadline.left()
            };
            let _ = timeout(wait, self.shared.news.notified()).await;
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
        let committer = Committer::new(self.shared.clone());
        let offsets = committer.positions();
        let deadline = Deadline::after(every.max(Duration::from_secs(1)));
        if offsets.is_empty() {
            return;
        }
        tokio::spawn(async move {
            if let Err(error) = committer.commit_until(offsets, deadline).await {
                tracing::debug!(%error, "an automatic commit failed; the next one covers it");
            }
        });
    }
}

//! The end of a producer: closed, dropped, or because its dispatcher ended (a panic, or the end of
//! its tokio runtime). In each case a guard rejects new records, completes every delivery, and
//! counts the lost records.
//!
//! Guarantees: after the end, no `send` succeeds and no delivery is outstanding. [`Error::Closed`]
//! means that a record is not stored; records with a request in flight fail with
//! [`Error::OutcomeUnknown`].

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{shared::ProducerShared, topic::ProducerTopic};
use crate::error::Error;

/// Ends the producer when the dispatcher's task ends, for any reason.
#[derive(Debug)]
pub(super) struct ProducerEndGuard {
    shared: Arc<ProducerShared>,
    /// Cancelled when the task is asked to end.
    stop: CancellationToken,
}

impl ProducerEndGuard {
    pub(super) fn new(shared: Arc<ProducerShared>, stop: CancellationToken) -> Self {
        Self { shared, stop }
    }
}

impl Drop for ProducerEndGuard {
    fn drop(&mut self) {
        let panics = std::thread::panicking();
        if self.stop.is_cancelled() && !panics {
            self.shared.fail_remaining(Error::Closed);
            return;
        }
        let reason = if panics {
            "its task panicked (see the log)"
        } else {
            "the tokio runtime it was built in has ended"
        };
        let records = self.shared.stats().pending_records;
        if panics || records > 0 {
            error!(
                reason,
                records, "the producer has ended; records that were not acknowledged fail"
            );
        }
        self.shared.fail_remaining(Error::ProducerEnded {
            reason: reason.into(),
        });
    }
}

impl ProducerShared {
    /// Makes `send` fail from now on.
    pub(super) fn reject_new_records(&self) {
        self.rejecting_sends.store(true, Ordering::Release);
        self.buffer.close();
    }

    /// Returns the error of calls after the end.
    pub(super) fn end_error(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }

    /// Returns whether the producer has ended, so that everything is settled.
    pub(super) fn is_stopped(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Fails all remaining records. Called by the dispatcher's guard.
    fn fail_remaining(&self, why: Error) {
        self.reject_new_records();
        // Set before the partitions are stopped, so that later ones see it.
        let why = self.ended.get_or_init(|| why).clone();
        let lanes = self.lanes_from(0);
        for (topic, partition) in &lanes {
            for open in partition.stop() {
                self.count_failed_at_end(topic, open.encoder.records());
                open.ticket.complete_failed(why.clone());
            }
        }
        let left = std::mem::take(&mut *self.unsettled.lock());
        for batch in left.into_values() {
            // A split batch is completed by the batches that have its records.
            if batch.ticket.is_complete() || batch.ticket.is_moved() {
                continue;
            }
            if let Some((topic, _)) = lanes.get(batch.lane) {
                self.count_failed_at_end(topic, batch.ticket.records());
            }
            let outcome = if batch.ticket.is_maybe_stored() {
                Error::OutcomeUnknown {
                    reason: format!("the cluster had not answered when the producer ended ({why})").into(),
                }
            } else {
                why.clone()
            };
            batch.ticket.complete_failed(outcome);
        }
        for topic in self.topics() {
            topic.pending.store(0, Ordering::Relaxed);
            topic.metrics.set_pending(0);
        }
    }

    fn count_failed_at_end(&self, topic: &ProducerTopic, records: u32) {
        let failed = &self.counters.records_failed;
        failed.fetch_add(u64::from(records), Ordering::Relaxed);
        topic.metrics.record_failed(records);
    }

    /// Warns about records that are lost because the producer was dropped without a close.
    pub(super) fn warn_of_drop(&self) {
        let records = self.stats().pending_records;
        if records > 0 && !self.is_stopped() {
            warn!(
                records,
                "a producer was dropped with unacknowledged records, which fail; call close() or flush() first"
            );
        }
    }
}

//! How a producer ends: closed, dropped, or because its dispatcher is gone (it panicked, or the runtime it was built in has
//! ended). In each case a guard refuses new records, settles every delivery and counts what was lost.
//!
//! Guarantees: after the end no `send` succeeds and no delivery is left open. [`Error::Closed`] means surely not stored; a
//! record of which a request was on its way fails with [`Error::OutcomeUnknown`].

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{shared::Shared, topic::Topic};
use crate::error::Error;

/// Ends the producer when it is dropped: with the dispatcher's task, however that ends.
#[derive(Debug)]
pub(super) struct EndGuard {
    shared: Arc<Shared>,
    /// Cancelled when the task is told to end.
    stop: CancellationToken,
}

impl EndGuard {
    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self { shared, stop }
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let panics = std::thread::panicking();
        if self.stop.is_cancelled() && !panics {
            self.shared.stop(Error::Closed);
            return;
        }
        let reason = if panics {
            "its task panicked, the log says where"
        } else {
            "the tokio runtime it was built in has ended"
        };
        let records = self.shared.stats().pending_records;
        if panics || records > 0 {
            error!(
                reason,
                records, "the producer has ended; what was not acknowledged fails"
            );
        }
        self.shared.stop(Error::ProducerEnded {
            reason: reason.into(),
        });
    }
}

impl Shared {
    /// `send` fails from now on.
    pub(super) fn refuse_new(&self) {
        self.refusing.store(true, Ordering::Release);
        self.buffer.close();
    }

    /// Why nothing can be sent (any more).
    pub(super) fn closed(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }

    /// Whether everything is settled and nothing will be sent any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Fails everything that is left. Called by the guard of the dispatcher when that ends.
    fn stop(&self, why: Error) {
        self.refuse_new();
        // Before the partitions are looked at: those that come later see it.
        let why = self.ended.get_or_init(|| why).clone();
        let lanes = self.lanes_from(0);
        for (topic, partition) in &lanes {
            for open in partition.stop() {
                self.fail_at_end(topic, open.encoder.records());
                open.ticket.failed(why.clone());
            }
        }
        let left = std::mem::take(&mut *self.unsettled.lock());
        for batch in left.into_values() {
            // One that was taken apart is completed by those that have its records.
            if batch.ticket.is_done() || batch.ticket.is_moved() {
                continue;
            }
            if let Some((topic, _)) = lanes.get(batch.lane) {
                self.fail_at_end(topic, batch.ticket.records());
            }
            let outcome = if batch.ticket.is_unsure() {
                Error::OutcomeUnknown {
                    reason: format!("the cluster had not answered when the producer ended ({why})").into(),
                }
            } else {
                why.clone()
            };
            batch.ticket.failed(outcome);
        }
        for topic in self.topics() {
            topic.pending.store(0, Ordering::Relaxed);
            topic.metrics.set_pending(0);
        }
    }

    fn fail_at_end(&self, topic: &Topic, records: u32) {
        let failed = &self.counters.records_failed;
        failed.fetch_add(u64::from(records), Ordering::Relaxed);
        topic.metrics.failed(records);
    }

    /// Warns when records are lost because nobody closed the producer.
    pub(super) fn warn_of_drop(&self) {
        let records = self.stats().pending_records;
        if records > 0 && !self.is_stopped() {
            warn!(
                records,
                "a producer was dropped with records that are not acknowledged; they fail: call close() or flush() first"
            );
        }
    }
}

//! How batches end: acknowledged, failed, or timed out; and what that releases.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use streamhouse_core::trace::log_span;
use tokio::time::Instant;

use super::{
    delivery::BatchTicket, dispatcher::Dispatcher, partition_buffer::OpenBatch,
    partition_sender::SettledBatch, shared::ProducerShared, topic::ProducerTopic,
};
use crate::error::Error;

/// Time without an answer after which the dispatcher requests metadata, to find a new leader.
const SLOW_RESPONSE: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// Checks time-outs.
    pub(super) fn check_timeouts(&mut self, now: Instant) {
        for link in 0..self.links.len() {
            let Some(oldest) = self.links[link].oldest_sent_at() else {
                continue;
            };
            let waited = now.saturating_duration_since(oldest);
            if waited >= self.shared.client.config().request_timeout {
                self.handle_timeout(link, waited);
            } else if waited >= SLOW_RESPONSE {
                self.shared.client.cache().request_refresh();
            }
        }
        self.request_identity();
        let timeout = self.shared.config.delivery_timeout;
        let Some(cutoff) = now.checked_sub(timeout) else {
            return;
        };
        for lane in self.shared.overdue_lanes(cutoff) {
            let Some(entry) = self.lanes.get_mut(lane) else {
                continue;
            };
            let (unsent, sent) = (
                entry.partition.take_older(cutoff),
                entry.sender.expire(cutoff, timeout),
            );
            for settled in sent {
                self.settle(lane, settled);
            }
            for open in unsent {
                self.expire_unsent(lane, open);
            }
            self.schedule(lane);
        }
        for topic in self.shared.topics() {
            topic.metrics.set_pending(topic.pending.load(Relaxed));
        }
    }

    fn expire_unsent(&mut self, lane: usize, open: OpenBatch) {
        let topic = self.lanes[lane].topic.clone();
        let OpenBatch {
            encoder,
            ticket,
            reserved,
            ..
        } = open;
        let records = encoder.records();
        let cause = self.shared.client.unreachable_cause();
        let error = Error::timeout(
            "delivering the record",
            self.shared.config.delivery_timeout,
            cause,
        );
        self.shared.recycle(encoder);
        self.shared.fail(&topic, &ticket, records, reserved, error);
    }

    /// Completes a batch.
    pub(super) fn settle(&mut self, lane: usize, settled: SettledBatch) {
        let SettledBatch { content, outcome } = settled;
        let topic = self.lanes[lane].topic.clone();
        let _logged = log_span(content.traced.first()).entered();
        match &outcome {
            Ok(_) => {
                let counters = &self.shared.counters;
                counters
                    .records_sent
                    .fetch_add(u64::from(content.records), Relaxed);
                counters.bytes_sent.fetch_add(content.bytes.len() as u64, Relaxed);
                counters.batches_sent.fetch_add(1, Relaxed);
                topic
                    .metrics
                    .record_sent(content.records, content.bytes.len(), content.opened.elapsed());
            }
            Err(error) => self.shared.count_failure(&topic, content.records, error),
        }
        self.shared
            .release(&topic, &content.ticket, content.records, content.reserved);
        match outcome {
            Ok(base_offset) => content.ticket.complete_stored(base_offset),
            Err(error) => content.ticket.complete_failed(error),
        }
    }
}

impl ProducerShared {
    /// Completes a batch that was not sent.
    pub(super) fn fail(
        &self,
        topic: &ProducerTopic,
        ticket: &BatchTicket,
        records: u32,
        reserved: usize,
        error: Error,
    ) {
        self.count_failure(topic, records, &error);
        self.release(topic, ticket, records, reserved);
        ticket.complete_failed(error);
    }

    fn count_failure(&self, topic: &ProducerTopic, records: u32, error: &Error) {
        tracing::debug!(topic = %topic.name, records, %error, "records failed");
        self.counters
            .records_failed
            .fetch_add(u64::from(records), Relaxed);
        topic.metrics.record_failed(records);
    }
}

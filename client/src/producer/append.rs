//! The appending side of the producer: reserves buffer space for a record, chooses its partition
//! and adds it to the open batch there, within a span if the record is traced. Callers of `send`
//! run it; the dispatcher is only notified.

use std::sync::{Arc, atomic::Ordering};

use opentelemetry::trace::SpanContext;
use tokio::{
    sync::TryAcquireError,
    time::{Instant, timeout},
};

use super::{
    delivery::Delivery,
    partition_buffer::{AppendOutcome, BatchOpening, PartitionPreference},
    record::RecordRef,
    record_size::record_size,
    shared::{DispatchEvent, ProducerShared},
    topic::{ProducerTopic, TopicHandle},
};
use crate::{
    error::{Error, Result},
    retry::Deadline,
};

impl ProducerShared {
    /// Appends a record without waiting.
    pub(super) fn try_send(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        let Some(span) = self.traces.start_send_span(&topic.topic.name, &record) else {
            return self.try_append(topic, record, None);
        };
        let carried = span.context_headers(&record);
        let headers = carried
            .as_ref()
            .map(|carried| carried.with_headers(record.headers));
        let headers = headers.as_deref().unwrap_or(record.headers);
        let sent = self.try_append(topic, RecordRef { headers, ..record }, Some(span.context()));
        span.end_with_outcome(sent)
    }

    /// Like [`ProducerShared::try_send`], without a span. With tracing, fails as if the buffer were
    /// full, so that a record that has to wait gets only one span.
    pub(super) fn try_send_untraced(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        if self.traces.is_on() {
            return Err(Error::BufferFull);
        }
        self.try_append(topic, record, None)
    }

    fn try_append(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let size = record_size(&record, &self.config)?;
        match self.buffer.try_acquire_many(size as u32) {
            Ok(room) => {
                room.forget();
                self.append(topic, record, size, trace)
            }
            Err(TryAcquireError::NoPermits) => Err(Error::BufferFull),
            Err(TryAcquireError::Closed) => Err(self.end_error()),
        }
    }

    /// Appends a record, waiting for buffer space until the deadline.
    pub(super) async fn send(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        deadline: Deadline,
    ) -> Result<Delivery> {
        let Some(span) = self.traces.start_send_span(&topic.topic.name, &record) else {
            return self.append_before(topic, record, deadline, None).await;
        };
        let carried = span.context_headers(&record);
        let headers = carried
            .as_ref()
            .map(|carried| carried.with_headers(record.headers));
        let headers = headers.as_deref().unwrap_or(record.headers);
        let record = RecordRef { headers, ..record };
        let sent = self
            .append_before(topic, record, deadline, Some(span.context()))
            .await;
        span.end_with_outcome(sent)
    }

    async fn append_before(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        deadline: Deadline,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let size = record_size(&record, &self.config)?;
        let room = match self.buffer.try_acquire_many(size as u32) {
            Ok(room) => room,
            Err(_) => {
                // Send open batches now: they would otherwise wait for records that wait for buffer
                // space.
                let _hurry = self.request_flush();
                match timeout(deadline.remaining(), self.buffer.acquire_many(size as u32)).await {
                    Ok(room) => room.map_err(|_| self.end_error())?,
                    Err(_) => return Err(Error::BufferFull),
                }
            }
        };
        room.forget();
        self.append(topic, record, size, trace)
    }

    /// Appends a record for which `size` bytes of the buffer are reserved.
    fn append(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        size: usize,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let appended = self.append_to(&topic.topic, &record, size, trace);
        if appended.is_err() {
            self.buffer.add_permits(size);
        }
        appended
    }

    fn append_to(
        &self,
        topic: &Arc<ProducerTopic>,
        record: &RecordRef<'_>,
        size: usize,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        if self.rejecting_sends.load(Ordering::Acquire) {
            return Err(self.end_error());
        }
        let timestamp = record.timestamp.unwrap_or_else(|| self.client.now_ms());
        let batch_size = topic.fill_limit(self.config.batch_size);
        let mut moved_on = false;
        loop {
            let choice = topic.choose_partition(&*self.config.partitioner, record.key, record.partition)?;
            let partition = &choice.partition;
            let new = |now| self.open_batch(partition, now);
            let opening = BatchOpening {
                batch_size,
                prefers: if moved_on {
                    PartitionPreference::This
                } else {
                    choice.preference()
                },
                new: &new,
            };
            match partition.append(record, timestamp, size, trace, &opening) {
                AppendOutcome::Done {
                    delivery,
                    opened,
                    filled,
                } => {
                    topic.pending.fetch_add(1, Ordering::Relaxed);
                    if opened || filled {
                        self.post_append_events(partition.lane, filled);
                    }
                    return Ok(delivery);
                }
                AppendOutcome::Refused(error) => return Err(error),
                AppendOutcome::Stopped => return Err(self.end_error()),
                // Retry: `choose_partition` blocks until the new partitions exist.
                AppendOutcome::Retired => {}
                AppendOutcome::MoveOn { filled } => {
                    // A new batch is needed, so switch to another partition.
                    if filled {
                        self.post_event(DispatchEvent::Filled(partition.lane));
                    }
                    topic.advance_sticky(choice.sticky.unwrap_or(0));
                    moved_on = true;
                }
            }
        }
    }

    fn post_append_events(&self, lane: usize, filled: bool) {
        if filled {
            self.post_event(DispatchEvent::Filled(lane));
        }
        self.post_event(DispatchEvent::Opened(lane, Instant::now()));
    }
}

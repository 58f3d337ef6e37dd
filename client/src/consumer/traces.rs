//! The consumer's spans: one per record that its producer traced, from its arrival until `poll`
//! returns it, within the same trace.
//!
//! Guarantees: without a tracer, a poll costs one branch; batches without traced records are not
//! searched for headers; the number of spans per poll is bounded.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanBuilder, SpanKind};
use streamhouse_core::trace::{self, OptionalTracer, key};

use super::{ConsumerRecord, ConsumerRecords, records::BatchSlice};
use crate::traces::{self, MESSAGING_SYSTEM_NAME};

/// Maximum number of spans per poll. Records beyond have no span, and keep their context.
const MAX_SPANS_PER_POLL: usize = 256;

/// Starts a consumer's spans.
#[derive(Debug, Default)]
pub(super) struct ConsumerTraces {
    traces: OptionalTracer,
    client_id: String,
    group: Option<String>,
}

impl ConsumerTraces {
    pub(super) fn new(traces: OptionalTracer, client_id: &str, group: Option<&str>) -> Self {
        Self {
            traces,
            client_id: client_id.to_owned(),
            group: group.map(str::to_owned),
        }
    }

    /// Traces the records that a poll returns.
    pub(super) fn trace_records(&self, records: &ConsumerRecords) {
        if !self.traces.is_on() {
            return;
        }
        let mut left = MAX_SPANS_PER_POLL;
        for piece in records
            .slices()
            .filter(|piece| piece.batch.contains_text(trace::TRACEPARENT))
        {
            for record in piece.iter() {
                if left == 0 {
                    return;
                }
                left -= usize::from(self.trace_record(piece, &record));
            }
        }
    }

    /// Traces one record if its producer's span was sampled. Returns whether it was.
    fn trace_record(&self, piece: &BatchSlice, record: &ConsumerRecord<'_>) -> bool {
        let sampled = traces::extract_context(record.headers()).filter(|context| context.is_sampled());
        let Some(parent) = sampled else { return false };
        let builder = SpanBuilder::from_name("receive").with_kind(SpanKind::Consumer);
        let builder = match u64::try_from(piece.arrived_ms) {
            Ok(arrived) => builder.with_start_time(SystemTime::UNIX_EPOCH + Duration::from_millis(arrived)),
            Err(_) => builder,
        };
        let Some(mut span) = self.traces.start(&trace::context_of(&parent), builder) else {
            return false;
        };
        span.rename(format!("receive {}", record.topic));
        span.set_attribute(key::MESSAGING_SYSTEM, MESSAGING_SYSTEM_NAME);
        span.set_attribute(key::MESSAGING_OPERATION_NAME, "poll");
        span.set_attribute(key::MESSAGING_OPERATION_TYPE, "receive");
        span.set_attribute(key::MESSAGING_DESTINATION_NAME, record.topic.to_owned());
        span.set_attribute(
            key::MESSAGING_DESTINATION_PARTITION_ID,
            record.partition.to_string(),
        );
        span.set_attribute(key::MESSAGING_KAFKA_OFFSET, record.offset);
        span.set_attribute(key::MESSAGING_CLIENT_ID, self.client_id.clone());
        if let Some(group) = &self.group {
            span.set_attribute(key::MESSAGING_CONSUMER_GROUP_NAME, group.clone());
        }
        true
    }
}

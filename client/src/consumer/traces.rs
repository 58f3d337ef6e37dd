//! The consumer's spans: one per record that its producer traced, from its arrival until `poll`
//! returns it, within the same trace.
//!
//! Guarantees: without a tracer, a poll costs one branch; batches without traced records are not
//! searched for headers; the number of spans per poll is bounded.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanBuilder, SpanKind};
use streamhouse_core::trace::{self, Traces, key};

use super::{ConsumerRecord, Records, records::Piece};
use crate::traces::{self, SYSTEM};

/// Maximum number of spans per poll. Records beyond have no span, and keep their context.
const MOST_SPANS: usize = 256;

/// Starts a consumer's spans.
#[derive(Debug, Default)]
pub(super) struct ConsumerTraces {
    traces: Traces,
    client_id: String,
    group: Option<String>,
}

impl ConsumerTraces {
    pub(super) fn new(traces: Traces, client_id: &str, group: Option<&str>) -> Self {
        Self {
            traces,
            client_id: client_id.to_owned(),
            group: group.map(str::to_owned),
        }
    }

    /// Traces the records that a poll returns.
    pub(super) fn received(&self, records: &Records) {
        if !self.traces.is_on() {
            return;
        }
        let mut left = MOST_SPANS;
        for piece in records
            .pieces()
            .filter(|piece| piece.batch.mentions(trace::TRACEPARENT))
        {
            for record in piece.iter() {
                if left == 0 {
                    return;
                }
                left -= usize::from(self.record(piece, &record));
            }
        }
    }

    /// Traces one record if its producer's span was sampled. Returns whether it was.
    fn record(&self, piece: &Piece, record: &ConsumerRecord<'_>) -> bool {
        let sampled = traces::context_in(record.headers()).filter(|context| context.is_sampled());
        let Some(parent) = sampled else { return false };
        let builder = SpanBuilder::from_name("receive").with_kind(SpanKind::Consumer);
        let builder = match u64::try_from(piece.arrived_ms) {
            Ok(arrived) => builder.with_start_time(SystemTime::UNIX_EPOCH + Duration::from_millis(arrived)),
            Err(_) => builder,
        };
        let Some(mut span) = self.traces.start(&trace::within(&parent), builder) else {
            return false;
        };
        span.rename(format!("receive {}", record.topic));
        span.set(key::MESSAGING_SYSTEM, SYSTEM);
        span.set(key::MESSAGING_OPERATION_NAME, "poll");
        span.set(key::MESSAGING_OPERATION_TYPE, "receive");
        span.set(key::MESSAGING_DESTINATION_NAME, record.topic.to_owned());
        span.set(
            key::MESSAGING_DESTINATION_PARTITION_ID,
            record.partition.to_string(),
        );
        span.set(key::MESSAGING_KAFKA_OFFSET, record.offset);
        span.set(key::MESSAGING_CLIENT_ID, self.client_id.clone());
        if let Some(group) = &self.group {
            span.set(key::MESSAGING_CONSUMER_GROUP_NAME, group.clone());
        }
        true
    }
}

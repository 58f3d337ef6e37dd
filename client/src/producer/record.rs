//! What goes into the producer: [`Record`] owns its bytes, [`RecordRef`] borrows them for the hot path; and what comes
//! out: [`RecordMetadata`].

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::{Context, trace::TraceContextExt};
use streamhouse_core::trace::{self, TRACEPARENT, TRACESTATE};

/// A record to send. Key and value may each be absent (null) or empty, which are different things.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The topic's name.
    pub topic: String,
    /// Chooses the partition where `partition` does not: equal keys, equal partition.
    pub key: Option<Bytes>,
    /// The payload; absent in a tombstone.
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch; the time of `send` without it.
    pub timestamp: Option<i64>,
    /// Overrides the partitioner.
    pub partition: Option<i32>,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub key: String,
    /// Its value, which may be null.
    pub value: Option<Bytes>,
}

impl Record {
    /// A record without a key.
    pub fn new(topic: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A key with a null value: "the key is gone".
    pub fn tombstone(topic: impl Into<String>, key: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// With a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// As a part of the trace of this context, where that is not the current one when the record is sent: its span becomes
    /// the parent of the record's. Without a span in it, nothing changes.
    #[must_use]
    pub fn with_trace_context(mut self, context: &Context) -> Self {
        let span = context.span().span_context().clone();
        if span.is_valid() {
            let (parent, state) = trace::write(&span);
            self = self.with_header(TRACEPARENT, parent);
            if let Some(state) = state {
                self = self.with_header(TRACESTATE, state);
            }
        }
        self
    }

    /// With a timestamp in milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// To this partition, whatever the key.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// A borrowed record for [`Producer::send_ref`](super::Producer::send_ref): nothing is allocated for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordRef<'a> {
    /// See [`Record::key`].
    pub key: Option<&'a [u8]>,
    /// See [`Record::value`].
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// See [`Record::timestamp`].
    pub timestamp: Option<i64>,
    /// See [`Record::partition`].
    pub partition: Option<i32>,
}

impl<'a> RecordRef<'a> {
    /// A record without a key.
    pub fn new(value: &'a [u8]) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }

    /// A record with a key.
    pub fn keyed(key: &'a [u8], value: &'a [u8]) -> Self {
        Self {
            key: Some(key),
            value: Some(value),
            ..Self::default()
        }
    }
}

/// Where a record was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Counted from 0.
    pub partition: i32,
    /// -1 when the record is surely stored but so long ago that the cluster cannot name its offset any more.
    pub offset: i64,
    /// The record's, in milliseconds since the Unix epoch.
    pub timestamp: i64,
}

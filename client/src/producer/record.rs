//! The producer's input, [`Record`] with its own bytes and [`RecordRef`] with borrowed ones, and
//! its output, [`RecordMetadata`].

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::{Context, trace::TraceContextExt};
use streamhouse_core::trace::{self, TRACEPARENT, TRACESTATE};

/// A record to send. Key and value may each be null (`None`), which is distinct from empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Record {
    /// Name of the topic.
    pub topic: String,
    /// Key. Unless `partition` is set, it selects the partition: equal keys go to the same
    /// partition.
    pub key: Option<Bytes>,
    /// Value; `None` (null) in a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in order; names may repeat.
    pub headers: Vec<RecordHeader>,
    /// Timestamp in milliseconds since the Unix epoch; `None` for the time of `send`.
    pub timestamp: Option<i64>,
    /// Partition; `None` leaves the choice to the partitioner.
    pub partition: Option<i32>,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordHeader {
    /// Name of the header.
    pub key: String,
    /// Value of the header, which may be null.
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// Creates a header with a value.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// Creates a header whose value is null.
    pub fn null(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
        }
    }
}

impl Record {
    /// Creates a record without a key.
    pub fn new(topic: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// Creates a tombstone: a key with a null value, which marks the key as deleted.
    pub fn tombstone(topic: impl Into<String>, key: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Appends a header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(RecordHeader::new(key, value));
        self
    }

    /// Sends the record as part of this context's trace, in place of the context that is current at
    /// `send`: its span becomes the parent of the record's span. Does nothing if the context has no
    /// span.
    #[must_use]
    pub fn with_trace_context(mut self, context: &Context) -> Self {
        let span = context.span().span_context().clone();
        if span.is_valid() {
            let (parent, state) = trace::format_trace_context(&span);
            self = self.with_header(TRACEPARENT, parent);
            if let Some(state) = state {
                self = self.with_header(TRACESTATE, state);
            }
        }
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the partition, whatever the key.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// A borrowed record for [`Producer::send_ref`](super::Producer::send_ref), without allocations.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RecordRef<'a> {
    /// Key, see [`Record::key`].
    pub key: Option<&'a [u8]>,
    /// Value, see [`Record::value`].
    pub value: Option<&'a [u8]>,
    /// Names and values of the headers.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Timestamp, see [`Record::timestamp`].
    pub timestamp: Option<i64>,
    /// Partition, see [`Record::partition`].
    pub partition: Option<i32>,
}

impl<'a> RecordRef<'a> {
    /// Creates a record without a key.
    pub fn new(value: &'a [u8]) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }

    /// Creates a record with a key.
    pub fn keyed(key: &'a [u8], value: &'a [u8]) -> Self {
        Self {
            key: Some(key),
            value: Some(value),
            ..Self::default()
        }
    }

    /// Sets the key; `None` is null.
    #[must_use]
    pub fn with_key(mut self, key: Option<&'a [u8]>) -> Self {
        self.key = key;
        self
    }

    /// Sets the value; `None` is null, which makes a tombstone.
    #[must_use]
    pub fn with_value(mut self, value: Option<&'a [u8]>) -> Self {
        self.value = value;
        self
    }

    /// Sets the names and values of the headers.
    #[must_use]
    pub fn with_headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the partition, whatever the key.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Where a record was stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Index of the partition, from 0.
    pub partition: i32,
    /// Offset in the partition; -1 if the record is stored, but so long ago that the cluster no
    /// longer knows its offset.
    pub offset: i64,
    /// Timestamp of the record, in milliseconds since the Unix epoch.
    pub timestamp: i64,
}

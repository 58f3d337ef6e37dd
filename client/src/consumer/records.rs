//! [`ConsumerRecords`]: the result of a poll. Records borrow from the fetched and decompressed
//! bytes, without a copy.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::{Context, trace::SpanContext};
use streamhouse_core::{
    TopicPartition,
    batch::{HeadersView, RecordView},
    trace,
};

use super::decode::{DecodedBatch, DecodedBatchIter};
use crate::traces;

/// A consumed record, borrowed from its [`ConsumerRecords`].
#[derive(Debug, Clone, Copy)]
pub struct ConsumerRecord<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Index of the partition, from 0.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Timestamp in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Key. `None` (null) is distinct from an empty key.
    pub key: Option<&'a [u8]>,
    /// Value; `None` (null) in a tombstone.
    pub value: Option<&'a [u8]>,
    headers: HeadersView<'a>,
    /// The decompressed bytes that key and value are part of.
    source: &'a Bytes,
}

impl<'a> ConsumerRecord<'a> {
    /// Returns the names and values of the headers, in order. A name that is not UTF-8 is returned
    /// as the replacement character.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.headers
            .iter()
            .map(|(key, value)| (std::str::from_utf8(key).unwrap_or("\u{fffd}"), value))
    }

    /// Returns the trace context from the record's headers, that of the span under which the record
    /// was sent; an empty context without one. Spans started as its children continue the record's
    /// trace.
    pub fn trace_context(&self) -> Context {
        context_with_span(traces::extract_context(self.headers()))
    }

    /// Returns the key as shared bytes, without a copy. They keep the batch (or the part of a large
    /// batch) in memory; use [`ConsumerRecord::to_owned`] for keys that are kept long.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key.map(|key| self.source.slice_ref(key))
    }

    /// Returns the value as shared bytes, see [`ConsumerRecord::key_bytes`].
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value.map(|value| self.source.slice_ref(value))
    }

    /// Copies the record.
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            topic: self.topic.to_owned(),
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.map(Bytes::copy_from_slice),
            value: self.value.map(Bytes::copy_from_slice),
            headers: self
                .headers()
                .map(|(key, value)| (key.to_owned(), value.map(Bytes::copy_from_slice)))
                .collect(),
        }
    }
}

/// A consumed record that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnedRecord {
    /// Name of the topic.
    pub topic: String,
    /// Index of the partition, from 0.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Timestamp in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Key. `None` (null) is distinct from an empty key.
    pub key: Option<Bytes>,
    /// Value; `None` (null) in a tombstone.
    pub value: Option<Bytes>,
    /// Names and values of the headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl OwnedRecord {
    /// Returns the trace context, see [`ConsumerRecord::trace_context`].
    pub fn trace_context(&self) -> Context {
        let headers = self.headers.iter();
        context_with_span(traces::extract_context(
            headers.map(|(name, value)| (name.as_str(), value.as_deref())),
        ))
    }
}

fn context_with_span(span: Option<SpanContext>) -> Context {
    span.map_or_else(Context::new, |span| trace::context_of(&span))
}

/// The records `from..to` of one batch.
#[derive(Debug, Clone)]
pub(super) struct BatchSlice {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) batch: Arc<DecodedBatch>,
    pub(super) from: i64,
    pub(super) to: i64,
    /// When it was fetched, in milliseconds since the Unix epoch.
    pub(super) arrived_ms: i64,
}

impl BatchSlice {
    fn len(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(0)
    }

    /// Iterates over the records.
    pub(super) fn iter(&self) -> impl Iterator<Item = ConsumerRecord<'_>> {
        let records = self.batch.iter_from(self.from);
        records
            .take_while(|record| record.offset < self.to)
            .map(|record| self.consumer_record(record))
    }

    fn consumer_record<'a>(&'a self, record: RecordView<'a>) -> ConsumerRecord<'a> {
        ConsumerRecord {
            topic: &self.topic,
            partition: self.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
            source: self.batch.source(),
        }
    }
}

/// The records of one poll, grouped by partition and in offset order within each.
#[derive(Debug, Clone, Default)]
pub struct ConsumerRecords {
    slices: Vec<BatchSlice>,
    count: usize,
}

impl ConsumerRecords {
    pub(super) fn push(&mut self, piece: BatchSlice) {
        self.count += piece.len();
        self.slices.push(piece);
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &BatchSlice> {
        self.slices.iter()
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over all records.
    pub fn iter(&self) -> ConsumerRecordsIter<'_> {
        ConsumerRecordsIter {
            slices: self.slices.iter(),
            current: None,
            left: self.count,
        }
    }

    /// Returns the partitions of the records.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        let mut all: Vec<_> = self
            .slices
            .iter()
            .map(|piece| TopicPartition::new(&*piece.topic, piece.partition))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Returns the records of one partition; none if the poll returned none of it.
    pub fn partition(&self, partition: &TopicPartition) -> PartitionRecords {
        let of =
            |piece: &&BatchSlice| piece.partition == partition.partition && *piece.topic == *partition.topic;
        let mut records = Self::default();
        for piece in self.slices.iter().filter(of) {
            records.push(piece.clone());
        }
        PartitionRecords {
            partition: partition.clone(),
            records,
        }
    }

    /// Splits the records by partition without a copy, for example to process each partition in its
    /// own task.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(mut consumer: streamhouse_client::Consumer) -> streamhouse_client::Result<()> {
    /// for part in consumer.poll(std::time::Duration::from_secs(1)).await?.by_partition() {
    ///     for record in part.iter() {
    ///         println!("{}", record.offset);
    ///     }
    ///     let next = part.next_offset().map(|next| (part.partition().clone(), next));
    ///     consumer.commit_offsets(next).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn by_partition(&self) -> impl Iterator<Item = PartitionRecords> + '_ {
        self.partitions()
            .into_iter()
            .map(|partition| self.partition(&partition))
    }
}

/// The records of one partition, in offset order. It shares the bytes with its [`ConsumerRecords`]
/// and may outlive them.
#[derive(Debug, Clone)]
pub struct PartitionRecords {
    partition: TopicPartition,
    records: ConsumerRecords,
}

impl PartitionRecords {
    /// Returns the partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the offset after the last record: the one to commit once all are processed.
    pub fn next_offset(&self) -> Option<i64> {
        self.records.slices.last().map(|piece| piece.to)
    }

    /// Iterates over the records.
    pub fn iter(&self) -> ConsumerRecordsIter<'_> {
        self.records.iter()
    }
}

impl<'a> IntoIterator for &'a PartitionRecords {
    type Item = ConsumerRecord<'a>;
    type IntoIter = ConsumerRecordsIter<'a>;

    fn into_iter(self) -> ConsumerRecordsIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a ConsumerRecords {
    type Item = ConsumerRecord<'a>;
    type IntoIter = ConsumerRecordsIter<'a>;

    fn into_iter(self) -> ConsumerRecordsIter<'a> {
        self.iter()
    }
}

/// Iterator over [`ConsumerRecords`].
#[derive(Debug)]
pub struct ConsumerRecordsIter<'a> {
    slices: std::slice::Iter<'a, BatchSlice>,
    current: Option<(&'a BatchSlice, DecodedBatchIter<'a>)>,
    left: usize,
}

impl<'a> Iterator for ConsumerRecordsIter<'a> {
    type Item = ConsumerRecord<'a>;

    fn next(&mut self) -> Option<ConsumerRecord<'a>> {
        loop {
            if let Some((piece, records)) = &mut self.current {
                if let Some(record) = records.next().filter(|record| record.offset < piece.to) {
                    self.left = self.left.saturating_sub(1);
                    return Some(piece.consumer_record(record));
                }
                self.current = None;
            }
            let piece = self.slices.next()?;
            self.current = Some((piece, piece.batch.iter_from(piece.from)));
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

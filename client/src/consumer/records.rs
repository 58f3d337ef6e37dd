//! [`Records`]: what a poll returns. The bytes stay where they were fetched and decompressed; iterating borrows them.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::{Context, trace::SpanContext};
use streamhouse_core::{TopicPartition, trace};

use super::decode::{Decoded, DecodedIter};
use crate::traces;

/// A record, borrowed from its [`Records`].
#[derive(Debug, Clone, Copy)]
pub struct ConsumerRecord<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// Counted from 0.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Null and empty are different things.
    pub key: Option<&'a [u8]>,
    /// Null in a tombstone.
    pub value: Option<&'a [u8]>,
    pub(super) headers: super::decode::HeadersRef<'a>,
    /// Where key and value stand.
    pub(super) source: &'a Bytes,
}

impl<'a> ConsumerRecord<'a> {
    /// Names and values of its headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        super::decode::headers(self.headers)
    }

    /// The context of the span under which the record was sent, from its headers; an empty one without. Spans that work on
    /// the record, and are started as children of this, continue its trace.
    pub fn trace_context(&self) -> Context {
        within(traces::context_in(self.headers()))
    }

    /// The key, shared instead of borrowed: no copy is made, and the batch (or the part of a large one) that the record came
    /// in stays in memory for as long as this does. [`ConsumerRecord::to_owned`] copies, for what is kept long.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key.map(|key| self.source.slice_ref(key))
    }

    /// The value, shared instead of borrowed; see [`ConsumerRecord::key_bytes`].
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value.map(|value| self.source.slice_ref(value))
    }

    /// A copy that owns its bytes.
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

/// A record that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The topic's name.
    pub topic: String,
    /// Counted from 0.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Null and empty are different things.
    pub key: Option<Bytes>,
    /// Null in a tombstone.
    pub value: Option<Bytes>,
    /// Names and values, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl OwnedRecord {
    /// See [`ConsumerRecord::trace_context`].
    pub fn trace_context(&self) -> Context {
        let headers = self.headers.iter();
        within(traces::context_in(
            headers.map(|(name, value)| (name.as_str(), value.as_deref())),
        ))
    }
}

fn within(span: Option<SpanContext>) -> Context {
    span.map_or_else(Context::new, |span| trace::within(&span))
}

/// Part of one batch: the records in `from..to`.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) batch: Arc<Decoded>,
    pub(super) from: i64,
    pub(super) to: i64,
    /// When it was fetched, in milliseconds since the Unix epoch.
    pub(super) arrived_ms: i64,
}

impl Piece {
    fn len(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(0)
    }

    /// Its records.
    pub(super) fn iter(&self) -> impl Iterator<Item = ConsumerRecord<'_>> {
        let records = self.batch.iter_from(self.from);
        records
            .take_while(|record| record.offset < self.to)
            .map(|record| ConsumerRecord {
                topic: &self.topic,
                partition: self.partition,
                ..record
            })
    }
}

/// The records of one poll, partition by partition, in offset order within each.
#[derive(Debug, Clone, Default)]
pub struct Records {
    pieces: Vec<Piece>,
    count: usize,
}

impl Records {
    pub(super) fn push(&mut self, piece: Piece) {
        self.count += piece.len();
        self.pieces.push(piece);
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter()
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them.
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter {
            pieces: self.pieces.iter(),
            current: None,
            left: self.count,
        }
    }

    /// The partitions they come from.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        let mut all: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| TopicPartition::new(&*piece.topic, piece.partition))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Those of one partition; none when it is not among them.
    pub fn partition(&self, partition: &TopicPartition) -> PartitionRecords {
        let of = |piece: &&Piece| piece.partition == partition.partition && *piece.topic == *partition.topic;
        let mut records = Self::default();
        for piece in self.pieces.iter().filter(of) {
            records.push(piece.clone());
        }
        PartitionRecords {
            partition: partition.clone(),
            records,
        }
    }

    /// All of them by partition, to be handed to a task for each, say. Nothing is copied.
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

/// The records of one partition, in offset order: a share of [`Records`] that owns what it holds and may outlive them.
#[derive(Debug, Clone)]
pub struct PartitionRecords {
    partition: TopicPartition,
    records: Records,
}

impl PartitionRecords {
    /// Where they come from.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The offset after the last of them: what to commit once all are processed.
    pub fn next_offset(&self) -> Option<i64> {
        self.records.pieces.last().map(|piece| piece.to)
    }

    /// All of them.
    pub fn iter(&self) -> RecordsIter<'_> {
        self.records.iter()
    }
}

impl<'a> IntoIterator for &'a PartitionRecords {
    type Item = ConsumerRecord<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = ConsumerRecord<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Records`].
#[derive(Debug)]
pub struct RecordsIter<'a> {
    pieces: std::slice::Iter<'a, Piece>,
    current: Option<(&'a Piece, DecodedIter<'a>)>,
    left: usize,
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = ConsumerRecord<'a>;

    fn next(&mut self) -> Option<ConsumerRecord<'a>> {
        loop {
            if let Some((piece, records)) = &mut self.current {
                if let Some(record) = records.next().filter(|record| record.offset < piece.to) {
                    self.left = self.left.saturating_sub(1);
                    return Some(ConsumerRecord {
                        topic: &piece.topic,
                        partition: piece.partition,
                        ..record
                    });
                }
                self.current = None;
            }
            let piece = self.pieces.next()?;
            self.current = Some((piece, piece.batch.iter_from(piece.from)));
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

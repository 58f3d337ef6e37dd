//! Records that move to another batch after they were accepted: a batch is split because it is
//! larger than its topic allows, or the topic was deleted and recreated, and waiting records move
//! to the new partitions.
//!
//! Guarantees: a record is in exactly one batch that may be sent; its delivery follows it; its
//! time-out and its share of the buffer do not change; records of one key keep their order.

use std::sync::Arc;

use streamhouse_core::{Error as ClusterError, ErrorCode, batch::Record as BatchRecord, trace::MAX_LINKS};

use super::{
    batch_content::BatchContent,
    delivery::{BatchTicket, RecordLocation},
    dispatcher::Dispatcher,
    encode::{ProducerIdentity, decode_records, split_in_half},
    partition_buffer::{OpenBatch, PartitionBuffer},
    partition_sender::{SealedBatch, SendAttempt},
    shared::{DispatchEvent, ProducerShared},
    topic::ProducerTopic,
};
use crate::metadata_cache::TopicSnapshot;

/// Splits a batch into parts of at most `limit` bytes, or of one record, in order. Returns the
/// batch itself if it cannot be split.
pub(super) fn split_batch(
    shared: &ProducerShared,
    partition: &PartitionBuffer,
    whole: BatchContent,
    limit: usize,
) -> Vec<BatchContent> {
    let mut left = vec![(whole.bytes.clone(), whole.records)];
    let mut parts = Vec::new();
    while let Some((bytes, records)) = left.pop() {
        if bytes.len() <= limit || records < 2 {
            parts.push((bytes, records));
            continue;
        }
        match split_in_half(&bytes, shared.config.compression) {
            Ok([first, second]) => left.extend([second, first]),
            Err(error) => {
                tracing::error!(%error, "cannot split a batch");
                parts.push((bytes, records));
            }
        }
    }
    if parts.len() < 2 {
        return vec![whole];
    }
    let mut places = Vec::with_capacity(whole.records as usize);
    let mut buffer = BufferShares::new(whole.reserved, whole.records);
    let mut from = 0;
    let batches: Vec<_> = parts
        .into_iter()
        .map(|(bytes, records)| {
            let ticket = shared.open_ticket(partition, whole.opened);
            places.extend((0..records).map(|at| (ticket.clone(), at)));
            let pinned = whole.pinned.part(from..from + records);
            from += records;
            BatchContent {
                bytes,
                records,
                ticket,
                opened: whole.opened,
                reserved: buffer.take(records),
                traced: whole.traced.clone(),
                pinned,
            }
        })
        .collect();
    whole.ticket.move_records(places);
    batches
}

/// Divides a batch's reserved bytes among its records, without a remainder.
struct BufferShares {
    reserved: usize,
    records: u32,
}

impl BufferShares {
    fn new(reserved: usize, records: u32) -> Self {
        Self { reserved, records }
    }

    fn take(&mut self, records: u32) -> usize {
        let share = self.reserved as u64 * u64::from(records) / u64::from(self.records.max(1));
        let share = usize::try_from(share).unwrap_or(self.reserved).min(self.reserved);
        self.reserved -= share;
        self.records = self.records.saturating_sub(records);
        share
    }
}

impl Dispatcher {
    /// Sends a batch in parts, because the cluster rejected it as larger than its topic allows.
    /// Returns false if it cannot be split.
    pub(super) fn send_in_parts(&mut self, lane: usize, flight: SendAttempt) -> bool {
        let entry = &self.lanes[lane];
        let Some(whole) = entry.sender.divisible_batch(flight) else {
            return false;
        };
        entry.topic.reduce_limit(whole.content.bytes.len());
        let limit = entry.topic.max_message_bytes();
        // The topic's limit has changed.
        self.shared.client.cache().request_refresh();
        self.split_sent_batch(lane, flight, whole, limit)
    }

    /// Sends a batch in parts of at most `limit` bytes, because the agent accepts no request that
    /// is large enough for it. Returns false if it cannot be split.
    pub(super) fn send_in_parts_of(&mut self, lane: usize, flight: SendAttempt, limit: usize) -> bool {
        let whole = self.lanes[lane].sender.divisible_batch(flight);
        whole.is_some_and(|whole| self.split_sent_batch(lane, flight, whole, limit))
    }

    fn split_sent_batch(
        &mut self,
        lane: usize,
        flight: SendAttempt,
        whole: SealedBatch,
        limit: usize,
    ) -> bool {
        let entry = &mut self.lanes[lane];
        let size = whole.content.bytes.len();
        let limit = limit.min(size - 1);
        let parts = split_batch(&self.shared, &entry.partition, whole.content.clone(), limit);
        if parts.len() < 2 {
            return false;
        }
        tracing::debug!(
            topic = %entry.topic.name, size, parts = parts.len(),
            "a batch is larger than the cluster allows; splitting it"
        );
        entry.sender.replace_with_parts(flight, &whole, parts);
        true
    }

    /// Applies new metadata of the topics: limits, new partitions, and recreations.
    pub(super) fn apply_topic_metadata(&mut self) {
        let shared = self.shared.clone();
        for topic in shared.topics() {
            let known = shared.client.cache().topic_snapshot(&topic.name);
            let Some(known) = known.filter(|known| known.partitions > 0) else {
                continue;
            };
            if topic.adopt_id(&known.topic_id) {
                self.handle_topic_recreated(&topic, &known);
            } else if known.topic_id.is_empty() || known.topic_id == topic.id() {
                shared.add_partitions(&topic, known.partitions);
            }
            topic.set_max_message_bytes(known.max_message_bytes);
        }
        self.process_events();
    }

    /// Handles a topic that was deleted and recreated. Batches in flight to the old topic cannot be
    /// stored in the new one, because requests carry the topic id; so all records that are not
    /// acknowledged move to the new partitions.
    fn handle_topic_recreated(&mut self, topic: &Arc<ProducerTopic>, known: &TopicSnapshot) {
        let shared = self.shared.clone();
        // Appenders that choose a partition block on this lock.
        let mut partitions = topic.partitions.write();
        let new = shared.new_partitions(topic, 0..known.partitions);
        let mut moving = TopicMigration::new(&shared, topic, &new);
        for old in partitions.iter() {
            let waiting = old.retire();
            let sent = self.lanes.get_mut(old.lane).map(|entry| entry.sender.take_all());
            for batch in sent.into_iter().flatten() {
                moving.add(&batch.content, old.index);
            }
            for batch in waiting {
                moving.add_open(batch, old.index);
            }
        }
        let moved = moving.finish();
        tracing::warn!(
            topic = %topic.name,
            partitions = known.partitions,
            before = partitions.len(),
            records = moved,
            "the topic was deleted and recreated; waiting records move to the new one"
        );
        *partitions = new.clone().into();
        drop(partitions);
        for partition in new {
            shared.post_event(DispatchEvent::Filled(partition.lane));
        }
    }
}

/// A record that moves to another partition.
struct MovedRecord<'a> {
    record: &'a BatchRecord,
    /// Whether its partition was set explicitly.
    pinned: bool,
    /// Its share of the buffer.
    share: usize,
    /// The batch that it comes from.
    origin: &'a BatchContent,
}

/// Records that move from the partitions of a topic to those of its recreation.
struct TopicMigration<'a> {
    shared: &'a ProducerShared,
    topic: &'a ProducerTopic,
    partitions: &'a [Arc<PartitionBuffer>],
    /// By partition; the last batch of each still accepts records.
    batches: Vec<Vec<OpenBatch>>,
    moved: usize,
}

impl<'a> TopicMigration<'a> {
    fn new(
        shared: &'a ProducerShared,
        topic: &'a ProducerTopic,
        partitions: &'a [Arc<PartitionBuffer>],
    ) -> Self {
        Self {
            shared,
            topic,
            partitions,
            batches: partitions.iter().map(|_| Vec::new()).collect(),
            moved: 0,
        }
    }

    fn add_open(&mut self, batch: OpenBatch, index: i32) {
        let sealed = self.shared.seal(self.topic, batch, ProducerIdentity::NONE, -1);
        if let Some(content) = sealed {
            self.add(&content, index);
        }
    }

    /// Moves the records of a batch of the partition `index`.
    fn add(&mut self, batch: &BatchContent, index: i32) {
        let (ticket, count) = (&batch.ticket, batch.records);
        let records = match decode_records(&batch.bytes) {
            Ok(records) => records,
            Err(error) => return self.fail(ticket, count, batch.reserved, error),
        };
        let mut buffer = BufferShares::new(batch.reserved, count);
        let mut places = Vec::with_capacity(records.len());
        for (at, record) in (0..).zip(&records) {
            let moved = MovedRecord {
                record,
                pinned: batch.pinned.contains(at),
                share: buffer.take(1),
                origin: batch,
            };
            places.push(self.place_record(&moved, index));
        }
        ticket.move_records(places);
    }

    /// Finds the new location of a record.
    fn place_record(&mut self, moved: &MovedRecord<'_>, old_index: i32) -> RecordLocation {
        let count = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX);
        let chosen = if moved.pinned {
            None
        } else {
            let partitioner = &self.shared.config.partitioner;
            partitioner
                .partition(&self.topic.name, moved.record.key.as_deref(), count)
                .or(Some(old_index % count.max(1)))
        };
        let index = chosen.unwrap_or(old_index);
        let found = usize::try_from(index)
            .ok()
            .filter(|at| *at < self.partitions.len());
        let appended = match found {
            Some(at) => self.append(at, moved),
            None => Err(ClusterError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!(
                    "{} was deleted and recreated, and has no partition {index} any more; it has {count}",
                    self.topic.name
                ),
            )),
        };
        appended.unwrap_or_else(|error| {
            // The record was pending within its batch; now it is pending alone.
            let ticket = BatchTicket::new(u64::MAX, self.topic.name.clone(), index);
            self.fail(&ticket, 1, moved.share, error);
            (ticket, 0)
        })
    }

    fn append(&mut self, at: usize, moved: &MovedRecord<'_>) -> Result<RecordLocation, ClusterError> {
        let fill = self.topic.fill_limit(self.shared.config.batch_size);
        let batches = &mut self.batches[at];
        let fits = batches
            .last()
            .is_some_and(|last| last.encoder.size() + moved.share <= fill);
        if !fits {
            let (encoder, ticket) = self.shared.open_batch(&self.partitions[at], moved.origin.opened);
            batches.push(OpenBatch::new(encoder, ticket, moved.origin.opened));
        }
        let Some(batch) = batches.last_mut() else {
            return Err(ClusterError::new(
                ErrorCode::Unknown,
                "there is no batch for the record",
            ));
        };
        let index = batch
            .encoder
            .append_decoded(moved.record)
            .map_err(|error| ClusterError::new(error.code(), error.to_string()))?;
        if moved.pinned {
            batch.pinned.add(index);
        }
        batch.reserved += moved.share;
        batch.traced.extend(moved.origin.traced.iter().cloned());
        batch.traced.dedup();
        batch.traced.truncate(1 + MAX_LINKS);
        self.moved += 1;
        Ok((batch.ticket.clone(), index))
    }

    fn fail(&self, ticket: &BatchTicket, records: u32, reserved: usize, error: ClusterError) {
        self.shared
            .fail(self.topic, ticket, records, reserved, error.into());
    }

    /// Adds the batches to their partitions. Returns the number of records.
    fn finish(self) -> usize {
        for (partition, batches) in self.partitions.iter().zip(self.batches) {
            partition.push_full(batches);
        }
        self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_buffer_add_up() {
        let mut shares = BufferShares::new(1000, 7);
        let taken: Vec<usize> = [1, 2, 1, 3].map(|records| shares.take(records)).into();
        assert_eq!(taken.iter().sum::<usize>(), 1000);
        assert!(taken.iter().all(|share| *share > 0));
    }
}

//! Fetched batches that wait for `poll`: taken one by one, decoded part by part, skipped or
//! dropped.

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_core::{
    TopicPartition,
    batch::{BatchChunkReader, BatchError, BatchHeader},
};

use super::{
    AssignedPartition, AssignmentState, FetchPosition, PartitionRequest, errors::PartitionErrorState,
};
use crate::{
    consumer::{decode::DecodedBatch, records::BatchSlice},
    error::Error,
};

/// A fetched batch.
#[derive(Debug)]
pub(in crate::consumer) struct FetchedBatch {
    pub(in crate::consumer) key: TopicPartition,
    serial: u64,
    /// The requested offset; the batch may begin before it.
    asked: i64,
    header: BatchHeader,
    bytes: Bytes,
    /// Time of arrival, in milliseconds since the Unix epoch.
    arrived_ms: i64,
    decoded: Option<Arc<DecodedBatch>>,
    /// The parts after the one that was decoded last.
    rest: Option<Box<BatchChunkReader>>,
}

/// A range of damaged records that was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consumer) struct SkippedRange {
    pub(in crate::consumer) from: i64,
    pub(in crate::consumer) to: i64,
}

impl FetchedBatch {
    pub(super) fn new(wanted: &PartitionRequest, header: BatchHeader, bytes: Bytes, arrived_ms: i64) -> Self {
        Self {
            key: wanted.key.clone(),
            serial: wanted.serial,
            asked: match wanted.position {
                FetchPosition::At(offset) => offset,
                FetchPosition::Committed | FetchPosition::Lookup(_) => header.base_offset,
            },
            header,
            bytes,
            arrived_ms,
            decoded: None,
            rest: None,
        }
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns the size of the batch in bytes, as fetched.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the next part of the batch, decoding it if necessary. Slow: not to be called under a
    /// lock.
    pub(in crate::consumer) fn decode(&mut self) -> Result<Arc<DecodedBatch>, BatchError> {
        if let Some(decoded) = &self.decoded {
            return Ok(decoded.clone());
        }
        if let Some(rest) = &mut self.rest {
            return DecodedBatch::decode_next(rest).map(Arc::new);
        }
        let (decoded, rest) = DecodedBatch::decode_first(&self.bytes)?;
        self.rest = rest.map(Box::new);
        Ok(Arc::new(decoded))
    }

    fn has_more(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.is_finished())
    }

    /// Returns whether the batch is a control batch, without records for consumers.
    pub(in crate::consumer) fn is_control(&self) -> bool {
        self.header.is_control()
    }
}

impl AssignmentState {
    /// Takes the next batch for `poll`, which may not be decoded yet. Batches of paused partitions
    /// stay.
    pub(in crate::consumer) fn next_ready(&mut self) -> Option<FetchedBatch> {
        let held = &self.assigned;
        let at = self
            .ready
            .iter()
            .position(|fetched| held.get(&fetched.key).is_some_and(|held| !held.paused))?;
        self.ready.remove(at)
    }

    /// Advances the position past up to `most` records of a decoded part and returns them. The rest
    /// of the batch stays next in the queue. `None` if the batch is stale or the part has nothing
    /// to return.
    pub(in crate::consumer) fn consume(
        &mut self,
        fetched: FetchedBatch,
        decoded: Arc<DecodedBatch>,
        most: usize,
        now_ms: i64,
    ) -> Option<BatchSlice> {
        let size = fetched.bytes.len();
        let Some(held) = self
            .assigned
            .get_mut(&fetched.key)
            .filter(|held| held.serial == fetched.serial)
        else {
            self.buffered -= size;
            return None;
        };
        let first = decoded.start().max(fetched.asked);
        let from = match held.position {
            FetchPosition::At(offset) => offset.max(first),
            FetchPosition::Committed | FetchPosition::Lookup(_) => first,
        };
        let end = decoded.end();
        let to = end.min(from.saturating_add(i64::try_from(most).unwrap_or(i64::MAX)));
        held.position = FetchPosition::At(to.max(from));
        let (header, topic, arrived_ms) = (fetched.header, held.topic.clone(), fetched.arrived_ms);
        held.timestamp = Some(if to < header.next_offset() {
            header.base_timestamp
        } else {
            header.max_timestamp
        });
        let (partition, records) = (fetched.key.partition, usize::try_from(to - from).unwrap_or(0));
        let bytes = decoded.bytes() * records / decoded.len().max(1);
        held.metrics.record_consumed(records, bytes);
        held.metrics.set_position(to.max(from));
        if to < end {
            self.ready.push_front(FetchedBatch {
                decoded: Some(decoded.clone()),
                ..fetched
            });
        } else if fetched.has_more() {
            self.ready.push_front(FetchedBatch {
                decoded: None,
                ..fetched
            });
        } else {
            self.buffered -= size;
            held.release_buffered(size);
        }
        held.report_lag(now_ms);
        self.stats.records_consumed += records as u64;
        self.stats.bytes_consumed += bytes as u64;
        (records > 0).then_some(BatchSlice {
            topic,
            partition,
            batch: decoded,
            from,
            to,
            arrived_ms,
        })
    }

    /// Skips a batch without records for consumers.
    pub(in crate::consumer) fn skip_batch(&mut self, fetched: &FetchedBatch) {
        self.buffered -= fetched.bytes.len();
        if let Some(held) = self.get_current(&fetched.key, fetched.serial) {
            held.position = FetchPosition::At(fetched.header.next_offset());
            held.release_buffered(fetched.bytes.len());
        }
    }

    /// Handles a damaged batch. With `skip_batch`, the position moves past it. Otherwise all
    /// fetched batches of its partition are dropped, and `poll` fails until a seek.
    pub(in crate::consumer) fn handle_damaged(
        &mut self,
        fetched: &FetchedBatch,
        reason: String,
        skip_batch: bool,
    ) -> Option<SkippedRange> {
        let size = fetched.bytes.len();
        self.buffered -= size;
        let next_serial = self.allocate_serial();
        self.may_have_errors = true;
        let follows = |next: &&FetchedBatch| next.key == fetched.key && next.serial == fetched.serial;
        let following = self.ready.iter().find(follows);
        let following = following.map(|next| next.header.base_offset);
        let held = self.get_current(&fetched.key, fetched.serial)?;
        let from = match held.position {
            FetchPosition::At(offset) => offset,
            _ => fetched.header.base_offset,
        };
        // The header may be damaged too: the batch cannot extend beyond the next batch or the end
        // of the partition.
        let bound = following.or(held.high_watermark).unwrap_or(i64::MAX);
        let claimed = fetched.header.next_offset();
        let to = claimed.min(bound).max(from.saturating_add(1));
        if skip_batch {
            if following.is_none() && to != claimed {
                held.restart_at(next_serial, FetchPosition::At(to));
                self.drop_stale();
            } else {
                held.position = FetchPosition::At(to);
                held.metrics.set_position(to);
                held.release_buffered(size);
            }
            self.stats.batches_skipped += 1;
            self.stats.records_skipped += (to - from).unsigned_abs();
            return Some(SkippedRange { from, to });
        }
        held.serial = next_serial;
        held.in_flight = false;
        held.buffered = 0;
        held.error_state = Some(PartitionErrorState::until_seek(Error::Corrupt {
            partition: fetched.key.clone(),
            offset: from,
            next_offset: to,
            reason,
        }));
        self.drop_stale();
        None
    }

    /// Frees buffer space for the partitions that are read: drops the batches of paused partitions,
    /// which are fetched again after a resume.
    pub(in crate::consumer) fn evict_paused(&mut self) {
        let paused: Vec<_> = self
            .assigned
            .iter()
            .filter(|(_, held)| held.paused && held.buffered > 0)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &paused {
            let serial = self.allocate_serial();
            if let Some(held) = self.assigned.get_mut(key)
                && let FetchPosition::At(offset) = held.position
            {
                held.serial = serial;
                held.in_flight = false;
                held.buffered = 0;
                held.fetch_from = offset;
            }
        }
        if !paused.is_empty() {
            self.drop_stale();
        }
    }
}

impl AssignedPartition {
    /// Accounts for a batch of this size that was returned or skipped completely.
    fn release_buffered(&mut self, size: usize) {
        self.buffered = self.buffered.saturating_sub(size);
        // Nothing is buffered before the next fetch offset, so skip records that were deleted
        // meanwhile.
        if let FetchPosition::At(offset) = self.position
            && self.buffered == 0
            && self.fetch_from > offset
        {
            self.set_position(FetchPosition::At(self.fetch_from));
        }
    }
}

//! Fetched batches that wait for `poll`: taken one by one, decoded part by part, skipped or
//! dropped.

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_core::{
    TopicPartition,
    batch::{BatchError, BatchHeader, Chunks},
};

use super::{Assignment, Held, Position, Wanted, trouble::Trouble};
use crate::{
    consumer::{decode::Decoded, records::Piece},
    error::Error,
};

/// A fetched batch.
#[derive(Debug)]
pub(in crate::consumer) struct Fetched {
    pub(in crate::consumer) key: TopicPartition,
    serial: u64,
    /// The requested offset; the batch may begin before it.
    asked: i64,
    header: BatchHeader,
    bytes: Bytes,
    /// Time of arrival, in milliseconds since the Unix epoch.
    arrived_ms: i64,
    decoded: Option<Arc<Decoded>>,
    /// The parts after the one that was decoded last.
    rest: Option<Box<Chunks>>,
}

/// A range of damaged records that was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consumer) struct SkippedRange {
    pub(in crate::consumer) from: i64,
    pub(in crate::consumer) to: i64,
}

impl Fetched {
    pub(super) fn new(wanted: &Wanted, header: BatchHeader, bytes: Bytes, arrived_ms: i64) -> Self {
        Self {
            key: wanted.key.clone(),
            serial: wanted.serial,
            asked: match wanted.position {
                Position::At(offset) => offset,
                Position::Committed | Position::Lookup(_) => header.base_offset,
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
    pub(in crate::consumer) fn decode(&mut self) -> Result<Arc<Decoded>, BatchError> {
        if let Some(decoded) = &self.decoded {
            return Ok(decoded.clone());
        }
        if let Some(rest) = &mut self.rest {
            return Decoded::next_of(rest).map(Arc::new);
        }
        let (decoded, rest) = Decoded::open(&self.bytes)?;
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

impl Assignment {
    /// Takes the next batch for `poll`, which may not be decoded yet. Batches of paused partitions
    /// stay.
    pub(in crate::consumer) fn next_ready(&mut self) -> Option<Fetched> {
        let held = &self.held;
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
        fetched: Fetched,
        decoded: Arc<Decoded>,
        most: usize,
        now_ms: i64,
    ) -> Option<Piece> {
        let size = fetched.bytes.len();
        let Some(held) = self
            .held
            .get_mut(&fetched.key)
            .filter(|held| held.serial == fetched.serial)
        else {
            self.buffered -= size;
            return None;
        };
        let first = decoded.start().max(fetched.asked);
        let from = match held.position {
            Position::At(offset) => offset.max(first),
            Position::Committed | Position::Lookup(_) => first,
        };
        let end = decoded.end();
        let to = end.min(from.saturating_add(i64::try_from(most).unwrap_or(i64::MAX)));
        held.position = Position::At(to.max(from));
        let (header, topic, arrived_ms) = (fetched.header, held.topic.clone(), fetched.arrived_ms);
        held.timestamp = Some(if to < header.next_offset() {
            header.base_timestamp
        } else {
            header.max_timestamp
        });
        let (partition, records) = (fetched.key.partition, usize::try_from(to - from).unwrap_or(0));
        let bytes = decoded.bytes() * records / decoded.len().max(1);
        held.metrics.consumed(records, bytes);
        held.metrics.position(to.max(from));
        if to < end {
            self.ready.push_front(Fetched {
                decoded: Some(decoded.clone()),
                ..fetched
            });
        } else if fetched.has_more() {
            self.ready.push_front(Fetched {
                decoded: None,
                ..fetched
            });
        } else {
            self.buffered -= size;
            held.returned(size);
        }
        held.show_lag(now_ms);
        self.stats.records_consumed += records as u64;
        self.stats.bytes_consumed += bytes as u64;
        (records > 0).then_some(Piece {
            topic,
            partition,
            batch: decoded,
            from,
            to,
            arrived_ms,
        })
    }

    /// Skips a batch without records for consumers.
    pub(in crate::consumer) fn skip(&mut self, fetched: &Fetched) {
        self.buffered -= fetched.bytes.len();
        if let Some(held) = self.current(&fetched.key, fetched.serial) {
            held.position = Position::At(fetched.header.next_offset());
            held.returned(fetched.bytes.len());
        }
    }

    /// Handles a damaged batch. With `skip`, the position moves past it. Otherwise all fetched
    /// batches of its partition are dropped, and `poll` fails until a seek.
    pub(in crate::consumer) fn damaged(
        &mut self,
        fetched: &Fetched,
        reason: String,
        skip: bool,
    ) -> Option<SkippedRange> {
        let size = fetched.bytes.len();
        self.buffered -= size;
        let next_serial = self.serial();
        self.troubled = true;
        let follows = |next: &&Fetched| next.key == fetched.key && next.serial == fetched.serial;
        let following = self.ready.iter().find(follows);
        let following = following.map(|next| next.header.base_offset);
        let held = self.current(&fetched.key, fetched.serial)?;
        let from = match held.position {
            Position::At(offset) => offset,
            _ => fetched.header.base_offset,
        };
        // The header may be damaged too: the batch cannot extend beyond the next batch or the end
        // of the partition.
        let bound = following.or(held.high_watermark).unwrap_or(i64::MAX);
        let claimed = fetched.header.next_offset();
        let to = claimed.min(bound).max(from.saturating_add(1));
        if skip {
            if following.is_none() && to != claimed {
                held.start_anew(next_serial, Position::At(to));
                self.drop_stale();
            } else {
                held.position = Position::At(to);
                held.metrics.position(to);
                held.returned(size);
            }
            self.stats.batches_skipped += 1;
            self.stats.records_skipped += (to - from).unsigned_abs();
            return Some(SkippedRange { from, to });
        }
        held.serial = next_serial;
        held.busy = false;
        held.buffered = 0;
        held.trouble = Some(Trouble::lasting(Error::Corrupt {
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
            .held
            .iter()
            .filter(|(_, held)| held.paused && held.buffered > 0)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &paused {
            let serial = self.serial();
            if let Some(held) = self.held.get_mut(key)
                && let Position::At(offset) = held.position
            {
                held.serial = serial;
                held.busy = false;
                held.buffered = 0;
                held.fetch_from = offset;
            }
        }
        if !paused.is_empty() {
            self.drop_stale();
        }
    }
}

impl Held {
    /// Accounts for a batch of this size that was returned or skipped completely.
    fn returned(&mut self, size: usize) {
        self.buffered = self.buffered.saturating_sub(size);
        // Nothing is buffered before the next fetch offset, so skip records that were deleted
        // meanwhile.
        if let Position::At(offset) = self.position
            && self.buffered == 0
            && self.fetch_from > offset
        {
            self.go_to(Position::At(self.fetch_from));
        }
    }
}

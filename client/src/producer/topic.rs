//! [`TopicHandle`]: the producer's state of a topic: its partitions, the sticky choice for records
//! without a key, and the limit on batches.
//!
//! The sticky choice (KIP-794): records without a key go to one partition until its batch closes,
//! then to the next one that has no batch waiting; if all have, to the one with the shortest queue.
//! A batch that waits for its leader accepts no more records without a key while another partition
//! could, so that all partitions get equal shares, and those of a slow leader no more.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, RwLock};
use streamhouse_core::{Error as ClusterError, ErrorCode};

use super::{
    partition_buffer::{PartitionBuffer, PartitionPreference},
    partitioner::Partitioner,
};
use crate::{error::Result, metadata_cache::TopicSnapshot, metrics::ProducerTopicMetrics};

/// Flag of a sticky choice that stays until its batch is full, because every partition has a queue.
const STICKY_UNTIL_FULL: u32 = 1 << 31;
/// Compression ratio of 1, in the unit of ratios: nothing is saved.
const RATIO_SCALE: u32 = 1000;
/// How fast the expected ratio changes per batch: it rises by at least [`MIN_RATIO_INCREASE`], and
/// falls by one [`RATIO_DECREASE_DIVISOR`]th of the difference, because splitting a batch costs
/// more than sending a smaller one.
const MIN_RATIO_INCREASE: u32 = 50;
const RATIO_DECREASE_DIVISOR: u32 = 8;
/// Fraction of a batch that is reserved for records that compress worse than expected.
const RATIO_MARGIN_DIVISOR: u32 = 16;
/// Smallest batch limit that a topic can have, in bytes.
const MIN_BATCH_LIMIT: usize = 1024;

/// A topic of a producer, resolved once, see [`Producer::topic`](super::Producer::topic). Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct TopicHandle {
    pub(super) topic: Arc<ProducerTopic>,
}

impl TopicHandle {
    /// Returns the name of the topic.
    pub fn name(&self) -> &str {
        &self.topic.name
    }

    /// Returns the number of partitions, as far as it is known.
    pub fn partitions(&self) -> usize {
        self.topic.partitions.read().len()
    }
}

/// Shared state of a topic.
#[derive(Debug)]
pub(super) struct ProducerTopic {
    pub(super) name: Arc<str>,
    pub(super) partitions: RwLock<Arc<[Arc<PartitionBuffer>]>>,
    pub(super) metrics: ProducerTopicMetrics,
    /// Number of records that are not settled.
    pub(super) pending: AtomicI64,
    /// The partition for records without a key, modulo the number of partitions; with the flag
    /// [`STICKY_UNTIL_FULL`].
    sticky: AtomicU32,
    ids: Mutex<TopicIdHistory>,
    limit: BatchSizeLimit,
}

/// Ids of the topics that have had this name.
#[derive(Debug)]
struct TopicIdHistory {
    /// Id of the current topic; empty if agents send no ids.
    current: Arc<str>,
    /// Ids of earlier topics. An id is never used again, so an answer with one of these is
    /// outdated.
    former: Vec<Arc<str>>,
}

/// Limit on the size of batches. The topic's limit applies to compressed bytes, but a batch is
/// filled with uncompressed ones.
#[derive(Debug)]
struct BatchSizeLimit {
    /// Limit in compressed bytes; `usize::MAX` while it is not known.
    compressed: AtomicUsize,
    /// Expected compressed size of 1000 bytes.
    ratio: AtomicU32,
    /// Resulting limit in uncompressed bytes.
    fill: AtomicUsize,
}

impl BatchSizeLimit {
    fn update(&self) {
        let limit = self.compressed.load(Ordering::Relaxed);
        let ratio = self.ratio.load(Ordering::Relaxed);
        let ratio = (ratio + ratio / RATIO_MARGIN_DIVISOR).clamp(1, RATIO_SCALE);
        let fill = limit.saturating_mul(RATIO_SCALE as usize) / ratio as usize;
        let fill = if limit == usize::MAX { limit } else { fill };
        self.fill.store(fill, Ordering::Relaxed);
    }
}

/// The partition chosen for a record.
pub(super) struct PartitionChoice {
    pub(super) partition: Arc<PartitionBuffer>,
    /// The sticky value of the choice, if any: another partition is just as good once this one's
    /// batch is full.
    pub(super) sticky: Option<u32>,
}

impl PartitionChoice {
    /// Returns when the record prefers another partition.
    pub(super) fn preference(&self) -> PartitionPreference {
        match self.sticky {
            None => PartitionPreference::This,
            Some(sticky) if sticky & STICKY_UNTIL_FULL != 0 => PartitionPreference::OpenBatch,
            Some(_) => PartitionPreference::PromptBatch,
        }
    }
}

impl ProducerTopic {
    pub(super) fn new(
        name: Arc<str>,
        known: &TopicSnapshot,
        first: u32,
        metrics: ProducerTopicMetrics,
    ) -> Self {
        let topic = Self {
            name,
            partitions: RwLock::new(Arc::new([])),
            metrics,
            pending: AtomicI64::new(0),
            sticky: AtomicU32::new(first),
            ids: Mutex::new(TopicIdHistory {
                current: known.topic_id.clone(),
                former: Vec::new(),
            }),
            limit: BatchSizeLimit {
                compressed: AtomicUsize::new(usize::MAX),
                ratio: AtomicU32::new(RATIO_SCALE),
                fill: AtomicUsize::new(usize::MAX),
            },
        };
        topic.set_max_message_bytes(known.max_message_bytes);
        topic
    }

    /// Returns the id of the topic that has the name, as far as the producer knows.
    pub(super) fn id(&self) -> Arc<str> {
        self.ids.lock().current.clone()
    }

    /// Adopts this id if it belongs to a later topic of the same name. Returns whether it does.
    pub(super) fn adopt_id(&self, id: &Arc<str>) -> bool {
        let mut ids = self.ids.lock();
        if id.is_empty() || ids.current == *id || ids.former.contains(id) {
            return false;
        }
        let old = std::mem::replace(&mut ids.current, id.clone());
        let anew = !old.is_empty();
        ids.former.extend(anew.then_some(old));
        anew
    }

    /// Returns the uncompressed size at which a batch is full.
    pub(super) fn fill_limit(&self, batch_size: usize) -> usize {
        self.limit.fill.load(Ordering::Relaxed).min(batch_size)
    }

    /// Returns the largest batch that the topic accepts, compressed, as far as it is known.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.limit.compressed.load(Ordering::Relaxed)
    }

    /// Sets the topic's limit; 0 if the cluster does not send it.
    pub(super) fn set_max_message_bytes(&self, limit: usize) {
        if limit > 0 && self.limit.compressed.swap(limit, Ordering::Relaxed) != limit {
            self.limit.update();
        }
    }

    /// Lowers the limit after the topic refused a batch of this size without sending its limit.
    pub(super) fn reduce_limit(&self, size: usize) {
        if size <= self.max_message_bytes() {
            self.limit
                .compressed
                .store((size / 2).max(MIN_BATCH_LIMIT), Ordering::Relaxed);
            self.limit.update();
        }
    }

    /// Updates the expected compression ratio from a batch.
    pub(super) fn observe_compression(&self, before: usize, after: usize) {
        let seen = after.saturating_mul(RATIO_SCALE as usize) / before.max(1);
        let seen = u32::try_from(seen).unwrap_or(RATIO_SCALE).clamp(1, RATIO_SCALE);
        let expected = self.limit.ratio.load(Ordering::Relaxed);
        let next = if seen > expected {
            seen.max(expected + MIN_RATIO_INCREASE).min(RATIO_SCALE)
        } else {
            expected - (expected - seen).div_ceil(RATIO_DECREASE_DIVISOR)
        };
        if next != expected {
            self.limit.ratio.store(next, Ordering::Relaxed);
            self.limit.update();
        }
    }

    /// Chooses the partition of a record.
    pub(super) fn choose_partition(
        &self,
        partitioner: &dyn Partitioner,
        key: Option<&[u8]>,
        explicit: Option<i32>,
    ) -> Result<PartitionChoice> {
        let partitions = self.partitions.read();
        let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let wanted = match explicit {
            Some(partition) => Some(partition),
            None => partitioner.partition(&self.name, key, count),
        };
        let (at, sticky) = match wanted {
            Some(partition) => (usize::try_from(partition).unwrap_or(usize::MAX), None),
            None => {
                let sticky = self.sticky.load(Ordering::Relaxed);
                let at = (sticky & !STICKY_UNTIL_FULL) as usize % partitions.len().max(1);
                // With one partition there is no choice.
                (at, (partitions.len() > 1).then_some(sticky))
            }
        };
        match partitions.get(at) {
            Some(partition) => Ok(PartitionChoice {
                partition: partition.clone(),
                sticky,
            }),
            None => Err(ClusterError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!(
                    "{} has no partition {}; it has {count}",
                    self.name,
                    wanted.unwrap_or(0)
                ),
            )
            .into()),
        }
    }

    /// Advances the sticky choice, unless another thread already did: to the next partition whose
    /// leader keeps up or, if none does, to the one with the shortest queue. Partitions without a
    /// leader are skipped.
    pub(super) fn advance_sticky(&self, from: u32) {
        let partitions = self.partitions.read();
        let count = u32::try_from(partitions.len()).unwrap_or(1).max(1);
        let (mut next, mut shortest) = ((from & !STICKY_UNTIL_FULL).wrapping_add(1) % count, usize::MAX);
        for step in 1..=count {
            // Keep the value below the count, so that wrapping does not change the order.
            let at = (from & !STICKY_UNTIL_FULL).wrapping_add(step) % count;
            let led = partitions
                .get(at as usize)
                .filter(|partition| partition.has_leader());
            let Some(queue) = led.map(|partition| partition.queued_batches()) else {
                continue;
            };
            if queue < shortest {
                (next, shortest) = (at, queue);
            }
            if queue == 0 {
                break;
            }
        }
        if shortest > 0 {
            next |= STICKY_UNTIL_FULL;
        }
        let _ = self
            .sticky
            .compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! [`TopicHandle`]: a topic's partitions as the producer sees them, the sticky choice for records without a key, and how much
//! fits into a batch.
//!
//! The sticky choice (KIP-794): one partition is kept until its batch closes, then the next one that has no batch waiting;
//! where all have, the one with the shortest queue. A batch that waits for its leader takes no more records without a key
//! while another partition could: so partitions get equal shares, and those of a slow leader no more than the others.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, RwLock};
use streamhouse_core::{Error as CoreError, ErrorCode};

use super::{
    partition::{Partition, Prefers},
    partitioner::Partitioner,
};
use crate::{error::Result, metadata_cache::KnownTopic, metrics::ProducerTopicMetrics};

/// Marks a sticky choice that is kept until its batch closes, because no partition is without a queue.
const STAY: u32 = 1 << 31;
/// A ratio of compression of 1: nothing is saved.
const UNCOMPRESSED: u32 = 1000;
/// How fast the expected ratio rises from batch to batch, at least; it falls by this part of the difference. A batch that is
/// cut costs more than one that is less full.
const RATIO_UP: u32 = 50;
const RATIO_DOWN: u32 = 8;
/// The part of a batch that is left for those that compress worse than expected.
const MARGIN: u32 = 16;
/// The least that a topic can limit batches to.
const LEAST_LIMIT: usize = 1024;

/// A topic, looked up once: see [`Producer::topic`](super::Producer::topic). Cheap to clone; belongs to its producer.
#[derive(Debug, Clone)]
pub struct TopicHandle {
    pub(super) topic: Arc<Topic>,
}

impl TopicHandle {
    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.topic.name
    }

    /// How many partitions it has, as far as is known.
    pub fn partitions(&self) -> usize {
        self.topic.partitions.read().len()
    }
}

/// A topic's shared state.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) partitions: RwLock<Arc<[Arc<Partition>]>>,
    pub(super) metrics: ProducerTopicMetrics,
    /// Records that are not settled yet.
    pub(super) pending: AtomicI64,
    /// The partition of records without a key, modulo the number of partitions; with [`STAY`].
    sticky: AtomicU32,
    ids: Mutex<TopicIds>,
    limit: BatchLimit,
}

/// Which topics had the name.
#[derive(Debug)]
struct TopicIds {
    /// The one that has it; empty where agents name no ids.
    current: Arc<str>,
    /// Those that had it before. An id never comes back: an answer that names one of these is an old one.
    gone: Vec<Arc<str>>,
}

/// How large batches may be: the topic's limit is for compressed bytes, and fullness is judged before compression.
#[derive(Debug)]
struct BatchLimit {
    /// Compressed bytes; `usize::MAX` while it is not known.
    compressed: AtomicUsize,
    /// What compression is expected to leave of 1000 bytes.
    ratio: AtomicU32,
    /// What follows from the two: bytes before compression.
    fill: AtomicUsize,
}

impl BatchLimit {
    fn update(&self) {
        let limit = self.compressed.load(Ordering::Relaxed);
        let ratio = self.ratio.load(Ordering::Relaxed);
        let ratio = (ratio + ratio / MARGIN).clamp(1, UNCOMPRESSED);
        let fill = limit.saturating_mul(UNCOMPRESSED as usize) / ratio as usize;
        let fill = if limit == usize::MAX { limit } else { fill };
        self.fill.store(fill, Ordering::Relaxed);
    }
}

/// Where a record goes.
pub(super) struct Choice {
    pub(super) partition: Arc<Partition>,
    /// The sticky value the choice was made by: another partition is as good once this one's batch is full.
    pub(super) sticky: Option<u32>,
}

impl Choice {
    /// Whether the record would rather go to another partition.
    pub(super) fn prefers(&self) -> Prefers {
        match self.sticky {
            None => Prefers::This,
            Some(sticky) if sticky & STAY != 0 => Prefers::OpenBatch,
            Some(_) => Prefers::PromptBatch,
        }
    }
}

impl Topic {
    pub(super) fn new(name: Arc<str>, known: &KnownTopic, first: u32, metrics: ProducerTopicMetrics) -> Self {
        let topic = Self {
            name,
            partitions: RwLock::new(Arc::new([])),
            metrics,
            pending: AtomicI64::new(0),
            sticky: AtomicU32::new(first),
            ids: Mutex::new(TopicIds {
                current: known.topic_id.clone(),
                gone: Vec::new(),
            }),
            limit: BatchLimit {
                compressed: AtomicUsize::new(usize::MAX),
                ratio: AtomicU32::new(UNCOMPRESSED),
                fill: AtomicUsize::new(usize::MAX),
            },
        };
        topic.set_max_message_bytes(known.max_message_bytes);
        topic
    }

    /// The id of the topic that has the name, as far as the producer follows it.
    pub(super) fn id(&self) -> Arc<str> {
        self.ids.lock().current.clone()
    }

    /// Whether this is the id of a topic that was made under the name after the one that is known. Follows it, if so.
    pub(super) fn follow(&self, id: &Arc<str>) -> bool {
        let mut ids = self.ids.lock();
        if id.is_empty() || ids.current == *id || ids.gone.contains(id) {
            return false;
        }
        let old = std::mem::replace(&mut ids.current, id.clone());
        let anew = !old.is_empty();
        ids.gone.extend(anew.then_some(old));
        anew
    }

    /// The bytes, before compression, at which a batch is full.
    pub(super) fn fill(&self, batch_size: usize) -> usize {
        self.limit.fill.load(Ordering::Relaxed).min(batch_size)
    }

    /// The largest batch that the topic takes, compressed, as far as is known.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.limit.compressed.load(Ordering::Relaxed)
    }

    /// The topic's limit; 0 where the cluster does not say.
    pub(super) fn set_max_message_bytes(&self, limit: usize) {
        if limit > 0 && self.limit.compressed.swap(limit, Ordering::Relaxed) != limit {
            self.limit.update();
        }
    }

    /// The topic refused a batch of this size: where it does not say its limit, half of it is tried.
    pub(super) fn refused(&self, size: usize) {
        if size <= self.max_message_bytes() {
            self.limit
                .compressed
                .store((size / 2).max(LEAST_LIMIT), Ordering::Relaxed);
            self.limit.update();
        }
    }

    /// Learns from a batch how well records compress.
    pub(super) fn compressed(&self, before: usize, after: usize) {
        let seen = after.saturating_mul(UNCOMPRESSED as usize) / before.max(1);
        let seen = u32::try_from(seen).unwrap_or(UNCOMPRESSED).clamp(1, UNCOMPRESSED);
        let expected = self.limit.ratio.load(Ordering::Relaxed);
        let next = if seen > expected {
            seen.max(expected + RATIO_UP).min(UNCOMPRESSED)
        } else {
            expected - (expected - seen).div_ceil(RATIO_DOWN)
        };
        if next != expected {
            self.limit.ratio.store(next, Ordering::Relaxed);
            self.limit.update();
        }
    }

    /// Chooses the partition of a record.
    pub(super) fn choose(
        &self,
        partitioner: &dyn Partitioner,
        key: Option<&[u8]>,
        explicit: Option<i32>,
    ) -> Result<Choice> {
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
                let at = (sticky & !STAY) as usize % partitions.len().max(1);
                // With one partition there is nothing to choose.
                (at, (partitions.len() > 1).then_some(sticky))
            }
        };
        match partitions.get(at) {
            Some(partition) => Ok(Choice {
                partition: partition.clone(),
                sticky,
            }),
            None => Err(CoreError::new(
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

    /// Moves the sticky choice on, unless another thread did already: to the next partition whose leader keeps up; where
    /// none does, to the one with the shortest queue. Partitions without a leader are passed over.
    pub(super) fn move_on(&self, from: u32) {
        let partitions = self.partitions.read();
        let count = u32::try_from(partitions.len()).unwrap_or(1).max(1);
        let (mut next, mut shortest) = ((from & !STAY).wrapping_add(1) % count, usize::MAX);
        for step in 1..=count {
            // Kept below the count, so that wrapping never upsets the order.
            let at = (from & !STAY).wrapping_add(step) % count;
            let led = partitions
                .get(at as usize)
                .filter(|partition| partition.has_leader());
            let Some(queue) = led.map(|partition| partition.queue()) else {
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
            next |= STAY;
        }
        let _ = self
            .sticky
            .compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! [`TopicHandle`]: a topic's partitions as the producer sees them, and the sticky choice for records without a key.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

use parking_lot::RwLock;
use streamhouse_core::{Error as CoreError, ErrorCode};

use super::{partition::Partition, partitioner::Partitioner};
use crate::{error::Result, metrics::ProducerTopicMetrics};

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
    /// The partition of records without a key, modulo the number of partitions.
    sticky: AtomicU32,
}

/// Where a record goes.
pub(super) struct Choice {
    pub(super) partition: Arc<Partition>,
    /// The sticky value the choice was made by: another partition is as good once this one's batch is full.
    pub(super) sticky: Option<u32>,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, first: u32, metrics: ProducerTopicMetrics) -> Self {
        Self {
            name,
            partitions: RwLock::new(Arc::new([])),
            metrics,
            pending: AtomicI64::new(0),
            sticky: AtomicU32::new(first),
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
                (sticky as usize % partitions.len().max(1), Some(sticky))
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

    /// Moves the sticky choice on, unless somebody else did already: to the next partition with a leader, if any.
    pub(super) fn move_on(&self, from: u32) {
        let partitions = self.partitions.read();
        let count = u32::try_from(partitions.len()).unwrap_or(1).max(1);
        let led = |step: &u32| {
            let at = from.wrapping_add(*step) % count;
            partitions
                .get(at as usize)
                .is_some_and(|partition| partition.has_leader())
        };
        let step = (1..=count).find(led).unwrap_or(1);
        // Kept below the count, so that wrapping never upsets the order.
        let next = from.wrapping_add(step) % count;
        let _ = self
            .sticky
            .compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

//! Owns the partitions that this agent leads. [`LedPartitions`] is filled and emptied by the lease
//! keeper; produce appends to its partitions, fetch reads from them, maintenance iterates over
//! them.

pub mod batch_selection;
pub mod tail;
mod unrolled;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use streamhouse_core::PartitionUid;
use streamhouse_metadata::{Lease, LogBounds};
use tokio::sync::watch;

use self::{tail::PartitionTail, unrolled::UnrolledBytes};
use crate::metrics::{AgentMetrics, TopicTraffic};

/// A partition that this agent leads, in one leader epoch.
#[derive(Debug)]
pub struct LedPartition {
    /// Lease that fences every write.
    pub lease: Lease,
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition in its topic.
    pub index: i32,
    /// The newest committed batches.
    pub tail: Mutex<PartitionTail>,
    log_start: AtomicI64,
    rolled: AtomicI64,
    size_bytes: AtomicI64,
    unrolled: Mutex<UnrolledBytes>,
    high_watermark: watch::Sender<i64>,
    accepting: AtomicBool,
    /// Counters of the topic, from the first use on.
    traffic: OnceLock<Arc<TopicTraffic>>,
}

impl LedPartition {
    /// Creates a partition that was just leased, with the log bounds of the metadata store.
    pub fn new(lease: Lease, topic: Arc<str>, index: i32, bounds: LogBounds) -> Self {
        Self {
            lease,
            topic,
            index,
            tail: Mutex::new(PartitionTail::new(bounds.high_watermark)),
            log_start: AtomicI64::new(bounds.log_start),
            rolled: AtomicI64::new(bounds.rolled),
            size_bytes: AtomicI64::new(bounds.size_bytes),
            unrolled: Mutex::new(UnrolledBytes::new(bounds.rolled, bounds.high_watermark)),
            high_watermark: watch::Sender::new(bounds.high_watermark),
            accepting: AtomicBool::new(true),
            traffic: OnceLock::new(),
        }
    }

    /// Returns the unique id of the partition.
    pub fn uid(&self) -> PartitionUid {
        self.lease.partition
    }

    /// Returns the offset after the last committed record.
    pub fn high_watermark(&self) -> i64 {
        *self.high_watermark.borrow()
    }

    /// Returns a receiver that is notified when the high watermark advances.
    pub fn watch_high_watermark(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Returns the number of readers that wait for records.
    #[cfg(test)]
    pub(crate) fn reader_count(&self) -> usize {
        self.high_watermark.receiver_count()
    }

    /// Advances the high watermark after a commit; never moves it back.
    pub fn advance_high_watermark(&self, to: i64) {
        self.high_watermark.send_if_modified(|hw| {
            let moved = to > *hw;
            *hw = (*hw).max(to);
            moved
        });
    }

    /// Returns the first offset that can be read.
    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// Advances the log start offset after the metadata store has; never moves it back.
    pub fn advance_log_start(&self, to: i64) {
        self.log_start.fetch_max(to, Ordering::AcqRel);
    }

    /// Returns the first offset that no segment covers.
    pub fn rolled_offset(&self) -> i64 {
        self.rolled.load(Ordering::Acquire)
    }

    /// Returns the approximate stored bytes: exact when the lease was acquired, counted since.
    pub fn size_bytes(&self) -> i64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Counts the bytes of newly committed offsets.
    pub fn record_append(&self, offsets: Range<i64>, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.size_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.unrolled.lock().add(offsets.start, offsets.end, bytes);
    }

    /// Returns the committed bytes that no segment covers yet, as far as they are counted; see
    /// [`inherited_offsets`](Self::inherited_offsets).
    pub fn unrolled_bytes(&self) -> i64 {
        self.unrolled
            .lock()
            .bytes(self.rolled_offset().max(self.log_start()))
    }

    /// Returns the offsets that former leaders committed and did not roll, while their bytes are
    /// not counted.
    pub fn inherited_offsets(&self) -> Option<Range<i64>> {
        self.unrolled.lock().inherited()
    }

    /// Counts the [`inherited_offsets`](Self::inherited_offsets) offsets: ranges in order, each
    /// `(base, end, bytes)`.
    pub fn count_inherited(&self, ranges: &[(i64, i64, i64)]) {
        self.unrolled.lock().count_inherited(ranges);
    }

    /// Advances the rolled offset after the metadata store has; never moves it back.
    pub fn advance_rolled(&self, end_offset: i64) {
        let before = self.rolled.fetch_max(end_offset, Ordering::AcqRel);
        self.unrolled.lock().drop_before(before.max(end_offset));
    }

    /// Replaces the stored bytes with the metadata store's count, after the log start has moved.
    pub fn set_size(&self, bytes: i64) {
        self.size_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the counters of the topic.
    pub fn traffic(&self, metrics: &AgentMetrics) -> &TopicTraffic {
        self.traffic.get_or_init(|| metrics.topic_traffic(&self.topic))
    }

    /// Returns whether batches are accepted: not while the partition is handed over.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// Starts or stops accepting batches.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.store(accepting, Ordering::Release);
    }
}

/// All partitions that this agent leads, without coordinator slots.
#[derive(Debug, Default)]
pub struct LedPartitions {
    partitions: RwLock<HashMap<PartitionUid, Arc<LedPartition>>>,
}

impl LedPartitions {
    /// Returns the partition, if this agent leads it.
    pub fn get(&self, uid: PartitionUid) -> Option<Arc<LedPartition>> {
        self.partitions.read().get(&uid).cloned()
    }

    /// Adds a partition; replaces one with the same id and an older epoch.
    pub fn insert(&self, partition: Arc<LedPartition>) {
        self.partitions.write().insert(partition.uid(), partition);
    }

    /// Removes a partition if it is led in this epoch or an older one, and drops the batches in its
    /// tail.
    pub fn remove(&self, uid: PartitionUid, epoch: i32) -> Option<Arc<LedPartition>> {
        let mut partitions = self.partitions.write();
        if partitions.get(&uid).is_some_and(|p| p.lease.epoch > epoch) {
            return None;
        }
        let gone = partitions.remove(&uid)?;
        gone.set_accepting(false);
        Some(gone)
    }

    /// Returns all partitions, in no particular order.
    pub fn all(&self) -> Vec<Arc<LedPartition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Returns the approximate stored bytes of all partitions; see [`LedPartition::size_bytes`].
    pub fn size_bytes(&self) -> i64 {
        let partitions = self.partitions.read();
        partitions
            .values()
            .fold(0, |sum, partition| sum.saturating_add(partition.size_bytes()))
    }

    /// Returns the number of partitions.
    pub fn len(&self) -> usize {
        self.partitions.read().len()
    }

    /// Returns whether no partition is led.
    pub fn is_empty(&self) -> bool {
        self.partitions.read().is_empty()
    }
}

//! The partitions this agent leads. [`Held`] is filled and emptied by the lease keeper; produce appends to what is in it,
//! fetch reads from it, maintenance walks it.

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

use self::unrolled::Unrolled;
use crate::{
    fetch::tail::Tail,
    metrics::{Metrics, TopicTraffic},
};

/// A partition this agent leads, for one epoch of leadership.
#[derive(Debug)]
pub struct Partition {
    /// The lease that fences every write.
    pub lease: Lease,
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub index: i32,
    /// The newest committed batches.
    pub tail: Mutex<Tail>,
    log_start: AtomicI64,
    rolled: AtomicI64,
    size_bytes: AtomicI64,
    unrolled: Mutex<Unrolled>,
    high_watermark: watch::Sender<i64>,
    accepting: AtomicBool,
    /// The counters of its topic, once something moved.
    traffic: OnceLock<Arc<TopicTraffic>>,
}

impl Partition {
    /// A partition just leased, with the log as the metadata store has it.
    pub fn new(lease: Lease, topic: Arc<str>, index: i32, bounds: LogBounds) -> Self {
        Self {
            lease,
            topic,
            index,
            tail: Mutex::new(Tail::new(bounds.high_watermark)),
            log_start: AtomicI64::new(bounds.log_start),
            rolled: AtomicI64::new(bounds.rolled),
            size_bytes: AtomicI64::new(bounds.size_bytes),
            unrolled: Mutex::new(Unrolled::new(bounds.rolled, bounds.high_watermark)),
            high_watermark: watch::Sender::new(bounds.high_watermark),
            accepting: AtomicBool::new(true),
            traffic: OnceLock::new(),
        }
    }

    /// Its unique id.
    pub fn uid(&self) -> PartitionUid {
        self.lease.partition
    }

    /// The offset after the last committed record.
    pub fn high_watermark(&self) -> i64 {
        *self.high_watermark.borrow()
    }

    /// Wakes when the high watermark moves.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Moves the high watermark after a commit; never back.
    pub fn advance_high_watermark(&self, to: i64) {
        self.high_watermark.send_if_modified(|hw| {
            let moved = to > *hw;
            *hw = (*hw).max(to);
            moved
        });
    }

    /// The first offset that can be read.
    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// Moves the log start after the metadata has it; never back.
    pub fn advance_log_start(&self, to: i64) {
        self.log_start.fetch_max(to, Ordering::AcqRel);
    }

    /// The first offset that no segment covers.
    pub fn rolled(&self) -> i64 {
        self.rolled.load(Ordering::Acquire)
    }

    /// Stored bytes, about: exact at the time of the lease, counted since.
    pub fn size_bytes(&self) -> i64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Counts the bytes of offsets just committed.
    pub fn appended(&self, offsets: Range<i64>, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.size_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.unrolled.lock().add(offsets.start, offsets.end, bytes);
    }

    /// Committed bytes that no segment covers yet, as far as they are counted; see [`inherited`](Self::inherited).
    pub fn unrolled_bytes(&self) -> i64 {
        self.unrolled.lock().bytes(self.rolled().max(self.log_start()))
    }

    /// Offsets that former leaders committed and did not roll, while their bytes are not counted.
    pub fn inherited(&self) -> Option<Range<i64>> {
        self.unrolled.lock().inherited()
    }

    /// Counts [`inherited`](Self::inherited) offsets: ranges in order, each `(base, end, bytes)`.
    pub fn count_inherited(&self, ranges: &[(i64, i64, i64)]) {
        self.unrolled.lock().count_inherited(ranges);
    }

    /// Moves the rolled offset after the metadata has it; never back.
    pub fn rolled_to(&self, end_offset: i64) {
        let before = self.rolled.fetch_max(end_offset, Ordering::AcqRel);
        self.unrolled.lock().drop_before(before.max(end_offset));
    }

    /// Takes over what the metadata store says of the log after its start moved.
    pub fn set_size(&self, bytes: i64) {
        self.size_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The counters of its topic.
    pub fn traffic(&self, metrics: &Metrics) -> &TopicTraffic {
        self.traffic.get_or_init(|| metrics.topic(&self.topic))
    }

    /// Whether batches are taken: not while the partition is handed over.
    pub fn accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// Stops or allows taking batches.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.store(accepting, Ordering::Release);
    }
}

/// All that this agent leads, coordinator slots left out.
#[derive(Debug, Default)]
pub struct Held {
    partitions: RwLock<HashMap<PartitionUid, Arc<Partition>>>,
}

impl Held {
    /// The partition, when it is ours.
    pub fn get(&self, uid: PartitionUid) -> Option<Arc<Partition>> {
        self.partitions.read().get(&uid).cloned()
    }

    /// Takes a partition up; one of the same id and an older epoch is replaced.
    pub fn insert(&self, partition: Arc<Partition>) {
        self.partitions.write().insert(partition.uid(), partition);
    }

    /// Lets a partition go when it is still held in this epoch or an older one. Batches in its tail are forgotten.
    pub fn remove(&self, uid: PartitionUid, epoch: i32) -> Option<Arc<Partition>> {
        let mut partitions = self.partitions.write();
        if partitions.get(&uid).is_some_and(|p| p.lease.epoch > epoch) {
            return None;
        }
        let gone = partitions.remove(&uid)?;
        gone.set_accepting(false);
        Some(gone)
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Stored bytes of all of them, about; see [`Partition::size_bytes`].
    pub fn size_bytes(&self) -> i64 {
        let partitions = self.partitions.read();
        partitions
            .values()
            .fold(0, |sum, partition| sum.saturating_add(partition.size_bytes()))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.partitions.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.partitions.read().is_empty()
    }
}

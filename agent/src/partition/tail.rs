//! Keeps the newest committed batches in memory, so that consumers at the end of the log cause no
//! request to the object store.
//!
//! Filled by the committer, read by fetch and by the segment roller. The bytes are slices of the
//! WAL object, stamped once with base offsets and leader epochs, so that every reader gets them
//! without a copy. The memory of all tails is bounded by [`TailBudget`], which drops whole objects,
//! oldest first; it counts an object until no reader has a slice of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use streamhouse_core::{batch::BatchError, kafka::RecordBuffers};

use super::{LedPartition, batch_selection::select_batches};

/// A run of batches back to back, stored in one WAL object.
#[derive(Debug, Clone)]
pub struct TailRun {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub end_offset: i64,
    /// The batches, stamped.
    pub bytes: Bytes,
    /// Sequence of the WAL object, for [`PartitionTail::drop_through`].
    pub sequence: u64,
}

/// One partition's newest runs, without gaps, up to the high watermark.
#[derive(Debug)]
pub struct PartitionTail {
    runs: VecDeque<TailRun>,
    end: i64,
}

impl PartitionTail {
    /// Creates an empty tail for records from this offset on.
    pub fn new(high_watermark: i64) -> Self {
        Self {
            runs: VecDeque::new(),
            end: high_watermark,
        }
    }

    /// Returns the base offset of the next run: the end of what this leader published, or found.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Adds a run that was just committed. A gap, which only a bug can cause, drops the runs
    /// before.
    pub fn push(&mut self, run: TailRun) {
        if run.base_offset != self.end {
            self.runs.clear();
        }
        self.end = run.end_offset;
        self.runs.push_back(run);
    }

    /// Drops the runs of this WAL object and older ones.
    pub fn drop_through(&mut self, sequence: u64) {
        while self.runs.front().is_some_and(|run| run.sequence <= sequence) {
            self.runs.pop_front();
        }
    }

    /// Returns about `max_bytes` of the runs from `from` on; `None` if `from` is not in the tail.
    pub fn runs(&self, from: i64, max_bytes: usize) -> Option<Vec<TailRun>> {
        let first = self.runs.front()?;
        if from < first.base_offset || from >= self.end {
            return None;
        }
        let start = self.runs.partition_point(|run| run.end_offset <= from);
        let mut bytes = 0;
        let enough = self.runs.iter().skip(start).take_while(|run| {
            let wanted = bytes < max_bytes;
            bytes += run.bytes.len();
            wanted
        });
        Some(enough.cloned().collect())
    }
}

/// Shorter pieces are copied: a buffer of their own costs more.
const MIN_SHARED_BYTES: usize = 4 << 10;

/// Batches for one reader: slices of objects, and copies of short pieces.
#[derive(Debug, Default)]
pub struct BatchCollector {
    buffers: RecordBuffers,
    /// Pieces that were copied since the last slice.
    copied: BytesMut,
    len: usize,
}

impl BatchCollector {
    /// Appends whole batches of a stamped run, beginning with the one that holds `from`, while
    /// there are at most `max_bytes`; the first batch whatever its size. Copies them unless
    /// `share`. Returns the offset after the last of them, and whether the run was taken to its
    /// end.
    ///
    /// # Errors
    /// If a batch header cannot be parsed.
    pub fn append(
        &mut self,
        run: &TailRun,
        from: i64,
        max_bytes: usize,
        share: bool,
    ) -> Result<(i64, bool), BatchError> {
        let selected = select_batches(&run.bytes, run.base_offset, from, max_bytes, self.len)?;
        if !selected.bytes.is_empty() {
            self.push(run.bytes.slice(selected.bytes), share);
        }
        Ok((selected.next_offset, selected.whole))
    }

    fn push(&mut self, batches: Bytes, share: bool) {
        self.len += batches.len();
        if !share || batches.len() < MIN_SHARED_BYTES {
            self.copied.extend_from_slice(&batches);
            return;
        }
        if !self.copied.is_empty() {
            self.buffers.push(self.copied.split().freeze());
        }
        self.buffers.push(batches);
    }

    /// Returns the batches.
    pub fn finish(mut self) -> RecordBuffers {
        if !self.copied.is_empty() {
            self.buffers.push(self.copied.freeze());
        }
        self.buffers
    }
}

/// Bounds the memory of all tails of an incarnation, with the slices that readers have.
#[derive(Debug)]
pub struct TailBudget {
    capacity: usize,
    /// Bytes of the objects that are in a tail or of which a reader has a slice.
    live: Arc<AtomicUsize>,
    objects: Mutex<TailObjects>,
}

#[derive(Debug, Default)]
struct TailObjects {
    bytes: usize,
    queue: VecDeque<(u64, usize, Vec<Arc<LedPartition>>)>,
}

/// An object's bytes, which count until the last slice is dropped.
struct CountedObject {
    bytes: Bytes,
    live: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for CountedObject {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedObject {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl TailBudget {
    /// Creates a budget of this many bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            live: Arc::default(),
            objects: Mutex::default(),
        }
    }

    /// Returns how many bytes the tails and their readers hold.
    pub fn bytes(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Returns whether a reader may have slices: they keep whole objects in memory, so most of it
    /// would be lost to the tails if many readers kept theirs for long.
    pub fn may_share(&self) -> bool {
        let in_tails = self.objects.lock().bytes;
        self.bytes().saturating_sub(in_tails) <= self.capacity / 2
    }

    /// Makes room for an object, and counts it until the last slice of what is returned is dropped.
    pub fn count(&self, object: Bytes) -> Bytes {
        self.drop_oldest(self.capacity.saturating_sub(object.len()));
        self.live.fetch_add(object.len(), Ordering::Relaxed);
        Bytes::from_owner(CountedObject {
            bytes: object,
            live: self.live.clone(),
        })
    }

    /// Adds a counted object whose runs were added to these partitions, and drops the oldest
    /// objects beyond the capacity.
    pub fn add(&self, sequence: u64, bytes: usize, partitions: Vec<Arc<LedPartition>>) {
        let mut objects = self.objects.lock();
        objects.bytes += bytes;
        objects.queue.push_back((sequence, bytes, partitions));
        drop(objects);
        self.drop_oldest(self.capacity);
    }

    fn drop_oldest(&self, capacity: usize) {
        let mut objects = self.objects.lock();
        while self.bytes() > capacity {
            let Some((sequence, bytes, partitions)) = objects.queue.pop_front() else {
                break;
            };
            objects.bytes -= bytes;
            for partition in partitions {
                partition.tail.lock().drop_through(sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_core::batch::{self, BatchBuilder, BatchIter, Compression};

    use super::*;

    /// Returns a stamped run of batches of one record each, with these sizes of values.
    fn run_from(base_offset: i64, sizes: &[usize]) -> TailRun {
        let mut bytes = BytesMut::new();
        for (at, size) in sizes.iter().enumerate() {
            let mut builder = BatchBuilder::new(Compression::None);
            let value = vec![at as u8; *size];
            builder
                .append::<&[u8], &[u8]>(0, None, Some(&value), &[])
                .unwrap();
            let start = bytes.len();
            bytes.extend_from_slice(&builder.finish().unwrap());
            batch::stamp(&mut bytes[start..], base_offset + at as i64, 3);
        }
        TailRun {
            base_offset,
            end_offset: base_offset + sizes.len() as i64,
            bytes: bytes.freeze(),
            sequence: 0,
        }
    }

    #[test]
    fn long_pieces_are_slices_and_short_ones_are_copied() {
        let (long, short) = (run_from(0, &[5_000, 5_000, 5_000]), run_from(3, &[10, 10]));
        let mut collector = BatchCollector::default();
        assert_eq!(collector.append(&long, 1, 1 << 20, true).unwrap(), (3, true));
        assert_eq!(collector.append(&short, 1, 1 << 20, true).unwrap(), (5, true));
        let buffers = collector.finish();
        let slices: Vec<bool> = buffers
            .iter()
            .map(|buffer| {
                let run = long.bytes.as_ptr_range();
                run.contains(&buffer.as_ptr())
            })
            .collect();
        assert_eq!(slices, [true, false]);
        let bytes = buffers.into_bytes();
        let offsets = BatchIter::new(&bytes).map(|batch| batch.unwrap().0.base_offset);
        assert_eq!(offsets.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_reader_gets_whole_batches_within_its_limit_and_at_least_one() {
        let run = run_from(10, &[5_000, 5_000, 5_000]);
        for share in [true, false] {
            let taken = |from, max_bytes| {
                let mut collector = BatchCollector::default();
                let end = collector.append(&run, from, max_bytes, share).unwrap();
                (end, collector.finish().len() / 5_000)
            };
            assert_eq!(taken(10, 1), ((11, false), 1));
            assert_eq!(taken(11, 11_000), ((13, true), 2));
            assert_eq!(taken(10, 11_000), ((12, false), 2));
            assert_eq!(taken(13, 11_000), ((13, true), 0));
        }
    }

    #[test]
    fn an_object_counts_until_its_last_reader_has_dropped_it() {
        let tails = TailBudget::new(1_000);
        let first = tails.count(Bytes::from(vec![0; 600]));
        let slice = first.slice(10..20);
        tails.add(0, first.len(), Vec::new());
        drop(first);
        assert_eq!(tails.bytes(), 600);
        assert!(tails.may_share());
        // It leaves the tails, and stays in memory for its reader.
        let second = tails.count(Bytes::from(vec![0; 500]));
        tails.add(1, second.len(), Vec::new());
        drop(second);
        assert_eq!(tails.bytes(), 600);
        assert!(!tails.may_share());
        drop(slice);
        assert_eq!(tails.bytes(), 0);
        assert!(tails.may_share());
    }
}

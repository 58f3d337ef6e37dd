//! Keeps the newest committed batches in memory, so that consumers at the end of the log cause no
//! request to the object store.
//!
//! Filled by the committer, read by fetch and by the segment roller. The bytes are slices of the
//! WAL object as it was stored; base offset and leader epoch are stamped while copying out. The
//! memory of all tails is bounded by [`TailBudget`], which drops whole objects, oldest first.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use streamhouse_core::batch::{self, BatchError, BatchHeader};

use super::LedPartition;

/// A run of batches back to back, as stored in one WAL object.
#[derive(Debug, Clone)]
pub struct TailRun {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub end_offset: i64,
    /// Leader epoch to stamp.
    pub epoch: i32,
    /// The batches; their base offsets are not stamped yet.
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

/// Copies whole batches of a run to `out`, stamped, beginning with the one that holds `from`, while
/// `out` stays within `max_bytes`; the first batch whatever its size. Returns the offset after the
/// last copied record, and whether the run was copied to its end.
///
/// # Errors
/// If a batch header cannot be parsed.
pub fn copy_stamped(
    run: &TailRun,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), BatchError> {
    let mut offset = run.base_offset;
    let mut position = 0;
    while position < run.bytes.len() {
        let header = BatchHeader::parse(&run.bytes[position..])?;
        let size = header.size();
        let next = offset + i64::from(header.last_offset_delta) + 1;
        if next > from {
            if !out.is_empty() && out.len() + size > max_bytes {
                return Ok((offset, false));
            }
            let start = out.len();
            out.extend_from_slice(&run.bytes[position..position + size]);
            batch::stamp(&mut out[start..], offset, run.epoch);
        }
        offset = next;
        position += size;
    }
    Ok((offset, true))
}

/// Bounds the memory of all tails of an incarnation.
#[derive(Debug)]
pub struct TailBudget {
    capacity: usize,
    objects: Mutex<TailObjects>,
}

#[derive(Debug, Default)]
struct TailObjects {
    bytes: usize,
    queue: VecDeque<(u64, usize, Vec<Arc<LedPartition>>)>,
}

impl TailBudget {
    /// Creates a budget of this many bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            objects: Mutex::default(),
        }
    }

    /// Returns how many bytes the tails hold.
    pub fn bytes(&self) -> usize {
        self.objects.lock().bytes
    }

    /// Counts an object whose runs were added to these partitions, and drops the oldest objects
    /// beyond the capacity.
    pub fn add(&self, sequence: u64, bytes: usize, partitions: Vec<Arc<LedPartition>>) {
        let mut objects = self.objects.lock();
        objects.bytes += bytes;
        objects.queue.push_back((sequence, bytes, partitions));
        while objects.bytes > self.capacity {
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

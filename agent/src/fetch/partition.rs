//! Reads one partition for a fetch: from the tail in memory, from the block cache, or from the
//! object store.

use bytes::Bytes;
use streamhouse_core::{Error, ErrorCode, PartitionUid, kafka::RecordBuffers, protocol::v1};
use streamhouse_metadata::{LogBounds, PartitionEntry};
use tokio::sync::watch;

use super::{
    FetchDeps,
    foreign_logs::{LogObservation, ObservationReceiver},
};
use crate::{
    invariant::Invariant,
    log::ColdRead,
    partition::{LedPartition, tail::BatchCollector},
};

/// One partition's part of the response, as far as it is read.
#[derive(Debug, Clone)]
pub(super) struct PartitionRead {
    pub(super) records: RecordBuffers,
    /// The offset after the last record.
    pub(super) next_offset: i64,
    pub(super) high_watermark: i64,
    pub(super) log_start: i64,
    pub(super) error: Option<Error>,
}

/// What to wait for when a partition has nothing new.
pub(super) enum AppendSignal {
    Led(watch::Receiver<i64>),
    Foreign(ObservationReceiver),
}

/// Reads about `room` bytes of one partition, at least one batch if there is one.
pub(super) async fn read_partition(
    deps: &FetchDeps,
    wanted: &v1::PartitionFetch,
    room: usize,
) -> (PartitionRead, Option<AppendSignal>) {
    let view = deps.directory.view();
    let record = match view.find_partition(&wanted.topic, &wanted.topic_id, wanted.partition) {
        Ok(record) if !view.is_internal(&wanted.topic) => record,
        Ok(_) => {
            let message = format!("there is no partition {}-{}", wanted.topic, wanted.partition);
            let unknown = Error::new(ErrorCode::UnknownTopicOrPartition, message);
            return (PartitionRead::failed(unknown), None);
        }
        Err(error) => return (PartitionRead::failed(error), None),
    };
    let held = deps
        .session
        .get()
        .and_then(|life| life.partitions.get(record.uid));
    let read = match &held {
        Some(partition) => Ok(read_led(deps, partition, wanted.offset, room).await),
        None => read_foreign(deps, record.uid, wanted.offset, room).await,
    };
    read.unwrap_or_else(|error| (PartitionRead::failed(error), None))
}

/// Counts the records of a read that is part of the response. `record` is the partition, if it
/// exists.
pub(super) fn count_read(
    deps: &FetchDeps,
    wanted: &v1::PartitionFetch,
    read: &PartitionRead,
    record: Option<&PartitionEntry>,
) {
    if read.records.is_empty() {
        return;
    }
    let records = read.next_offset.saturating_sub(wanted.offset);
    let (records, bytes) = (records.max(0).unsigned_abs(), read.records.len() as u64);
    let led = record.and_then(|record| deps.session.get()?.partitions.get(record.uid));
    match led {
        Some(partition) => partition.traffic(&deps.metrics).record_fetched(records, bytes),
        // The counters are looked up per fetch, which is cheap compared with the metadata store.
        None => deps
            .metrics
            .topic_traffic(&wanted.topic)
            .record_fetched(records, bytes),
    }
}

/// Reads a partition that this agent leads. It knows the high watermark and returns it also with an
/// error.
async fn read_led(
    deps: &FetchDeps,
    partition: &LedPartition,
    offset: i64,
    room: usize,
) -> (PartitionRead, Option<AppendSignal>) {
    let mut watch = partition.watch_high_watermark();
    let high_watermark = *watch.borrow_and_update();
    let log_start = partition.log_start();
    if offset > high_watermark {
        return match read_beyond_known(deps, partition, offset, room, high_watermark).await {
            Ok(part) => {
                // The adopted bounds wake the waiter: one more read, then the wait.
                let wait = part.error.is_none().then_some(AppendSignal::Led(watch));
                (part, wait)
            }
            Err(error) => (PartitionRead::failed(error), None),
        };
    }
    let read = read_led_records(deps, partition, offset, room, log_start, high_watermark).await;
    let wait = read.is_ok().then_some(AppendSignal::Led(watch));
    let ((records, next_offset), error) = match read {
        Ok(read) => (read, None),
        Err(error) => ((RecordBuffers::default(), offset), Some(error)),
    };
    let part = PartitionRead {
        records,
        next_offset,
        high_watermark,
        log_start,
        error,
    };
    (part, wait)
}

/// Reads at an offset beyond the known high watermark. The metadata store may have it: a commit
/// whose answer was lost did happen, and other agents already serve it. Only the store can tell
/// that an offset is out of range.
async fn read_beyond_known(
    deps: &FetchDeps,
    partition: &LedPartition,
    offset: i64,
    room: usize,
    high_watermark: i64,
) -> Result<PartitionRead, Error> {
    let read = deps.log.read_range(partition.uid(), offset, room).await?;
    deps.log.adopt_bounds(partition, high_watermark, &read.bounds)?;
    Ok(part_from_cold_read(read, offset))
}

/// Reads the newest batches from memory and all others from objects. Returns them with the offset
/// after the last record.
async fn read_led_records(
    deps: &FetchDeps,
    partition: &LedPartition,
    offset: i64,
    room: usize,
    log_start: i64,
    high_watermark: i64,
) -> Result<(RecordBuffers, i64), Error> {
    if offset < log_start || offset > high_watermark {
        return Err(out_of_range_error(offset, log_start, high_watermark));
    }
    if offset == high_watermark {
        return Ok((RecordBuffers::default(), offset));
    }
    let runs = partition.tail.lock().runs(offset, room);
    let Some(runs) = runs else {
        let read = deps.log.read_range(partition.uid(), offset, room).await?;
        deps.log.adopt_bounds(partition, high_watermark, &read.bounds)?;
        let LogBounds { log_start, .. } = read.bounds;
        if offset < log_start {
            return Err(out_of_range_error(offset, log_start, read.bounds.high_watermark));
        }
        return Ok((read.records.into(), read.next_offset));
    };
    let share = deps.tails.may_share();
    let mut out = BatchCollector::default();
    let mut next_offset = offset;
    for run in &runs {
        let taken = out.append(run, offset, room, share).map_err(|error| {
            deps.metrics.record_violation(Invariant::F1);
            Error::new(ErrorCode::StorageCorrupt, error.to_string())
        })?;
        next_offset = next_offset.max(taken.0);
        if !taken.1 {
            break;
        }
    }
    let records = out.finish();
    deps.metrics.tail_reads.inc_by(records.len() as u64);
    Ok((records, next_offset))
}

/// Reads a partition that this agent does not lead; the metadata store has its bounds.
async fn read_foreign(
    deps: &FetchDeps,
    uid: PartitionUid,
    offset: i64,
    room: usize,
) -> Result<(PartitionRead, Option<AppendSignal>), Error> {
    let (seen, looks) = deps.foreign_logs.latest(&deps.log.metadata, uid).await;
    let read = match &*seen {
        LogObservation::Failed(error) => return Err(error.clone()),
        LogObservation::Log { bounds, .. } if offset == bounds.high_watermark => ColdRead {
            records: Bytes::new(),
            next_offset: offset,
            bounds: *bounds,
        },
        LogObservation::Log {
            appended: Some((from, view)),
            ..
        } if offset == *from => deps.log.read_view(uid, view, offset, room).await?,
        // Older records, or newer ones than were observed.
        LogObservation::Log { .. } | LogObservation::Gone => deps.log.read_range(uid, offset, room).await?,
    };
    Ok((
        part_from_cold_read(read, offset),
        Some(AppendSignal::Foreign(looks)),
    ))
}

/// Converts a cold read at `offset` to a part of the response.
fn part_from_cold_read(read: ColdRead, offset: i64) -> PartitionRead {
    let (log_start, high_watermark) = (read.bounds.log_start, read.bounds.high_watermark);
    let mut part = PartitionRead {
        records: read.records.into(),
        next_offset: read.next_offset,
        high_watermark,
        log_start,
        error: None,
    };
    if offset < log_start || offset > high_watermark {
        part.error = Some(out_of_range_error(offset, log_start, high_watermark));
        part.records = RecordBuffers::default();
    }
    part
}

fn out_of_range_error(offset: i64, log_start: i64, high_watermark: i64) -> Error {
    let message = format!(
        "offset {offset} is not between the log start {log_start} and the high watermark {high_watermark}"
    );
    Error::new(ErrorCode::OffsetOutOfRange, message)
}

impl PartitionRead {
    fn failed(error: Error) -> Self {
        Self {
            records: RecordBuffers::default(),
            next_offset: -1,
            high_watermark: -1,
            log_start: -1,
            error: Some(error),
        }
    }
}

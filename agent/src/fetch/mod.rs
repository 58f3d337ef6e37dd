//! The read path: the tail in memory for newly committed records, the block cache and the object
//! store for older ones. Any agent serves any partition; only the leader learns of new records at
//! once.
//!
//! Only committed records are read (INV-F1): everything returned lies below a high watermark that
//! the metadata store has. The memory of all responses is bounded, from the read until the last
//! byte has left; a long poll holds no memory while it waits for the first bytes.

mod budget;
mod deps;
pub mod foreign_logs;
mod timestamp;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::select_all};
use streamhouse_core::{Error, ErrorCode, PartitionUid, protocol::v1};
use streamhouse_metadata::LogBounds;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Duration, Instant, sleep_until},
};

pub use self::{
    budget::ResponseMemory,
    deps::{FetchDeps, FetchLimits},
    timestamp::find_timestamp,
};
use self::{
    budget::{MemoryRequest, RESPONSE_COPIES},
    foreign_logs::{LogObservation, ObservationReceiver},
};
use crate::{
    invariant::Invariant,
    log::ColdRead,
    partition::{LedPartition, tail},
};

/// Maximum number of partitions in one fetch.
const MAX_FETCH_PARTITIONS: usize = 10_000;
/// Longest time that a fetch may wait.
const MAX_FETCH_WAIT: Duration = Duration::from_secs(60);

/// One partition's part of the response, as far as it is read.
#[derive(Debug, Clone)]
pub(crate) struct PartitionRead {
    records: Bytes,
    /// The offset after the last record.
    next_offset: i64,
    high_watermark: i64,
    log_start: i64,
    error: Option<Error>,
}

/// What to wait for when a partition has nothing new.
enum AppendSignal {
    Led(watch::Receiver<i64>),
    Foreign(ObservationReceiver),
}

/// Handles one fetch request. The returned memory must be held until the response has left.
///
/// # Errors
/// `InvalidRequest` if the number of partitions is out of range, `ResourceExhausted` if there is no
/// memory. Errors of single partitions are part of the response.
pub async fn fetch(
    deps: &FetchDeps,
    request: v1::FetchRequest,
) -> Result<(v1::FetchResponse, Option<ResponseMemory>), Error> {
    if request.partitions.is_empty() || request.partitions.len() > MAX_FETCH_PARTITIONS {
        let message = format!("a fetch names between 1 and {MAX_FETCH_PARTITIONS} partitions");
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    let asked = (request.max_bytes as usize).clamp(1, deps.limits.max_response_bytes);
    let deadline = Instant::now() + Duration::from_millis(request.max_wait_ms.into()).min(MAX_FETCH_WAIT);
    let mut least = 0;
    loop {
        let gathered = gather(
            deps,
            &request,
            MemoryRequest {
                max_bytes: asked,
                min_permits: least,
            },
            deadline,
        )
        .await?;
        match budget::shrink_to_response(gathered.memory, gathered.bytes) {
            Ok(kept) => return Ok((build_response(deps, &request, gathered.parts), kept)),
            // No memory is held while waiting for more; otherwise fetches could block each other.
            Err(needed) if least < needed => least = needed,
            Err(_) => return Err(budget::memory_full_error()),
        }
    }
}

/// The parts of a response.
struct GatheredReads {
    parts: Vec<Option<PartitionRead>>,
    bytes: usize,
    memory: Option<OwnedSemaphorePermit>,
}

/// Reads until there is enough, or the deadline has passed.
async fn gather(
    deps: &FetchDeps,
    request: &v1::FetchRequest,
    memory_wanted: MemoryRequest,
    deadline: Instant,
) -> Result<GatheredReads, Error> {
    let mut max_bytes = memory_wanted.max_bytes;
    let mut parts: Vec<Option<PartitionRead>> = vec![None; request.partitions.len()];
    let mut bytes = 0;
    let mut memory = None;
    let view = deps.directory.view();
    let known = |part: &v1::PartitionFetch| {
        view.find_partition(&part.topic, &part.topic_id, part.partition)
            .is_ok()
    };
    if !request.partitions.iter().all(known) {
        // One refresh for all partitions.
        deps.directory.refresh().await;
    }
    loop {
        let mut waits = Vec::new();
        let mut failed = false;
        if memory.is_none() {
            let permit = budget::admit_response(deps, memory_wanted).await?;
            // Less than requested under contention.
            max_bytes = memory_wanted
                .max_bytes
                .min(permit.num_permits() / RESPONSE_COPIES);
            memory = Some(permit);
        }
        for (part, wanted) in parts.iter_mut().zip(&request.partitions) {
            if part.as_ref().is_some_and(|part| !part.records.is_empty())
                || (bytes >= max_bytes && part.is_some())
            {
                continue;
            }
            let room = max_bytes
                .saturating_sub(bytes)
                .min((wanted.max_bytes as usize).max(1));
            let (read, wait) = read_partition(deps, wanted, room, bytes > 0).await;
            bytes += read.records.len();
            failed |= read.error.is_some();
            *part = Some(read);
            waits.extend(wait);
        }
        let min_bytes = (request.min_bytes as usize).min(max_bytes);
        if bytes >= min_bytes || failed || Instant::now() >= deadline || waits.is_empty() {
            break;
        }
        if bytes == 0 {
            memory = None;
        }
        wait_for_append(waits, deadline).await;
    }
    Ok(GatheredReads { parts, bytes, memory })
}

/// Waits until one of these may have something new, or until the deadline.
async fn wait_for_append(mut waits: Vec<AppendSignal>, deadline: Instant) {
    // A closed channel means that the lease has moved, which is worth another read as well.
    let news = select_all(waits.iter_mut().map(|wait| match wait {
        AppendSignal::Led(receiver) => receiver.changed().map(drop).boxed(),
        AppendSignal::Foreign(looks) => looks.changed().map(drop).boxed(),
    }));
    tokio::select! {
        _ = news => {}
        () = sleep_until(deadline) => {}
    }
}

/// Reads one partition; with `only_if_room`, a first batch larger than `room` is left to the next
/// fetch.
async fn read_partition(
    deps: &FetchDeps,
    wanted: &v1::PartitionFetch,
    room: usize,
    only_if_room: bool,
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
    match read {
        Ok((part, wait)) if only_if_room && part.records.len() > room => (
            PartitionRead {
                records: Bytes::new(),
                ..part
            },
            wait,
        ),
        Ok(read) => {
            if !read.0.records.is_empty() {
                let records = read.0.next_offset.saturating_sub(wanted.offset);
                let (records, bytes) = (records.max(0).unsigned_abs(), read.0.records.len() as u64);
                match held {
                    Some(partition) => partition.traffic(&deps.metrics).record_fetched(records, bytes),
                    // The counters are looked up per fetch, which is cheap compared with the
                    // metadata store.
                    None => deps
                        .metrics
                        .topic_traffic(&wanted.topic)
                        .record_fetched(records, bytes),
                }
            }
            read
        }
        Err(error) => (PartitionRead::failed(error), None),
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
        Err(error) => ((Bytes::new(), offset), Some(error)),
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
) -> Result<(Bytes, i64), Error> {
    if offset < log_start || offset > high_watermark {
        return Err(out_of_range_error(offset, log_start, high_watermark));
    }
    if offset == high_watermark {
        return Ok((Bytes::new(), offset));
    }
    let runs = partition.tail.lock().runs(offset, room);
    let Some(runs) = runs else {
        let read = deps.log.read_range(partition.uid(), offset, room).await?;
        deps.log.adopt_bounds(partition, high_watermark, &read.bounds)?;
        let LogBounds { log_start, .. } = read.bounds;
        if offset < log_start {
            return Err(out_of_range_error(offset, log_start, read.bounds.high_watermark));
        }
        return Ok((read.records, read.next_offset));
    };
    let mut out = BytesMut::with_capacity(
        runs.iter()
            .map(|run| run.bytes.len())
            .sum::<usize>()
            .min(room * 2),
    );
    let mut next_offset = offset;
    for run in &runs {
        let copied = tail::copy_stamped(run, offset, room, &mut out);
        let (next, whole) = copied.map_err(|error| {
            deps.metrics.record_violation(Invariant::F1);
            Error::new(ErrorCode::StorageCorrupt, error.to_string())
        })?;
        next_offset = next_offset.max(next);
        if !whole {
            break;
        }
    }
    deps.metrics.tail_reads.inc_by(out.len() as u64);
    Ok((out.freeze(), next_offset))
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
        records: read.records,
        next_offset: read.next_offset,
        high_watermark,
        log_start,
        error: None,
    };
    if offset < log_start || offset > high_watermark {
        part.error = Some(out_of_range_error(offset, log_start, high_watermark));
        part.records = Bytes::new();
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
            records: Bytes::new(),
            next_offset: -1,
            high_watermark: -1,
            log_start: -1,
            error: Some(error),
        }
    }
}

fn build_response(
    deps: &FetchDeps,
    request: &v1::FetchRequest,
    parts: Vec<Option<PartitionRead>>,
) -> v1::FetchResponse {
    let view = deps.directory.view();
    let me = deps.session.get().map(|life| life.incarnation);
    let results = request.partitions.iter().zip(parts).filter_map(|(wanted, part)| {
        let part = part?;
        let record = view.find_partition(&wanted.topic, &wanted.topic_id, wanted.partition);
        let leader = record
            .ok()
            .filter(|r| r.holder.is_some() && r.holder != me)
            .map(|record| view.leader(record));
        if let Some(error) = &part.error {
            deps.metrics.record_grpc_error("Fetch", error.code());
        }
        Some(v1::PartitionFetchResult {
            topic: wanted.topic.clone(),
            partition: wanted.partition,
            error: part.error.map(Into::into),
            high_watermark: part.high_watermark,
            log_start_offset: part.log_start,
            records: part.records,
            leader,
        })
    });
    v1::FetchResponse {
        partitions: results.collect(),
        throttle_ms: 0,
    }
}

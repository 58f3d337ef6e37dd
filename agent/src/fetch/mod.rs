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
mod partition;
mod timestamp;

use std::collections::VecDeque;

use futures::{
    FutureExt,
    future::{join_all, select_all},
};
use streamhouse_core::{Error, ErrorCode, kafka::RecordBuffers, protocol::v1};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant, sleep_until},
};

pub use self::{
    budget::ResponseMemory,
    deps::{FetchDeps, FetchLimits},
    timestamp::{find_greatest_timestamp, find_timestamp},
};
use self::{
    budget::{MemoryRequest, RESPONSE_COPIES},
    partition::{AppendSignal, PartitionRead, read_partition},
};

/// Maximum number of partitions in one fetch.
const MAX_FETCH_PARTITIONS: usize = 10_000;
/// Maximum number of partitions that one fetch reads concurrently.
const MAX_CONCURRENT_READS: usize = 4;
/// Longest time that a fetch may wait.
const MAX_FETCH_WAIT: Duration = Duration::from_secs(60);

/// One partition's part of a response.
#[derive(Debug)]
pub struct FetchedPartition {
    /// Name of the topic, as in the request.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// Why nothing was read.
    pub error: Option<Error>,
    /// Offset after the last committed record; -1 if it is unknown.
    pub high_watermark: i64,
    /// Offset of the first record; -1 if it is unknown.
    pub log_start_offset: i64,
    /// Whole batches, stamped.
    pub records: RecordBuffers,
    /// The leader, if it is another agent.
    pub leader: Option<v1::Leader>,
}

impl From<FetchedPartition> for v1::PartitionFetchResult {
    fn from(part: FetchedPartition) -> Self {
        Self {
            topic: part.topic,
            partition: part.partition,
            error: part.error.map(Into::into),
            high_watermark: part.high_watermark,
            log_start_offset: part.log_start_offset,
            records: part.records.into_bytes(),
            leader: part.leader,
        }
    }
}

/// Handles one fetch request of gRPC, whose message has each partition's records in one buffer.
///
/// # Errors
/// As [`fetch_partitions`].
pub async fn fetch(
    deps: &FetchDeps,
    request: v1::FetchRequest,
) -> Result<(v1::FetchResponse, Option<ResponseMemory>), Error> {
    let (partitions, memory) = fetch_partitions(deps, request).await?;
    let response = v1::FetchResponse {
        partitions: partitions.into_iter().map(Into::into).collect(),
        throttle_ms: 0,
    };
    Ok((response, memory))
}

/// Handles one fetch request. The returned memory must be held until the response has left.
///
/// # Errors
/// `InvalidRequest` if the number of partitions is out of range, `ResourceExhausted` if there is no
/// memory. Errors of single partitions are part of the response.
pub async fn fetch_partitions(
    deps: &FetchDeps,
    request: v1::FetchRequest,
) -> Result<(Vec<FetchedPartition>, Option<ResponseMemory>), Error> {
    check_partition_count(&request)?;
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

/// Checks how many partitions a fetch names.
///
/// # Errors
/// `InvalidRequest` if they are none or too many.
pub fn check_partition_count(request: &v1::FetchRequest) -> Result<(), Error> {
    if request.partitions.is_empty() || request.partitions.len() > MAX_FETCH_PARTITIONS {
        let message = format!("a fetch names between 1 and {MAX_FETCH_PARTITIONS} partitions");
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
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
        let mut missing = missing_parts(&parts);
        while let Some(wave) = next_wave(request, &parts, &mut missing, max_bytes.saturating_sub(bytes)) {
            let reads = wave.iter().map(|&(index, room)| {
                let wanted = &request.partitions[index];
                read_partition(deps, wanted, room)
            });
            for ((index, room), (mut read, wait)) in wave.iter().copied().zip(join_all(reads).await) {
                // A first batch larger than the room is left to the next fetch, unless it is alone.
                if bytes > 0 && read.records.len() > room {
                    read.records = RecordBuffers::default();
                }
                bytes += read.records.len();
                failed |= read.error.is_some();
                parts[index] = Some(read);
                waits.extend(wait);
            }
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

/// Returns the indexes of the partitions that have no records yet, in order.
fn missing_parts(parts: &[Option<PartitionRead>]) -> VecDeque<usize> {
    let empty = |part: &Option<PartitionRead>| part.as_ref().is_none_or(|part| part.records.is_empty());
    let missing = parts.iter().enumerate().filter(|(_, part)| empty(part));
    missing.map(|(index, _)| index).collect()
}

/// Takes partitions that are read concurrently, each with its room: as many as fit into `room`
/// whatever they have. Once there is no room, only those that were never read are, for their
/// bounds.
fn next_wave(
    request: &v1::FetchRequest,
    parts: &[Option<PartitionRead>],
    missing: &mut VecDeque<usize>,
    mut room: usize,
) -> Option<Vec<(usize, usize)>> {
    let mut wave = Vec::new();
    let none_left = room == 0;
    while let Some(&index) = missing.front()
        && wave.len() < MAX_CONCURRENT_READS
    {
        let wanted = (request.partitions[index].max_bytes as usize).max(1);
        if !wave.is_empty() && wanted > room && !none_left {
            break;
        }
        missing.pop_front();
        if none_left && parts[index].is_some() {
            continue;
        }
        wave.push((index, wanted.min(room)));
        room = room.saturating_sub(wanted);
    }
    (!wave.is_empty()).then_some(wave)
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

fn build_response(
    deps: &FetchDeps,
    request: &v1::FetchRequest,
    parts: Vec<Option<PartitionRead>>,
) -> Vec<FetchedPartition> {
    let view = deps.directory.view();
    let me = deps.session.get().map(|life| life.incarnation);
    let results = request.partitions.iter().zip(parts).filter_map(|(wanted, part)| {
        let part = part?;
        let record = view
            .find_partition(&wanted.topic, &wanted.topic_id, wanted.partition)
            .ok();
        // Not when it is read: without memory for all of it, it is read again.
        partition::count_read(deps, wanted, &part, record);
        let leader = record
            .filter(|r| r.holder.is_some() && r.holder != me)
            .map(|record| view.leader(record));
        Some(FetchedPartition {
            topic: wanted.topic.clone(),
            partition: wanted.partition,
            error: part.error,
            high_watermark: part.high_watermark,
            log_start_offset: part.log_start,
            records: part.records,
            leader,
        })
    });
    results.collect()
}

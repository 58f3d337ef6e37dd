//! Reads records that are no longer in a tail: looks up their objects in the metadata store, and
//! reads them through the block cache.
//!
//! WAL ranges are stamped while they are copied out; segments are stamped already. Every batch's
//! CRC is verified before it is returned: damage in the store ends with STORAGE_CORRUPT, never with
//! wrong records. Cold reads have a budget of their own, so that consumers that catch up cannot
//! slow producers down.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    batch::{BatchError, BatchIter, Compression, DecodedRecords, verify_crc},
};
use streamhouse_metadata::{LogBounds, LogPosition, LogSpan, LogView, SpanLocation, keys};

use super::budget::{self, RESPONSE_COPIES};
use crate::{
    invariant::Invariant,
    node::AgentNode,
    partition::tail::{TailRun, copy_stamped},
    segment::reader,
    store::{StoreError, StoreErrorKind},
};

/// Spans looked up at once.
pub(super) const MAX_SPANS: usize = 256;
/// Bytes of a segment read at once: enough to fetch several blocks concurrently.
const SEGMENT_READ_BYTES: usize = 4 << 20;
/// Bytes read at once while searching for a timestamp.
const TIMESTAMP_READ_BYTES: usize = 1 << 20;
/// Largest batch that is decompressed while searching for a timestamp.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// The result of a cold read.
#[derive(Debug)]
pub struct ColdRead {
    /// Whole batches, stamped; empty at the end of the log and outside its bounds.
    pub records: Bytes,
    /// The offset after the last record; the requested offset if there are no records.
    pub next_offset: i64,
    /// Bounds of the log at the time of the read.
    pub bounds: LogBounds,
}

/// Reason why a span could not be read.
#[derive(Debug)]
pub enum SpanError {
    /// Its object does not exist: the span has moved, or the object is lost.
    Missing(Error),
    /// Any other failure.
    Failed(Error),
}

impl From<SpanError> for Error {
    fn from(error: SpanError) -> Self {
        match error {
            SpanError::Missing(error) | SpanError::Failed(error) => error,
        }
    }
}

/// Reads about `max_bytes` from `offset` on, at least one batch if there is one.
///
/// # Errors
/// `UnknownTopicOrPartition` if the partition does not exist, `StorageCorrupt` if its records are
/// damaged or missing, and errors of either store.
pub async fn read_log_range(
    node: &AgentNode,
    uid: PartitionUid,
    offset: i64,
    max_bytes: usize,
) -> Result<ColdRead, Error> {
    let view = look_up_spans(node, uid, offset).await?;
    read_view(node, uid, &view, offset, max_bytes).await
}

/// Reads as [`read`] does, from a view that starts at or before `offset`.
pub(super) async fn read_view(
    node: &AgentNode,
    uid: PartitionUid,
    view: &LogView,
    offset: i64,
    max_bytes: usize,
) -> Result<ColdRead, Error> {
    let (span, error) = match read_spans(node, uid, view, offset, max_bytes).await? {
        Ok(read) => return Ok(read),
        Err(missing) => missing,
    };
    let error = confirm_missing(node, uid, &span, error).await?;
    // The records moved to another object while they were being read.
    tracing::debug!(partition = %uid, %error, "reading from where the records are now");
    let view = look_up_spans(node, uid, offset).await?;
    read_spans(node, uid, &view, offset, max_bytes)
        .await?
        .map_err(|_| moving_error())
}

async fn look_up_spans(node: &AgentNode, uid: PartitionUid, offset: i64) -> Result<LogView, Error> {
    let from = LogPosition::Offset(offset);
    Ok(node.metadata.read_log(uid, from, MAX_SPANS).await?)
}

/// Reads the spans of a view; the inner error is a span whose object is missing, if nothing was
/// read before it.
async fn read_spans(
    node: &AgentNode,
    uid: PartitionUid,
    view: &LogView,
    offset: i64,
    max_bytes: usize,
) -> Result<Result<ColdRead, (LogSpan, Error)>, Error> {
    let bounds = view.bounds;
    let mut out = BytesMut::new();
    let mut next_offset = offset;
    if offset >= bounds.log_start && offset < bounds.high_watermark {
        let _turn = node
            .cold_reads
            .acquire()
            .await
            .map_err(|_| shutting_down_error())?;
        // Reserved up front, since growth by doubling would hold up to twice the response.
        let expected: u64 = view.spans.iter().map(|span| stored_bytes(&span.place)).sum();
        out.reserve(usize::try_from(expected).unwrap_or(usize::MAX).min(max_bytes));
        for span in &view.spans {
            if out.len() >= max_bytes {
                break;
            }
            check_committed(node, uid, span, &bounds)?;
            match read_span(node, uid, span, offset, max_bytes, &mut out).await {
                Ok((next, whole)) => {
                    next_offset = next_offset.max(next);
                    if !whole {
                        break;
                    }
                }
                // What was read so far is valid. The next read begins with the failing span, and
                // returns its error.
                Err(_) if !out.is_empty() => {
                    let read = BatchIter::new(&out).map_while(Result::ok).last();
                    next_offset = read.map_or(next_offset, |(header, _)| header.next_offset());
                    break;
                }
                Err(SpanError::Missing(error)) => return Ok(Err((span.clone(), error))),
                Err(SpanError::Failed(error)) => return Err(error),
            }
        }
    }
    Ok(Ok(ColdRead {
        records: out.freeze(),
        next_offset,
        bounds,
    }))
}

/// Reads the row of a missing object again. Fails if it still references the object, which was
/// deleted although it is referenced (INV-G1). Otherwise returns `error`: the records have moved.
///
/// # Errors
/// As described, and any error of the metadata store.
pub async fn confirm_missing(
    node: &AgentNode,
    uid: PartitionUid,
    span: &LogSpan,
    error: Error,
) -> Result<Error, Error> {
    let from = LogPosition::Offset(span.base_offset);
    let view = node.metadata.read_log(uid, from, 1).await?;
    if view.spans.iter().any(|now| now.place == span.place) {
        node.metrics.record_violation(Invariant::G1);
        tracing::error!(partition = %uid, place = ?span.place, %error, "an object that the metadata names is missing");
        let message = format!("{} are missing: {}", describe_span(span), error.message());
        return Err(Error::new(error.code(), message).with_next_offset(span.end_offset));
    }
    Ok(error)
}

/// Fails if a span ends beyond the high watermark of the same view: its records are not committed
/// (INV-F1).
fn check_committed(
    node: &AgentNode,
    uid: PartitionUid,
    span: &LogSpan,
    bounds: &LogBounds,
) -> Result<(), Error> {
    if span.end_offset > bounds.high_watermark {
        let error = format!("they end beyond the high watermark {}", bounds.high_watermark);
        return Err(corrupt_error(node, uid, span, &error));
    }
    Ok(())
}

/// Appends the batches of one span. Returns the offset after the last of them, and whether all of
/// them fitted.
async fn read_span(
    node: &AgentNode,
    uid: PartitionUid,
    span: &LogSpan,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), SpanError> {
    let damaged = |error: &BatchError| SpanError::Failed(corrupt_error(node, uid, span, error));
    let closing = |_| SpanError::Failed(shutting_down_error());
    match &span.place {
        SpanLocation::Wal { length, .. } => {
            // Its blocks, and their concatenation.
            let twice = usize::try_from(*length).unwrap_or(usize::MAX).saturating_mul(2);
            let _memory = node.memory.cold_reads.acquire(twice).await.map_err(closing)?;
            let run = wal_run(node, uid, span).await?;
            copy_stamped(&run, from, max_bytes, out).map_err(|error| damaged(&error))
        }
        SpanLocation::Segment { key, size_bytes } => {
            let (mut next, mut full) = (from.max(span.base_offset), false);
            while next < span.end_offset && !full && (out.is_empty() || out.len() < max_bytes) {
                let before = next;
                let room = max_bytes.saturating_sub(out.len()).clamp(1, SEGMENT_READ_BYTES);
                let located = reader::locate_blocks(&node.blocks, key, *size_bytes, next, room).await;
                let Some(located) = located.map_err(|error| segment_error(node, uid, span, error))? else {
                    break;
                };
                let memory = node.memory.cold_reads.acquire(located.bytes());
                let _memory = memory.await.map_err(closing)?;
                let read = reader::read_blocks(&node.blocks, key, *size_bytes, &located).await;
                // Damage is limited to a block of the segment.
                let block_span = LogSpan {
                    base_offset: located.first.start,
                    end_offset: located.first.end,
                    ..span.clone()
                };
                let read = read.map_err(|error| segment_error(node, uid, &block_span, error))?;
                for block in read {
                    (next, full) = copy_batches(&block, next, max_bytes, out)
                        .map_err(|error| SpanError::Failed(corrupt_error(node, uid, &block_span, &error)))?;
                    if full {
                        break;
                    }
                }
                if next == before {
                    break;
                }
            }
            Ok((next, next >= span.end_offset))
        }
    }
}

/// Copies whole batches of a segment block to `out`, beginning with the one that holds `from`,
/// while `out` stays within `max_bytes`; the first batch whatever its size. Returns the offset
/// after the last one, and whether `out` is full.
fn copy_batches(
    block: &Bytes,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), BatchError> {
    let mut next = from;
    for batch in BatchIter::new(block) {
        let (header, bytes) = batch?;
        if header.next_offset() > next {
            if !out.is_empty() && out.len() + bytes.len() > max_bytes {
                return Ok((next, true));
            }
            verify_crc(bytes)?;
            out.extend_from_slice(bytes);
            next = header.next_offset();
        }
    }
    Ok((next, false))
}

/// Returns the stored size of a span in bytes.
fn stored_bytes(place: &SpanLocation) -> u64 {
    match place {
        SpanLocation::Wal { length, .. } => *length,
        SpanLocation::Segment { size_bytes, .. } => *size_bytes,
    }
}

/// Returns the verified batches of a WAL range, not yet stamped.
///
/// # Errors
/// [`SpanError::Missing`] if the object does not exist, otherwise [`SpanError::Failed`].
pub async fn wal_run(node: &AgentNode, uid: PartitionUid, span: &LogSpan) -> Result<TailRun, SpanError> {
    let SpanLocation::Wal {
        incarnation,
        sequence,
        position,
        length,
    } = span.place
    else {
        let error = Error::new(ErrorCode::Unknown, "the span is not a WAL range");
        return Err(SpanError::Failed(error));
    };
    let damaged = |error: &dyn std::fmt::Display| SpanError::Failed(corrupt_error(node, uid, span, error));
    let key = keys::wal_key(incarnation, sequence);
    let range = position..position + length;
    let bytes = node.blocks.read(&key, None, range).await;
    let bytes = bytes.map_err(|error| span_error(&error))?;
    if bytes.len() as u64 != length {
        return Err(damaged(&format!(
            "object {key} is shorter than its metadata says"
        )));
    }
    let mut records = 0;
    for batch in BatchIter::new(&bytes) {
        let (header, batch) = batch.map_err(|error| damaged(&error))?;
        verify_crc(batch).map_err(|error| damaged(&error))?;
        records += i64::from(header.last_offset_delta) + 1;
    }
    if records != span.end_offset - span.base_offset {
        return Err(damaged(&format!(
            "object {key} does not hold the records that its metadata names"
        )));
    }
    let (base_offset, end_offset, epoch) = (span.base_offset, span.end_offset, span.epoch);
    Ok(TailRun {
        base_offset,
        end_offset,
        epoch,
        bytes,
        sequence,
    })
}

/// Returns offset and timestamp of the first record at or after `timestamp`; the high watermark and
/// -1 if there is none.
///
/// # Errors
/// As [`read`].
pub async fn find_timestamp(
    node: &AgentNode,
    uid: PartitionUid,
    timestamp: i64,
) -> Result<(i64, i64), Error> {
    let view = node
        .metadata
        .read_log(uid, LogPosition::Timestamp(timestamp), 1)
        .await?;
    let Some(span) = view.spans.first() else {
        return Ok((view.bounds.high_watermark, -1));
    };
    let mut from = span.base_offset.max(view.bounds.log_start);
    if let SpanLocation::Segment { key, size_bytes } = &span.place {
        let found = reader::seek_timestamp(&node.blocks, key, *size_bytes, timestamp).await;
        from = from.max(found.map_err(|error| segment_error(node, uid, span, error))?);
    }
    while from < span.end_offset {
        let _memory = budget::wait_for_permits(node, RESPONSE_COPIES * TIMESTAMP_READ_BYTES).await?;
        let read = read_log_range(node, uid, from, TIMESTAMP_READ_BYTES).await?;
        for batch in BatchIter::owned(&read.records) {
            let (header, batch) = batch.map_err(|error| corrupt_error(node, uid, span, &error))?;
            if header.max_timestamp >= timestamp {
                // The decompressed size is known only afterwards.
                let compressed = !matches!(header.compression(), Ok(Compression::None));
                let most = MAX_DECOMPRESSED_BYTES.min(node.memory.fetch.capacity() / 2);
                let unpacked = if compressed { most } else { 0 };
                let _unpacked = budget::wait_for_permits(node, unpacked).await?;
                let records = DecodedRecords::decode(batch, MAX_DECOMPRESSED_BYTES)
                    .map_err(|error| unreadable_error(uid, span, &error))?;
                for record in records {
                    let record = record.map_err(|error| unreadable_error(uid, span, &error))?;
                    if record.timestamp >= timestamp && record.offset >= view.bounds.log_start {
                        return Ok((record.offset, record.timestamp));
                    }
                }
            }
            from = header.next_offset();
        }
        if read.records.is_empty() {
            break;
        }
    }
    Ok((view.bounds.high_watermark, -1))
}

fn span_error(error: &StoreError) -> SpanError {
    let reported = Error::new(error.code(), error.to_string());
    match error.kind() {
        StoreErrorKind::NotFound => SpanError::Missing(reported),
        _ => SpanError::Failed(reported),
    }
}

fn segment_error(
    node: &AgentNode,
    uid: PartitionUid,
    span: &LogSpan,
    error: reader::SegmentReadError,
) -> SpanError {
    match error {
        reader::SegmentReadError::Store(error) => span_error(&error),
        reader::SegmentReadError::Segment(error) => SpanError::Failed(corrupt_error(node, uid, span, &error)),
    }
}

/// Returns the error for bytes that differ from what was committed (INV-F1); they are not returned
/// to clients.
fn corrupt_error(
    node: &AgentNode,
    uid: PartitionUid,
    span: &LogSpan,
    error: &dyn std::fmt::Display,
) -> Error {
    node.metrics.record_violation(Invariant::F1);
    unreadable_error(uid, span, error)
}

/// Returns the error for records that cannot be decoded, though they may be what a producer sent.
fn unreadable_error(uid: PartitionUid, span: &LogSpan, error: &dyn std::fmt::Display) -> Error {
    tracing::error!(partition = %uid, place = ?span.place, %error, "stored records are damaged");
    let what = describe_span(span);
    Error::new(
        ErrorCode::StorageCorrupt,
        format!("{what} are damaged and are not served: {error}"),
    )
    .with_next_offset(span.end_offset)
}

/// Describes the records of a span and their object, so that an operator can find it.
fn describe_span(span: &LogSpan) -> String {
    let key = match &span.place {
        SpanLocation::Wal {
            incarnation,
            sequence,
            ..
        } => keys::wal_key(*incarnation, *sequence),
        SpanLocation::Segment { key, .. } => key.clone(),
    };
    let (base, end) = (span.base_offset, span.end_offset);
    format!("the stored records {base}..{end} in object {key}")
}

fn moving_error() -> Error {
    Error::new(
        ErrorCode::StorageUnavailable,
        "the records were moved to another object repeatedly while being read; try again",
    )
}

fn shutting_down_error() -> Error {
    Error::new(
        ErrorCode::ShuttingDown,
        "this agent is shutting down; use another agent",
    )
}

//! Reads what is no longer in a tail: asks the metadata store where the records lie, and gets them through the block cache.
//!
//! WAL ranges are stamped on the way out; segments are stamped already. Every batch's CRC is checked before it is served:
//! damage in the store ends with STORAGE_CORRUPT, never with wrong records. Cold reads have a budget of their own, so that
//! readers that catch up cannot slow producers.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    batch::{BatchError, Batches, Records, verify_crc},
};
use streamhouse_metadata::{LogBounds, LogPosition, LogSpan, Place, keys};

use super::{
    budget::{self, COPIES},
    tail::{TailRun, copy_stamped},
};
use crate::{node::Node, segment::reader, store::StoreError};

/// Spans looked up at once.
const SPANS: usize = 256;
/// What a read takes of a segment at once: enough for several blocks to be on their way together.
const CHUNK: usize = 4 << 20;
/// What is read at once when a timestamp is looked for.
const SOUGHT: usize = 1 << 20;
/// The largest batch of records this agent unpacks when it looks for a timestamp.
const MAX_UNPACKED: usize = 64 << 20;

/// What a cold read found.
#[derive(Debug)]
pub struct ColdRead {
    /// Whole batches, stamped; empty at the end of the log and outside its bounds.
    pub records: Bytes,
    /// The offset after the last of them; the one asked for when there are none.
    pub next_offset: i64,
    /// The log at the moment of the read.
    pub bounds: LogBounds,
}

/// Reads from `offset` on, about `max_bytes`, at least one batch if there is one.
pub async fn read(node: &Node, uid: PartitionUid, offset: i64, max_bytes: usize) -> Result<ColdRead, Error> {
    let view = node
        .metadata
        .read_log(uid, LogPosition::Offset(offset), SPANS)
        .await?;
    let bounds = view.bounds;
    let mut out = BytesMut::new();
    let mut next_offset = offset;
    if offset >= bounds.log_start && offset < bounds.high_watermark {
        let _turn = node.cold_reads.acquire().await.map_err(|_| closing())?;
        // Grows as it is filled, in steps: doubling would hold up to twice what is answered.
        let expected: u64 = view.spans.iter().map(|span| stored_bytes(&span.place)).sum();
        out.reserve(usize::try_from(expected).unwrap_or(usize::MAX).min(max_bytes));
        for span in &view.spans {
            if out.len() >= max_bytes {
                break;
            }
            let (next, whole) = read_span(node, uid, span, offset, max_bytes, &mut out).await?;
            next_offset = next_offset.max(next);
            if !whole {
                break;
            }
        }
    }
    Ok(ColdRead {
        records: out.freeze(),
        next_offset,
        bounds,
    })
}

/// Adds the batches of one span. Returns the offset after the last of them, and whether there was room for all.
async fn read_span(
    node: &Node,
    uid: PartitionUid,
    span: &LogSpan,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), Error> {
    match &span.place {
        Place::Wal { length, .. } => {
            // Its blocks, and the whole of it put together.
            let twice = usize::try_from(*length).unwrap_or(usize::MAX).saturating_mul(2);
            let _memory = node.memory.cold_reads.take(twice).await.map_err(|_| closing())?;
            let run = wal_run(node, uid, span).await?;
            copy_stamped(&run, from, max_bytes, out).map_err(|error| corrupt(uid, span, &error))
        }
        Place::Segment { key, size_bytes } => {
            let (mut next, mut full) = (from.max(span.base_offset), false);
            while next < span.end_offset && !full && (out.is_empty() || out.len() < max_bytes) {
                let before = next;
                let room = max_bytes.saturating_sub(out.len()).clamp(1, CHUNK);
                let located = reader::locate(&node.blocks, key, *size_bytes, next, room).await;
                let Some(located) = located.map_err(|error| segment_error(node, uid, span, error))? else {
                    break;
                };
                let _memory = node
                    .memory
                    .cold_reads
                    .take(located.bytes())
                    .await
                    .map_err(|_| closing())?;
                let read = reader::read(&node.blocks, key, *size_bytes, &located).await;
                for block in read.map_err(|error| segment_error(node, uid, span, error))? {
                    (next, full) = copy_whole(&block, next, max_bytes, out)
                        .map_err(|error| corrupt(uid, span, &error))?;
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

/// Copies whole batches of a segment's block to `out`, beginning with the one that holds `from`, while `out` stays within
/// `max_bytes`; the first one whatever its size. Returns the offset after the last, and whether there was no more room.
fn copy_whole(
    block: &Bytes,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), BatchError> {
    let mut next = from;
    for batch in Batches::new(block) {
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

/// How many bytes a span has in its object.
fn stored_bytes(place: &Place) -> u64 {
    match place {
        Place::Wal { length, .. } => *length,
        Place::Segment { size_bytes, .. } => *size_bytes,
    }
}

/// The batches of a WAL span, checked, not yet stamped.
pub async fn wal_run(node: &Node, uid: PartitionUid, span: &LogSpan) -> Result<TailRun, Error> {
    let Place::Wal {
        incarnation,
        sequence,
        position,
        length,
    } = span.place
    else {
        return Err(Error::new(ErrorCode::Unknown, "the span is no WAL range"));
    };
    let key = keys::wal_key(incarnation, sequence);
    let range = position..position + length;
    let bytes = node
        .blocks
        .read(&key, None, range)
        .await
        .map_err(|error| store_error(&error))?;
    if bytes.len() as u64 != length {
        return Err(Error::new(
            ErrorCode::StorageCorrupt,
            format!("object {key} is shorter than its metadata says"),
        ));
    }
    let mut records = 0;
    for batch in Batches::new(&bytes) {
        let (header, batch) = batch.map_err(|error| corrupt(uid, span, &error))?;
        verify_crc(batch).map_err(|error| corrupt(uid, span, &error))?;
        records += i64::from(header.last_offset_delta) + 1;
    }
    if records != span.end_offset - span.base_offset {
        return Err(Error::new(
            ErrorCode::StorageCorrupt,
            format!("object {key} does not hold the records it should"),
        ));
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

/// Offset and timestamp of the first record at or after `timestamp`; the high watermark and -1 when there is none.
pub async fn find_timestamp(node: &Node, uid: PartitionUid, timestamp: i64) -> Result<(i64, i64), Error> {
    let view = node
        .metadata
        .read_log(uid, LogPosition::Timestamp(timestamp), 1)
        .await?;
    let Some(span) = view.spans.first() else {
        return Ok((view.bounds.high_watermark, -1));
    };
    let mut from = span.base_offset.max(view.bounds.log_start);
    if let Place::Segment { key, size_bytes } = &span.place {
        let found = reader::seek_timestamp(&node.blocks, key, *size_bytes, timestamp).await;
        from = from.max(found.map_err(|error| segment_error(node, uid, span, error))?);
    }
    while from < span.end_offset {
        let _memory = budget::wait(node, COPIES * SOUGHT).await?;
        let read = read(node, uid, from, SOUGHT).await?;
        for batch in Batches::of(&read.records) {
            let (header, batch) = batch.map_err(|error| corrupt(uid, span, &error))?;
            if header.max_timestamp >= timestamp {
                let records =
                    Records::decode(batch, MAX_UNPACKED).map_err(|error| corrupt(uid, span, &error))?;
                for record in records {
                    let record = record.map_err(|error| corrupt(uid, span, &error))?;
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

fn store_error(error: &StoreError) -> Error {
    Error::new(error.code(), error.to_string())
}

fn segment_error(node: &Node, uid: PartitionUid, span: &LogSpan, error: reader::ReadError) -> Error {
    match error {
        reader::ReadError::Store(error) => store_error(&error),
        reader::ReadError::Segment(error) => {
            node.metrics.violated(crate::invariant::Invariant::F1);
            corrupt(uid, span, &error)
        }
    }
}

fn corrupt(uid: PartitionUid, span: &LogSpan, error: &dyn std::fmt::Display) -> Error {
    let offsets = format!("{}..{}", span.base_offset, span.end_offset);
    tracing::error!(partition = %uid, offsets, place = ?span.place, %error, "stored records are damaged");
    Error::new(
        ErrorCode::StorageCorrupt,
        format!("the stored records {offsets} are damaged and are not served: {error}"),
    )
}

fn closing() -> Error {
    Error::new(
        ErrorCode::ShuttingDown,
        "this agent is shutting down; ask another",
    )
}

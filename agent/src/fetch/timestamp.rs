//! Finds the offset of a timestamp: reads the log from the object whose records may be late enough.

use streamhouse_core::{
    Error, PartitionUid,
    batch::{BatchIter, Compression, DecodedRecords},
};
use streamhouse_metadata::{LogPosition, SpanLocation};

use super::{
    FetchDeps,
    budget::{self, RESPONSE_COPIES},
};
use crate::{log::unreadable_error, segment::reader};

/// Bytes read at once while searching for a timestamp.
const TIMESTAMP_READ_BYTES: usize = 1 << 20;
/// Largest batch that is decompressed while searching for a timestamp.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// Returns offset and timestamp of the first record at or after `timestamp`; the high watermark and
/// -1 if there is none.
///
/// # Errors
/// As [`LogReader::read_range`](crate::log::LogReader::read_range).
pub async fn find_timestamp(
    deps: &FetchDeps,
    uid: PartitionUid,
    timestamp: i64,
) -> Result<(i64, i64), Error> {
    let log = &deps.log;
    let view = log
        .metadata
        .read_log(uid, LogPosition::Timestamp(timestamp), 1)
        .await?;
    let Some(span) = view.spans.first() else {
        return Ok((view.bounds.high_watermark, -1));
    };
    let mut from = span.base_offset.max(view.bounds.log_start);
    if let SpanLocation::Segment { key, size_bytes } = &span.place {
        let found = reader::seek_timestamp(&log.blocks, key, *size_bytes, timestamp).await;
        from = from.max(found.map_err(|error| log.segment_error(uid, span, error))?);
    }
    while from < span.end_offset {
        let _memory = budget::wait_for_permits(&deps.memory, RESPONSE_COPIES * TIMESTAMP_READ_BYTES).await?;
        let read = log.read_range(uid, from, TIMESTAMP_READ_BYTES).await?;
        for batch in BatchIter::owned(&read.records) {
            let (header, batch) = batch.map_err(|error| log.corrupt_error(uid, span, &error))?;
            if header.max_timestamp >= timestamp {
                // The decompressed size is known only afterwards.
                let compressed = !matches!(header.compression(), Ok(Compression::None));
                let most = MAX_DECOMPRESSED_BYTES.min(deps.memory.capacity() / 2);
                let unpacked = if compressed { most } else { 0 };
                let _unpacked = budget::wait_for_permits(&deps.memory, unpacked).await?;
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

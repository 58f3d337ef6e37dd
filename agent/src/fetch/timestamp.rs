//! Finds the offset of a timestamp, and of the greatest one: reads the log from the object whose
//! records may be late enough.

use streamhouse_core::{
    Error, PartitionUid,
    batch::{BatchIter, Compression, DecodedRecords},
};
use streamhouse_metadata::{LogPosition, LogSpan, SpanLocation};

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
    let position = LogPosition::Timestamp(timestamp);
    let view = deps.log.metadata.read_log(uid, position, 1).await?;
    let Some(span) = view.spans.first() else {
        return Ok((view.bounds.high_watermark, -1));
    };
    let mut found = None;
    let from = span.base_offset.max(view.bounds.log_start);
    scan_span(deps, (uid, span), from, Some(timestamp), |record| {
        if record.1 >= timestamp && record.0 >= view.bounds.log_start {
            found = Some(record);
        }
        found.is_some()
    })
    .await?;
    Ok(found.unwrap_or((view.bounds.high_watermark, -1)))
}

/// Returns offset and timestamp of the first record with the greatest timestamp; `None` if there
/// are no records.
///
/// # Errors
/// As [`find_timestamp`].
pub async fn find_greatest_timestamp(
    deps: &FetchDeps,
    uid: PartitionUid,
) -> Result<Option<(i64, i64)>, Error> {
    let mut after = -1;
    let mut greatest: Option<(i64, i64)> = None;
    // Twice if the span with the greatest timestamp has it from a deleted record: only the first
    // span of a log has any.
    loop {
        let position = LogPosition::GreatestTimestamp(after);
        let view = deps.log.metadata.read_log(uid, position, 1).await?;
        let log_start = view.bounds.log_start;
        let Some(span) = view.spans.first() else {
            return Ok(greatest);
        };
        let wanted = (span.base_offset >= log_start).then_some(span.max_timestamp);
        scan_span(
            deps,
            (uid, span),
            span.base_offset.max(log_start),
            wanted,
            |record| {
                if record.0 >= log_start && greatest.is_none_or(|found| record.1 > found.1) {
                    greatest = Some(record);
                }
                greatest.is_some_and(|found| found.1 >= span.max_timestamp)
            },
        )
        .await?;
        if wanted.is_some() || greatest.is_some_and(|found| found.1 >= span.max_timestamp) {
            return Ok(greatest);
        }
        after = span.end_offset;
    }
}

/// Passes offset and timestamp of the records of a span to `accept`, from the batch with the offset
/// `from` on, until it returns true. Leaves out batches whose greatest timestamp is less than
/// `at_least`.
async fn scan_span(
    deps: &FetchDeps,
    (uid, span): (PartitionUid, &LogSpan),
    mut from: i64,
    at_least: Option<i64>,
    mut accept: impl FnMut((i64, i64)) -> bool,
) -> Result<(), Error> {
    let log = &deps.log;
    if let (SpanLocation::Segment { key, size_bytes }, Some(timestamp)) = (&span.place, at_least) {
        let found = reader::seek_timestamp(&log.blocks, key, *size_bytes, timestamp).await;
        from = from.max(found.map_err(|error| log.segment_error(uid, span, error))?);
    }
    while from < span.end_offset {
        let _memory = budget::wait_for_permits(&deps.memory, RESPONSE_COPIES * TIMESTAMP_READ_BYTES).await?;
        let read = log.read_range(uid, from, TIMESTAMP_READ_BYTES).await?;
        for batch in BatchIter::owned(&read.records) {
            let (header, batch) = batch.map_err(|error| log.corrupt_error(uid, span, &error))?;
            // Some clients leave the greatest timestamp out.
            let latest = header.max_timestamp.max(header.base_timestamp);
            if at_least.is_none_or(|at_least| latest >= at_least) {
                // The decompressed size is known only afterwards.
                let compressed = !matches!(header.compression(), Ok(Compression::None));
                let most = MAX_DECOMPRESSED_BYTES.min(deps.memory.capacity() / 2);
                let unpacked = if compressed { most } else { 0 };
                let _unpacked = budget::wait_for_permits(&deps.memory, unpacked).await?;
                let records = DecodedRecords::decode(batch, MAX_DECOMPRESSED_BYTES)
                    .map_err(|error| unreadable_error(uid, span, &error))?;
                for record in records {
                    let record = record.map_err(|error| unreadable_error(uid, span, &error))?;
                    if accept((record.offset, record.timestamp)) {
                        return Ok(());
                    }
                }
            }
            from = header.next_offset();
        }
        if read.records.is_empty() {
            break;
        }
    }
    Ok(())
}

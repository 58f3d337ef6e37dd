//! Validates a whole segment, before an object of an earlier attempt is adopted.

use bytes::Bytes;
use streamhouse_core::batch::{BatchIter, verify_crc};

use super::{
    format::{SegmentError, SegmentIdentity, SegmentSummary, check_crc, parse_header},
    index::SegmentIndex,
};

/// Checks that `object` is a complete, undamaged segment of this identity: every CRC, every batch,
/// no gap between offsets. The writer's epoch may be older than `identity`'s: records below the
/// high watermark never change.
///
/// # Errors
/// A [`SegmentError`] for the first mismatch.
pub fn verify_segment(object: &Bytes, identity: &SegmentIdentity) -> Result<SegmentSummary, SegmentError> {
    let size = object.len() as u64;
    let (found, header) = parse_header(object)?;
    check_identity(&found, identity)?;
    let index = SegmentIndex::parse(object, size)?;
    let footer = index.footer();
    if footer.data_position != header as u64 || footer.base_offset != identity.base_offset {
        return Err(SegmentError::Inconsistent(
            "footer and header disagree".to_owned(),
        ));
    }
    check_crc("header", &object[..header], footer.header_crc)?;
    let (mut next, mut max_timestamp, mut batches) = (footer.base_offset, i64::MIN, 0_u32);
    for block in index.blocks() {
        let range = block.range();
        let bytes = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok());
        let bytes = bytes.and_then(|(start, end)| object.get(start..end));
        let bytes = bytes.ok_or(SegmentError::Truncated("a block is missing"))?;
        block.check(bytes)?;
        if block.base_offset != next {
            return Err(SegmentError::Gap {
                expected: next,
                found: block.base_offset,
            });
        }
        let mut position = block.position;
        for batch in BatchIter::new(bytes) {
            let damaged = |problem: String| SegmentError::Batch { position, problem };
            let (header, batch) = batch.map_err(|error| damaged(error.to_string()))?;
            verify_crc(batch).map_err(|error| damaged(error.to_string()))?;
            if header.base_offset != next || header.next_offset() <= next {
                return Err(SegmentError::Gap {
                    expected: next,
                    found: header.base_offset,
                });
            }
            next = header.next_offset();
            max_timestamp = max_timestamp.max(header.max_timestamp);
            batches = batches.saturating_add(1);
            position += batch.len() as u64;
        }
        if max_timestamp != block.max_timestamp {
            return Err(SegmentError::Inconsistent(
                "a block's timestamp does not match its batches".to_owned(),
            ));
        }
    }
    let records = u64::try_from(next - footer.base_offset).unwrap_or_default();
    if next != footer.end_offset || batches != footer.batches || records != footer.records {
        return Err(SegmentError::Inconsistent(
            "the footer's counts do not match the contents".to_owned(),
        ));
    }
    Ok(SegmentSummary {
        base_offset: footer.base_offset,
        end_offset: next,
        max_timestamp,
        size_bytes: size,
    })
}

fn check_identity(found: &SegmentIdentity, expected: &SegmentIdentity) -> Result<(), SegmentError> {
    let other = |what: &str| Err(SegmentError::Identity(what.to_owned()));
    if found.cluster_id != expected.cluster_id {
        return other("cluster");
    }
    if found.topic_id != expected.topic_id {
        return other("topic");
    }
    if found.partition != expected.partition || found.partition_uid != expected.partition_uid {
        return other("partition");
    }
    if found.epoch > expected.epoch {
        return other("epoch, newer than this agent's");
    }
    if found.base_offset != expected.base_offset {
        return other("base offset");
    }
    Ok(())
}

//! Validates the batches of a produce request, and gives them the time of the append where a topic
//! asks for it.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error, ErrorCode,
    batch::{BatchHeader, BatchIter, BatchLimits, TimestampType, stamp_append_time, validate},
    topic_config::TopicConfig,
};
use streamhouse_metadata::{BatchMetadata, ProducerBatch};

use crate::directory::DirectoryTopic;

/// Validates all batches of a partition; if one is invalid, none of the partition's batches is
/// accepted.
pub(super) fn validate_all(
    records: &Bytes,
    topic: &DirectoryTopic,
    index: i32,
    now_ms: i64,
) -> Result<Vec<BatchMetadata>, Error> {
    let limits = BatchLimits {
        max_batch_bytes: topic.config.max_message_bytes,
    };
    let mut batches = Vec::new();
    for batch in BatchIter::new(records) {
        let checked = batch.and_then(|(_, bytes)| validate(bytes, &limits));
        let checked = checked.map_err(|error| (error.code(), error.to_string()));
        let header = checked.and_then(|header| {
            let timely = check_timestamps(&header, &topic.config, now_ms);
            timely.map_err(|problem| (ErrorCode::InvalidTimestamp, problem))?;
            Ok(header)
        });
        let header = header.map_err(|(code, problem)| {
            let name = &topic.record.name;
            Error::new(
                code,
                format!("batch {} for {name}-{index}: {problem}", batches.len()),
            )
        })?;
        batches.push(batch_meta(&header)?);
    }
    if batches.is_empty() {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            "a partition of the request has no batch",
        ));
    }
    Ok(batches)
}

/// Applies Kafka's timestamp checks to the first and the greatest timestamp in the header. A batch
/// without timestamps (-1) is valid.
fn check_timestamps(header: &BatchHeader, config: &TopicConfig, now_ms: i64) -> Result<(), String> {
    if config.stamps_append_time {
        return Ok(());
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err("producers cannot set log append times; send the record's own timestamp".to_owned());
    }
    let (base, max) = (header.base_timestamp, header.max_timestamp);
    if base < -1 {
        return Err(format!(
            "timestamp {base} is invalid: send milliseconds since 1970, or -1 for none"
        ));
    }
    let (before, after) = (config.timestamp_before_max_ms, config.timestamp_after_max_ms);
    if base >= 0 && base < now_ms.saturating_sub(before) {
        return Err(format!(
            "timestamp {base} is more than {before} ms behind the agent's clock, {now_ms}: send newer records, or raise \
             the topic's message.timestamp.before.max.ms"
        ));
    }
    if max > now_ms.saturating_add(after) {
        return Err(format!(
            "timestamp {max} is more than {after} ms ahead of the agent's clock, {now_ms}: check the producer's clock and \
             that it sends milliseconds, or raise the topic's message.timestamp.after.max.ms"
        ));
    }
    Ok(())
}

fn batch_meta(header: &BatchHeader) -> Result<BatchMetadata, Error> {
    if header.is_control() || header.is_transactional() {
        return Err(Error::new(
            ErrorCode::InvalidRecord,
            "control and transactional batches cannot be produced",
        ));
    }
    let producer = (header.producer_id >= 0).then_some(ProducerBatch {
        id: header.producer_id,
        epoch: header.producer_epoch,
        first_sequence: header.base_sequence,
    });
    Ok(BatchMetadata {
        size_bytes: u32::try_from(header.size()).unwrap_or(u32::MAX),
        records: header.record_count,
        max_timestamp: header.max_timestamp.max(header.base_timestamp),
        producer,
    })
}

/// Gives the records of validated batches the time `now_ms`.
pub(super) fn stamp_all(records: Bytes, batches: &mut [BatchMetadata], now_ms: i64) -> Result<Bytes, Error> {
    // Copies the records if others have the request's bytes too.
    let mut records = BytesMut::from(records);
    let mut position = 0;
    for batch in batches {
        let stamped = stamp_append_time(&mut records[position..], now_ms);
        stamped.map_err(|error| Error::new(error.code(), error.to_string()))?;
        batch.max_timestamp = now_ms;
        position += batch.size_bytes as usize;
    }
    Ok(records.freeze())
}

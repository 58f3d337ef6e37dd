//! What each call needs, with Kafka's rules. A call is checked by the agent that the client talks
//! to, and again by the one that it is forwarded to.

use streamhouse_core::{Error, protocol::v1, security::AclOperation};

use crate::security::ClientAccess;

/// Takes the items out of a request that the client may not use, with their places and results.
pub(super) fn take_denied<T, R>(
    items: &mut Vec<T>,
    check: impl Fn(&T) -> Result<(), Error>,
    mut refuse: impl FnMut(&mut T, Error) -> R,
) -> Vec<(usize, R)> {
    let mut denied = Vec::new();
    let mut at = 0;
    items.retain_mut(|item| {
        let checked = check(item);
        if let Err(error) = checked {
            denied.push((at, refuse(item, error)));
            at += 1;
            return false;
        }
        at += 1;
        true
    });
    denied
}

/// Takes the parts out of a produce request that the client may not write.
pub(super) fn take_unwritable(
    access: &ClientAccess,
    parts: &mut Vec<v1::PartitionProduce>,
) -> Vec<(usize, v1::PartitionProduceResult)> {
    take_denied(
        parts,
        |part| access.check_topic(AclOperation::Write, &part.topic),
        |part, error| {
            v1::PartitionProduceResult::failed(std::mem::take(&mut part.topic), part.partition, error)
        },
    )
}

/// Takes the partitions out of a fetch that the client may not read.
pub(super) fn take_unreadable(
    access: &ClientAccess,
    parts: &mut Vec<v1::PartitionFetch>,
) -> Vec<(usize, v1::PartitionFetchResult)> {
    take_denied(
        parts,
        |part| access.check_topic(AclOperation::Read, &part.topic),
        |part, error| v1::PartitionFetchResult {
            topic: std::mem::take(&mut part.topic),
            partition: part.partition,
            error: Some(error.into()),
            high_watermark: -1,
            log_start_offset: -1,
            ..Default::default()
        },
    )
}

/// Takes the names out of a metadata request that the client may not see.
pub(super) fn take_invisible(access: &ClientAccess, names: &mut Vec<String>) -> Vec<v1::TopicMetadata> {
    let denied = take_denied(
        names,
        |name| access.check_topic(AclOperation::Describe, name),
        |name, error| v1::TopicMetadata {
            name: std::mem::take(name),
            error: Some(error.into()),
            ..Default::default()
        },
    );
    denied.into_iter().map(|(_, topic)| topic).collect()
}

/// Takes the queries out of a request that the client may not ask.
pub(super) fn take_unlistable(
    access: &ClientAccess,
    queries: &mut Vec<v1::PartitionOffsetQuery>,
) -> Vec<(usize, v1::PartitionOffset)> {
    take_denied(
        queries,
        |query| access.check_topic(AclOperation::Describe, &query.topic),
        |query, error| v1::PartitionOffset {
            topic: std::mem::take(&mut query.topic),
            partition: query.partition,
            error: Some(error.into()),
            offset: -1,
            timestamp_ms: -1,
        },
    )
}

/// Takes the offsets out of a commit whose topics the client may not read.
pub(super) fn take_uncommittable(
    access: &ClientAccess,
    offsets: &mut Vec<v1::CommitOffset>,
) -> Vec<(usize, v1::CommitOffsetResult)> {
    take_denied(
        offsets,
        |offset| access.check_topic(AclOperation::Read, &offset.topic),
        |offset, error| v1::CommitOffsetResult {
            topic: std::mem::take(&mut offset.topic),
            partition: offset.partition,
            error: Some(error.into()),
        },
    )
}

/// Takes the partitions out of a request for committed offsets whose topics the client may not see.
pub(super) fn take_unfetchable(
    access: &ClientAccess,
    partitions: &mut Vec<v1::TopicPartition>,
) -> Vec<(usize, v1::CommittedOffset)> {
    take_denied(
        partitions,
        |wanted| access.check_topic(AclOperation::Describe, &wanted.topic),
        |wanted, error| v1::CommittedOffset {
            topic: std::mem::take(&mut wanted.topic),
            partition: wanted.partition,
            error: Some(error.into()),
            offset: -1,
            leader_epoch: -1,
            ..Default::default()
        },
    )
}

/// Checks whether a client may change what a request changes of a topic.
pub(super) fn check_alter(access: &ClientAccess, request: &v1::AlterTopicRequest) -> Result<(), Error> {
    let has_settings = !(request.set_config.is_empty() && request.reset_config.is_empty());
    if has_settings {
        access.check_topic(AclOperation::AlterConfigs, &request.name)?;
    }
    if request.partitions != 0 || !has_settings {
        access.check_topic(AclOperation::Alter, &request.name)?;
    }
    Ok(())
}

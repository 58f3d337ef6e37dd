//! OffsetDelete: deletes committed offsets of topics that a group does not read.

use std::collections::HashMap;

use streamhouse_core::{
    Error,
    kafka::{
        OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
    },
    protocol::v1,
    security::AclOperation,
};

use super::{
    access::{TOPIC_AUTHORIZATION_FAILED, refused_topics},
    error::{ErrorFamily, kafka_code},
    metadata::bounded_name,
    request::RequestContext,
};

/// Serves OffsetDelete.
pub(super) async fn offset_delete(
    context: RequestContext,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    if let Err(error) = context
        .access()
        .check_group(AclOperation::Delete, &request.group_id)
    {
        return failure(&error);
    }
    let named = request.topics.iter().map(|topic| topic.name.as_str());
    let refused = refused_topics(context.access(), AclOperation::Read, named);
    let visible = request
        .topics
        .iter()
        .filter(|topic| !refused.contains(topic.name.as_str()));
    let wanted = visible.flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|part| v1::TopicPartition {
            topic: bounded_name(&topic.name).to_owned(),
            partition: part.partition_index,
            topic_id: String::new(),
        })
    });
    let groups = &context.client.deps.groups;
    // Before the names of topics are copied for each partition.
    let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let wanted: Vec<v1::TopicPartition> = match groups.deps().limits.check_offset_count(count) {
        Ok(()) => wanted.collect(),
        Err(error) => return failure(&error),
    };
    let deleted = groups.delete_offsets(&request.group_id, &wanted).await;
    let failed: HashMap<(&str, i32), Error> = match deleted {
        Ok(failed) => failed
            .into_iter()
            .map(|(place, error)| ((wanted[place].topic.as_str(), wanted[place].partition), error))
            .collect(),
        Err(error) => return failure(&error),
    };
    let topics = request.topics.iter().map(|topic| OffsetDeleteResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|part| {
                let error = failed.get(&(bounded_name(&topic.name), part.partition_index));
                OffsetDeleteResponsePartition {
                    partition_index: part.partition_index,
                    error_code: match refused.contains(topic.name.as_str()) {
                        true => TOPIC_AUTHORIZATION_FAILED,
                        false => error.map_or(0, |error| kafka_code(ErrorFamily::Group, error)),
                    },
                }
            })
            .collect(),
    });
    OffsetDeleteResponse {
        topics: topics.collect(),
        ..OffsetDeleteResponse::default()
    }
}

fn failure(error: &Error) -> OffsetDeleteResponse {
    OffsetDeleteResponse {
        error_code: kafka_code(ErrorFamily::Group, error),
        ..OffsetDeleteResponse::default()
    }
}

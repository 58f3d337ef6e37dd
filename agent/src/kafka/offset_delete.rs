//! OffsetDelete: deletes committed offsets of topics that a group does not read.

use std::collections::HashMap;

use streamhouse_core::{
    Error,
    kafka::{
        OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
    },
    protocol::v1,
};

use super::{
    error::{ErrorFamily, kafka_code},
    metadata::bounded_name,
    request::RequestContext,
};

/// Serves OffsetDelete.
pub(super) async fn offset_delete(
    context: RequestContext,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let wanted = request.topics.iter().flat_map(|topic| {
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
        Err(error) => {
            return OffsetDeleteResponse {
                error_code: kafka_code(ErrorFamily::Group, &error),
                ..OffsetDeleteResponse::default()
            };
        }
    };
    let deleted = groups.delete_offsets(&request.group_id, &wanted).await;
    let failed: HashMap<(&str, i32), Error> = match deleted {
        Ok(failed) => failed
            .into_iter()
            .map(|(place, error)| ((wanted[place].topic.as_str(), wanted[place].partition), error))
            .collect(),
        Err(error) => {
            return OffsetDeleteResponse {
                error_code: kafka_code(ErrorFamily::Group, &error),
                ..OffsetDeleteResponse::default()
            };
        }
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
                    error_code: error.map_or(0, |error| kafka_code(ErrorFamily::Group, error)),
                }
            })
            .collect(),
    });
    OffsetDeleteResponse {
        topics: topics.collect(),
        ..OffsetDeleteResponse::default()
    }
}

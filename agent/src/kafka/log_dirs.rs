//! DescribeLogDirs: what each agent's partitions take in the object store.

use std::collections::BTreeMap;

use streamhouse_core::{
    Error, PartitionUid,
    kafka::{
        DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
        DescribeLogDirsTopic,
    },
    security::AclOperation,
};
use streamhouse_metadata::LogBounds;

use super::{
    error::{ErrorFamily, kafka_code},
    request::RequestContext,
};
use crate::directory::ClusterView;

/// The one log directory that an agent has for Kafka's tools.
pub(super) const LOG_DIR: &str = "object-store";
/// Nobody knows the size of the object store.
const UNKNOWN_BYTES: i64 = -1;
/// Partitions whose sizes are read at once.
const PARTITIONS_PER_READ: usize = 1_000;

/// Serves DescribeLogDirs. Each agent lists the partitions that it leads, so that the sizes of all
/// agents add up to that of the cluster.
pub(super) async fn describe_log_dirs(
    context: RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    if let Err(error) = context.access().check_cluster(AclOperation::Describe) {
        return DescribeLogDirsResponse {
            error_code: kafka_code(ErrorFamily::Admin, &error),
            ..DescribeLogDirsResponse::default()
        };
    }
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let mut result = DescribeLogDirsResult {
        log_dir: LOG_DIR.to_owned(),
        total_bytes: UNKNOWN_BYTES,
        usable_bytes: UNKNOWN_BYTES,
        ..DescribeLogDirsResult::default()
    };
    let led = led_partitions(&context, &view, &request);
    match read_sizes(&context, &led).await {
        Ok(sizes) => result.topics = described_topics(led, &sizes),
        Err(error) => result.error_code = kafka_code(ErrorFamily::Admin, &error),
    }
    DescribeLogDirsResponse {
        results: vec![result],
        ..DescribeLogDirsResponse::default()
    }
}

/// The partitions of each topic, by number.
type TopicPartitions = BTreeMap<String, BTreeMap<i32, PartitionUid>>;

/// Returns the partitions that this agent leads, of those that the request means.
fn led_partitions(
    context: &RequestContext,
    view: &ClusterView,
    request: &DescribeLogDirsRequest,
) -> TopicPartitions {
    let mut led = TopicPartitions::new();
    let Some(session) = context.client.deps.fetch.session.get() else {
        return led;
    };
    let mut add = |name: &str, index: i32| {
        let record = view.partition(name, index);
        if let Some(record) = record.filter(|record| record.holder == Some(session.incarnation)) {
            led.entry(name.to_owned()).or_default().insert(index, record.uid);
        }
    };
    match &request.topics {
        Some(topics) => {
            for topic in topics.iter().filter(|topic| !view.is_internal(&topic.topic)) {
                topic
                    .partitions
                    .iter()
                    .for_each(|index| add(&topic.topic, *index));
            }
        }
        None => {
            for topic in view.topics().filter(|topic| !topic.record.internal) {
                let indexes = (0_i32..).zip(&topic.record.partitions);
                indexes.for_each(|(index, _)| add(&topic.record.name, index));
            }
        }
    }
    led
}

async fn read_sizes(
    context: &RequestContext,
    led: &TopicPartitions,
) -> Result<BTreeMap<PartitionUid, LogBounds>, Error> {
    let uids: Vec<PartitionUid> = led.values().flat_map(BTreeMap::values).copied().collect();
    let mut sizes = BTreeMap::new();
    for chunk in uids.chunks(PARTITIONS_PER_READ) {
        sizes.extend(context.client.deps.metadata.bounds(chunk).await?);
    }
    Ok(sizes)
}

fn described_topics(
    led: TopicPartitions,
    sizes: &BTreeMap<PartitionUid, LogBounds>,
) -> Vec<DescribeLogDirsTopic> {
    let topics = led.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().filter_map(|(partition_index, uid)| {
            Some(DescribeLogDirsPartition {
                partition_index,
                partition_size: sizes.get(&uid)?.size_bytes,
                ..DescribeLogDirsPartition::default()
            })
        });
        DescribeLogDirsTopic {
            partitions: partitions.collect(),
            name,
        }
    });
    topics.collect()
}

//! The APIs and versions that are served.

use std::fmt::Write as _;

use streamhouse_core::kafka::{
    ApiKey, ApiVersionsFinalizedFeatureKey, ApiVersionsRange, ApiVersionsResponse,
    ApiVersionsSupportedFeatureKey,
};

/// The first version of Produce that is announced. librdkafka announces magic 2 only to brokers
/// with version 0; requests of the versions before [`ApiKey::versions`] are refused.
const ANNOUNCED_PRODUCE: i16 = 0;

/// The feature of groups of the consumer protocol.
const GROUP_FEATURE: &str = "group.version";
/// Its level: on.
const GROUP_FEATURE_LEVEL: i16 = 1;
/// The features are always the same ones.
const FEATURES_EPOCH: i64 = 0;

/// The APIs that are served, with Kafka's numbers.
pub(super) const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::SaslHandshake,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeAcls,
    ApiKey::CreateAcls,
    ApiKey::DeleteAcls,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::DescribeLogDirs,
    ApiKey::SaslAuthenticate,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeClientQuotas,
    ApiKey::AlterClientQuotas,
    ApiKey::DescribeUserScramCredentials,
    ApiKey::AlterUserScramCredentials,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::DescribeTopicPartitions,
];

/// Returns whether a version of an API is served.
pub(super) fn is_served(key: ApiKey, version: i16) -> bool {
    let (first, last) = key.versions();
    SERVED.contains(&key) && (first..=last).contains(&version)
}

/// Returns the versions as clients are told.
pub(super) fn ranges() -> Vec<ApiVersionsRange> {
    let range = |key: &ApiKey| {
        let (first, max_version) = key.versions();
        let min_version = if *key == ApiKey::Produce {
            ANNOUNCED_PRODUCE
        } else {
            first
        };
        ApiVersionsRange {
            api_key: key.number(),
            min_version,
            max_version,
        }
    };
    SERVED.iter().map(range).collect()
}

/// Returns the answer to ApiVersions of this version: the APIs, and the features of the cluster.
pub(super) fn announcement(version: i16) -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse {
        api_keys: ranges(),
        finalized_features_epoch: FEATURES_EPOCH,
        finalized_features: vec![ApiVersionsFinalizedFeatureKey {
            name: GROUP_FEATURE.to_owned(),
            max_version_level: GROUP_FEATURE_LEVEL,
            min_version_level: GROUP_FEATURE_LEVEL,
        }],
        ..ApiVersionsResponse::default()
    };
    // Older clients end with a feature that may be off (KAFKA-17011).
    if version >= 4 {
        response.supported_features = vec![ApiVersionsSupportedFeatureKey {
            name: GROUP_FEATURE.to_owned(),
            min_version: 0,
            max_version: GROUP_FEATURE_LEVEL,
        }];
    }
    response
}

/// Returns the text of `docs/reference/kafka-apis.md`.
pub fn reference_markdown() -> String {
    let mut table = String::from(
        "# Kafka APIs\n\nGenerated from the code; do not edit. The requests that the Kafka listener serves, with the versions \
         that it tells clients. Produce is announced from version 0 on, which librdkafka needs; versions 0 to 2 carry a \
         format of records that is not stored, and end the connection. See [StreamHouse and Kafka](../concepts/kafka.md).\n\n\
         | API | key | versions |\n|---|---|---|\n",
    );
    for key in SERVED {
        let (first, last) = key.versions();
        let _ = writeln!(table, "| {} | {} | {first} to {last} |", key.name(), key.number());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_code_says() {
        streamhouse_testkit::assert_current("docs/reference/kafka-apis.md", &reference_markdown()).unwrap();
    }

    #[test]
    fn apis_are_in_the_order_of_their_numbers() {
        assert!(SERVED.is_sorted());
    }

    #[test]
    fn groups_of_the_consumer_protocol_are_a_feature() {
        let newest = announcement(4);
        assert_eq!(
            (
                newest.finalized_features[0].max_version_level,
                newest.supported_features.len()
            ),
            (1, 1)
        );
        assert!(announcement(3).supported_features.is_empty());
    }

    #[test]
    fn only_announced_versions_are_served() {
        for range in ranges() {
            let key = ApiKey::from_number(range.api_key).unwrap();
            assert!(is_served(key, range.max_version) && !is_served(key, range.max_version + 1));
        }
        // Announced for librdkafka, but with a format of records that is not stored.
        assert!(!is_served(ApiKey::Produce, 0));
    }
}

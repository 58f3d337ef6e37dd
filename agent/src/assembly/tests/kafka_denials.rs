//! A client without ACLs: each API refuses it with the right code, and tells it nothing about what
//! there is.

use std::collections::BTreeSet;

use bytes::Bytes;
use streamhouse_core::kafka::*;
use uuid::Uuid;

use super::{
    kafka_acls::{RequestNames, commit, fetch, fetch_offsets, heartbeat, metadata, started},
    kafka_client::{RawKafkaClient, batch, produce_request},
    kafka_sasl::log_in,
};

/// Asks as a client that may do nothing.
struct DeniedClient {
    client: RawKafkaClient,
    asked: BTreeSet<i16>,
}

impl DeniedClient {
    /// Asserts that a request has these codes, and the same answer whether what it names exists.
    async fn assert<R: KafkaRequest>(
        &mut self,
        version: i16,
        codes: &[i16],
        request: impl Fn(RequestNames) -> R,
    ) {
        self.asked.insert(R::KEY.number());
        let answers = ["there", "ghost"].map(|word| RequestNames {
            topic: format!("topic-{word}"),
            group: format!("group-{word}"),
        });
        let mut texts = Vec::new();
        for names in answers {
            self.client.send(&request(names.clone()), version).await;
            let frame = self.client.receive_frame().await.unwrap();
            let (of_answer, text) = read_answer::<R>(frame, version);
            assert_eq!(of_answer, codes, "{:?}", R::KEY);
            let text = text
                .replace(&names.topic, "topic-xxxxx")
                .replace(&names.group, "group-xxxxx");
            assert!(!text.contains("-there"), "{:?}: {text}", R::KEY);
            texts.push(text);
        }
        assert_eq!(texts[0], texts[1], "{:?}", R::KEY);
    }
}

/// Returns the codes of an answer, and the answer.
fn read_answer<R: KafkaRequest>(frame: Bytes, version: i16) -> (Vec<i16>, String) {
    let response = RawKafkaClient::decode::<R>(frame.clone(), version);
    let mut codes = Vec::new();
    response.visit_error_codes(&mut |code| {
        if code != 0 && !codes.contains(&code) {
            codes.push(code);
        }
    });
    // Without the correlation id.
    (codes, String::from_utf8_lossy(&frame[4..]).into_owned())
}

fn list_offsets(topic: String) -> ListOffsetsRequest {
    ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: topic,
            partitions: vec![ListOffsetsPartition {
                timestamp: -1,
                current_leader_epoch: -1,
                ..ListOffsetsPartition::default()
            }],
        }],
        ..ListOffsetsRequest::default()
    }
}

/// Asks what concerns topics.
async fn assert_topics_are_denied(denied: &mut DeniedClient) {
    denied
        .assert(9, &[29], |names| produce_request(&names.topic, -1, batch(b"x")))
        .await;
    denied
        .assert(12, &[29], |names| fetch(&names.topic, Uuid::nil()))
        .await;
    denied.assert(7, &[29], |names| list_offsets(names.topic)).await;
    denied
        .assert(4, &[29], |names| OffsetForLeaderEpochRequest {
            topics: vec![OffsetForLeaderEpochTopic {
                topic: names.topic,
                partitions: vec![OffsetForLeaderEpochPartition::default()],
            }],
            ..OffsetForLeaderEpochRequest::default()
        })
        .await;
    denied.assert(12, &[29], |names| metadata(&names.topic)).await;
    denied.assert(12, &[], |_| MetadataRequest::default()).await;
    for topics in [true, false] {
        let codes: &[i16] = if topics { &[29] } else { &[] };
        denied
            .assert(0, codes, |names| DescribeTopicPartitionsRequest {
                topics: if topics {
                    vec![DescribeTopicPartitionsTopicRequest { name: names.topic }]
                } else {
                    Vec::new()
                },
                response_partition_limit: 100,
                cursor: None,
            })
            .await;
    }
}

/// Asks to change topics.
async fn assert_changes_are_denied(denied: &mut DeniedClient) {
    denied
        .assert(2, &[29], |names| DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: names.topic,
                partitions: vec![DeleteRecordsPartition::default()],
            }],
            ..DeleteRecordsRequest::default()
        })
        .await;
    denied
        .assert(5, &[29], |names| CreateTopicsRequest {
            topics: vec![CreateTopicsTopic {
                name: names.topic,
                num_partitions: 1,
                replication_factor: 1,
                ..CreateTopicsTopic::default()
            }],
            ..CreateTopicsRequest::default()
        })
        .await;
    denied
        .assert(6, &[29], |names| DeleteTopicsRequest {
            topics: vec![DeleteTopicsTopic {
                name: Some(names.topic),
                ..DeleteTopicsTopic::default()
            }],
            ..DeleteTopicsRequest::default()
        })
        .await;
    denied
        .assert(2, &[29], |names| CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: names.topic,
                count: 5,
                ..CreatePartitionsTopic::default()
            }],
            ..CreatePartitionsRequest::default()
        })
        .await;
    denied
        .assert(0, &[29], |names| DescribeProducersRequest {
            topics: vec![DescribeProducersTopicRequest {
                name: names.topic,
                partition_indexes: vec![0],
            }],
        })
        .await;
    denied
        .assert(4, &[31], |_| InitProducerIdRequest::default())
        .await;
}

/// Asks what concerns settings and the cluster.
async fn assert_settings_are_denied(denied: &mut DeniedClient) {
    let resources = |names: &RequestNames| {
        [
            (2, names.topic.clone()),
            (32, names.group.clone()),
            (4, "1".to_owned()),
        ]
    };
    denied
        .assert(4, &[29, 30, 31], |names| DescribeConfigsRequest {
            resources: resources(&names)
                .map(|(resource_type, resource_name)| DescribeConfigsResource {
                    resource_type,
                    resource_name,
                    configuration_keys: None,
                })
                .to_vec(),
            ..DescribeConfigsRequest::default()
        })
        .await;
    denied
        .assert(2, &[29, 30, 31], |names| AlterConfigsRequest {
            resources: resources(&names)
                .map(|(resource_type, resource_name)| AlterConfigsResource {
                    resource_type,
                    resource_name,
                    configs: Vec::new(),
                })
                .to_vec(),
            ..AlterConfigsRequest::default()
        })
        .await;
    denied
        .assert(1, &[29, 30, 31], |names| IncrementalAlterConfigsRequest {
            resources: resources(&names)
                .map(|(resource_type, resource_name)| IncrementalAlterConfigsResource {
                    resource_type,
                    resource_name,
                    configs: Vec::new(),
                })
                .to_vec(),
            ..IncrementalAlterConfigsRequest::default()
        })
        .await;
}

/// Asks what concerns the cluster.
async fn assert_cluster_is_denied(denied: &mut DeniedClient) {
    denied
        .assert(4, &[31], |_| DescribeLogDirsRequest { topics: None })
        .await;
    denied
        .assert(0, &[31], |_| ListPartitionReassignmentsRequest::default())
        .await;
    denied
        .assert(1, &[], |_| DescribeClusterRequest {
            include_cluster_authorized_operations: true,
            endpoint_type: 1,
            ..DescribeClusterRequest::default()
        })
        .await;
    denied
        .assert(3, &[31], |_| DescribeAclsRequest {
            resource_type_filter: 1,
            pattern_type_filter: 1,
            operation: 1,
            permission_type: 1,
            ..DescribeAclsRequest::default()
        })
        .await;
    denied
        .assert(3, &[31], |_| CreateAclsRequest {
            creations: vec![CreateAclsAclCreation::default()],
        })
        .await;
    denied
        .assert(3, &[31], |_| DeleteAclsRequest {
            filters: vec![DeleteAclsFilter::default()],
        })
        .await;
    denied
        .assert(1, &[31], |_| DescribeClientQuotasRequest::default())
        .await;
    denied
        .assert(1, &[31], |_| AlterClientQuotasRequest {
            entries: vec![AlterClientQuotasEntryData::default()],
            ..AlterClientQuotasRequest::default()
        })
        .await;
    denied
        .assert(0, &[31], |_| DescribeUserScramCredentialsRequest::default())
        .await;
    denied
        .assert(0, &[31], |_| AlterUserScramCredentialsRequest {
            deletions: vec![AlterUserScramCredentialsScramCredentialDeletion::default()],
            ..AlterUserScramCredentialsRequest::default()
        })
        .await;
}

/// Asks what concerns groups.
async fn assert_groups_are_denied(denied: &mut DeniedClient) {
    denied.assert(8, &[30], commit).await;
    denied
        .assert(8, &[30], |names| {
            fetch_offsets(&names.group, Some(&[&names.topic]))
        })
        .await;
    denied
        .assert(8, &[30], |names| fetch_offsets(&names.group, None))
        .await;
    denied
        .assert(1, &[30], |names| OffsetFetchRequest {
            group_id: names.group,
            topics: Some(vec![OffsetFetchRequestTopic {
                name: names.topic,
                partition_indexes: vec![0],
            }]),
            ..OffsetFetchRequest::default()
        })
        .await;
    denied
        .assert(4, &[30], |names| FindCoordinatorRequest {
            coordinator_keys: vec![names.group],
            ..FindCoordinatorRequest::default()
        })
        .await;
    denied.assert(4, &[], |_| ListGroupsRequest::default()).await;
    denied
        .assert(0, &[30], |names| OffsetDeleteRequest {
            group_id: names.group,
            topics: vec![OffsetDeleteRequestTopic {
                name: names.topic,
                partitions: vec![OffsetDeleteRequestPartition::default()],
            }],
        })
        .await;
}

/// Asks what members and their administrators ask.
async fn assert_members_are_denied(denied: &mut DeniedClient) {
    denied
        .assert(5, &[30], |names| JoinGroupRequest {
            group_id: names.group,
            session_timeout_ms: 30_000,
            protocol_type: "consumer".to_owned(),
            ..JoinGroupRequest::default()
        })
        .await;
    denied
        .assert(3, &[30], |names| SyncGroupRequest {
            group_id: names.group,
            ..SyncGroupRequest::default()
        })
        .await;
    denied
        .assert(4, &[30], |names| HeartbeatRequest {
            group_id: names.group,
            ..HeartbeatRequest::default()
        })
        .await;
    denied
        .assert(4, &[30], |names| LeaveGroupRequest {
            group_id: names.group,
            members: vec![LeaveGroupMemberIdentity::default()],
            ..LeaveGroupRequest::default()
        })
        .await;
    denied
        .assert(5, &[30], |names| DescribeGroupsRequest {
            groups: vec![names.group],
            include_authorized_operations: true,
        })
        .await;
    denied
        .assert(2, &[30], |names| DeleteGroupsRequest {
            groups_names: vec![names.group],
        })
        .await;
    denied
        .assert(1, &[30], |names| heartbeat(&names.group, &[&names.topic]))
        .await;
    denied
        .assert(1, &[30], |names| ConsumerGroupDescribeRequest {
            group_ids: vec![names.group],
            include_authorized_operations: true,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_nothing_learns_nothing() {
    let (_stores, one, topic_id) = started().await;
    let client = log_in(&one, "mallory", "mallory").await;
    let asked = BTreeSet::new();
    let mut denied = DeniedClient { client, asked };
    assert_topics_are_denied(&mut denied).await;
    assert_changes_are_denied(&mut denied).await;
    assert_settings_are_denied(&mut denied).await;
    assert_cluster_is_denied(&mut denied).await;
    assert_groups_are_denied(&mut denied).await;
    assert_members_are_denied(&mut denied).await;
    let DeniedClient { mut client, asked } = denied;
    let served = client.call(&ApiVersionsRequest::default(), 2).await.api_keys;
    let open = [
        ApiKey::ApiVersions,
        ApiKey::SaslHandshake,
        ApiKey::SaslAuthenticate,
    ];
    let open = open.map(ApiKey::number);
    let served = served.into_iter().map(|range| range.api_key);
    let left: Vec<i16> = served
        .filter(|key| !open.contains(key) && !asked.contains(key))
        .collect();
    assert_eq!(left, [0_i16; 0], "each API is asked");
    assert_ids_are_unknown(&mut client, topic_id).await;
    one.drain().await;
}

/// Asserts that what is forbidden is unknown to clients that name it by its id.
async fn assert_ids_are_unknown(client: &mut RawKafkaClient, topic_id: Uuid) {
    for id in [topic_id, Uuid::from_u128(7)] {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                topic_id: id,
                name: None,
            }]),
            ..MetadataRequest::default()
        };
        let topic = client.call(&request, 12).await.topics.remove(0);
        assert_eq!((topic.error_code, topic.name), (100, None));
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicsTopic {
                name: None,
                topic_id: id,
            }],
            ..DeleteTopicsRequest::default()
        };
        let topic = client.call(&request, 6).await.responses.remove(0);
        assert_eq!((topic.error_code, topic.name), (100, None));
    }
    let fetched = client.call(&fetch("", topic_id), 13).await;
    let data = &fetched.responses[0].partitions[0];
    assert_eq!((data.error_code, data.high_watermark), (29, -1));
}

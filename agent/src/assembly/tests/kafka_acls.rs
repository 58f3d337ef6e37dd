//! What Kafka clients may do: without ACLs nothing, and they learn nothing; with one what it says.

use std::collections::BTreeSet;

use bytes::Bytes;
use streamhouse_core::kafka::*;
use uuid::Uuid;

use super::{
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    kafka_sasl::{MECHANISMS, allow, log_in, put_user},
    stores::FaultyStores,
    *,
};

const ACLS: [&str; 3] = [MECHANISMS, "--authorization=acl", "--super-users=User:admin"];

/// What a request names.
#[derive(Clone)]
struct RequestNames {
    topic: String,
    group: String,
}

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
            let frame = timeout(EVENT_TIMEOUT, self.client.receive_frame()).await;
            let frame = frame.expect("an answer in time").unwrap();
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

/// Starts an agent with a topic and a group, a super user and a user who may do nothing.
async fn started() -> (FaultyStores, Agent, Uuid) {
    let stores = FaultyStores::new().await;
    let more = [&ACLS[..], &["--kafka-auto-create-partitions=1"]].concat();
    let one = stores.start_ready_agent("one", &more).await;
    for user in ["admin", "mallory"] {
        put_user(&stores, &one, user, user).await;
    }
    let topic = create_topic(&one, "topic-there", 1).await;
    let mut admin = log_in(&one, "admin", "admin").await;
    let produced_at = admin
        .call(&produce_request("topic-there", -1, batch(b"secret")), 9)
        .await;
    assert_eq!(produced(&produced_at), (0, 0));
    let request = commit(RequestNames {
        topic: "topic-there".to_owned(),
        group: "group-there".to_owned(),
    });
    assert_eq!(
        admin.call(&request, 8).await.topics[0].partitions[0].error_code,
        0
    );
    (stores, one, topic.topic_id.parse().unwrap())
}

fn commit(names: RequestNames) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: names.group,
        topics: vec![OffsetCommitRequestTopic {
            name: names.topic,
            partitions: vec![OffsetCommitRequestPartition::default()],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

fn fetch(topic: &str, topic_id: Uuid) -> FetchRequest {
    FetchRequest {
        replica_id: -1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: topic.to_owned(),
            topic_id,
            partitions: vec![FetchPartition {
                partition_max_bytes: 1 << 20,
                current_leader_epoch: -1,
                ..FetchPartition::default()
            }],
        }],
        ..FetchRequest::default()
    }
}

fn metadata(topic: &str) -> MetadataRequest {
    MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(topic.to_owned()),
            ..MetadataRequestTopic::default()
        }]),
        allow_auto_topic_creation: true,
        include_topic_authorized_operations: true,
        ..MetadataRequest::default()
    }
}

fn fetch_offsets(group: &str, topics: Option<&[&str]>) -> OffsetFetchRequest {
    let topic = |name: &&str| OffsetFetchRequestTopics {
        name: (*name).to_owned(),
        partition_indexes: vec![0],
        ..OffsetFetchRequestTopics::default()
    };
    OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: topics.map(|topics| topics.iter().map(topic).collect()),
            ..OffsetFetchRequestGroup::default()
        }],
        ..OffsetFetchRequest::default()
    }
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
    denied.assert(4, &[], |_| ListGroupsRequest::default()).await;
    denied
        .assert(2, &[30], |names| DeleteGroupsRequest {
            groups_names: vec![names.group],
        })
        .await;
    denied
        .assert(0, &[30], |names| OffsetDeleteRequest {
            group_id: names.group,
            topics: vec![OffsetDeleteRequestTopic {
                name: names.topic,
                partitions: vec![OffsetDeleteRequestPartition::default()],
            }],
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

fn heartbeat(group: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: group.to_owned(),
        member_id: "member".to_owned(),
        rebalance_timeout_ms: 30_000,
        subscribed_topic_names: Some(topics.iter().map(ToString::to_string).collect()),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_nothing_learns_nothing() {
    let (_stores, one, topic_id) = started().await;
    let client = log_in(&one, "mallory", "mallory").await;
    let asked = BTreeSet::new();
    let mut denied = DeniedClient { client, asked };
    assert_topics_are_denied(&mut denied).await;
    assert_settings_are_denied(&mut denied).await;
    assert_groups_are_denied(&mut denied).await;
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
    // By id, what is forbidden is unknown.
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
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_allows_what_it_says() {
    let (stores, one, _) = started().await;
    create_topic(&one, "other", 1).await;
    put_user(&stores, &one, "carol", "carol").await;
    let acls = [
        ("carol", "READ", "TOPIC", "topic-there"),
        ("carol", "READ", "GROUP", "group-there"),
        ("carol", "DESCRIBE", "TOPIC", "topic-new"),
    ];
    allow(&stores, &one, &acls).await;
    let mut carol = log_in(&one, "carol", "carol").await;
    let all = carol.call(&MetadataRequest::default(), 12).await;
    let names: Vec<_> = all.topics.iter().filter_map(|topic| topic.name.clone()).collect();
    assert_eq!(names, ["topic-there"]);
    let topic = carol.call(&metadata("topic-there"), 12).await.topics.remove(0);
    // READ and DESCRIBE.
    assert_eq!(
        (topic.error_code, topic.topic_authorized_operations),
        (0, 1 << 3 | 1 << 8)
    );
    let new = carol.call(&metadata("topic-new"), 12).await.topics.remove(0);
    assert_eq!(new.error_code, 29, "it may not create topics");
    let fetched = carol.call(&fetch("topic-there", Uuid::nil()), 12).await;
    assert_eq!(fetched.responses[0].partitions[0].error_code, 0);
    let refused = carol
        .call(&produce_request("topic-there", -1, batch(b"x")), 9)
        .await;
    assert_eq!(produced(&refused).0, 29);
    assert_eq!(
        carol.call(&InitProducerIdRequest::default(), 4).await.error_code,
        31
    );
    let groups = carol.call(&ListGroupsRequest::default(), 4).await.groups;
    assert_eq!(groups.len(), 1);
    let request = DescribeGroupsRequest {
        groups: vec!["group-there".to_owned()],
        include_authorized_operations: true,
    };
    let group = carol.call(&request, 5).await.groups.remove(0);
    assert_eq!(
        (group.error_code, group.authorized_operations),
        (0, 1 << 3 | 1 << 8)
    );
    allow(&stores, &one, &[("carol", "WRITE", "TOPIC", "other")]).await;
    assert_eq!(
        carol.call(&InitProducerIdRequest::default(), 4).await.error_code,
        0
    );
    let accepted = carol.call(&produce_request("other", -1, batch(b"x")), 9).await;
    assert_eq!(produced(&accepted), (0, 0));
    allow(&stores, &one, &[("carol", "CREATE", "TOPIC", "topic-new")]).await;
    let new = carol.call(&metadata("topic-new"), 12).await.topics.remove(0);
    assert_ne!(new.error_code, 29);
    assert_ne!(new.topic_id, Uuid::nil());
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_gets_the_offsets_of_the_topics_that_it_may_see() {
    let (stores, one, _) = started().await;
    create_topic(&one, "other", 1).await;
    let mut admin = log_in(&one, "admin", "admin").await;
    let names = |topic: &str| RequestNames {
        topic: topic.to_owned(),
        group: "group-there".to_owned(),
    };
    admin.call(&commit(names("other")), 8).await;
    put_user(&stores, &one, "carol", "carol").await;
    let acls = [
        ("carol", "READ", "TOPIC", "topic-there"),
        ("carol", "READ", "GROUP", "group-there"),
        ("carol", "READ", "GROUP", "group-new"),
        ("carol", "DELETE", "GROUP", "group-there"),
    ];
    allow(&stores, &one, &acls).await;
    let mut carol = log_in(&one, "carol", "carol").await;
    let mut request = commit(names("other"));
    request.topics.push(commit(names("topic-there")).topics.remove(0));
    let committed = carol.call(&request, 8).await;
    let codes = committed
        .topics
        .iter()
        .map(|topic| topic.partitions[0].error_code);
    assert_eq!(codes.collect::<Vec<_>>(), [29, 0]);
    for (topics, expected) in [
        (None, vec![("topic-there", 0)]),
        (
            Some(&["other", "topic-there"][..]),
            vec![("other", 29), ("topic-there", 0)],
        ),
    ] {
        let mut fetched = carol.call(&fetch_offsets("group-there", topics), 8).await;
        let group = fetched.groups.remove(0);
        let found = group
            .topics
            .iter()
            .map(|topic| (topic.name.as_str(), topic.partitions[0].error_code));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
    let request = OffsetDeleteRequest {
        group_id: "group-there".to_owned(),
        topics: ["other", "topic-there"]
            .map(|name| OffsetDeleteRequestTopic {
                name: name.to_owned(),
                partitions: vec![OffsetDeleteRequestPartition::default()],
            })
            .to_vec(),
    };
    let deleted = carol.call(&request, 0).await;
    let codes = deleted.topics.iter().map(|topic| topic.partitions[0].error_code);
    assert_eq!(codes.collect::<Vec<_>>(), [29, 0]);
    let joined = carol.call(&heartbeat("group-new", &["topic-there"]), 1).await;
    assert_eq!(joined.error_code, 0);
    let refused = carol.call(&heartbeat("group-new", &["other"]), 1).await;
    assert_eq!(refused.error_code, 29);
    let mut by_expression = heartbeat("group-new", &[]);
    by_expression.subscribed_topic_names = None;
    by_expression.subscribed_topic_regex = Some("topic-.*".to_owned());
    assert_eq!(carol.call(&by_expression, 1).await.error_code, 29);
    // Of a group with topics of others.
    let mut other_member = heartbeat("group-new", &["other"]);
    other_member.member_id = "another member".to_owned();
    assert_eq!(admin.call(&other_member, 1).await.error_code, 0);
    let request = ConsumerGroupDescribeRequest {
        group_ids: vec!["group-new".to_owned()],
        ..ConsumerGroupDescribeRequest::default()
    };
    let described = carol.call(&request, 1).await.groups.remove(0);
    assert_eq!((described.error_code, described.members.len()), (29, 0));
    assert_eq!(admin.call(&request, 1).await.groups[0].error_code, 0);
    one.drain().await;
}

//! What ACLs allow Kafka clients to do.

use streamhouse_core::kafka::*;
use uuid::Uuid;

use super::{
    kafka_client::{batch, produce_request, produced},
    kafka_sasl::{ACLS, allow, log_in, put_user},
    stores::FaultyStores,
    *,
};

/// What a request names.
#[derive(Clone)]
pub(super) struct RequestNames {
    pub(super) topic: String,
    pub(super) group: String,
}

/// Starts an agent with a topic and a group, a super user and a user who may do nothing.
pub(super) async fn started() -> (FaultyStores, Agent, Uuid) {
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

pub(super) fn commit(names: RequestNames) -> OffsetCommitRequest {
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

pub(super) fn fetch(topic: &str, topic_id: Uuid) -> FetchRequest {
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

pub(super) fn metadata(topic: &str) -> MetadataRequest {
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

pub(super) fn fetch_offsets(group: &str, topics: Option<&[&str]>) -> OffsetFetchRequest {
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

pub(super) fn heartbeat(group: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
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
    let denied = r#"authorization_denied_total{operation="DESCRIBE",resource="TOPIC"} 1"#;
    let is_counted = || one.node.metrics.render().unwrap().contains(denied);
    assert!(!is_counted());
    let other = carol.call(&metadata("other"), 12).await.topics.remove(0);
    assert_eq!((other.error_code, is_counted()), (29, true));
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
    let committed = admin.call(&commit(names("other")), 8).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    put_user(&stores, &one, "carol", "carol").await;
    let acls = [
        ("carol", "READ", "TOPIC", "topic-there"),
        ("carol", "READ", "GROUP", "group-there"),
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
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_subscribes_to_the_topics_that_it_may_see() {
    let (stores, one, _) = started().await;
    create_topic(&one, "other", 1).await;
    let mut admin = log_in(&one, "admin", "admin").await;
    put_user(&stores, &one, "carol", "carol").await;
    let acls = [
        ("carol", "READ", "TOPIC", "topic-there"),
        ("carol", "READ", "GROUP", "group-new"),
    ];
    allow(&stores, &one, &acls).await;
    let mut carol = log_in(&one, "carol", "carol").await;
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

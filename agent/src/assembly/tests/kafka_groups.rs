//! Groups over the Kafka protocol, with the codes of Kafka 4.3.1.

use streamhouse_core::{
    consumer_protocol::ConsumerSubscription,
    kafka::{
        ConsumerGroupDescribeRequest, DescribeGroupsRequest, FindCoordinatorRequest, JoinGroupRequest,
        JoinGroupRequestProtocol, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
        OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetDeleteRequest,
        OffsetDeleteRequestPartition, OffsetDeleteRequestTopic, OffsetFetchRequest, OffsetFetchRequestGroup,
        OffsetFetchRequestTopics, OffsetFetchResponsePartitions, SyncGroupRequest,
    },
};
use uuid::Uuid;

use super::{kafka_client::RawKafkaClient, stores::FaultyStores, *};

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_topics_that_members_read_are_not_deleted() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    for topic in ["read", "left"] {
        create_topic(&one, topic, 1).await;
    }
    let mut client = RawKafkaClient::connect(&one).await;
    let delete = async |client: &mut RawKafkaClient, group: &str| {
        let topic = |name: &str| OffsetDeleteRequestTopic {
            name: name.to_owned(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        };
        let request = OffsetDeleteRequest {
            group_id: group.to_owned(),
            topics: vec![topic("read"), topic("left"), topic("nowhere")],
        };
        let answer = client.call(&request, 0).await;
        let codes = answer.topics.iter().map(|topic| topic.partitions[0].error_code);
        (answer.error_code, codes.collect::<Vec<_>>())
    };
    assert_eq!(delete(&mut client, "readers").await, (69, vec![]));
    assert_eq!(delete(&mut client, "").await, (24, vec![]));
    let (member, generation) = join(&mut client, "readers", "consumer", &["read"]).await;
    commit(&mut client, "readers", (&member, generation), &["read", "left"]).await;
    assert_eq!(delete(&mut client, "readers").await, (0, vec![86, 0, 3]));
    assert_eq!(committed(&mut client, "readers").await, ["read"]);
    leave(&mut client, "readers", &member).await;
    assert_eq!(delete(&mut client, "readers").await, (0, vec![0, 0, 3]));
    assert_eq!(committed(&mut client, "readers").await, Vec::<String>::new());
    join(&mut client, "workers", "connect", &["read"]).await;
    assert_eq!(delete(&mut client, "workers").await, (68, vec![]));
    one.drain().await;
}

/// Joins a group as its only member; returns the member's id and the generation.
async fn join(client: &mut RawKafkaClient, group: &str, protocol: &str, topics: &[&str]) -> (String, i32) {
    let subscription = ConsumerSubscription {
        topics: topics.iter().map(ToString::to_string).collect(),
        ..ConsumerSubscription::default()
    };
    let request = JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: protocol.to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: subscription.encode(),
        }],
        ..JoinGroupRequest::default()
    };
    let joined = client.call(&request, 3).await;
    assert_eq!(joined.error_code, 0);
    let request = SyncGroupRequest {
        group_id: group.to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..SyncGroupRequest::default()
    };
    assert_eq!(client.call(&request, 3).await.error_code, 0);
    (joined.member_id, joined.generation_id)
}

async fn leave(client: &mut RawKafkaClient, group: &str, member: &str) {
    let request = LeaveGroupRequest {
        group_id: group.to_owned(),
        member_id: member.to_owned(),
        ..LeaveGroupRequest::default()
    };
    assert_eq!(client.call(&request, 2).await.error_code, 0);
}

async fn commit(
    client: &mut RawKafkaClient,
    group: &str,
    (member, generation): (&str, i32),
    topics: &[&str],
) {
    let topics = topics.iter().map(|name| OffsetCommitRequestTopic {
        name: (*name).to_owned(),
        partitions: vec![OffsetCommitRequestPartition::default()],
        ..OffsetCommitRequestTopic::default()
    });
    let request = OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: generation,
        member_id: member.to_owned(),
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    };
    let answer = client.call(&request, 8).await;
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    assert!(partitions.into_iter().all(|partition| partition.error_code == 0));
}

/// Returns the topics for which a group has committed offsets.
async fn committed(client: &mut RawKafkaClient, group: &str) -> Vec<String> {
    let request = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: None,
            ..OffsetFetchRequestGroup::default()
        }],
        ..OffsetFetchRequest::default()
    };
    let answer = client.call(&request, 8).await;
    let topics = answer.groups[0].topics.iter().map(|topic| topic.name.clone());
    topics.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_by_state_and_type_and_unknown_ones_are_dead() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    join(&mut client, "readers", "consumer", &["orders"]).await;
    commit(&mut client, "alone", ("", -1), &["orders"]).await;
    let list = |states: &[&str], types: &[&str]| ListGroupsRequest {
        states_filter: states.iter().map(ToString::to_string).collect(),
        types_filter: types.iter().map(ToString::to_string).collect(),
    };
    for (states, types, expected) in [
        (&[][..], &[][..], &["alone", "readers"][..]),
        (&["STABLE"], &[], &["readers"]),
        (&["empty"], &["cLassic"], &["alone"]),
        (&["Dead"], &[], &[]),
        (&[], &["consumer"], &[]),
        (&[], &["nonsense"], &[]),
    ] {
        let listed = client.call(&list(states, types), 5).await.groups;
        let names: Vec<&str> = listed.iter().map(|group| &group.group_id[..]).collect();
        assert_eq!(names, expected, "{states:?} {types:?}");
        assert!(listed.iter().all(|group| group.group_type == "classic"));
    }
    for (version, code) in [(0, 0), (5, 0), (6, 69)] {
        let request = DescribeGroupsRequest {
            groups: vec!["nobody".to_owned(), String::new()],
            ..DescribeGroupsRequest::default()
        };
        for group in client.call(&request, version).await.groups {
            assert_eq!((group.error_code, &group.group_state[..]), (code, "Dead"));
        }
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_of_many_groups_cost_one_look_at_the_cluster() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let find = |key_type: i8| FindCoordinatorRequest {
        key_type,
        coordinator_keys: (0..2_000).map(|number| format!("group-{number}")).collect(),
        ..FindCoordinatorRequest::default()
    };
    for (key_type, code) in [(0, 0), (1, 53), (2, 42), (9, 42)] {
        let found = client.call(&find(key_type), 6).await.coordinators;
        assert_eq!(found.len(), 2_000);
        assert!(found.iter().all(|found| found.error_code == code), "{key_type}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_request_names_again_is_answered_once() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let names = ["a", "b", "a", "a"].map(str::to_owned);
    let request = ConsumerGroupDescribeRequest {
        group_ids: names.to_vec(),
        ..ConsumerGroupDescribeRequest::default()
    };
    let answer = client.call(&request, 0).await;
    let described = answer.groups.iter().map(|group| group.group_id.as_str());
    assert_eq!(described.collect::<Vec<_>>(), ["a", "b"]);
    let request = DescribeGroupsRequest {
        groups: names.to_vec(),
        ..DescribeGroupsRequest::default()
    };
    let answer = client.call(&request, 5).await;
    let described = answer.groups.iter().map(|group| group.group_id.as_str());
    assert_eq!(described.collect::<Vec<_>>(), ["a", "b"]);
    let groups = names.map(|group_id| OffsetFetchRequestGroup {
        group_id,
        topics: None,
        ..OffsetFetchRequestGroup::default()
    });
    let request = OffsetFetchRequest {
        groups: groups.to_vec(),
        ..OffsetFetchRequest::default()
    };
    let answer = client.call(&request, 8).await;
    let fetched = answer.groups.iter().map(|group| group.group_id.as_str());
    assert_eq!(fetched.collect::<Vec<_>>(), ["a", "b"]);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_topic_ids_that_no_topic_has_are_answered_under_their_ids() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let ids = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let topics = ids.map(|topic_id| OffsetFetchRequestTopics {
        topic_id,
        partition_indexes: vec![0, 7],
        ..OffsetFetchRequestTopics::default()
    });
    let request = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: "readers".to_owned(),
            topics: Some(topics.to_vec()),
            ..OffsetFetchRequestGroup::default()
        }],
        ..OffsetFetchRequest::default()
    };
    let answer = client.call(&request, 10).await;
    let group = &answer.groups[0];
    let partitions = group.topics.iter().flat_map(|topic| {
        let id = topic.topic_id;
        let partition = move |part: &OffsetFetchResponsePartitions| {
            (id, part.partition_index, part.committed_offset, part.error_code)
        };
        topic.partitions.iter().map(partition)
    });
    let each = |id| [(id, 0, -1, 100), (id, 7, -1, 100)];
    assert_eq!(partitions.collect::<Vec<_>>(), ids.map(each).concat());
    assert_eq!(group.error_code, 0);
    one.drain().await;
}

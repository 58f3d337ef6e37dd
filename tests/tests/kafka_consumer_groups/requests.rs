//! Request by request, with members that are none but their requests.

use anyhow::Context as _;
use streamhouse_core::kafka::{
    ApiVersionsRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatTopicPartitions, DeleteGroupsRequest, DescribeGroupsRequest, JoinGroupRequest,
    JoinGroupRequestProtocol, LeaveGroupMemberIdentity, LeaveGroupRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetFetchRequest,
    OffsetFetchRequestGroup,
};
use streamhouse_tests::{TestCluster, kafka::KafkaConnection};

use super::{
    GROUP, GROUP_ID_NOT_FOUND, NONE, QuickCluster, TOPIC, TestResult, connect_to_coordinator, describe,
};

const UNKNOWN_MEMBER_ID: i16 = 25;
const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const INVALID_REQUEST: i16 = 42;
const NON_EMPTY_GROUP: i16 = 68;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED_MEMBER_EPOCH: i16 = 110;
const UNRELEASED_INSTANCE_ID: i16 = 111;
const UNSUPPORTED_ASSIGNOR: i16 = 112;
const STALE_MEMBER_EPOCH: i16 = 113;
const INVALID_REGULAR_EXPRESSION: i16 = 128;

fn heartbeat(member_id: &str, member_epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: GROUP.to_owned(),
        member_id: member_id.to_owned(),
        member_epoch,
        ..ConsumerGroupHeartbeatRequest::default()
    }
}

fn join(member_id: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..heartbeat(member_id, 0)
    }
}

fn partitions(response: &ConsumerGroupHeartbeatResponse) -> Option<Vec<i32>> {
    let assignment = response.assignment.as_ref()?;
    let topics = assignment.topic_partitions.iter();
    Some(topics.flat_map(|topic| topic.partitions.clone()).collect())
}

async fn group_type(connection: &mut KafkaConnection) -> anyhow::Result<Option<(String, String)>> {
    let groups = connection.call(&ListGroupsRequest::default(), 5).await?.groups;
    let mut found = groups.into_iter().filter(|group| group.group_id == GROUP);
    Ok(found.next().map(|group| (group.group_type, group.group_state)))
}

async fn join_classic(connection: &mut KafkaConnection, member_id: &str) -> anyhow::Result<(i16, String)> {
    let request = JoinGroupRequest {
        group_id: GROUP.to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: Default::default(),
        }],
        ..JoinGroupRequest::default()
    };
    let response = connection.call(&request, 9).await?;
    Ok((response.error_code, response.member_id))
}

fn offset_commit(member_id: &str, epoch: i32, offset: i64) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: GROUP.to_owned(),
        generation_id_or_member_epoch: epoch,
        member_id: member_id.to_owned(),
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                ..OffsetCommitRequestPartition::default()
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

async fn commit(
    connection: &mut KafkaConnection,
    member_id: &str,
    epoch: i32,
    offset: i64,
) -> anyhow::Result<i16> {
    let response = connection
        .call(&offset_commit(member_id, epoch, offset), 9)
        .await?;
    Ok(response.topics[0].partitions[0].error_code)
}

/// Returns the error and the committed offsets of a group, as a member sees them.
async fn fetch_offsets(
    connection: &mut KafkaConnection,
    member_id: Option<&str>,
    member_epoch: i32,
) -> anyhow::Result<(i16, Vec<i64>)> {
    let request = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: GROUP.to_owned(),
            member_id: member_id.map(str::to_owned),
            member_epoch,
            topics: None,
        }],
        ..OffsetFetchRequest::default()
    };
    let group = connection.call(&request, 9).await?.groups.remove(0);
    let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
    Ok((
        group.error_code,
        partitions.map(|part| part.committed_offset).collect(),
    ))
}

async fn check_announcement(agent: &mut KafkaConnection) -> TestResult {
    let request = ApiVersionsRequest {
        client_software_name: "test".to_owned(),
        client_software_version: "1".to_owned(),
    };
    let features = agent.call(&request, 4).await?;
    let feature = features.finalized_features.first().context("a feature")?;
    assert_eq!(
        (feature.name.as_str(), feature.max_version_level),
        ("group.version", 1)
    );
    let ranges = features
        .api_keys
        .iter()
        .filter(|range| matches!(range.api_key, 68 | 69));
    assert!(
        ranges
            .map(|range| (range.min_version, range.max_version))
            .eq([(0, 1), (0, 1)])
    );
    Ok(())
}

/// Lets members "a" and "b" join; they share the partitions in epoch 2.
async fn join_two_members(agent: &mut KafkaConnection) -> TestResult {
    let first = agent.call(&join("a"), 1).await?;
    assert_eq!(
        (first.error_code, first.member_epoch, partitions(&first)),
        (NONE, 1, Some(vec![0, 1, 2, 3]))
    );
    assert!(first.heartbeat_interval_ms > 0);
    let second = agent.call(&join("b"), 1).await?;
    assert_eq!((second.member_epoch, partitions(&second)), (2, Some(vec![])));
    let reconciling = ("consumer".to_owned(), "Reconciling".to_owned());
    assert_eq!(group_type(agent).await?, Some(reconciling));
    let asked = agent.call(&heartbeat("a", 1), 1).await?;
    assert_eq!((asked.member_epoch, partitions(&asked)), (1, Some(vec![0, 1])));
    let topic_id = first
        .assignment
        .as_ref()
        .context("an assignment")?
        .topic_partitions[0]
        .topic_id;
    let owned = vec![ConsumerGroupHeartbeatTopicPartitions {
        topic_id,
        partitions: vec![0, 1],
    }];
    let acknowledged = ConsumerGroupHeartbeatRequest {
        topic_partitions: Some(owned),
        ..heartbeat("a", 1)
    };
    assert_eq!(agent.call(&acknowledged, 1).await?.member_epoch, 2);
    assert_eq!(
        partitions(&agent.call(&heartbeat("b", 2), 1).await?),
        Some(vec![2, 3])
    );
    Ok(())
}

async fn check_description(agent: &mut KafkaConnection) -> TestResult {
    let group = describe(agent).await?;
    assert_eq!(
        (
            group.group_state.as_str(),
            group.group_epoch,
            group.assignment_epoch
        ),
        ("Stable", 2, 2)
    );
    assert_eq!(
        (group.assignor_name.as_str(), group.members.len()),
        ("uniform", 2)
    );
    let member = &group.members[0];
    assert_eq!(
        (member.member_id.as_str(), member.member_epoch, member.member_type),
        ("a", 2, 1)
    );
    assert_eq!(member.client_host, "/127.0.0.1");
    assert_eq!(member.assignment.topic_partitions[0].topic_name, TOPIC);
    assert_eq!(member.assignment.topic_partitions[0].partitions, [0, 1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_and_are_fenced_by_their_epochs() -> TestResult {
    let QuickCluster { cluster, _folder } = QuickCluster::start(1)?;
    cluster.create_topic(TOPIC, 4).await?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    check_announcement(&mut agent).await?;
    join_two_members(&mut agent).await?;
    check_description(&mut agent).await?;
    assert_eq!(
        agent.call(&heartbeat("a", 1), 1).await?.error_code,
        FENCED_MEMBER_EPOCH
    );
    assert_eq!(
        agent.call(&heartbeat("c", 1), 1).await?.error_code,
        UNKNOWN_MEMBER_ID
    );
    assert_eq!(commit(&mut agent, "a", 2, 5).await?, NONE);
    // Partition 0 has been the member's since epoch 1.
    assert_eq!(commit(&mut agent, "a", 1, 6).await?, NONE);
    assert_eq!(commit(&mut agent, "b", 1, 7).await?, STALE_MEMBER_EPOCH);
    assert_eq!(commit(&mut agent, "c", 2, 7).await?, UNKNOWN_MEMBER_ID);
    assert_eq!(fetch_offsets(&mut agent, Some("a"), 2).await?, (NONE, vec![6]));
    assert_eq!(fetch_offsets(&mut agent, None, -1).await?, (NONE, vec![6]));
    assert_eq!(
        fetch_offsets(&mut agent, Some("a"), 1).await?.0,
        STALE_MEMBER_EPOCH
    );
    assert_eq!(
        fetch_offsets(&mut agent, Some("c"), 1).await?.0,
        UNKNOWN_MEMBER_ID
    );
    // The command line and the console show the members as those of the classic protocol.
    let described = cluster.admin()?.describe_group(GROUP).await?;
    assert_eq!((described.state.as_str(), described.members.len()), ("Stable", 2));
    Ok(())
}

async fn leave_classic(connection: &mut KafkaConnection, member_id: String) -> anyhow::Result<i16> {
    let request = LeaveGroupRequest {
        group_id: GROUP.to_owned(),
        members: vec![LeaveGroupMemberIdentity {
            member_id,
            ..LeaveGroupMemberIdentity::default()
        }],
        ..LeaveGroupRequest::default()
    };
    let response = connection.call(&request, 5).await?;
    Ok(response.members[0].error_code)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_change_their_protocol_only_without_members() -> TestResult {
    let QuickCluster { cluster, _folder } = QuickCluster::start(1)?;
    cluster.create_topic(TOPIC, 2).await?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    let describe_classic = DescribeGroupsRequest {
        groups: vec![GROUP.to_owned()],
        ..DescribeGroupsRequest::default()
    };
    let delete = DeleteGroupsRequest {
        groups_names: vec![GROUP.to_owned()],
    };
    assert_eq!(describe(&mut agent).await?.error_code, GROUP_ID_NOT_FOUND);
    assert_eq!(
        agent.call(&heartbeat("a", 1), 1).await?.error_code,
        GROUP_ID_NOT_FOUND
    );
    let joined = agent.call(&join("a"), 1).await?;
    assert_eq!(joined.error_code, NONE);
    assert_eq!(join_classic(&mut agent, "").await?.0, INCONSISTENT_GROUP_PROTOCOL);
    let described = agent.call(&describe_classic, 6).await?.groups.remove(0);
    assert_eq!(
        (described.error_code, described.group_state.as_str()),
        (GROUP_ID_NOT_FOUND, "Dead")
    );
    let described = agent.call(&describe_classic, 5).await?.groups.remove(0);
    assert_eq!(
        (described.error_code, described.group_state.as_str()),
        (NONE, "Dead")
    );
    assert_eq!(commit(&mut agent, "a", joined.member_epoch, 5).await?, NONE);
    assert_eq!(
        agent.call(&delete, 2).await?.results[0].error_code,
        NON_EMPTY_GROUP
    );

    // An empty group keeps its protocol until another member joins, and its offsets longer.
    assert_eq!(agent.call(&heartbeat("a", -1), 1).await?.error_code, NONE);
    assert_eq!(
        group_type(&mut agent).await?,
        Some(("consumer".to_owned(), "Empty".to_owned()))
    );
    assert_eq!(
        agent.call(&heartbeat("a", 1), 1).await?.error_code,
        UNKNOWN_MEMBER_ID
    );
    let (error, member_id) = join_classic(&mut agent, "").await?;
    assert_eq!(error, MEMBER_ID_REQUIRED);
    assert_eq!(join_classic(&mut agent, &member_id).await?.0, NONE);
    assert_eq!(group_type(&mut agent).await?.context("the group")?.0, "classic");
    assert_eq!(agent.call(&join("a"), 1).await?.error_code, GROUP_ID_NOT_FOUND);
    assert_eq!(describe(&mut agent).await?.error_code, GROUP_ID_NOT_FOUND);
    assert_eq!(leave_classic(&mut agent, member_id).await?, NONE);
    let back = agent.call(&join("a"), 1).await?;
    assert_eq!((back.error_code, partitions(&back)), (NONE, Some(vec![0, 1])));
    assert_eq!(
        fetch_offsets(&mut agent, Some("a"), back.member_epoch).await?,
        (NONE, vec![5])
    );
    assert_eq!(agent.call(&heartbeat("a", -1), 1).await?.error_code, NONE);
    assert_eq!(agent.call(&delete, 2).await?.results[0].error_code, NONE);
    assert_eq!(group_type(&mut agent).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_heartbeats_are_refused() -> TestResult {
    let QuickCluster { cluster, _folder } = QuickCluster::start(1)?;
    cluster.create_topic(TOPIC, 1).await?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    type Request = ConsumerGroupHeartbeatRequest;
    let changed = |change: fn(&mut Request)| {
        let mut request = join("a");
        change(&mut request);
        request
    };
    for (expected, request) in [
        (INVALID_REQUEST, changed(|request| request.member_id.clear())),
        (INVALID_REQUEST, changed(|request| request.group_id.clear())),
        (INVALID_REQUEST, changed(|request| request.member_epoch = -3)),
        (INVALID_REQUEST, changed(|request| request.member_epoch = -2)),
        (
            INVALID_REQUEST,
            changed(|request| request.rebalance_timeout_ms = -1),
        ),
        (
            INVALID_REQUEST,
            changed(|request| request.topic_partitions = None),
        ),
        (
            INVALID_REQUEST,
            changed(|request| request.subscribed_topic_names = None),
        ),
        (
            INVALID_REQUEST,
            changed(|request| request.instance_id = Some(String::new())),
        ),
        (
            INVALID_REQUEST,
            changed(|request| request.rack_id = Some(String::new())),
        ),
        (
            UNSUPPORTED_ASSIGNOR,
            changed(|request| request.server_assignor = Some("sticky".to_owned())),
        ),
        (
            INVALID_REGULAR_EXPRESSION,
            changed(|request| request.subscribed_topic_regex = Some("(".to_owned())),
        ),
        (
            INVALID_REQUEST,
            changed(|request| {
                request.subscribed_topic_names = Some((0..20_001).map(|number| number.to_string()).collect());
            }),
        ),
        (
            INVALID_REQUEST,
            changed(|request| {
                request.member_epoch = 1;
                request.topic_partitions = Some(vec![ConsumerGroupHeartbeatTopicPartitions {
                    partitions: (0..100_001).collect(),
                    ..ConsumerGroupHeartbeatTopicPartitions::default()
                }]);
            }),
        ),
    ] {
        let response = agent.call(&request, 1).await?;
        assert_eq!(response.error_code, expected);
        assert!(response.error_message.is_some());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_may_be_static_without_an_id_or_subscribe_by_regular_expression() -> TestResult {
    let QuickCluster { cluster, _folder } = QuickCluster::start(1)?;
    cluster.create_topic(TOPIC, 1).await?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    // Version 0 gives a member its id.
    let named = agent.call(&join(""), 0).await?;
    assert_eq!(named.error_code, NONE);
    let id = named.member_id.context("a member id")?;
    assert_eq!(agent.call(&heartbeat(&id, -1), 0).await?.error_code, NONE);
    // Static members.
    let instance = |member_id: &str, epoch| ConsumerGroupHeartbeatRequest {
        instance_id: Some("one".to_owned()),
        member_epoch: epoch,
        ..join(member_id)
    };
    assert_eq!(agent.call(&instance("a", 0), 1).await?.error_code, NONE);
    assert_eq!(
        agent.call(&instance("b", 0), 1).await?.error_code,
        UNRELEASED_INSTANCE_ID
    );
    assert_eq!(agent.call(&instance("a", -2), 1).await?.member_epoch, -2);
    assert_eq!(
        partitions(&agent.call(&instance("b", 0), 1).await?),
        Some(vec![0])
    );
    // By regular expression.
    assert_eq!(agent.call(&instance("b", -1), 1).await?.error_code, NONE);
    let regex = ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: None,
        subscribed_topic_regex: Some("ord.*".to_owned()),
        ..join("a")
    };
    assert_eq!(partitions(&agent.call(&regex, 1).await?), Some(vec![0]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_survives_its_coordinator() -> TestResult {
    let mut cluster = TestCluster::start(2, &[])?;
    cluster.create_topic(TOPIC, 2).await?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    let joined = agent.call(&join("a"), 1).await?;
    assert_eq!((joined.member_epoch, partitions(&joined)), (1, Some(vec![0, 1])));
    assert_eq!(commit(&mut agent, "a", 1, 5).await?, NONE);
    let coordinator = agent.coordinator(GROUP).await?.context("a coordinator")?;
    let dies = cluster
        .agents
        .iter_mut()
        .find(|agent| agent.kafka().to_string() == coordinator);
    dies.context("the coordinator is one of the agents")?.kill9()?;
    let mut agent = connect_to_coordinator(&cluster).await?;
    // The member goes on in its epoch, with its partitions.
    let beat = agent.call(&heartbeat("a", 1), 1).await?;
    assert_eq!(
        (beat.error_code, beat.member_epoch, partitions(&beat)),
        (NONE, 1, None)
    );
    assert_eq!(commit(&mut agent, "a", 1, 6).await?, NONE);
    assert_eq!(fetch_offsets(&mut agent, Some("a"), 1).await?, (NONE, vec![6]));
    Ok(())
}

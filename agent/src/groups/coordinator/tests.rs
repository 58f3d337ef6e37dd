//! The coordinator against a real metadata store.

mod consumer_protocol;
mod failover;
mod faults;
mod reports;
mod test_cluster;

use futures::future::join_all;
use streamhouse_core::protocol::v1;
use streamhouse_metadata::{GroupQuery, NewTopic};

use self::test_cluster::*;
use super::*;
use crate::groups::{GroupGrpcService, GroupLimits};
use ErrorCode as E;

#[tokio::test]
async fn members_join_get_their_assignments_and_commit() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let (first, second) = agent.join_pair().await;
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(first.members[0].metadata, "what I want");
    assert_eq!(
        (&first.leader, &second.leader),
        (&first.member_id, &first.member_id)
    );
    assert!(first.member_id.starts_with("client-"));
    assert_eq!(
        (agent.heartbeat(&first).await, agent.heartbeat(&second).await),
        (E::None, E::None)
    );
    assert_eq!(agent.committed_offset().await, -1);
    assert_eq!(agent.commit(Some(&second), 7).await, E::None);
    assert_eq!(agent.committed_offset().await, 7);
    let everything = v1::FetchOffsetsRequest {
        group_id: "g".to_owned(),
        ..Default::default()
    };
    let all = agent
        .coordinator
        .fetch_offsets(&everything)
        .await
        .unwrap()
        .offsets;
    assert_eq!(
        (all.len(), all[0].leader_epoch, all[0].metadata.as_str()),
        (1, 3, "at 7")
    );
    assert!(all[0].committed_at_ms > 0);
}

#[tokio::test]
async fn a_group_is_described_and_listed() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let (first, second) = agent.join_pair().await;
    let described = agent.coordinator.describe("g").await.unwrap();
    assert_eq!(
        (
            described.state.as_str(),
            described.generation,
            described.members.len()
        ),
        ("Stable", 2, 2)
    );
    assert_eq!(
        (described.protocol_name.as_str(), &described.leader),
        ("range", &first.member_id)
    );
    let member = described
        .members
        .iter()
        .find(|member| member.member_id == second.member_id)
        .unwrap();
    assert_eq!(
        (member.client_id.as_str(), member.client_host.as_str()),
        ("client", "127.0.0.1")
    );
    assert_eq!(member.assignment, second.member_id);
    let listing = |state: &str, members| v1::GroupListing {
        group_id: "g".to_owned(),
        state: state.to_owned(),
        protocol_type: "consumer".to_owned(),
        members,
        group_type: "classic".to_owned(),
    };
    assert_eq!(
        agent.coordinator.list_groups().await.unwrap().groups,
        [listing("Stable", 2)]
    );
    let other = world.agent("b").await;
    assert_eq!(
        other.coordinator.list_groups().await.unwrap().groups,
        [listing("Stable", 2)],
        "from any agent"
    );
    assert_eq!(
        error_code(other.coordinator.describe("g").await),
        E::NotCoordinator
    );
    agent.leave(&second).await.unwrap();
    assert_eq!(
        agent.coordinator.list_groups().await.unwrap().groups,
        [listing("PreparingRebalance", 1)]
    );
}

#[tokio::test]
async fn a_group_of_offsets_only_is_empty_and_an_unknown_one_is_not_there() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    assert_eq!(
        error_code(agent.coordinator.describe("g").await),
        E::GroupIdNotFound
    );
    assert_eq!(agent.commit(None, 5).await, E::None);
    assert_eq!(agent.state().await, ("Empty".to_owned(), 0));
    assert_eq!(
        agent.coordinator.list_groups().await.unwrap().groups[0].state,
        "Empty"
    );
}

#[tokio::test]
async fn everything_is_refused_by_an_agent_that_does_not_coordinate_the_group() {
    let world = GroupTestCluster::new().await;
    let agent = world.agent("a").await;
    let member = v1::JoinGroupResponse {
        generation: 1,
        member_id: "m".to_owned(),
        ..Default::default()
    };
    assert_eq!(error_code(agent.join(join_request("")).await), E::NotCoordinator);
    assert_eq!(error_code(agent.sync(&member).await), E::NotCoordinator);
    assert_eq!(agent.heartbeat(&member).await, E::NotCoordinator);
    assert_eq!(error_code(agent.leave(&member).await), E::NotCoordinator);
    assert_eq!(agent.commit(Some(&member), 1).await, E::NotCoordinator);
    assert_eq!(error_code(agent.coordinator.delete("g").await), E::NotCoordinator);
    assert_eq!(
        agent.committed_offset().await,
        -1,
        "offsets can be fetched anywhere"
    );
    assert!(!agent.coordinator.is_coordinator_of("g"));
}

#[tokio::test]
async fn strangers_and_old_generations_are_refused() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let (first, _) = agent.join_pair().await;
    let old = v1::JoinGroupResponse {
        generation: 1,
        ..first.clone()
    };
    let stranger = v1::JoinGroupResponse {
        member_id: "stranger".to_owned(),
        ..first.clone()
    };
    assert_eq!(agent.heartbeat(&old).await, E::IllegalGeneration);
    assert_eq!(agent.commit(Some(&old), 9).await, E::IllegalGeneration);
    assert_eq!(error_code(agent.sync(&old).await), E::IllegalGeneration);
    assert_eq!(agent.commit(Some(&stranger), 9).await, E::UnknownMemberId);
    assert_eq!(
        agent.commit(None, 9).await,
        E::UnknownMemberId,
        "not while the group has members"
    );
    assert_eq!(agent.committed_offset().await, -1);
    world.make_coordinator(&agent, "nobody").await;
    let request = v1::HeartbeatRequest {
        group_id: "nobody".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        error_code(agent.coordinator.heartbeat(&request).await),
        E::UnknownMemberId
    );
}

#[tokio::test]
async fn a_silent_member_is_noticed_and_the_other_gets_everything() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let silent = agent
        .join(v1::JoinGroupRequest {
            session_timeout_ms: 300,
            ..join_request("")
        })
        .await
        .unwrap();
    let other = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&silent).await == E::RebalanceInProgress).await;
    // It sends no more heartbeats: the newcomer is alone after its session expired.
    let other = other.await.unwrap().unwrap();
    assert_eq!((other.members.len(), &other.leader), (1, &other.member_id));
    assert_eq!(agent.heartbeat(&silent).await, E::UnknownMemberId);
}

#[tokio::test]
async fn a_group_whose_members_all_fall_silent_becomes_empty_and_takes_no_memory() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let request = v1::JoinGroupRequest {
        session_timeout_ms: 100,
        ..join_request("")
    };
    let member = agent.join(request).await.unwrap();
    assert!(agent.coordinator.memory_bytes() > 0);
    wait_until(async || agent.state().await == ("Empty".to_owned(), 0)).await;
    assert_eq!(agent.coordinator.memory_bytes(), 0);
    let stored = world.store.groups(&GroupQuery::Id("g".to_owned())).await.unwrap();
    assert_eq!(
        (stored[0].generation, stored[0].state.len()),
        (member.generation + 1, 0)
    );
    let next = agent.join(join_request("")).await.unwrap();
    assert_eq!(next.generation, member.generation + 2, "the generation continues");
}

#[tokio::test]
async fn a_first_join_that_is_cancelled_leaves_no_ghost() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join_single_member().await;
    let second = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&first).await == E::RebalanceInProgress).await;
    assert_eq!(agent.state().await.1, 2);
    second.abort();
    wait_until(async || agent.state().await.1 == 1).await;
    let first = agent.join(join_request(&first.member_id)).await.unwrap();
    assert_eq!(first.members.len(), 1);
}

#[tokio::test]
async fn members_may_have_to_come_back_with_their_id() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let JoinOutcome::IdRequired(id) = agent.coordinator.join(join_request(""), "h", true).await.unwrap()
    else {
        panic!("it was taken at once")
    };
    let JoinOutcome::Joined(joined) = agent
        .coordinator
        .join(join_request(&id), "h", true)
        .await
        .unwrap()
    else {
        panic!("it was sent back twice")
    };
    assert_eq!((joined.member_id, joined.generation), (id, 1));
}

#[tokio::test]
async fn the_commits_of_a_group_keep_their_order() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    let codes = join_all((1..=100).map(|offset| agent.commit(Some(&member), offset))).await;
    assert!(codes.iter().all(|code| *code == E::None));
    assert_eq!(agent.committed_offset().await, 100);
}

#[tokio::test]
async fn each_offset_has_its_own_result() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    let mut request = commit_request("g", Some(&member), 1);
    request.offsets.push(offset_to_commit("nowhere", 0, 2));
    request.offsets.push(offset_to_commit("orders", 4, 3));
    request.offsets.push(offset_to_commit("orders", 1, -1));
    request.offsets.push(v1::CommitOffset {
        metadata: "m".repeat(5000),
        ..offset_to_commit("orders", 2, 4)
    });
    request.offsets.push(offset_to_commit("orders", 3, 5));
    let results = agent.coordinator.commit_offsets(request).await.unwrap().offsets;
    let codes: Vec<E> = results
        .iter()
        .map(|r| {
            r.error
                .as_ref()
                .map_or(E::None, |error| E::from_number(error.code))
        })
        .collect();
    let unknown = E::UnknownTopicOrPartition;
    assert_eq!(
        codes,
        [
            E::None,
            unknown,
            unknown,
            E::InvalidRequest,
            E::OffsetMetadataTooLarge,
            E::None
        ]
    );
    let all = v1::FetchOffsetsRequest {
        group_id: "g".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        agent.coordinator.fetch_offsets(&all).await.unwrap().offsets.len(),
        2
    );

    world.store.delete_topic("orders").await.unwrap();
    assert_eq!(
        agent.commit(Some(&member), 6).await,
        unknown,
        "the name is still cached, the partition is deleted"
    );
    let topic = NewTopic {
        name: "fresh".to_owned(),
        partitions: 1,
        config: Default::default(),
    };
    world.store.create_topic(&topic).await.unwrap();
    let mut request = commit_request("g", Some(&member), 1);
    request.offsets = vec![offset_to_commit("fresh", 0, 1)];
    let results = agent.coordinator.commit_offsets(request).await.unwrap().offsets;
    assert_eq!(results[0].error, None, "a topic that was just made is looked for");
}

#[tokio::test]
async fn offsets_are_reset_only_while_the_group_has_no_members() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    assert_eq!(agent.commit(Some(&member), 50).await, E::None);
    let reset = |validate_only| v1::ResetOffsetsRequest {
        group_id: "g".to_owned(),
        offsets: vec![
            offset_to_commit("orders", 0, 3),
            offset_to_commit("nowhere", 0, 3),
        ],
        validate_only,
    };
    assert_eq!(
        error_code(agent.coordinator.reset_offsets(reset(false)).await),
        E::NonEmptyGroup
    );
    assert_eq!(
        error_code(agent.coordinator.reset_offsets(reset(true)).await),
        E::NonEmptyGroup
    );
    agent.leave(&member).await.unwrap();
    let checked = agent
        .coordinator
        .reset_offsets(reset(true))
        .await
        .unwrap()
        .offsets;
    assert!(checked[0].error.is_none() && checked[1].error.is_some());
    assert_eq!(agent.committed_offset().await, 50, "only checked");
    agent.coordinator.reset_offsets(reset(false)).await.unwrap();
    assert_eq!(agent.committed_offset().await, 3);
}

#[tokio::test]
async fn a_group_is_deleted_only_while_it_has_no_members() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    agent.commit(Some(&member), 50).await;
    assert_eq!(error_code(agent.coordinator.delete("g").await), E::NonEmptyGroup);
    agent.leave(&member).await.unwrap();
    agent.coordinator.delete("g").await.unwrap();
    assert_eq!(agent.committed_offset().await, -1);
    assert_eq!(
        error_code(agent.coordinator.delete("g").await),
        E::GroupIdNotFound
    );
    assert_eq!(
        agent.join(join_request("")).await.unwrap().generation,
        1,
        "a new group of the same name"
    );
}

#[tokio::test]
async fn joins_are_put_off_while_groups_take_all_the_memory_there_is() {
    let world = GroupTestCluster::new().await;
    let agent = world
        .agent_with(
            "a",
            GroupLimits {
                max_total_bytes: 800,
                ..limits()
            },
        )
        .await;
    world.make_coordinator(&agent, "g").await;
    let member = agent.join_single_member().await;
    assert_eq!(
        error_code(agent.join(join_request("")).await),
        E::ResourceExhausted
    );
    assert_eq!(agent.heartbeat(&member).await, E::None);
    agent.leave(&member).await.unwrap();
    agent.join_single_member().await;
}

#[tokio::test]
async fn places_that_nobody_uses_are_cleared_away() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    assert_eq!(agent.commit(None, 1).await, E::None);
    let slot = agent.coordinator.serving_slot("g").unwrap();
    wait_until(async || slot.entries.lock().is_empty()).await;
    let member = agent.join_single_member().await;
    agent.leave(&member).await.unwrap();
    wait_until(async || slot.entries.lock().is_empty()).await;
}

#[tokio::test]
async fn impossible_requests_are_refused() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let nameless = v1::JoinGroupRequest {
        group_id: String::new(),
        ..join_request("")
    };
    assert_eq!(error_code(agent.join(nameless).await), E::InvalidGroupId);
    let hasty = v1::JoinGroupRequest {
        session_timeout_ms: 1,
        ..join_request("")
    };
    assert_eq!(error_code(agent.join(hasty).await), E::InvalidSessionTimeout);
    let mut many = commit_request("g", None, 1);
    many.offsets = vec![offset_to_commit("orders", 0, 1); 20_001];
    assert_eq!(
        error_code(agent.coordinator.commit_offsets(many).await),
        E::InvalidRequest
    );
    let nameless = v1::FetchOffsetsRequest::default();
    assert_eq!(
        error_code(agent.coordinator.fetch_offsets(&nameless).await),
        E::InvalidGroupId
    );
}

#[tokio::test]
async fn the_service_says_when_nobody_coordinates() {
    use streamhouse_core::protocol::v1::group_service_server::GroupService;
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let service = GroupGrpcService::new(agent.coordinator.clone());
    let wanted = v1::FindCoordinatorRequest {
        group_id: "g".to_owned(),
    };
    let nobody = service
        .find_coordinator(tonic::Request::new(wanted))
        .await
        .unwrap_err();
    assert_eq!(Error::from(nobody).code(), E::CoordinatorNotAvailable);
    let joined = service
        .join_group(tonic::Request::new(join_request("")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(joined.generation, 1);
}

#[tokio::test]
async fn a_member_that_wants_its_id_first_gets_it_at_once_and_can_leave_with_it() {
    use streamhouse_core::protocol::v1::group_service_server::GroupService;
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let service = GroupGrpcService::new(agent.coordinator.clone());
    let asked = v1::JoinGroupRequest {
        require_known_member_id: true,
        ..join_request("")
    };
    let named = service
        .join_group(tonic::Request::new(asked.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((named.generation, named.member_id.is_empty()), (-1, false));
    let joined = service
        .join_group(tonic::Request::new(v1::JoinGroupRequest {
            member_id: named.member_id.clone(),
            ..asked.clone()
        }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((joined.generation, &joined.member_id), (1, &named.member_id));
    let other = service
        .join_group(tonic::Request::new(asked))
        .await
        .unwrap()
        .into_inner();
    let leave = v1::LeaveGroupRequest {
        group_id: "g".to_owned(),
        member_id: other.member_id,
        ..Default::default()
    };
    service.leave_group(tonic::Request::new(leave)).await.unwrap();
    assert_eq!(
        agent.state().await.1,
        1,
        "a member that only got its id is dropped"
    );
}

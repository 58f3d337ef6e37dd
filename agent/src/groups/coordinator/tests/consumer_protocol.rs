//! Members of the consumer protocol at coordinators with a real metadata store.

use std::sync::Arc;

use super::*;
use crate::groups::consumer::{HeartbeatReply, LEAVE_EPOCH, MemberHeartbeat, PartitionSet, tests::beat};

fn joining(member_id: &str) -> MemberHeartbeat {
    MemberHeartbeat {
        rebalance_ms: Some(60_000),
        topics: Some(Arc::from([Arc::from("orders")])),
        owned: Some(PartitionSet::new()),
        ..beat(member_id, 0)
    }
}

impl TestAgent {
    async fn send(&self, beat: MemberHeartbeat) -> Result<HeartbeatReply, Error> {
        self.coordinator.consumer_heartbeat("g", beat).await
    }

    async fn commit_as(&self, member_id: &str, epoch: i32, offset: i64) -> ErrorCode {
        let request = v1::CommitOffsetsRequest {
            generation: epoch,
            member_id: member_id.to_owned(),
            ..commit_request("g", None, offset)
        };
        error_code(self.coordinator.commit_offsets(request).await)
    }

    async fn group_type(&self) -> String {
        self.coordinator.describe("g").await.unwrap().group_type
    }
}

#[tokio::test]
async fn the_next_coordinator_continues_with_the_same_members() {
    let (world, a) = GroupTestCluster::with_agent().await;
    let joined = a.send(joining("m")).await.unwrap();
    assert_eq!((joined.epoch, joined.assignment.unwrap().len()), (1, 4));
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    // The first one learns of it with its next write.
    assert_eq!(error_code(a.send(joining("n")).await), E::NotCoordinator);
    assert_eq!(a.commit_as("m", 1, 5).await, E::NotCoordinator);
    let reply = b.send(beat("m", 1)).await.unwrap();
    assert_eq!((reply.epoch, reply.assignment), (1, None));
    assert_eq!(b.commit_as("m", 1, 6).await, E::None);
    assert_eq!(b.committed_offset().await, 6);
    assert_eq!(b.state().await, ("Stable".to_owned(), 1));
}

#[tokio::test]
async fn a_heartbeat_that_is_not_stored_changes_nothing() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    agent.send(joining("m")).await.unwrap();
    let cut = world.disconnect_store();
    assert_eq!(error_code(agent.send(joining("n")).await), E::MetadataUnavailable);
    // One that changes nothing needs no store.
    assert_eq!(agent.send(beat("m", 1)).await.unwrap().epoch, 1);
    cut.release();
    assert_eq!(agent.state().await.1, 1);
    assert_eq!(agent.send(joining("n")).await.unwrap().epoch, 2);
}

#[tokio::test]
async fn a_heartbeat_whose_outcome_was_lost_is_caught_up_with() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    agent.send(joining("m")).await.unwrap();
    let lost = world.lose_replies();
    assert_eq!(error_code(agent.send(joining("n")).await), E::MetadataUnavailable);
    lost.release();
    // The store is an epoch ahead: the commit of a member in its own epoch holds all the same.
    assert_eq!(agent.commit_as("m", 1, 5).await, E::None);
    let again = agent.send(joining("n")).await.unwrap();
    assert!(again.epoch >= 3, "{again:?}");
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(b.committed_offset().await, 5);
    assert_eq!(b.state().await.1, 2);
}

#[tokio::test]
async fn an_empty_group_keeps_its_protocol_and_members_choose_another() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    agent.send(joining("m")).await.unwrap();
    assert_eq!(
        error_code(agent.join(join_request("")).await),
        E::InconsistentGroupProtocol
    );
    agent.send(beat("m", LEAVE_EPOCH)).await.unwrap();
    assert_eq!(
        (agent.group_type().await.as_str(), agent.state().await.0.as_str()),
        ("consumer", "Empty")
    );
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(b.group_type().await, "consumer");
    assert_eq!(error_code(b.send(beat("m", 1)).await), E::UnknownMemberId);
    let classic = b.join_single_member().await;
    assert!(classic.generation > 2, "generations go on");
    assert_eq!(b.group_type().await, "classic");
    assert_eq!(error_code(b.send(joining("m")).await), E::GroupIdNotFound);
    b.leave(&classic).await.unwrap();
    assert!(b.send(joining("m")).await.unwrap().epoch > classic.generation);
    assert_eq!(error_code(b.coordinator.delete("g").await), E::NonEmptyGroup);
    b.send(beat("m", LEAVE_EPOCH)).await.unwrap();
    b.coordinator.delete("g").await.unwrap();
    assert_eq!(error_code(b.send(beat("m", 1)).await), E::GroupIdNotFound);
}

#[tokio::test]
async fn a_member_that_falls_silent_is_removed() {
    let world = GroupTestCluster::new().await;
    let short = GroupLimits {
        consumer_session_timeout: std::time::Duration::from_millis(100),
        ..limits()
    };
    let agent = world.agent_with("a", short).await;
    world.make_coordinator(&agent, "g").await;
    agent.send(joining("m")).await.unwrap();
    wait_until(async || agent.state().await == ("Empty".to_owned(), 0)).await;
    assert_eq!(error_code(agent.send(beat("m", 1)).await), E::UnknownMemberId);
}

#[tokio::test]
async fn administrators_see_members_as_those_of_the_classic_protocol() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    agent.send(joining("m")).await.unwrap();
    let group = agent.coordinator.describe("g").await.unwrap();
    assert_eq!(
        (group.protocol_type.as_str(), group.protocol_name.as_str()),
        ("consumer", "uniform")
    );
    let assignment = group.members[0].assignment.clone();
    let assignment = streamhouse_core::consumer_protocol::ConsumerAssignment::decode(assignment).unwrap();
    assert_eq!(assignment.partitions.len(), 4);
    let listed = agent.coordinator.list_groups().await.unwrap().groups;
    assert_eq!(
        (listed[0].group_type.as_str(), listed[0].members),
        ("consumer", 1)
    );
    let leave = v1::LeaveGroupRequest {
        group_id: "g".to_owned(),
        member_id: "m".to_owned(),
        ..Default::default()
    };
    agent.coordinator.leave(leave.clone()).await.unwrap();
    assert_eq!(
        error_code(agent.coordinator.leave(leave).await),
        E::UnknownMemberId
    );
}

//! A failing metadata store: nothing is promised that is not stored, and nothing stored is lost.

use streamhouse_metadata::{Error as StoreError, GroupQuery};

use super::{super::*, test_cluster::*};
use crate::{faulty_metadata::MetadataMethod, groups::any_group::AnyGroup};
use ErrorCode as E;

#[tokio::test]
async fn nothing_happens_while_the_store_is_away() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let cut = world.disconnect_store();
    assert_eq!(
        error_code(agent.join(join_request("")).await),
        E::MetadataUnavailable
    );
    cut.release();
    let member = agent.join(join_request("")).await.unwrap();
    assert_eq!(
        (member.generation, member.members.len()),
        (1, 1),
        "the failed join left nothing behind"
    );
    let cut = world.disconnect_store();
    assert_eq!(error_code(agent.sync(&member).await), E::MetadataUnavailable);
    assert_eq!(
        agent.commit(Some(&member), 1).await,
        E::RebalanceInProgress,
        "it has no assignment yet"
    );
    assert_eq!(
        agent.heartbeat(&member).await,
        E::None,
        "heartbeats do not need the store"
    );
    assert_eq!(error_code(agent.leave(&member).await), E::MetadataUnavailable);
    cut.release();
    agent.sync(&member).await.unwrap();
    let cut = world.disconnect_store();
    assert_eq!(agent.commit(Some(&member), 1).await, E::MetadataUnavailable);
    cut.release();
    assert_eq!(agent.commit(Some(&member), 1).await, E::None);
    agent.leave(&member).await.unwrap();
}

#[tokio::test]
async fn a_follower_waits_on_when_the_assignment_cannot_be_stored() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join(join_request("")).await.unwrap();
    let second = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&first).await == E::RebalanceInProgress).await;
    let first = agent.join(join_request(&first.member_id)).await.unwrap();
    let second = second.await.unwrap().unwrap();
    let waiting = agent.spawn_sync(&second);
    let cut = world.disconnect_store();
    assert_eq!(error_code(agent.sync(&first).await), E::MetadataUnavailable);
    assert!(!waiting.is_finished());
    cut.release();
    agent.sync(&first).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().assignment, second.member_id);
}

#[tokio::test]
async fn timers_that_cannot_be_stored_are_tried_again() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let request = streamhouse_core::protocol::v1::JoinGroupRequest {
        session_timeout_ms: 500,
        ..join_request("")
    };
    let member = agent.join(request).await.unwrap();
    let cut = world.disconnect_store();
    wait_until(async || agent.coordinator.is_session_expired(&member.member_id).await).await;
    cut.release();
    wait_until(async || agent.state().await == ("Empty".to_owned(), 0)).await;
}

impl GroupCoordinator {
    /// Returns whether the session of a member of "g" has expired although it is still a member.
    async fn is_session_expired(&self, member_id: &str) -> bool {
        let cell = self.serving_slot("g").unwrap().find_entry("g").unwrap();
        let mut state = cell.state.lock().await;
        let group = state.group.as_mut().and_then(AnyGroup::classic).unwrap();
        assert!(
            group
                .view()
                .members
                .iter()
                .any(|member| *member.member_id == *member_id)
        );
        group
            .deadline()
            .is_some_and(|deadline| deadline + 50 < self.shared.now_ms())
    }
}

#[tokio::test]
async fn a_rebalance_whose_outcome_was_lost_is_done_again() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join_single_member().await;
    let second = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&first).await == E::RebalanceInProgress).await;
    let mute = world.lose_replies();
    // The new generation is stored, but its coordinator does not know.
    assert_eq!(
        error_code(agent.join(join_request(&first.member_id)).await),
        E::MetadataUnavailable
    );
    mute.release();
    assert_eq!(
        agent.commit(Some(&first), 5).await,
        E::RebalanceInProgress,
        "the store is in another generation"
    );
    let first = agent.join(join_request(&first.member_id)).await.unwrap();
    let second = second.await.unwrap().unwrap();
    assert_eq!(first.generation, second.generation);
    let waiting = agent.spawn_sync(&second);
    agent.sync(&first).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(agent.commit(Some(&first), 5).await, E::None);
    let stored = world.store.groups(&GroupQuery::Id("g".to_owned())).await.unwrap();
    assert_eq!(stored[0].generation, first.generation);
}

#[tokio::test]
async fn a_leave_whose_outcome_was_lost_is_noticed_at_the_next_commit() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    let mute = world.lose_replies();
    assert_eq!(error_code(agent.leave(&member).await), E::MetadataUnavailable);
    mute.release();
    assert_eq!(agent.commit(Some(&member), 5).await, E::RebalanceInProgress);
    assert_eq!(agent.heartbeat(&member).await, E::IllegalGeneration);
    let member = agent.join(join_request(&member.member_id)).await.unwrap();
    agent.sync(&member).await.unwrap();
    assert_eq!(agent.commit(Some(&member), 5).await, E::None);
}

#[tokio::test]
async fn a_call_cancelled_while_it_is_stored_still_happens_wholly() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join(join_request("")).await.unwrap();
    let held = world.block_calls("\"g\"");
    let sync = agent.spawn_sync(&first);
    held.wait_for_blocked_calls(1).await;
    sync.abort();
    assert!(sync.await.unwrap_err().is_cancelled());
    held.release();
    wait_until(async || agent.state().await.0 == "Stable").await;
    let again = agent.sync(&first).await.unwrap();
    assert_eq!(again.assignment, first.member_id);
}

#[tokio::test]
async fn a_commit_that_is_cancelled_is_not_overtaken() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    let held = world.block_calls("\"g\"");
    let coordinator = agent.coordinator.clone();
    let request = commit_request("g", Some(&member), 1);
    let slow = tokio::spawn(async move { coordinator.commit_offsets(request).await });
    held.wait_for_blocked_calls(1).await;
    slow.abort();
    let coordinator = agent.coordinator.clone();
    let request = commit_request("g", Some(&member), 2);
    let next = tokio::spawn(async move { coordinator.commit_offsets(request).await });
    held.release();
    next.await.unwrap().unwrap();
    assert_eq!(agent.committed_offset().await, 2);
}

#[tokio::test]
async fn a_group_whose_commit_stands_still_holds_up_no_other() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    // Another group of the same slot.
    let slot = group_slot("g", GROUP_SLOTS);
    let other = (0..)
        .map(|n| format!("g{n}"))
        .find(|id| group_slot(id, GROUP_SLOTS) == slot)
        .unwrap();
    let held = world.block_calls("\"g\"");
    let coordinator = agent.coordinator.clone();
    let slow = tokio::spawn(async move { coordinator.commit_offsets(commit_request("g", None, 1)).await });
    held.wait_for_blocked_calls(1).await;
    agent
        .coordinator
        .commit_offsets(commit_request(&other, None, 9))
        .await
        .unwrap();
    assert!(!slow.is_finished());
    held.release();
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_in_an_older_generation_than_was_written_is_found() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join(join_request("")).await.unwrap();
    agent.sync(&member).await.unwrap();
    assert_eq!(agent.commit(Some(&member), 5).await, E::None);
    let violated = || {
        let text = agent.coordinator.deps().metrics.render().unwrap();
        text.contains("invariant_violations_total{invariant=\"INV-C1\"} 1")
    };
    // A late commit is not a violation.
    let commits = [MetadataMethod::commit_offsets];
    let ahead = || StoreError::IllegalGeneration { given: 3, stored: 4 };
    let late = world.store.fail_with(commits, ahead);
    assert_eq!(agent.commit(Some(&member), 6).await, E::RebalanceInProgress);
    late.release();
    assert!(!violated());
    let back = || StoreError::IllegalGeneration { given: 3, stored: 2 };
    let rewound = world.store.fail_with(commits, back);
    let member = agent.join(join_request(&member.member_id)).await.unwrap();
    agent.sync(&member).await.unwrap();
    assert_eq!(agent.commit(Some(&member), 6).await, E::RebalanceInProgress);
    rewound.release();
    assert!(violated());
}

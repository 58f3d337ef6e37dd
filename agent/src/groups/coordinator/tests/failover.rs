//! Slots that move: what members notice when another agent takes over.

use std::sync::Arc;

use streamhouse_core::protocol::v1;

use super::{super::*, test_cluster::*};
use ErrorCode as E;

#[tokio::test]
async fn members_go_on_in_their_generation_after_a_failover() {
    let (world, a) = GroupTestCluster::with_agent().await;
    let (first, second) = a.join_pair().await;
    assert_eq!(a.commit(Some(&first), 7).await, E::None);
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(
        (b.heartbeat(&first).await, b.heartbeat(&second).await),
        (E::None, E::None)
    );
    assert_eq!(b.state().await, ("Stable".to_owned(), 2));
    assert_eq!(b.committed_offset().await, 7);
    assert_eq!(b.commit(Some(&second), 8).await, E::None);
    let again = b.sync(&second).await.unwrap();
    assert_eq!(again.assignment, second.member_id, "its assignment survived");
    let old = v1::JoinGroupResponse {
        generation: first.generation - 1,
        ..first
    };
    assert_eq!(b.commit(Some(&old), 1).await, E::IllegalGeneration);
}

#[tokio::test]
async fn a_zombie_coordinator_cannot_commit_and_gives_up() {
    let (world, zombie) = GroupTestCluster::with_agent().await;
    let (first, second) = zombie.join_pair().await;
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(b.commit(Some(&first), 10).await, E::None);
    assert_eq!(zombie.heartbeat(&first).await, E::None, "it does not know yet");
    assert_eq!(zombie.commit(Some(&second), 3).await, E::NotCoordinator);
    assert_eq!(b.committed_offset().await, 10);
    assert_eq!(zombie.heartbeat(&first).await, E::NotCoordinator, "now it knows");
    assert!(!zombie.coordinator.is_coordinator_of("g"));
}

#[tokio::test]
async fn who_waits_at_a_zombie_is_sent_to_the_new_coordinator() {
    let (world, zombie) = GroupTestCluster::with_agent().await;
    let first = zombie.join_single_member().await;
    let second = zombie.spawn_join(join_request(""));
    wait_until(async || zombie.heartbeat(&first).await == E::RebalanceInProgress).await;
    let b = world.agent("b").await;
    world.move_lease(&b, "g").await;
    // The first member's join would complete the rebalance, but the new generation cannot be
    // stored.
    assert_eq!(
        error_code(zombie.join(join_request(&first.member_id)).await),
        E::NotCoordinator
    );
    assert_eq!(error_code(second.await.unwrap()), E::NotCoordinator);
}

#[tokio::test]
async fn a_released_slot_sends_everybody_away() {
    let (_world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join_single_member().await;
    let second = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&first).await == E::RebalanceInProgress).await;
    agent.coordinator.release(group_slot("g", GROUP_SLOTS)).await;
    assert_eq!(error_code(second.await.unwrap()), E::NotCoordinator);
    assert_eq!(agent.heartbeat(&first).await, E::NotCoordinator);
}

#[tokio::test]
async fn a_release_waits_for_what_is_being_stored_and_its_answers_still_go_out() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let first = agent.join_single_member().await;
    let second = agent.spawn_join(join_request(""));
    wait_until(async || agent.heartbeat(&first).await == E::RebalanceInProgress).await;
    let held = world.block_calls("\"g\"");
    let rejoin = agent.spawn_join(join_request(&first.member_id));
    held.wait_for_blocked_calls(1).await;
    let coordinator = agent.coordinator.clone();
    let release = tokio::spawn(async move { coordinator.release(group_slot("g", GROUP_SLOTS)).await });
    wait_until(async || !agent.coordinator.is_coordinator_of("g")).await;
    assert_eq!(agent.heartbeat(&first).await, E::NotCoordinator);
    assert!(!release.is_finished(), "a write is under way");
    held.release();
    release.await.unwrap();
    let (first, second) = (rejoin.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(
        (b.heartbeat(&first).await, b.heartbeat(&second).await),
        (E::None, E::None),
        "no ghosts"
    );
    b.sync(&first).await.unwrap();
    assert_eq!(b.sync(&second).await.unwrap().assignment, second.member_id);
}

#[tokio::test]
async fn a_slot_that_comes_back_goes_on() {
    let (world, agent) = GroupTestCluster::with_agent().await;
    let member = agent.join_single_member().await;
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(b.commit(Some(&member), 4).await, E::None);
    world.make_coordinator(&agent, "g").await;
    assert_eq!(agent.heartbeat(&member).await, E::None);
    assert_eq!(b.commit(Some(&member), 3).await, E::NotCoordinator);
    assert_eq!(agent.commit(Some(&member), 5).await, E::None);
    assert_eq!(agent.committed_offset().await, 5);
}

#[tokio::test]
async fn calls_during_loading_are_told_to_wait() {
    let world = GroupTestCluster::new().await;
    let agent = world.agent("a").await;
    let (slot, lease) = world.move_lease(&agent, "g").await;
    let held = world.block_calls(&format!("Slot({slot})"));
    let coordinator = agent.coordinator.clone();
    let acquire = tokio::spawn(async move { coordinator.acquire(slot, lease).await });
    held.wait_for_blocked_calls(1).await;
    assert_eq!(
        error_code(agent.join(join_request("")).await),
        E::CoordinatorLoadInProgress
    );
    assert!(!agent.coordinator.is_coordinator_of("g"));
    held.release();
    acquire.await.unwrap().unwrap();
    agent.join_single_member().await;
}

#[tokio::test]
async fn a_slot_that_cannot_be_read_is_not_held() {
    let world = GroupTestCluster::new().await;
    let agent = world.agent("a").await;
    let (slot, lease) = world.move_lease(&agent, "g").await;
    let cut = world.disconnect_store();
    assert!(agent.coordinator.acquire(slot, lease).await.is_err());
    assert_eq!(error_code(agent.join(join_request("")).await), E::NotCoordinator);
    cut.release();
    agent.coordinator.acquire(slot, lease).await.unwrap();
    agent.join_single_member().await;
}

#[tokio::test]
async fn a_silent_member_is_noticed_by_the_next_coordinator() {
    let (world, a) = GroupTestCluster::with_agent().await;
    let request = v1::JoinGroupRequest {
        session_timeout_ms: 200,
        ..join_request("")
    };
    let member = a.join(request).await.unwrap();
    a.sync(&member).await.unwrap();
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    drop(a);
    wait_until(async || b.state().await == ("Empty".to_owned(), 0)).await;
    assert_eq!(b.commit(Some(&member), 1).await, E::UnknownMemberId);
}

#[tokio::test]
async fn a_group_that_cannot_be_read_goes_on_without_members() {
    let world = GroupTestCluster::new().await;
    let agent = world.agent("a").await;
    let (slot, lease) = world.move_lease(&agent, "g").await;
    let damaged = streamhouse_metadata::GroupWrite {
        group_id: "g".to_owned(),
        slot,
        generation: 41,
        state: Some(b"nonsense".to_vec()),
        has_members: true,
    };
    world.store.put_group(lease, &damaged).await.unwrap();
    agent.coordinator.acquire(slot, lease).await.unwrap();
    assert_eq!(agent.join_single_member().await.generation, 42);
}

/// Members that behave like consumers while the slot moves back and forth without warning: every
/// acknowledged commit holds, and no commit succeeds in an old generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commits_hold_while_the_slot_moves_to_and_fro() {
    let world = GroupTestCluster::new().await;
    let agents = Arc::new([world.agent("a").await, world.agent("b").await]);
    world.make_coordinator(&agents[0], "g").await;
    let members: Vec<_> = (0..3)
        .map(|_| tokio::spawn(run_consumer(agents.clone())))
        .collect();
    let mut moves = 0;
    wait_until(async || {
        moves += 1;
        world.make_coordinator(&agents[moves % 2], "g").await;
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        members.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    for member in members {
        member.await.unwrap();
    }
    let last = &agents[moves % 2];
    wait_until(async || last.state().await == ("Empty".to_owned(), 0)).await;
}

/// Joins and commits 30 times, then leaves.
async fn run_consumer(agents: Arc<[TestAgent; 2]>) {
    let (mut member_id, mut commits, mut at) = (String::new(), 0, 0);
    while commits < 30 {
        at += 1;
        let agent = &agents[at % 2];
        let joined = match agent.join(join_request(&member_id)).await {
            Ok(joined) => joined,
            Err(error) => {
                if error.code() == E::UnknownMemberId {
                    member_id.clear();
                }
                tokio::task::yield_now().await;
                continue;
            }
        };
        member_id.clone_from(&joined.member_id);
        if agent.sync(&joined).await.is_err() {
            continue;
        }
        while commits < 30 && agent.heartbeat(&joined).await == E::None {
            // Only the leader commits, so that its commit is the one to be found.
            if joined.leader != joined.member_id {
                commits += 1;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                continue;
            }
            let before = agent.committed_offset().await;
            match agent.commit(Some(&joined), before + 1).await {
                E::None => {
                    commits += 1;
                    assert!(
                        agent.committed_offset().await > before,
                        "an acknowledged commit was lost"
                    );
                }
                E::NotCoordinator | E::RebalanceInProgress | E::IllegalGeneration | E::UnknownMemberId => {
                    break;
                }
                other => panic!("a commit failed with {other}"),
            }
        }
    }
    loop {
        at += 1;
        let request = v1::LeaveGroupRequest {
            group_id: "g".to_owned(),
            member_id: member_id.clone(),
            ..Default::default()
        };
        match error_code(agents[at % 2].coordinator.leave(request).await) {
            E::None | E::UnknownMemberId => return,
            _ => tokio::task::yield_now().await,
        }
    }
}

//! Concurrent calls of several agents.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::Barrier, task::JoinSet};

use super::fixture::{
    NO_GRACE, SharedStore, TestLog, batch, batch_outcomes, check_log, collect_garbage, create_topic, leases,
    new_topic, object_commit, owner, register_agent, registration, sequenced_batch, snapshot, take_lease,
};
use crate::{
    BatchOutcome, Error, Lease, LeaseMove, LeaseMoveOutcome, PartitionOutcome, Result, keys::wal_key,
};

/// Runs `count` futures that start together; returns their results in any order.
pub async fn run_concurrently<T, F>(count: usize, future: impl Fn(usize, Arc<Barrier>) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(count));
    let mut tasks: JoinSet<T> = (0..count).map(|n| future(n, barrier.clone())).collect();
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.unwrap());
    }
    results
}

/// INV-L1.
pub async fn racing_moves_have_one_winner(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let mut incarnations = Vec::new();
    for n in 1..=4 {
        incarnations.push(register_agent(store, &format!("agent-{n}")).await.incarnation);
    }
    let (lease, incarnations) = (log.lease, Arc::new(incarnations));
    let won = run_concurrently(4, |n, barrier| {
        let (store, incarnations) = (store.clone(), incarnations.clone());
        async move {
            barrier.wait().await;
            take_lease(&store, lease, incarnations[n]).await
        }
    })
    .await;
    let winners: Vec<Lease> = won.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(winners[0].epoch, lease.epoch + 1);
    assert_eq!(TestLog::with_lease(store, winners[0]).append(1).await, 0);
}

pub async fn racing_creations_have_one_winner(store: &SharedStore) {
    let results = run_concurrently(4, |n, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            store
                .create_topic(&new_topic("orders", i32::try_from(n).unwrap() + 1))
                .await
        }
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| result.is_ok());
    assert_eq!(won.len(), 1);
    assert!(
        lost.iter()
            .all(|lost| matches!(lost, Err(Error::TopicAlreadyExists(_)))),
        "{lost:?}"
    );
    assert!(snapshot(store).await.topics.contains(won[0].as_ref().unwrap()));
}

pub async fn racing_claims_have_one_winner(store: &SharedStore) {
    for round in 0..5 {
        let name = format!("orders-{round}");
        let answers = run_concurrently(8, |n, barrier| {
            let (store, name) = (store.clone(), name.clone());
            async move {
                let claimant = owner(&format!("resource-{n}"));
                barrier.wait().await;
                let answer = store.claim_topic(&name, &claimant).await.unwrap();
                (answer == claimant, answer)
            }
        })
        .await;
        let in_force = store.topics_overview().await.unwrap().owners[&name].clone();
        assert!(
            answers.iter().all(|(_, answer)| *answer == in_force),
            "{answers:?}"
        );
        assert_eq!(answers.iter().filter(|(won, _)| *won).count(), 1, "{answers:?}");
    }
}

/// Concurrent claims and releases: a claimant that succeeds is the only owner until it releases.
pub async fn a_claim_is_held_by_one_at_a_time(store: &SharedStore) {
    let holders = Arc::new(AtomicUsize::new(0));
    let held = run_concurrently(4, |n, barrier| {
        let (store, holders) = (store.clone(), holders.clone());
        async move {
            let claimant = owner(&format!("resource-{n}"));
            barrier.wait().await;
            let mut held = 0;
            while held < 10 {
                if store.claim_topic("orders", &claimant).await.unwrap() != claimant {
                    tokio::task::yield_now().await;
                    continue;
                }
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold the claim");
                tokio::task::yield_now().await;
                assert_eq!(store.claim_topic("orders", &claimant).await.unwrap(), claimant);
                holders.fetch_sub(1, Ordering::SeqCst);
                assert!(store.release_topic("orders", &claimant.uid).await.unwrap());
                held += 1;
            }
            held
        }
    })
    .await;
    assert_eq!(held, [10; 4]);
    assert!(store.topics_overview().await.unwrap().owners.is_empty());
}

pub async fn racing_commits_of_one_object_commit_once(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let commit = Arc::new(object_commit(
        log.lease.incarnation,
        0,
        &[(log.lease, &[batch(10), sequenced_batch(1, 0, 2)])],
    ));
    let outcomes = run_concurrently(4, |_, barrier| {
        let (store, commit) = (store.clone(), commit.clone());
        async move {
            barrier.wait().await;
            store.commit_object(&commit).await.unwrap()
        }
    })
    .await;
    let expected = [
        BatchOutcome::Appended { base_offset: 0 },
        BatchOutcome::Appended { base_offset: 10 },
    ];
    assert!(
        outcomes
            .iter()
            .all(|outcome| batch_outcomes(outcome, 0) == expected),
        "{outcomes:?}"
    );
    assert_eq!(log.read(0).await.bounds.high_watermark, 12);
    check_log(store, log.lease.partition).await;
}

/// Objects that also contain batches for partitions of other agents, in different orders: those
/// parts are fenced, and there is no deadlock.
pub async fn agents_commit_to_their_partitions_at_the_same_time(store: &SharedStore) {
    const AGENTS: usize = 4;
    const OBJECTS: u64 = 8;
    for n in 0..AGENTS {
        register_agent(store, &format!("agent-{n}")).await;
    }
    let leases = Arc::new(leases(&create_topic(store, "orders", 8).await));
    let own = run_concurrently(AGENTS, |n, barrier| {
        let (store, leases) = (store.clone(), leases.clone());
        async move {
            let incarnation = leases[n].incarnation;
            let batches = [batch(2), batch(1)];
            let mut parts: Vec<_> = leases.iter().map(|lease| (*lease, &batches[..])).collect();
            parts.rotate_left(n * 2);
            barrier.wait().await;
            let mut committed = 0;
            for sequence in 0..OBJECTS {
                let outcome = store
                    .commit_object(&object_commit(incarnation, sequence, &parts))
                    .await
                    .unwrap();
                for (part, (lease, _)) in outcome.partitions.iter().zip(&parts) {
                    let mine = matches!(part, PartitionOutcome::Committed { .. });
                    assert_eq!(mine, lease.incarnation == incarnation);
                    committed += u64::from(mine);
                }
            }
            committed
        }
    })
    .await;
    assert_eq!(own, [2 * OBJECTS; AGENTS]);
    for lease in leases.iter() {
        assert_eq!(
            TestLog::with_lease(store, *lease)
                .read(0)
                .await
                .bounds
                .high_watermark,
            3 * i64::try_from(OBJECTS).unwrap()
        );
        check_log(store, lease.partition).await;
    }
}

/// INV-L1: every commit that succeeded did so before the seal returned.
pub async fn a_seal_waits_for_commits_and_lets_none_in_after(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = log.lease;
    let results: Vec<Result<Option<u64>>> = run_concurrently(5, |n, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            if n == 0 {
                store.seal(lease.incarnation).await.unwrap();
                let view = TestLog::with_lease(&store, lease).read(0).await;
                return Ok(Some(u64::try_from(view.bounds.high_watermark).unwrap()));
            }
            for sequence in 0..50 {
                let number = u64::try_from(n).unwrap() * 1000 + sequence;
                store
                    .commit_object(&object_commit(lease.incarnation, number, &[(lease, &[batch(1)])]))
                    .await?;
            }
            Ok(None)
        }
    })
    .await;
    let sealed_at = results
        .iter()
        .find_map(|result| result.as_ref().ok().copied().flatten())
        .unwrap();
    let after = log.read(0).await.bounds.high_watermark;
    assert_eq!(
        sealed_at,
        u64::try_from(after).unwrap(),
        "a commit came in after the seal had returned"
    );
    assert!(
        results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .all(|error| matches!(error, Error::Sealed(_)))
    );
}

/// Objects with ranges of all partitions, rolled in opposite orders.
pub async fn segments_of_shared_objects_roll_at_the_same_time(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let leases = Arc::new(leases(&create_topic(store, "orders", 6).await));
    let one = [batch(1)];
    for sequence in 0..20 {
        let mut parts: Vec<_> = leases.iter().map(|lease| (*lease, &one[..])).collect();
        parts.rotate_left(usize::try_from(sequence).unwrap() % 6);
        store
            .commit_object(&object_commit(incarnation, sequence, &parts))
            .await
            .unwrap();
    }
    run_concurrently(6, |n, barrier| {
        let log = TestLog::with_lease(store, leases[n]);
        async move {
            barrier.wait().await;
            for end in [7, 13, 20] {
                log.roll(end).await;
            }
        }
    })
    .await;
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        (0..20)
            .map(|sequence| wal_key(incarnation, sequence))
            .collect::<Vec<_>>()
    );
    for lease in leases.iter() {
        check_log(store, lease.partition).await;
    }
}

pub async fn many_agents_tidy_at_the_same_time(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    for n in 0..30 {
        log.append(1).await;
        log.roll(n + 1).await;
    }
    store.delete_topic("orders").await.unwrap();
    run_concurrently(4, |_, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            loop {
                let found = store.collect_garbage(&NO_GRACE, 7).await.unwrap();
                store.confirm_deleted(&found.keys).await.unwrap();
                if found.keys.is_empty() && !found.more {
                    break;
                }
            }
        }
    })
    .await;
    let keys = collect_garbage(store, NO_GRACE).await;
    store.confirm_deleted(&keys).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    create_topic(store, "orders", 1).await;
}

pub async fn agents_register_at_the_same_time(store: &SharedStore) {
    let registered = run_concurrently(6, |n, barrier| {
        let store = store.clone();
        async move {
            // Three agents, each twice.
            let new = registration(&format!("agent-{}", n % 3), std::time::Duration::from_secs(3600));
            barrier.wait().await;
            store.register_agent(&new).await.unwrap()
        }
    })
    .await;
    let mut nodes: Vec<i32> = registered.iter().map(|registered| registered.node_id).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 1, 2, 2, 3, 3]);
    let snapshot = snapshot(store).await;
    assert_eq!((snapshot.agents.len(), snapshot.unswept.len()), (3, 3));
    let live = &snapshot.agents[0];
    let free = create_topic(store, "orders", 1).await.partitions[0];
    let lease_move = LeaseMove {
        partition: free.uid,
        from: free.holder,
        epoch: 1,
        to: Some(live.incarnation),
    };
    assert!(matches!(
        store.move_leases(&[lease_move]).await.unwrap()[0],
        LeaseMoveOutcome::Moved { .. }
    ));
}

//! Incarnations, leases and fencing.

use std::time::Duration;

use super::fixture::{
    SharedStore, TestLog, batch, create_topic, leases, new_topic, object_commit, register_agent,
    registration, snapshot, take_lease, take_slot_lease,
};
use crate::{
    Error, GROUP_SLOT_TOPIC, GROUP_SLOTS, GroupWrite, Incarnation, Lease, LeaseMove, LeaseMoveOutcome,
    LogBounds, NewSegment, OffsetCommit, PartitionOutcome, PartitionUid, SilenceThreshold, TopicChange,
};

pub async fn a_store_begins_with_a_cluster_id_and_the_coordinator_slots(store: &SharedStore) {
    store.ping().await.unwrap();
    let snapshot = snapshot(store).await;
    assert_eq!(snapshot.cluster_id.len(), 36, "{}", snapshot.cluster_id);
    assert!(snapshot.agents.is_empty() && snapshot.unswept.is_empty());
    let [slots] = snapshot.topics.as_slice() else {
        panic!("one topic, the internal one: {:?}", snapshot.topics)
    };
    assert_eq!(slots.name, GROUP_SLOT_TOPIC);
    assert!(slots.internal);
    assert_eq!(i32::try_from(slots.partitions.len()).unwrap(), GROUP_SLOTS);
    assert!(
        slots
            .partitions
            .iter()
            .all(|slot| slot.holder.is_none() && slot.epoch == 0)
    );
    assert!(slots.partitions.is_sorted_by_key(|slot| slot.uid));
}

pub async fn a_node_id_is_stable_and_an_incarnation_is_new(store: &SharedStore) {
    let first = register_agent(store, "agent-0").await;
    let other = register_agent(store, "agent-1").await;
    let again = register_agent(store, "agent-0").await;
    assert_eq!((first.node_id, other.node_id, again.node_id), (1, 2, 1));
    assert!(first.incarnation < other.incarnation && other.incarnation < again.incarnation);
    let agents = snapshot(store).await.agents;
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[0].incarnation, again.incarnation);
    let expected = registration("agent-1", Duration::ZERO);
    let stored = &agents[1];
    assert_eq!(
        (&stored.agent_id, &stored.grpc_address),
        (&expected.agent_id, &expected.grpc_address)
    );
    assert_eq!(
        (&stored.http_address, &stored.kafka_address),
        (&expected.http_address, &expected.kafka_address)
    );
    assert_eq!(
        (&stored.zone, &stored.version, stored.draining),
        (&expected.zone, &expected.version, false)
    );
}

pub async fn a_second_life_seals_the_first(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let second = register_agent(store, "agent-0").await;
    assert!(
        matches!(log.commit(&[batch(1)]).await, Err(Error::Sealed(sealed)) if sealed == log.lease.incarnation)
    );
    let snapshot = snapshot(store).await;
    assert_eq!(snapshot.agents.len(), 1);
    assert_eq!(snapshot.agents[0].incarnation, second.incarnation);
    assert_eq!(
        snapshot
            .unswept
            .iter()
            .map(|(incarnation, _)| *incarnation)
            .collect::<Vec<_>>(),
        [log.lease.incarnation]
    );
}

/// Registers an incarnation whose lease expires immediately.
async fn register_expired_agent(store: &SharedStore, agent_id: &str) -> Incarnation {
    store
        .register_agent(&registration(agent_id, Duration::ZERO))
        .await
        .unwrap()
        .incarnation
}

/// Renews until `others` incarnations were sealed; the clock of the store has to advance first.
async fn renew_until_sealed(store: &SharedStore, incarnation: Incarnation, others: u32) {
    let mut sealed = 0;
    while sealed < others {
        sealed += store.renew(incarnation).await.unwrap().sealed_others;
    }
    assert_eq!(sealed, others);
}

pub async fn renewing_seals_those_whose_lease_expired(store: &SharedStore) {
    let live = register_agent(store, "agent-0").await.incarnation;
    let gone = [
        register_expired_agent(store, "agent-1").await,
        register_expired_agent(store, "agent-2").await,
    ];
    let before = snapshot(store).await;
    renew_until_sealed(store, live, 2).await;
    let after = snapshot(store).await;
    assert!(after.version > before.version);
    assert_eq!(store.renew(live).await.unwrap().version, after.version);
    assert_eq!(
        after
            .agents
            .iter()
            .map(|agent| agent.incarnation)
            .collect::<Vec<_>>(),
        [live]
    );
    assert_eq!(
        after
            .unswept
            .iter()
            .map(|(incarnation, _)| *incarnation)
            .collect::<Vec<_>>(),
        gone
    );
    for incarnation in gone {
        assert!(
            matches!(store.renew(incarnation).await, Err(Error::Sealed(sealed)) if sealed == incarnation)
        );
    }
}

pub async fn an_expired_lease_that_nobody_took_can_be_renewed(store: &SharedStore) {
    let incarnation = register_expired_agent(store, "agent-0").await;
    for _ in 0..3 {
        assert_eq!(store.renew(incarnation).await.unwrap().sealed_others, 0);
    }
    assert_eq!(snapshot(store).await.agents.len(), 1);
}

pub async fn a_sealed_life_can_do_nothing_more(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let incarnation = log.lease.incarnation;
    let coordinator = take_slot_lease(store, 3, incarnation).await;
    log.append(5).await;
    let intent = store.begin_segment(log.lease, 0).await.unwrap();
    store.seal(incarnation).await.unwrap();
    let sealed = |result: crate::Result<()>| assert!(matches!(result, Err(Error::Sealed(_))), "{result:?}");
    sealed(store.renew(incarnation).await.map(|_| ()));
    sealed(store.drain(incarnation).await);
    sealed(log.commit(&[batch(1)]).await.map(|_| ()));
    sealed(store.begin_segment(log.lease, 0).await.map(|_| ()));
    let segment = NewSegment {
        key: intent.key,
        base_offset: 0,
        end_offset: 5,
        max_timestamp: 0,
        size_bytes: 1,
    };
    sealed(store.finish_segment(log.lease, &segment).await);
    sealed(store.advance_log_start(log.lease, 1).await.map(|_| ()));
    let group = GroupWrite {
        group_id: "g".to_owned(),
        slot: 3,
        generation: 1,
        state: Some(vec![1]),
        has_members: true,
    };
    sealed(store.put_group(coordinator, &group).await);
    let offsets = OffsetCommit {
        group_id: "g".to_owned(),
        slot: 3,
        generation: None,
        offsets: vec![],
    };
    sealed(store.commit_offsets(coordinator, &offsets).await.map(|_| ()));
    let other = create_topic(store, "payments", 1).await.partitions[0];
    let lease_move = LeaseMove {
        partition: other.uid,
        from: other.holder,
        epoch: other.epoch,
        to: Some(incarnation),
    };
    assert_eq!(
        store.move_leases(&[lease_move]).await.unwrap(),
        [LeaseMoveOutcome::Lost]
    );
    let stranger = Incarnation(incarnation.0 + 1000);
    sealed(store.renew(stranger).await.map(|_| ()));
    sealed(
        store
            .commit_object(&object_commit(stranger, 0, &[]))
            .await
            .map(|_| ()),
    );
}

pub async fn sealing_twice_or_a_stranger_is_harmless(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    store.seal(incarnation).await.unwrap();
    let before = snapshot(store).await;
    store.seal(incarnation).await.unwrap();
    store.seal(Incarnation(incarnation.0 + 1000)).await.unwrap();
    assert_eq!(snapshot(store).await.version, before.version);
}

/// An incarnation that renewed its lease since its agent appeared silent is not sealed, however
/// long its lease is.
pub async fn a_life_is_sealed_early_only_while_its_lease_is_not_renewed(store: &SharedStore) {
    let hour = Duration::from_secs(3600);
    let mut log = TestLog::new(store).await;
    let incarnation = log.lease.incarnation;
    let before = snapshot(store).await.version;
    for silence in [SilenceThreshold::HalfLease, SilenceThreshold::AtLeast(hour)] {
        assert!(
            !store.seal_if_silent(incarnation, silence).await.unwrap(),
            "{silence:?}"
        );
    }
    assert_eq!(
        store.renew(incarnation).await.unwrap().version,
        before,
        "nothing changed"
    );
    assert_eq!(log.append(1).await, 0);
    assert!(
        store
            .seal_if_silent(incarnation, SilenceThreshold::AtLeast(Duration::ZERO))
            .await
            .unwrap()
    );
    assert!(matches!(log.commit(&[batch(1)]).await, Err(Error::Sealed(sealed)) if sealed == incarnation));
    let after = snapshot(store).await;
    assert!(after.version > before);
    assert!(after.agents.is_empty() && after.unswept.len() == 1);
    // A repeated call, and an unknown incarnation: it counts as sealed, and nothing changes.
    assert!(
        store
            .seal_if_silent(incarnation, SilenceThreshold::AtLeast(hour))
            .await
            .unwrap()
    );
    let stranger = Incarnation(1_000_000);
    assert!(
        store
            .seal_if_silent(stranger, SilenceThreshold::HalfLease)
            .await
            .unwrap()
    );
    assert_eq!(snapshot(store).await.version, after.version);
    // A lease that expired immediately has missed its renewals.
    let expired = register_expired_agent(store, "agent-2").await;
    assert!(
        store
            .seal_if_silent(expired, SilenceThreshold::HalfLease)
            .await
            .unwrap()
    );
    assert!(matches!(store.renew(expired).await, Err(Error::Sealed(_))));
}

pub async fn the_version_rises_with_every_change_and_only_then(store: &SharedStore) {
    let mut version = snapshot(store).await.version;
    let mut rose = async |what: &str| {
        let now = snapshot(store).await.version;
        assert!(now > version, "{what}");
        version = now;
    };
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    rose("an agent registered").await;
    let lease = leases(&create_topic(store, "orders", 1).await)[0];
    rose("a topic was created").await;
    store
        .alter_topic(
            "orders",
            &TopicChange {
                partitions: Some(2),
                ..TopicChange::default()
            },
        )
        .await
        .unwrap();
    rose("a topic grew").await;
    let other = register_agent(store, "agent-1").await.incarnation;
    rose("another agent registered").await;
    take_lease(store, lease, other).await.unwrap();
    rose("a lease moved").await;
    store.drain(other).await.unwrap();
    rose("an agent drains").await;
    store.delete_topic("orders").await.unwrap();
    rose("a topic was deleted").await;
    store.seal(other).await.unwrap();
    rose("an agent was sealed").await;
    store.mark_swept(other).await.unwrap();
    rose("an incarnation was swept").await;
    let known = snapshot(store).await.version;
    store.renew(incarnation).await.unwrap();
    assert_eq!(take_lease(store, lease, incarnation).await, None);
    store.drain(incarnation).await.unwrap();
    let known_and_one = known + 1;
    assert_eq!(store.snapshot(Some(known_and_one)).await.unwrap(), None);
    store.drain(incarnation).await.unwrap();
    assert_eq!(store.snapshot(Some(known_and_one)).await.unwrap(), None);
    assert!(store.snapshot(Some(known)).await.unwrap().is_some());
}

pub async fn a_draining_agent_keeps_its_leases_and_gets_no_new_ones(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    store.drain(log.lease.incarnation).await.unwrap();
    assert!(snapshot(store).await.agents[0].draining);
    log.append(3).await;
    store.renew(log.lease.incarnation).await.unwrap();
    let free = create_topic(store, "payments", 1).await.partitions[0];
    assert_eq!(free.holder, None);
    let lease_move = LeaseMove {
        partition: free.uid,
        from: None,
        epoch: 0,
        to: Some(log.lease.incarnation),
    };
    assert_eq!(
        store.move_leases(&[lease_move]).await.unwrap(),
        [LeaseMoveOutcome::Lost]
    );
    let new_leader = register_agent(store, "agent-1").await.incarnation;
    assert!(take_lease(store, log.lease, new_leader).await.is_some());
    assert_eq!(
        create_topic(store, "shipments", 1).await.partitions[0].holder,
        Some(new_leader)
    );
    // The next incarnation of the same agent does not drain.
    let next = register_agent(store, "agent-0").await.incarnation;
    let agents = snapshot(store).await.agents;
    assert!(
        agents
            .iter()
            .any(|agent| agent.incarnation == next && !agent.draining)
    );
}

pub async fn a_lease_moves_only_from_the_holder_and_epoch_named(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let (old, new) = (log.lease, register_agent(store, "agent-1").await.incarnation);
    assert_eq!(
        take_lease(
            store,
            Lease {
                epoch: old.epoch + 1,
                ..old
            },
            new
        )
        .await,
        None
    );
    assert_eq!(
        take_lease(
            store,
            Lease {
                incarnation: new,
                ..old
            },
            old.incarnation
        )
        .await,
        None
    );
    assert_eq!(
        take_lease(
            store,
            Lease {
                partition: PartitionUid(i64::MAX),
                ..old
            },
            new
        )
        .await,
        None
    );
    assert_eq!(take_lease(store, old, Incarnation(new.0 + 1000)).await, None);
    let moved = take_lease(store, old, new).await.unwrap();
    assert_eq!(moved.epoch, old.epoch + 1);
    // Repeated after an unknown outcome: the same answer.
    assert_eq!(take_lease(store, old, new).await, Some(moved));
    let back = take_lease(store, moved, old.incarnation).await.unwrap();
    assert_eq!(back.epoch, old.epoch + 2);
    assert_eq!(take_lease(store, old, new).await, None);
}

pub async fn a_sealed_holder_counts_as_nobody(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let new = register_agent(store, "agent-1").await.incarnation;
    store.seal(log.lease.incarnation).await.unwrap();
    let topics = snapshot(store).await.topics;
    let orders = topics.iter().find(|topic| topic.name == "orders").unwrap();
    assert_eq!(
        (orders.partitions[0].holder, orders.partitions[0].epoch),
        (None, log.lease.epoch)
    );
    assert_eq!(
        take_lease(store, log.lease, new).await,
        None,
        "the holder named is sealed"
    );
    let lease_move = LeaseMove {
        partition: log.lease.partition,
        from: None,
        epoch: log.lease.epoch,
        to: Some(new),
    };
    let outcome = store.move_leases(&[lease_move]).await.unwrap();
    assert!(matches!(outcome[0], LeaseMoveOutcome::Moved { epoch, .. } if epoch == log.lease.epoch + 1));
}

pub async fn a_move_tells_the_bounds_of_the_log(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    log.append(6).await;
    log.roll(5).await;
    store.advance_log_start(log.lease, 2).await.unwrap();
    let new = register_agent(store, "agent-1").await.incarnation;
    let lease_move = LeaseMove {
        partition: log.lease.partition,
        from: Some(log.lease.incarnation),
        epoch: 1,
        to: Some(new),
    };
    let bounds = LogBounds {
        log_start: 2,
        rolled: 5,
        high_watermark: 11,
        size_bytes: 77 + 60,
    };
    assert_eq!(
        store.move_leases(&[lease_move]).await.unwrap(),
        [LeaseMoveOutcome::Moved { epoch: 2, bounds }]
    );
}

/// INV-L1.
pub async fn a_zombie_cannot_write_after_another_took_the_lease(store: &SharedStore) {
    let mut zombie = TestLog::new(store).await;
    zombie.append(5).await;
    let intent = store.begin_segment(zombie.lease, 0).await.unwrap();
    let new = register_agent(store, "agent-1").await.incarnation;
    let mut new_leader = TestLog::with_lease(store, take_lease(store, zombie.lease, new).await.unwrap());
    let outcome = zombie.commit(&[batch(1)]).await.unwrap();
    assert_eq!(outcome.partitions, [PartitionOutcome::Fenced]);
    let fenced = |result: crate::Result<()>| assert!(matches!(result, Err(Error::Fenced(_))), "{result:?}");
    fenced(store.begin_segment(zombie.lease, 0).await.map(|_| ()));
    let segment = NewSegment {
        key: intent.key,
        base_offset: 0,
        end_offset: 5,
        max_timestamp: 0,
        size_bytes: 1,
    };
    fenced(store.finish_segment(zombie.lease, &segment).await);
    fenced(store.advance_log_start(zombie.lease, 5).await.map(|_| ()));
    assert_eq!(new_leader.append(2).await, 5);
    // Also when the lease returns: batches accepted in the old epoch stay refused.
    let back = take_lease(store, new_leader.lease, zombie.lease.incarnation)
        .await
        .unwrap();
    assert_eq!(
        zombie.commit(&[batch(1)]).await.unwrap().partitions,
        [PartitionOutcome::Fenced]
    );
    zombie.lease = back;
    assert_eq!(zombie.append(1).await, 7);
}

pub async fn a_released_partition_takes_no_writes(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let release = LeaseMove {
        partition: log.lease.partition,
        from: Some(log.lease.incarnation),
        epoch: log.lease.epoch,
        to: None,
    };
    for _ in 0..2 {
        let outcome = store.move_leases(&[release]).await.unwrap();
        assert!(matches!(outcome[0], LeaseMoveOutcome::Moved { epoch, .. } if epoch == log.lease.epoch));
    }
    assert_eq!(
        log.commit(&[batch(1)]).await.unwrap().partitions,
        [PartitionOutcome::Fenced]
    );
    let retaken = LeaseMove {
        from: None,
        to: Some(log.lease.incarnation),
        ..release
    };
    let outcome = store.move_leases(&[retaken]).await.unwrap();
    assert!(matches!(outcome[0], LeaseMoveOutcome::Moved { epoch, .. } if epoch == log.lease.epoch + 1));
    assert_eq!(
        log.commit(&[batch(1)]).await.unwrap().partitions,
        [PartitionOutcome::Fenced],
        "the old epoch"
    );
    assert!(store.create_topic(&new_topic("payments", 1)).await.is_ok());
}

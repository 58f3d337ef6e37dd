//! Consumer groups and their offsets.

use super::fixture::{
    NO_GRACE, SharedStore, TestLog, collect_garbage, create_topic, leases, register_agent, take_lease,
    take_slot_lease,
};
use crate::{
    Error, GroupLag, GroupQuery, GroupWrite, Lease, OffsetCommit, OffsetCommitOutcome, OffsetDeletion,
    OffsetToCommit, PartitionUid, PersistedGroup,
};

fn group(group_id: &str, slot: i32, generation: i32, state: &[u8]) -> GroupWrite {
    GroupWrite {
        group_id: group_id.to_owned(),
        slot,
        generation,
        state: Some(state.to_vec()),
        has_members: !state.is_empty(),
    }
}

fn record(group_id: &str, slot: i32, generation: i32, state: &[u8]) -> PersistedGroup {
    PersistedGroup {
        group_id: group_id.to_owned(),
        slot,
        generation,
        state: state.to_vec(),
    }
}

fn offset(partition: PartitionUid, offset: i64) -> OffsetToCommit {
    OffsetToCommit {
        partition,
        offset,
        leader_epoch: 3,
        metadata: format!("at {offset}"),
    }
}

fn commit(group_id: &str, generation: Option<i32>, offsets: Vec<OffsetToCommit>) -> OffsetCommit {
    OffsetCommit {
        group_id: group_id.to_owned(),
        slot: 0,
        generation,
        offsets,
    }
}

pub async fn groups_are_found_by_slot_and_by_id(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let slots = [
        take_slot_lease(store, 0, incarnation).await,
        take_slot_lease(store, 1, incarnation).await,
    ];
    store
        .put_group(slots[0], &group("b", 0, 1, b"one"))
        .await
        .unwrap();
    store
        .put_group(slots[1], &group("c", 1, 1, b"two"))
        .await
        .unwrap();
    store.put_group(slots[0], &group("a", 0, 4, b"")).await.unwrap();
    store
        .put_group(slots[0], &group("b", 0, 2, b"three"))
        .await
        .unwrap();
    let (a, b, c) = (
        record("a", 0, 4, b""),
        record("b", 0, 2, b"three"),
        record("c", 1, 1, b"two"),
    );
    assert_eq!(
        store.groups(&GroupQuery::Slot(0)).await.unwrap(),
        [a.clone(), b.clone()]
    );
    assert_eq!(
        store.groups(&GroupQuery::Slot(1)).await.unwrap(),
        std::slice::from_ref(&c)
    );
    assert_eq!(store.groups(&GroupQuery::Slot(2)).await.unwrap(), []);
    assert_eq!(store.groups(&GroupQuery::All).await.unwrap(), [a, b, c.clone()]);
    assert_eq!(store.groups(&GroupQuery::Id("c".to_owned())).await.unwrap(), [c]);
    assert_eq!(store.groups(&GroupQuery::Id("d".to_owned())).await.unwrap(), []);
}

pub async fn a_group_is_written_by_the_holder_of_its_slot_only(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let old = take_slot_lease(store, 0, log.lease.incarnation).await;
    store.put_group(old, &group("g", 0, 1, b"old")).await.unwrap();
    let new = take_lease(store, old, register_agent(store, "agent-1").await.incarnation)
        .await
        .unwrap();
    let fenced = |result: crate::Result<()>| assert!(matches!(result, Err(Error::Fenced(_))), "{result:?}");
    for lease in [old, Lease { epoch: 9, ..new }, log.lease] {
        fenced(store.put_group(lease, &group("g", 0, 2, b"zombie")).await);
        fenced(
            store
                .commit_offsets(lease, &commit("g", None, vec![offset(log.lease.partition, 1)]))
                .await
                .map(|_| ()),
        );
    }
    fenced(store.put_group(new, &group("g", 1, 2, b"another slot's")).await);
    store.put_group(new, &group("g", 0, 2, b"new")).await.unwrap();
    assert_eq!(
        store.groups(&GroupQuery::All).await.unwrap(),
        [record("g", 0, 2, b"new")]
    );
    assert_eq!(store.fetch_offsets("g").await.unwrap(), []);
}

pub async fn a_generation_never_goes_back(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let lease = take_slot_lease(store, 0, incarnation).await;
    store.put_group(lease, &group("g", 0, 5, b"five")).await.unwrap();
    store
        .put_group(lease, &group("g", 0, 5, b"five again"))
        .await
        .unwrap();
    let back = store.put_group(lease, &group("g", 0, 4, b"four")).await;
    assert!(
        matches!(back, Err(Error::IllegalGeneration { given: 4, stored: 5 })),
        "{back:?}"
    );
    let delete = GroupWrite {
        state: None,
        ..group("g", 0, 4, b"")
    };
    assert!(matches!(
        store.put_group(lease, &delete).await,
        Err(Error::IllegalGeneration { .. })
    ));
    assert_eq!(
        store.groups(&GroupQuery::All).await.unwrap(),
        [record("g", 0, 5, b"five again")]
    );
}

/// INV-C1.
pub async fn a_member_of_an_old_generation_cannot_commit(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    let uid = log.lease.partition;
    store
        .put_group(lease, &group("g", 0, 2, b"members"))
        .await
        .unwrap();
    store
        .commit_offsets(lease, &commit("g", Some(2), vec![offset(uid, 50)]))
        .await
        .unwrap();
    for old in [1, 3, -1] {
        let refused = store
            .commit_offsets(lease, &commit("g", Some(old), vec![offset(uid, 10)]))
            .await;
        assert!(
            matches!(refused, Err(Error::IllegalGeneration { given, stored: 2 }) if given == old),
            "{refused:?}"
        );
    }
    let nobody = store
        .commit_offsets(lease, &commit("unheard of", Some(1), vec![offset(uid, 10)]))
        .await;
    assert!(
        matches!(nobody, Err(Error::IllegalGeneration { given: 1, .. })),
        "{nobody:?}"
    );
    assert_eq!(store.fetch_offsets("g").await.unwrap()[0].offset, 50);
    assert_eq!(store.groups(&GroupQuery::All).await.unwrap().len(), 1);
}

pub async fn a_consumer_without_membership_commits(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    let done = store
        .commit_offsets(lease, &commit("g", None, vec![offset(log.lease.partition, 7)]))
        .await
        .unwrap();
    assert_eq!(done, [OffsetCommitOutcome::Committed]);
    assert_eq!(
        store.groups(&GroupQuery::Slot(0)).await.unwrap(),
        [record("g", 0, 0, b"")]
    );
    // When it becomes a group with members, its offsets remain.
    store
        .put_group(lease, &group("g", 0, 1, b"members"))
        .await
        .unwrap();
    assert_eq!(store.fetch_offsets("g").await.unwrap()[0].offset, 7);
    // A reset names no generation either.
    store
        .commit_offsets(lease, &commit("g", None, vec![offset(log.lease.partition, 2)]))
        .await
        .unwrap();
    assert_eq!(store.fetch_offsets("g").await.unwrap()[0].offset, 2);
    assert_eq!(
        store.groups(&GroupQuery::Slot(0)).await.unwrap(),
        [record("g", 0, 1, b"members")]
    );
}

pub async fn offsets_keep_their_metadata_and_the_last_counts(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let lease = take_slot_lease(store, 0, incarnation).await;
    let uids: Vec<_> = leases(&create_topic(store, "orders", 3).await)
        .iter()
        .map(|lease| lease.partition)
        .collect();
    let offsets = vec![offset(uids[2], 30), offset(uids[0], 10), offset(uids[2], 31)];
    let done = store
        .commit_offsets(lease, &commit("g", None, offsets))
        .await
        .unwrap();
    assert_eq!(done, [OffsetCommitOutcome::Committed; 3]);
    let odd = OffsetToCommit {
        metadata: "ü\n'\"".to_owned(),
        leader_epoch: -1,
        ..offset(uids[0], 11)
    };
    store
        .commit_offsets(lease, &commit("g", None, vec![odd]))
        .await
        .unwrap();
    let fetched = store.fetch_offsets("g").await.unwrap();
    let rows: Vec<_> = fetched
        .iter()
        .map(|row| (row.partition, row.uid, row.offset, row.leader_epoch))
        .collect();
    assert_eq!(rows, [(0, uids[0], 11, -1), (2, uids[2], 31, 3)]);
    assert_eq!(
        (fetched[0].metadata.as_str(), fetched[1].metadata.as_str()),
        ("ü\n'\"", "at 31")
    );
    assert!(
        fetched
            .iter()
            .all(|row| row.topic == "orders" && row.committed_at_ms > 1_600_000_000_000)
    );
    assert_eq!(
        store
            .commit_offsets(lease, &commit("g", None, vec![]))
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.fetch_offsets("h").await.unwrap(), []);
}

pub async fn offsets_of_unknown_partitions_are_refused_one_by_one(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    let gone = create_topic(store, "payments", 1).await.partitions[0].uid;
    store.delete_topic("payments").await.unwrap();
    let offsets = vec![
        offset(gone, 1),
        offset(log.lease.partition, 2),
        offset(PartitionUid(1_000_000), 3),
    ];
    let done = store
        .commit_offsets(lease, &commit("g", None, offsets))
        .await
        .unwrap();
    assert_eq!(
        done,
        [
            OffsetCommitOutcome::UnknownPartition,
            OffsetCommitOutcome::Committed,
            OffsetCommitOutcome::UnknownPartition
        ]
    );
    assert_eq!(store.fetch_offsets("g").await.unwrap().len(), 1);
}

pub async fn offsets_are_deleted_one_by_one(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let lease = take_slot_lease(store, 0, incarnation).await;
    let uids: Vec<_> = leases(&create_topic(store, "orders", 3).await)
        .iter()
        .map(|lease| lease.partition)
        .collect();
    for group in ["g", "h"] {
        let offsets = uids.iter().map(|uid| offset(*uid, 5)).collect();
        store
            .commit_offsets(lease, &commit(group, None, offsets))
            .await
            .unwrap();
    }
    let deletion = |slot, partitions: &[PartitionUid]| OffsetDeletion {
        group_id: "g".to_owned(),
        slot,
        partitions: partitions.to_vec(),
    };
    let wrong = store.delete_offsets(lease, &deletion(1, &uids)).await;
    assert!(matches!(wrong, Err(Error::Fenced(_))), "{wrong:?}");
    let unknown = PartitionUid(1_000_000);
    store
        .delete_offsets(lease, &deletion(0, &[uids[0], uids[2], unknown]))
        .await
        .unwrap();
    let left = async |group: &str| -> Vec<PartitionUid> {
        let offsets = store.fetch_offsets(group).await.unwrap();
        offsets.into_iter().map(|offset| offset.uid).collect()
    };
    assert_eq!(left("g").await, [uids[1]]);
    assert_eq!(left("h").await, uids);
}

pub async fn a_deleted_group_leaves_no_offsets(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    for group_id in ["g", "h"] {
        store
            .commit_offsets(
                lease,
                &commit(group_id, None, vec![offset(log.lease.partition, 5)]),
            )
            .await
            .unwrap();
    }
    let delete = GroupWrite {
        state: None,
        ..group("g", 0, 9, b"")
    };
    for _ in 0..2 {
        store.put_group(lease, &delete).await.unwrap();
    }
    assert_eq!(store.fetch_offsets("g").await.unwrap(), []);
    assert_eq!(store.fetch_offsets("h").await.unwrap().len(), 1);
    assert_eq!(
        store.groups(&GroupQuery::All).await.unwrap(),
        [record("h", 0, 0, b"")]
    );
}

pub async fn lag_is_told_of_groups_whose_members_are_gone(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let slots = [
        take_slot_lease(store, 0, log.lease.incarnation).await,
        take_slot_lease(store, 1, log.lease.incarnation).await,
    ];
    log.append(10).await;
    log.append(10).await;
    let mut payments = TestLog::with_lease(store, leases(&create_topic(store, "payments", 2).await)[0]);
    payments.append(7).await;
    let in_slot = |slot, group_id, partition, at| OffsetCommit {
        slot,
        ..commit(group_id, None, vec![offset(partition, at)])
    };
    for (lease, commit) in [
        (slots[0], in_slot(0, "a", log.lease.partition, 4)),
        (slots[0], in_slot(0, "a", payments.lease.partition, 7)),
        (slots[0], in_slot(0, "ahead", log.lease.partition, 99)),
        (slots[1], in_slot(1, "b", log.lease.partition, 12)),
    ] {
        store.commit_offsets(lease, &commit).await.unwrap();
    }
    let row = |group_id: &str, topic: &str, committed, lag| GroupLag {
        group_id: group_id.to_owned(),
        topic: topic.to_owned(),
        committed,
        lag,
    };
    let of_first = [
        row("a", "orders", 4, 16),
        row("a", "payments", 7, 0),
        row("ahead", "orders", 99, 0),
    ];
    assert_eq!(store.group_lags(&[0], 100).await.unwrap(), of_first);
    assert_eq!(store.group_lags(&[0], 1).await.unwrap(), of_first[..1]);
    assert_eq!(
        store.group_lags(&[1, 5], 100).await.unwrap(),
        [row("b", "orders", 12, 8)]
    );
    assert_eq!(store.group_lags(&[], 100).await.unwrap(), []);
    // Records that retention deleted cannot be read any more, so they do not count as lag.
    store.advance_log_start(log.lease, 15).await.unwrap();
    let lags = store.group_lags(&[0, 1], 2).await.unwrap();
    assert_eq!(lags, [row("a", "orders", 4, 5), row("b", "orders", 12, 5)]);
    store.delete_topic("orders").await.unwrap();
    assert_eq!(
        store.group_lags(&[0, 1], 100).await.unwrap(),
        [row("a", "payments", 7, 0)]
    );
}

pub async fn offsets_of_a_deleted_topic_never_speak_for_a_new_one(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    store
        .commit_offsets(lease, &commit("g", None, vec![offset(log.lease.partition, 5)]))
        .await
        .unwrap();
    store.delete_topic("orders").await.unwrap();
    assert_eq!(store.fetch_offsets("g").await.unwrap(), []);
    collect_garbage(store, NO_GRACE).await;
    create_topic(store, "orders", 1).await;
    assert_eq!(store.fetch_offsets("g").await.unwrap(), []);
}

//! Topics: their partitions, settings and names.

use std::collections::BTreeMap;

use super::fixture::{
    NO_GRACE, SharedStore, TestLog, batch, collect_garbage, create_topic, leases, new_topic, register_agent,
    snapshot,
};
use crate::{Error, GROUP_SLOT_TOPIC, LogPosition, NewTopic, PartitionOutcome, TopicChange};

pub async fn partitions_are_spread_over_the_live_agents(store: &SharedStore) {
    let first = register_agent(store, "agent-0").await.incarnation;
    let orders = create_topic(store, "orders", 3).await;
    assert!(
        orders
            .partitions
            .iter()
            .all(|partition| partition.holder == Some(first) && partition.epoch == 1)
    );
    let second = register_agent(store, "agent-1").await.incarnation;
    let sealed = register_agent(store, "agent-2").await.incarnation;
    store.seal(sealed).await.unwrap();
    let payments = create_topic(store, "payments", 5).await;
    let held = |incarnation| {
        payments
            .partitions
            .iter()
            .filter(|partition| partition.holder == Some(incarnation))
            .count()
    };
    // 3 + 1 and 0 + 4.
    assert_eq!((held(first), held(second)), (1, 4));
    let uids: Vec<_> = orders
        .partitions
        .iter()
        .chain(&payments.partitions)
        .map(|partition| partition.uid)
        .collect();
    assert!(uids.is_sorted_by(|a, b| a < b), "by number, unique: {uids:?}");
    let topics = snapshot(store).await.topics;
    assert_eq!(
        topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(),
        [GROUP_SLOT_TOPIC, "orders", "payments"]
    );
    assert_eq!(topics[2], payments);
}

pub async fn without_agents_nobody_leads(store: &SharedStore) {
    let orders = create_topic(store, "orders", 4).await;
    assert!(
        orders
            .partitions
            .iter()
            .all(|partition| partition.holder.is_none() && partition.epoch == 0)
    );
    assert!(!orders.internal && orders.created_at_ms > 1_600_000_000_000);
}

pub async fn a_name_is_unique(store: &SharedStore) {
    let orders = create_topic(store, "orders", 1).await;
    assert!(
        matches!(store.create_topic(&new_topic("orders", 2)).await, Err(Error::TopicAlreadyExists(name)) if name == "orders")
    );
    let other = create_topic(store, "Orders", 1).await;
    assert_ne!(orders.topic_id, other.topic_id);
    assert!(matches!(
        store.create_topic(&new_topic(GROUP_SLOT_TOPIC, 2)).await,
        Err(Error::TopicAlreadyExists(_))
    ));
}

pub async fn a_topic_grows_and_never_shrinks(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let before = create_topic(store, "orders", 2).await;
    let to = |partitions| TopicChange {
        partitions: Some(partitions),
        ..TopicChange::default()
    };
    let after = store.alter_topic("orders", &to(5)).await.unwrap();
    assert_eq!(after.partitions.len(), 5);
    assert_eq!(after.partitions[..2], before.partitions[..]);
    assert!(
        after
            .partitions
            .iter()
            .all(|partition| partition.holder == Some(incarnation))
    );
    assert_eq!(store.alter_topic("orders", &to(5)).await.unwrap(), after);
    for fewer in [4, 0, -1] {
        assert!(matches!(
            store.alter_topic("orders", &to(fewer)).await,
            Err(Error::InvalidPartitions(_))
        ));
    }
    assert!(
        matches!(store.alter_topic("payments", &to(5)).await, Err(Error::UnknownTopic(name)) if name == "payments")
    );
}

pub async fn settings_are_set_and_reset(store: &SharedStore) {
    let config = BTreeMap::from([
        ("retention.ms".to_owned(), "1000".to_owned()),
        ("odd \"one\"".to_owned(), "ü".to_owned()),
    ]);
    let new = NewTopic {
        config: config.clone(),
        ..new_topic("orders", 1)
    };
    assert_eq!(store.create_topic(&new).await.unwrap().config, config);
    let change = BTreeMap::from([
        ("retention.ms".to_owned(), None),
        ("retention.bytes".to_owned(), Some("5".to_owned())),
        ("never.set".to_owned(), None),
    ]);
    let changed = store
        .alter_topic(
            "orders",
            &TopicChange {
                partitions: None,
                config: change,
            },
        )
        .await
        .unwrap();
    let expected = BTreeMap::from([
        ("retention.bytes".to_owned(), "5".to_owned()),
        ("odd \"one\"".to_owned(), "ü".to_owned()),
    ]);
    assert_eq!(changed.config, expected);
    assert!(snapshot(store).await.topics.contains(&changed));
}

pub async fn the_internal_topic_is_not_for_users(store: &SharedStore) {
    let change = TopicChange {
        partitions: Some(99),
        ..TopicChange::default()
    };
    assert!(matches!(
        store.alter_topic(GROUP_SLOT_TOPIC, &change).await,
        Err(Error::UnknownTopic(_))
    ));
    assert!(matches!(
        store.delete_topic(GROUP_SLOT_TOPIC).await,
        Err(Error::UnknownTopic(_))
    ));
}

pub async fn a_deleted_topic_takes_no_commits_and_no_reads(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let uid = log.lease.partition;
    store.delete_topic("orders").await.unwrap();
    store.delete_topic("orders").await.unwrap();
    assert!(matches!(
        store.delete_topic("payments").await,
        Err(Error::UnknownTopic(_))
    ));
    assert_eq!(snapshot(store).await.topics.len(), 1);
    assert_eq!(
        log.commit(&[batch(1)]).await.unwrap().partitions,
        [PartitionOutcome::Fenced]
    );
    let read = store.read_log(uid, LogPosition::Offset(0), 10).await;
    assert!(matches!(read, Err(Error::UnknownPartition(gone)) if gone == uid));
    assert!(matches!(
        store.begin_segment(log.lease, 0).await,
        Err(Error::UnknownPartition(_))
    ));
    assert!(matches!(
        store.advance_log_start(log.lease, 1).await,
        Err(Error::UnknownPartition(_))
    ));
    let alter = store.alter_topic("orders", &TopicChange::default()).await;
    assert!(matches!(alter, Err(Error::UnknownTopic(_))));
}

/// INV-K1: a topic name is reused at once, an object key never.
pub async fn a_deleted_name_is_free_at_once_and_gets_a_folder_of_its_own(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let mut folders = vec!["orders".to_owned()];
    let mut ids = Vec::new();
    for use_of_the_name in 2..=4 {
        log.append(10).await;
        let key = log.roll(10).await;
        assert_eq!(
            key,
            format!("{}/0/segment_0000000000.dat", folders[folders.len() - 1])
        );
        store.delete_topic("orders").await.unwrap();
        store.delete_topic("orders").await.unwrap();
        // In the last round, also after everything of the former topics is deleted.
        if use_of_the_name == 4 {
            let keys = collect_garbage(store, NO_GRACE).await;
            store.confirm_deleted(&keys).await.unwrap();
            collect_garbage(store, NO_GRACE).await;
            assert!(matches!(
                store.delete_topic("orders").await,
                Err(Error::UnknownTopic(_))
            ));
        }
        let again = create_topic(store, "orders", 1).await;
        assert_eq!(
            (again.name.as_str(), &again.folder),
            ("orders", &format!("orders@{use_of_the_name}"))
        );
        let taken = store.create_topic(&new_topic("orders", 1)).await;
        assert!(matches!(taken, Err(Error::TopicAlreadyExists(_))));
        let seen = snapshot(store).await.topics;
        let seen: Vec<_> = seen.iter().filter(|topic| topic.name == "orders").collect();
        assert_eq!(seen, [&again], "one topic has the name");
        ids.push(again.topic_id);
        folders.push(again.folder.clone());
        let sequence = log.sequence;
        log = TestLog::with_lease(store, leases(&again)[0]);
        log.sequence = sequence;
        assert_eq!(log.read(0).await.bounds.high_watermark, 0, "offsets begin anew");
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let refused = store.create_topic(&new_topic("orders", 1)).await;
    assert!(refused.is_err());
    store.delete_topic("orders").await.unwrap();
    assert_eq!(
        create_topic(store, "orders", 1).await.folder,
        "orders@5",
        "what is refused uses no folder"
    );
}

pub async fn a_topic_needs_a_partition(store: &SharedStore) {
    for partitions in [0, -1] {
        assert!(matches!(
            store.create_topic(&new_topic("orders", partitions)).await,
            Err(Error::InvalidPartitions(_))
        ));
    }
    assert_eq!(snapshot(store).await.topics.len(), 1);
}

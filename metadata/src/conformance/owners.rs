//! The owners of topic names, and the overview that the operator uses.

use std::collections::BTreeMap;

use super::fixture::{
    NO_GRACE, SharedStore, TestLog, batch, collect_garbage, create_topic, leases, new_topic, object_commit,
    owner, register_agent, snapshot,
};
use crate::{GROUP_SLOT_TOPIC, LogBounds, NewTopic, TopicEntry, TopicSummary};

pub async fn a_name_is_claimed_by_one_until_it_lets_go(store: &SharedStore) {
    let (first, second) = (owner("first"), owner("second"));
    for _ in 0..2 {
        assert_eq!(store.claim_topic("orders", &first).await.unwrap(), first);
        assert_eq!(store.claim_topic("orders", &second).await.unwrap(), first);
    }
    assert_eq!(store.claim_topic("Orders", &second).await.unwrap(), second);
    assert!(!store.release_topic("orders", &second.uid).await.unwrap());
    assert!(!store.release_topic("payments", &first.uid).await.unwrap());
    assert_eq!(store.claim_topic("orders", &second).await.unwrap(), first);
    assert!(store.release_topic("orders", &first.uid).await.unwrap());
    assert!(!store.release_topic("orders", &first.uid).await.unwrap());
    assert_eq!(store.claim_topic("orders", &second).await.unwrap(), second);
    assert_eq!(second.to_string(), "default/second");
}

/// A resource that is deleted and created again under the same name is another owner.
pub async fn an_owner_is_known_by_its_uid(store: &SharedStore) {
    let old = owner("orders");
    let new = crate::TopicOwner {
        uid: "another".to_owned(),
        ..old.clone()
    };
    store.claim_topic("orders", &old).await.unwrap();
    assert_eq!(store.claim_topic("orders", &new).await.unwrap(), old);
    assert!(!store.release_topic("orders", &new.uid).await.unwrap());
}

pub async fn a_claim_stands_without_its_topic(store: &SharedStore) {
    let before = snapshot(store).await.version;
    let claimed = owner("first");
    store.claim_topic("orders", &claimed).await.unwrap();
    let overview = store.topics_overview().await.unwrap();
    assert_eq!(
        overview.owners,
        BTreeMap::from([("orders".to_owned(), claimed.clone())])
    );
    assert!(overview.topics.is_empty());
    assert_eq!(
        store.snapshot(Some(before)).await.unwrap(),
        None,
        "owners are not part of the snapshot"
    );
    create_topic(store, "orders", 1).await;
    store.delete_topic("orders").await.unwrap();
    collect_garbage(store, NO_GRACE).await;
    let overview = store.topics_overview().await.unwrap();
    assert_eq!(overview.owners["orders"], claimed);
    assert!(overview.topics.is_empty(), "it had no objects");
    store.release_topic("orders", &claimed.uid).await.unwrap();
    assert!(store.topics_overview().await.unwrap().owners.is_empty());
}

fn expected_summary(record: &TopicEntry, bounds: &[LogBounds]) -> TopicSummary {
    TopicSummary {
        topic_id: record.topic_id,
        config: record.config.clone(),
        partitions: i32::try_from(record.partitions.len()).unwrap(),
        high_watermark: bounds.iter().map(|bounds| bounds.high_watermark).sum(),
        log_start: bounds.iter().map(|bounds| bounds.log_start).sum(),
        size_bytes: bounds.iter().map(|bounds| bounds.size_bytes).sum(),
    }
}

pub async fn an_overview_adds_up_each_topic(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let config = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let new = NewTopic {
        config,
        ..new_topic("orders", 3)
    };
    let orders = store.create_topic(&new).await.unwrap();
    let idle = create_topic(store, "payments", 2).await;
    let held = leases(&orders);
    let (few, many) = ([batch(2)], [batch(5), batch(7)]);
    for sequence in 0..2 {
        let commit = object_commit(incarnation, sequence, &[(held[0], &few), (held[2], &many)]);
        store.commit_object(&commit).await.unwrap();
    }
    TestLog::with_lease(store, held[2]).roll(12).await;
    store.advance_log_start(held[2], 13).await.unwrap();
    let claimed = owner("first");
    store.claim_topic("orders", &claimed).await.unwrap();

    let uids: Vec<_> = orders.partitions.iter().map(|partition| partition.uid).collect();
    let bounds = store.bounds(&uids).await.unwrap();
    let bounds: Vec<LogBounds> = bounds.into_iter().map(|(_, bounds)| bounds).collect();
    let expected = expected_summary(&orders, &bounds);
    assert_eq!(
        (expected.high_watermark, expected.log_start, expected.size_bytes),
        (4 + 24, 13, 40 + 120),
        "the segment before the log start is gone"
    );
    let overview = store.topics_overview().await.unwrap();
    assert_eq!(
        overview.topics,
        BTreeMap::from([
            ("orders".to_owned(), expected),
            ("payments".to_owned(), expected_summary(&idle, &[])),
        ])
    );
    assert_eq!(overview.owners, BTreeMap::from([("orders".to_owned(), claimed)]));
    assert!(!overview.topics.contains_key(GROUP_SLOT_TOPIC));
}

pub async fn an_overview_leaves_out_a_topic_that_was_deleted(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let before = store.topics_overview().await.unwrap().topics["orders"].clone();
    assert_eq!((before.partitions, before.high_watermark), (1, 5));
    let claimed = owner("first");
    store.claim_topic("orders", &claimed).await.unwrap();
    store.delete_topic("orders").await.unwrap();
    let overview = store.topics_overview().await.unwrap();
    assert!(overview.topics.is_empty(), "the name is free");
    assert_eq!(overview.owners["orders"], claimed);
    create_topic(store, "orders", 2).await;
    let again = store.topics_overview().await.unwrap().topics["orders"].clone();
    assert_ne!(again.topic_id, before.topic_id);
    assert_eq!((again.partitions, again.high_watermark), (2, 0));
}

/// More topics than any page size.
pub async fn an_overview_of_many_topics_is_whole(store: &SharedStore) {
    for n in 0..300 {
        let name = format!("topic-{n:03}");
        create_topic(store, &name, 1 + n % 3).await;
        if n % 2 == 0 {
            store.claim_topic(&name, &owner(&name)).await.unwrap();
        }
    }
    let overview = store.topics_overview().await.unwrap();
    assert_eq!((overview.topics.len(), overview.owners.len()), (300, 150));
    for (n, topic) in (0..).zip(overview.topics.values()) {
        assert_eq!(topic.partitions, 1 + n % 3);
    }
    for (name, owner) in &overview.owners {
        assert_eq!(&owner.resource, name);
    }
}

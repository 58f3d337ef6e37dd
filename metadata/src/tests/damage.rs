//! Damaged rows: they affect only what they belong to.

use streamhouse_core::ErrorCode;

use super::support::{execute_sql, stores_of_each_kind};
use crate::{
    BatchOutcome,
    conformance::fixture::{
        TestLog, batch_outcomes, create_topic, leases, object_commit, register_agent, sequenced_batch,
        snapshot,
    },
};

#[tokio::test]
async fn a_damaged_producer_costs_its_batches_and_no_others() {
    let (_folder, stores) = stores_of_each_kind().await;
    for (url, store) in stores {
        let incarnation = register_agent(&store, "agent-0").await.incarnation;
        let leases = leases(&create_topic(&store, "orders", 2).await);
        let (bad, good) = (sequenced_batch(1, 0, 1), sequenced_batch(2, 0, 1));
        let first = [bad, good];
        let commit = object_commit(incarnation, 0, &[(leases[0], &first), (leases[1], &first)]);
        store.commit_object(&commit).await.unwrap();
        let damaged = format!(
            "UPDATE producer_state SET batches = {} WHERE producer_id = 1 AND partition_id = {}",
            if url.starts_with("sqlite") {
                "x'00'"
            } else {
                r"'\x00'"
            },
            leases[0].partition.0
        );
        execute_sql(&url, &damaged).await;
        let next = [sequenced_batch(1, 1, 1), sequenced_batch(2, 1, 1)];
        let commit = object_commit(incarnation, 1, &[(leases[0], &next), (leases[1], &next)]);
        let outcome = store.commit_object(&commit).await.unwrap();
        let appended = |base_offset| BatchOutcome::Appended { base_offset };
        let refused = BatchOutcome::refused(ErrorCode::StorageCorrupt);
        assert_eq!(batch_outcomes(&outcome, 0), [refused, appended(2)], "{url}");
        assert_eq!(batch_outcomes(&outcome, 1), [appended(2), appended(3)], "{url}");
        // The incarnation continues, and a new epoch repairs the row.
        store.renew(incarnation).await.unwrap();
        let mut anew = sequenced_batch(1, 0, 1);
        anew.producer.as_mut().unwrap().epoch = 1;
        let outcome = store
            .commit_object(&object_commit(incarnation, 2, &[(leases[0], &[anew])]))
            .await
            .unwrap();
        assert_eq!(batch_outcomes(&outcome, 0), [appended(3)], "{url}");
    }
}

#[tokio::test]
async fn a_topic_with_damaged_settings_hides_no_other_and_keeps_its_records() {
    let (_folder, stores) = stores_of_each_kind().await;
    for (url, store) in stores {
        let mut log = TestLog::new(&store).await;
        create_topic(&store, "odd", 1).await;
        create_topic(&store, "whole", 1).await;
        execute_sql(
            &url,
            "UPDATE topics SET config = '{\"retention.ms\": 5}' WHERE name = 'odd'",
        )
        .await;
        execute_sql(&url, "UPDATE topics SET config = '[1]' WHERE name = 'orders'").await;
        let seen = snapshot(&store).await;
        let config = |name: &str| {
            &seen
                .topics
                .iter()
                .find(|topic| topic.name == name)
                .unwrap()
                .config
        };
        assert_eq!(config("odd")["retention.ms"], "5", "{url}");
        assert_eq!(config("orders")["retention.ms"], "-1", "{url}");
        assert!(config("whole").is_empty(), "{url}");
        assert_eq!(store.topics_overview().await.unwrap().topics.len(), 3, "{url}");
        log.append(1).await;
    }
}

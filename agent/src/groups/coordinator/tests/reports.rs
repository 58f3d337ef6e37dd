//! The group metrics of a coordinator, above all after all consumers are gone.

use streamhouse_metadata::{BatchMetadata, LeaseMove, LeaseMoveOutcome, ObjectCommit, PartitionCommit};

use super::{super::*, test_cluster::*};
use crate::faulty_metadata::MetadataMethod;

impl GroupTestCluster {
    /// Commits ten more records to orders-0 by this agent.
    async fn append_ten_records(&self, agent: &TestAgent, sequence: u64) {
        let snapshot = self.store.snapshot(None).await.unwrap().unwrap();
        let orders = snapshot
            .topics
            .iter()
            .find(|topic| topic.name == "orders")
            .unwrap();
        let record = orders.partitions[0];
        let mut epoch = record.epoch;
        if record.holder != Some(agent.incarnation) {
            let wish = LeaseMove {
                partition: record.uid,
                from: record.holder,
                epoch,
                to: Some(agent.incarnation),
            };
            let outcome = self.store.move_leases(&[wish]).await.unwrap()[0];
            let LeaseMoveOutcome::Moved { epoch: moved, .. } = outcome else {
                panic!("the lease did not move")
            };
            epoch = moved;
        }
        let batch = BatchMetadata {
            size_bytes: 100,
            records: 10,
            max_timestamp: 1,
            producer: None,
        };
        let commit = ObjectCommit {
            incarnation: agent.incarnation,
            sequence,
            size_bytes: 100,
            partitions: vec![PartitionCommit {
                partition: record.uid,
                epoch,
                position: 0,
                batches: vec![batch],
            }],
        };
        self.store.commit_object(&commit).await.unwrap();
    }
}

/// Returns the metrics of the group "g" as scraped.
async fn scrape_group(agent: &TestAgent) -> Vec<String> {
    agent.coordinator.report_once().await.unwrap();
    let text = agent.coordinator.deps().metrics.render().unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("streamhouse_group_"))
        .map(|line| line.replace("group=\"g\"", "g"))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn lag_goes_on_being_told_when_every_member_is_dead() {
    let (world, a) = GroupTestCluster::with_agent().await;
    assert_eq!(scrape_group(&a).await, [""; 0]);
    world.append_ten_records(&a, 0).await;
    let member = a.join_single_member().await;
    assert_eq!(a.commit(Some(&member), 4).await, ErrorCode::None);
    assert_eq!(
        scrape_group(&a).await,
        [
            "committed_offset{g,topic=\"orders\"} 4",
            "lag_records{g,topic=\"orders\"} 6",
            "members{g} 1",
            "state{g,state=\"Stable\"} 1",
        ]
    );
    a.leave(&member).await.unwrap();
    world.append_ten_records(&a, 1).await;
    let nobody_left = [
        "committed_offset{g,topic=\"orders\"} 4",
        "lag_records{g,topic=\"orders\"} 16",
        "members{g} 0",
        "state{g,state=\"Empty\"} 1",
    ];
    assert_eq!(scrape_group(&a).await, nobody_left);
    // The last values stay while the store fails: a gap would resolve an alert.
    let away = world.store.lose_before(MetadataMethod::ALL);
    a.coordinator.report_once().await.unwrap_err();
    let text = a.coordinator.deps().metrics.render().unwrap();
    assert!(text.contains("streamhouse_group_lag_records{group=\"g\",topic=\"orders\"} 16"));
    away.release();
    // The next coordinator continues the series, and the previous one drops them.
    let b = world.agent("b").await;
    world.make_coordinator(&b, "g").await;
    assert_eq!(scrape_group(&b).await, nobody_left);
    a.coordinator.release(group_slot("g", GROUP_SLOTS)).await;
    assert_eq!(scrape_group(&a).await, [""; 0]);
}

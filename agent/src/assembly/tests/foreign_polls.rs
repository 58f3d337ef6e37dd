//! Fetches at an agent that does not lead: however many wait for a partition, the metadata store is
//! polled once for all of them.

use super::*;

const POLL_COUNT: usize = 500;

/// Returns how often the agent asked the metadata store about a log.
fn log_call_count(deferred: &DeferredMetadataStore) -> usize {
    let calls = deferred.calls.lock();
    ["bounds", "read_log"]
        .iter()
        .map(|name| calls.get(name).copied().unwrap_or(0))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_of_a_partition_that_another_agent_leads_share_one_look() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let deferred = Arc::new(DeferredMetadataStore::default());
    let two = Agent::start_with_deferred_metadata(
        settings(dir.path(), "two", &[]),
        deferred.clone(),
        OptionalTracer::default(),
    )
    .await
    .unwrap();
    wait_until("the other is ready", || two.node.health.is_ready()).await;
    create_topic(&one, "orders", 4).await;
    wait_until("both lead", || led_count(&one) == 2 && led_count(&two) == 2).await;
    let view = two.node.directory.view();
    let leads = |p: &i32| view.partition("orders", *p).unwrap().holder == incarnation(&one);
    let partition = (0..4).find(leads).unwrap();
    let uid = view.partition("orders", partition).unwrap().uid;
    let before = log_call_count(&deferred);
    let polls: Vec<_> = (0..POLL_COUNT)
        .map(|_| {
            let node = two.node.clone();
            let wanted = v1::PartitionFetch {
                topic: "orders".to_owned(),
                partition,
                max_bytes: 1024,
                ..v1::PartitionFetch::default()
            };
            let request = v1::FetchRequest {
                min_bytes: 1,
                max_bytes: 1024,
                max_wait_ms: 60_000,
                partitions: vec![wanted],
            };
            tokio::spawn(async move { crate::fetch::fetch(&node.fetch(), request).await })
        })
        .collect();
    wait_until("all wait", || {
        two.node.foreign_logs.waiter_count(uid) == POLL_COUNT
    })
    .await;
    assert_eq!(produce(&one, "orders", partition, "x").await, Ok(0));
    for poll in polls {
        let (answer, _) = poll.await.unwrap().unwrap();
        let part = &answer.partitions[0];
        assert_eq!((part.error.as_ref(), part.high_watermark), (None, 1));
        assert!(!part.records.is_empty());
    }
    let asked = log_call_count(&deferred) - before;
    assert!(
        asked < POLL_COUNT / 2,
        "{POLL_COUNT} polls asked the store {asked} times"
    );
    // The poller ends with the last waiting fetch.
    wait_until("the looking ends", || {
        two.node.foreign_logs.waiter_count(uid) == 0
    })
    .await;
    two.drain().await;
    one.drain().await;
}

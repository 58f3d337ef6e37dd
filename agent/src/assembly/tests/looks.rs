//! Fetches at an agent that does not lead: however many wait for a partition, the metadata store is
//! polled once for all of them.

use super::*;

const POLLS: usize = 500;

/// Returns how often the agent asked the metadata store about a log.
fn asked(late: &Late) -> usize {
    let calls = late.calls.lock();
    ["bounds", "read_log"]
        .iter()
        .map(|name| calls.get(name).copied().unwrap_or(0))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_of_a_partition_that_another_agent_leads_share_one_look() {
    let dir = TempDir::new().unwrap();
    let one = agent(dir.path(), "one").await;
    let late = Arc::new(Late::default());
    let two = Agent::start_on(settings(dir.path(), "two", &[]), late.clone(), Traces::default())
        .await
        .unwrap();
    until("the other is ready", || two.node.health.is_ready()).await;
    create(&one, "orders", 4).await;
    until("both lead", || held(&one) == 2 && held(&two) == 2).await;
    let view = two.node.directory.view();
    let leads = |p: &i32| view.partition("orders", *p).unwrap().holder == life(&one);
    let partition = (0..4).find(leads).unwrap();
    let uid = view.partition("orders", partition).unwrap().uid;
    let before = asked(&late);
    let polls: Vec<_> = (0..POLLS)
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
            tokio::spawn(async move { crate::fetch::fetch(&node, request).await })
        })
        .collect();
    until("all wait", || two.node.looks.waiting(uid) == POLLS).await;
    assert_eq!(produce(&one, "orders", partition, "x").await, Ok(0));
    for poll in polls {
        let (answer, _) = poll.await.unwrap().unwrap();
        let part = &answer.partitions[0];
        assert_eq!((part.error.as_ref(), part.high_watermark), (None, 1));
        assert!(!part.records.is_empty());
    }
    let asked = asked(&late) - before;
    assert!(asked < POLLS / 2, "{POLLS} polls asked the store {asked} times");
    // The poller ends with the last waiting fetch.
    until("the looking ends", || two.node.looks.waiting(uid) == 0).await;
    two.drain().await;
    one.drain().await;
}

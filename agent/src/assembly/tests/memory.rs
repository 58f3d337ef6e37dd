//! The memory for readers and for the segment roller stays within its budgets, and each byte of it
//! is counted.

use super::*;
use crate::fetch;

/// Starts an agent with small budgets: two readers request more than there is.
async fn start_small_agent(dir: &Path, id: &str) -> Agent {
    let small = [
        "--maintenance-interval=100ms",
        "--cache-memory=4MiB",
        "--produce-memory=1MiB",
        "--max-request-bytes=128KiB",
        "--max-fetch-bytes=1MiB",
        "--flush-bytes=64KiB",
    ];
    let agent = Agent::start(settings(dir, id, &small)).await.unwrap();
    wait_until("it is ready", || agent.node.health.is_ready()).await;
    agent
}

async fn create_small_topic(agent: &Agent) {
    let request = v1::CreateTopicRequest {
        name: "orders".to_owned(),
        partitions: 1,
        config: [("segment.bytes", "262144"), ("retention.ms", "-1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..v1::CreateTopicRequest::default()
    };
    topics::create(&agent.node.topics(), request).await.unwrap();
}

/// Number of records, of 60 kB each.
const RECORD_COUNT: usize = 32;

/// Asserts that no budget is exceeded.
fn assert_within_budgets(agent: &Agent) {
    let (memory, budgets) = (&agent.node.memory, agent.node.settings.memory_budgets());
    for (what, used, budget) in [
        ("fetch", memory.fetch.used() as u64, budgets.fetch),
        ("cold reads", memory.cold_reads.used() as u64, budgets.cold_reads),
        ("roll", memory.roll.used() as u64, budgets.roll),
        (
            "in flight",
            agent.node.blocks.in_flight_bytes(),
            budgets.in_flight,
        ),
        ("tails", agent.node.tails.bytes() as u64, budgets.cache / 2),
    ] {
        assert!(used <= budget, "{what}: {used} of {budget}");
    }
}

/// Reads everything from the beginning as fast as possible, and returns the number of bytes.
async fn catch_up(agent: &Agent, end: i64) -> usize {
    let (mut offset, mut total) = (0, 0);
    while offset < end {
        let request = v1::FetchRequest {
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: u32::MAX,
            partitions: vec![v1::PartitionFetch {
                topic: "orders".to_owned(),
                partition: 0,
                offset,
                max_bytes: u32::MAX,
                ..Default::default()
            }],
        };
        match fetch::fetch(&agent.node.fetch(), request).await {
            Ok((answer, memory)) => {
                let part = &answer.partitions[0];
                assert_eq!(part.error, None);
                let records = part.records.clone();
                assert!(!records.is_empty(), "a read always goes on");
                let held = memory.map_or(0, |memory| memory.num_permits());
                assert_eq!(held, records.len() * 2, "as read and as encoded");
                assert_within_budgets(agent);
                total += records.len();
                for batch in streamhouse_core::batch::BatchIter::owned(&records) {
                    offset = batch.unwrap().0.next_offset();
                }
            }
            Err(error) => assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}"),
        }
        tokio::task::yield_now().await;
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_readers_that_catch_up_stay_within_the_budgets() {
    let dir = TempDir::new().unwrap();
    let one = start_small_agent(dir.path(), "one").await;
    create_small_topic(&one).await;
    let value = "x".repeat(60_000);
    let mut end = 0;
    for _ in 0..RECORD_COUNT {
        end = produce(&one, "orders", 0, &value).await.unwrap() + 1;
        assert_within_budgets(&one);
    }
    wait_until("something is rolled", || {
        one.node.metrics.segments_rolled.get() > 0
    })
    .await;
    // An agent that leads nothing has nothing in memory.
    let two = Arc::new(start_small_agent(dir.path(), "two").await);
    let readers = (0..20).map(|_| {
        let two = two.clone();
        tokio::spawn(async move { catch_up(&two, end).await })
    });
    for total in futures::future::join_all(readers).await {
        assert!(total.unwrap() > RECORD_COUNT * 60_000, "everything was read");
    }
    assert_eq!(two.node.memory.fetch.used(), 0, "and all memory was given back");
    assert_eq!(two.node.memory.cold_reads.used(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_segment_that_is_written_counts() {
    let dir = TempDir::new().unwrap();
    let one = start_small_agent(dir.path(), "one").await;
    create_small_topic(&one).await;
    let hold = one.node.failpoints.hold(FailPoint::BeforeSegmentPut);
    let value = "x".repeat(60_000);
    for _ in 0..8 {
        produce(&one, "orders", 0, &value).await.unwrap();
    }
    wait_until("a segment is built", || one.node.memory.roll.used() > 0).await;
    let used = one.node.memory.roll.used();
    assert!(
        used >= 262_144 && used <= one.node.memory.roll.capacity(),
        "{used}"
    );
    one.node.gauges().update();
    let text = one.node.metrics.render().unwrap();
    assert!(text.contains(&format!(
        "streamhouse_agent_memory_used_bytes{{use=\"roll\"}} {used}"
    )));
    let bound = one.node.settings.memory_budgets().total();
    assert!(text.contains(&format!("streamhouse_agent_memory_bound_bytes {bound}")));
    drop(hold);
    wait_until("it is stored", || one.node.metrics.segments_rolled.get() > 0).await;
    wait_until("its memory is given back", || one.node.memory.roll.used() == 0).await;
    one.drain().await;
}

//! Producers that reach one agent only, while leaders crash, come and go.

use super::*;

/// Sends numbered records of one idempotent producer through `channel`, each until it is
/// acknowledged, until `stop`. Returns the offsets.
async fn produce_through_changes(
    channel: Channel,
    partition: i32,
    producer: i64,
    stop: CancellationToken,
) -> Vec<i64> {
    let mut stream = ProducerStream::open(channel.clone()).await;
    let mut offsets = Vec::new();
    let deadline = Instant::now() + 2 * EVENT_TIMEOUT;
    for sequence in 0.. {
        loop {
            let sent = part(partition, &sequence.to_string(), Some((producer, sequence)));
            match stream.produce(sent).await {
                Ok(offset) => {
                    offsets.push(offset);
                    break;
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    assert!(Instant::now() < deadline, "{error}");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        if stop.is_cancelled() {
            break;
        }
    }
    offsets
}

/// Starts a producer for every partition that reaches only `agent`. Returns how to stop them, and
/// their tasks.
async fn start_producers(agent: &Agent) -> (CancellationToken, Vec<JoinHandle<Vec<i64>>>) {
    let stop = CancellationToken::new();
    let mut producers = Vec::new();
    for partition in 0..PARTITIONS {
        let channel = connect(agent, "forward").await;
        let id = agent.node.metadata.allocate_producer_id().await.unwrap();
        let producer = produce_through_changes(channel, partition, id, stop.clone());
        producers.push(tokio::spawn(producer));
    }
    (stop, producers)
}

/// Waits until some more requests are forwarded by `agent`.
async fn wait_forwarded(agent: &Agent) {
    let forwarded = || scrape_values(agent, ["forwarded_requests_total{kind=\"produce\"}"])[0];
    let before = forwarded();
    wait_until("records are forwarded", || forwarded() > before + 40.0).await;
}

/// Checks that a partition holds the records of [`produce_through_changes`], each once, in order.
async fn check_log(stores: &FaultyStores, node: &AgentNode, partition: i32, acked: &[i64]) {
    let log = user_partition(stores, "orders", partition).await;
    let mut values = Vec::new();
    while values.len() < acked.len() {
        let next = values.len() as i64;
        let more = fetch_values(node, &log, next, 1 << 20).await.unwrap();
        assert!(!more.is_empty(), "partition {partition} ends at {next}");
        values.extend(more);
    }
    let expected = (0..)
        .zip(0..acked.len())
        .map(|(offset, n)| (offset, n.to_string()));
    assert_eq!(values, expected.collect::<Vec<_>>(), "partition {partition}");
    assert_eq!(acked, (0..acked.len() as i64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stored_twice_when_the_leader_crashes() {
    let TwoAgents { stores, one, two } = TwoAgents::start(&[], &[]).await;
    let (stop, producers) = start_producers(&two).await;
    wait_forwarded(&two).await;
    one.crash().await;
    wait_until("the survivor leads all", || led_count(&two) == 4).await;
    stop.cancel();
    for (partition, producer) in (0..).zip(producers) {
        let acked = producer.await.unwrap();
        check_log(&stores, &two.node, partition, &acked).await;
    }
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stored_twice_while_leaders_come_and_go() {
    let TwoAgents { stores, one, two } = TwoAgents::start(&[], &[]).await;
    let (stop, producers) = start_producers(&two).await;
    let mut leaving = one;
    for n in 0..3 {
        wait_forwarded(&two).await;
        let next = stores.start_ready_agent(&format!("next-{n}"), &[FORWARD]).await;
        leaving.drain().await;
        leaving = next;
    }
    stop.cancel();
    for (partition, producer) in (0..).zip(producers) {
        let acked = producer.await.unwrap();
        check_log(&stores, &two.node, partition, &acked).await;
    }
    leaving.drain().await;
    two.drain().await;
}

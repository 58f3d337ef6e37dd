//! The clients of the simulation: producers that keep order and sequences, consumers that read from
//! any agent, and a consumer group that commits its offsets.

#![allow(clippy::needless_update)] // messages get new fields

use streamhouse_core::protocol::v1::group_service_client::GroupServiceClient;
use tonic::transport::Endpoint;

use super::*;

/// How long a client waits for a response before it retries, possibly at another agent.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);
const RETRY_DELAY: Duration = Duration::from_millis(3);
/// Maximum number of batches of one producer in flight.
const MAX_IN_FLIGHT_BATCHES: i32 = 3;

/// Sends values, several at once, each until it is acknowledged. Ends with nothing in flight.
pub(super) async fn produce_values(world: Arc<SimulatedCluster>, mut producer: TestProducer) {
    let mut sent = 0;
    while producer.sequence < sent || !world.stop_producing.is_cancelled() {
        if !world.stop_producing.is_cancelled() {
            while sent < producer.sequence + MAX_IN_FLIGHT_BATCHES {
                world
                    .ledger
                    .lock()
                    .record_sent(&producer.log, &producer.value(sent));
                sent += 1;
            }
        }
        let node = world.node();
        let first = producer.sequence;
        // Batches get their place in the order one after the other; their responses arrive later.
        let window = async {
            let mut pending = Vec::new();
            for sequence in first..sent {
                pending.push(producer.begin_send(&node, sequence).await);
            }
            let deps = node.produce();
            let answers = pending.into_iter().map(|pending| pending.finish(&deps));
            futures::future::join_all(answers).await
        };
        let answers = timeout(REQUEST_TIMEOUT, window).await.unwrap_or_default();
        for (sequence, answer) in (first..).zip(answers) {
            match single_offset(answer) {
                Ok(offset) => {
                    let value = producer.value(sequence);
                    world.ledger.lock().record_acked(&producer.log, offset, &value);
                    producer.sequence = sequence + 1;
                }
                Err(error) => {
                    let code = error.code();
                    // A batch after one that was not stored must wait for it.
                    let waits = code == ErrorCode::OutOfOrderSequenceNumber && sequence > first;
                    // An agent that has just started knows no topics.
                    let new = code == ErrorCode::UnknownTopicOrPartition;
                    assert!(
                        error.is_retryable() || waits || new,
                        "{:?} {sequence}: {error}",
                        producer.log
                    );
                    break;
                }
            }
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Reads every log repeatedly, from any agent and sometimes from its beginning; finally to its end.
pub(super) async fn read_logs(world: Arc<SimulatedCluster>) {
    let mut positions: HashMap<PartitionName, i64> = HashMap::new();
    loop {
        let last_round = world.stop_reading.is_cancelled();
        let logs = world.logs.lock().clone();
        let mut behind = false;
        for log in logs {
            let position = positions.entry(log.clone()).or_default();
            if !last_round && world.entropy.below(16) == 0 {
                *position = 0;
            }
            let node = world.node();
            let _reads = world.reads.read().await;
            let read = read_and_check(&world.stores, &world.ledger, &node, &log, *position);
            match timeout(REQUEST_TIMEOUT, read).await {
                Ok(Ok(next)) => {
                    world.reads_done.inc();
                    *position = next;
                }
                Ok(Err(error)) => {
                    let out_of_range = error.code() == ErrorCode::OffsetOutOfRange;
                    world.out_of_range.inc_by(out_of_range.into());
                    let new = error.code() == ErrorCode::UnknownTopicOrPartition;
                    assert!(error.is_retryable() || new, "{log:?} from {position}: {error}");
                }
                Err(_) => {}
            }
            let bounds = world.stores.metadata.inner().bounds(&[log.uid]).await.unwrap();
            behind |= *position < bounds[0].1.high_watermark;
        }
        if last_round && !behind {
            return;
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Commits increasing offsets of a group, at whichever agent coordinates it, and verifies that they
/// never go back.
pub(super) async fn consume_group(world: Arc<SimulatedCluster>) {
    let log = world.logs.lock().first().cloned();
    let mut acked = -1;
    for attempted in 0_i64.. {
        if world.stop_producing.is_cancelled() {
            return;
        }
        let Some(log) = &log else { return };
        if let Some(true) = timeout(REQUEST_TIMEOUT, commit_group_offset(&world, log, attempted))
            .await
            .ok()
            .flatten()
        {
            acked = attempted;
        }
        if let Some(committed) = timeout(REQUEST_TIMEOUT, fetch_group_offset(&world, log))
            .await
            .ok()
            .flatten()
        {
            assert!(
                (acked..=attempted).contains(&committed),
                "{} violated: offset {committed} is committed, {acked} was acknowledged",
                crate::invariant::Invariant::C1
            );
        }
        sleep(RETRY_DELAY).await;
    }
}

type GroupClient = GroupServiceClient<tonic::transport::Channel>;

async fn connect_to_coordinator(world: &SimulatedCluster) -> Option<GroupClient> {
    let addresses: Vec<SocketAddr> = {
        let addresses = world.addresses.lock();
        let nodes = world.nodes.lock();
        let running = nodes.iter().filter_map(|(id, _)| addresses.get(id).copied());
        running.collect()
    };
    let address = world.entropy.pick(&addresses);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    Some(GroupServiceClient::new(endpoint.connect().await.ok()?))
}

/// Returns whether the commit was acknowledged; `None` if that is unknown.
async fn commit_group_offset(world: &SimulatedCluster, log: &PartitionName, offset: i64) -> Option<bool> {
    let offset = v1::CommitOffset {
        topic: log.topic.clone(),
        partition: log.partition,
        offset,
        leader_epoch: -1,
        ..Default::default()
    };
    let request = v1::CommitOffsetsRequest {
        group_id: "readers".to_owned(),
        generation: -1,
        offsets: vec![offset],
        ..Default::default()
    };
    let answer = connect_to_coordinator(world)
        .await?
        .commit_offsets(request)
        .await
        .ok()?;
    Some(answer.into_inner().offsets.first()?.error.is_none())
}

/// Returns the committed offset, if the agent knows it.
async fn fetch_group_offset(world: &SimulatedCluster, log: &PartitionName) -> Option<i64> {
    let request = v1::FetchOffsetsRequest {
        group_id: "readers".to_owned(),
        partitions: vec![v1::TopicPartition {
            topic: log.topic.clone(),
            partition: log.partition,
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = connect_to_coordinator(world)
        .await?
        .fetch_offsets(request)
        .await
        .ok()?;
    let offset = answer.into_inner().offsets.first()?.clone();
    offset.error.is_none().then_some(offset.offset)
}

//! What Kafka clients learn of stores that fail.

use streamhouse_core::kafka::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, ProduceRequest,
};

use super::{
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    kafka_limits::{fetch_request, start_with_topic, wait_for_memory},
    stores::FaultyStores,
    *,
};
use crate::{
    faulty_metadata::{MetadataFault, MetadataFaultKind, MetadataMethod},
    store::{
        StoreErrorKind, StoreOperation,
        fault::{Toxic, ToxicKind},
    },
};

fn commit_request() -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: "g".to_owned(),
        topics: vec![OffsetCommitRequestTopic {
            name: "orders".to_owned(),
            partitions: vec![OffsetCommitRequestPartition {
                committed_offset: 1,
                ..OffsetCommitRequestPartition::default()
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

/// Returns the codes that a client gets for a write, a commit and a read.
async fn codes(agent: &Agent) -> [i16; 3] {
    let mut client = RawKafkaClient::connect(agent).await;
    let request = ProduceRequest {
        timeout_ms: 200,
        ..produce_request("orders", -1, batch(b"x"))
    };
    let produced_code = produced(&client.call(&request, 9).await).0;
    let commit = client.call(&commit_request(), 2).await;
    let fetch = client.call(&fetch_request(0), 11).await;
    let fetch_code = match fetch.error_code {
        0 => fetch.responses[0].partitions[0].error_code,
        code => code,
    };
    [
        produced_code,
        commit.topics[0].partitions[0].error_code,
        fetch_code,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_of_stores_that_fail_by_codes_that_they_retry() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    assert_eq!(codes(&one).await, [0, 0, 0]);
    let metadata = [
        MetadataMethod::commit_object,
        MetadataMethod::commit_offsets,
        MetadataMethod::bounds,
    ];
    for kind in [MetadataFaultKind::LoseBefore, MetadataFaultKind::LoseAfter] {
        stores.metadata.add_fault(MetadataFault::new(kind, metadata));
        // REQUEST_TIMED_OUT and COORDINATOR_NOT_AVAILABLE; what is in memory is still read.
        assert_eq!(codes(&one).await, [7, 15, 0]);
        stores.metadata.clear();
    }
    let silent = stores.metadata.hang([MetadataMethod::commit_object]);
    assert_eq!(codes(&one).await[0], 7);
    silent.release();
    for kind in [
        ToxicKind::Error(StoreErrorKind::Unavailable),
        ToxicKind::Error(StoreErrorKind::Throttled),
        ToxicKind::Hang,
    ] {
        stores.store.add(Toxic::new(kind).on(&[StoreOperation::Put]));
        assert_eq!(codes(&one).await[..2], [7, 0]);
        stores.store.clear();
    }
    wait_until("everything that was taken is stored", || {
        one.node
            .writer
            .get()
            .is_some_and(|writer| writer.queued_bytes() == 0)
    })
    .await;
    assert_eq!(codes(&one).await, [0, 0, 0]);
    wait_for_memory(&one).await;
    one.drain().await;
}

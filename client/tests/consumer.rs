//! The consumer against the fake cluster: records, positions, seeks, resets, bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{collections::BTreeMap, time::Duration};

use fake_agent::{
    Cluster,
    reading::{LONG, POLL, builder, expected, of, produce, read},
};
use futures::{StreamExt, pin_mut};
use streamhouse_client::{AutoOffsetReset, Consumer, ConsumerBuilder, Error, metrics::Registry};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn assigned_partitions_are_read_in_order_with_everything_in_the_records() {
    let cluster = Cluster::start(2).await;
    cluster.create("t", 2);
    produce(&cluster, "t", 2, 0..500).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0), of("t", 1)])
        .max_poll_records(77)
        .build()
        .await
        .unwrap();
    let mut by_partition: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut seen = 0;
    while seen < 500 {
        let records = consumer.poll(POLL).await.unwrap();
        assert!(records.len() <= 77);
        for record in &records {
            let number =
                usize::try_from(record.offset * 2).unwrap() + usize::try_from(record.partition).unwrap();
            assert_eq!(record.value.unwrap(), format!("{number:06}").as_bytes());
            assert_eq!(record.timestamp, 1_000_000 + i64::try_from(number).unwrap());
            let headers: Vec<_> = record.headers().collect();
            assert_eq!(headers, [("number", Some(number.to_string().as_bytes()))]);
            assert_eq!(record.to_owned().headers.len(), 1);
            by_partition
                .entry(record.partition)
                .or_default()
                .push(record.offset);
            seen += 1;
        }
    }
    for offsets in by_partition.values() {
        assert_eq!(*offsets, (0..250).collect::<Vec<i64>>());
    }
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 250);
    assert_eq!(consumer.lag(&of("t", 0)).unwrap().records, 0);
    assert_eq!(consumer.metrics().records_consumed, 500);
    consumer.close().await.unwrap();
    assert_eq!(consumer.poll(POLL).await.unwrap_err(), Error::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn seeks_lead_to_offsets_ends_and_times() {
    let cluster = Cluster::start(1).await;
    cluster.create("t", 1);
    produce(&cluster, "t", 1, 0..100).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0)])
        .max_poll_records(5)
        .build()
        .await
        .unwrap();
    consumer.seek(&of("t", 0), 42).unwrap();
    assert_eq!(read(&mut consumer, 5).await, expected(42..47));
    consumer.seek_to_beginning(&[]).unwrap();
    assert_eq!(read(&mut consumer, 5).await, expected(0..5));
    consumer.seek_to_timestamp(&[], 1_000_090).unwrap();
    assert_eq!(read(&mut consumer, 5).await, expected(90..95));
    consumer.seek_to_end(&[of("t", 0)]).unwrap();
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 100);
    assert!(consumer.poll(Duration::ZERO).await.unwrap().is_empty());
    let times = consumer
        .offsets_for_times([(of("t", 0), 1_000_033)])
        .await
        .unwrap();
    assert_eq!(
        (times[&of("t", 0)].offset, times[&of("t", 0)].timestamp_ms),
        (33, 1_000_033)
    );
    assert_eq!(
        consumer.beginning_offsets(&[of("t", 0)]).await.unwrap()[&of("t", 0)],
        0
    );
    assert_eq!(
        consumer.end_offsets(&[of("t", 0)]).await.unwrap()[&of("t", 0)],
        100
    );
    assert!(matches!(
        consumer.seek(&of("t", 7), 0),
        Err(Error::NotAssigned { .. })
    ));
    assert!(matches!(consumer.seek(&of("t", 0), -1), Err(Error::Config(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_poll_is_woken_by_new_records_and_pauses_hold() {
    let cluster = Cluster::start(1).await;
    cluster.create("t", 2);
    let mut consumer = builder(&cluster)
        .assign([of("t", 0), of("t", 1)])
        .fetch_max_wait(Duration::from_secs(20))
        .build()
        .await
        .unwrap();
    let (values, ()) = tokio::join!(read(&mut consumer, 10), produce(&cluster, "t", 1, 0..10));
    assert_eq!(values, expected(0..10));
    consumer.pause(&[of("t", 0)]).unwrap();
    assert_eq!(consumer.paused(), [of("t", 0)]);
    produce(&cluster, "t", 2, 10..20).await;
    let odd = read(&mut consumer, 5).await;
    assert_eq!(odd, expected((10..20).filter(|number| number % 2 == 1)));
    consumer.resume(&[of("t", 0)]).unwrap();
    assert_eq!(
        read(&mut consumer, 5).await,
        expected((10..20).filter(|number| number % 2 == 0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_out_of_range_are_reset_as_configured() {
    let cluster = Cluster::start(1).await;
    cluster.create("t", 1);
    produce(&cluster, "t", 1, 0..10).await;
    let mut earliest = builder(&cluster).assign([of("t", 0)]).build().await.unwrap();
    earliest.seek(&of("t", 0), 1000).unwrap();
    assert_eq!(read(&mut earliest, 10).await, expected(0..10));
    let mut none = builder(&cluster)
        .assign([of("t", 0)])
        .auto_offset_reset(AutoOffsetReset::None)
        .build()
        .await
        .unwrap();
    let error = timeout(LONG, async {
        loop {
            if let Err(error) = none.poll(POLL).await {
                return error;
            }
        }
    });
    assert!(matches!(error.await.unwrap(), Error::NoOffset { .. }));
    none.seek(&of("t", 0), 9).unwrap();
    assert_eq!(read(&mut none, 1).await, expected(9..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_serves_while_the_leader_does_not_answer() {
    let cluster = Cluster::start(2).await;
    cluster.create("t", 2);
    produce(&cluster, "t", 2, 0..10).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0), of("t", 1)])
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    cluster.kill(0);
    produce(&cluster, "t", 2, 10..20).await;
    let mut values = read(&mut consumer, 10).await;
    values.sort();
    assert_eq!(values, expected(10..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_a_stream() {
    let cluster = Cluster::start(1).await;
    cluster.create("t", 1);
    produce(&cluster, "t", 1, 0..30).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0)])
        .max_poll_records(10)
        .build()
        .await
        .unwrap();
    let stream = consumer.stream();
    pin_mut!(stream);
    let mut count = 0;
    while count < 30 {
        count += stream.next().await.unwrap().unwrap().iter().count();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetching_stays_within_its_bound() {
    let cluster = Cluster::start(1).await;
    cluster.create("t", 2);
    produce(&cluster, "t", 2, 0..5000).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0), of("t", 1)])
        .prefetch(8192)
        .fetch_max_bytes(4096)
        .partition_fetch_bytes(2048)
        .max_poll_records(50)
        .build()
        .await
        .unwrap();
    let mut seen = 0;
    timeout(LONG, async {
        while seen < 5000 {
            seen += consumer.poll(POLL).await.unwrap().len();
            // A batch may exceed the bound of the fetch that brings it.
            assert!(consumer.metrics().buffered_bytes <= 8192 + 2 * 2048);
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn contradictory_settings_are_refused() {
    let refused =
        |builder: ConsumerBuilder| async move { matches!(builder.build().await, Err(Error::Config(_))) };
    let base = || {
        Consumer::builder()
            .bootstrap("localhost:1")
            .metrics_registry(Registry::new())
    };
    assert!(refused(Consumer::builder()).await);
    assert!(refused(base().topics(["t"])).await);
    assert!(refused(base().group("")).await);
    assert!(refused(base().group("g").session_timeout(Duration::from_secs(1))).await);
    assert!(refused(base().group("g").assignors([])).await);
    assert!(refused(base().prefetch(0)).await);
    assert!(refused(base().fetch_min_bytes(1 << 30)).await);
    assert!(base().group("g").topics(["t"]).build().await.is_ok());
}

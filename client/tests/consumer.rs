//! The consumer against the fake cluster: records, positions, seeks, resets, limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake_agent::{
    FakeCluster,
    helpers::{
        POLL_TIMEOUT, TEST_TIMEOUT, builder, cluster_with_records, expected, next_error, of, produce, read,
        read_sorted, reader,
    },
};
use futures::{StreamExt, pin_mut};
use streamhouse_client::{
    AutoOffsetReset, Consumer, ConsumerBuilder, Error, ErrorCode, metrics::MetricsRegistry,
};
use streamhouse_core::batch::{BatchBuilder, BatchHeader, Compression};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn assigned_partitions_are_read_in_order_with_everything_in_the_records() {
    let cluster = cluster_with_records(2, 2, 0..500).await;
    let mut consumer = reader(&cluster, 2).max_poll_records(77).build().await.unwrap();
    let mut by_partition: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut seen = 0;
    while seen < 500 {
        let records = consumer.poll(POLL_TIMEOUT).await.unwrap();
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
    assert_eq!(consumer.poll(POLL_TIMEOUT).await.unwrap_err(), Error::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn seeks_lead_to_offsets_ends_and_times() {
    let cluster = cluster_with_records(1, 1, 0..100).await;
    let mut consumer = reader(&cluster, 1).max_poll_records(5).build().await.unwrap();
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
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 2);
    let mut consumer = reader(&cluster, 2)
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
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut earliest = reader(&cluster, 1).build().await.unwrap();
    earliest.seek(&of("t", 0), 1000).unwrap();
    assert_eq!(read(&mut earliest, 10).await, expected(0..10));
    let mut none = reader(&cluster, 1)
        .auto_offset_reset(AutoOffsetReset::None)
        .build()
        .await
        .unwrap();
    assert!(matches!(next_error(&mut none).await, Error::NoOffset { .. }));
    none.seek(&of("t", 0), 9).unwrap();
    assert_eq!(read(&mut none, 1).await, expected(9..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_serves_while_the_leader_does_not_answer() {
    let cluster = cluster_with_records(2, 2, 0..10).await;
    let mut consumer = reader(&cluster, 2).build().await.unwrap();
    read(&mut consumer, 10).await;
    cluster.kill(0);
    produce(&cluster, "t", 2, 10..20).await;
    let values = read_sorted(&mut consumer, 10).await;
    assert_eq!(values, expected(10..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_nobody_leads_is_read_from_any_agent() {
    let cluster = cluster_with_records(2, 1, 0..10).await;
    cluster.change("t", 0, |partition| partition.leaderless = true);
    let mut consumer = reader(&cluster, 1).build().await.unwrap();
    assert_eq!(read(&mut consumer, 10).await, expected(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_a_stream() {
    let cluster = cluster_with_records(1, 1, 0..30).await;
    let mut consumer = reader(&cluster, 1).max_poll_records(10).build().await.unwrap();
    let stream = consumer.stream();
    pin_mut!(stream);
    let mut count = 0;
    while count < 30 {
        count += stream.next().await.unwrap().unwrap().iter().count();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetching_stays_within_its_bound() {
    let cluster = cluster_with_records(1, 2, 0..5000).await;
    let mut consumer = reader(&cluster, 2)
        .prefetch(8192)
        .fetch_max_bytes(4096)
        .partition_fetch_bytes(2048)
        .max_poll_records(50)
        .build()
        .await
        .unwrap();
    let mut seen = 0;
    timeout(TEST_TIMEOUT, async {
        while seen < 5000 {
            seen += consumer.poll(POLL_TIMEOUT).await.unwrap().len();
            // A batch may exceed the limit of its fetch.
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
            .metrics_registry(MetricsRegistry::new())
    };
    assert!(refused(Consumer::builder()).await);
    assert!(refused(base().group("")).await);
    assert!(refused(base().group("g").session_timeout(Duration::from_secs(1))).await);
    assert!(refused(base().group("g").assignors([])).await);
    assert!(refused(base().prefetch(0)).await);
    assert!(refused(base().fetch_min_bytes(1 << 30)).await);
    assert!(base().group("g").topics(["t"]).build().await.is_ok());
}

/// Returns the first offset of each batch of a partition, and the end of its log.
fn bounds(cluster: &FakeCluster, topic: &str, partition: usize) -> Vec<i64> {
    let state = cluster.state.lock();
    let log = &state.topics[topic][partition].log;
    let starts = log
        .batches
        .iter()
        .map(|batch| BatchHeader::parse(batch).unwrap().base_offset);
    starts.chain([log.end]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_told_and_passed_and_other_partitions_go_on() {
    let cluster = cluster_with_records(1, 2, 0..400).await;
    let bounds = bounds(&cluster, "t", 0);
    let damaged = bounds[1]..bounds[2];
    cluster.change("t", 0, |partition| partition.damaged = Some(damaged.clone()));
    let mut consumer = reader(&cluster, 2).build().await.unwrap();
    let before = usize::try_from(damaged.start).unwrap();
    let mut values = Vec::new();
    let error = timeout(TEST_TIMEOUT, async {
        let mut told = None;
        while told.is_none() || values.len() < before + 200 {
            match consumer.poll(POLL_TIMEOUT).await {
                Ok(records) => values.extend(records.iter().map(|record| (record.partition, record.offset))),
                Err(error) => told = Some(error),
            }
        }
        told.unwrap()
    });
    let error = error.await.expect("nothing is told, or the others do not go on");
    let Error::Unreadable {
        partition,
        offset,
        next_offset,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    let expected_place = (&of("t", 0), damaged.start, Some(damaged.end));
    assert_eq!((partition, *offset, *next_offset), expected_place);
    assert_eq!(error.code(), ErrorCode::StorageCorrupt);
    for part in ["t-0", &format!("{damaged:?}"), "t/0/segment_7.dat", "seek"] {
        assert!(error.to_string().contains(part), "{part} is missing in {error}");
    }
    assert_eq!(
        values.iter().filter(|(partition, _)| *partition == 0).count(),
        before
    );
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), damaged.start);
    consumer.seek(&of("t", 0), damaged.end).unwrap();
    let rest = 200 - usize::try_from(damaged.end).unwrap();
    let all = expected((0..400).filter(|number| number % 2 == 0));
    assert_eq!(read(&mut consumer, rest).await, all[200 - rest..]);

    // Repaired records are read without a seek.
    consumer.seek(&of("t", 0), damaged.start).unwrap();
    next_error(&mut consumer).await;
    cluster.change("t", 0, |partition| partition.damaged = None);
    let again = timeout(TEST_TIMEOUT, async {
        loop {
            match consumer.poll(POLL_TIMEOUT).await {
                Ok(records) if !records.is_empty() => return records.iter().next().unwrap().offset,
                _ => {}
            }
        }
    });
    assert_eq!(again.await.expect("it is not asked for again"), damaged.start);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_not_hidden_by_the_records_of_other_partitions() {
    let cluster = cluster_with_records(1, 2, 0..400).await;
    cluster.change("t", 0, |partition| partition.damaged = Some(0..10));
    let mut consumer = reader(&cluster, 2).max_poll_records(1).build().await.unwrap();
    let mut before = 0;
    timeout(TEST_TIMEOUT, async {
        while let Ok(records) = consumer.poll(POLL_TIMEOUT).await {
            before += records.len();
        }
    })
    .await
    .expect("nothing fails");
    assert!(before < 200, "told after all that could be read");
    timeout(TEST_TIMEOUT, async {
        while before < 200 {
            before += consumer
                .poll(POLL_TIMEOUT)
                .await
                .map_or(0, |records| records.len());
        }
    })
    .await
    .expect("the other partition does not go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_after_an_error() {
    let cluster = cluster_with_records(1, 2, 0..10).await;
    cluster.change("t", 0, |partition| partition.damaged = Some(0..5));
    let mut consumer = reader(&cluster, 2).build().await.unwrap();
    let stream = consumer.stream();
    pin_mut!(stream);
    let (mut errors, mut values) = (0, Vec::new());
    timeout(TEST_TIMEOUT, async {
        while errors < 2 || values.len() < 5 {
            match stream.next().await.unwrap() {
                Ok(records) => values.extend(records.iter().map(|record| record.partition)),
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::StorageCorrupt);
                    errors += 1;
                }
            }
        }
    })
    .await
    .expect("it does not go on");
    assert_eq!(values, [1; 5]);
}

/// Creates a partition with a batch of two records, between others, that cannot be decoded.
async fn cluster_with_damaged_batch() -> (FakeCluster, std::ops::Range<i64>) {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..2 {
        builder
            .append::<&[u8], &[u8]>(0, None, Some(b"poison"), &[])
            .unwrap();
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    cluster.change("t", 0, |partition| partition.log.append_unchecked(&bytes, 2));
    produce(&cluster, "t", 1, 12..20).await;
    (cluster, 10..12)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_batch_is_an_error_with_its_offsets_until_a_seek() {
    let (cluster, poison) = cluster_with_damaged_batch().await;
    let mut consumer = reader(&cluster, 1).build().await.unwrap();
    assert_eq!(read(&mut consumer, 10).await, expected(0..10));
    let error = next_error(&mut consumer).await;
    let Error::Corrupt {
        offset, next_offset, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(offset..next_offset, poison);
    consumer.seek(&of("t", 0), next_offset).unwrap();
    assert_eq!(read(&mut consumer, 8).await, expected(12..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_batch_is_passed_over_and_counted_where_that_is_wanted() {
    let (cluster, _) = cluster_with_damaged_batch().await;
    let mut consumer = reader(&cluster, 1)
        .skip_damaged_batches(true)
        .build()
        .await
        .unwrap();
    assert_eq!(read(&mut consumer, 18).await, expected((0..10).chain(12..20)));
    let stats = consumer.metrics();
    assert_eq!((stats.batches_skipped, stats.records_skipped), (1, 2));
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 20);
}

/// Calls that return at once in a loop must not starve the other tasks of the thread.
#[tokio::test]
async fn an_error_that_lasts_keeps_no_other_task_from_running() {
    let (cluster, _) = cluster_with_damaged_batch().await;
    let mut consumer = reader(&cluster, 1).build().await.unwrap();
    next_error(&mut consumer).await;
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = steps.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let mut errors = 0;
    for _ in 0..1000 {
        errors += usize::from(consumer.poll(Duration::ZERO).await.is_err());
    }
    other.abort();
    assert!(steps.load(Ordering::Relaxed) >= 1000);
    assert!(errors < 1000, "it is told again after pauses only");
    // A caller that waits gets the error again.
    next_error(&mut consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_before_they_were_read_do_not_take_the_others_with_them() {
    let cluster = cluster_with_records(1, 1, 0..100).await;
    cluster.change("t", 0, |partition| partition.log.start = 33);
    let mut consumer = reader(&cluster, 1)
        .auto_offset_reset(AutoOffsetReset::Latest)
        .build()
        .await
        .unwrap();
    consumer.seek(&of("t", 0), 10).unwrap();
    assert_eq!(read(&mut consumer, 67).await, expected(33..100));
    consumer.seek(&of("t", 0), 1000).unwrap();
    produce(&cluster, "t", 1, 100..101).await;
    timeout(TEST_TIMEOUT, async {
        while consumer.position(&of("t", 0)).await.unwrap() > 101 {
            consumer.poll(POLL_TIMEOUT).await.unwrap();
        }
    })
    .await
    .expect("it stays beyond the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_read_from_its_beginning_by_whoever_read_the_old_one() {
    let cluster = cluster_with_records(1, 1, 0..100).await;
    let mut consumer = reader(&cluster, 1)
        .auto_offset_reset(AutoOffsetReset::Latest)
        .build()
        .await
        .unwrap();
    consumer.seek_to_beginning(&[]).unwrap();
    read(&mut consumer, 100).await;
    cluster.delete("t");
    cluster.create("t", 1);
    produce(&cluster, "t", 1, 100..250).await;
    assert_eq!(read(&mut consumer, 150).await, expected(100..250));
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 150);

    let mut strict = reader(&cluster, 1)
        .auto_offset_reset(AutoOffsetReset::None)
        .build()
        .await
        .unwrap();
    strict.seek(&of("t", 0), 0).unwrap();
    read(&mut strict, 150).await;
    cluster.delete("t");
    cluster.create("t", 1);
    assert_eq!(next_error(&mut strict).await.code(), ErrorCode::UnknownTopicId);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_told_and_read_again_when_it_is_there_again() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 2);
    cluster.create("u", 1);
    produce(&cluster, "t", 2, 0..10).await;
    let mut consumer = builder(&cluster)
        .assign([of("t", 0), of("t", 1), of("u", 0)])
        .missing_topic_timeout(Some(Duration::ZERO))
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    cluster.delete("t");
    let error = next_error(&mut consumer).await;
    assert_eq!(error.code(), ErrorCode::UnknownTopicOrPartition, "{error}");
    assert!(error.to_string().contains("t-"), "{error}");
    produce(&cluster, "u", 1, 10..20).await;
    let read_on = async |consumer: &mut Consumer| {
        let mut values = Vec::new();
        while values.len() < 10 {
            if let Ok(records) = consumer.poll(POLL_TIMEOUT).await {
                values.extend(records.iter().map(|record| record.value.unwrap().to_vec()));
            }
        }
        values.sort();
        values
    };
    let bytes = |range| {
        expected(range)
            .into_iter()
            .map(String::into_bytes)
            .collect::<Vec<_>>()
    };
    let others = timeout(TEST_TIMEOUT, read_on(&mut consumer)).await;
    assert_eq!(others.expect("the others do not go on"), bytes(10..20));
    cluster.create("t", 2);
    produce(&cluster, "t", 2, 20..30).await;
    let again = timeout(TEST_TIMEOUT, read_on(&mut consumer)).await;
    assert_eq!(again.expect("it does not come back"), bytes(20..30));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_without_a_group_are_read_whole_and_new_partitions_from_their_beginning() {
    let cluster = cluster_with_records(2, 1, 0..10).await;
    let mut consumer = builder(&cluster)
        .topics(["t", "later"])
        .auto_offset_reset(AutoOffsetReset::Latest)
        .topic_refresh(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    assert_eq!(consumer.subscription(), ["later", "t"]);
    timeout(TEST_TIMEOUT, async {
        while consumer.assignment().is_empty() {
            consumer.poll(Duration::from_millis(10)).await.unwrap();
        }
    })
    .await
    .unwrap();
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 10);
    // The records are written before any agent can have answered a fetch.
    cluster.create("grown", 2);
    produce(&cluster, "grown", 2, 10..30).await;
    cluster.create("made", 1);
    produce(&cluster, "made", 1, 30..50).await;
    {
        let mut state = cluster.state.lock();
        let grown = state.topics.remove("grown").unwrap();
        state.topics.get_mut("t").unwrap().extend(grown);
        let made = state.topics.remove("made").unwrap();
        state.topics.insert("later".to_owned(), made);
    }
    let values = read_sorted(&mut consumer, 40).await;
    assert_eq!(values, expected(10..50));
    consumer.unsubscribe().await.unwrap();
    assert!(consumer.assignment().is_empty() && consumer.subscription().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_small_batch_unpacks_to_comes_in_parts() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let value = vec![7; 1 << 20];
    let mut builder_of_batch = BatchBuilder::new(Compression::Lz4);
    for _ in 0..40 {
        builder_of_batch
            .append::<&[u8], &[u8]>(0, None, Some(&value), &[])
            .unwrap();
    }
    let bomb = builder_of_batch.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    for _ in 0..2 {
        cluster.change("t", 0, |partition| {
            partition.log.append(&bomb, usize::MAX).unwrap();
        });
    }
    let mut consumer = reader(&cluster, 1).max_poll_bytes(4 << 20).build().await.unwrap();
    let mut offsets = Vec::new();
    timeout(TEST_TIMEOUT, async {
        while offsets.len() < 80 {
            let records = consumer.poll(POLL_TIMEOUT).await.unwrap();
            let bytes: usize = records.iter().map(|record| record.value.unwrap().len()).sum();
            assert!(bytes <= 8 << 20, "{bytes} at once");
            offsets.extend(records.iter().map(|record| record.offset));
        }
    })
    .await
    .unwrap();
    assert_eq!(offsets, (0..80).collect::<Vec<i64>>());
    assert_eq!(consumer.metrics().buffered_bytes, 0);
    consumer.seek(&of("t", 0), 39).unwrap();
    assert_eq!(
        consumer
            .poll(TEST_TIMEOUT)
            .await
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .offset,
        39
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_partitions_starve_no_others_and_show_their_lag() {
    let cluster = cluster_with_records(1, 3, 0..3000).await;
    let mut consumer = reader(&cluster, 3)
        .prefetch(8192)
        .partition_fetch_bytes(2048)
        .max_poll_records(10)
        .build()
        .await
        .unwrap();
    // The first two fill the limit while the third has no records.
    consumer.pause(&[of("t", 2)]).unwrap();
    consumer.seek(&of("t", 2), 0).unwrap();
    timeout(TEST_TIMEOUT, async {
        while consumer.metrics().buffered_bytes < 8192 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the prefetch bound is never reached");
    let paused = [of("t", 0), of("t", 1)];
    consumer.pause(&paused).unwrap();
    consumer.resume(&[of("t", 2)]).unwrap();
    read(&mut consumer, 1000).await;
    produce(&cluster, "t", 3, 3000..3300).await;
    read(&mut consumer, 100).await;
    timeout(TEST_TIMEOUT, async {
        let lag = |consumer: &Consumer, at: usize| consumer.lag(&paused[at]).map_or(0, |lag| lag.records);
        while lag(&consumer, 0) != 1100 || lag(&consumer, 1) != 1100 {
            consumer.poll(POLL_TIMEOUT).await.unwrap();
        }
    })
    .await
    .expect("their lag does not show");
    consumer.resume(&paused).unwrap();
    read(&mut consumer, 2200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_had_by_partition_and_their_bytes_without_a_copy() {
    let cluster = cluster_with_records(1, 2, 0..100).await;
    let mut consumer = reader(&cluster, 2).build().await.unwrap();
    let mut next = BTreeMap::new();
    let mut kept = Vec::new();
    timeout(TEST_TIMEOUT, async {
        while kept.len() < 100 {
            let records = consumer.poll(POLL_TIMEOUT).await.unwrap();
            let mut seen = 0;
            for part in records.by_partition() {
                assert!(
                    part.iter()
                        .all(|record| record.partition == part.partition().partition)
                );
                assert_eq!(part.iter().count(), part.len());
                seen += part.len();
                for record in &part {
                    let (value, bytes) = (record.value.unwrap(), record.value_bytes().unwrap());
                    assert_eq!((bytes.as_ptr(), bytes.len()), (value.as_ptr(), value.len()));
                    assert_eq!(record.key_bytes(), None);
                    kept.push(bytes);
                }
                next.insert(part.partition().clone(), part.next_offset());
            }
            assert_eq!(seen, records.len());
            assert!(records.partition(&of("u", 0)).is_empty());
        }
    })
    .await
    .unwrap();
    assert_eq!(
        next,
        BTreeMap::from([(of("t", 0), Some(50)), (of("t", 1), Some(50))])
    );
    drop(consumer);
    kept.sort();
    assert_eq!(kept[99], "000099", "they outlive their consumer");
}

//! Guarantees to a member during rebalances, expulsion and leaving: heartbeats, commits,
//! assignments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake_agent::{
    FakeCluster,
    groups::HeldCall,
    helpers::{
        ListenerLog, POLL_TIMEOUT, TEST_TIMEOUT, cluster_with_records, expected, member, of,
        poll_until_assigned, read, within_timeout,
    },
};
use parking_lot::Mutex;
use streamhouse_client::{
    ClientConfig, Consumer, ConsumerBuilder, Error, ErrorCode, TopicPartition,
    consumer::{
        Assignor, ConsumerHandle, ListenerFuture, OffsetAndMetadata, OffsetCommitter, RebalanceListener,
    },
    metrics::MetricsRegistry,
};
use tokio::time::timeout;

/// Returns a builder of a member that commits only when it is called to.
fn manual_member(cluster: &FakeCluster) -> ConsumerBuilder {
    member(cluster).auto_commit(None)
}

/// Waits until the cluster has answered this many more heartbeats.
async fn wait_for_heartbeats(cluster: &FakeCluster, more: usize) {
    let before = cluster.group("g", |group| group.beats);
    within_timeout(cluster.wait_until(|cluster| {
        let now = cluster.state.lock().group_beats("g");
        now >= before + more
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cooperative_rebalance_goes_on_without_polls_and_leaves_commits_by_hand_alone() {
    let cluster = cluster_with_records(1, 8, 0..80).await;
    let diary = ListenerLog::default();
    let mut one = manual_member(&cluster)
        .rebalance_listener(diary.clone())
        .build()
        .await
        .unwrap();
    let mut values = read(&mut one, 80).await;
    // The first member processes its records without a poll; the second joins meanwhile, and the
    // rebalance starts.
    let generation = one.generation();
    let mut two = manual_member(&cluster).build().await.unwrap();
    let handle = one.handle();
    let works = async {
        loop {
            handle
                .commit()
                .await
                .expect("a commit of kept partitions is refused");
            if one.generation() > generation {
                break;
            }
            handle
                .commit_offsets((0..8).map(|partition| (of("t", partition), 9)))
                .await
                .expect("a commit of kept partitions is refused");
        }
    };
    tokio::select! {
        () = works => {}
        _ = async { loop { two.poll(POLL_TIMEOUT).await.unwrap(); } } => {}
    }
    handle
        .commit_offsets((0..8).map(|partition| (of("t", partition), 10)))
        .await
        .unwrap();
    within_timeout(async {
        while two.assignment().len() < 4 {
            values.extend(
                one.poll(Duration::from_millis(10))
                    .await
                    .unwrap()
                    .iter()
                    .map(|_| "twice".to_owned()),
            );
            values.extend(
                two.poll(Duration::from_millis(10))
                    .await
                    .unwrap()
                    .iter()
                    .map(|_| "twice".to_owned()),
            );
        }
    })
    .await;
    values.sort();
    assert_eq!(values, expected(0..80), "every record once");
    assert_eq!(*diary.0.lock(), ["assigned 8", "revoked 4"]);
    assert_eq!(cluster.committed("g", "t", 7), 10);
}

/// A listener whose `on_revoked` takes as long as five heartbeats.
struct SlowListener(FakeCluster, ListenerLog);

impl RebalanceListener for SlowListener {
    fn on_revoked<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        committer: &'a OffsetCommitter,
    ) -> ListenerFuture<'a> {
        Box::pin(async move {
            wait_for_heartbeats(&self.0, 5).await;
            committer.commit().await.expect("the last commit is refused");
            self.1.write("revoked", partitions);
        })
    }

    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.1.write("lost", partitions);
        Box::pin(async {})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_on_while_a_member_works_and_while_it_gives_up_its_partitions() {
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let cluster = cluster_with_records(1, 2, 0..10).await;
        let diary = ListenerLog::default();
        let group = || manual_member(&cluster).assignors([assignor]);
        let listener = SlowListener(cluster.clone(), diary.clone());
        let mut one = group().rebalance_listener(listener).build().await.unwrap();
        read(&mut one, 10).await;
        let mut two = group().build().await.unwrap();
        let second = async {
            while two.assignment().len() != 1 {
                two.poll(Duration::from_millis(20)).await.unwrap();
            }
        };
        let first = async {
            // It has learned of the rebalance, and continues processing.
            cluster.wait_until(|cluster| cluster.members("g") == 2).await;
            wait_for_heartbeats(&cluster, 5).await;
            poll_until_assigned(&mut one, 1).await;
            loop {
                one.poll(POLL_TIMEOUT).await.unwrap();
            }
        };
        within_timeout(async {
            tokio::select! { () = second => {}, () = first => {} }
        })
        .await;
        assert_eq!(diary.0.lock().len(), 1, "{:?}", diary.0.lock());
        assert_eq!(
            cluster.committed("g", "t", 0) + cluster.committed("g", "t", 1),
            10
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expelled_member_reads_and_commits_nothing_of_before_and_its_positions_come_anew() {
    let cluster = cluster_with_records(1, 1, 0..20).await;
    let diary = ListenerLog::default();
    let mut one = manual_member(&cluster)
        .max_poll_records(5)
        .rebalance_listener(diary.clone())
        .build()
        .await
        .unwrap();
    read(&mut one, 5).await;
    let handle = one.handle();
    cluster.expel("g", &one.member_id());
    let mut two = manual_member(&cluster).build().await.unwrap();
    within_timeout(async {
        // The expelled member learns of it even without a poll.
        while !handle.assignment().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // It continues with the records it has, and tries to commit them.
    let stale = handle.commit_offsets([(of("t", 0), 5)]).await.unwrap_err();
    assert_eq!(stale.code(), ErrorCode::UnknownMemberId, "{stale}");
    let stale = handle.commit().await.unwrap_err();
    assert_eq!(stale.code(), ErrorCode::UnknownMemberId, "{stale}");
    assert_eq!(cluster.committed("g", "t", 0), -1);
    poll_until_assigned(&mut two, 1).await;
    two.commit_offsets([(of("t", 0), 15)]).await.unwrap();
    assert!(handle.commit_offsets([(of("t", 0), 6)]).await.is_err());
    two.close().await.unwrap();
    assert_eq!(
        read(&mut one, 5).await,
        expected(15..20),
        "where the other one committed"
    );
    assert_eq!(*diary.0.lock(), ["assigned 1", "lost 1", "assigned 1"]);
    assert_eq!(cluster.committed("g", "t", 0), 15);
    one.commit().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ghost_stays_behind_whenever_a_consumer_closes() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 2);
    let mut one = manual_member(&cluster).build().await.unwrap();
    poll_until_assigned(&mut one, 2).await;
    // The rebalance waits, so the join during which this one closes is not answered.
    cluster.hold("g", HeldCall::Join);
    let mut two = manual_member(&cluster).build().await.unwrap();
    tokio::select! {
        _ = two.poll(TEST_TIMEOUT) => panic!("it joined"),
        () = within_timeout(cluster.wait_until(|cluster| cluster.members("g") == 2)) => {}
    }
    within_timeout(two.close()).await.unwrap();
    assert_eq!(cluster.members("g"), 1, "a member that nobody is");
    cluster.release("g", HeldCall::Join);
    // Its id is in flight.
    cluster.hold("g", HeldCall::Id);
    let mut three = manual_member(&cluster).build().await.unwrap();
    let asks = cluster.wait_until(|cluster| cluster.state.lock().group_waiting("g") == 1);
    tokio::select! {
        _ = three.poll(TEST_TIMEOUT) => panic!("it joined"),
        () = within_timeout(asks) => {}
    }
    let release = async { cluster.release("g", HeldCall::Id) };
    within_timeout(async { tokio::join!(three.close(), release).0 })
        .await
        .unwrap();
    assert_eq!(cluster.members("g"), 1, "a name that nobody has");
    // The join was answered, but no poll has taken over its partitions.
    let mut four = manual_member(&cluster).build().await.unwrap();
    let generation = one.generation();
    let _ = timeout(Duration::from_millis(1), four.poll(TEST_TIMEOUT)).await;
    within_timeout(async {
        while one.generation() <= generation || four.generation() < one.generation() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within_timeout(four.close()).await.unwrap();
    assert_eq!(cluster.members("g"), 1);
    within_timeout(one.close()).await.unwrap();
    assert_eq!(cluster.members("g"), 0);
}

/// A listener whose first `on_revoked` never returns.
#[derive(Clone, Default)]
struct StuckListener(Arc<AtomicUsize>);

impl RebalanceListener for StuckListener {
    fn on_revoked<'a>(
        &'a self,
        _: &'a [TopicPartition],
        committer: &'a OffsetCommitter,
    ) -> ListenerFuture<'a> {
        Box::pin(async move {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            committer.commit().await.unwrap();
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_was_cut_off_can_be_repeated_and_closed_means_closed() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let stuck = StuckListener::default();
    let mut consumer = manual_member(&cluster)
        .rebalance_listener(stuck.clone())
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    let handle = consumer.handle();
    let cut_off = consumer
        .close_within(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(cut_off, Error::Timeout { .. }), "{cut_off}");
    assert_eq!(consumer.poll(POLL_TIMEOUT).await.unwrap_err(), Error::Closed);
    within_timeout(consumer.close()).await.unwrap();
    assert_eq!((cluster.committed("g", "t", 0), cluster.members("g")), (10, 0));
    assert_eq!(stuck.0.load(Ordering::Relaxed), 2);
    within_timeout(consumer.close()).await.unwrap();
    assert_eq!(consumer.subscribe(["t"]).await, Err(Error::Closed));
    assert_eq!(consumer.assign([of("t", 0)]).await, Err(Error::Closed));
    assert_eq!(consumer.unsubscribe().await, Err(Error::Closed));
    assert_eq!(consumer.commit().await, Err(Error::Closed));
    assert_eq!(
        consumer.commit_offsets([(of("t", 0), 3)]).await,
        Err(Error::Closed)
    );
    assert_eq!(consumer.committer().commit().await, Err(Error::Closed));
    assert_eq!(consumer.seek(&of("t", 0), 3), Err(Error::Closed));
    assert_eq!(consumer.position(&of("t", 0)).await, Err(Error::Closed));
    assert_eq!(handle.commit().await, Err(Error::Closed));
    assert_eq!(handle.pause(&[of("t", 0)]), Err(Error::Closed));
    let (outcome, heard) = tokio::sync::oneshot::channel();
    consumer.commit_async(move |committed| outcome.send(committed).unwrap());
    assert_eq!(heard.await.unwrap(), Err(Error::Closed));
    assert_eq!(cluster.committed("g", "t", 0), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_the_background_never_undoes_a_newer_one_and_close_waits_for_it() {
    let cluster = cluster_with_records(1, 1, 0..40).await;
    let mut consumer = manual_member(&cluster).max_poll_records(1).build().await.unwrap();
    for round in 0..4 {
        cluster.hold("g", HeldCall::Commit);
        let outcomes = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            read(&mut consumer, 1).await;
            let outcomes = outcomes.clone();
            consumer.commit_async(move |outcome| {
                outcome.unwrap();
                outcomes.fetch_add(1, Ordering::Relaxed);
            });
        }
        cluster.release("g", HeldCall::Commit);
        if round == 3 {
            within_timeout(consumer.close()).await.unwrap();
        }
        within_timeout(cluster.wait_until(|cluster| cluster.committed("g", "t", 0) == (round + 1) * 10))
            .await;
        within_timeout(async {
            while outcomes.load(Ordering::Relaxed) < 10 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let offsets: Vec<_> = cluster.group("g", |group| {
        group.commits.iter().map(|(_, offset)| *offset).collect()
    });
    assert!(offsets.is_sorted(), "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_never_leaves_under_the_generation_of_a_later_assignment() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut consumer = manual_member(&cluster).max_poll_records(5).build().await.unwrap();
    read(&mut consumer, 5).await;
    let generation = consumer.generation();
    cluster.hold("g", HeldCall::CommitAnswer);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for number in 0..2 {
        let outcomes = outcomes.clone();
        consumer.commit_async(move |outcome| outcomes.lock().push((number, outcome.is_ok())));
        if number == 0 {
            within_timeout(cluster.wait_until(|cluster| cluster.committed("g", "t", 0) == 5)).await;
            read(&mut consumer, 5).await;
        }
    }
    // The second commit waits for the first while the member is expelled, joins again and reads on
    // from its commit.
    cluster.expel("g", &consumer.member_id());
    within_timeout(async {
        while consumer.generation() <= generation || consumer.assignment().is_empty() {
            consumer.poll(Duration::from_millis(10)).await.unwrap();
        }
    })
    .await;
    cluster.release("g", HeldCall::CommitAnswer);
    within_timeout(async {
        while outcomes.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    outcomes.lock().sort_unstable();
    assert_eq!(*outcomes.lock(), [(0, true), (1, false)]);
    assert_eq!(cluster.committed("g", "t", 0), 5);
}

/// A listener that seeks to an offset stored elsewhere.
struct SeekingListener(i64);

impl RebalanceListener for SeekingListener {
    fn on_assigned<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        consumer: &'a ConsumerHandle,
    ) -> ListenerFuture<'a> {
        Box::pin(async move {
            for partition in partitions {
                // A fetch before the callback ends would have returned the first records by now.
                assert_eq!(consumer.position(partition).await.unwrap(), 0);
                consumer.seek(partition, self.0).unwrap();
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_can_be_set_before_records_flow() {
    let cluster = cluster_with_records(1, 1, 0..20).await;
    let mut consumer = manual_member(&cluster)
        .rebalance_listener(SeekingListener(7))
        .build()
        .await
        .unwrap();
    assert_eq!(read(&mut consumer, 13).await, expected(7..20));
    assert_eq!(consumer.metrics().records_consumed, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_steers_a_consumer_that_waits_in_a_poll_elsewhere() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut consumer = manual_member(&cluster).build().await.unwrap();
    read(&mut consumer, 10).await;
    let handle = consumer.handle();
    let (woken, wakes) = tokio::sync::oneshot::channel();
    let polling = tokio::spawn(async move {
        woken
            .send(consumer.poll(TEST_TIMEOUT * 10).await.unwrap().len())
            .unwrap();
        (read(&mut consumer, 4).await, consumer)
    });
    handle.wakeup();
    assert_eq!(within_timeout(wakes).await, Ok(0));
    assert_eq!(handle.assignment(), [of("t", 0)]);
    assert_eq!(within_timeout(handle.position(&of("t", 0))).await.unwrap(), 10);
    handle.pause(&[of("t", 0)]).unwrap();
    handle.seek(&of("t", 0), 6).unwrap();
    assert_eq!(handle.paused(), [of("t", 0)]);
    handle.resume(&[of("t", 0)]).unwrap();
    let (values, consumer) = within_timeout(polling).await.unwrap();
    assert_eq!(values, expected(6..10));
    handle.commit().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 10);
    drop(consumer);
    assert_eq!(handle.commit().await, Err(Error::Closed));
    assert_eq!(handle.position(&of("t", 0)).await, Err(Error::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subscription_keeps_the_member_and_what_it_still_wants() {
    let cluster = FakeCluster::start(1).await;
    for topic in ["t", "u", "v"] {
        cluster.create(topic, 2);
    }
    let diary = ListenerLog::default();
    let mut consumer = manual_member(&cluster)
        .topics(["t", "u"])
        .rebalance_listener(diary.clone())
        .build()
        .await
        .unwrap();
    poll_until_assigned(&mut consumer, 4).await;
    let id = consumer.member_id();
    consumer.subscribe(["u", "v"]).await.unwrap();
    assert_eq!(consumer.subscription(), ["u", "v"]);
    let wanted = [of("u", 0), of("u", 1), of("v", 0), of("v", 1)];
    within_timeout(async {
        while consumer.assignment() != wanted {
            consumer.poll(Duration::from_millis(20)).await.unwrap();
        }
    })
    .await;
    assert_eq!(*diary.0.lock(), ["assigned 4", "revoked 2", "assigned 2"]);
    assert_eq!((consumer.member_id(), cluster.members("g")), (id, 1));
    consumer.subscribe([""; 0]).await.unwrap();
    assert_eq!(cluster.members("g"), 0, "no topics: no member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_is_kept_with_the_offset() {
    let cluster = cluster_with_records(1, 1, 0..5).await;
    let mut consumer = manual_member(&cluster).build().await.unwrap();
    read(&mut consumer, 5).await;
    let note = OffsetAndMetadata::new(3, "host-1");
    consumer.commit_offsets([(of("t", 0), note)]).await.unwrap();
    let committed = consumer.committed(&[of("t", 0)]).await.unwrap();
    let committed = &committed[&of("t", 0)];
    assert_eq!((committed.offset, committed.metadata.as_str()), (3, "host-1"));
    let other = consumer.commit_offsets([(of("t", 0), 4), (of("u", 0), 1)]).await;
    assert_eq!(
        other,
        Err(Error::NotAssigned {
            partition: of("u", 0)
        })
    );
    assert_eq!(
        (cluster.committed("g", "t", 0), cluster.committed("g", "u", 0)),
        (4, -1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_covers_topics_that_come_later() {
    let cluster = FakeCluster::start(1).await;
    for topic in ["orders-1", "orders-2", "old-orders-1"] {
        cluster.create(topic, 1);
    }
    let diary = ListenerLog::default();
    let settings = ClientConfig::new(cluster.bootstrap()).with_metadata_max_age(Duration::from_millis(100));
    let mut consumer = Consumer::builder()
        .client_config(settings)
        .metrics_registry(MetricsRegistry::new())
        .heartbeat(Duration::from_millis(50))
        .group("g")
        .rebalance_listener(diary.clone())
        .build()
        .await
        .unwrap();
    let refused = consumer.subscribe_pattern("orders-[").await;
    assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
    consumer.subscribe_pattern("orders-.*").await.unwrap();
    poll_until_assigned(&mut consumer, 2).await;
    assert_eq!(consumer.assignment(), [of("orders-1", 0), of("orders-2", 0)]);
    let id = consumer.member_id();
    cluster.create("orders-3", 2);
    poll_until_assigned(&mut consumer, 4).await;
    assert_eq!(consumer.subscription(), ["orders-1", "orders-2", "orders-3"]);
    assert_eq!(consumer.member_id(), id);
    assert_eq!(*diary.0.lock(), ["assigned 2", "assigned 2"]);
    consumer.subscribe(["orders-1"]).await.unwrap();
    poll_until_assigned(&mut consumer, 1).await;
    consumer.close().await.unwrap();
}

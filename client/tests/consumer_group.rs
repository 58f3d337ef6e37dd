//! Consumer groups against the fake cluster: commits, rebalances, lost members.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{collections::BTreeSet, time::Duration};

use fake_agent::{
    FakeCluster,
    helpers::{
        ListenerLog, TEST_TIMEOUT, builder, cluster_with_records, expected, member, of, poll_until_assigned,
        produce, read, read_sorted,
    },
};
use streamhouse_client::{AutoOffsetReset, Consumer, ErrorCode, consumer::Assignor};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_committed() {
    let cluster = cluster_with_records(1, 1, 0..20).await;
    let group = || member(&cluster).auto_commit(None).max_poll_records(5);
    let mut first = group().build().await.unwrap();
    assert_eq!(read(&mut first, 10).await, expected(0..10));
    first.commit().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 10);
    assert_eq!(
        first.committed(&[of("t", 0)]).await.unwrap()[&of("t", 0)].offset,
        10
    );
    read(&mut first, 5).await;
    first.close().await.unwrap();
    assert_eq!(cluster.members("g"), 0);
    assert_eq!(cluster.committed("g", "t", 0), 10, "nothing is committed unasked");
    let mut second = group().build().await.unwrap();
    assert_eq!(read(&mut second, 10).await, expected(10..20));
    second.commit_offsets([(of("t", 0), 12)]).await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 12);
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_commits_cover_only_what_was_polled_past() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut consumer = member(&cluster)
        .auto_commit(Some(Duration::from_millis(1)))
        .max_poll_records(5)
        .build()
        .await
        .unwrap();
    read(&mut consumer, 5).await;
    assert_eq!(
        cluster.committed("g", "t", 0),
        -1,
        "the last poll's records may not be processed yet"
    );
    read(&mut consumer, 5).await;
    timeout(TEST_TIMEOUT, async {
        while cluster.committed("g", "t", 0) < 5 {
            consumer.poll(Duration::from_millis(5)).await.unwrap();
        }
    })
    .await
    .expect("nothing is committed");
    consumer.close().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 10, "closing commits the rest");
}

/// Polls all members in turn until `done`, collecting the values.
async fn poll_until(
    members: &mut [&mut Consumer],
    values: &mut Vec<String>,
    done: impl Fn(&[&mut Consumer], &[String]) -> bool,
) {
    let polling = async {
        while !done(members, values) {
            for member in members.iter_mut() {
                for record in &member.poll(Duration::from_millis(20)).await.unwrap() {
                    values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                }
            }
        }
    };
    timeout(TEST_TIMEOUT, polling)
        .await
        .expect("the group does not get there");
}

fn shares(members: &[&mut Consumer]) -> Vec<usize> {
    members.iter().map(|member| member.assignment().len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cooperative_group_shares_without_stopping_and_reads_everything_once() {
    let cluster = cluster_with_records(1, 4, 0..400).await;
    let diaries = [ListenerLog::default(), ListenerLog::default()];
    let member = |diary: &ListenerLog| {
        member(&cluster)
            .max_poll_records(10)
            .rebalance_listener(diary.clone())
    };
    let mut one = member(&diaries[0]).build().await.unwrap();
    let mut values = Vec::new();
    poll_until(&mut [&mut one], &mut values, |members, values| {
        shares(members) == [4] && values.len() >= 40
    })
    .await;
    let mut two = member(&diaries[1]).build().await.unwrap();
    poll_until(&mut [&mut one, &mut two], &mut values, |members, _| {
        shares(members) == [2, 2]
    })
    .await;
    assert_eq!(
        *diaries[0].0.lock(),
        ["assigned 4", "revoked 2"],
        "the other two were never given up"
    );
    poll_until(&mut [&mut one, &mut two], &mut values, |_, values| {
        values.len() >= 400
    })
    .await;
    values.sort();
    assert_eq!(
        values,
        expected(0..400),
        "revoked partitions were committed, so nothing is read twice"
    );
    two.close().await.unwrap();
    poll_until(&mut [&mut one], &mut values, |members, _| shares(members) == [4]).await;
    assert_eq!(diaries[1].0.lock().last().unwrap(), "revoked 2");
    one.close().await.unwrap();
    assert_eq!(cluster.members("g"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eager_group_gives_up_everything_first() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 3);
    let diary = ListenerLog::default();
    let member = || member(&cluster).assignors([Assignor::Range, Assignor::CooperativeSticky]);
    let mut one = member().rebalance_listener(diary.clone()).build().await.unwrap();
    let mut values = Vec::new();
    poll_until(&mut [&mut one], &mut values, |members, _| shares(members) == [3]).await;
    let mut two = member().build().await.unwrap();
    poll_until(&mut [&mut one, &mut two], &mut values, |members, _| {
        shares(members) == [2, 1]
    })
    .await;
    assert_eq!(*diary.0.lock(), ["assigned 3", "revoked 3", "assigned 2"]);
    produce(&cluster, "t", 3, 0..30).await;
    poll_until(&mut [&mut one, &mut two], &mut values, |_, values| {
        values.len() >= 30
    })
    .await;
    let once: BTreeSet<_> = values.iter().collect();
    assert_eq!((once.len(), values.len()), (30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expelled_member_loses_its_partitions_cannot_commit_and_comes_back() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let diary = ListenerLog::default();
    let mut consumer = member(&cluster)
        .auto_commit(None)
        .rebalance_listener(diary.clone())
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    cluster.expel("g", &consumer.member_id());
    let error = consumer.commit().await.unwrap_err();
    assert!(
        matches!(
            error.code(),
            ErrorCode::UnknownMemberId | ErrorCode::InvalidRequest
        ),
        "{error}"
    );
    assert_eq!(cluster.committed("g", "t", 0), -1);
    assert_eq!(
        read(&mut consumer, 10).await,
        expected(0..10),
        "what was not committed is read again"
    );
    assert_eq!(*diary.0.lock(), ["assigned 1", "lost 1", "assigned 1"]);
    consumer.commit().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_poll_leaves_its_group() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let mut consumer = member(&cluster)
        .max_poll_interval(Duration::from_millis(300))
        .build()
        .await
        .unwrap();
    poll_until_assigned(&mut consumer, 1).await;
    timeout(
        TEST_TIMEOUT,
        cluster.wait_until(|cluster| cluster.members("g") == 0),
    )
    .await
    .expect("it stays");
    produce(&cluster, "t", 1, 0..5).await;
    assert_eq!(read(&mut consumer, 5).await, expected(0..5));
    assert_eq!(cluster.members("g"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_is_shared_anew() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let mut consumer = builder(&cluster)
        .group("g")
        .topics(["t", "later"])
        .build()
        .await
        .unwrap();
    poll_until_assigned(&mut consumer, 1).await;
    cluster.create("later", 2);
    poll_until_assigned(&mut consumer, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_are_read_from_their_beginning_soon() {
    let cluster = cluster_with_records(1, 1, 0..10).await;
    let mut consumer = member(&cluster)
        .auto_offset_reset(AutoOffsetReset::Latest)
        .topic_refresh(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    poll_until_assigned(&mut consumer, 1).await;
    assert_eq!(consumer.position(&of("t", 0)).await.unwrap(), 10);
    cluster.grow("t", 2);
    produce(&cluster, "t", 2, 10..110).await;
    let values = read_sorted(&mut consumer, 100).await;
    assert_eq!(values, expected(10..110));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_a_topic_made_anew_from_its_beginning_and_commits_nothing_of_the_old_one() {
    let cluster = cluster_with_records(1, 1, 0..100).await;
    let mut consumer = member(&cluster)
        .auto_commit(None)
        .topic_refresh(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    read(&mut consumer, 100).await;
    consumer.commit().await.unwrap();
    cluster.delete("t");
    cluster.create("t", 2);
    let error = consumer.commit_offsets([(of("t", 0), 99)]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownTopicId, "{error}");
    produce(&cluster, "t", 2, 100..250).await;
    let values = read_sorted(&mut consumer, 150).await;
    assert_eq!(values, expected(100..250));
    let error = consumer.commit_offsets([(of("t", 0), 99)]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownTopicId, "{error}");
    assert_eq!(cluster.committed("g", "t", 0), -1);
    consumer.commit().await.unwrap();
    assert_eq!(cluster.committed("g", "t", 0), 75);
    // The topic is recreated with fewer partitions.
    cluster.delete("t");
    cluster.create("t", 1);
    poll_until_assigned(&mut consumer, 1).await;
}

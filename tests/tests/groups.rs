//! Consumer groups on real agents: members join, leave and die; members of the command line share a
//! file; committed offsets survive their coordinator.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use streamhouse_client::{
    AutoOffsetReset, Consumer, ErrorCode, Producer, Record, TopicPartition, admin::OffsetReset,
};
use streamhouse_testkit::wait_until;
use streamhouse_tests::TestCluster;

type TestResult = anyhow::Result<()>;

const RECORDS: usize = 30_000;

/// Produces numbered records to a new topic.
async fn produce_numbered(cluster: &TestCluster, topic: &str, partitions: i32, records: usize) -> TestResult {
    cluster.create_topic(topic, partitions).await?;
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    for number in 0..records {
        let partition = (number % partitions.unsigned_abs() as usize) as i32;
        drop(
            producer
                .send(Record::new(topic, format!("{number}")).with_partition(partition))
                .await?,
        );
    }
    producer.close(Duration::from_secs(60)).await?;
    Ok(())
}

async fn join_group(cluster: &TestCluster, group: &str, topic: &str) -> anyhow::Result<Consumer> {
    let builder = Consumer::builder()
        .bootstrap(cluster.bootstrap())
        .group(group)
        .topics([topic]);
    let builder = builder
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .auto_commit(None);
    Ok(builder
        .session_timeout(Duration::from_secs(6))
        .heartbeat(Duration::from_millis(500))
        .build()
        .await?)
}

/// Polls until records are returned.
async fn poll_until_records(consumer: &mut Consumer) -> anyhow::Result<Vec<(TopicPartition, i64)>> {
    let polling = async {
        loop {
            let records = consumer.poll(Duration::from_millis(500)).await?;
            if !records.is_empty() {
                let place = |record: streamhouse_client::ConsumerRecord<'_>| {
                    (TopicPartition::new(record.topic, record.partition), record.offset)
                };
                return anyhow::Ok(records.iter().map(place).collect());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), polling).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_committed_also_after_its_coordinator_died() -> TestResult {
    let mut cluster = TestCluster::start(2, &[])?;
    produce_numbered(&cluster, "resumed", 4, RECORDS).await?;
    let mut first = join_group(&cluster, "resumers", "resumed").await?;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        seen.extend(poll_until_records(&mut first).await?);
    }
    first.commit().await?;
    let committed: HashMap<TopicPartition, i64> = {
        let offsets = cluster.admin()?.group_offsets("resumers").await?;
        offsets
            .into_iter()
            .filter_map(|offset| Some((offset.partition, offset.committed?.offset)))
            .collect()
    };
    assert_eq!(
        committed.values().sum::<i64>(),
        seen.len() as i64,
        "what was polled is what was committed"
    );
    // Kill the coordinator of the group; the other agent takes over.
    let coordinator = cluster.admin()?.describe_group("resumers").await?.coordinator;
    let dies = cluster
        .agents
        .iter()
        .position(|agent| agent.bootstrap() == coordinator)
        .expect("one of the two");
    cluster.agents[dies].kill9()?;
    while seen.len() < RECORDS {
        for place in poll_until_records(&mut first).await? {
            assert!(
                seen.insert(place.clone()),
                "{place:?} came twice to a member that never stopped"
            );
        }
    }
    first.commit().await?;
    first.close().await?;
    let mut second = join_group(&cluster, "resumers", "resumed").await?;
    let nothing = second.poll(Duration::from_secs(3)).await?;
    assert!(nothing.is_empty(), "everything was committed before");
    second.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_the_partitions_and_a_dead_ones_are_taken_over() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    produce_numbered(&cluster, "shared", 6, RECORDS).await?;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(join_group(&cluster, "sharers", "shared").await?);
    }
    let everybody: BTreeSet<TopicPartition> = (0..6)
        .map(|partition| TopicPartition::new("shared", partition))
        .collect();
    wait_until_balanced(&mut members, 2, &everybody).await?;
    // One member disappears: dropping it closes its connections without leaving the group.
    drop(members.pop());
    wait_until_balanced(&mut members, 3, &everybody).await?;
    // Another member leaves in order.
    let mut last = members.pop().expect("two are left");
    last.close().await?;
    wait_until_balanced(&mut members, 6, &everybody).await
}

/// Polls all members until each has `share` partitions, and every partition has exactly one owner.
async fn wait_until_balanced(
    members: &mut [Consumer],
    share: usize,
    everybody: &BTreeSet<TopicPartition>,
) -> TestResult {
    let settling = async {
        loop {
            for member in members.iter_mut() {
                member.poll(Duration::from_millis(50)).await?;
            }
            let owned: Vec<Vec<TopicPartition>> = members.iter().map(Consumer::assignment).collect();
            let all: BTreeSet<TopicPartition> = owned.iter().flatten().cloned().collect();
            if owned.iter().all(|mine| mine.len() == share) && all == *everybody {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settling).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_reset_only_while_nobody_reads() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    produce_numbered(&cluster, "rewound", 1, 1000).await?;
    let admin = cluster.admin()?;
    let mut reader = join_group(&cluster, "rewinders", "rewound").await?;
    let mut read = 0;
    while read < 1000 {
        read += poll_until_records(&mut reader).await?.len();
    }
    reader.commit().await?;
    let reset = [OffsetReset::new(TopicPartition::new("rewound", 0), 250)];
    let error = admin
        .reset_offsets("rewinders", &reset, false)
        .await
        .expect_err("the group has a member");
    assert_eq!(error.code(), ErrorCode::NonEmptyGroup);
    assert_eq!(
        admin
            .delete_group("rewinders")
            .await
            .expect_err("it has a member")
            .code(),
        ErrorCode::NonEmptyGroup
    );
    reader.close().await?;
    admin.reset_offsets("rewinders", &reset, true).await?;
    let committed = admin.group_offsets("rewinders").await?[0]
        .committed
        .as_ref()
        .map(|committed| committed.offset);
    assert_eq!(committed, Some(1000), "a dry run changes nothing");
    admin.reset_offsets("rewinders", &reset, false).await?;
    let mut reader = join_group(&cluster, "rewinders", "rewound").await?;
    assert_eq!(poll_until_records(&mut reader).await?[0].1, 250);
    reader.close().await?;
    admin.delete_group("rewinders").await?;
    assert_eq!(
        admin
            .describe_group("rewinders")
            .await
            .expect_err("it is gone")
            .code(),
        ErrorCode::GroupIdNotFound
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_of_the_command_line_read_a_file_back_line_for_line() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("lines", 6).await?;
    let input: String = (0..100_000)
        .map(|number| format!("line {number} of the file\n"))
        .collect();
    let cli = cluster.cli();
    cli.run_with_input(["produce", "lines"], input.clone().into_bytes())?
        .ensure_success()?;
    let arguments = [
        "consume",
        "lines",
        "--group",
        "readers",
        "--from-beginning",
        "--exit-at-end",
        "-f",
        "raw",
    ];
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(cli.spawn(arguments)?);
    }
    // Kill one member after it has printed some lines; lines it had not committed are read again by
    // another member.
    wait_until("a first line", Duration::from_secs(60), || {
        Ok((!members[0].stdout().is_empty()).then_some(()))
    })?;
    members[0].kill9()?;
    let mut output = String::new();
    for mut member in members.drain(1..) {
        let status = member.wait(Duration::from_secs(120))?;
        assert!(status.success(), "{}", member.stderr());
        output.push_str(&member.stdout());
    }
    let mut shown: HashSet<&str> = output.lines().collect();
    let dead = members[0].stdout();
    // The last line may be cut off.
    shown.extend(dead.rsplit_once('\n').map_or("", |(whole, _)| whole).lines());
    let sent: HashSet<&str> = input.lines().collect();
    assert_eq!(shown.len(), sent.len());
    assert!(shown == sent, "a line is missing or changed");
    Ok(())
}

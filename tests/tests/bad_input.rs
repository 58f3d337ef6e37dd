//! Invalid input and unavailable dependencies: each is a clear error to the right party, without
//! data loss.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use streamhouse_client::{Admin, ErrorCode, Producer, Record, admin::NewTopic};
use streamhouse_core::{batch::Compression, protocol::v1};
use streamhouse_testkit::{AgentProcess, CliRunner, MinIo, Postgres, wait_until};
use streamhouse_tests::{TestCluster, raw};
use tokio_stream::StreamExt;

type TestResult = anyhow::Result<()>;
type BatchCorruption = fn(&mut BytesMut);

/// Returns a changed copy of a batch.
fn with_change(batch: &Bytes, change: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut copy = BytesMut::from(&batch[..]);
    change(&mut copy);
    copy.freeze()
}

/// Returns damaged batches, each with a description and the expected error code.
fn damaged_batches(good: &Bytes) -> anyhow::Result<Vec<(&'static str, Bytes, ErrorCode)>> {
    Ok(vec![
        (
            "a cut batch",
            good.slice(..good.len() - 1),
            ErrorCode::CorruptMessage,
        ),
        (
            "a flipped byte",
            with_change(good, |b| b[70] ^= 1),
            ErrorCode::CorruptMessage,
        ),
        (
            "an old magic",
            with_change(good, |b| b[16] = 1),
            ErrorCode::UnsupportedForMessageFormat,
        ),
        ("no batch", Bytes::new(), ErrorCode::InvalidRequest),
        (
            "garbage",
            Bytes::from(vec![0xff; 200]),
            ErrorCode::UnsupportedForMessageFormat,
        ),
        (
            "a negative length",
            with_change(good, |b| b[8..12].copy_from_slice(&(-5_i32).to_be_bytes())),
            ErrorCode::InvalidRecord,
        ),
        (
            "a huge length",
            with_change(good, |b| b[8..12].copy_from_slice(&i32::MAX.to_be_bytes())),
            ErrorCode::CorruptMessage,
        ),
        (
            "a batch larger than allowed",
            raw::batch(&[&vec![7; 2 << 20]], Compression::None)?,
            ErrorCode::MessageTooLarge,
        ),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_batches_are_refused_by_name_and_the_stream_goes_on() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    Admin::connect(agent.bootstrap())?
        .create_topic(NewTopic::new("t", 1))
        .await?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    let good = raw::batch(&[b"one", b"two"], Compression::Lz4)?;
    for (what, records, code) in damaged_batches(&good)? {
        let outcome = raw::produce(&mut client, "t", 0, records).await?;
        assert_eq!(
            outcome.as_ref().err().map(|error| error.code()),
            Some(code),
            "{what}: {outcome:?}"
        );
    }
    for (topic, partition) in [("nowhere", 0), ("t", 1), ("t", -1), ("__consumer_groups", 0)] {
        let error = raw::produce(&mut client, topic, partition, good.clone())
            .await?
            .expect_err(topic);
        let expected = [ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidTopic];
        assert!(expected.contains(&error.code()), "{topic}-{partition}: {error}");
    }
    assert_eq!(
        raw::produce(&mut client, "t", 0, good).await?,
        Ok(0),
        "the first good batch gets the first offset"
    );
    let topics = vec!["t".to_owned()];
    let metadata = client
        .metadata(v1::MetadataRequest { topics })
        .await?
        .into_inner();
    assert_eq!(
        metadata.topics[0].max_message_bytes, 1_048_588,
        "producers learn how large a batch may be"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_lie_are_refused_although_the_crc_is_right() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    Admin::connect(agent.bootstrap())?
        .create_topic(NewTopic::new("t", 1))
        .await?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    let good = raw::batch(&[b"one"], Compression::None)?;
    let lies: [(&str, BatchCorruption); 4] = [
        ("more records than offsets", |b| {
            b[57..61].copy_from_slice(&9_i32.to_be_bytes())
        }),
        ("no records", |b| b[57..61].copy_from_slice(&0_i32.to_be_bytes())),
        ("a producer without a sequence", |b| {
            b[43..51].copy_from_slice(&3_i64.to_be_bytes())
        }),
        ("a control batch", |b| b[22] |= 32),
    ];
    for (what, lie) in lies {
        let batch = with_change(&good, |batch| {
            lie(batch);
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        });
        let error = raw::produce(&mut client, "t", 0, batch).await?.expect_err(what);
        assert_eq!(error.code(), ErrorCode::InvalidRecord, "{what}: {error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_out_of_range_and_absurd_ones_are_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    Admin::connect(agent.bootstrap())?
        .create_topic(NewTopic::new("t", 1))
        .await?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    raw::produce(&mut client, "t", 0, raw::batch(&[b"one"], Compression::Lz4)?)
        .await?
        .map_err(anyhow::Error::from)?;
    let fetch = |offset, partition| v1::FetchRequest {
        max_wait_ms: 10,
        min_bytes: 1,
        max_bytes: u32::MAX,
        partitions: vec![v1::PartitionFetch {
            topic: "t".to_owned(),
            partition,
            offset,
            max_bytes: u32::MAX,
            topic_id: String::new(),
        }],
    };
    for (offset, partition, code) in [
        (-1, 0, ErrorCode::OffsetOutOfRange),
        (2, 0, ErrorCode::OffsetOutOfRange),
        (i64::MAX, 0, ErrorCode::OffsetOutOfRange),
        (0, 7, ErrorCode::UnknownTopicOrPartition),
    ] {
        let answer = client.fetch(fetch(offset, partition)).await?.into_inner();
        let error = answer.partitions[0].error.clone().expect("an error");
        assert_eq!(ErrorCode::from_number(error.code), code, "{offset}: {error:?}");
    }
    let nothing = v1::FetchRequest {
        partitions: Vec::new(),
        ..fetch(0, 0)
    };
    let status = client.fetch(nothing).await.expect_err("a fetch of nothing");
    assert_eq!(
        streamhouse_core::Error::from(status).code(),
        ErrorCode::InvalidRequest
    );
    let answer = client.fetch(fetch(0, 0)).await?.into_inner();
    assert!(!answer.partitions[0].records.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_allowed_ends_its_stream_with_a_clear_status_and_the_agent_lives() -> TestResult
{
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder()
        .dev(folder.path())
        .arg("--max-request-bytes=1MiB")
        .spawn()?;
    agent.wait_ready()?;
    Admin::connect(agent.bootstrap())?
        .create_topic(NewTopic::new("t", 1))
        .await?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    let request = v1::ProduceRequest {
        request_id: 1,
        partitions: vec![v1::PartitionProduce {
            topic: "t".to_owned(),
            partition: 0,
            records: vec![0; 3 << 20].into(),
            topic_id: String::new(),
        }],
        ..Default::default()
    };
    let answer = match client.produce(tokio_stream::once(request)).await {
        Ok(answers) => answers
            .into_inner()
            .next()
            .await
            .expect("an answer before the end")
            .expect_err("a status"),
        Err(status) => status,
    };
    assert_eq!(
        streamhouse_core::Error::from(answer).code(),
        ErrorCode::MessageTooLarge
    );
    let good = raw::batch(&[b"one"], Compression::Lz4)?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    assert_eq!(raw::produce(&mut client, "t", 0, good).await?, Ok(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_bad_names_or_settings_are_refused_with_what_to_do() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    let admin = Admin::connect(agent.bootstrap())?;
    admin.create_topic(NewTopic::new("taken", 1)).await?;
    let cases = [
        (NewTopic::new("a/b", 1), ErrorCode::InvalidTopic, "'/'"),
        (
            NewTopic::new("__consumer_offsets", 1),
            ErrorCode::InvalidTopic,
            "reserved",
        ),
        (NewTopic::new("t", 0), ErrorCode::InvalidPartitions, ""),
        (NewTopic::new("t", 1_000_000), ErrorCode::InvalidPartitions, ""),
        (
            NewTopic::new("t", 1).with_config("retention", "1"),
            ErrorCode::InvalidConfig,
            "retention.ms",
        ),
        (
            NewTopic::new("t", 1).with_config("cleanup.policy", "shred"),
            ErrorCode::InvalidConfig,
            "delete",
        ),
        (NewTopic::new("taken", 1), ErrorCode::TopicAlreadyExists, "taken"),
    ];
    for (topic, code, says) in cases {
        let name = topic.name.clone();
        let error = admin.create_topic(topic).await.expect_err(&name);
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
    let error = admin.describe_topic("nowhere").await.expect_err("no such topic");
    assert_eq!(error.code(), ErrorCode::UnknownTopicOrPartition);
    let error = admin.describe_group("nobody").await.expect_err("no such group");
    assert_eq!(error.code(), ErrorCode::GroupIdNotFound);
    Ok(())
}

#[test]
fn wrong_settings_are_refused_before_a_port_is_bound() -> TestResult {
    for (argument, says) in [
        ("--flush-intervall=5ms", "--flush-interval"),
        ("--flush-interval=5", "250ms"),
        ("--s3-endpoint=http://127.0.0.1:1", "s3-endpoint"),
    ] {
        let output = AgentProcess::builder()
            .arg("--dev")
            .arg(argument)
            .run(Duration::from_secs(30))?;
        assert_eq!(output.status.code(), Some(2), "{argument}");
        assert!(output.stderr.contains(says), "{argument}: {}", output.stderr);
        assert!(!output.stdout_text().contains("listening"), "{argument}");
    }
    let output = AgentProcess::builder()
        .arg("--dev")
        .env("STREAMHOUSE_FLUSH_INTERVALL", "5ms")
        .run(Duration::from_secs(30))?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        output.stderr.contains("STREAMHOUSE_FLUSH_INTERVAL"),
        "{}",
        output.stderr
    );
    Ok(())
}

/// Waits until /ready reports what the agent is missing.
fn wait_for_not_ready_reason(agent: &AgentProcess, says: &str) -> TestResult {
    wait_until(
        &format!("/ready to speak of {says:?}"),
        Duration::from_secs(60),
        || {
            let ready = agent.http_get("/ready")?;
            assert_eq!(ready.status, 503, "{}", ready.body);
            assert_eq!(
                agent.http_get("/health")?.status,
                200,
                "the agent is alive all the same"
            );
            Ok(ready.body.to_lowercase().contains(says).then_some(()))
        },
    )
}

#[test]
fn an_agent_waits_for_postgresql_and_says_so() -> TestResult {
    let postgres = Postgres::start()?;
    let url = postgres.create_database("late")?;
    let folder = tempfile::tempdir()?;
    AgentProcess::builder()
        .arg("migrate")
        .metadata(&url)
        .run(Duration::from_secs(60))?
        .ensure_success()?;
    postgres.stop()?;
    let store = format!("file:{}", folder.path().display());
    let mut agent = AgentProcess::builder()
        .metadata(&url)
        .env("STREAMHOUSE_OBJECT_STORE", store)
        .spawn()?;
    wait_for_not_ready_reason(&agent, "metadata")?;
    postgres.start_again()?;
    agent.wait_ready()?;
    Ok(())
}

#[test]
fn an_agent_waits_for_the_object_store_and_says_so() -> TestResult {
    let minio = MinIo::start()?;
    minio.create_bucket("late")?;
    minio.stop()?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
    let mut agent = AgentProcess::builder()
        .metadata(&url)
        .minio(&minio, "late")
        .spawn()?;
    wait_for_not_ready_reason(&agent, "object store")?;
    minio.start_again()?;
    agent.wait_ready()?;
    Ok(())
}

#[test]
fn a_missing_bucket_and_wrong_credentials_are_named_and_no_secret_is_shown() -> TestResult {
    let minio = MinIo::shared()?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
    let missing = AgentProcess::builder()
        .metadata(&url)
        .minio(minio, "no-such-bucket")
        .spawn()?;
    wait_for_not_ready_reason(&missing, "no-such-bucket")?;
    drop(missing);
    minio.create_bucket("closed")?;
    let url = format!("sqlite:{}", folder.path().join("other.db").display());
    let secret = "not-the-secret-key";
    let mut wrong = AgentProcess::builder()
        .metadata(&url)
        .minio(minio, "closed")
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .spawn()?;
    wait_for_not_ready_reason(&wrong, "credentials")?;
    assert!(!wrong.process().stderr().contains(secret) && !wrong.process().stdout().contains(secret));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_back_pressure_and_not_a_loss() -> TestResult {
    let settings = [
        ("STREAMHOUSE_PRODUCE_MEMORY", "1MiB"),
        ("STREAMHOUSE_MAX_REQUEST_BYTES", "1MiB"),
        ("STREAMHOUSE_FLUSH_BYTES", "256KiB"),
    ];
    let cluster = TestCluster::start_with_own_servers(1, &settings)?;
    cluster.create_topic("pressed", 1).await?;
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    let value = Bytes::from(vec![b'x'; 1000]);
    producer
        .send(Record::new("pressed", value.clone()))
        .await?
        .await?;
    cluster.minio().stop()?;
    let mut deliveries = Vec::new();
    for number in 0_u32..8000 {
        // Not compressible, and eight times what the agent may hold.
        let value: Vec<u8> = (0..1000_u32)
            .map(|i| (number.wrapping_mul(2_654_435_761).wrapping_add(i * i) >> 7) as u8)
            .collect();
        deliveries.push(producer.send(Record::new("pressed", value)).await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        deliveries.iter().all(|delivery| delivery.try_result().is_none()),
        "nothing is acked while the store is away"
    );
    let queued = cluster.agents[0].metric("streamhouse_agent_queue_bytes")?;
    assert!(
        queued <= f64::from(1 << 20),
        "{queued} bytes wait in an agent that may hold 1 MiB"
    );
    cluster.minio().start_again()?;
    for delivery in deliveries {
        delivery.await?;
    }
    let topic = cluster.admin()?.describe_topic("pressed").await?;
    assert_eq!(topic.partitions[0].high_watermark, 8001);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertised_address_that_nobody_can_reach_is_named_to_whoever_waits_for_it() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder()
        .dev(folder.path())
        .arg("--agent-id=a-lost")
        .arg("--advertised-grpc-address=127.0.0.1:1")
        .spawn()?;
    agent.wait_ready()?;
    let cli = CliRunner::new(agent.bootstrap());
    // The name of a deleted topic is free at once.
    for partitions in ["1", "3", "2"] {
        cli.run(["topic", "create", "t", "--partitions", partitions])?
            .ensure_success()?;
        cli.run(["topic", "delete", "t"])?.ensure_success()?;
    }
    cli.run(["topic", "create", "t"])?.ensure_success()?;
    let named = "agent a-lost advertises 127.0.0.1:1, which does not answer (";
    let consume = cli.run(["consume", "t", "-g", "billing", "--timeout", "6s"])?;
    assert_eq!(consume.status.code(), Some(1), "{}", consume.stderr);
    let lines: Vec<&str> = consume.stderr.lines().collect();
    for warning in [named, "the group billing cannot be joined yet"] {
        let is_told = |line: &&str| line.starts_with("streamhouse: warning: ") && line.contains(warning);
        assert!(lines.iter().any(is_told), "{lines:?}");
    }
    let last = lines.last().copied().unwrap_or_default();
    assert!(
        last.starts_with("streamhouse: joining the group billing: ") && last.contains(named),
        "{lines:?}"
    );
    Ok(())
}

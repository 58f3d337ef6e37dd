//! Valid and damaged frames of every API and version, against a running agent: no task of it fails,
//! it stays ready, and it holds nothing of the clients when they have gone.

#[path = "../../../../core/src/kafka/tests/mutate.rs"]
#[allow(dead_code)]
mod mutate;
#[path = "../../../../core/src/kafka/tests/sample.rs"]
#[allow(dead_code)]
mod sample;

use std::{collections::BTreeSet, sync::atomic::AtomicUsize};

use bytes::Bytes;
use streamhouse_core::{
    kafka::{
        ApiKey, ApiVersionsRequest, MetadataRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
        encode_request,
    },
    time::{system_clock, system_entropy},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::{
    mutate::{FuzzCase, FuzzPlan, corpus, mutate},
    sample::{ApiDefinition, SampleSource, SampleVocabulary, SampleWriter, definitions},
};
use super::{
    kafka_client::{RawKafkaClient, batch},
    kafka_sasl::{MECHANISMS, log_in, put_user},
    stores::FaultyStores,
    *,
};
use crate::kafka::FAILED_CONNECTIONS;

/// How long the test looks for frames that fail, unless the environment says otherwise.
const SECONDS: u64 = 15;
/// Clients at a time.
const CLIENTS: usize = 2;
/// How long a client waits for an answer before it goes.
const PATIENCE: Duration = Duration::from_millis(20);
const WORDS: [&str; 8] = ["t", "g", "range", "consumer", "", "t", "retention.ms", "5000"];

struct FrameSource {
    apis: Vec<ApiDefinition>,
    corpus: Vec<Vec<u8>>,
    records: Bytes,
}

impl FrameSource {
    /// Returns a valid request, without its length.
    fn valid(&self, source: &mut SampleSource) -> Vec<u8> {
        if source.below(4) == 0 {
            return self.corpus[source.below(self.corpus.len() as u64) as usize].clone();
        }
        let api = &self.apis[source.below(self.apis.len() as u64) as usize];
        let versions = i64::from(api.request.last - api.request.first) + 1;
        let version = api.request.first + source.below(versions as u64) as i16;
        let key = ApiKey::from_number(api.key).unwrap();
        let mut writer = SampleWriter::new(api, version, source);
        // Topics are not created at random: each takes time.
        if !matches!(
            key,
            ApiKey::CreateTopics | ApiKey::CreatePartitions | ApiKey::DeleteTopics
        ) {
            writer.vocabulary = Some(SampleVocabulary {
                words: &WORDS,
                records: &self.records,
            });
        }
        writer.structure(&format!("{}Request", api.name));
        let body = writer.bytes;
        let mut frame = [api.key.to_be_bytes(), version.to_be_bytes()].concat();
        frame.extend([0, 0, 0, 7, 0, 1, b'c']);
        if key.is_flexible(version) {
            frame.push(0);
        }
        frame.extend(body);
        frame
    }

    /// Returns what a client sends in one go.
    fn pipeline(&self, source: &mut SampleSource) -> Vec<u8> {
        let mut wire = Vec::new();
        for _ in 0..=source.below(4) {
            let mut frame = self.valid(source);
            if source.below(4) > 0 {
                let other = self.valid(source);
                mutate(&mut frame, &other, source);
            }
            let mut length = i32::try_from(frame.len()).unwrap();
            if source.below(16) == 0 {
                length = length.wrapping_add(source.next() as i32 % 8);
            }
            wire.extend(length.to_be_bytes());
            wire.extend(frame);
        }
        if source.below(16) == 0 {
            mutate(&mut wire, &[], source);
        }
        wire
    }
}

/// Sends frames, reads some of the answers and goes.
async fn run_case(agent: &Agent, frames: &FrameSource, seed: u64) {
    let _case = FuzzCase(seed);
    let mut source = SampleSource(seed);
    let wire = frames.pipeline(&mut source);
    send_in_steps(agent, &wire, &mut source).await;
}

async fn send_in_steps(agent: &Agent, wire: &[u8], source: &mut SampleSource) {
    let mut client = RawKafkaClient::connect(agent).await;
    let step = match source.below(8) {
        0 => 1 + source.below(16) as usize,
        _ => wire.len().max(1),
    };
    let sending = async {
        for part in wire.chunks(step) {
            client.stream.write_all(part).await?;
        }
        client.stream.read(&mut [0; 4096]).await
    };
    // Whatever comes of it: an answer, an end, or a request that lasts.
    let _ = timeout(PATIENCE, sending).await;
    if source.below(8) > 0 {
        // Leaves no port behind that other tests miss.
        let _ = client.stream.set_zero_linger();
    }
}

/// Returns how many APIs had an answer.
fn answered_apis(agent: &Agent) -> usize {
    let text = agent.node.metrics.render().unwrap();
    let counts = text
        .lines()
        .filter_map(|line| line.strip_prefix("streamhouse_agent_kafka_request_duration_seconds_count{"));
    let answered = counts.filter(|count| !count.ends_with(" 0"));
    let api = |count: &str| count.split('"').nth(1).map(str::to_owned);
    answered.filter_map(api).collect::<BTreeSet<_>>().len()
}

/// Returns an exchange that may be damaged, and requests behind it.
fn exchange(frames: &FrameSource, source: &mut SampleSource) -> Vec<u8> {
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"];
    let handshake = SaslHandshakeRequest {
        mechanism: mechanisms[source.below(4) as usize].to_owned(),
    };
    let version = source.below(2) as i16;
    let mut wire = encode_request(&handshake, version, 1, Some("c"))
        .unwrap()
        .concat();
    for _ in 0..source.below(3) {
        let tokens = [
            "\0alice\0secret",
            "n,,n=alice,r=abc",
            "c=biws,r=abc,p=dHJ1c3Q=",
            "",
        ];
        let mut token = tokens[source.below(4) as usize].as_bytes().to_vec();
        if source.below(2) == 0 {
            mutate(&mut token, b"p=,,n\0", source);
        }
        let frame = match version {
            0 => {
                let length = i32::try_from(token.len()).unwrap().to_be_bytes();
                [&length[..], &token].concat()
            }
            _ => {
                let request = SaslAuthenticateRequest {
                    auth_bytes: token.into(),
                };
                let version = source.below(3) as i16;
                encode_request(&request, version, 2, Some("c")).unwrap().concat()
            }
        };
        wire.extend(frame);
    }
    if source.below(4) == 0 {
        mutate(&mut wire, &[], source);
    }
    wire.extend(frames.pipeline(source));
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_exchanges_end_connections_and_nothing_else() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[MECHANISMS]).await;
    put_user(&stores, &one, "alice", "secret").await;
    let frames = FrameSource {
        apis: definitions(),
        corpus: corpus().into_iter().map(|(_, frame)| frame).collect(),
        records: batch(b"x"),
    };
    let (clock, entropy) = (system_clock(), system_entropy());
    let until = clock.now_ms() + 5_000;
    while clock.now_ms() < until {
        let seed = entropy.next_u64();
        let _case = FuzzCase(seed);
        let mut source = SampleSource(seed);
        let wire = exchange(&frames, &mut source);
        send_in_steps(&one, &wire, &mut source).await;
    }
    wait_until("every client's connection has ended", || {
        one.node.metrics.connections.get() == 0
    })
    .await;
    assert_eq!(FAILED_CONNECTIONS.load(Ordering::Relaxed), 0);
    wait_until("nothing is held for anyone", || {
        one.node.request_memory.used() == 0
    })
    .await;
    assert!(one.node.health.is_ready(), "{:?}", one.node.health.reasons());
    // The address has failed too often until its window ends.
    let deadline = Instant::now() + EVENT_TIMEOUT;
    let user = ("alice", "secret");
    while !may_authenticate(&one, user).await {
        assert!(Instant::now() < deadline, "the right password is refused");
        sleep(Duration::from_secs(1)).await;
    }
    drop(log_in(&one, user.0, user.1).await);
    one.drain().await;
}

async fn may_authenticate(agent: &Agent, (user, password): (&str, &str)) -> bool {
    let mut client = RawKafkaClient::connect(agent).await;
    let handshake = SaslHandshakeRequest {
        mechanism: "PLAIN".to_owned(),
    };
    client.call(&handshake, 1).await;
    let request = SaslAuthenticateRequest {
        auth_bytes: format!("\0{user}\0{password}").into_bytes().into(),
    };
    client.send(&request, 2).await;
    client.receive::<SaslAuthenticateRequest>(2).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_connections_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let small = [
        "--produce-memory=1MiB",
        "--max-request-bytes=128KiB",
        "--flush-bytes=64KiB",
        "--lease-ttl=5m",
        "--kafka-auto-create-partitions=0",
    ];
    let one = Agent::start(settings(dir.path(), "one", &small)).await.unwrap();
    wait_ready(&one).await;
    create_topic(&one, "t", 2).await;
    let frames = FrameSource {
        apis: definitions(),
        corpus: corpus().into_iter().map(|(_, frame)| frame).collect(),
        records: batch(b"x"),
    };
    let plan = FuzzPlan::from_environment(SECONDS);
    let (clock, entropy) = (system_clock(), system_entropy());
    let until = clock.now_ms() + i64::try_from(plan.seconds).unwrap() * 1000;
    let cases = AtomicUsize::new(0);
    let clients = (0..CLIENTS).map(|_| async {
        if let Some(seed) = plan.seed {
            return run_case(&one, &frames, seed).await;
        }
        while clock.now_ms() < until {
            let seed = entropy.next_u64();
            run_case(&one, &frames, seed).await;
            cases.fetch_add(1, Ordering::Relaxed);
            if FAILED_CONNECTIONS.load(Ordering::Relaxed) > 0 {
                eprintln!("it may be this case: STREAMHOUSE_TEST_FUZZ_SEED={seed}");
                break;
            }
        }
    });
    futures::future::join_all(clients).await;
    println!("{} clients", cases.into_inner());
    let answered = answered_apis(&one);
    assert!(
        plan.seed.is_some() || answered > 20,
        "only {answered} APIs were reached"
    );
    wait_until("every client's connection has ended", || {
        one.node.metrics.connections.get() == 0
    })
    .await;
    assert_eq!(FAILED_CONNECTIONS.load(Ordering::Relaxed), 0);
    wait_until("nothing is held for anyone", || {
        let queued = one.node.writer.get().map_or(0, |writer| writer.queued_bytes());
        (
            one.node.request_memory.used(),
            one.node.memory.fetch.used(),
            queued,
        ) == (0, 0, 0)
    })
    .await;
    assert!(one.node.health.is_ready(), "{:?}", one.node.health.reasons());
    let mut client = RawKafkaClient::connect(&one).await;
    client.call(&ApiVersionsRequest::default(), 3).await;
    let answer = client.call(&MetadataRequest::default(), 12).await;
    assert_eq!(answer.brokers.len(), 1);
    drop(client);
    one.drain().await;
}

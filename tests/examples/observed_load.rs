//! A controllable load for observability tests: one producer and one consumer in a group, each with
//! a registry of its own that is served to Prometheus on a free port. Used by
//! `hack/demo-observability.sh` and `tests/observability`.
//!
//! `observed_load BOOTSTRAP TOPIC GROUP RECORDS-A-SECOND` creates the topic, and another one,
//! `TOPIC-small`, that accepts only small batches. It prints `serving producer=ADDRESS
//! consumer=ADDRESS` and then follows commands on standard input, one per line: `send` (start
//! producing), `hold` and `read` (pause and resume the consumer), `fail` and `heal` (start and stop
//! sending records that the agent rejects), `finish` (stop producing, read everything, commit, and
//! print the counts as one line of JSON). It ends with its standard input.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use streamhouse_client::{
    AutoOffsetReset, Client, Consumer, ErrorCode, Producer, Record,
    admin::NewTopic,
    metrics::{MetricsRegistry, serve},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    sync::watch,
    time::{Instant, interval},
};

const PARTITIONS: i32 = 4;
const TICK: Duration = Duration::from_millis(20);
/// Rejected records per tick: 100 per second.
const REFUSED_PER_TICK: u64 = 2;
/// Bytes of a record's value.
const VALUE_BYTES: usize = 100;
/// Larger than the small topic accepts.
const TOO_LARGE_BYTES: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(60);

/// The current commands.
#[derive(Debug, Clone, Copy)]
struct LoadControl {
    /// Whether records are sent.
    sending: bool,
    /// Whether records that the agent rejects are sent, too.
    failing: bool,
    /// Whether the consumer polls.
    reading: bool,
    /// Whether sending has ended.
    finished: bool,
    /// Whether all records sent are settled, so that the consumer can tell when it has read all.
    settled: bool,
}

/// Counts of this program, independent of the metrics.
#[derive(Debug, Default)]
struct ObservedCounts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    read: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, group, rate] = &arguments[..] else {
        bail!("usage: observed_load BOOTSTRAP TOPIC GROUP RECORDS-A-SECOND");
    };
    let rate: f64 = rate.parse().context("records a second")?;
    let client = Client::connect(bootstrap.as_str())?;
    let small = format!("{topic}-small");
    let main = NewTopic::new(topic, PARTITIONS).with_config("segment.ms", "1000");
    create_topic(&client, main).await?;
    create_topic(
        &client,
        NewTopic::new(&small, 1).with_config("max.message.bytes", "1024"),
    )
    .await?;

    let (sending, receiving) = (MetricsRegistry::new(), MetricsRegistry::new());
    let servers = [
        serve("127.0.0.1:0", sending.clone()).await?,
        serve("127.0.0.1:0", receiving.clone()).await?,
    ];
    let producer = client.producer().metrics_registry(sending).build().await?;
    let consumer = client
        .consumer()
        .group(group)
        .topics([topic.as_str()])
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .metrics_registry(receiving)
        .build()
        .await?;

    let seen = Arc::new(ObservedCounts::default());
    let (orders, ordered) = watch::channel(LoadControl {
        sending: false,
        failing: false,
        reading: true,
        finished: false,
        settled: false,
    });
    let topics = [topic.clone(), small];
    let produced = tokio::spawn(produce(producer, topics, rate, seen.clone(), ordered.clone()));
    let consumed = tokio::spawn(consume(consumer, seen.clone(), ordered));
    println!(
        "serving producer={} consumer={}",
        servers[0].address(),
        servers[1].address()
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    apply_commands(&mut lines, &orders).await?;
    produced.await??;
    orders.send_modify(|orders| orders.settled = true);
    let mut consumer = consumed.await??;
    println!(
        "{{\"acknowledged\":{},\"refused\":{},\"read\":{}}}",
        seen.acknowledged.load(Relaxed),
        seen.refused.load(Relaxed),
        seen.read.load(Relaxed)
    );
    // The metrics remain available until standard input ends. Leaving the group removes the
    // consumer's gauges.
    while lines.next_line().await?.is_some() {}
    consumer.close().await?;
    for server in servers {
        server.close().await;
    }
    Ok(())
}

async fn create_topic(client: &Client, topic: NewTopic) -> Result<()> {
    let name = topic.name.clone();
    match client.admin().create_topic(topic).await {
        Err(error) if error.code() != ErrorCode::TopicAlreadyExists => return Err(error.into()),
        _ => {}
    }
    client.admin().wait_for_topic(&name, TIMEOUT).await?;
    Ok(())
}

/// Follows commands from standard input until `finish` or its end.
async fn apply_commands(
    lines: &mut Lines<BufReader<Stdin>>,
    orders: &watch::Sender<LoadControl>,
) -> Result<()> {
    while let Some(line) = lines.next_line().await? {
        let change: fn(&mut LoadControl) = match line.as_str() {
            "send" => |orders| orders.sending = true,
            "hold" => |orders| orders.reading = false,
            "read" => |orders| orders.reading = true,
            "fail" => |orders| orders.failing = true,
            "heal" => |orders| orders.failing = false,
            "finish" => break,
            other => bail!("unknown command {other:?}: use send, hold, read, fail, heal or finish"),
        };
        orders.send_modify(change);
    }
    orders.send_modify(|orders| {
        orders.finished = true;
        orders.reading = true;
    });
    Ok(())
}

async fn produce(
    producer: Producer,
    [topic, small]: [String; 2],
    rate: f64,
    seen: Arc<ObservedCounts>,
    mut orders: watch::Receiver<LoadControl>,
) -> Result<()> {
    let (mut last, mut owed, mut number) = (Instant::now(), 0.0, 0_u64);
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = orders.changed() => changed?,
        }
        let now = *orders.borrow();
        if now.finished {
            break;
        }
        let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
        if now.sending {
            owed += rate * passed.as_secs_f64();
        }
        while owed >= 1.0 {
            send(
                &producer,
                Record::new(&topic, incompressible_bytes(VALUE_BYTES, number)),
                &seen,
            )
            .await?;
            (owed, number) = (owed - 1.0, number + 1);
        }
        for _ in 0..if now.failing { REFUSED_PER_TICK } else { 0 } {
            send(
                &producer,
                Record::new(&small, incompressible_bytes(TOO_LARGE_BYTES, number)),
                &seen,
            )
            .await?;
            number += 1;
        }
    }
    producer.close(TIMEOUT).await?;
    Ok(())
}

async fn send(producer: &Producer, record: Record, seen: &Arc<ObservedCounts>) -> Result<()> {
    let seen = seen.clone();
    let count = move |outcome: streamhouse_client::Result<_>| {
        match outcome {
            Ok(_) => &seen.acknowledged,
            Err(_) => &seen.refused,
        }
        .fetch_add(1, Relaxed);
    };
    producer.send_with_callback(record, count).await?;
    Ok(())
}

/// Returns bytes that do not compress.
fn incompressible_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// Reads while it is not paused. Once all records are settled, reads to the end and commits.
async fn consume(
    mut consumer: Consumer,
    seen: Arc<ObservedCounts>,
    mut orders: watch::Receiver<LoadControl>,
) -> Result<Consumer> {
    let mut ending: Option<Instant> = None;
    loop {
        let now = *orders.borrow_and_update();
        if !now.reading {
            orders.changed().await?;
            continue;
        }
        if now.settled {
            let since = *ending.get_or_insert_with(Instant::now);
            ensure!(
                since.elapsed() < TIMEOUT,
                "the consumer did not reach the end within {TIMEOUT:?}"
            );
        }
        let read = consumer.poll(Duration::from_millis(200)).await?.len();
        seen.read.fetch_add(read as u64, Relaxed);
        if now.settled && seen.read.load(Relaxed) >= seen.acknowledged.load(Relaxed) {
            break;
        }
    }
    consumer.commit().await?;
    Ok(consumer)
}

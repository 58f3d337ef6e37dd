//! The benchmark of `docs/benchmarks.md`: one agent on a real PostgreSQL and a real MinIO, loaded
//! by the command line.
//!
//! Measures a baseline first: the rate at which this MinIO stores objects of 8 MiB and 256 KiB of
//! random bytes from one plain client, sequentially. Then runs `streamhouse bench` with each
//! payload, and prints the tables of the document, with the ratios between the payloads. Finally
//! prints the agent's peak memory while many readers catch up at once, relative to its stated
//! bound. All traffic stays on loopback, and the benchmark ends by itself.
//!
//! Run it with `hack/benchmark.sh`.

mod rows;

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use streamhouse_testkit::{MinIo, http_get};
use streamhouse_tests::TestCluster;

use self::rows::MeasuredRun;

/// Objects of each size for the baseline.
const PUTS: u32 = 20;

/// A load, run once with each payload. In the arguments of `streamhouse bench`, `DURATION` is
/// replaced by the requested seconds, and `TOPIC` by a topic that each payload has for itself.
struct BenchRun {
    title: &'static str,
    /// Size of a record in bytes, if the run produces records.
    record_size: Option<u32>,
    arguments: &'static str,
}

const RUNS: [BenchRun; 4] = [
    BenchRun {
        title: "produce 100 B, as fast as possible",
        record_size: Some(100),
        arguments: "produce --topic fast-TOPIC --partitions 8 --record-size 100 --duration DURATION",
    },
    BenchRun {
        title: "consume them",
        record_size: None,
        arguments: "consume --topic fast-TOPIC",
    },
    BenchRun {
        title: "produce 100 B at 200,000 records/s",
        record_size: Some(100),
        arguments: "produce --topic paced-TOPIC --partitions 8 --record-size 100 --rate 200000 --warmup 5s --duration DURATION",
    },
    BenchRun {
        title: "produce and consume 1 KiB at 50,000 records/s",
        record_size: Some(1024),
        arguments: "e2e --topic through-TOPIC --partitions 8 --record-size 1024 --rate 50000 --warmup 5s --duration DURATION",
    },
];

/// The payloads: a name, the name's form in topics, and the share of each record that all records
/// have in common. The first is the base of the ratios.
const PAYLOADS: [(&str, &str, &str); 2] = [("half-compressible", "half", "0.5"), ("random", "random", "0")];

/// Number of readers that catch up at once, and the load of 2 GB that each of them reads.
const READERS: usize = 20;
const BACKLOG: &str = "produce --topic backlog --partitions 8 --record-size 1024 --records 2000000";

fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(15), |text| text.parse())
        .context("seconds a run")?;
    let cluster = TestCluster::start(1, &[("STREAMHOUSE_FLUSH_INTERVAL", "5ms")])?;
    println!("== baseline: plain PUTs to the same MinIO, one after the other");
    for size in [8 << 20, 256 << 10] {
        measure_put_baseline(cluster.minio(), &cluster.bucket, size)?;
    }
    let mut measured = Vec::new();
    for run in &RUNS {
        for payload in PAYLOADS {
            measured.push(measure(&cluster, run, payload, seconds)?);
        }
    }
    println!(
        "\n== the tables of docs/benchmarks.md\n{}",
        rows::render_tables(&measured)
    );
    measure_catch_up(&cluster)
}

/// Runs one load with one payload.
fn measure(
    cluster: &TestCluster,
    run: &BenchRun,
    (payload, topic, compressibility): (&'static str, &str, &str),
    seconds: u64,
) -> anyhow::Result<MeasuredRun> {
    let mut arguments = run.arguments.replace("DURATION", &format!("{seconds}s"));
    arguments = arguments.replace("TOPIC", topic);
    if run.record_size.is_some() {
        arguments = format!("{arguments} --compressibility {compressibility}");
    }
    println!("\n== {}, {payload}\nstreamhouse bench {arguments}", run.title);
    let agent = cluster.agents[0].http();
    let stored = || -> anyhow::Result<(f64, f64)> {
        let bytes = read_metric(agent, "streamhouse_agent_produced_bytes_total")?;
        Ok((
            bytes,
            read_metric(agent, "streamhouse_agent_produced_records_total")?,
        ))
    };
    let before = stored()?;
    let output = bench_command(cluster, &arguments)?
        .args(["--output", "json", "--agent-http", &format!("http://{agent}")])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the benchmark ended with {}",
        output.status
    );
    let after = stored()?;
    let report = serde_json::from_slice(&output.stdout).context("the benchmark's report is no JSON")?;
    println!("{report}");
    // Both counters also cover the warm-up, so their quotient is that of the measured records.
    let stored_share = run
        .record_size
        .map(|size| (after.0 - before.0) / ((after.1 - before.1) * f64::from(size)));
    Ok(MeasuredRun {
        title: run.title,
        payload,
        report,
        stored_share,
    })
}

/// Prepares `streamhouse bench` with these arguments.
fn bench_command(cluster: &TestCluster, arguments: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(streamhouse_testkit::built_binary("streamhouse")?);
    command.env("STREAMHOUSE_BOOTSTRAP", cluster.bootstrap());
    command.arg("bench").args(arguments.split(' '));
    Ok(command)
}

/// Child processes that end when the value is dropped.
struct ReaderProcesses(Vec<Child>);

impl Drop for ReaderProcesses {
    fn drop(&mut self) {
        for reader in &mut self.0 {
            let _ = reader.kill();
            let _ = reader.wait();
        }
    }
}

/// Lets many readers consume a topic from its start, and prints the agent's peak memory meanwhile.
fn measure_catch_up(cluster: &TestCluster) -> anyhow::Result<()> {
    println!("\n== {READERS} readers catch up on 2 GB\nstreamhouse bench {BACKLOG}");
    let status = bench_command(cluster, BACKLOG)?.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the benchmark ended with {status}");
    println!("streamhouse bench consume --topic backlog    ({READERS} times at once)");
    let agent = cluster.agents[0].http();
    let mut readers = ReaderProcesses(Vec::new());
    let started = now();
    for _ in 0..READERS {
        let mut command = bench_command(cluster, "consume --topic backlog --duration 10m")?;
        readers
            .0
            .push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    let mut peak = 0.0_f64;
    let mut left: Vec<usize> = (0..READERS).collect();
    while !left.is_empty() {
        peak = peak.max(read_metric(agent, "process_resident_memory_bytes")?);
        let mut still = Vec::new();
        for reader in left {
            match readers.0[reader].try_wait()? {
                None => still.push(reader),
                Some(status) => ensure!(status.success(), "a reader ended with {status}"),
            }
        }
        left = still;
        sleep(Duration::from_millis(200));
    }
    let took = started.elapsed();
    let bound = read_metric(agent, "streamhouse_agent_memory_bound_bytes")?;
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "agent: {:.0} MiB resident at most, {:.2} of the {:.0} MiB that it states as its bound; {took:.0?}",
        mebibytes(peak),
        peak / bound,
        mebibytes(bound)
    );
    Ok(())
}

/// Reads a metric without labels.
fn read_metric(agent: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let page = http_get(agent, "/metrics")?.body;
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .with_context(|| format!("the agent has no metric {name}"))?
        .parse()
        .with_context(|| format!("{name} is no number"))
}

/// Measures PUTs of objects of this size with curl.
fn measure_put_baseline(minio: &MinIo, bucket: &str, size: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body");
    // Pseudo-random, so that it cannot be compressed on the way.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(size)
    .collect();
    std::fs::write(&file, body)?;
    let mut command = Command::new("curl");
    command.args([
        "-fsS",
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "-H",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
        "--user",
    ]);
    command.arg(format!("{}:{}", minio.access_key(), minio.secret_key()));
    for number in 0..PUTS {
        command
            .arg("-T")
            .arg(&file)
            .arg(format!("{}/{bucket}/baseline/{size}-{number}", minio.endpoint()));
    }
    let started = now();
    let output = command.output()?;
    let took = started.elapsed().max(Duration::from_micros(1));
    ensure!(
        output.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let megabytes = f64::from(PUTS) * size as f64 / 1e6;
    let (rate, each) = (megabytes / took.as_secs_f64(), took / PUTS);
    println!("{:>5} KiB objects: {rate:.0} MB/s, {each:.1?} each", size >> 10);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

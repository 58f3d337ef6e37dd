//! The benchmark of `docs/benchmarks.md`: one agent on a real PostgreSQL and a real MinIO, loaded by the command line.
//! Prints what `streamhouse bench` prints, after a baseline measured in the same run: how fast this MinIO takes 8 MiB and
//! 256 KiB objects from one plain client, one after the other. All traffic stays on loopback; it ends by itself.
//!
//! Run it with `hack/benchmark.sh`.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use streamhouse_testkit::MinIo;
use streamhouse_tests::Cluster;

/// Objects of each size for the baseline.
const PUTS: u32 = 20;

/// What is measured: a title, and the arguments of `streamhouse bench`; `DURATION` stands for the seconds asked for.
const RUNS: [(&str, &str); 4] = [
    (
        "produce 100 B records as fast as possible",
        "produce --topic fast --partitions 8 --record-size 100 --duration DURATION",
    ),
    ("consume them as fast as possible", "consume --topic fast"),
    (
        "produce 200,000 records/s of 100 B",
        "produce --topic paced --partitions 8 --record-size 100 --rate 200000 --warmup 5s --duration DURATION",
    ),
    (
        "end to end at 50,000 records/s of 1 KiB",
        "e2e --topic through --partitions 8 --record-size 1024 --rate 50000 --warmup 5s --duration DURATION",
    ),
];

fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(15), |text| text.parse())
        .context("seconds a run")?;
    let cluster = Cluster::start(1, &[("STREAMHOUSE_FLUSH_INTERVAL", "5ms")])?;
    println!("== baseline: plain PUTs to the same MinIO, one after the other");
    for size in [8 << 20, 256 << 10] {
        baseline(cluster.minio(), &cluster.bucket, size)?;
    }
    let http = format!("http://{}", cluster.agents[0].http());
    for (what, arguments) in RUNS {
        let arguments = arguments.replace("DURATION", &format!("{seconds}s"));
        println!("\n== {what}\nstreamhouse bench {arguments}");
        let binary = streamhouse_testkit::built_binary("streamhouse")?;
        let mut command = Command::new(binary);
        command.env("STREAMHOUSE_BOOTSTRAP", cluster.bootstrap());
        command
            .arg("bench")
            .args(arguments.split(' '))
            .arg("--agent-http")
            .arg(&http);
        let status = command.status()?;
        ensure!(status.success(), "the benchmark ended with {status}");
    }
    Ok(())
}

/// Puts objects of this size with curl.
fn baseline(minio: &MinIo, bucket: &str, size: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body");
    // Pseudo-random, so that nothing on the way can compress it.
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

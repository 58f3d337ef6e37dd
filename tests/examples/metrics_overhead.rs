//! Measures the overhead of metrics: CPU at 200,000 records/s with and without them, and memory.
//! Run it with `hack/benchmark-metrics.sh`, which builds the command line without metrics and first
//! measures single updates.
//!
//! `metrics_overhead BINARY-WITHOUT-METRICS CRITERION-FOLDER [PAIRS [SECONDS]]`
//!
//! Reports two figures for CPU, because the noise of a shared machine exceeds the overhead: the
//! difference of paired runs, whose order alternates, and the counted updates of a run multiplied
//! by the cost of each that criterion measured.

use std::{any::Any, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use streamhouse_agent::{metrics::AgentMetrics, process};
use streamhouse_client::metrics::{ConsumerMetrics, MetricsRegistry, ProducerMetrics};
use streamhouse_testkit::{AgentProcess, built_binary};

const RATE: f64 = 200_000.0;
/// Number of components created to measure the memory of one.
const COMPONENTS: usize = 1000;

/// Measurements of one run of the command line.
#[derive(Debug, Clone, Copy)]
struct RunMeasurement {
    cpu: f64,
    agent_cpu: f64,
    records: f64,
    batches: f64,
    requests: f64,
    flushes: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [without, estimates, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: metrics_overhead BINARY-WITHOUT-METRICS CRITERION-FOLDER [PAIRS [SECONDS]]");
    };
    let number = |at: usize, default: u32| rest.get(at).map_or(Ok(default), |text| text.parse());
    let (pairs, seconds) = (number(0, 8)?, number(1, 10)?);
    let prices = UpdateCosts::read(Path::new(estimates))?;
    prices.print();
    measure_memory()?;

    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    let with = built_binary("streamhouse")?;
    println!("\n== {pairs} pairs of runs of {seconds} s at 200,000 records/s of 100 B");
    let mut runs = Vec::new();
    for pair in 0..pairs {
        let measure = |binary: &Path| measure_run(&agent, binary, seconds);
        let (on, off) = if pair % 2 == 0 {
            let on = measure(&with)?;
            (on, measure(Path::new(without))?)
        } else {
            let off = measure(Path::new(without))?;
            (measure(&with)?, off)
        };
        println!(
            "client CPU: with metrics {:.2} s, without {:.2} s, ratio {:.3}",
            on.cpu,
            off.cpu,
            on.cpu / off.cpu
        );
        runs.push((on, off));
    }
    print_report(&runs, &prices, f64::from(seconds));
    agent.drain()
}

/// Nanoseconds per update, measured by criterion.
struct UpdateCosts(Vec<(&'static str, f64)>);

impl UpdateCosts {
    fn read(folder: &Path) -> Result<Self> {
        let names = [
            "update/counter",
            "update/gauge",
            "update/histogram",
            "client/batch",
            "client/poll",
            "agent/request",
            "agent/flush",
            "agent/scrape",
        ];
        let price = |name: &'static str| {
            let file = folder.join(name).join("new/estimates.json");
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("{}: run the criterion benchmark first", file.display()))?;
            let estimates: Value = serde_json::from_str(&text)?;
            let median = estimates["median"]["point_estimate"].as_f64();
            Ok((name, median.context("criterion's estimate has no median")?))
        };
        names.into_iter().map(price).collect::<Result<_>>().map(Self)
    }

    fn nanoseconds(&self, name: &str) -> f64 {
        self.0
            .iter()
            .find(|(of, _)| *of == name)
            .map_or(f64::NAN, |(_, price)| *price)
    }

    fn print(&self) {
        println!(
            "== one update, and all updates of a batch, poll, request, flush, and scrape; ns, median of criterion"
        );
        for (name, price) in &self.0 {
            println!("{name:<18} {price:>12.1}");
        }
    }
}

/// Measures the memory of a component's metrics: the growth of this process when it creates many.
/// All are kept until the end, since freed memory would be reused by the next component.
fn measure_memory() -> Result<()> {
    println!("\n== memory of the metrics of one component, mean of {COMPONENTS}");
    let mut kept = Vec::new();
    for (what, make) in [
        (
            "a producer of one topic",
            make_producer_metrics as fn() -> Result<Box<dyn Any>>,
        ),
        ("a consumer of one topic of 12 partitions", make_consumer_metrics),
        ("an agent", make_agent_metrics),
    ] {
        // The first one includes what all share.
        kept.push(make()?);
        let before = resident_bytes()?;
        for _ in 0..COMPONENTS {
            kept.push(make()?);
        }
        let each = (resident_bytes()? - before) / COMPONENTS as f64 / 1024.0;
        println!("{what:<46} {each:>6.1} KiB");
    }
    Ok(())
}

fn resident_bytes() -> Result<f64> {
    let usage = process::read_usage().context("there is no /proc")?;
    Ok(usage.resident_bytes)
}

fn make_producer_metrics() -> Result<Box<dyn Any>> {
    let registry = MetricsRegistry::new();
    let producer = ProducerMetrics::new(&registry).for_topic("orders");
    producer.record_sent(1, 1, Duration::from_millis(1));
    Ok(Box::new((registry, producer)))
}

fn make_consumer_metrics() -> Result<Box<dyn Any>> {
    let registry = MetricsRegistry::new();
    let consumer = ConsumerMetrics::new(&registry, "billing");
    let partitions: Vec<_> = (0..12)
        .map(|index| consumer.for_partition("orders", index))
        .collect();
    partitions.iter().for_each(|partition| partition.set_lag(1, 0.1));
    Ok(Box::new((registry, consumer, partitions)))
}

fn make_agent_metrics() -> Result<Box<dyn Any>> {
    let metrics = AgentMetrics::new()?;
    for method in [
        "Produce",
        "Fetch",
        "Metadata",
        "JoinGroup",
        "Heartbeat",
        "CommitOffsets",
    ] {
        drop(metrics.start_request(method));
    }
    Ok(Box::new(metrics))
}

fn measure_run(agent: &AgentProcess, binary: &Path, seconds: u32) -> Result<RunMeasurement> {
    let counted = || -> Result<[f64; 4]> {
        let text = agent.http_get("/metrics")?.body;
        let value = |series: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(series));
            Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
        };
        Ok([
            value("streamhouse_agent_produced_records_total ")?,
            value("streamhouse_agent_produced_batches_total ")?,
            value("streamhouse_agent_grpc_requests_total{method=\"Produce\"} ")?,
            value("streamhouse_agent_flush_duration_seconds_count ")?,
        ])
    };
    let before = counted()?;
    let http = format!("http://{}", agent.http());
    let output = Command::new(binary)
        .env("STREAMHOUSE_BOOTSTRAP", agent.bootstrap())
        .args([
            "-o",
            "json",
            "bench",
            "produce",
            "--topic",
            "metered",
            "--partitions",
            "8",
        ])
        .args([
            "--record-size",
            "100",
            "--rate",
            "200000",
            "--duration",
            &format!("{seconds}s"),
        ])
        .args(["--agent-http", &http])
        .output()?;
    ensure!(
        output.status.success(),
        "the run ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_f64().context("the report has no such number");
    let rate = number(&report["produced"]["records_per_second"])?;
    ensure!(
        rate > RATE * 0.95,
        "only {rate} records/s were produced: the machine is too busy"
    );
    let after = counted()?;
    let [records, batches, requests, flushes] = std::array::from_fn(|n| after[n] - before[n]);
    Ok(RunMeasurement {
        cpu: number(&report["client"]["cpu_seconds"])?,
        agent_cpu: number(&report["agents"][0]["cpu_seconds"])?,
        records,
        batches,
        requests,
        flushes,
    })
}

fn print_report(runs: &[(RunMeasurement, RunMeasurement)], prices: &UpdateCosts, seconds: f64) {
    let mut differences: Vec<f64> = runs
        .iter()
        .map(|(on, off)| (on.cpu - off.cpu) / off.cpu)
        .collect();
    differences.sort_by(f64::total_cmp);
    let percent = |share: f64| format!("{:+.2} %", share * 100.0);
    println!("\n== share of CPU");
    println!(
        "client, difference of pairs: median {}, from {} to {}",
        percent(differences[differences.len() / 2]),
        percent(differences[0]),
        percent(differences[differences.len() - 1])
    );
    let mean =
        |of: fn(&RunMeasurement) -> f64| runs.iter().map(|(on, _)| of(on)).sum::<f64>() / runs.len() as f64;
    let (batches, requests, flushes) = (mean(|r| r.batches), mean(|r| r.requests), mean(|r| r.flushes));
    println!(
        "a run: {:.0} records, {batches:.0} batches, {requests:.0} requests, {flushes:.0} flushes",
        mean(|r| r.records)
    );
    // One scrape every 15 s.
    let scrapes = seconds / 15.0 * prices.nanoseconds("agent/scrape");
    let client = batches * prices.nanoseconds("client/batch") / 1e9;
    // Each batch beyond one per request updates three counters.
    let more = (batches - requests).max(0.0) * 3.0 * prices.nanoseconds("update/counter");
    let agent = (requests * prices.nanoseconds("agent/request")
        + more
        + flushes * prices.nanoseconds("agent/flush")
        + scrapes)
        / 1e9;
    println!(
        "client, counted updates: {:.4} % of its CPU",
        client / mean(|r| r.cpu) * 100.0
    );
    println!(
        "agent, counted updates and a scrape each 15 s: {:.4} % of its CPU",
        agent / mean(|r| r.agent_cpu) * 100.0
    );
}

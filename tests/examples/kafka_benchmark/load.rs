//! The loads, and what is measured of each.

use std::collections::BTreeMap;

use super::{
    processes::CpuTimes,
    systems::MeasuredSystem,
    tools::{self, ConsumerReport, ProducerReport},
};

/// Partitions of each topic.
const PARTITIONS: u32 = 8;

/// A load, run against both systems.
#[derive(Debug)]
pub(crate) struct BenchmarkLoad {
    /// What the table calls it.
    pub(crate) title: &'static str,
    /// Name of the topic; a load that consumes reads that of the load before.
    topic: &'static str,
    /// Bytes of a record.
    record_bytes: u64,
    records: u64,
    kind: LoadKind,
}

#[derive(Debug)]
enum LoadKind {
    /// Produces as fast as possible, with these properties.
    Produce(&'static [&'static str]),
    /// Produces this many records a second.
    Paced(u64),
    Consume,
}

/// Batches that let five requests in flight carry what an object store takes at once.
const LARGE_BATCHES: &[&str] = &[
    "compression.type=lz4",
    "acks=all",
    "linger.ms=10",
    "batch.size=262144",
    "buffer.memory=134217728",
    "max.request.size=8388608",
];
/// The producer as Kafka's documentation has it, with LZ4.
const DEFAULTS: &[&str] = &["compression.type=lz4", "acks=all"];

/// All loads, in order.
pub(crate) const LOADS: [BenchmarkLoad; 6] = [
    BenchmarkLoad {
        title: "produce 100 B",
        topic: "small",
        record_bytes: 100,
        records: 5_000_000,
        kind: LoadKind::Produce(LARGE_BATCHES),
    },
    BenchmarkLoad {
        title: "consume 100 B",
        topic: "small",
        record_bytes: 100,
        records: 5_000_000,
        kind: LoadKind::Consume,
    },
    BenchmarkLoad {
        title: "produce 1 KiB",
        topic: "large",
        record_bytes: 1024,
        records: 1_000_000,
        kind: LoadKind::Produce(LARGE_BATCHES),
    },
    BenchmarkLoad {
        title: "consume 1 KiB",
        topic: "large",
        record_bytes: 1024,
        records: 1_000_000,
        kind: LoadKind::Consume,
    },
    BenchmarkLoad {
        title: "produce 100 B, a producer's default settings",
        topic: "defaults",
        record_bytes: 100,
        records: 2_000_000,
        kind: LoadKind::Produce(DEFAULTS),
    },
    BenchmarkLoad {
        title: "produce 100 B at 200,000 records/s",
        topic: "paced",
        record_bytes: 100,
        records: 3_000_000,
        kind: LoadKind::Paced(200_000),
    },
];

/// What one run of a load measured.
#[derive(Debug)]
pub(crate) struct MeasuredLoad {
    pub(crate) title: &'static str,
    pub(crate) system: &'static str,
    pub(crate) values: LoadMeasurements,
}

/// The numbers of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadMeasurements {
    pub(crate) records_per_second: f64,
    /// Without the time that joining the group took.
    pub(crate) steady_records_per_second: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// CPU seconds of the server that clients talk to, for each GB of records.
    pub(crate) server_cpu_per_gb: f64,
    /// CPU seconds of the stores behind it, for each GB of records.
    pub(crate) stores_cpu_per_gb: f64,
}

impl BenchmarkLoad {
    /// Runs the load against a system.
    pub(crate) fn run(
        &self,
        system: &dyn MeasuredSystem,
        round: u64,
        percent: u64,
    ) -> anyhow::Result<MeasuredLoad> {
        let records = (self.records * percent / 100).max(1_000);
        let topic = format!("{}-{round}", self.topic);
        let bootstrap = system.bootstrap();
        if !matches!(self.kind, LoadKind::Consume) {
            tools::create_topic(&bootstrap, &topic, PARTITIONS)?;
        }
        let before = CpuTimes::read(&system.processes()?);
        let mut values = match self.kind {
            LoadKind::Produce(properties) => {
                let report =
                    tools::produce(&bootstrap, &topic, self.record_bytes, records, None, properties)?;
                produced(&report)
            }
            LoadKind::Paced(rate) => {
                let report = tools::produce(
                    &bootstrap,
                    &topic,
                    self.record_bytes,
                    records,
                    Some(rate),
                    LARGE_BATCHES,
                )?;
                produced(&report)
            }
            LoadKind::Consume => consumed(&tools::consume(&bootstrap, &topic, records)?),
        };
        let spent = CpuTimes::read(&system.processes()?).since(&before);
        let gigabytes = (records * self.record_bytes) as f64 / 1e9;
        values.server_cpu_per_gb = spent.of(system.server()) / gigabytes;
        values.stores_cpu_per_gb = (spent.total() - spent.of(system.server())) / gigabytes;
        Ok(MeasuredLoad {
            title: self.title,
            system: system.name(),
            values,
        })
    }
}

fn produced(report: &ProducerReport) -> LoadMeasurements {
    LoadMeasurements {
        records_per_second: report.records_per_second,
        p50_ms: Some(report.p50_ms),
        p99_ms: Some(report.p99_ms),
        ..LoadMeasurements::default()
    }
}

fn consumed(report: &ConsumerReport) -> LoadMeasurements {
    LoadMeasurements {
        records_per_second: report.records_per_second,
        steady_records_per_second: Some(report.fetch_records_per_second),
        ..LoadMeasurements::default()
    }
}

/// Returns the medians of the rounds, by title and system, in the order of the loads.
pub(crate) fn medians(
    measured: &[MeasuredLoad],
) -> Vec<(&'static str, BTreeMap<&'static str, LoadMeasurements>)> {
    let of_load = |load: &BenchmarkLoad| {
        let mut by_system: BTreeMap<&'static str, Vec<&LoadMeasurements>> = BTreeMap::new();
        for run in measured.iter().filter(|run| run.title == load.title) {
            by_system.entry(run.system).or_default().push(&run.values);
        }
        let by_system = by_system
            .into_iter()
            .map(|(system, runs)| (system, median_of(&runs)));
        (load.title, by_system.collect())
    };
    LOADS.iter().map(of_load).collect()
}

fn median_of(runs: &[&LoadMeasurements]) -> LoadMeasurements {
    let median = |number: &dyn Fn(&LoadMeasurements) -> Option<f64>| {
        let mut numbers: Vec<f64> = runs.iter().filter_map(|run| number(run)).collect();
        numbers.sort_by(f64::total_cmp);
        let upper = numbers.get(numbers.len() / 2)?;
        let lower = numbers.get((numbers.len() - 1) / 2)?;
        Some((upper + lower) / 2.0)
    };
    LoadMeasurements {
        records_per_second: median(&|run| Some(run.records_per_second)).unwrap_or_default(),
        steady_records_per_second: median(&|run| run.steady_records_per_second),
        p50_ms: median(&|run| run.p50_ms),
        p99_ms: median(&|run| run.p99_ms),
        server_cpu_per_gb: median(&|run| Some(run.server_cpu_per_gb)).unwrap_or_default(),
        stores_cpu_per_gb: median(&|run| Some(run.stores_cpu_per_gb)).unwrap_or_default(),
    }
}

//! Benchmarks metric updates, single ones and all updates of a batch, poll, request and flush. The
//! example `metrics_overhead` relates the results to the resources of a whole run.
//!
//! ```text
//! cargo bench --workspace --bench metrics
//! ```

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use streamhouse_agent::metrics::{AgentMetrics, FlushReason};
use streamhouse_client::metrics::{ConsumerMetrics, MetricsRegistry, ProducerMetrics};
use tokio::time::Duration;

const SAMPLE_DURATION: Duration = Duration::from_micros(3_210);

fn single(c: &mut Criterion) {
    let metrics = AgentMetrics::new().unwrap();
    let mut group = c.benchmark_group("update");
    group.bench_function("counter", |b| {
        b.iter(|| metrics.tail_reads.inc_by(black_box(100)))
    });
    group.bench_function("gauge", |b| b.iter(|| metrics.queue_bytes.set(black_box(4096))));
    group.bench_function("histogram", |b| {
        b.iter(|| metrics.write_latency.observe(black_box(0.003_21)));
    });
    group.finish();
}

fn client(c: &mut Criterion) {
    let registry = MetricsRegistry::new();
    let producer = ProducerMetrics::new(&registry).for_topic("orders");
    let consumer = ConsumerMetrics::new(&registry, "billing");
    let partition = consumer.for_partition("orders", 0);
    let mut group = c.benchmark_group("client");
    // All updates for a batch, from its creation to its acknowledgement.
    group.bench_function("batch", |b| {
        b.iter(|| {
            producer.set_pending(black_box(1000));
            producer.record_batch(black_box(1000), black_box(100_000));
            producer.record_flush(black_box(SAMPLE_DURATION));
            producer.record_sent(black_box(1000), black_box(50_000), black_box(SAMPLE_DURATION));
            producer.set_pending(black_box(0));
        });
    });
    // All updates for a poll that returns records of one partition.
    let mut offset = 0;
    group.bench_function("poll", |b| {
        b.iter(|| {
            offset += 500;
            consumer.record_poll(black_box(SAMPLE_DURATION));
            partition.record_consumed(black_box(500), black_box(50_000));
            partition.set_position(black_box(offset));
            partition.set_lag(black_box(10), black_box(0.01));
        });
    });
    group.finish();
}

fn agent(c: &mut Criterion) {
    let metrics = AgentMetrics::new().unwrap();
    let mut group = c.benchmark_group("agent");
    // All updates for a request with one batch.
    group.bench_function("request", |b| {
        b.iter(|| {
            let timer = metrics.start_request(black_box("Produce"));
            metrics.record_batch(black_box(1000), black_box(50_000));
            metrics.write_latency.observe(black_box(0.003_21));
            drop(timer);
        });
    });
    group.bench_function("flush", |b| {
        b.iter(|| {
            metrics.record_flush(black_box(FlushReason::Interval), black_box(200_000));
            metrics.flush_duration.observe(black_box(0.003_21));
            metrics.commit_duration.observe(black_box(0.003_21));
        });
    });
    group.bench_function("scrape", |b| b.iter(|| metrics.render().unwrap()));
    group.finish();
}

criterion_group!(benches, single, client, agent);
criterion_main!(benches);

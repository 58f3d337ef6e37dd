//! The agent's metrics, under the names that dashboards and alerts rely on. One [`AgentMetrics`]
//! per agent: the components update its fields, [`server::http`](crate::server::http) renders it.
//!
//! Label values come from fixed lists, never from clients, so that the number of series stays
//! bounded; the exceptions are names of topics and groups and of the software of Kafka clients, of
//! which a limited number has series of their own.

mod groups;
mod kafka;
mod kafka_clients;
mod labels;
mod listeners;
mod register;
mod security;
mod topics;

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus::{
    Counter, Encoder as _, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Registry, Result, TextEncoder, exponential_buckets,
};
use streamhouse_core::{ErrorCode, protocol::v1};
use tokio::time::{Duration, Instant};

use self::{
    groups::GroupMetrics, listeners::ListenerMetrics, register::MetricRegistrar, topics::TopicMetrics,
};
pub use self::{
    groups::{GroupProgress, GroupStatus, GroupsReport},
    kafka::KafkaMetrics,
    kafka_clients::{ClientSoftware, ConnectedClient, CountedConnection, KafkaClients},
    labels::{BackgroundJob, FlushReason, FrameRefusal, LeaseChange, MemoryUse, PartitionKind, WriteStage},
    listeners::{ForwardKind, ForwardMetrics, ListenerTraffic},
    security::{AuthenticationOutcome, SecurityMetrics},
    topics::TopicTraffic,
};
use crate::{invariant::Invariant, process};

/// The label that names a background job. Not `job`: Prometheus uses that label itself and would
/// rename this one.
const TASK_LABEL: &str = "task";
/// The label value of everything without a series of its own, as in the client's metrics.
const OTHER_LABEL_VALUE: &str = "_other";

/// The agent's metrics.
pub struct AgentMetrics {
    registry: Registry,
    /// Partitions led now, without coordinator slots.
    pub active_partitions: IntGauge,
    /// Coordinator slots led now.
    pub coordinator_slots: IntGauge,
    /// From accepting an append to its response.
    pub write_latency: Histogram,
    /// One commit transaction, retries included.
    pub commit_duration: Histogram,
    /// From the start of a flush to the stored object.
    pub flush_duration: Histogram,
    produced_batches: IntCounter,
    produced_records: IntCounter,
    produced_bytes: IntCounter,
    batch_records: Histogram,
    batch_bytes: Histogram,
    /// Bytes served to consumers from memory.
    pub tail_reads: IntCounter,
    /// Segments written.
    pub segments_rolled: IntCounter,
    /// Unreferenced objects that wait for their grace period before deletion.
    pub garbage_waiting: IntGauge,
    /// Orphans of ended incarnations that were deleted.
    pub orphans_deleted: IntCounter,
    /// Bytes admitted and not yet answered.
    pub queue_bytes: IntGauge,
    /// Stored bytes of the partitions led now.
    pub stored_bytes: IntGauge,
    /// Bytes of committed batches cached for consumers at the end of the log.
    pub tail_bytes: IntGauge,
    /// Bytes in the block cache.
    pub cache_bytes: IntGauge,
    /// Reads served by the block cache.
    pub cache_hits: IntCounter,
    /// Reads that went to the object store.
    pub cache_misses: IntCounter,
    /// Client connections open now.
    pub connections: IntGauge,
    /// 1 while ready.
    pub ready: IntGauge,
    grpc_requests: IntCounterVec,
    grpc_errors: IntCounterVec,
    grpc_duration: HistogramVec,
    flushes: IntCounterVec,
    flush_bytes: IntCounter,
    flush_size: Histogram,
    lease_changes: IntCounterVec,
    memory_used: IntGaugeVec,
    /// The sum of all budgets; see `docs/operate/sizing-and-cost.md`.
    pub memory_bound: IntGauge,
    cluster_partitions: IntGaugeVec,
    unswept_lives: IntGauge,
    unswept_age: Gauge,
    write_age: GaugeVec,
    job_age: GaugeVec,
    job_failures: IntCounterVec,
    job_success: GaugeVec,
    started: Instant,
    /// When each job last succeeded, if it has.
    jobs: Mutex<BTreeMap<BackgroundJob, Instant>>,
    violations: IntCounterVec,
    topics: TopicMetrics,
    groups: GroupMetrics,
    /// 1 while the listeners file cannot be used.
    pub listeners_file_invalid: IntGauge,
    /// 1 while the listeners file names other sockets than those that are open.
    pub listeners_restart_pending: IntGauge,
    /// 1 while the OAuth file or the keys of its identity provider cannot be read.
    pub oauth_invalid: IntGauge,
    listeners: ListenerMetrics,
    /// Calls that are forwarded to other agents.
    pub forward: ForwardMetrics,
    /// Requests and connections of Kafka clients.
    pub kafka: KafkaMetrics,
    /// Of authentication and authorization.
    pub security: SecurityMetrics,
    certificate_not_after: GaugeVec,
    handshake_errors: IntCounterVec,
    cpu_seconds: Counter,
    resident_bytes: Gauge,
    build_info: GaugeVec,
}

impl AgentMetrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// Fails only if a name is registered twice.
    #[allow(clippy::too_many_lines)] // one entry a metric
    pub fn new() -> Result<Self> {
        let new = MetricRegistrar(Registry::new());
        let metrics = Self {
            active_partitions: new.gauge("active_partitions", "Partitions this agent leads.")?,
            coordinator_slots: new.gauge("coordinator_slots", "Group coordinator slots this agent leads.")?,
            write_latency: new.duration("write_latency_seconds", "From taking an append to its answer.")?,
            commit_duration: new.duration(
                "commit_duration_seconds",
                "One metadata commit, retries included.",
            )?,
            flush_duration: new.duration(
                "flush_duration_seconds",
                "Upload of one WAL object, retries included.",
            )?,
            produced_batches: new
                .counter("produced_batches_total", "Batches acknowledged with an offset.")?,
            produced_records: new
                .counter("produced_records_total", "Records acknowledged with an offset.")?,
            produced_bytes: new.counter("produced_bytes_total", "Bytes acknowledged with an offset.")?,
            batch_records: new.histogram(
                "batch_size_records",
                "Records of a batch acknowledged with an offset.",
                exponential_buckets(1.0, 4.0, 9)?,
            )?,
            batch_bytes: new.histogram(
                "batch_size_bytes",
                "Bytes of a batch acknowledged with an offset, as sent (compressed).",
                exponential_buckets(64.0, 4.0, 10)?,
            )?,
            tail_reads: new.counter("tail_read_bytes_total", "Bytes given to readers from memory.")?,
            segments_rolled: new.counter("segments_rolled_total", "Segments written.")?,
            garbage_waiting: new.gauge("garbage_waiting_objects", "Objects that wait for their grace.")?,
            orphans_deleted: new
                .counter("orphans_deleted_total", "Unreferenced objects found and deleted.")?,
            queue_bytes: new.gauge("queue_bytes", "Bytes admitted and not yet answered.")?,
            stored_bytes: new.gauge("stored_bytes", "Stored bytes of the partitions this agent leads.")?,
            tail_bytes: new.gauge("tail_bytes", "Bytes kept for readers at the end of the log.")?,
            cache_bytes: new.gauge("cache_bytes", "Bytes in the block cache.")?,
            cache_hits: new.counter("cache_hits_total", "Reads answered by the block cache.")?,
            cache_misses: new.counter("cache_misses_total", "Reads that went to the object store.")?,
            connections: new.gauge("connections", "Client connections open.")?,
            ready: new.gauge("ready", "1 while the agent is ready.")?,
            grpc_requests: new.counters("grpc_requests_total", "gRPC requests.", &["method"])?,
            grpc_errors: new.counters(
                "grpc_errors_total",
                "Errors that gRPC clients got, by error code.",
                &["method", "code"],
            )?,
            grpc_duration: new.durations("grpc_request_duration_seconds", "gRPC requests.", "method")?,
            flushes: new.counters("flush_total", "WAL objects flushed.", &["reason"])?,
            flush_bytes: new.counter("flush_bytes_total", "Bytes of flushed WAL objects.")?,
            flush_size: new.histogram(
                "flush_size_bytes",
                "Size of a WAL object.",
                exponential_buckets(1024.0, 4.0, 9)?,
            )?,
            lease_changes: new.counters("lease_changes_total", "Leases that came or went.", &["reason"])?,
            memory_used: new.gauges(
                "memory_used_bytes",
                "Bytes taken of the budgets of readers and of the segment roller.",
                &["use"],
            )?,
            memory_bound: new.gauge(
                "memory_bound_bytes",
                "What resident memory stays under with these settings: the sum of all budgets.",
            )?,
            cluster_partitions: new.gauges(
                "cluster_partitions",
                "Partitions of the whole cluster, as this agent sees it: led by a live agent, or leaderless.",
                &["kind", "state"],
            )?,
            unswept_lives: new.gauge(
                "unswept_lives",
                "Lives of agents that are over and whose orphans are not yet deleted, in the whole cluster.",
            )?,
            unswept_age: new.register(Gauge::new(
                "streamhouse_agent_unswept_life_age_seconds",
                "How long the first of them has been over; 0 without one.",
            )?)?,
            write_age: new.float_gauges(
                "write_stage_age_seconds",
                "How long the oldest WAL object under way has been uploaded or committed; 0 without one.",
                "stage",
            )?,
            job_age: new.float_gauges(
                "job_last_success_age_seconds",
                "Since a background job last succeeded, or since the agent's start while it has not.",
                TASK_LABEL,
            )?,
            job_failures: new.counters(
                "job_failures_total",
                "Failed runs of a background job.",
                &[TASK_LABEL],
            )?,
            job_success: new.float_gauges(
                "job_last_success_timestamp_seconds",
                "When a job last succeeded.",
                TASK_LABEL,
            )?,
            started: Instant::now(),
            jobs: Mutex::default(),
            violations: new.counters(
                "invariant_violations_total",
                "Broken invariants: a bug.",
                &["invariant"],
            )?,
            topics: TopicMetrics::new(&new)?,
            groups: GroupMetrics::new(&new)?,
            listeners_file_invalid: new.gauge(
                "listeners_file_invalid",
                "1 while the changed listeners file cannot be used and the last good one stays in use.",
            )?,
            listeners_restart_pending: new.gauge(
                "listeners_restart_pending",
                "1 while the listeners file names other sockets than those that are open.",
            )?,
            oauth_invalid: new.gauge(
                "oauth_invalid",
                "1 while the OAuth file or the keys of its identity provider cannot be read and the last good ones stay in use.",
            )?,
            listeners: ListenerMetrics::new(&new)?,
            forward: ForwardMetrics::new(&new)?,
            kafka: KafkaMetrics::new(&new)?,
            security: SecurityMetrics::new(&new)?,
            certificate_not_after: new.float_gauges(
                "certificate_not_after_seconds",
                "When the certificate that a listener serves now expires, in seconds since 1970.",
                "listener",
            )?,
            handshake_errors: new.counters(
                "tls_handshake_errors_total",
                "Connections that failed before they were secure.",
                &["listener"],
            )?,
            cpu_seconds: new.register(Counter::new(
                "process_cpu_seconds_total",
                "CPU seconds used, user and system.",
            )?)?,
            resident_bytes: new.register(Gauge::new("process_resident_memory_bytes", "Resident memory.")?)?,
            build_info: new.float_gauges("build_info", "Always 1; the version is the label.", "version")?,
            registry: new.0,
        };
        metrics
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        // Series that alerts use exist from the start, at zero.
        for change in LeaseChange::ALL {
            metrics.lease_changes.with_label_values(&[change.name()]);
        }
        for job in BackgroundJob::ALL {
            metrics.job_failures.with_label_values(&[job.name()]);
        }
        for invariant in Invariant::ALL {
            metrics.violations.with_label_values(&[invariant.name()]);
        }
        Ok(metrics)
    }

    /// Returns the registry, for components that register metrics of their own (the object store's
    /// decorator).
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a request of this method; dropping the timer records its duration.
    pub fn start_request(&self, method: &'static str) -> RequestTimer {
        self.grpc_requests.with_label_values(&[method]).inc();
        RequestTimer {
            duration: self.grpc_duration.with_label_values(&[method]),
            since: Instant::now(),
        }
    }

    /// Counts an error returned to a gRPC client: of a whole call, or of one item of it.
    pub fn record_grpc_error(&self, method: &'static str, code: ErrorCode) {
        self.grpc_errors.with_label_values(&[method, code.name()]).inc();
    }

    /// Counts the error of one item of an answer to a gRPC client, if it has one.
    pub fn record_result(&self, method: &'static str, error: Option<&v1::Error>) {
        if let Some(error) = error {
            self.record_grpc_error(method, ErrorCode::from_number(error.code));
        }
    }

    /// Counts a batch that got an offset.
    pub fn record_batch(&self, records: u64, bytes: u64) {
        self.produced_batches.inc();
        self.produced_records.inc_by(records);
        self.produced_bytes.inc_by(bytes);
        self.batch_records.observe(records as f64);
        self.batch_bytes.observe(bytes as f64);
    }

    /// Counts a WAL object that is being flushed.
    pub fn record_flush(&self, reason: FlushReason, bytes: usize) {
        self.flushes.with_label_values(&[reason.name()]).inc();
        self.flush_bytes.inc_by(bytes as u64);
        self.flush_size.observe(bytes as f64);
    }

    /// Counts leases that were gained or lost.
    pub fn record_lease_change(&self, change: LeaseChange, leases: usize) {
        self.lease_changes
            .with_label_values(&[change.name()])
            .inc_by(leases as u64);
    }

    /// Sets the number of partitions of the cluster with and without a leader.
    pub fn set_cluster(&self, kind: PartitionKind, (led, leaderless): (usize, usize)) {
        for (state, partitions) in [("led", led), ("leaderless", leaderless)] {
            let gauge = self.cluster_partitions.with_label_values(&[kind.name(), state]);
            gauge.set(i64::try_from(partitions).unwrap_or(i64::MAX));
        }
    }

    /// Sets the bytes of memory in use for this purpose.
    pub fn set_memory_used(&self, of: MemoryUse, bytes: usize) {
        let gauge = self.memory_used.with_label_values(&[of.name()]);
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the number of incarnations with unswept orphans, and how long the oldest has waited.
    pub fn set_unswept(&self, (lives, oldest): (usize, Duration)) {
        self.unswept_lives.set(i64::try_from(lives).unwrap_or(i64::MAX));
        self.unswept_age.set(oldest.as_secs_f64());
    }

    /// Sets how long the oldest WAL object under way has been in its stage.
    pub fn set_write_age(&self, oldest: Option<(WriteStage, Duration)>) {
        for stage in WriteStage::ALL {
            let age = oldest
                .filter(|(at, _)| *at == stage)
                .map_or(0.0, |(_, age)| age.as_secs_f64());
            self.write_age.with_label_values(&[stage.name()]).set(age);
        }
    }

    /// Records that a background job completed a round, at this wall-clock time.
    pub fn record_job_success(&self, job: BackgroundJob, now_ms: i64) {
        self.job_success
            .with_label_values(&[job.name()])
            .set(now_ms as f64 / 1000.0);
        self.jobs.lock().insert(job, Instant::now());
    }

    /// Returns when a background job last completed a round, in milliseconds since the Unix epoch;
    /// `None` before the first.
    pub fn job_last_success_ms(&self, job: BackgroundJob) -> Option<i64> {
        let succeeded = self.jobs.lock().contains_key(&job);
        succeeded.then(|| (self.job_success.with_label_values(&[job.name()]).get() * 1000.0) as i64)
    }

    /// Records that a round of a background job failed.
    pub fn record_job_failure(&self, job: BackgroundJob) {
        self.job_failures.with_label_values(&[job.name()]).inc();
    }

    /// Returns the counters of a topic. Callers keep them: the lookup takes a lock.
    pub fn topic_traffic(&self, topic: &str) -> Arc<TopicTraffic> {
        self.topics.get_or_create(topic)
    }

    /// Removes the series of deleted topics.
    pub fn retain_topics(&self, exists: impl Fn(&str) -> bool) {
        self.topics.retain(exists);
    }

    /// Replaces the metrics of all groups that this agent coordinates.
    pub fn set_groups(&self, report: &GroupsReport) {
        self.groups.set(report);
    }

    /// Sets when the certificate of a listener expires, in seconds since the Unix epoch.
    pub fn set_certificate_expiry(&self, listener: &str, at: i64) {
        self.certificate_not_after
            .with_label_values(&[listener])
            .set(at as f64);
    }

    /// Returns the counter of failed handshakes of a listener; its series exists from then on.
    pub fn handshake_error_counter(&self, listener: &str) -> IntCounter {
        self.handshake_errors.with_label_values(&[listener])
    }

    /// Returns the counters of the bytes of a listener; their series exist from then on.
    pub fn listener_traffic(&self, listener: &str) -> ListenerTraffic {
        self.listeners.traffic(listener)
    }

    /// Counts and logs a violated invariant. The operation cannot continue correctly; the caller
    /// refuses it.
    pub fn record_violation(&self, invariant: Invariant) {
        self.violations.with_label_values(&[invariant.name()]).inc();
        tracing::error!(%invariant, meaning = invariant.meaning(), "an invariant is broken");
    }

    /// Renders all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Fails only if the encoder does.
    pub fn render(&self) -> Result<String> {
        let jobs = self.jobs.lock().clone();
        for job in BackgroundJob::ALL {
            // A job that never succeeds must be visible as well.
            let last = jobs.get(&job).unwrap_or(&self.started);
            self.job_age
                .with_label_values(&[job.name()])
                .set(last.elapsed().as_secs_f64());
        }
        if let Some(usage) = process::read_usage() {
            self.cpu_seconds
                .inc_by((usage.cpu_seconds - self.cpu_seconds.get()).max(0.0));
            self.resident_bytes.set(usage.resident_bytes);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl fmt::Debug for AgentMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Observes the duration of a request when dropped.
#[derive(Debug)]
pub struct RequestTimer {
    duration: Histogram,
    since: Instant,
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        self.duration.observe(self.since.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;

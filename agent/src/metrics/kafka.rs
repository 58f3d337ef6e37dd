//! Metrics of the Kafka listener: requests by API and version, how long they take and wait, errors,
//! throttling, and refused frames. Label values are names of the protocol; a version is one that is
//! served. The connections are counted by [`KafkaClients`].

use std::sync::{Arc, OnceLock};

use prometheus::{Counter, CounterVec, Histogram, HistogramVec, IntCounter, IntCounterVec, Result};
use streamhouse_core::kafka::{ApiKey, error_name};
use tokio::time::{Duration, Instant};

use super::{
    OTHER_LABEL_VALUE, RequestTimer, kafka_clients::KafkaClients, labels::FrameRefusal,
    register::MetricRegistrar,
};

/// The APIs whose series exist from the start: dashboards compute rates of them.
const MAIN_APIS: [ApiKey; 2] = [ApiKey::Produce, ApiKey::Fetch];

/// Requests and connections of Kafka clients.
#[derive(Debug)]
pub struct KafkaMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    queue_times: HistogramVec,
    errors: IntCounterVec,
    throttle_times: CounterVec,
    refused_frames: IntCounterVec,
    /// In the order of [`ApiKey::ALL`], so that a request needs no look-up by name.
    series: Vec<OnceLock<ApiSeries>>,
    /// The open connections.
    pub clients: Arc<KafkaClients>,
}

/// The series of one API.
#[derive(Debug)]
struct ApiSeries {
    duration: Histogram,
    queue_time: Histogram,
    throttle_time: Counter,
    /// By version.
    requests: Vec<OnceLock<IntCounter>>,
}

impl KafkaMetrics {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        Ok(Self {
            requests: new.counters(
                "kafka_requests_total",
                "Requests of Kafka clients, by API and version.",
                &["api", "version"],
            )?,
            durations: new.durations(
                "kafka_request_duration_seconds",
                "Requests of Kafka clients, from their last byte to their answer.",
                "api",
            )?,
            queue_times: new.durations(
                "kafka_request_queue_seconds",
                "How long requests of Kafka clients wait for memory, and records for their partition's lease.",
                "api",
            )?,
            errors: new.counters(
                "kafka_errors_total",
                "Answers to Kafka clients with an error, by Kafka's error code; several partitions with one code count once.",
                &["api", "code"],
            )?,
            throttle_times: new.float_counters(
                "kafka_throttle_seconds_total",
                "How long answers told Kafka clients to wait before their next request.",
                "api",
            )?,
            refused_frames: new.counters(
                "kafka_refused_frames_total",
                "Frames that ended the connection of a Kafka client.",
                &["reason"],
            )?,
            series: ApiKey::ALL.iter().map(|_| OnceLock::new()).collect(),
            clients: Arc::new(KafkaClients::new(new)?),
        })
    }

    /// Creates the series that dashboards and alerts rely on, at zero.
    pub fn register(&self) {
        for api in MAIN_APIS {
            self.api_series(api);
        }
        for reason in FrameRefusal::ALL {
            self.refused_frames.with_label_values(&[reason.name()]);
        }
        self.clients.register();
    }

    /// Counts a request; dropping the timer records its duration.
    pub fn start_request(&self, api: ApiKey, version: i16) -> RequestTimer {
        let since = Instant::now();
        let Some(series) = self.api_series(api) else {
            let duration = self.durations.with_label_values(&[api.name()]);
            return RequestTimer { duration, since };
        };
        let counter = usize::try_from(version)
            .ok()
            .and_then(|version| series.requests.get(version));
        if let Some(counter) = counter {
            let new = || {
                self.requests
                    .with_label_values(&[api.name(), version.to_string().as_str()])
            };
            counter.get_or_init(new).inc();
        }
        RequestTimer {
            duration: series.duration.clone(),
            since,
        }
    }

    /// Records how long a request waited before this agent began to handle it.
    pub fn record_queue_time(&self, api: ApiKey, waited: Duration) {
        if let Some(series) = self.api_series(api) {
            series.queue_time.observe(waited.as_secs_f64());
        }
    }

    /// Records the distinct error codes of an answer, and how long it throttles its client.
    pub fn record_answer(&self, api: ApiKey, codes: &[i16], throttle_time: Duration) {
        for code in codes {
            let code = error_name(*code).unwrap_or(OTHER_LABEL_VALUE);
            self.errors.with_label_values(&[api.name(), code]).inc();
        }
        if !throttle_time.is_zero()
            && let Some(series) = self.api_series(api)
        {
            series.throttle_time.inc_by(throttle_time.as_secs_f64());
        }
    }

    /// Counts a frame that ended its connection.
    pub fn record_refused_frame(&self, reason: FrameRefusal) {
        self.refused_frames.with_label_values(&[reason.name()]).inc();
    }

    fn api_series(&self, api: ApiKey) -> Option<&ApiSeries> {
        let position = ApiKey::ALL.binary_search(&api).ok()?;
        let (_, last) = api.versions();
        let new = || ApiSeries {
            duration: self.durations.with_label_values(&[api.name()]),
            queue_time: self.queue_times.with_label_values(&[api.name()]),
            throttle_time: self.throttle_times.with_label_values(&[api.name()]),
            requests: (0..=last).map(|_| OnceLock::new()).collect(),
        };
        Some(self.series.get(position)?.get_or_init(new))
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn metrics() -> KafkaMetrics {
        KafkaMetrics::new(&MetricRegistrar(Registry::new())).unwrap()
    }

    #[test]
    fn requests_are_counted_by_api_and_version() {
        let metrics = metrics();
        for version in [13, 13, 9] {
            drop(metrics.start_request(ApiKey::Produce, version));
        }
        // Versions that are not served have no series.
        for version in [-1, 14, i16::MAX] {
            drop(metrics.start_request(ApiKey::Produce, version));
        }
        let count = |version| metrics.requests.with_label_values(&["Produce", version]).get();
        assert_eq!((count("13"), count("9")), (2, 1));
        assert_eq!((count("14"), count("-1")), (0, 0));
        let duration = metrics.durations.with_label_values(&["Produce"]);
        assert_eq!(duration.get_sample_count(), 6);
    }

    #[test]
    fn every_api_has_series_of_its_own() {
        let metrics = metrics();
        for &api in ApiKey::ALL {
            metrics.record_queue_time(api, Duration::from_millis(20));
            metrics.record_answer(api, &[], Duration::from_millis(500));
            let queue_time = metrics.queue_times.with_label_values(&[api.name()]);
            assert_eq!(queue_time.get_sample_count(), 1, "{api:?}");
            let throttled = metrics.throttle_times.with_label_values(&[api.name()]).get();
            assert!((throttled - 0.5).abs() < 1e-9, "{api:?}: {throttled}");
        }
    }

    #[test]
    fn errors_have_kafkas_names_and_unknown_codes_share_one() {
        let metrics = metrics();
        metrics.record_answer(ApiKey::Fetch, &[6, 1], Duration::ZERO);
        metrics.record_answer(ApiKey::Fetch, &[6, 9999, -77], Duration::ZERO);
        let count = |code| metrics.errors.with_label_values(&["Fetch", code]).get();
        assert_eq!(
            (
                count("NOT_LEADER_OR_FOLLOWER"),
                count("OFFSET_OUT_OF_RANGE"),
                count(OTHER_LABEL_VALUE)
            ),
            (2, 1, 2)
        );
    }
}

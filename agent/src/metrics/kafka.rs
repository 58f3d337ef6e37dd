//! Metrics of the Kafka listener.

use prometheus::{HistogramVec, IntGauge, IntGaugeVec, Result};
use tokio::time::Instant;

use super::{OTHER_LABEL_VALUE, RequestTimer, register::MetricRegistrar};

/// Names that clients give their software, as far as they have a series of their own.
const KNOWN_SOFTWARE: [&str; 11] = [
    "aiokafka",
    "apache-kafka-java",
    "confluent-kafka-dotnet",
    "confluent-kafka-go",
    "confluent-kafka-python",
    "kafka-python",
    "kafkajs",
    "kgo",
    "librdkafka",
    "rdkafka",
    "sarama",
];
/// The label value of clients that have not named their software.
const UNNAMED: &str = "_unnamed";

/// Requests and connections of Kafka clients.
#[derive(Debug)]
pub struct KafkaMetrics {
    requests: HistogramVec,
    connections: IntGaugeVec,
}

impl KafkaMetrics {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        Ok(Self {
            requests: new.durations(
                "kafka_request_duration_seconds",
                "Requests of Kafka clients, from their last byte to their answer.",
                "api",
            )?,
            connections: new.gauges(
                "kafka_connections",
                "Open connections of Kafka clients, by the name of their software.",
                &["software"],
            )?,
        })
    }

    /// Creates the series of an API, at zero.
    pub fn register(&self, api: &'static str) {
        self.requests.with_label_values(&[api]);
        self.connections.with_label_values(&[UNNAMED]);
    }

    /// Counts a request; dropping the timer records its duration.
    pub fn start_request(&self, api: &'static str) -> RequestTimer {
        RequestTimer {
            duration: self.requests.with_label_values(&[api]),
            since: Instant::now(),
        }
    }

    /// Counts an open connection, as long as the value exists. `software` is what the client said,
    /// if it did.
    pub fn count_connection(&self, software: Option<&str>) -> CountedConnection {
        let known = |name: &str| {
            let known = KNOWN_SOFTWARE.iter().find(|known| **known == name);
            known.copied().unwrap_or(OTHER_LABEL_VALUE)
        };
        let open = self
            .connections
            .with_label_values(&[software.map_or(UNNAMED, known)]);
        open.inc();
        CountedConnection(open)
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct CountedConnection(IntGauge);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn connections_are_counted_by_known_software_only() {
        let metrics = KafkaMetrics::new(&MetricRegistrar(Registry::new())).unwrap();
        let value = |label: &str| metrics.connections.with_label_values(&[label]).get();
        let known = metrics.count_connection(Some("librdkafka"));
        let hostile = metrics.count_connection(Some("x".repeat(10_000).as_str()));
        let unnamed = metrics.count_connection(None);
        assert_eq!(
            (value("librdkafka"), value(OTHER_LABEL_VALUE), value(UNNAMED)),
            (1, 1, 1)
        );
        drop((known, hostile, unnamed));
        assert_eq!(
            (value("librdkafka"), value(OTHER_LABEL_VALUE), value(UNNAMED)),
            (0, 0, 0)
        );
    }
}

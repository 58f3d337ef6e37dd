//! The metric names of the contract, and the limits on label values.

use std::time::Duration;

use prometheus::Encoder;

use super::{SeriesLimits, consumer::ConsumerMetrics, producer::ProducerMetrics, registry::MetricsRegistry};

fn text(registry: &MetricsRegistry) -> String {
    let mut out = Vec::new();
    prometheus::TextEncoder::new()
        .encode(&registry.prometheus().gather(), &mut out)
        .unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_producer_shows_all_its_metrics_before_the_first_record_and_then_only_those_of_topics() {
    let registry = MetricsRegistry::new();
    let producer = ProducerMetrics::new(&registry);
    let shown = text(&registry);
    for name in PRODUCER {
        let is_zero = |line: &str| line.starts_with(name) && line.ends_with(" 0");
        assert!(shown.lines().any(is_zero), "{name} is missing:\n{shown}");
    }
    producer.for_topic("orders").record_failed(0);
    let shown = text(&registry);
    assert!(!shown.contains("topic=\"\""), "{shown}");
    for name in PRODUCER {
        assert!(
            shown
                .lines()
                .any(|line| line.starts_with(name) && line.contains("topic=\"orders\"")),
            "{name} is missing:\n{shown}"
        );
    }
    let _ = ProducerMetrics::new(&registry);
    assert!(
        !text(&registry).contains("topic=\"\""),
        "a second producer finds topics"
    );
}

/// The producer's metrics, as named in the contract.
const PRODUCER: [&str; 8] = [
    "streamhouse_producer_records_sent_total",
    "streamhouse_producer_bytes_sent_total",
    "streamhouse_producer_send_duration_seconds",
    "streamhouse_producer_batch_flush_duration_seconds",
    "streamhouse_producer_batch_size_records",
    "streamhouse_producer_batch_size_bytes",
    "streamhouse_producer_send_errors_total",
    "streamhouse_producer_pending_records",
];

#[test]
fn the_contracts_names_are_shown_and_buckets_double() {
    let registry = MetricsRegistry::new();
    let producer = ProducerMetrics::new(&registry).for_topic("orders");
    producer.record_batch(10, 1000);
    producer.record_sent(10, 500, Duration::from_millis(3));
    producer.record_flush(Duration::from_millis(2));
    producer.record_failed(1);
    producer.set_pending(4);
    let consumer = ConsumerMetrics::new(&registry, "billing");
    consumer.record_poll(Duration::from_millis(1));
    let partition = consumer.for_partition("orders", 3);
    partition.record_consumed(5, 50);
    partition.set_position(7);
    partition.set_committed(6);
    partition.set_lag(2, 0.5);
    let text = text(&registry);
    for line in [
        "streamhouse_producer_records_sent_total{topic=\"orders\"} 10",
        "streamhouse_producer_bytes_sent_total{topic=\"orders\"} 500",
        "streamhouse_producer_send_errors_total{topic=\"orders\"} 1",
        "streamhouse_producer_pending_records{topic=\"orders\"} 4",
        "streamhouse_producer_send_duration_seconds_bucket{topic=\"orders\",le=\"0.002\"} 0",
        "streamhouse_producer_send_duration_seconds_bucket{topic=\"orders\",le=\"0.004\"} 1",
        "streamhouse_producer_send_duration_seconds_bucket{topic=\"orders\",le=\"8.192\"} 1",
        "streamhouse_producer_batch_flush_duration_seconds_count{topic=\"orders\"} 1",
        "streamhouse_producer_batch_size_records_sum{topic=\"orders\"} 10",
        "streamhouse_producer_batch_size_bytes_sum{topic=\"orders\"} 1000",
        "streamhouse_consumer_records_consumed_total{group=\"billing\",topic=\"orders\"} 5",
        "streamhouse_consumer_bytes_consumed_total{group=\"billing\",topic=\"orders\"} 50",
        "streamhouse_consumer_poll_duration_seconds_count{group=\"billing\"} 1",
        "streamhouse_consumer_lag_records{group=\"billing\",partition=\"3\",topic=\"orders\"} 2",
        "streamhouse_consumer_lag_seconds{group=\"billing\",partition=\"3\",topic=\"orders\"} 0.5",
        "streamhouse_consumer_last_committed_offset{group=\"billing\",partition=\"3\",topic=\"orders\"} 6",
        "streamhouse_consumer_current_offset{group=\"billing\",partition=\"3\",topic=\"orders\"} 7",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("_total_total"));
}

#[test]
fn gauges_of_a_lost_partition_vanish_and_topic_labels_are_bounded() {
    let registry = MetricsRegistry::new();
    let consumer = ConsumerMetrics::new(&registry, "g");
    let partition = consumer.for_partition("t", 0);
    partition.set_lag(9, 1.0);
    assert!(text(&registry).contains("streamhouse_consumer_lag_records{"));
    drop(partition);
    assert!(!text(&registry).contains("streamhouse_consumer_lag_records{"));
    let producer = ProducerMetrics::new(&registry);
    for topic in 0..SeriesLimits::default().topics + 50 {
        producer.for_topic(&format!("topic-{topic}")).record_failed(1);
    }
    assert!(text(&registry).contains("streamhouse_producer_send_errors_total{topic=\"_other\"} 51"));
}

#[test]
fn groups_beyond_the_limit_share_series() {
    let limits = SeriesLimits {
        groups: 1,
        ..SeriesLimits::default()
    };
    let registry = MetricsRegistry::with_limits(prometheus::Registry::new(), limits);
    let partitions: Vec<_> = ["a", "b", "c", "a"]
        .into_iter()
        .map(|group| ConsumerMetrics::new(&registry, group).for_partition("t", 0))
        .collect();
    for partition in &partitions {
        partition.record_consumed(1, 10);
        partition.set_lag(5, 1.0);
    }
    let shown = text(&registry);
    for line in [
        "streamhouse_consumer_records_consumed_total{group=\"a\",topic=\"t\"} 2",
        "streamhouse_consumer_records_consumed_total{group=\"_other\",topic=\"t\"} 2",
        "streamhouse_consumer_lag_records{group=\"_other\",partition=\"0\",topic=\"t\"} 10",
    ] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    assert!(!shown.contains("group=\"b\"") && !shown.contains("group=\"c\""));
}

#[test]
fn two_producers_share_the_gauge_of_a_topic() {
    let registry = MetricsRegistry::new();
    let (one, two) = (
        ProducerMetrics::new(&registry).for_topic("t"),
        ProducerMetrics::new(&registry).for_topic("t"),
    );
    one.set_pending(5);
    two.set_pending(3);
    one.set_pending(1);
    assert!(text(&registry).contains("streamhouse_producer_pending_records{topic=\"t\"} 4"));
}

#[test]
fn partitions_beyond_the_limit_share_a_series_of_sums_and_the_highest_age() {
    let limits = SeriesLimits {
        partitions: 1,
        ..SeriesLimits::default()
    };
    let registry = MetricsRegistry::with_limits(prometheus::Registry::new(), limits);
    let consumer = ConsumerMetrics::new(&registry, "g");
    let partitions: Vec<_> = (0..3).map(|index| consumer.for_partition("t", index)).collect();
    for (partition, lag) in partitions.iter().zip(1_i32..) {
        partition.set_position(100);
        partition.set_committed(90);
        partition.set_lag(lag.into(), lag.into());
    }
    let line = |name: &str, partition: &str, value: &str| {
        format!("streamhouse_consumer_{name}{{group=\"g\",partition=\"{partition}\",topic=\"t\"}} {value}")
    };
    let shown = text(&registry);
    for line in [
        line("lag_records", "0", "1"),
        line("lag_seconds", "0", "1"),
        line("lag_records", "_other", "5"),
        line("lag_seconds", "_other", "3"),
        line("current_offset", "_other", "200"),
        line("last_committed_offset", "_other", "180"),
    ] {
        assert!(shown.contains(&line), "{line} is missing in\n{shown}");
    }
    assert!(!shown.contains("partition=\"1\""), "{shown}");
    let mut partitions = partitions.into_iter();
    drop((partitions.next(), partitions.next_back()));
    let shown = text(&registry);
    assert!(shown.contains(&line("lag_records", "_other", "2")), "{shown}");
    assert!(shown.contains(&line("lag_seconds", "_other", "2")), "{shown}");
    drop(partitions);
    assert!(!text(&registry).contains("streamhouse_consumer_lag_records{"));
}

#[test]
fn series_of_single_partitions_can_be_switched_off() {
    let limits = SeriesLimits {
        partitions: 0,
        ..SeriesLimits::default()
    };
    let registry = MetricsRegistry::with_limits(prometheus::Registry::new(), limits);
    let consumer = ConsumerMetrics::new(&registry, "g");
    let partitions: Vec<_> = (0..50).map(|index| consumer.for_partition("t", index)).collect();
    for partition in &partitions {
        partition.set_lag(2, 0.5);
    }
    let shown = text(&registry);
    let series: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("streamhouse_consumer_lag_records{"))
        .collect();
    assert_eq!(
        series,
        ["streamhouse_consumer_lag_records{group=\"g\",partition=\"_other\",topic=\"t\"} 100"]
    );
}

#[test]
fn a_partition_that_moves_within_a_process_keeps_its_series() {
    let registry = MetricsRegistry::new();
    let consumer = ConsumerMetrics::new(&registry, "g");
    let before = consumer.for_partition("t", 0);
    before.set_lag(9, 1.0);
    let after = consumer.for_partition("t", 0);
    drop(before);
    after.set_lag(4, 0.5);
    let shown = text(&registry);
    for line in [
        "streamhouse_consumer_lag_records{group=\"g\",partition=\"0\",topic=\"t\"} 4",
        "streamhouse_consumer_lag_seconds{group=\"g\",partition=\"0\",topic=\"t\"} 0.5",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
}

proptest::proptest! {
    /// For any order of updates and dropped partitions, the shared age is that of the oldest
    /// remaining partition.
    #[test]
    fn the_shared_age_is_the_highest_of_those_that_are_left(
        steps in proptest::collection::vec((0_usize..4, proptest::option::of(0_u8..9)), 1..40),
    ) {
        let limits = SeriesLimits { partitions: 0, ..SeriesLimits::default() };
        let registry = MetricsRegistry::with_limits(prometheus::Registry::new(), limits);
        let consumer = ConsumerMetrics::new(&registry, "g");
        let mut there: [Option<(_, f64)>; 4] = [const { None }; 4];
        for (index, age) in steps {
            let Some(age) = age else {
                there[index] = None;
                continue;
            };
            let (partition, shown) = there[index].get_or_insert_with(|| (consumer.for_partition("t", 0), 0.0));
            *shown = age.into();
            partition.set_lag(1, *shown);
        }
        let shown = text(&registry);
        let series = "streamhouse_consumer_lag_seconds{group=\"g\",partition=\"_other\",topic=\"t\"} ";
        let found = shown.lines().find_map(|line| line.strip_prefix(series)).map(|age| age.parse().unwrap());
        let expected = there.iter().flatten().map(|(_, age)| *age).reduce(f64::max);
        proptest::prop_assert_eq!(found, expected);
    }
}

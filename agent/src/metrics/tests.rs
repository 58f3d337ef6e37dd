//! Updated values appear in the scrape.

use streamhouse_core::kafka::ApiKey;

use super::{register::duration_buckets, *};

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn what_is_updated_is_rendered_under_the_promised_names() {
    let metrics = AgentMetrics::new().unwrap();
    metrics.active_partitions.set(3);
    drop(metrics.start_request("Fetch"));
    metrics.record_grpc_error("Produce", ErrorCode::NotLeader);
    metrics.write_latency.observe(0.003);
    metrics.record_flush(FlushReason::Full, 8 << 20);
    metrics.record_lease_change(LeaseChange::Taken, 2);
    metrics.record_job_success(BackgroundJob::Delete, 1500);
    metrics.record_job_failure(BackgroundJob::Delete);
    let text = metrics.render().unwrap();
    for (series, expected) in [
        ("streamhouse_agent_active_partitions", 3.0),
        ("streamhouse_agent_grpc_requests_total{method=\"Fetch\"}", 1.0),
        (
            "streamhouse_agent_grpc_request_duration_seconds_count{method=\"Fetch\"}",
            1.0,
        ),
        (
            "streamhouse_agent_grpc_errors_total{code=\"NOT_LEADER\",method=\"Produce\"}",
            1.0,
        ),
        (
            "streamhouse_agent_write_latency_seconds_bucket{le=\"0.002\"}",
            0.0,
        ),
        (
            "streamhouse_agent_write_latency_seconds_bucket{le=\"0.004\"}",
            1.0,
        ),
        ("streamhouse_agent_flush_total{reason=\"full\"}", 1.0),
        ("streamhouse_agent_flush_bytes_total", f64::from(8 << 20)),
        ("streamhouse_agent_lease_changes_total{reason=\"taken\"}", 2.0),
        ("streamhouse_agent_lease_changes_total{reason=\"lost\"}", 0.0),
        ("streamhouse_agent_job_failures_total{task=\"delete\"}", 1.0),
        ("streamhouse_agent_job_failures_total{task=\"renew\"}", 0.0),
        (
            "streamhouse_agent_job_last_success_timestamp_seconds{task=\"delete\"}",
            1.5,
        ),
        (
            "streamhouse_agent_invariant_violations_total{invariant=\"INV-P1\"}",
            0.0,
        ),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
    assert!(value(&text, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 0.0));
    assert!(!text.contains("_total_total"));
}

fn series(text: &str, name: &str) -> usize {
    let begin = format!("{name}{{");
    text.lines().filter(|line| line.starts_with(&begin)).count()
}

#[test]
fn topics_are_counted_by_name_up_to_a_bound_and_leave_with_their_topic() {
    let metrics = AgentMetrics::new().unwrap();
    let orders = metrics.topic_traffic("orders");
    orders.record_produced(3, 300);
    orders.record_fetched(2, 200);
    for number in 0..topics::MAX_TOPICS + 5 {
        metrics
            .topic_traffic(&format!("t{number}"))
            .record_produced(1, 10);
    }
    let text = metrics.render().unwrap();
    for (series, expected) in [
        ("streamhouse_topic_produced_records_total{topic=\"orders\"}", 3.0),
        ("streamhouse_topic_produced_bytes_total{topic=\"orders\"}", 300.0),
        ("streamhouse_topic_fetched_records_total{topic=\"orders\"}", 2.0),
        ("streamhouse_topic_fetched_bytes_total{topic=\"orders\"}", 200.0),
        ("streamhouse_topic_produced_records_total{topic=\"_other\"}", 6.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    let name = "streamhouse_topic_produced_records_total";
    assert_eq!(series(&text, name), topics::MAX_TOPICS + 1);
    // "orders" is deleted as well, but a partition still counts in it.
    metrics.retain_topics(|topic| topic == "t1");
    assert_eq!(series(&metrics.render().unwrap(), name), 3);
    drop(orders);
    metrics.retain_topics(|topic| topic == "t1");
    let text = metrics.render().unwrap();
    assert_eq!(series(&text, name), 2);
    assert_eq!(
        value(&text, "streamhouse_topic_produced_records_total{topic=\"t1\"}"),
        Some(1.0)
    );
    metrics.topic_traffic("new").record_produced(1, 1);
    assert_eq!(series(&metrics.render().unwrap(), name), 3, "there is room again");
}

#[test]
fn groups_are_shown_up_to_a_bound_and_leave_with_their_group() {
    let metrics = AgentMetrics::new().unwrap();
    let mut report = GroupsReport::default();
    let condition = |state, members| GroupStatus { state, members };
    let progress = |committed, lag| GroupProgress { committed, lag };
    report
        .conditions
        .insert("billing".to_owned(), condition("Stable", 2));
    for (topic, committed, lag) in [("orders", 5, 7), ("payments", 9, 0)] {
        let pair = ("billing".to_owned(), topic.to_owned());
        report.progress.insert(pair, progress(committed, lag));
    }
    metrics.set_groups(&report);
    let text = metrics.render().unwrap();
    for (series, expected) in [
        (
            "streamhouse_group_lag_records{group=\"billing\",topic=\"orders\"}",
            7.0,
        ),
        (
            "streamhouse_group_committed_offset{group=\"billing\",topic=\"orders\"}",
            5.0,
        ),
        (
            "streamhouse_group_lag_records{group=\"billing\",topic=\"payments\"}",
            0.0,
        ),
        ("streamhouse_group_members{group=\"billing\"}", 2.0),
        ("streamhouse_group_state{group=\"billing\",state=\"Stable\"}", 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    report
        .conditions
        .insert("billing".to_owned(), condition("Empty", 0));
    // Many more groups with larger lag: those with series keep them.
    for number in 0..groups::MAX_GROUPS + 9 {
        let group = format!("g{number}");
        report.conditions.insert(group.clone(), condition("Stable", 1));
        report
            .progress
            .insert((group, "orders".to_owned()), progress(0, 100));
    }
    metrics.set_groups(&report);
    let text = metrics.render().unwrap();
    assert_eq!(series(&text, "streamhouse_group_members"), groups::MAX_GROUPS + 1);
    assert_eq!(series(&text, "streamhouse_group_state"), groups::MAX_GROUPS);
    for (series, expected) in [
        ("streamhouse_group_state{group=\"billing\",state=\"Empty\"}", 1.0),
        ("streamhouse_group_members{group=\"billing\"}", 0.0),
        ("streamhouse_group_members{group=\"_other\"}", 10.0),
        (
            "streamhouse_group_lag_records{group=\"_other\",topic=\"_other\"}",
            1000.0,
        ),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    metrics.set_groups(&GroupsReport::default());
    assert!(!metrics.render().unwrap().contains("streamhouse_group_"));
}

/// A job that never succeeded must be distinguishable from one that does not exist.
#[tokio::test]
async fn the_age_of_a_job_counts_from_its_success_or_from_the_start() {
    let metrics = AgentMetrics::new().unwrap();
    let age = |job: BackgroundJob| {
        let series = format!(
            "streamhouse_agent_job_last_success_age_seconds{{task=\"{}\"}}",
            job.name()
        );
        value(&metrics.render().unwrap(), &series).unwrap()
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    for job in BackgroundJob::ALL {
        assert!(age(job) >= 0.02, "{job:?}");
        assert_eq!(metrics.job_last_success_ms(job), None);
    }
    metrics.record_job_failure(BackgroundJob::Roll);
    metrics.record_job_success(BackgroundJob::Delete, 1500);
    // The later one is read first, so that a pause between the two only increases the difference.
    let deleted = age(BackgroundJob::Delete);
    assert!(age(BackgroundJob::Roll) >= deleted + 0.02);
    assert_eq!(metrics.job_last_success_ms(BackgroundJob::Delete), Some(1500));
    assert_eq!(metrics.job_last_success_ms(BackgroundJob::Roll), None);
}

#[test]
fn duration_buckets_start_at_a_millisecond_and_double() {
    assert_eq!(
        duration_buckets().unwrap()[..5],
        [0.001, 0.002, 0.004, 0.008, 0.016]
    );
}

#[test]
fn a_broken_invariant_is_counted() {
    let metrics = AgentMetrics::new().unwrap();
    metrics.record_violation(Invariant::P2);
    let text = metrics.render().unwrap();
    assert_eq!(
        value(
            &text,
            "streamhouse_agent_invariant_violations_total{invariant=\"INV-P2\"}"
        ),
        Some(1.0)
    );
}

/// The reference is generated from a run without TLS; it lists the metrics of agents with TLS as
/// well.
#[tokio::test]
async fn every_metric_stands_in_the_reference_with_its_help() {
    let metrics = AgentMetrics::new().unwrap();
    metrics.set_certificate_expiry("grpc", 1);
    metrics.handshake_error_counter("grpc");
    metrics.listener_traffic("grpc");
    metrics.kafka.register();
    drop(metrics.kafka.start_request(ApiKey::Produce, 13));
    metrics.kafka.record_answer(ApiKey::Produce, &[6], Duration::ZERO);
    metrics.topic_traffic("orders");
    let group = || "billing".to_owned();
    let (state, members) = ("Stable", 1);
    metrics.set_groups(&GroupsReport {
        conditions: [(group(), GroupStatus { state, members })].into(),
        progress: [((group(), "orders".to_owned()), GroupProgress::default())].into(),
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let families = metrics.registry().gather();
    assert!(
        families
            .iter()
            .any(|family| family.name().contains("certificate_not_after"))
    );
    for family in families {
        let Some(row) = reference
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", family.name())))
        else {
            assert!(family.name().starts_with("process_"), "{}", family.name());
            continue;
        };
        assert!(row.ends_with(&format!("| {} |", family.help())), "{row}");
    }
}

//! The status is the same for the same facts and contains only what is known.

use serde_json::json;

use super::*;
use crate::topic::fixtures::topic;

fn numbers(topic_id: &str, records: i64) -> KnownTopic {
    KnownTopic::Topic(TopicNumbers {
        topic_id: topic_id.to_owned(),
        partitions: 3,
        records,
        size_bytes: records * 10,
    })
}

fn ready(known: KnownTopic) -> StatusFacts {
    StatusFacts {
        known,
        ready: (ConditionStatus::True, ConditionReason::Reconciled, String::new()),
        paused: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn with(status: TopicStatus) -> Topic {
    let mut topic = topic(json!({}));
    topic.status = Some(status);
    topic
}

#[test]
fn the_same_facts_give_the_same_status_at_any_time() {
    let facts = ready(numbers("a", 5));
    let first = compute_status(&topic(json!({})), &facts, false, at(1));
    assert_eq!(compute_status(&with(first.clone()), &facts, false, at(2)), first);
    assert_eq!(compute_status(&with(first.clone()), &facts, true, at(2)), first);
}

#[test]
fn records_are_taken_at_first_and_when_refreshed_only() {
    let first = compute_status(&topic(json!({})), &ready(numbers("a", 5)), false, at(1));
    assert_eq!((first.records, first.size_bytes), (Some(5), Some(50)));
    let later = ready(numbers("a", 6));
    assert_eq!(
        compute_status(&with(first.clone()), &later, false, at(2)).records,
        Some(5)
    );
    assert_eq!(
        compute_status(&with(first.clone()), &later, true, at(2)).records,
        Some(6)
    );
    let other = ready(numbers("b", 0));
    assert_eq!(
        compute_status(&with(first), &other, false, at(2)).records,
        Some(0)
    );
}

#[test]
fn numbers_are_coarse_so_that_flowing_records_rarely_change_them() {
    for (number, rounded) in [
        (0, 0),
        (7, 7),
        (99, 99),
        (105, 100),
        (1_999, 1_900),
        (i64::MAX, 9_200_000_000_000_000_000),
    ] {
        assert_eq!(round_down(number), rounded, "{number}");
    }
    let first = compute_status(&topic(json!({})), &ready(numbers("a", 12_345)), true, at(1));
    assert_eq!((first.records, first.size_bytes), (Some(12_000), Some(120_000)));
    let later = ready(numbers("a", 12_399));
    assert_eq!(compute_status(&with(first.clone()), &later, true, at(2)), first);
}

#[test]
fn what_cannot_be_looked_at_is_kept_and_what_is_not_ours_is_not_told() {
    let first = compute_status(&topic(json!({})), &ready(numbers("a", 5)), false, at(1));
    let unknown = StatusFacts {
        known: KnownTopic::Unchanged,
        ready: (
            ConditionStatus::Unknown,
            ConditionReason::ClusterNotReady,
            "down".to_owned(),
        ),
        paused: None,
    };
    let kept = compute_status(&with(first.clone()), &unknown, true, at(2));
    assert_eq!((kept.topic_id.as_deref(), kept.records), (Some("a"), Some(5)));
    assert!(!is_reconciled(&with(kept)));
    let lost = StatusFacts {
        known: KnownTopic::None,
        ..unknown
    };
    let lost = compute_status(&with(first), &lost, true, at(2));
    assert_eq!((lost.topic_id, lost.records, lost.partitions), (None, None, None));
    assert_eq!(lost.topic_name.as_deref(), Some("orders"));
}

#[test]
fn a_paused_topic_says_so_whatever_else_is_known() {
    let paused = topic(json!({ "paused": true }));
    let status = compute_status(&paused, &ready(KnownTopic::Unchanged), false, at(1));
    let condition = find_condition(&status.conditions, ConditionType::Paused).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.message.as_str()),
        ("True", "spec.paused is set")
    );
}

#[test]
fn settled_means_carried_out_for_this_generation() {
    let mut settled = with(compute_status(
        &topic(json!({})),
        &ready(numbers("a", 5)),
        false,
        at(1),
    ));
    assert!(is_reconciled(&settled));
    settled.metadata.generation = Some(2);
    assert!(!is_reconciled(&settled));
    let partly = StatusFacts {
        ready: (
            ConditionStatus::False,
            ConditionReason::InvalidConfig,
            "x".to_owned(),
        ),
        ..ready(numbers("a", 5))
    };
    assert!(is_reconciled(&with(compute_status(
        &topic(json!({})),
        &partly,
        false,
        at(1)
    ))));
}

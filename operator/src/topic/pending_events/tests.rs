//! Which events are published, and that each is published once.

use serde_json::json;

use super::*;
use crate::{crd::TopicStatus, topic::fixtures::topic};

fn create() -> PlannedChange {
    PlannedChange::Create {
        partitions: 3,
        config: [("segment.ms".to_owned(), "1000".to_owned())].into(),
    }
}

fn grow() -> PlannedChange {
    PlannedChange::AddPartitions { from: 3, to: 6 }
}

fn set() -> PlannedChange {
    PlannedChange::Set {
        key: "segment.ms".to_owned(),
        from: None,
        to: "1000".to_owned(),
    }
}

fn with_id(id: &str, settled: bool) -> Topic {
    let mut topic = topic(json!({}));
    let status: TopicStatus = serde_json::from_value(json!({
        "observedGeneration": i64::from(settled), "topicId": id,
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Reconciled", "message": "",
                         "lastTransitionTime": "2026-01-01T00:00:00Z" }]
    }))
    .unwrap();
    topic.status = Some(status);
    topic
}

fn reasons(news: &[PendingEvent]) -> Vec<ConditionReason> {
    news.iter().map(|news| news.reason).collect()
}

#[test]
fn a_new_topic_is_created_and_one_that_was_there_adopted_with_one_event_each() {
    let new = topic(json!({}));
    let news = events_of_changes(&new, &[PlannedChange::Claim, create()], "a");
    assert_eq!(
        news,
        [PendingEvent::normal(
            ConditionReason::Created,
            "created with 3 partitions and segment.ms=1000"
        )]
    );
    let news = events_of_changes(&new, &[PlannedChange::Claim, set()], "a");
    assert_eq!(reasons(&news), [ConditionReason::Adopted]);
    assert!(news[0].message.contains("set segment.ms to 1000"));
}

#[test]
fn a_change_of_the_spec_is_told_as_such() {
    let news = events_of_changes(&with_id("a", false), &[grow(), set()], "a");
    assert_eq!(
        reasons(&news),
        [
            ConditionReason::PartitionsIncreased,
            ConditionReason::ConfigUpdated
        ]
    );
    assert_eq!(news[0].message, "from 3 to 6");
    assert!(!news[0].is_drift() && !news[1].is_drift());
}

#[test]
fn what_somebody_else_changed_is_told_as_drift() {
    let news = events_of_changes(&with_id("a", true), &[set()], "a");
    assert_eq!(reasons(&news), [ConditionReason::DriftCorrected]);
    assert!(news[0].is_drift());
}

#[test]
fn another_topic_under_the_name_is_a_warning_whoever_made_it() {
    for done in [vec![create()], Vec::new()] {
        let news = events_of_changes(&with_id("a", true), &done, "b");
        assert_eq!(reasons(&news), [ConditionReason::Recreated]);
        assert!(news[0].warning && news[0].is_drift());
    }
}

#[test]
fn nothing_done_is_nothing_told() {
    assert_eq!(events_of_changes(&with_id("a", true), &[], "a"), []);
    assert_eq!(
        events_of_changes(&with_id("a", true), &[PlannedChange::Claim], "a"),
        []
    );
}

#[test]
fn a_problem_that_waits_for_somebody_is_told_when_it_begins() {
    let conflict = (
        ConditionStatus::False,
        ConditionReason::OwnershipConflict,
        "managed by a/b".to_owned(),
    );
    let news = event_of_problem(&with_id("a", true), &conflict).unwrap();
    assert!(news.warning);
    let mut known = with_id("a", true);
    known.status.as_mut().unwrap().conditions[0].reason = "OwnershipConflict".to_owned();
    assert_eq!(event_of_problem(&known, &conflict), None);
    let passing = (
        ConditionStatus::Unknown,
        ConditionReason::ClusterNotReady,
        String::new(),
    );
    assert_eq!(event_of_problem(&with_id("a", true), &passing), None);
}

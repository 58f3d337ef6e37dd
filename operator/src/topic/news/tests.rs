//! Which events are published, and that each is published once.

use serde_json::json;

use super::*;
use crate::{crd::TopicStatus, topic::support::topic};

fn create() -> Change {
    Change::Create {
        partitions: 3,
        config: [("segment.ms".to_owned(), "1000".to_owned())].into(),
    }
}

fn grow() -> Change {
    Change::Grow { from: 3, to: 6 }
}

fn set() -> Change {
    Change::Set {
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

fn reasons(news: &[News]) -> Vec<Reason> {
    news.iter().map(|news| news.reason).collect()
}

#[test]
fn a_new_topic_is_created_and_one_that_was_there_adopted_with_one_event_each() {
    let new = topic(json!({}));
    let news = of_changes(&new, &[Change::Claim, create()], "a");
    assert_eq!(
        news,
        [News::normal(
            Reason::Created,
            "created with 3 partitions and segment.ms=1000"
        )]
    );
    let news = of_changes(&new, &[Change::Claim, set()], "a");
    assert_eq!(reasons(&news), [Reason::Adopted]);
    assert!(news[0].message.contains("set segment.ms to 1000"));
}

#[test]
fn a_change_of_the_spec_is_told_as_such() {
    let news = of_changes(&with_id("a", false), &[grow(), set()], "a");
    assert_eq!(
        reasons(&news),
        [Reason::PartitionsIncreased, Reason::ConfigUpdated]
    );
    assert_eq!(news[0].message, "from 3 to 6");
    assert!(!news[0].is_drift() && !news[1].is_drift());
}

#[test]
fn what_somebody_else_changed_is_told_as_drift() {
    let news = of_changes(&with_id("a", true), &[set()], "a");
    assert_eq!(reasons(&news), [Reason::DriftCorrected]);
    assert!(news[0].is_drift());
}

#[test]
fn another_topic_under_the_name_is_a_warning_whoever_made_it() {
    for done in [vec![create()], Vec::new()] {
        let news = of_changes(&with_id("a", true), &done, "b");
        assert_eq!(reasons(&news), [Reason::Recreated]);
        assert!(news[0].warning && news[0].is_drift());
    }
}

#[test]
fn nothing_done_is_nothing_told() {
    assert_eq!(of_changes(&with_id("a", true), &[], "a"), []);
    assert_eq!(of_changes(&with_id("a", true), &[Change::Claim], "a"), []);
}

#[test]
fn a_problem_that_waits_for_somebody_is_told_when_it_begins() {
    let conflict = (
        State::False,
        Reason::ResourceConflict,
        "managed by a/b".to_owned(),
    );
    let news = of_problem(&with_id("a", true), &conflict).unwrap();
    assert!(news.warning);
    let mut known = with_id("a", true);
    known.status.as_mut().unwrap().conditions[0].reason = "ResourceConflict".to_owned();
    assert_eq!(of_problem(&known, &conflict), None);
    let passing = (State::Unknown, Reason::ClusterNotReady, String::new());
    assert_eq!(of_problem(&with_id("a", true), &passing), None);
}

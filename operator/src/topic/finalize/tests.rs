//! Deletion of a Topic in each situation.

use serde_json::json;
use streamhouse_metadata::{TopicOwner, TopicSummary};
use uuid::Uuid;

use super::*;
use crate::{crd::FINALIZER, topic::fixtures::topic};

fn topic_with_finalizer(policy: &str) -> Topic {
    let mut topic = topic(json!({ "deletionPolicy": policy }));
    topic.metadata.finalizers = Some(vec!["a.example/b".to_owned(), FINALIZER.to_owned()]);
    topic
}

fn owner(uid: &str) -> TopicOwner {
    TopicOwner {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        resource: "orders".to_owned(),
    }
}

fn existing_topic() -> TopicSummary {
    TopicSummary {
        topic_id: Uuid::nil(),
        config: [].into(),
        partitions: 1,
        high_watermark: 0,
        log_start: 0,
        size_bytes: 0,
    }
}

/// Plans the deletion with this owner and this existence of the topic.
fn plan_with(topic: &Topic, around: OwnerState, of: Option<(&str, bool)>) -> DeletionPlan {
    let seen = of.map(|(uid, exists)| (owner(uid), exists.then(existing_topic)));
    let observed = seen.as_ref().map(|(owner, topic)| ObservedTopic {
        topic: topic.as_ref(),
        owner: Some(owner),
    });
    plan_deletion(topic, around, observed, None)
}

fn proceed_with(delete: bool, release: bool, kept: Option<&'static str>) -> DeletionPlan {
    DeletionPlan::Proceed(TopicRemoval {
        delete,
        release,
        retained: kept.map(Cow::Borrowed),
    })
}

#[test]
fn delete_deletes_and_gives_up_the_claim() {
    let topic = topic_with_finalizer("Delete");
    assert_eq!(
        plan_with(&topic, OwnerState::Present, Some(("uid-1", true))),
        proceed_with(true, true, None)
    );
    // The process was killed between the two steps.
    assert_eq!(
        plan_with(&topic, OwnerState::Present, Some(("uid-1", false))),
        proceed_with(false, true, None)
    );
}

#[test]
fn delete_waits_for_the_metadata_store() {
    assert_eq!(
        plan_with(&topic_with_finalizer("Delete"), OwnerState::Present, None),
        DeletionPlan::Wait
    );
}

#[test]
fn delete_keeps_the_topic_and_waits_for_nothing_when_all_ends() {
    for around in [OwnerState::ClusterDeleting, OwnerState::NamespaceTerminating] {
        for (observed, release) in [(None, false), (Some(("uid-1", true)), true)] {
            let DeletionPlan::Proceed(removal) = plan_with(&topic_with_finalizer("Delete"), around, observed)
            else {
                panic!("{around:?} waits");
            };
            assert_eq!(
                (removal.delete, removal.release, removal.retained.is_some()),
                (false, release, true)
            );
        }
    }
}

#[test]
fn what_another_manages_is_never_deleted() {
    let removal = plan_with(
        &topic_with_finalizer("Delete"),
        OwnerState::Present,
        Some(("uid-2", true)),
    );
    assert_eq!(
        removal,
        proceed_with(false, false, Some("another resource manages it"))
    );
}

#[test]
fn a_topic_that_another_waits_for_is_handed_over() {
    let leaving = topic_with_finalizer("Delete");
    let (owner, existing) = (owner("uid-1"), existing_topic());
    let observed = |topic| ObservedTopic {
        topic,
        owner: Some(&owner),
    };
    let plan = |topic| {
        plan_deletion(
            &leaving,
            OwnerState::Present,
            Some(observed(topic)),
            Some("shop/heir"),
        )
    };
    let DeletionPlan::Proceed(removal) = plan(Some(&existing)) else {
        panic!("it waits");
    };
    assert!(!removal.delete && removal.release);
    assert!(removal.retained.unwrap().contains("shop/heir"));
    assert_eq!(
        plan(None),
        proceed_with(false, true, None),
        "nothing to hand over"
    );
}

#[test]
fn the_oldest_topic_that_stays_and_may_adopt_is_the_heir() {
    let rival = |name: &str, adopt: &str| {
        let mut rival = topic(json!({ "topicName": "orders", "adopt": adopt }));
        rival.metadata.name = Some(name.to_owned());
        rival
    };
    let mut leaving = rival("leaving", "IfExists");
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let all = [
        leaving.clone(),
        rival("never", "Never"),
        rival("second", "IfExists"),
        rival("third", "IfExists"),
    ];
    let heirs = TopicHeirs::find(&all.map(Arc::new));
    assert_eq!(heirs.of(&leaving), Some("shop/second"));
    let alone = TopicHeirs::find(&[Arc::new(leaving.clone())]);
    assert_eq!(alone.of(&leaving), None);
}

#[test]
fn retain_keeps_the_topic_also_when_the_policy_was_another() {
    assert_eq!(
        plan_with(&topic_with_finalizer("Retain"), OwnerState::Present, None),
        proceed_with(false, false, None)
    );
    assert_eq!(
        plan_with(
            &topic_with_finalizer("Retain"),
            OwnerState::Present,
            Some(("uid-1", true))
        ),
        proceed_with(false, true, None)
    );
}

#[test]
fn a_topic_held_by_others_only_is_let_go() {
    let mut topic = topic_with_finalizer("Delete");
    topic.metadata.finalizers = Some(vec!["a.example/b".to_owned()]);
    assert_eq!(
        plan_with(&topic, OwnerState::Present, Some(("uid-1", true))),
        proceed_with(false, true, None)
    );
}

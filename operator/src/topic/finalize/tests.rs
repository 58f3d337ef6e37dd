//! Deletion of a Topic in each situation.

use serde_json::json;
use streamhouse_metadata::{TopicOverview, TopicOwner};
use uuid::Uuid;

use super::*;
use crate::topic::support::topic;

fn held(policy: &str) -> Topic {
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

fn there() -> TopicOverview {
    TopicOverview {
        topic_id: Uuid::nil(),
        config: [].into(),
        partitions: 1,
        high_watermark: 0,
        log_start: 0,
        size_bytes: 0,
    }
}

/// Plans the deletion with this owner and this existence of the topic.
fn end(topic: &Topic, around: Surroundings, of: Option<(&str, bool)>) -> Removal {
    let seen = of.map(|(uid, exists)| (owner(uid), exists.then(there)));
    let observed = seen.as_ref().map(|(owner, topic)| Observed {
        topic: topic.as_ref(),
        owner: Some(owner),
    });
    removal(topic, around, observed)
}

fn proceed(delete: bool, release: bool, kept: Option<&'static str>) -> Removal {
    Removal::Proceed {
        delete,
        release,
        kept,
    }
}

#[test]
fn delete_deletes_and_gives_up_the_claim() {
    let topic = held("Delete");
    assert_eq!(
        end(&topic, Surroundings::Stay, Some(("uid-1", true))),
        proceed(true, true, None)
    );
    // The process was killed between the two steps.
    assert_eq!(
        end(&topic, Surroundings::Stay, Some(("uid-1", false))),
        proceed(false, true, None)
    );
}

#[test]
fn delete_waits_for_the_metadata_store() {
    assert_eq!(end(&held("Delete"), Surroundings::Stay, None), Removal::Wait);
}

#[test]
fn delete_keeps_the_topic_and_waits_for_nothing_when_all_ends() {
    for around in [Surroundings::ClusterEnds, Surroundings::NamespaceEnds] {
        for (observed, release) in [(None, false), (Some(("uid-1", true)), true)] {
            let Removal::Proceed {
                delete,
                release: released,
                kept,
            } = end(&held("Delete"), around, observed)
            else {
                panic!("{around:?} waits");
            };
            assert_eq!((delete, released, kept.is_some()), (false, release, true));
        }
    }
}

#[test]
fn what_another_manages_is_never_deleted() {
    let removal = end(&held("Delete"), Surroundings::Stay, Some(("uid-2", true)));
    assert_eq!(
        removal,
        proceed(false, false, Some("another resource manages it"))
    );
}

#[test]
fn retain_keeps_the_topic_also_when_the_policy_was_another() {
    assert_eq!(
        end(&held("Retain"), Surroundings::Stay, None),
        proceed(false, false, None)
    );
    assert_eq!(
        end(&held("Retain"), Surroundings::Stay, Some(("uid-1", true))),
        proceed(false, true, None)
    );
}

#[test]
fn a_topic_held_by_others_only_is_let_go() {
    let mut topic = held("Delete");
    topic.metadata.finalizers = Some(vec!["a.example/b".to_owned()]);
    assert_eq!(
        end(&topic, Surroundings::Stay, Some(("uid-1", true))),
        proceed(false, true, None)
    );
}

#[test]
fn the_finalizers_of_others_stay() {
    let topic = held("Delete");
    let off = patch(&topic, false);
    assert_eq!(off["metadata"]["finalizers"], json!(["a.example/b"]));
    assert_eq!(off["metadata"]["resourceVersion"], "7");
    let on = patch(&topic, true);
    assert_eq!(on["metadata"]["finalizers"], json!(["a.example/b", FINALIZER]));
}

//! Plans for each situation, and the invariant that planning again after applying gives no changes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::topic::fixtures::topic;

fn owner(uid: &str) -> TopicOwner {
    TopicOwner {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        resource: format!("of-{uid}"),
    }
}

fn existing(partitions: i32, config: &[(&str, &str)]) -> TopicSummary {
    TopicSummary {
        topic_id: Uuid::from_u128(1),
        config: config
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        partitions,
        high_watermark: 5,
        log_start: 0,
        size_bytes: 100,
    }
}

fn overview_of(topic: Option<TopicSummary>, owner: Option<TopicOwner>) -> TopicsOverview {
    let named = |name: &str| name.to_owned();
    TopicsOverview {
        topics: topic.into_iter().map(|topic| (named("orders"), topic)).collect(),
        owners: owner.into_iter().map(|owner| (named("orders"), owner)).collect(),
    }
}

fn only_reason(plan: &TopicPlan) -> ConditionReason {
    assert_eq!(plan.problems.len(), 1, "{plan}");
    plan.problems[0].reason
}

#[test]
fn a_topic_that_is_not_there_is_claimed_and_created_with_defaults() {
    let plan = plan_topic(&topic(json!({})), &overview_of(None, None));
    let create = PlannedChange::Create {
        partitions: 1,
        config: BTreeMap::new(),
    };
    assert_eq!(plan.changes, [PlannedChange::Claim, create]);
    assert!(plan.problems.is_empty());
}

#[test]
fn what_is_there_is_adopted_with_its_partitions_and_converged() {
    let spec = topic(json!({ "config": { "segment.ms": 1000, "retention.bytes": null } }));
    let there = existing(3, &[("retention.bytes", "7"), ("max.message.bytes", "2048")]);
    let plan = plan_topic(&spec, &overview_of(Some(there), None));
    assert_eq!(
        plan.to_string(),
        "claim the topic name\n\
         set segment.ms to 1000 (was the default, 600000)\n\
         reset max.message.bytes to the default, 1048588 (was 2048)"
    );
}

#[test]
fn what_is_there_is_not_adopted_against_the_will() {
    let spec = topic(json!({ "adopt": "Never", "partitions": 5 }));
    let plan = plan_topic(&spec, &overview_of(Some(existing(3, &[])), None));
    assert_eq!(
        (plan.changes.len(), only_reason(&plan)),
        (0, ConditionReason::AlreadyExists)
    );
    let ours = plan_topic(&spec, &overview_of(Some(existing(3, &[])), Some(owner("uid-1"))));
    assert_eq!(ours.changes, [PlannedChange::AddPartitions { from: 3, to: 5 }]);
}

#[test]
fn what_another_manages_is_left_alone_and_the_other_named() {
    for there in [None, Some(existing(3, &[]))] {
        let plan = plan_topic(
            &topic(json!({ "partitions": 5 })),
            &overview_of(there, Some(owner("uid-2"))),
        );
        assert_eq!(
            (plan.changes.len(), only_reason(&plan)),
            (0, ConditionReason::OwnershipConflict)
        );
        assert!(plan.problems[0].message.starts_with("managed by shop/of-uid-2"));
    }
}

#[test]
fn partitions_are_never_taken_away_and_the_settings_converge_all_the_same() {
    let spec = topic(json!({ "partitions": 2, "config": { "segment.ms": 1000 } }));
    let plan = plan_topic(&spec, &overview_of(Some(existing(3, &[])), Some(owner("uid-1"))));
    assert_eq!(
        (plan.changes.len(), only_reason(&plan)),
        (1, ConditionReason::InvalidPartitions)
    );
    assert!(plan.problems[0].message.ends_with("set it to 3"));
}

#[test]
fn a_spec_that_makes_no_sense_changes_nothing() {
    let plan = plan_topic(&topic(json!({ "topicName": ".." })), &overview_of(None, None));
    assert_eq!(
        (plan.changes.len(), only_reason(&plan)),
        (0, ConditionReason::InvalidSpec)
    );
    assert!(plan.to_string().starts_with("InvalidSpec: spec.topicName"));
}

/// Applies the changes as the metadata store does.
fn simulate_changes(changes: &[PlannedChange], uid: &str, world: &mut TopicsOverview) {
    let name = || "orders".to_owned();
    for change in changes {
        match change {
            PlannedChange::Claim => assert!(world.owners.insert(name(), owner(uid)).is_none()),
            PlannedChange::Create { partitions, config } => {
                let mut new = existing(*partitions, &[]);
                new.config = config.clone();
                assert!(world.topics.insert(name(), new).is_none());
            }
            PlannedChange::AddPartitions { from, to } => {
                let topic = world.topics.get_mut("orders").unwrap();
                assert_eq!(topic.partitions, *from);
                assert!(to > from);
                topic.partitions = *to;
            }
            PlannedChange::Set { key, from, to } => {
                let topic = world.topics.get_mut("orders").unwrap();
                assert_eq!(topic.config.insert(key.clone(), to.clone()), *from);
            }
            PlannedChange::Reset { key, from } => {
                let topic = world.topics.get_mut("orders").unwrap();
                assert_eq!(topic.config.remove(key).as_ref(), Some(from));
            }
        }
    }
}

fn settings() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "retention.ms",
        "retention.bytes",
        "segment.ms",
        "segment.bytes",
        "max.message.bytes",
        "compression.type",
        "no.such.key",
    ]);
    let value = prop_oneof![
        Just(json!(null)),
        (-2_i64..2_000_000).prop_map(|number| json!(number)),
        prop::sample::select(vec!["1000", "100000", "zstd", "x", "-1"]).prop_map(|text| json!(text)),
    ];
    prop::collection::btree_map(key, value, 0..5).prop_map(|settings| json!(settings))
}

prop_compose! {
    fn any_spec()(
        partitions in prop::option::of(0_i32..9),
        config in settings(),
        time in prop::option::of(prop::sample::select(vec!["7d", "-1", "5x"])),
        never in any::<bool>(),
    ) -> Topic {
        let mut spec = json!({ "config": config, "adopt": if never { "Never" } else { "IfExists" } });
        if let Some(partitions) = partitions {
            spec["partitions"] = json!(partitions);
        }
        if let Some(time) = time {
            spec["retention"] = json!({ "time": time });
        }
        topic(spec)
    }
}

prop_compose! {
    fn any_world()(
        there in prop::option::of((1_i32..9, prop::collection::btree_map(
            prop::sample::select(vec!["retention.ms", "segment.ms", "segment.bytes", "of.a.newer.version"]),
            prop::sample::select(vec!["1000", "100000"]),
            0..4,
        ))),
        owner_is in prop::option::of(prop::sample::select(vec!["uid-1", "uid-2"])),
    ) -> TopicsOverview {
        let there = there
            .map(|(partitions, config)| existing(partitions, &config.into_iter().collect::<Vec<_>>()));
        overview_of(there, owner_is.map(owner))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn planning_again_after_applying_gives_nothing(spec in any_spec(), before in any_world()) {
        let first = plan_topic(&spec, &before);
        let mut after = before.clone();
        simulate_changes(&first.changes, "uid-1", &mut after);
        let second = plan_topic(&spec, &after);
        prop_assert_eq!(second.changes, Vec::new());
        if !first.changes.is_empty() {
            prop_assert_eq!(second.problems, first.problems);
        }
    }

    #[test]
    fn every_legal_setting_is_in_force_afterwards_and_what_is_to_be_left_is_left(
        spec in any_spec(), before in any_world(),
    ) {
        let plan = plan_topic(&spec, &before);
        let mut after = before.clone();
        simulate_changes(&plan.changes, "uid-1", &mut after);
        if let (Ok(wanted), Some(topic)) = (validate(&spec), after.topics.get("orders"))
            && after.owners.get("orders").is_some_and(|owner| owner.uid == "uid-1")
        {
            let old = before.topics.get("orders").map(|topic| topic.config.clone()).unwrap_or_default();
            for (key, setting) in &wanted.settings {
                match setting {
                    DesiredSetting::Value(value) => prop_assert_eq!(topic.config.get(key), Some(value)),
                    DesiredSetting::Unmanaged => prop_assert_eq!(topic.config.get(key), old.get(key)),
                }
            }
            prop_assert!(topic.config.keys().all(|key| wanted.settings.contains_key(key)));
        } else {
            prop_assert_eq!(after, before);
        }
    }
}

//! Computes what has to change so that a topic matches its resource, from the observed and the
//! desired state and without side effects. Used by a pass, which applies the plan, and by `diff`,
//! which prints it. Planning again after applying gives no changes.

use std::{collections::BTreeMap, fmt};

use streamhouse_core::topic_config;
use streamhouse_metadata::{TopicOwner, TopicSummary, TopicsOverview};

use super::validate::{DesiredSetting, DesiredTopic, TopicProblem, validate};
use crate::crd::{AdoptionPolicy, ConditionReason, Topic};

/// State of a topic name in the metadata store.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObservedTopic<'a> {
    /// The topic.
    pub topic: Option<&'a TopicSummary>,
    /// The resource that manages it.
    pub owner: Option<&'a TopicOwner>,
}

impl<'a> ObservedTopic<'a> {
    /// Returns the state of this name.
    pub fn from_overview(overview: &'a TopicsOverview, name: &str) -> Self {
        Self {
            topic: overview.topics.get(name),
            owner: overview.owners.get(name),
        }
    }

    /// Returns whether the resource with this uid manages the topic.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owner.is_some_and(|owner| owner.uid == uid)
    }
}

/// A planned change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedChange {
    /// Claim the name for this resource.
    Claim,
    /// Create the topic.
    Create {
        /// Number of partitions.
        partitions: i32,
        /// Settings that differ from their default.
        config: BTreeMap<String, String>,
    },
    /// Add partitions.
    AddPartitions {
        /// Present number.
        from: i32,
        /// Desired number.
        to: i32,
    },
    /// Set a value.
    Set {
        /// Key of the setting.
        key: String,
        /// Present value, if set.
        from: Option<String>,
        /// Desired value.
        to: String,
    },
    /// Reset a setting to its default.
    Reset {
        /// Key of the setting.
        key: String,
        /// Present value.
        from: String,
    },
}

impl fmt::Display for PlannedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim => f.write_str("claim the topic name"),
            Self::Create { partitions, config } => {
                let s = if *partitions == 1 { "" } else { "s" };
                write!(f, "create the topic with {partitions} partition{s}")?;
                let mut before = " and ";
                for (key, value) in config {
                    write!(f, "{before}{key}={value}")?;
                    before = ", ";
                }
                Ok(())
            }
            Self::AddPartitions { from, to } => write!(f, "increase partitions from {from} to {to}"),
            Self::Set { key, from, to } => match from {
                Some(from) => write!(f, "set {key} to {to} (was {from})"),
                None => write!(f, "set {key} to {to} (was the default{})", format_default(key)),
            },
            Self::Reset { key, from } => {
                write!(
                    f,
                    "reset {key} to the default{} (was {from})",
                    format_default(key)
                )
            }
        }
    }
}

fn format_default(key: &str) -> String {
    topic_config::find_definition(key).map_or(String::new(), |definition| format!(", {}", definition.default))
}

/// Planned changes, and why the topic is not ready even after them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicPlan {
    /// Changes in the order of execution.
    pub changes: Vec<PlannedChange>,
    /// Problems; empty if the topic is ready after the changes.
    pub problems: Vec<TopicProblem>,
}

impl TopicPlan {
    fn blocked(problem: TopicProblem) -> Self {
        Self {
            changes: Vec::new(),
            problems: vec![problem],
        }
    }

    /// Returns whether the topic already matches its resource.
    pub fn is_noop(&self) -> bool {
        self.changes.is_empty() && self.problems.is_empty()
    }

    /// Returns the changes in one line.
    pub fn summary(&self) -> String {
        summary(&self.changes)
    }
}

/// Returns the changes in one line.
pub fn summary(changes: &[PlannedChange]) -> String {
    changes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl fmt::Display for TopicPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_noop() {
            return f.write_str("no change");
        }
        let changes = self.changes.iter().map(ToString::to_string);
        let problems = self
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.reason, p.message));
        f.write_str(&changes.chain(problems).collect::<Vec<_>>().join("\n"))
    }
}

/// Plans a Topic from a file or the API server. A Topic that was never applied has no uid.
pub fn plan_topic(topic: &Topic, overview: &TopicsOverview) -> TopicPlan {
    let uid = topic.metadata.uid.as_deref().unwrap_or_default();
    match validate(topic) {
        Ok(wanted) => plan_changes(&wanted, ObservedTopic::from_overview(overview, &wanted.name), uid),
        Err(problem) => TopicPlan::blocked(problem),
    }
}

/// Plans the changes for the resource with this uid.
pub fn plan_changes(wanted: &DesiredTopic, observed: ObservedTopic<'_>, uid: &str) -> TopicPlan {
    let ours = observed.is_owned_by(uid);
    if let Some(owner) = observed.owner.filter(|_| !ours) {
        return TopicPlan::blocked(ownership_conflict(owner));
    }
    let mut plan = TopicPlan {
        changes: if ours {
            Vec::new()
        } else {
            vec![PlannedChange::Claim]
        },
        problems: wanted.problems.clone(),
    };
    match observed.topic {
        Some(_) if !ours && wanted.adopt == AdoptionPolicy::Never => {
            return TopicPlan::blocked(already_exists());
        }
        Some(topic) => plan_alterations(wanted, topic, &mut plan),
        None => plan.changes.push(PlannedChange::Create {
            partitions: wanted.partitions.unwrap_or(1),
            config: enforced_settings(wanted)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }),
    }
    plan
}

/// Another resource manages the name.
pub(super) fn ownership_conflict(owner: &TopicOwner) -> TopicProblem {
    TopicProblem::new(
        ConditionReason::OwnershipConflict,
        format!("managed by {owner}: delete one of the two Topics"),
    )
}

/// The topic exists and must not be adopted.
pub(super) fn already_exists() -> TopicProblem {
    TopicProblem::new(
        ConditionReason::AlreadyExists,
        "the topic already exists and spec.adopt is Never: set it to IfExists to manage the topic, or choose another name",
    )
}

fn plan_alterations(wanted: &DesiredTopic, topic: &TopicSummary, plan: &mut TopicPlan) {
    match wanted.partitions {
        Some(to) if to > topic.partitions => plan.changes.push(PlannedChange::AddPartitions {
            from: topic.partitions,
            to,
        }),
        Some(to) if to < topic.partitions => plan.problems.push(TopicProblem::new(
            ConditionReason::InvalidPartitions,
            format!(
                "the topic has {0} partitions but spec.partitions is {to}: partitions cannot be removed; set it to {0}",
                topic.partitions
            ),
        )),
        _ => {}
    }
    for (key, value) in enforced_settings(wanted) {
        let from = topic.config.get(key);
        if from != Some(value) {
            plan.changes.push(PlannedChange::Set {
                key: key.clone(),
                from: from.cloned(),
                to: value.clone(),
            });
        }
    }
    for (key, from) in &topic.config {
        if !wanted.settings.contains_key(key) {
            plan.changes.push(PlannedChange::Reset {
                key: key.clone(),
                from: from.clone(),
            });
        }
    }
}

fn enforced_settings(wanted: &DesiredTopic) -> impl Iterator<Item = (&String, &String)> {
    wanted.settings.iter().filter_map(|(key, setting)| match setting {
        DesiredSetting::Value(value) => Some((key, value)),
        DesiredSetting::Unmanaged => None,
    })
}

#[cfg(test)]
mod tests;

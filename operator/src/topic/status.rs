//! Computes the status of a Topic and writes it only if it differs from the stored one. Called by a
//! pass for every Topic, also after an error.

use jiff::Timestamp;

use super::error::TopicError;
use crate::{
    api_calls::apply_status,
    conditions::{ConditionSet, ConditionStatus, find_condition},
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, Topic, TopicStatus},
};

/// What is known about the topic of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KnownTopic {
    /// Nothing new.
    Unchanged,
    /// The resource has no topic.
    None,
    /// The resource manages this topic.
    Topic(TopicNumbers),
}

/// Id, partitions, records and size of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicNumbers {
    pub(super) topic_id: String,
    pub(super) partitions: i32,
    pub(super) records: i64,
    pub(super) size_bytes: i64,
}

/// The facts that determine a status.
#[derive(Debug, Clone)]
pub(super) struct StatusFacts {
    pub(super) known: KnownTopic,
    pub(super) ready: (ConditionStatus, ConditionReason, String),
    /// The changes that are not made because the Topic is paused.
    pub(super) paused: Option<String>,
}

/// Computes the status. Records and sizes change permanently, so they are rounded, and updated
/// only if `refresh` is set or none are stored.
pub(super) fn compute_status(
    topic: &Topic,
    facts: &StatusFacts,
    refresh: bool,
    now: Timestamp,
) -> TopicStatus {
    let stored = topic.status.clone().unwrap_or_default();
    let generation = topic.metadata.generation;
    let mut conditions = ConditionSet::from_stored(&stored.conditions, generation, now);
    let (state, reason, message) = &facts.ready;
    conditions.set(ConditionType::Ready, *state, *reason, message.as_str());
    if topic.spec.paused {
        let message = facts.paused.as_deref().unwrap_or("spec.paused is set");
        conditions.set(
            ConditionType::Paused,
            ConditionStatus::True,
            ConditionReason::Paused,
            message,
        );
    } else {
        conditions.set(
            ConditionType::Paused,
            ConditionStatus::False,
            ConditionReason::NotPaused,
            "",
        );
    }
    let blank = TopicStatus {
        observed_generation: generation,
        topic_name: stored
            .topic_name
            .clone()
            .or_else(|| Some(topic.topic_name().to_owned())),
        conditions: conditions.into_sorted_vec(),
        ..TopicStatus::default()
    };
    match &facts.known {
        KnownTopic::None => blank,
        KnownTopic::Unchanged => TopicStatus {
            topic_id: stored.topic_id,
            partitions: stored.partitions,
            records: stored.records,
            size_bytes: stored.size_bytes,
            ..blank
        },
        KnownTopic::Topic(numbers) => {
            let id = Some(numbers.topic_id.clone());
            let keep = !refresh && stored.topic_id == id && stored.records.is_some();
            TopicStatus {
                topic_id: id,
                partitions: Some(numbers.partitions),
                records: if keep {
                    stored.records
                } else {
                    Some(round_down(numbers.records))
                },
                size_bytes: if keep {
                    stored.size_bytes
                } else {
                    Some(round_down(numbers.size_bytes))
                },
                ..blank
            }
        }
    }
}

/// Rounds a number down to two significant digits, so that a topic is written less often the more
/// it contains.
fn round_down(number: i64) -> i64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number / unit * unit
}

/// Writes the status if it differs and returns the updated resource.
pub(super) async fn write_status(
    context: &OperatorContext,
    topic: &Topic,
    status: &TopicStatus,
) -> Result<Option<Topic>, TopicError> {
    if topic.status.as_ref() == Some(status) {
        return Ok(None);
    }
    Ok(Some(apply_status(context, topic, status).await?))
}

/// Returns the stored Ready condition: its status, its reason, and whether it describes the present
/// generation.
pub(super) fn stored_ready(topic: &Topic) -> Option<(&str, &str, bool)> {
    let status = topic.status.as_ref()?;
    let ready = find_condition(&status.conditions, ConditionType::Ready)?;
    let current = status.observed_generation == topic.metadata.generation;
    Some((&ready.status, &ready.reason, current))
}

/// Returns whether this generation of the spec has been applied as far as possible: a difference
/// now is a change by another client.
pub(super) fn is_reconciled(topic: &Topic) -> bool {
    let partly = [
        ConditionReason::InvalidConfig.as_str(),
        ConditionReason::InvalidPartitions.as_str(),
    ];
    stored_ready(topic).is_some_and(|(status, reason, current)| {
        current && (status == ConditionStatus::True.as_str() || partly.contains(&reason))
    })
}

#[cfg(test)]
mod tests;

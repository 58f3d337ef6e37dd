//! The events of a Topic. Computed without side effects; a pass publishes them after all other
//! work.

use super::{
    plan::{PlannedChange, summary},
    status,
};
use crate::{
    conditions::ConditionStatus,
    crd::{ConditionReason, Topic},
    events::PendingEvent,
};

/// Returns the events for the changes that were made. The topic now has this id; `topic` is the
/// resource before the changes.
pub(super) fn events_of_changes(topic: &Topic, done: &[PlannedChange], topic_id: &str) -> Vec<PendingEvent> {
    let before = topic
        .status
        .as_ref()
        .and_then(|status| status.topic_id.as_deref());
    let rest: Vec<PlannedChange> = done
        .iter()
        .filter(|change| !matches!(change, PlannedChange::Claim | PlannedChange::Create { .. }))
        .cloned()
        .collect();
    if let Some(before) = before.filter(|before| *before != topic_id) {
        return vec![PendingEvent::warning(
            ConditionReason::Recreated,
            format!(
                "topic {before} was deleted outside of the operator; its replacement {topic_id} does not contain its records"
            ),
        )];
    }
    if let Some(created) = done
        .iter()
        .find(|change| matches!(change, PlannedChange::Create { .. }))
    {
        let told = created.to_string().replacen("create the topic", "created", 1);
        return vec![PendingEvent::normal(ConditionReason::Created, told)];
    }
    if done.contains(&PlannedChange::Claim) && before.is_none() {
        let changes = match rest.is_empty() {
            true => String::new(),
            false => format!("; {}", summary(&rest)),
        };
        return vec![PendingEvent::normal(
            ConditionReason::Adopted,
            format!("the existing topic is now managed by this resource{changes}"),
        )];
    }
    if rest.is_empty() {
        return Vec::new();
    }
    if status::is_reconciled(topic) {
        return vec![PendingEvent::normal(
            ConditionReason::DriftCorrected,
            format!(
                "the topic was changed outside of the operator; restored: {}",
                summary(&rest)
            ),
        )];
    }
    events_of_spec_change(&rest)
}

/// Returns the events for a change of the spec.
fn events_of_spec_change(done: &[PlannedChange]) -> Vec<PendingEvent> {
    let mut news = Vec::new();
    let mut settings = Vec::new();
    for change in done {
        match change {
            PlannedChange::AddPartitions { from, to } => news.push(PendingEvent::normal(
                ConditionReason::PartitionsIncreased,
                format!("from {from} to {to}"),
            )),
            other => settings.push(other.clone()),
        }
    }
    if !settings.is_empty() {
        news.push(PendingEvent::normal(
            ConditionReason::ConfigUpdated,
            summary(&settings),
        ));
    }
    news
}

/// Returns an event when a Topic becomes not ready for a reason that requires action by a user.
pub(super) fn event_of_problem(
    topic: &Topic,
    ready: &(ConditionStatus, ConditionReason, String),
) -> Option<PendingEvent> {
    let (state, reason, message) = ready;
    let before = status::stored_ready(topic).map(|(_, reason, _)| reason);
    let waits = matches!(
        reason,
        ConditionReason::InvalidSpec
            | ConditionReason::InvalidConfig
            | ConditionReason::InvalidPartitions
            | ConditionReason::AlreadyExists
            | ConditionReason::OwnershipConflict
    );
    (*state == ConditionStatus::False && waits && before != Some(reason.as_str()))
        .then(|| PendingEvent::warning(*reason, message.as_str()))
}

#[cfg(test)]
mod tests;

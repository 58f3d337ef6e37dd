//! The verdict on a Topic: status, outcome and events, derived without side effects from what was
//! planned and applied. Used by the reconciler, which writes and publishes them.

use super::{
    apply::AppliedPlan,
    error::TopicError,
    pending_events,
    plan::{self, ObservedTopic, TopicPlan},
    status::{KnownTopic, StatusFacts, TopicNumbers},
    validate::{DesiredTopic, TopicProblem},
};
use crate::{
    conditions::ConditionStatus,
    crd::{ConditionReason, Topic},
    events::PendingEvent,
    metrics::ReconcileOutcome,
};

/// Status, outcome and events that follow from a reconciliation.
pub(super) struct TopicVerdict {
    pub(super) facts: Option<StatusFacts>,
    pub(super) outcome: ReconcileOutcome,
    /// Whether to retry without a change.
    pub(super) retry: bool,
    pub(super) events: Vec<PendingEvent>,
}

impl TopicVerdict {
    /// Creates a verdict that waits for a change.
    pub(super) fn blocked(state: ConditionStatus, problem: TopicProblem) -> Self {
        Self {
            facts: Some(StatusFacts {
                known: KnownTopic::Unchanged,
                ready: (state, problem.reason, problem.message),
                paused: None,
            }),
            outcome: ReconcileOutcome::Blocked,
            retry: false,
            events: Vec::new(),
        }
    }

    /// Creates the verdict of a reconciliation that failed.
    pub(super) fn from_error(failure: &TopicError) -> Self {
        let gone = matches!(failure, TopicError::Gone);
        let facts = failure.ready_condition().map(|(state, problem)| StatusFacts {
            known: KnownTopic::Unchanged,
            ready: (state, problem.reason, problem.message),
            paused: None,
        });
        Self {
            facts,
            outcome: if gone {
                ReconcileOutcome::Ok
            } else {
                ReconcileOutcome::Error
            },
            retry: !gone,
            events: Vec::new(),
        }
    }
}

/// Returns the status of a deletion that waits.
pub(super) fn pending_deletion(message: String) -> Option<StatusFacts> {
    Some(StatusFacts {
        known: KnownTopic::Unchanged,
        ready: (ConditionStatus::False, ConditionReason::DeletePending, message),
        paused: None,
    })
}

/// Returns the status of a paused Topic, with the changes that would be made.
pub(super) fn paused_verdict(topic: &Topic, observed: ObservedTopic<'_>, plan: &TopicPlan) -> TopicVerdict {
    let would = match plan.changes.is_empty() {
        true => "spec.paused is set".to_owned(),
        false => format!("paused; pending changes: {}", plan.summary()),
    };
    let ready = match (plan.is_noop(), plan.problems.first()) {
        (true, _) => (ConditionStatus::True, ConditionReason::Reconciled, String::new()),
        (false, Some(problem)) if plan.changes.is_empty() => {
            (ConditionStatus::False, problem.reason, problem.message.clone())
        }
        _ => (ConditionStatus::False, ConditionReason::Paused, would.clone()),
    };
    // A different topic under the name is reported once the Topic is no longer paused.
    let before = topic
        .status
        .as_ref()
        .and_then(|status| status.topic_id.as_deref());
    let known = match observed_numbers(observed) {
        KnownTopic::Topic(numbers)
            if observed.is_owned_by(topic.resource_uid())
                && before.is_none_or(|id| id == numbers.topic_id) =>
        {
            KnownTopic::Topic(numbers)
        }
        _ => KnownTopic::Unchanged,
    };
    TopicVerdict {
        facts: Some(StatusFacts {
            known,
            ready,
            paused: Some(would),
        }),
        outcome: ReconcileOutcome::Ok,
        retry: false,
        events: Vec::new(),
    }
}

/// Returns the observed topic's id, partitions, records and size.
fn observed_numbers(observed: ObservedTopic<'_>) -> KnownTopic {
    match observed.topic {
        Some(topic) => KnownTopic::Topic(TopicNumbers {
            topic_id: topic.topic_id.to_string(),
            partitions: topic.partitions,
            records: topic.high_watermark,
            size_bytes: topic.size_bytes,
        }),
        None => KnownTopic::Unchanged,
    }
}

/// Returns the status and events of an applied plan.
pub(super) fn applied_verdict(
    topic: &Topic,
    wanted: &DesiredTopic,
    observed: ObservedTopic<'_>,
    plan: &TopicPlan,
    applied: AppliedPlan,
) -> TopicVerdict {
    let problem = applied.conflict.as_ref().or(plan.problems.first());
    let elsewhere = |problem: &TopicProblem| {
        matches!(
            problem.reason,
            ConditionReason::OwnershipConflict | ConditionReason::AlreadyExists
        )
    };
    let known = match (&applied.record, problem) {
        (Some(record), _) => {
            let same = observed.topic.filter(|topic| topic.topic_id == record.topic_id);
            KnownTopic::Topic(TopicNumbers {
                topic_id: record.topic_id.to_string(),
                partitions: i32::try_from(record.partitions.len()).unwrap_or(i32::MAX),
                records: same.map_or(0, |topic| topic.high_watermark),
                size_bytes: same.map_or(0, |topic| topic.size_bytes),
            })
        }
        (None, Some(problem)) if elsewhere(problem) => KnownTopic::None,
        (None, _) => observed_numbers(observed),
    };
    let news = match &known {
        KnownTopic::Topic(numbers) => {
            pending_events::events_of_changes(topic, &applied.changes, &numbers.topic_id)
        }
        KnownTopic::Unchanged | KnownTopic::None => Vec::new(),
    };
    if !applied.changes.is_empty() {
        tracing::info!(topic = %wanted.name, changes = %plan::summary(&applied.changes), "changed a topic");
    }
    let ready = match problem {
        None => (ConditionStatus::True, ConditionReason::Reconciled, String::new()),
        Some(problem) if applied.conflict.is_some() => {
            (ConditionStatus::False, problem.reason, problem.message.clone())
        }
        Some(problem) => {
            let all: Vec<&str> = plan
                .problems
                .iter()
                .map(|problem| problem.message.as_str())
                .collect();
            (ConditionStatus::False, problem.reason, all.join("; "))
        }
    };
    TopicVerdict {
        outcome: match problem {
            None => ReconcileOutcome::Ok,
            Some(_) => ReconcileOutcome::Blocked,
        },
        facts: Some(StatusFacts {
            known,
            ready,
            paused: None,
        }),
        retry: false,
        events: news,
    }
}

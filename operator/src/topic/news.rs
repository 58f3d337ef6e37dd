//! The events of a Topic. Computed without side effects; a pass publishes them after all other
//! work.

use super::{
    plan::{Change, summary},
    status,
};
use crate::{
    conditions::State,
    crd::{Reason, Topic},
};

/// An event to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    /// Whether the event is a warning.
    pub(super) warning: bool,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl News {
    pub(super) fn normal(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }

    /// Returns whether the event reports that a change by another client was undone.
    pub(super) fn is_drift(&self) -> bool {
        matches!(self.reason, Reason::DriftCorrected | Reason::Recreated)
    }
}

/// Returns the events for the changes that were made. The topic now has this id; `topic` is the
/// resource before the changes.
pub(super) fn of_changes(topic: &Topic, done: &[Change], topic_id: &str) -> Vec<News> {
    let before = topic
        .status
        .as_ref()
        .and_then(|status| status.topic_id.as_deref());
    let rest: Vec<Change> = done
        .iter()
        .filter(|change| !matches!(change, Change::Claim | Change::Create { .. }))
        .cloned()
        .collect();
    if let Some(before) = before.filter(|before| *before != topic_id) {
        return vec![News::warning(
            Reason::Recreated,
            format!(
                "topic {before} was deleted outside of the operator; its replacement {topic_id} does not contain its records"
            ),
        )];
    }
    if let Some(created) = done.iter().find(|change| matches!(change, Change::Create { .. })) {
        let told = created.to_string().replacen("create the topic", "created", 1);
        return vec![News::normal(Reason::Created, told)];
    }
    if done.contains(&Change::Claim) && before.is_none() {
        let changes = match rest.is_empty() {
            true => String::new(),
            false => format!("; {}", summary(&rest)),
        };
        return vec![News::normal(
            Reason::Adopted,
            format!("the existing topic is now managed by this resource{changes}"),
        )];
    }
    if rest.is_empty() {
        return Vec::new();
    }
    if status::is_settled(topic) {
        return vec![News::normal(
            Reason::DriftCorrected,
            format!("the topic was changed outside of the operator; restored: {}", summary(&rest)),
        )];
    }
    of_spec(&rest)
}

/// Returns the events for a change of the spec.
fn of_spec(done: &[Change]) -> Vec<News> {
    let mut news = Vec::new();
    let mut settings = Vec::new();
    for change in done {
        match change {
            Change::Grow { from, to } => news.push(News::normal(
                Reason::PartitionsIncreased,
                format!("from {from} to {to}"),
            )),
            other => settings.push(other.clone()),
        }
    }
    if !settings.is_empty() {
        news.push(News::normal(Reason::ConfigUpdated, summary(&settings)));
    }
    news
}

/// Returns an event when a Topic becomes not ready for a reason that requires action by a user.
pub(super) fn of_problem(topic: &Topic, ready: &(State, Reason, String)) -> Option<News> {
    let (state, reason, message) = ready;
    let before = status::ready(topic).map(|(_, reason, _)| reason);
    let waits = matches!(
        reason,
        Reason::InvalidSpec
            | Reason::InvalidConfig
            | Reason::InvalidPartitions
            | Reason::AlreadyExists
            | Reason::ResourceConflict
    );
    (*state == State::False && waits && before != Some(reason.as_str()))
        .then(|| News::warning(*reason, message.as_str()))
}

#[cfg(test)]
mod tests;

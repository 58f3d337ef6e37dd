//! What people are told when something happened to a Topic: events. Pure; a pass publishes them once everything else is done.

use super::{
    plan::{Change, summary},
    status,
};
use crate::{
    conditions::State,
    crd::{Reason, Topic},
};

/// An event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    /// Somebody should look.
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

    /// Whether it tells that somebody else's change was undone.
    pub(super) fn is_drift(&self) -> bool {
        matches!(self.reason, Reason::DriftCorrected | Reason::Recreated)
    }
}

/// What happened to the topic: these changes were made, and it has this id now. `topic` is as it was before.
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
                "the topic {before} was deleted by somebody; there is a new one, {topic_id}, without its records"
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
            format!("the topic existed and is managed from now on{changes}"),
        )];
    }
    if rest.is_empty() {
        return Vec::new();
    }
    if status::is_settled(topic) {
        return vec![News::normal(
            Reason::DriftCorrected,
            format!("somebody changed the topic; put back: {}", summary(&rest)),
        )];
    }
    of_spec(&rest)
}

/// What a change of the spec did.
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

/// A Topic that stops being ready for a reason that waits for somebody is told once.
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

//! Computes the status of a User and its events, and writes the status only if it differs from the
//! stored one.

use jiff::Timestamp;

use super::{
    apply::UserChanges,
    error::{UserError, UserProblem},
};
use crate::{
    api_calls::apply_status,
    conditions::{ConditionSet, ConditionStatus, find_condition},
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, User, UserAuthenticationType, UserStatus},
    events::PendingEvent,
};

/// Computes the status with this condition Ready.
pub(super) fn compute_status(
    user: &User,
    ready: &(ConditionStatus, UserProblem),
    now: Timestamp,
) -> UserStatus {
    let stored = user.status.clone().unwrap_or_default();
    let generation = user.metadata.generation;
    let mut conditions = ConditionSet::from_stored(&stored.conditions, generation, now);
    let (state, UserProblem { reason, message }) = ready;
    conditions.set(ConditionType::Ready, *state, *reason, message.as_str());
    let (paused, reason, message) = match user.spec.paused {
        true => (
            ConditionStatus::True,
            ConditionReason::Paused,
            "spec.paused is set",
        ),
        false => (ConditionStatus::False, ConditionReason::NotPaused, ""),
    };
    conditions.set(ConditionType::Paused, paused, reason, message);
    let has_secret = user.spec.authentication.type_ == UserAuthenticationType::Scram
        && (*state == ConditionStatus::True || stored.secret_name.is_some());
    UserStatus {
        observed_generation: generation,
        user_name: stored.user_name.or_else(|| Some(user.user_name().to_owned())),
        secret_name: has_secret.then(|| user.secret_name().to_owned()),
        conditions: conditions.into_sorted_vec(),
    }
}

/// Writes the status if it differs, and returns whether it did.
///
/// # Errors
///
/// Returns the error of the API server.
pub(super) async fn write_status(
    context: &OperatorContext,
    user: &User,
    status: &UserStatus,
) -> Result<bool, UserError> {
    if user.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let written = apply_status(context, user, status).await;
    written.map_err(UserError::of_user)?;
    Ok(true)
}

/// Returns the stored Ready condition: its status, its reason, and whether it describes the present
/// generation.
pub(super) fn stored_ready(user: &User) -> Option<(&str, &str, bool)> {
    let status = user.status.as_ref()?;
    let ready = find_condition(&status.conditions, ConditionType::Ready)?;
    let current = status.observed_generation == user.metadata.generation;
    Some((&ready.status, &ready.reason, current))
}

/// Returns whether this generation of the spec has been applied: a difference now is a change by
/// another client, or of the password.
pub(super) fn is_reconciled(user: &User) -> bool {
    stored_ready(user).is_some_and(|(status, _, current)| current && status == ConditionStatus::True.as_str())
}

/// Returns the event for changes that were made.
pub(super) fn event_of_changes(user: &User, changes: &UserChanges) -> Option<PendingEvent> {
    if changes.is_empty() {
        return None;
    }
    let name = user.user_name();
    let what = changes.summary();
    Some(if changes.adopted {
        PendingEvent::normal(
            ConditionReason::Adopted,
            format!("the existing user {name} is now managed by this resource; written: {what}"),
        )
    } else if changes.claimed && stored_ready(user).is_none_or(|(status, ..)| status != "True") {
        PendingEvent::normal(ConditionReason::Created, format!("user {name} was created"))
    } else if is_reconciled(user) && changes.credentials && changes.secret {
        // A password is also in the Secret for clients.
        PendingEvent::normal(
            ConditionReason::CredentialsUpdated,
            format!("the password of user {name} was changed; written: {what}"),
        )
    } else if is_reconciled(user) && (changes.credentials || changes.acls || changes.quotas) {
        PendingEvent::normal(
            ConditionReason::DriftCorrected,
            format!("user {name} was changed outside of the operator; restored: {what}"),
        )
    } else {
        PendingEvent::normal(ConditionReason::ConfigUpdated, format!("written: {what}"))
    })
}

/// Returns an event when a User becomes not ready for a reason that requires action by a person.
pub(super) fn event_of_problem(user: &User, ready: &(ConditionStatus, UserProblem)) -> Option<PendingEvent> {
    let (state, problem) = ready;
    let before = stored_ready(user).map(|(_, reason, _)| reason);
    let waits = matches!(
        problem.reason,
        ConditionReason::InvalidSpec
            | ConditionReason::SecretMissing
            | ConditionReason::InvalidSecret
            | ConditionReason::ObjectConflict
            | ConditionReason::AlreadyExists
            | ConditionReason::OwnershipConflict
    );
    (*state == ConditionStatus::False && waits && before != Some(problem.reason.as_str()))
        .then(|| PendingEvent::warning(problem.reason, problem.message.as_str()))
}

#[cfg(test)]
mod tests;

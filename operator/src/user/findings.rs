//! What a reconciliation of a User found, derived without side effects. The reconciler writes it
//! into the status and publishes the events.

use streamhouse_metadata::UserRows;

use super::{
    apply::{UserChanges, compare_rows},
    error::UserProblem,
    status::event_of_changes,
    validate::DesiredUser,
};
use crate::{
    conditions::ConditionStatus,
    crd::{ConditionReason, User},
    events::PendingEvent,
    metrics::ReconcileOutcome,
};

/// What a reconciliation found.
pub(super) struct UserFindings {
    /// The condition Ready; `None` to leave it as it is.
    pub(super) ready: Option<(ConditionStatus, UserProblem)>,
    pub(super) outcome: ReconcileOutcome,
    pub(super) events: Vec<PendingEvent>,
}

/// Returns the findings of a paused User, with the changes that would be made. The password is not
/// read.
pub(super) fn paused_findings(desired: &DesiredUser, stored: Option<&UserRows>) -> UserFindings {
    let pending = match stored {
        None => "create the user".to_owned(),
        Some(stored) => {
            let wanted = UserRows {
                user_name: desired.name.clone(),
                credentials: stored.credentials.clone(),
                acls: desired.acls.clone(),
                quotas: desired.quotas.clone(),
            };
            let mut changes = UserChanges::default();
            compare_rows(stored, &wanted, &mut changes);
            changes.summary()
        }
    };
    let ready = match pending.is_empty() {
        true => (
            ConditionStatus::True,
            UserProblem::new(ConditionReason::Reconciled, ""),
        ),
        false => (
            ConditionStatus::False,
            UserProblem::new(
                ConditionReason::Paused,
                format!("paused; pending changes: {pending}"),
            ),
        ),
    };
    UserFindings {
        ready: Some(ready),
        outcome: ReconcileOutcome::Ok,
        events: Vec::new(),
    }
}

/// Returns the findings of a User that was applied.
pub(super) fn applied_findings(user: &User, changes: &UserChanges) -> UserFindings {
    if !changes.is_empty() {
        tracing::info!(user = %user.user_name(), changes = %changes.summary(), "changed a user");
    }
    UserFindings {
        ready: Some((
            ConditionStatus::True,
            UserProblem::new(ConditionReason::Reconciled, ""),
        )),
        outcome: ReconcileOutcome::Ok,
        events: event_of_changes(user, changes).into_iter().collect(),
    }
}

//! Reconciles one User: applies it, or finalizes its deletion, then writes its status and publishes
//! its events. Called by the controller, never concurrently for the same User. Every error ends up
//! in the status if the resource still exists.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;
use parking_lot::Mutex;
use streamhouse_metadata::{MetadataStore, UserRows};
use tokio::sync::broadcast;

use super::{
    apply::UserApplication,
    cluster_access::{UserClusterAccess, cluster_access},
    credentials::VerifiedCredentials,
    error::{UserError, UserProblem},
    finalize::{UserDeletionPlan, UserSurroundings, plan_deletion},
    findings::{UserFindings, applied_findings, paused_findings},
    owner::UserOwner,
    status::{self, event_of_problem},
    validate::validate,
};
use crate::{
    api_calls::is_namespace_terminating,
    backoff::RECONCILE_BACKOFF,
    conditions::ConditionStatus,
    context::OperatorContext,
    crd::{ConditionReason, User},
    events::{EventPublisher, PendingEvent},
    finalizer::{has_finalizer, set_finalizer},
    metrics::ReconcileOutcome,
    undecodable,
};

/// Number of consecutive failures after which a ready User is no longer reported as ready.
const MAX_PASSING_FAILURES: u32 = 3;

/// Reconciles Users.
pub(super) struct UserReconciler {
    context: OperatorContext,
    events: EventPublisher,
    /// Number of consecutive failures by uid.
    failures: Mutex<HashMap<String, u32>>,
    verified: VerifiedCredentials,
    /// Notified when a user name becomes free.
    released: broadcast::Sender<()>,
}

/// The result of a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserOutcome {
    pub(super) outcome: ReconcileOutcome,
    /// When to reconcile again without a change; `None` for a User that is gone.
    pub(super) after: Option<Duration>,
}

impl UserReconciler {
    pub(super) fn new(context: OperatorContext) -> Self {
        Self {
            events: EventPublisher::new(context.client.clone(), context.instance.clone()),
            context,
            failures: Mutex::default(),
            verified: VerifiedCredentials::default(),
            released: broadcast::channel(1).0,
        }
    }

    /// Returns a receiver that is notified when a user name becomes free.
    pub(super) fn subscribe_released(&self) -> broadcast::Receiver<()> {
        self.released.subscribe()
    }

    /// Returns the number of Users whose last reconciliation failed.
    pub(super) fn failing(&self) -> i64 {
        i64::try_from(self.failures.lock().len()).unwrap_or(i64::MAX)
    }

    /// Drops what is remembered of Users that no longer exist.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.failures.lock().retain(|uid, _| exists(uid));
        self.verified.retain(exists);
    }

    /// Reconciles the User.
    pub(super) async fn reconcile(&self, user: &User) -> UserOutcome {
        let uid = user.resource_uid();
        let result = match user.metadata.deletion_timestamp {
            Some(_) => self.finalize(user).await,
            None => self.apply(user).await,
        };
        let findings = match result {
            Ok(findings) => findings,
            Err(UserError::Gone) => return self.forget(uid),
            Err(error) => self.findings_of(user, &error),
        };
        let mut outcome = findings.outcome;
        match self.record(user, findings).await {
            Ok(()) => {}
            Err(UserError::Gone) => return self.forget(uid),
            Err(error) => {
                tracing::warn!(user = %user.user_name(), %error, "cannot write a status");
                outcome = ReconcileOutcome::Error;
            }
        }
        UserOutcome {
            outcome,
            after: Some(self.next_attempt(uid, outcome)),
        }
    }

    fn forget(&self, uid: &str) -> UserOutcome {
        self.failures.lock().remove(uid);
        self.verified.retain(|known| known != uid);
        UserOutcome {
            outcome: ReconcileOutcome::Ok,
            after: None,
        }
    }

    /// Returns the delay of the next attempt: with back-off after a failure, otherwise the drift
    /// interval with a jitter of a tenth.
    fn next_attempt(&self, uid: &str, outcome: ReconcileOutcome) -> Duration {
        let context = &self.context;
        let mut failures = self.failures.lock();
        if outcome == ReconcileOutcome::Error {
            let count = failures.entry(uid.to_owned()).or_default();
            *count = count.saturating_add(1);
            return RECONCILE_BACKOFF.delay_after(*count, &*context.entropy);
        }
        failures.remove(uid);
        context
            .drift_interval
            .mul_f64(0.9 + context.entropy.fraction() / 5.0)
    }

    fn findings_of(&self, user: &User, error: &UserError) -> UserFindings {
        let is_problem = matches!(error, UserError::Problem(_));
        let failures = self.failures.lock().get(user.resource_uid()).copied();
        let passes = !is_problem
            && status::is_reconciled(user)
            && failures.unwrap_or_default() + 1 < MAX_PASSING_FAILURES;
        if !is_problem {
            tracing::warn!(user = %user.user_name(), %error, "a user could not be reconciled");
        }
        let ready = match user.metadata.deletion_timestamp {
            Some(_) => Some((
                ConditionStatus::False,
                UserProblem::new(
                    ConditionReason::DeletePending,
                    format!("the deletion failed and is retried: {error}"),
                ),
            )),
            None => error.ready_condition().filter(|_| !passes),
        };
        UserFindings {
            ready,
            outcome: match is_problem {
                true => ReconcileOutcome::Blocked,
                false => ReconcileOutcome::Error,
            },
            events: Vec::new(),
        }
    }

    /// Reconciles a User that is not being deleted.
    async fn apply(&self, user: &User) -> Result<UserFindings, UserError> {
        let desired = validate(user)?;
        let (store, cluster) = match cluster_access(&self.context, user).await? {
            UserClusterAccess::Open(store, cluster) => (store, cluster),
            UserClusterAccess::Unavailable {
                problem,
                affects_ready,
                is_gone,
            } => {
                let tell = affects_ready || !status::is_reconciled(user);
                return Ok(UserFindings {
                    ready: tell.then_some((ConditionStatus::Unknown, problem)),
                    outcome: match is_gone {
                        true => ReconcileOutcome::Blocked,
                        false => ReconcileOutcome::Waiting,
                    },
                    events: Vec::new(),
                });
            }
        };
        let owner = UserOwner::of(user);
        let stored = self.stored_rows(&*store, &owner).await?;
        if user.spec.paused {
            return Ok(paused_findings(&desired, stored.as_ref()));
        }
        let application = UserApplication {
            context: &self.context,
            store: &*store,
            cluster: &cluster,
            user,
            owner: &owner,
            desired: &desired,
            verified: &self.verified,
        };
        let changes = application.apply(stored).await?;
        Ok(applied_findings(user, &changes))
    }

    fn count_call(&self, call: &str) {
        let queries = &self.context.metrics.metadata_queries;
        queries.with_label_values(&[call]).inc();
    }

    async fn stored_rows(
        &self,
        store: &dyn MetadataStore,
        owner: &UserOwner,
    ) -> Result<Option<UserRows>, UserError> {
        self.count_call("find_owned_user");
        Ok(store.find_owned_user(&owner.key()).await?)
    }

    /// Finalizes a User that is being deleted.
    async fn finalize(&self, user: &User) -> Result<UserFindings, UserError> {
        if !has_finalizer(&user.metadata) {
            return Err(UserError::Gone);
        }
        let access = cluster_access(&self.context, user).await?;
        let (store, is_gone, why) = match access {
            UserClusterAccess::Open(store, _) => (Some(store), false, String::new()),
            UserClusterAccess::Unavailable { problem, is_gone, .. } => (None, is_gone, problem.message),
        };
        let namespace = user.metadata.namespace.as_deref().unwrap_or_default();
        let around = if is_gone {
            UserSurroundings::ClusterDeleting
        } else if is_namespace_terminating(&self.context, namespace).await? {
            UserSurroundings::NamespaceTerminating
        } else {
            UserSurroundings::Present
        };
        let name = user.user_name();
        let event = match (plan_deletion(user, around, store.is_some()), store) {
            (UserDeletionPlan::Wait, _) | (UserDeletionPlan::Delete, None) => {
                let message = format!("the user is deleted once the metadata store is available: {why}");
                let problem = UserProblem::new(ConditionReason::DeletePending, message);
                return Ok(UserFindings {
                    ready: Some((ConditionStatus::False, problem)),
                    outcome: ReconcileOutcome::Waiting,
                    events: Vec::new(),
                });
            }
            (UserDeletionPlan::Nothing, _) => return Err(UserError::Gone),
            (UserDeletionPlan::Keep(reason), _) => {
                let message = format!("user {name} is kept: {reason}");
                Some(PendingEvent::normal(ConditionReason::Retained, message))
            }
            (UserDeletionPlan::Delete, Some(store)) => {
                self.count_call("delete_user");
                let deleted = store.delete_user(&UserOwner::of(user).key()).await?;
                // Fails only without a receiver.
                let _ = self.released.send(());
                let message = format!("user {name} was deleted");
                deleted.then(|| PendingEvent::normal(ConditionReason::Deleted, message))
            }
        };
        let released = set_finalizer(&self.context, user, false).await;
        released.map_err(UserError::of_user)?;
        if let Some(event) = event {
            self.events.publish_pending(user, event).await;
        }
        Err(UserError::Gone)
    }

    /// Writes the status, then publishes the events.
    async fn record(&self, user: &User, findings: UserFindings) -> Result<(), UserError> {
        let mut events = findings.events;
        if let Some(ready) = &findings.ready {
            events.extend(event_of_problem(user, ready));
            let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
            // Rounded to seconds, as the API server stores it.
            let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
            let status = status::compute_status(user, ready, now);
            status::write_status(&self.context, user, &status).await?;
        }
        for event in events {
            if event.is_drift() {
                let corrected = &self.context.metrics.drift_corrected;
                corrected.with_label_values(&["User"]).inc();
            }
            self.events.publish_pending(user, event).await;
        }
        Ok(())
    }

    /// Handles a User that cannot be decoded: reports it, or ends its deletion and keeps its rows.
    pub(super) async fn handle_undecodable(&self, invalid: &InvalidObject) -> UserOutcome {
        let handled = undecodable::handle::<User>(&self.context, &self.events, invalid).await;
        UserOutcome {
            outcome: match handled {
                Ok(()) => ReconcileOutcome::Blocked,
                Err(_) => ReconcileOutcome::Error,
            },
            after: Some(undecodable::RETRY_INTERVAL),
        }
    }
}

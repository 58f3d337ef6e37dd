//! Computes a cluster's status from the findings of a reconciliation, without side effects, and
//! writes it if it differs. The last step of every reconciliation, also of a failed one. What could
//! not be read keeps its last known state.

mod ready;

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    listeners::{self, ListenersReport},
    metadata::MetadataState,
    preflight::BucketCheck,
    problem::ClusterProblem,
    rollout::{ObservedAgents, RolloutState},
};
use crate::{
    conditions::{ConditionSet, ConditionStatus},
    context::OperatorContext,
    crd::{AgentsStatus, ClusterStatus, ConditionReason, ConditionType, FIELD_MANAGER, StreamHouseCluster},
};

/// Findings of a reconciliation.
#[derive(Debug, Default)]
pub(super) struct ReconcileFindings {
    /// Whether the spec is paused.
    pub(super) paused: bool,
    /// Whether the spec is stopped.
    pub(super) stopped: bool,
    /// All problems.
    pub(super) problems: Vec<ClusterProblem>,
    /// State of the metadata store, if it is usable.
    pub(super) metadata: Option<MetadataState>,
    /// Whether agents of the spec would not run on the schema.
    pub(super) hold_agents: bool,
    /// Result of the check of the bucket; `None` if it was not read.
    pub(super) bucket: Option<BucketCheck>,
    /// The agents' Deployment.
    pub(super) agents: ObservedAgents,
    /// Number of agents at the last complete rollout.
    pub(super) settled_agents: Option<i32>,
    /// `maxUnavailable` of the disruption budget.
    pub(super) max_unavailable: Option<Value>,
    /// For how long partitions have had no leader.
    pub(super) leaderless_for: Duration,
    /// Number of consecutive failed reconciliations before this one.
    pub(super) failures: u32,
    /// Why the reconciliation was aborted, if it was.
    pub(super) aborted: Option<String>,
    /// Why agents are not ready, from the status of their pods.
    pub(super) pod_problem: Option<String>,
    /// Whether any monitoring object is desired; `None` if the spec was not evaluated.
    pub(super) monitoring: Option<bool>,
    /// The additional listeners; `None` if they were not observed.
    pub(super) listeners: Option<ListenersReport>,
    /// Version in the applied spec.
    pub(super) version: Option<String>,
    /// Address of the Service (`host:port`).
    pub(super) bootstrap: Option<String>,
    /// Label selector of the agents' pods.
    pub(super) selector: String,
}

/// Number of consecutive failures after which they are no longer taken for a passing disturbance.
const MAX_PASSING_FAILURES: u32 = 2;

impl ReconcileFindings {
    /// Returns whether failures have lasted long enough to be reported.
    fn keeps_failing(&self) -> bool {
        self.failures >= MAX_PASSING_FAILURES
    }
}

/// Computes the status from the findings.
pub(super) fn compute_status(
    cluster: &StreamHouseCluster,
    findings: &ReconcileFindings,
    now: Timestamp,
) -> ClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let rollout = findings.agents.rollout();
    let mut conditions = ConditionSet::from_stored(&old.conditions, cluster.metadata.generation, now);
    let c = &mut conditions;
    set_paused(c, findings);
    set_metadata_reachable(c, findings);
    set_storage_reachable(c, findings);
    set_monitoring_available(c, findings);
    if let Some(report) = &findings.listeners {
        listeners::set_listeners_available(c, report);
    }
    set_progressing(c, findings, rollout);
    set_degraded(c, findings, rollout);
    set_stalled(c, findings);
    ready::set_ready(c, findings, rollout);
    let settled = rollout.is_some_and(RolloutState::is_complete);
    ClusterStatus {
        observed_generation: match findings.aborted {
            Some(_) => old.observed_generation,
            None => cluster.metadata.generation,
        },
        version: findings.version.clone().filter(|_| settled).or(old.version),
        agents: rollout
            .map(|rollout| AgentsStatus {
                replicas: rollout.replicas,
                ready: rollout.ready,
                updated: rollout.updated,
                summary: format!("{}/{}", rollout.ready, rollout.wanted),
                selector: findings.selector.clone(),
            })
            .or(old.agents),
        bootstrap: findings.bootstrap.clone().or(old.bootstrap),
        listeners: findings
            .listeners
            .as_ref()
            .map(|report| report.listeners.clone())
            .unwrap_or(old.listeners),
        cluster_id: findings
            .metadata
            .as_ref()
            .map(|reached| reached.cluster_id.clone())
            .or(old.cluster_id),
        schema_version: findings
            .metadata
            .as_ref()
            .map(|reached| reached.schema_version)
            .or(old.schema_version),
        conditions: conditions.into_sorted_vec(),
    }
}

fn set_paused(c: &mut ConditionSet, findings: &ReconcileFindings) {
    if findings.paused {
        let message = "spec.paused is set: the operator changes nothing; unset it to resume";
        c.set(
            ConditionType::Paused,
            ConditionStatus::True,
            ConditionReason::Paused,
            message,
        );
    } else {
        c.set(
            ConditionType::Paused,
            ConditionStatus::False,
            ConditionReason::NotPaused,
            "",
        );
    }
}

fn find_problem(findings: &ReconcileFindings, condition: ConditionType) -> Option<&ClusterProblem> {
    findings
        .problems
        .iter()
        .find(|problem| problem.condition == condition)
}

fn set_problem(c: &mut ConditionSet, kind: ConditionType, state: ConditionStatus, problem: &ClusterProblem) {
    c.set(kind, state, problem.reason, problem.message.clone());
}

/// Sets a condition that was not checked. What was known before is kept.
fn set_unchecked(c: &mut ConditionSet, kind: ConditionType) {
    if c.get(kind).is_none() {
        let (status, reason) = (ConditionStatus::Unknown, ConditionReason::NotChecked);
        c.set(kind, status, reason, "not checked yet");
    }
}

fn set_metadata_reachable(c: &mut ConditionSet, findings: &ReconcileFindings) {
    let kind = ConditionType::MetadataReachable;
    match (find_problem(findings, kind), &findings.metadata) {
        (Some(problem), _) => set_problem(c, kind, ConditionStatus::False, problem),
        (None, Some(reached)) => {
            let message = match &reached.waiting {
                None => format!("schema version {}", reached.schema_version),
                Some(what) => format!("schema version {}; {what}", reached.schema_version),
            };
            c.set(
                kind,
                ConditionStatus::True,
                ConditionReason::MetadataMigrated,
                message,
            );
        }
        (None, None) => set_unchecked(c, kind),
    }
}

fn set_storage_reachable(c: &mut ConditionSet, findings: &ReconcileFindings) {
    let kind = ConditionType::StorageReachable;
    match (find_problem(findings, kind), &findings.bucket) {
        (Some(problem), _) => set_problem(c, kind, ConditionStatus::False, problem),
        (None, Some(BucketCheck::Verified)) => {
            let message = "a test object was conditionally written, read and deleted";
            c.set(
                kind,
                ConditionStatus::True,
                ConditionReason::StorageVerified,
                message,
            );
        }
        (None, Some(BucketCheck::Failed(why))) => c.set(
            kind,
            ConditionStatus::False,
            ConditionReason::StorageUnreachable,
            why.clone(),
        ),
        (None, Some(BucketCheck::Checking(what))) => c.set(
            kind,
            ConditionStatus::Unknown,
            ConditionReason::StorageCheckRunning,
            what.clone(),
        ),
        (None, None) => set_unchecked(c, kind),
    }
}

fn set_monitoring_available(c: &mut ConditionSet, findings: &ReconcileFindings) {
    let kind = ConditionType::MonitoringAvailable;
    match (find_problem(findings, kind), findings.monitoring) {
        (Some(problem), _) => set_problem(c, kind, ConditionStatus::False, problem),
        (None, Some(true)) => c.set(
            kind,
            ConditionStatus::True,
            ConditionReason::MonitoringApplied,
            "",
        ),
        (None, Some(false)) => c.set(
            kind,
            ConditionStatus::Unknown,
            ConditionReason::MonitoringDisabled,
            "set spec.monitoring to create a ServiceMonitor, alerts and a dashboard",
        ),
        (None, None) => set_unchecked(c, kind),
    }
}

fn set_progressing(c: &mut ConditionSet, findings: &ReconcileFindings, rollout: Option<RolloutState>) {
    let kind = ConditionType::Progressing;
    if let Some(why) = findings.aborted.as_ref().filter(|_| findings.keeps_failing()) {
        return c.set(
            kind,
            ConditionStatus::True,
            ConditionReason::InternalError,
            why.clone(),
        );
    }
    if let Some(problem) = find_problem(findings, kind) {
        return set_problem(c, kind, ConditionStatus::True, problem);
    }
    match (rollout, &findings.agents) {
        (Some(rollout), _) if rollout.is_complete() => {
            c.set(kind, ConditionStatus::False, ConditionReason::Reconciled, "")
        }
        (Some(rollout), _) => {
            let message = format!(
                "{} of {} agents have the current pod template, {} are available",
                rollout.updated, rollout.wanted, rollout.available
            );
            c.set(kind, ConditionStatus::True, ConditionReason::Progressing, message);
        }
        (None, ObservedAgents::Unread) => set_unchecked(c, kind),
        (None, _) => c.set(
            kind,
            ConditionStatus::True,
            ConditionReason::Progressing,
            "the Deployment of the agents does not exist yet",
        ),
    }
}

/// Returns whether the problem concerns more than the monitoring and the progress of a change.
fn is_grave(problem: &&ClusterProblem) -> bool {
    match problem.condition {
        ConditionType::MonitoringAvailable => false,
        ConditionType::Progressing => problem.reason.needs_user(),
        _ => true,
    }
}

/// Reports problems even while agents serve.
fn set_degraded(c: &mut ConditionSet, findings: &ReconcileFindings, rollout: Option<RolloutState>) {
    let kind = ConditionType::Degraded;
    let storage = match &findings.bucket {
        Some(BucketCheck::Failed(why)) => Some((ConditionReason::StorageUnreachable, why.clone())),
        _ => None,
    };
    let grave = findings
        .problems
        .iter()
        .find(is_grave)
        .map(|problem| (problem.reason, problem.message.clone()));
    let trouble = findings
        .pod_problem
        .clone()
        .map(|trouble| (ConditionReason::AgentsUnavailable, trouble));
    let overdue = rollout.filter(|rollout| rollout.overdue).map(|_| {
        (
            ConditionReason::AgentsUnavailable,
            "the rollout makes no progress: check the pods of the agents".to_owned(),
        )
    });
    match trouble.or(grave).or(storage).or(overdue) {
        Some((reason, message)) => c.set(kind, ConditionStatus::True, reason, message),
        None if findings.aborted.is_some() => set_unchecked(c, kind),
        None => c.set(kind, ConditionStatus::False, ConditionReason::Healthy, ""),
    }
}

/// Reports what only a user can resolve, in the form that kstatus reads.
fn set_stalled(c: &mut ConditionSet, findings: &ReconcileFindings) {
    let kind = ConditionType::Stalled;
    let blocking = |problem: &&ClusterProblem| is_grave(problem) && problem.reason.needs_user();
    let listeners = findings.listeners.as_ref();
    let of_listeners = listeners.and_then(|report| report.problem.as_ref());
    match findings.problems.iter().chain(of_listeners).find(blocking) {
        Some(problem) => set_problem(c, kind, ConditionStatus::True, problem),
        None if findings.aborted.is_some() => set_unchecked(c, kind),
        None => c.set(kind, ConditionStatus::False, ConditionReason::NotStalled, ""),
    }
}

/// Writes the status if it differs from the stored one. Ignores a cluster that no longer exists.
pub(super) async fn write_status(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
    status: ClusterStatus,
) -> kube::Result<()> {
    if cluster.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<StreamHouseCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": format!("{}/{}", crate::crd::API_GROUP, crate::crd::API_VERSION),
        "kind": "StreamHouseCluster",
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api
        .patch_status(&cluster.name_any(), &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {
            context
                .metrics
                .api_writes
                .with_label_values(&["StreamHouseCluster"])
                .inc();
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

//! Computes a cluster's status from the findings of a reconciliation, without side effects, and
//! writes it if it differs. The last step of every reconciliation, also of a failed one.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    listeners::{self, ListenersReport},
    metadata::MetadataState,
    preflight::BucketCheck,
    problem::ClusterProblem,
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
    /// Deployment of the agents, if it exists.
    pub(super) deployment: Option<Deployment>,
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

/// State of the agents' Deployment in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RolloutState {
    /// Desired number of agents.
    pub(super) wanted: i32,
    /// Number of agents.
    pub(super) replicas: i32,
    /// Number of agents that have been ready for the minimum time.
    pub(super) available: i32,
    /// Number of ready agents.
    pub(super) ready: i32,
    /// Number of agents with the current pod template.
    pub(super) updated: i32,
    /// Whether these numbers describe the current pod template.
    pub(super) observed: bool,
    /// Whether the progress deadline of the Deployment was exceeded.
    pub(super) overdue: bool,
}

impl RolloutState {
    /// Reads a Deployment.
    pub(super) fn from_deployment(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        let overdue = status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Progressing"
                && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
        });
        Self {
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            replicas: status.replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            observed: status.observed_generation >= deployment.metadata.generation,
            overdue,
        }
    }

    /// Returns whether enough agents are available, with current numbers.
    pub(super) fn is_serving(self) -> bool {
        self.observed && self.wanted > 0 && self.available >= self.wanted
    }

    /// Returns whether every agent has the current pod template.
    pub(super) fn is_complete(self) -> bool {
        self.observed
            && self.updated == self.wanted
            && self.replicas == self.wanted
            && self.available >= self.wanted
    }
}

/// Computes the status from the findings.
pub(super) fn compute_status(
    cluster: &StreamHouseCluster,
    findings: &ReconcileFindings,
    now: Timestamp,
) -> ClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let rollout = findings.deployment.as_ref().map(RolloutState::from_deployment);
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
    set_ready(c, findings, rollout);
    let settled = rollout.is_some_and(RolloutState::is_complete);
    ClusterStatus {
        observed_generation: cluster.metadata.generation,
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

/// Sets a condition that nothing is known about yet. While the cluster is paused nothing is
/// checked, and the condition keeps what was known.
fn set_unchecked(c: &mut ConditionSet, kind: ConditionType, findings: &ReconcileFindings) {
    if !findings.paused {
        c.set(
            kind,
            ConditionStatus::Unknown,
            ConditionReason::Progressing,
            "not checked yet",
        );
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
        (None, None) => set_unchecked(c, kind, findings),
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
        (None, None) => set_unchecked(c, kind, findings),
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
            ConditionStatus::False,
            ConditionReason::MonitoringDisabled,
            "set spec.monitoring to create a ServiceMonitor, alerts and a dashboard",
        ),
        (None, None) => {}
    }
}

fn set_progressing(c: &mut ConditionSet, findings: &ReconcileFindings, rollout: Option<RolloutState>) {
    let kind = ConditionType::Progressing;
    match (find_problem(findings, kind), rollout) {
        (Some(problem), _) => set_problem(c, kind, ConditionStatus::True, problem),
        (None, Some(rollout)) if rollout.is_complete() => {
            c.set(kind, ConditionStatus::False, ConditionReason::Reconciled, "")
        }
        (None, Some(rollout)) => {
            let message = format!(
                "{} of {} agents have the current pod template, {} are available",
                rollout.updated, rollout.wanted, rollout.available
            );
            c.set(kind, ConditionStatus::True, ConditionReason::Progressing, message);
        }
        (None, None) => c.set(
            kind,
            ConditionStatus::True,
            ConditionReason::Progressing,
            "the Deployment of the agents does not exist yet",
        ),
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
        .find(|problem| !matches!(problem.condition, ConditionType::Progressing))
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
        None => c.set(kind, ConditionStatus::False, ConditionReason::Healthy, ""),
    }
}

fn set_ready(c: &mut ConditionSet, findings: &ReconcileFindings, rollout: Option<RolloutState>) {
    let kind = ConditionType::Ready;
    let fatal =
        find_problem(findings, kind).or_else(|| find_problem(findings, ConditionType::MetadataReachable));
    if let Some(problem) = fatal {
        return c.set(
            kind,
            ConditionStatus::False,
            problem.reason,
            problem.message.clone(),
        );
    }
    if findings.stopped {
        return c.set(
            kind,
            ConditionStatus::False,
            ConditionReason::AgentsStopped,
            "spec.stopped is set: no agents run; unset it to resume",
        );
    }
    match (rollout, &findings.pod_problem) {
        (Some(rollout), _) if rollout.is_serving() => {
            let message = format!("{} agents are available", rollout.available);
            c.set(kind, ConditionStatus::True, ConditionReason::AgentsReady, message);
        }
        (Some(_), Some(trouble)) => c.set(
            kind,
            ConditionStatus::False,
            ConditionReason::AgentsUnavailable,
            trouble.clone(),
        ),
        (Some(rollout), None) => {
            let message = format!("{} of {} agents are available", rollout.available, rollout.wanted);
            c.set(
                kind,
                ConditionStatus::False,
                ConditionReason::AgentsNotReady,
                message,
            );
        }
        (None, _) => c.set(
            kind,
            ConditionStatus::False,
            ConditionReason::AgentsNotReady,
            "the Deployment of the agents does not exist yet",
        ),
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

//! Computes a cluster's status from the findings of a reconciliation, without side effects, and
//! writes it if it differs. The last step of every reconciliation, also of a failed one.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{metadata::Reached, preflight::Bucket, problem::Problem};
use crate::{
    conditions::{Conditions, State},
    context::Context,
    crd::{AgentsStatus, ClusterStatus, ConditionType, MANAGER, Reason, StreamHouseCluster},
};

/// Findings of a reconciliation.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Whether the spec is paused.
    pub(super) paused: bool,
    /// Whether the spec is stopped.
    pub(super) stopped: bool,
    /// All problems.
    pub(super) problems: Vec<Problem>,
    /// State of the metadata store, if it is usable.
    pub(super) metadata: Option<Reached>,
    /// Result of the check of the bucket; `None` if it was not read.
    pub(super) bucket: Option<Bucket>,
    /// Deployment of the agents, if it exists.
    pub(super) deployment: Option<Deployment>,
    /// Why agents are not ready, from the status of their pods.
    pub(super) trouble: Option<String>,
    /// Whether any monitoring object is desired; `None` if the spec was not evaluated.
    pub(super) monitoring: Option<bool>,
    /// Version in the applied spec.
    pub(super) version: Option<String>,
    /// Address of the Service (`host:port`).
    pub(super) bootstrap: Option<String>,
    /// Label selector of the agents' pods.
    pub(super) selector: String,
}

/// State of the agents' Deployment in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rollout {
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

impl Rollout {
    /// Reads a Deployment.
    pub(super) fn of(deployment: &Deployment) -> Self {
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
    pub(super) fn serves(self) -> bool {
        self.observed && self.wanted > 0 && self.available >= self.wanted
    }

    /// Returns whether every agent has the current pod template.
    pub(super) fn settled(self) -> bool {
        self.observed
            && self.updated == self.wanted
            && self.replicas == self.wanted
            && self.available >= self.wanted
    }
}

/// Computes the status from the findings.
pub(super) fn compute(cluster: &StreamHouseCluster, findings: &Findings, now: Timestamp) -> ClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let rollout = findings.deployment.as_ref().map(Rollout::of);
    let mut conditions = Conditions::from(&old.conditions, cluster.metadata.generation, now);
    let c = &mut conditions;
    paused(c, findings);
    metadata(c, findings);
    storage(c, findings);
    monitoring(c, findings);
    progressing(c, findings, rollout);
    degraded(c, findings, rollout);
    ready(c, findings, rollout);
    let settled = rollout.is_some_and(Rollout::settled);
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
        conditions: conditions.into_list(),
    }
}

fn paused(c: &mut Conditions, findings: &Findings) {
    if findings.paused {
        let message = "spec.paused is set: the operator changes nothing; unset it to resume";
        c.set(ConditionType::Paused, State::True, Reason::Paused, message);
    } else {
        c.set(ConditionType::Paused, State::False, Reason::NotPaused, "");
    }
}

fn problem_of(findings: &Findings, condition: ConditionType) -> Option<&Problem> {
    findings
        .problems
        .iter()
        .find(|problem| problem.condition == condition)
}

fn metadata(c: &mut Conditions, findings: &Findings) {
    let kind = ConditionType::MetadataReachable;
    match (problem_of(findings, kind), &findings.metadata) {
        (Some(problem), _) => c.set(kind, State::False, problem.reason, problem.message.clone()),
        (None, Some(reached)) => {
            let message = format!("schema version {}", reached.schema_version);
            c.set(kind, State::True, Reason::MetadataMigrated, message);
        }
        (None, None) if findings.paused => {}
        (None, None) => c.set(kind, State::Unknown, Reason::Progressing, "not checked yet"),
    }
}

fn storage(c: &mut Conditions, findings: &Findings) {
    let kind = ConditionType::StorageReachable;
    match (problem_of(findings, kind), &findings.bucket) {
        (Some(problem), _) => c.set(kind, State::False, problem.reason, problem.message.clone()),
        (None, Some(Bucket::Verified)) => {
            let message = "a test object was conditionally written, read and deleted";
            c.set(kind, State::True, Reason::StorageVerified, message);
        }
        (None, Some(Bucket::Failed(why))) => {
            c.set(kind, State::False, Reason::StorageUnreachable, why.clone())
        }
        (None, Some(Bucket::Checking(what))) => {
            c.set(kind, State::Unknown, Reason::StorageChecking, what.clone())
        }
        (None, None) if findings.paused => {}
        (None, None) => c.set(kind, State::Unknown, Reason::Progressing, "not checked yet"),
    }
}

fn monitoring(c: &mut Conditions, findings: &Findings) {
    let kind = ConditionType::MonitoringAvailable;
    match (problem_of(findings, kind), findings.monitoring) {
        (Some(problem), _) => c.set(kind, State::False, problem.reason, problem.message.clone()),
        (None, Some(true)) => c.set(kind, State::True, Reason::MonitoringApplied, ""),
        (None, Some(false)) => c.set(
            kind,
            State::False,
            Reason::MonitoringDisabled,
            "set spec.monitoring to create a ServiceMonitor, alerts and a dashboard",
        ),
        (None, None) => {}
    }
}

fn progressing(c: &mut Conditions, findings: &Findings, rollout: Option<Rollout>) {
    let kind = ConditionType::Progressing;
    match (problem_of(findings, kind), rollout) {
        (Some(problem), _) => c.set(kind, State::True, problem.reason, problem.message.clone()),
        (None, Some(rollout)) if rollout.settled() => c.set(kind, State::False, Reason::Reconciled, ""),
        (None, Some(rollout)) => {
            let message = format!(
                "{} of {} agents have the current pod template, {} are available",
                rollout.updated, rollout.wanted, rollout.available
            );
            c.set(kind, State::True, Reason::Progressing, message);
        }
        (None, None) => c.set(
            kind,
            State::True,
            Reason::Progressing,
            "the Deployment of the agents does not exist yet",
        ),
    }
}

/// Reports problems even while agents serve.
fn degraded(c: &mut Conditions, findings: &Findings, rollout: Option<Rollout>) {
    let kind = ConditionType::Degraded;
    let storage = match &findings.bucket {
        Some(Bucket::Failed(why)) => Some((Reason::StorageUnreachable, why.clone())),
        _ => None,
    };
    let grave = findings
        .problems
        .iter()
        .find(|problem| !matches!(problem.condition, ConditionType::Progressing))
        .map(|problem| (problem.reason, problem.message.clone()));
    let trouble = findings
        .trouble
        .clone()
        .map(|trouble| (Reason::AgentsUnavailable, trouble));
    let overdue = rollout.filter(|rollout| rollout.overdue).map(|_| {
        (
            Reason::AgentsUnavailable,
            "the rollout makes no progress: check the pods of the agents".to_owned(),
        )
    });
    match trouble.or(grave).or(storage).or(overdue) {
        Some((reason, message)) => c.set(kind, State::True, reason, message),
        None => c.set(kind, State::False, Reason::AllHealthy, ""),
    }
}

fn ready(c: &mut Conditions, findings: &Findings, rollout: Option<Rollout>) {
    let kind = ConditionType::Ready;
    let fatal = problem_of(findings, kind).or_else(|| problem_of(findings, ConditionType::MetadataReachable));
    if let Some(problem) = fatal {
        return c.set(kind, State::False, problem.reason, problem.message.clone());
    }
    if findings.stopped {
        return c.set(
            kind,
            State::False,
            Reason::AgentsStopped,
            "spec.stopped is set: no agents run; unset it to resume",
        );
    }
    match (rollout, &findings.trouble) {
        (Some(rollout), _) if rollout.serves() => {
            let message = format!("{} agents are available", rollout.available);
            c.set(kind, State::True, Reason::AgentsReady, message);
        }
        (Some(_), Some(trouble)) => c.set(kind, State::False, Reason::AgentsUnavailable, trouble.clone()),
        (Some(rollout), None) => {
            let message = format!("{} of {} agents are available", rollout.available, rollout.wanted);
            c.set(kind, State::False, Reason::AgentsNotReady, message);
        }
        (None, _) => c.set(
            kind,
            State::False,
            Reason::AgentsNotReady,
            "the Deployment of the agents does not exist yet",
        ),
    }
}

/// Writes the status if it differs from the stored one. Ignores a cluster that no longer exists.
pub(super) async fn write(
    context: &Context,
    cluster: &StreamHouseCluster,
    status: ClusterStatus,
) -> kube::Result<()> {
    if cluster.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<StreamHouseCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
        "kind": "StreamHouseCluster",
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
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

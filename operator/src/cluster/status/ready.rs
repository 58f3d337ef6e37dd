//! The condition Ready of a cluster: it serves, because enough agents are available and every
//! partition has a leader. Problems that do not keep agents from serving are left to other
//! conditions, and disturbances that pass do not make a cluster that was ready unready.

use std::time::Duration;

use super::{ReconcileFindings, find_problem};
use crate::{
    cluster::{
        problem::ClusterProblem,
        rollout::{ObservedAgents, RolloutState, enough_agents},
    },
    conditions::{ConditionSet, ConditionStatus},
    crd::{ConditionReason, ConditionType},
};

/// How long partitions may have no leader before a ready cluster is no longer ready: longer than
/// the failover after a crash of an agent.
const LEADERLESS_GRACE: Duration = Duration::from_secs(10);

/// Sets the condition.
pub(super) fn set_ready(c: &mut ConditionSet, findings: &ReconcileFindings, rollout: Option<RolloutState>) {
    let kind = ConditionType::Ready;
    let was_ready = c.is_true(kind);
    let mut unready = |reason, message: &str| c.set(kind, ConditionStatus::False, reason, message);
    if let Some(problem) = ends_serving(findings) {
        return unready(problem.reason, &problem.message);
    }
    if findings.stopped {
        let message = "spec.stopped is set: no agents run; unset it to resume";
        return unready(ConditionReason::AgentsStopped, message);
    }
    let Some(rollout) = rollout else {
        return match findings.agents {
            ObservedAgents::Unread => super::set_unchecked(c, kind),
            _ => {
                let (reason, message) = missing_agents(findings);
                unready(reason, message)
            }
        };
    };
    let enough = enough_agents(
        rollout.wanted,
        findings.settled_agents,
        findings.max_unavailable.as_ref(),
    );
    let counts = format!("{} of {} agents are available", rollout.available, rollout.wanted);
    if !rollout.is_serving(enough) {
        let (reason, message) = unavailable_agents(findings, &counts);
        return unready(reason, message);
    }
    // Agents need the database for every write. A failover of it takes some seconds.
    let unreachable = find_problem(findings, ConditionType::MetadataReachable)
        .filter(|problem| problem.reason == ConditionReason::MetadataUnreachable);
    if let Some(problem) = unreachable.filter(|_| !was_ready || findings.keeps_failing()) {
        return unready(problem.reason, &problem.message);
    }
    let leadership = findings.metadata.as_ref().map(|reached| reached.leadership);
    if let Some(leadership) = leadership.filter(|leadership| leadership.leaderless > 0)
        && (!was_ready || findings.leaderless_for >= LEADERLESS_GRACE)
    {
        let message = format!(
            "{} of {} partitions have no leader; {counts}",
            leadership.leaderless, leadership.partitions
        );
        return unready(ConditionReason::PartitionsLeaderless, &message);
    }
    c.set(kind, ConditionStatus::True, ConditionReason::AgentsReady, counts);
}

/// Returns the problem because of which a cluster counts as unready although its agents may serve:
/// it is being deleted.
fn ends_serving(findings: &ReconcileFindings) -> Option<&ClusterProblem> {
    find_problem(findings, ConditionType::Ready)
        .filter(|problem| problem.reason == ConditionReason::DeletePending)
}

/// Returns why there is no Deployment.
fn missing_agents(findings: &ReconcileFindings) -> (ConditionReason, &str) {
    unavailable_agents(findings, "the Deployment of the agents does not exist yet")
}

/// Returns why too few agents are available: a problem that keeps them from starting, that of a
/// pod, or that they are starting (`otherwise`).
fn unavailable_agents<'a>(findings: &'a ReconcileFindings, otherwise: &'a str) -> (ConditionReason, &'a str) {
    let starts = [
        ConditionType::Ready,
        ConditionType::MetadataReachable,
        ConditionType::StorageReachable,
    ];
    let problem = starts.iter().find_map(|kind| find_problem(findings, *kind));
    let other = || {
        findings.problems.iter().find(|problem| {
            let certificate = matches!(
                problem.reason,
                ConditionReason::CertificatePending | ConditionReason::CertManagerMissing
            );
            certificate
                || problem.condition != ConditionType::MonitoringAvailable && problem.reason.needs_user()
        })
    };
    if let Some(problem) = problem.or_else(other) {
        return (problem.reason, &problem.message);
    }
    match &findings.pod_problem {
        Some(trouble) => (ConditionReason::AgentsUnavailable, trouble),
        None => (ConditionReason::AgentsNotReady, otherwise),
    }
}

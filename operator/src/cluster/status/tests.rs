//! Status for different findings, without an API server.

use serde_json::{Value, json};

use super::*;
use crate::conditions::find_condition;

fn cluster(status: Value) -> StreamHouseCluster {
    let cluster = json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
        "metadata": { "name": "main", "namespace": "ns", "generation": 3 },
        "spec": {
            "postgresql": { "connectionSecret": { "name": "metadata" } },
            "objectStorage": { "bucket": "records" }
        },
        "status": status
    });
    serde_json::from_value(cluster).unwrap()
}

fn deployment(status: Value) -> Deployment {
    let deployment = json!({ "metadata": { "generation": 7 }, "spec": { "replicas": 3, "selector": {}, "template": {} }, "status": status });
    serde_json::from_value(deployment).unwrap()
}

fn complete_rollout() -> Value {
    json!({ "observedGeneration": 7, "replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 3 })
}

fn healthy_findings() -> ReconcileFindings {
    ReconcileFindings {
        metadata: Some(MetadataState {
            schema_version: 2,
            migrated_from: None,
            waiting: None,
            cluster_id: "id".to_owned(),
        }),
        bucket: Some(BucketCheck::Verified),
        deployment: Some(deployment(complete_rollout())),
        monitoring: Some(false),
        version: Some("1.2.3".to_owned()),
        ..ReconcileFindings::default()
    }
}

fn status_of(findings: &ReconcileFindings) -> ClusterStatus {
    compute_status(&cluster(json!({})), findings, Timestamp::UNIX_EPOCH)
}

/// Returns the condition as `status reason`.
fn condition_text(status: &ClusterStatus, kind: ConditionType) -> String {
    let condition = find_condition(&status.conditions, kind).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

#[test]
fn a_healthy_cluster_is_ready_and_calm() {
    let status = status_of(&healthy_findings());
    assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    assert_eq!(
        condition_text(&status, ConditionType::Progressing),
        "False Reconciled"
    );
    assert_eq!(condition_text(&status, ConditionType::Degraded), "False Healthy");
    assert_eq!(
        (status.version.as_deref(), status.observed_generation),
        (Some("1.2.3"), Some(3))
    );
    assert_eq!(status.agents.unwrap().summary, "3/3");
}

#[test]
fn numbers_of_an_older_template_do_not_count() {
    let mut old = complete_rollout();
    old["observedGeneration"] = json!(6);
    let findings = ReconcileFindings {
        deployment: Some(deployment(old)),
        ..healthy_findings()
    };
    let status = status_of(&findings);
    assert_eq!(
        condition_text(&status, ConditionType::Ready),
        "False AgentsNotReady"
    );
    assert_eq!(
        condition_text(&status, ConditionType::Progressing),
        "True Progressing"
    );
    assert_eq!(status.version, None);
}

#[test]
fn a_rollout_with_enough_agents_is_ready_and_progressing_and_says_its_trouble() {
    let rolling = json!({ "observedGeneration": 7, "replicas": 4, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 1 });
    let findings = ReconcileFindings {
        deployment: Some(deployment(rolling)),
        pod_problem: Some("pod p: ImagePullBackOff".to_owned()),
        ..healthy_findings()
    };
    let status = status_of(&findings);
    assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    assert_eq!(
        condition_text(&status, ConditionType::Progressing),
        "True Progressing"
    );
    assert_eq!(
        condition_text(&status, ConditionType::Degraded),
        "True AgentsUnavailable"
    );
}

#[test]
fn a_stopped_cluster_is_not_ready_and_that_is_no_trouble() {
    let none = json!({ "observedGeneration": 7 });
    let mut stopped = deployment(none);
    stopped.spec.as_mut().unwrap().replicas = Some(0);
    let status = status_of(&ReconcileFindings {
        stopped: true,
        deployment: Some(stopped),
        ..healthy_findings()
    });
    assert_eq!(
        condition_text(&status, ConditionType::Ready),
        "False AgentsStopped"
    );
    assert_eq!(condition_text(&status, ConditionType::Degraded), "False Healthy");
}

#[test]
fn a_paused_cluster_keeps_what_was_known() {
    let before = status_of(&healthy_findings());
    let paused = ReconcileFindings {
        paused: true,
        deployment: Some(deployment(complete_rollout())),
        ..ReconcileFindings::default()
    };
    let after = compute_status(
        &cluster(serde_json::to_value(&before).unwrap()),
        &paused,
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(condition_text(&after, ConditionType::Paused), "True Paused");
    for kind in [
        ConditionType::MetadataReachable,
        ConditionType::StorageReachable,
        ConditionType::MonitoringAvailable,
    ] {
        assert_eq!(
            condition_text(&after, kind),
            condition_text(&before, kind),
            "{kind}"
        );
    }
    assert_eq!(
        (after.version, after.cluster_id, after.schema_version),
        (before.version, before.cluster_id, before.schema_version)
    );
}

#[test]
fn the_same_findings_give_the_same_status() {
    let first = status_of(&healthy_findings());
    let later = Timestamp::from_second(1000).unwrap();
    let again = compute_status(
        &cluster(serde_json::to_value(&first).unwrap()),
        &healthy_findings(),
        later,
    );
    assert_eq!(again, first);
}

#[test]
fn an_unreachable_database_makes_a_cluster_unready_and_is_named() {
    let problem = ClusterProblem {
        condition: ConditionType::MetadataReachable,
        reason: ConditionReason::MetadataUnreachable,
        message: "PostgreSQL at db:5432 does not answer".to_owned(),
    };
    let findings = ReconcileFindings {
        metadata: None,
        problems: vec![problem],
        ..healthy_findings()
    };
    let status = status_of(&findings);
    assert_eq!(
        condition_text(&status, ConditionType::MetadataReachable),
        "False MetadataUnreachable"
    );
    assert_eq!(
        condition_text(&status, ConditionType::Ready),
        "False MetadataUnreachable"
    );
    assert_eq!(
        condition_text(&status, ConditionType::Degraded),
        "True MetadataUnreachable"
    );
}

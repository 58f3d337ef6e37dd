//! Status for different findings, without an API server.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::*;
use crate::{cluster::metadata::PartitionLeadership, conditions::find_condition};

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

fn present(status: Value) -> ObservedAgents {
    ObservedAgents::Present(Box::new(deployment(status)))
}

/// Returns the state of three agents of which this many are available.
fn available(number: i32) -> Value {
    json!({ "observedGeneration": 7, "replicas": 3, "readyReplicas": number, "availableReplicas": number, "updatedReplicas": 3 })
}

fn problem(condition: ConditionType, reason: ConditionReason) -> ClusterProblem {
    ClusterProblem {
        condition,
        reason,
        message: "what to do".to_owned(),
    }
}

/// Returns the status after these findings, of a cluster that was healthy before.
fn status_after_health(findings: &ReconcileFindings) -> ClusterStatus {
    let before = serde_json::to_value(status_of(&healthy_findings())).unwrap();
    compute_status(&cluster(before), findings, Timestamp::UNIX_EPOCH)
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
            leadership: PartitionLeadership {
                partitions: 12,
                leaderless: 0,
            },
        }),
        bucket: Some(BucketCheck::Verified),
        agents: present(complete_rollout()),
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
fn agents_of_an_older_template_serve_but_complete_no_rollout() {
    let mut old = complete_rollout();
    old["observedGeneration"] = json!(6);
    let findings = ReconcileFindings {
        agents: present(old),
        ..healthy_findings()
    };
    let status = status_of(&findings);
    assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    assert_eq!(
        condition_text(&status, ConditionType::Progressing),
        "True Progressing"
    );
    assert_eq!(status.version, None);
}

#[test]
fn a_cluster_serves_while_as_many_agents_are_available_as_a_disruption_leaves() {
    for (number, state) in [
        (3, "True AgentsReady"),
        (2, "True AgentsReady"),
        (1, "False AgentsNotReady"),
        (0, "False AgentsNotReady"),
    ] {
        let findings = ReconcileFindings {
            agents: present(available(number)),
            ..healthy_findings()
        };
        let status = status_of(&findings);
        assert_eq!(condition_text(&status, ConditionType::Ready), state, "{number}");
    }
    let none_at_all = ReconcileFindings {
        agents: ObservedAgents::Absent,
        ..healthy_findings()
    };
    assert_eq!(
        condition_text(&status_of(&none_at_all), ConditionType::Ready),
        "False AgentsNotReady"
    );
}

#[test]
fn partitions_without_a_leader_make_a_cluster_unready_unless_a_failover_is_under_way() {
    let mut findings = healthy_findings();
    findings.metadata.as_mut().unwrap().leadership.leaderless = 4;
    let status = status_of(&findings);
    assert_eq!(
        condition_text(&status, ConditionType::Ready),
        "False PartitionsLeaderless"
    );
    let message = &find_condition(&status.conditions, ConditionType::Ready)
        .unwrap()
        .message;
    assert!(message.starts_with("4 of 12 partitions"), "{message}");
    findings.leaderless_for = Duration::from_secs(3);
    let status = status_after_health(&findings);
    assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    findings.leaderless_for = Duration::from_secs(30);
    let status = status_after_health(&findings);
    assert_eq!(
        condition_text(&status, ConditionType::Ready),
        "False PartitionsLeaderless"
    );
}

#[test]
fn what_could_not_be_read_stays_as_it_was_known() {
    let aborted = ReconcileFindings {
        aborted: Some("503".to_owned()),
        ..ReconcileFindings::default()
    };
    let before = status_of(&healthy_findings());
    assert_eq!(status_after_health(&aborted), before);
    let lasting = ReconcileFindings {
        failures: 5,
        aborted: Some("503".to_owned()),
        ..ReconcileFindings::default()
    };
    let after = status_after_health(&lasting);
    assert_eq!(
        condition_text(&after, ConditionType::Progressing),
        "True InternalError"
    );
    assert_eq!(condition_text(&after, ConditionType::Ready), "True AgentsReady");
    let never = status_of(&aborted);
    assert_eq!(condition_text(&never, ConditionType::Ready), "Unknown NotChecked");
    assert_eq!(never.observed_generation, None);
}

#[test]
fn monitoring_that_fails_or_is_off_concerns_no_other_condition() {
    let reasons = [
        ConditionReason::MonitoringApiMissing,
        ConditionReason::ObjectConflict,
        ConditionReason::NamespaceForbidden,
        ConditionReason::ApplyFailed,
    ];
    for reason in reasons {
        let findings = ReconcileFindings {
            problems: vec![problem(ConditionType::MonitoringAvailable, reason)],
            monitoring: Some(true),
            ..healthy_findings()
        };
        let status = status_of(&findings);
        let expected = [
            (ConditionType::Ready, "True AgentsReady".to_owned()),
            (ConditionType::Degraded, "False Healthy".to_owned()),
            (ConditionType::Stalled, "False NotStalled".to_owned()),
            (ConditionType::MonitoringAvailable, format!("False {reason}")),
        ];
        for (kind, text) in expected {
            assert_eq!(condition_text(&status, kind), text);
        }
    }
    assert_eq!(
        condition_text(
            &status_of(&healthy_findings()),
            ConditionType::MonitoringAvailable
        ),
        "Unknown MonitoringDisabled"
    );
}

#[test]
fn what_only_a_user_can_mend_stalls_a_cluster_whose_agents_serve_on() {
    for (condition, reason) in [
        (ConditionType::Ready, ConditionReason::InvalidSpec),
        (ConditionType::Ready, ConditionReason::ObjectConflict),
        (ConditionType::MetadataReachable, ConditionReason::InvalidSecret),
        (ConditionType::MetadataReachable, ConditionReason::SchemaTooNew),
        (ConditionType::Degraded, ConditionReason::VersionTooNew),
        (ConditionType::Degraded, ConditionReason::VersionNotSupported),
        (ConditionType::Degraded, ConditionReason::SchemaMigrationBlocked),
        (ConditionType::StorageReachable, ConditionReason::SecretMissing),
    ] {
        let mut findings = ReconcileFindings {
            problems: vec![problem(condition, reason)],
            ..healthy_findings()
        };
        let status = status_of(&findings);
        assert_eq!(
            condition_text(&status, ConditionType::Stalled),
            format!("True {reason}")
        );
        assert_eq!(
            condition_text(&status, ConditionType::Degraded),
            format!("True {reason}")
        );
        assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
        findings.agents = present(available(0));
        let status = status_of(&findings);
        assert_eq!(
            condition_text(&status, ConditionType::Ready),
            format!("False {reason}")
        );
    }
}

#[test]
fn a_certificate_that_is_being_issued_stalls_nothing() {
    for reason in [
        ConditionReason::CertificatePending,
        ConditionReason::CertManagerMissing,
    ] {
        let findings = ReconcileFindings {
            problems: vec![problem(ConditionType::Progressing, reason)],
            agents: present(available(0)),
            ..healthy_findings()
        };
        let status = status_of(&findings);
        for (kind, text) in [
            (ConditionType::Progressing, format!("True {reason}")),
            (ConditionType::Ready, format!("False {reason}")),
            (ConditionType::Stalled, "False NotStalled".to_owned()),
            (ConditionType::Degraded, "False Healthy".to_owned()),
        ] {
            assert_eq!(condition_text(&status, kind), text);
        }
    }
}

#[test]
fn a_rollout_with_enough_agents_is_ready_and_progressing_and_says_its_trouble() {
    let rolling = json!({ "observedGeneration": 7, "replicas": 4, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 1 });
    let findings = ReconcileFindings {
        agents: present(rolling),
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
        agents: ObservedAgents::Present(Box::new(stopped)),
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
        agents: present(complete_rollout()),
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
fn a_database_that_stays_unreachable_makes_a_cluster_unready_and_is_named() {
    let unreachable = problem(
        ConditionType::MetadataReachable,
        ConditionReason::MetadataUnreachable,
    );
    let mut findings = ReconcileFindings {
        metadata: None,
        problems: vec![unreachable],
        ..healthy_findings()
    };
    let status = status_after_health(&findings);
    assert_eq!(
        condition_text(&status, ConditionType::MetadataReachable),
        "False MetadataUnreachable"
    );
    assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    findings.failures = 2;
    for status in [status_after_health(&findings), status_of(&findings)] {
        assert_eq!(
            condition_text(&status, ConditionType::Ready),
            "False MetadataUnreachable"
        );
        assert_eq!(
            condition_text(&status, ConditionType::Degraded),
            "True MetadataUnreachable"
        );
        assert_eq!(
            condition_text(&status, ConditionType::Stalled),
            "False NotStalled"
        );
    }
}

#[test]
fn a_listener_that_waits_for_a_user_stalls_the_cluster_and_does_not_degrade_it() {
    for (reason, stalled) in [
        (ConditionReason::NodeAccessForbidden, "True NodeAccessForbidden"),
        (ConditionReason::ObjectConflict, "True ObjectConflict"),
        (ConditionReason::AddressPending, "False NotStalled"),
        (ConditionReason::ApplyFailed, "False NotStalled"),
    ] {
        let findings = ReconcileFindings {
            listeners: Some(ListenersReport {
                problem: Some(problem(ConditionType::ListenersAvailable, reason)),
                ..ListenersReport::default()
            }),
            ..healthy_findings()
        };
        let status = status_of(&findings);
        assert_eq!(condition_text(&status, ConditionType::Stalled), stalled);
        assert_eq!(condition_text(&status, ConditionType::Degraded), "False Healthy");
        assert_eq!(condition_text(&status, ConditionType::Ready), "True AgentsReady");
    }
}

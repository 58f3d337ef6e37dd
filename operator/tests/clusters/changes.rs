//! What is applied, restored, deleted and left unchanged.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::environment::ClusterTestEnvironment;

fn template_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let template = &deployment.spec.as_ref().unwrap().template;
    template
        .metadata
        .as_ref()
        .unwrap()
        .annotations
        .clone()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimal_cluster_gets_all_its_children_and_is_ready_when_its_agents_are() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.object::<ServiceAccount>("main-agent").await;
    world.object::<Service>("main-agents").await;
    world.object::<ConfigMap>("main-agent").await;
    world.object::<PodDisruptionBudget>("main-agent").await;
    let deployment = world.deployment().await;
    assert_eq!(deployment.spec.as_ref().unwrap().replicas, Some(2));
    assert_eq!(deployment.owner_references()[0].kind, "StreamHouseCluster");
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world.condition("Ready", "False", "AgentsNotReady").await;
    world
        .condition("StorageReachable", "Unknown", "StorageCheckRunning")
        .await;

    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    world
        .condition("StorageReachable", "True", "StorageVerified")
        .await;
    world.condition("Progressing", "False", "Reconciled").await;
    world.condition("Degraded", "False", "Healthy").await;
    let status = world.cluster().await.status.unwrap();
    assert_eq!(status.version.as_deref(), Some("1.2.3"));
    assert_eq!(status.agents.unwrap().summary, "2/2");
    let stored = world.sql("SELECT cluster_id FROM cluster").await;
    assert_eq!(status.cluster_id.as_deref(), Some(stored.as_str()));
    assert_eq!(world.events("SchemaMigrated").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_deleted_or_edited_by_hand_is_restored_and_what_others_added_stays() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    let before = world.object::<Service>("main-agents").await;
    world.object::<ConfigMap>("main-agent").await;

    world
        .api_of::<Service>()
        .delete("main-agents", &DeleteParams::default())
        .await
        .unwrap();
    world
        .object_where::<Service>("main-agents", |service| service.uid() != before.uid())
        .await;

    let edit = json!({ "metadata": { "labels": { "team": "billing", "app.kubernetes.io/name": "mine" } } });
    world
        .api_of::<Service>()
        .patch("main-agents", &PatchParams::default(), &Patch::Merge(&edit))
        .await
        .unwrap();
    let restored = world
        .object_where::<Service>("main-agents", |service| {
            service.labels()["app.kubernetes.io/name"] == "streamhouse"
        })
        .await;
    assert_eq!(restored.labels()["team"], "billing");
    let drift = world
        .until("an event about the edit", || async {
            let events = world.events("DriftCorrected").await;
            (!events.is_empty()).then_some(events)
        })
        .await;
    assert!(
        drift
            .iter()
            .any(|message| message.contains("Service main-agents")),
        "{drift:?}"
    );
    let corrected = world
        .context
        .metrics
        .drift_corrected
        .with_label_values(&["Service"]);
    assert!(corrected.get() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_first_apply_nor_another_secret_nor_a_new_process_is_taken_for_drift() {
    let mut world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    let before = world.deployment().await;

    let keys = [("accessKeyId", "minio"), ("secretAccessKey", "another-secret")];
    world.write_secret("bucket", &keys).await;
    world
        .object_where::<Deployment>("main-agent", |deployment| {
            template_annotations(deployment) != template_annotations(&before)
        })
        .await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.wait_for_reconciles(1).await;
    world.restart().await;
    world.wait_for_reconciles(1).await;
    assert_eq!(world.events("DriftCorrected").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_agents_run_is_left_to_the_autoscaler_when_there_is_one() {
    let world = ClusterTestEnvironment::new().await;
    let autoscaling = json!({ "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70 });
    world
        .create(json!({ "agents": { "replicas": null, "autoscaling": autoscaling } }))
        .await;
    let scaler = world.object::<HorizontalPodAutoscaler>("main-agent").await;
    assert_eq!(scaler.spec.unwrap().max_replicas, 5);
    world.deployment().await;
    let scale = json!({ "spec": { "replicas": 4 } });
    world
        .api_of::<Deployment>()
        .patch_scale("main-agent", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .unwrap();
    // A change that is applied shows that a reconciliation has finished.
    world
        .patch_spec(json!({ "agents": { "settings": { "flushInterval": "100ms" } } }))
        .await;
    world
        .object_where::<ConfigMap>("main-agent", |config| {
            config
                .data
                .as_ref()
                .unwrap()
                .get("STREAMHOUSE_FLUSH_INTERVAL")
                .is_some_and(|value| value == "100ms")
        })
        .await;
    let deployment = world.deployment().await;
    assert_eq!(deployment.spec.unwrap().replicas, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_goes_when_an_autoscaler_takes_over() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({ "agents": { "replicas": 4 } })).await;
    assert_eq!(world.deployment().await.spec.unwrap().replicas, Some(4));
    let autoscaling = json!({ "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70 });
    world
        .patch_spec(json!({ "agents": { "replicas": null, "autoscaling": autoscaling } }))
        .await;
    // The autoscaler is applied after the Deployment.
    world.object::<HorizontalPodAutoscaler>("main-agent").await;
    assert_eq!(world.deployment().await.spec.unwrap().replicas, Some(4));
    world
        .patch_spec(json!({ "agents": { "replicas": 3, "autoscaling": null } }))
        .await;
    world
        .object_where::<Deployment>("main-agent", |deployment| {
            deployment.spec.as_ref().unwrap().replicas == Some(3)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_switched_off_takes_its_child_along_and_a_users_own_object_stays() {
    let world = ClusterTestEnvironment::new().await;
    let own = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "my-own", "labels": {
            "app.kubernetes.io/managed-by": "streamhouse-operator",
            "streamhouse.io/cluster": "main", "streamhouse.io/cluster-namespace": world.namespace } },
        "spec": { "podSelector": {} }
    });
    let own: NetworkPolicy = serde_json::from_value(own).unwrap();
    world.api_of().create(&PostParams::default(), &own).await.unwrap();
    world
        .create(json!({ "networkPolicy": { "enabled": true } }))
        .await;
    world.object::<NetworkPolicy>("main-agent").await;

    world
        .patch_spec(
            json!({ "networkPolicy": { "enabled": false }, "disruptionBudget": { "enabled": false } }),
        )
        .await;
    world.until_gone::<NetworkPolicy>("main-agent").await;
    world.until_gone::<PodDisruptionBudget>("main-agent").await;
    assert!(
        world
            .api_of::<NetworkPolicy>()
            .get_opt("my-own")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_the_same_name_that_is_not_ours_is_left_alone_and_told() {
    let world = ClusterTestEnvironment::without_operator().await;
    let own = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "main-agent" }, "data": { "mine": "yes" } });
    let own: ConfigMap = serde_json::from_value(own).unwrap();
    world.api_of().create(&PostParams::default(), &own).await.unwrap();
    let mut world = world;
    world.start();
    world.create(json!({})).await;
    let message = world.condition("Ready", "False", "ObjectConflict").await;
    assert!(message.contains("ConfigMap main-agent"), "{message}");
    let left = world.api_of::<ConfigMap>().get("main-agent").await.unwrap();
    assert_eq!(left.data.unwrap().into_keys().collect::<Vec<_>>(), ["mine"]);
    world
        .api_of::<ConfigMap>()
        .delete("main-agent", &DeleteParams::default())
        .await
        .unwrap();
    world.condition("Ready", "False", "AgentsNotReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_removed_from_the_resource_is_removed_from_the_child() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({ "agents": {
        "settings": { "flushInterval": "100ms" }, "podTemplate": { "metadata": { "labels": { "cost": "low" } } } } })).await;
    let has = |config: &ConfigMap| {
        config
            .data
            .as_ref()
            .unwrap()
            .contains_key("STREAMHOUSE_FLUSH_INTERVAL")
    };
    world.object_where::<ConfigMap>("main-agent", has).await;
    let labelled = |deployment: &Deployment| {
        let labels = deployment
            .spec
            .as_ref()
            .unwrap()
            .template
            .metadata
            .as_ref()
            .unwrap()
            .labels
            .as_ref()
            .unwrap();
        labels.contains_key("cost")
    };
    world.object_where::<Deployment>("main-agent", labelled).await;
    world
        .patch_spec(json!({ "agents": { "settings": null, "podTemplate": null } }))
        .await;
    world
        .object_where::<ConfigMap>("main-agent", |config| !has(config))
        .await;
    world
        .object_where::<Deployment>("main-agent", |deployment| !labelled(deployment))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_rolls_the_agents_once() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    let before = world.deployment().await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world
        .write_secret(
            "bucket",
            &[("accessKeyId", "minio"), ("secretAccessKey", "another-secret")],
        )
        .await;
    let rolled = world
        .object_where::<Deployment>("main-agent", |after| {
            template_annotations(after) != template_annotations(&before)
        })
        .await;
    let text = serde_json::to_string(&rolled).unwrap();
    assert!(!text.contains("another-secret") && !text.contains("very-secret"));
    // Two more reconciliations change nothing.
    world.wait_for_reconciles(2).await;
    let after = world.deployment().await;
    assert_eq!(after.metadata.generation, rolled.metadata.generation);
    // A Secret that is written again with the same contents restarts nothing.
    world
        .write_secret(
            "bucket",
            &[("accessKeyId", "minio"), ("secretAccessKey", "another-secret")],
        )
        .await;
    world.wait_for_reconciles(2).await;
    assert_eq!(
        world.deployment().await.metadata.generation,
        rolled.metadata.generation
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_starts_anew_changes_nothing() {
    let mut world = ClusterTestEnvironment::new().await;
    world
        .create(json!({ "networkPolicy": { "enabled": true } }))
        .await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Progressing", "False", "Reconciled").await;
    world
        .condition("StorageReachable", "True", "StorageVerified")
        .await;
    world.wait_for_reconciles(1).await;
    let before = world.versions().await;
    assert!(before.len() >= 8, "{before:?}");
    world.restart().await;
    world.wait_for_reconciles(3).await;
    assert_eq!(world.versions().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_is_written_to_by_nobody_and_goes_on_when_it_is_not() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.deployment().await;
    world.patch_spec(json!({ "paused": true })).await;
    world.condition("Paused", "True", "Paused").await;
    world.patch_spec(json!({ "agents": { "replicas": 5 } })).await;
    world
        .api_of::<PodDisruptionBudget>()
        .delete("main-agent", &DeleteParams::default())
        .await
        .unwrap();
    world.wait_for_reconciles(2).await;
    assert_eq!(world.deployment().await.spec.unwrap().replicas, Some(2));
    assert!(
        world
            .api_of::<PodDisruptionBudget>()
            .get_opt("main-agent")
            .await
            .unwrap()
            .is_none()
    );
    world.patch_spec(json!({ "paused": false })).await;
    world.object::<PodDisruptionBudget>("main-agent").await;
    world
        .object_where::<Deployment>("main-agent", |deployment| {
            deployment.spec.as_ref().unwrap().replicas == Some(5)
        })
        .await;
    world.condition("Paused", "False", "NotPaused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cluster_runs_no_agent_and_resumes() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.patch_spec(json!({ "stopped": true })).await;
    world
        .object_where::<Deployment>("main-agent", |deployment| {
            deployment.spec.as_ref().unwrap().replicas == Some(0)
        })
        .await;
    world.condition("Ready", "False", "AgentsStopped").await;
    world.patch_spec(json!({ "stopped": false })).await;
    world
        .object_where::<Deployment>("main-agent", |deployment| {
            deployment.spec.as_ref().unwrap().replicas == Some(2)
        })
        .await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
}

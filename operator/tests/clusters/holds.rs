//! A rollout that is held, here by a version that is newer than the operator: agents go on with the
//! objects of their pod template, and can be stopped and started.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::ConfigMap,
    networking::v1::NetworkPolicy,
};
use serde_json::{Value, json};

use crate::{
    environment::ClusterTestEnvironment,
    listeners::{end_agent, slots},
};

/// A version that the operator of the tests refuses.
const TOO_NEW: &str = "1.3.0";

impl ClusterTestEnvironment {
    /// Creates a cluster, waits until it is ready, and has its rollout held.
    async fn create_held(&self, spec: Value) -> Deployment {
        self.create(spec).await;
        self.end_job("main-preflight", true, "").await;
        self.make_agents_ready().await;
        self.condition("Ready", "True", "AgentsReady").await;
        self.hold(json!({})).await;
        self.deployment().await
    }

    /// Changes the spec together with a version that is refused.
    async fn hold(&self, mut spec: Value) {
        spec["version"] = json!(TOO_NEW);
        self.patch_spec(spec).await;
        self.condition("Stalled", "True", "VersionTooNew").await;
        self.wait_for_reconciles(1).await;
    }

    async fn until_replicas(&self, holds: impl Fn(i32) -> bool) -> Deployment {
        self.object_where("main-agent", |deployment: &Deployment| {
            deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .is_some_and(&holds)
        })
        .await
    }
}

fn template(deployment: &Deployment) -> Value {
    serde_json::to_value(&deployment.spec.as_ref().unwrap().template).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_cluster_stops_and_starts_with_the_agents_that_it_has() {
    let world = ClusterTestEnvironment::new().await;
    let before = world.create_held(json!({})).await;
    world.patch_spec(json!({ "stopped": true })).await;
    let stopped = world.until_replicas(|replicas| replicas == 0).await;
    assert_eq!(template(&stopped), template(&before));
    world.condition("Ready", "False", "AgentsStopped").await;
    world.condition("Stalled", "True", "VersionTooNew").await;

    world.patch_spec(json!({ "stopped": false })).await;
    let started = world.until_replicas(|replicas| replicas == 2).await;
    assert_eq!(template(&started), template(&before));
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;

    // Stopped while held, and started by what ends the hold.
    world.patch_spec(json!({ "stopped": true })).await;
    world.until_replicas(|replicas| replicas == 0).await;
    world
        .patch_spec(json!({ "stopped": false, "version": "1.2.2" }))
        .await;
    let rolled = world.until_replicas(|replicas| replicas == 2).await;
    assert_ne!(template(&rolled), template(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_cluster_with_an_autoscaler_does_not_stay_stopped() {
    let world = ClusterTestEnvironment::new().await;
    let autoscaling = json!({ "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70 });
    world
        .create_held(json!({ "agents": { "replicas": null, "autoscaling": autoscaling } }))
        .await;
    world.patch_spec(json!({ "stopped": true })).await;
    world.until_replicas(|replicas| replicas == 0).await;
    world.until_gone::<HorizontalPodAutoscaler>("main-agent").await;
    world.patch_spec(json!({ "stopped": false })).await;
    world.until_replicas(|replicas| replicas >= 1).await;
    world.object::<HorizontalPodAutoscaler>("main-agent").await;

    // The hold ends while it is stopped.
    world.patch_spec(json!({ "stopped": true })).await;
    world.until_replicas(|replicas| replicas == 0).await;
    world.patch_spec(json!({ "version": null })).await;
    world.condition("Stalled", "False", "NotStalled").await;
    world.wait_for_reconciles(1).await;
    world.until_replicas(|replicas| replicas == 0).await;
    world.patch_spec(json!({ "stopped": false })).await;
    world.until_replicas(|replicas| replicas >= 1).await;
}

/// The objects that a restarted agent meets, or by which it is reached, with their versions.
async fn met_by_agents(world: &ClusterTestEnvironment) -> BTreeSet<(String, String)> {
    let kinds = [
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "NetworkPolicy",
        "Deployment",
    ];
    let of_agents = |(object, _): &(String, String)| {
        let (kind, name) = object.split_once(' ').unwrap();
        kinds.contains(&kind) && name.starts_with("main-")
    };
    world.versions().await.into_iter().filter(of_agents).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_meets_what_its_pod_template_was_made_for() {
    let world = ClusterTestEnvironment::new().await;
    let listener = json!({ "name": "external", "port": 9094, "type": "loadbalancer", "unsafeWithoutAuthentication": true });
    world
        .create_held(json!({
            "networkPolicy": { "enabled": true },
            "listeners": { "additional": [listener] }
        }))
        .await;
    let before = met_by_agents(&world).await;
    let has = |object: &str| before.iter().any(|(found, _)| found == object);
    for object in [
        "ConfigMap main-agent",
        "ConfigMap main-listeners",
        "NetworkPolicy main-agent",
        "Service main-external-0",
    ] {
        assert!(has(object), "{object}: {before:?}");
    }
    let of_pod = json!({ "name": "internal", "port": 9095, "type": "internal" });
    for change in [
        json!({ "agents": { "settings": { "flushInterval": "100ms" } } }),
        json!({ "listeners": { "additional": [of_pod] } }),
        json!({ "listeners": { "additional": [], "grpc": { "port": 50099 } } }),
        json!({ "networkPolicy": { "enabled": false } }),
    ] {
        world.hold(change.clone()).await;
        assert_eq!(met_by_agents(&world).await, before, "{change}");
    }
    let status = world.cluster().await.status.unwrap();
    assert!(
        status.bootstrap.unwrap().ends_with(":50051"),
        "the address in use"
    );

    // A new pod of the old template is found by the Services of its listener.
    let gone = slots(&world, 2).await;
    let (pod, slot) = gone.iter().next().unwrap();
    end_agent(&world, pod).await;
    let again = slots(&world, 2).await;
    assert!(again.values().any(|given| given == slot), "{again:?}");

    world.patch_spec(json!({ "version": null })).await;
    world
        .object_where::<ConfigMap>("main-agent", |config| {
            let data = config.data.as_ref().unwrap();
            data.get("STREAMHOUSE_GRPC_LISTEN")
                .is_some_and(|listen| listen.ends_with(":50099"))
        })
        .await;
    world.until_gone::<NetworkPolicy>("main-agent").await;
    world.until_gone::<ConfigMap>("main-listeners").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_listeners_that_stay_are_updated_while_held() {
    let world = ClusterTestEnvironment::new().await;
    let listener = |host: &str| {
        let of = |host: String| json!({ "advertisedHost": host });
        json!({ "listeners": { "additional": [{
            "name": "external", "port": 9094, "type": "nodeport", "unsafeWithoutAuthentication": true,
            "bootstrap": of(host.to_owned()), "agents": of(format!("{host}-{{slot}}"))
        }] } })
    };
    let before = world.create_held(listener("events.example.com")).await;
    world.hold(listener("records.example.com")).await;
    world
        .object_where::<ConfigMap>("main-listeners", |config| {
            let file = &config.data.as_ref().unwrap()["listeners.yaml"];
            file.contains("records.example.com")
        })
        .await;
    assert_eq!(template(&world.deployment().await), template(&before));
}

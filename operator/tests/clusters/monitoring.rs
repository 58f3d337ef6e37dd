//! Optional APIs: a missing one is a condition, not an error; once it is installed, its objects are
//! created, also in other namespaces.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::{Value, json};

use crate::environment::ClusterTestEnvironment;

fn everything(labels: Value) -> Value {
    let part = json!({ "enabled": true, "labels": labels });
    json!({ "monitoring": { "serviceMonitor": part, "prometheusRule": part, "dashboards": part } })
}

fn monitors(world: &ClusterTestEnvironment, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind));
    Api::namespaced_with(world.client.clone(), namespace, &kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_settings_do_not_allow_gets_nothing_and_the_cluster_goes_on() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    let (api, namespace) = (world.api, world.namespace.clone());
    let other = tokio::task::spawn_blocking(move || api.create_namespace("monitoring-").unwrap())
        .await
        .unwrap();
    // The operator could write there.
    world.context.scope.namespaces = Some(vec![namespace, other.clone()]);
    world.start();
    world
        .create(json!({ "monitoring": { "dashboards": { "enabled": true, "namespace": other } } }))
        .await;
    let message = world
        .condition("MonitoringAvailable", "False", "MonitoringNamespaceRefused")
        .await;
    assert!(
        message.contains(&other) && message.contains("monitoringNamespaces"),
        "{message}"
    );
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &other);
    let of_cluster = ListParams::default().labels("streamhouse.io/cluster=main");
    assert_eq!(maps.list(&of_cluster).await.unwrap().items.len(), 0);

    world.stop().await;
    let mut settings = (*world.context.defaults).clone();
    settings.monitoring_namespaces.push(other);
    world.context.defaults = Arc::new(settings);
    world.start();
    world
        .until("the dashboard", || async {
            let found = maps.list(&of_cluster).await.unwrap().items;
            (found.len() == 1).then_some(())
        })
        .await;
    world
        .condition("MonitoringAvailable", "True", "MonitoringApplied")
        .await;
}

/// A single test, since an installed API affects all clusters: missing, then installed, then
/// disabled.
#[tokio::test(flavor = "multi_thread")]
async fn monitoring_objects_wait_for_their_api_and_then_come_by_themselves() {
    let world = ClusterTestEnvironment::new().await;
    world.create(everything(json!({ "release": "prometheus" }))).await;
    let message = world
        .condition("MonitoringAvailable", "False", "MonitoringApiMissing")
        .await;
    assert!(message.contains("install the Prometheus operator"), "{message}");
    // A missing API does not block other changes.
    world.deployment().await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;

    let api = world.api;
    tokio::task::spawn_blocking(move || api.install_monitoring_definitions().unwrap())
        .await
        .unwrap();
    world.context.apis.discover(&world.client).await.unwrap();
    world
        .condition("MonitoringAvailable", "True", "MonitoringApplied")
        .await;
    let monitor = monitors(&world, "ServiceMonitor", &world.namespace)
        .get("main-agents")
        .await
        .unwrap();
    assert_eq!(monitor.metadata.labels.unwrap()["release"], "prometheus");
    let rule = monitors(&world, "PrometheusRule", &world.namespace)
        .get("main-alerts")
        .await
        .unwrap();
    let text = rule.data.to_string();
    assert!(
        text.contains("HighConsumerLag") && text.contains("AgentDown"),
        "{text}"
    );

    world
        .patch_spec(
            json!({ "monitoring": { "prometheusRule": { "thresholds": { "HighConsumerLag": "25000" } } } }),
        )
        .await;
    world
        .until("the threshold in the rule", || async {
            let rule = monitors(&world, "PrometheusRule", &world.namespace)
                .get("main-alerts")
                .await
                .unwrap();
            rule.data.to_string().contains("> 25000").then_some(())
        })
        .await;
    assert_eq!(world.events("DriftCorrected").await, Vec::<String>::new());
    world
        .patch_spec(json!({ "monitoring": { "serviceMonitor": { "enabled": false } } }))
        .await;
    world
        .until("the monitor's end", || async {
            let monitors = monitors(&world, "ServiceMonitor", &world.namespace);
            monitors
                .get_opt("main-agents")
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
}

//! Deletion of a cluster with its data by each propagation policy, with the garbage collector of
//! Kubernetes; and what may happen to the purge meanwhile.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use streamhouse_operator::crd::StreamHouseCluster;

use crate::environment::{self, ClusterTestEnvironment};

/// Waits until the purge has a pod, for which its service account must exist, and returns its Job.
async fn purge_with_pod(world: &ClusterTestEnvironment) -> Job {
    world
        .until("the pod of the purge", || async {
            let jobs = world
                .api_of::<Job>()
                .list(&ListParams::default())
                .await
                .unwrap()
                .items;
            let purge = jobs.into_iter().find(|job| {
                job.name_any().starts_with("main-purge-") && job.metadata.deletion_timestamp.is_none()
            })?;
            let labels = format!("batch.kubernetes.io/job-name={}", purge.name_any());
            let pods = world
                .api_of::<Pod>()
                .list(&ListParams::default().labels(&labels))
                .await
                .unwrap();
            (!pods.items.is_empty()).then_some(purge)
        })
        .await
}

/// Asserts that nothing of the purge is left behind.
async fn until_nothing_is_left(world: &ClusterTestEnvironment) {
    world.until_gone::<ServiceAccount>("main-agent").await;
    world.until_gone::<ConfigMap>("main-agent").await;
    world.until_gone::<Deployment>("main-agent").await;
    world
        .until("the end of the Jobs", || async {
            let jobs = world.api_of::<Job>().list(&ListParams::default()).await.unwrap();
            jobs.items.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_deletion_ends_after_the_purge_though_kubernetes_deletes_its_helpers_first() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    let account = world.object::<ServiceAccount>("main-agent").await;
    world.delete(&DeleteParams::foreground()).await;
    let purge = purge_with_pod(&world).await;
    assert!(purge.owner_references().is_empty(), "{purge:?}");
    // The garbage collector has had its turn when it has removed its own finalizer.
    world
        .until("the end of the garbage collection", || async {
            let cluster = world.cluster().await;
            let waits = cluster
                .finalizers()
                .iter()
                .any(|name| name == "foregroundDeletion");
            (!waits).then_some(())
        })
        .await;
    let helper = world
        .object_where::<ServiceAccount>("main-agent", |found| found.metadata.deletion_timestamp.is_none())
        .await;
    assert!(helper.owner_references().is_empty());
    assert!(helper.uid() != account.uid() || account.owner_references().len() == 1);
    world.object::<ConfigMap>("main-agent").await;
    let message = world.condition("Ready", "False", "DeletePending").await;
    assert!(message.contains("are being deleted"), "{message}");
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
    until_nothing_is_left(&world).await;
    assert_eq!(world.events("DataDeleted").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_deletion_leaves_nothing_of_the_purge() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    world.delete(&DeleteParams::background()).await;
    purge_with_pod(&world).await;
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
    until_nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaning_deletion_keeps_agents_and_data_and_another_cluster_takes_them_over() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    let before = world.deployment().await;
    world.delete(&DeleteParams::orphan()).await;
    world.until_gone::<StreamHouseCluster>("main").await;
    let kept = world
        .until("an event", || async {
            world.events("DataRetained").await.into_iter().next()
        })
        .await;
    assert!(kept.contains("Orphan"), "{kept}");
    let orphan = world.deployment().await;
    assert_eq!(orphan.uid(), before.uid());
    assert!(orphan.metadata.deletion_timestamp.is_none() && orphan.owner_references().is_empty());
    assert_eq!(world.sql("SELECT count(*) FROM cluster").await, "1");

    let next = world.create(json!({})).await;
    let adopted = world
        .object_where::<Deployment>("main-agent", |found| !found.owner_references().is_empty())
        .await;
    assert_eq!(adopted.uid(), before.uid());
    assert_eq!(Some(&adopted.owner_references()[0].uid), next.uid().as_ref());
}

/// Reconciliations that began before the deletion write while the garbage collector removes the
/// owner references.
#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_that_began_before_does_not_take_orphans_back() {
    let mut world = ClusterTestEnvironment::new().await;
    for round in 0..5 {
        world.create(json!({})).await;
        world
            .object_where::<Deployment>("main-agent", |found| !found.owner_references().is_empty())
            .await;
        world
            .patch_spec(json!({ "agents": { "replicas": 3 + round } }))
            .await;
        world.delete(&DeleteParams::orphan()).await;
        world.until_gone::<StreamHouseCluster>("main").await;
        // Running reconciliations finish.
        world.stop().await;
        let left = world
            .api_of::<Deployment>()
            .get_opt("main-agent")
            .await
            .unwrap()
            .expect("the agents keep running");
        assert!(left.owner_references().is_empty(), "round {round}: {left:?}");
        world.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_cannot_start_is_made_again_with_a_corrected_image() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    world.delete(&DeleteParams::background()).await;
    let wrong = purge_with_pod(&world).await;
    world
        .patch_spec(json!({ "image": { "tag": "1.2.3-corrected" } }))
        .await;
    world.until_gone::<Job>(&wrong.name_any()).await;
    let corrected = purge_with_pod(&world).await;
    let pod = corrected.spec.unwrap().template.spec.unwrap();
    assert_eq!(
        pod.containers[0].image.as_deref(),
        Some("streamhouse/agent:1.2.3-corrected")
    );
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
    until_nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_kept_after_all_is_kept_and_the_purge_is_removed() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    world.delete(&DeleteParams::background()).await;
    purge_with_pod(&world).await;
    world
        .annotate(json!({ "streamhouse.io/confirm-deletion": null }))
        .await;
    world.until_gone::<StreamHouseCluster>("main").await;
    until_nothing_is_left(&world).await;
    assert_eq!(world.events("DataRetained").await.len(), 1);
}

/// Every right in the namespace but that to read the namespace itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_may_not_read_namespaces_deletes_the_data_all_the_same() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    let all = |groups: &[&str], resources: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": ["*"] });
    let groups = [
        "streamhouse.io",
        "apps",
        "batch",
        "autoscaling",
        "networking.k8s.io",
        "policy",
        "events.k8s.io",
        // Other tests install these APIs on the same server.
        "cert-manager.io",
        "gateway.networking.k8s.io",
        "monitoring.coreos.com",
    ];
    let core = [
        "configmaps",
        "services",
        "serviceaccounts",
        "secrets",
        "pods",
        "events",
    ];
    let role =
        json!({ "metadata": { "name": "operator" }, "rules": [all(&groups, &["*"]), all(&[""], &core)] });
    let role: Role = serde_json::from_value(role).unwrap();
    let binding = json!({ "metadata": { "name": "operator" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": world.namespace }] });
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    world
        .api_of()
        .create(&PostParams::default(), &role)
        .await
        .unwrap();
    world
        .api_of()
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    let kubeconfig = world.api.kubeconfig_for(&world.namespace, &[]).unwrap();
    world.context.client = environment::client(&kubeconfig).await;
    world.start();
    world.create_confirmed().await;
    world.delete(&DeleteParams::background()).await;
    purge_with_pod(&world).await;
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
    assert_eq!(world.events("DataDeleted").await.len(), 1);
}

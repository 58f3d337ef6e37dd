//! Deletion of a cluster: it never blocks, and data is deleted only after a confirmation.

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Namespace};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use streamhouse_operator::{
    crd::{StreamHouseCluster, Topic},
    metadata_stores::ClusterKey,
};

use crate::environment::ClusterTestEnvironment;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_cluster_with_topics_never_blocks_and_its_metadata_is_kept() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    let topic = json!({ "apiVersion": "streamhouse.io/v1alpha1", "kind": "Topic", "metadata": { "name": "orders" },
        "spec": { "clusterRef": { "name": "main" } } });
    let topic: Topic = serde_json::from_value(topic).unwrap();
    world
        .api_of()
        .create(&PostParams::default(), &topic)
        .await
        .unwrap();
    world.deployment().await;
    world.delete(&DeleteParams::default()).await;
    world.until_gone::<StreamHouseCluster>("main").await;
    world.until_gone::<Deployment>("main-agent").await;
    assert_eq!(world.sql("SELECT count(*) FROM cluster").await, "1");
    let key = ClusterKey::new(&world.namespace, "main");
    world
        .until("the end of its store", || async {
            world.context.stores.get(&key).is_none().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_deletion_keeps_the_data_and_says_so() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({ "deletionPolicy": "Delete" })).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world.delete(&DeleteParams::default()).await;
    world.until_gone::<StreamHouseCluster>("main").await;
    let kept = world
        .until("an event", || async {
            world.events("DataRetained").await.into_iter().next()
        })
        .await;
    assert!(kept.contains("streamhouse.io/confirm-deletion"), "{kept}");
    assert_eq!(world.sql("SELECT count(*) FROM cluster").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_deletion_stops_the_agents_and_waits_for_the_purge() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    world.delete(&DeleteParams::default()).await;
    world.until_gone::<Deployment>("main-agent").await;
    let job = world
        .until("the purge", || async {
            let jobs = world
                .api_of::<Job>()
                .list(&ListParams::default())
                .await
                .unwrap()
                .items;
            jobs.into_iter()
                .find(|job| job.name_any().starts_with("main-purge"))
        })
        .await;
    let pod = job.spec.unwrap().template.spec.unwrap();
    assert!(
        pod.containers[0]
            .args
            .as_ref()
            .unwrap()
            .iter()
            .any(|argument| argument == "purge")
    );
    assert!(
        world
            .api_of::<StreamHouseCluster>()
            .get_opt("main")
            .await
            .unwrap()
            .is_some()
    );
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
    world
        .until("an event", || async {
            world.events("DataDeleted").await.into_iter().next()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_in_time_also_when_the_operator_was_down() {
    let mut world = ClusterTestEnvironment::new().await;
    world.create(json!({ "deletionPolicy": "Delete" })).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world
        .annotate(json!({ "streamhouse.io/confirm-deletion": "main" }))
        .await;
    world.stop().await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    world
        .until("the namespace's waiting for the cluster's finalizer", || async {
            let cluster = world
                .api_of::<StreamHouseCluster>()
                .get_opt("main")
                .await
                .unwrap()?;
            cluster.metadata.deletion_timestamp.map(drop)
        })
        .await;
    world.restart().await;
    world
        .until("the namespace's end", || async {
            namespaces
                .get_opt(&world.namespace)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    assert_eq!(world.sql("SELECT count(*) FROM cluster").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_another_cluster_is_not_deleted() {
    let world = ClusterTestEnvironment::new().await;
    world.create_confirmed().await;
    let ours = world.sql("SELECT cluster_id FROM cluster").await;
    world.sql("UPDATE cluster SET cluster_id = 'another'").await;
    world.delete(&DeleteParams::default()).await;
    let message = world.condition("Ready", "False", "DeletePending").await;
    assert!(
        message.contains(&ours) && message.contains("another") && message.contains("nothing is deleted"),
        "{message}"
    );
    world.condition("Stalled", "True", "ClusterIdMismatch").await;
    world
        .condition("MetadataReachable", "False", "ClusterIdMismatch")
        .await;
    world.wait_for_reconciles(1).await;
    let purges = || async {
        let all = world.api_of::<Job>().list(&ListParams::default()).await.unwrap();
        let mut jobs = all.items;
        jobs.retain(|job| job.name_any().starts_with("main-purge"));
        jobs
    };
    assert!(purges().await.is_empty());
    world.deployment().await;

    world
        .sql(&format!("UPDATE cluster SET cluster_id = '{ours}'"))
        .await;
    let job = world
        .until("the purge", || async { purges().await.into_iter().next() })
        .await;
    let pod = job.spec.unwrap().template.spec.unwrap();
    let arguments = pod.containers[0].args.clone().unwrap();
    assert_eq!(arguments, ["purge", "--yes", "--cluster-id", &ours]);
    world.end_job("main-purge", true, "").await;
    world.until_gone::<StreamHouseCluster>("main").await;
}

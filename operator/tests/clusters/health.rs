//! Problems are reported with what to do, and never block a fix.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use streamhouse_metadata::{ConnectOptions, connect};

use crate::environment::{ClusterTestEnvironment, agent_registration};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_is_told_in_the_pods_own_words_and_a_fix_applies_at_once() {
    let world = ClusterTestEnvironment::new().await;
    world
        .create(json!({ "image": { "tag": "does-not-exist" } }))
        .await;
    let pod = world
        .until("a pod", || async {
            let labels = ListParams::default().labels("app.kubernetes.io/component=agent");
            world
                .api_of::<Pod>()
                .list(&labels)
                .await
                .unwrap()
                .items
                .into_iter()
                .next()
        })
        .await;
    let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image \"streamhouse/agent:does-not-exist\"" } });
    let container = json!({ "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": waiting });
    let status = json!({ "status": { "phase": "Pending", "containerStatuses": [container] } });
    world
        .api_of::<Pod>()
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let message = world.condition("Degraded", "True", "AgentsUnavailable").await;
    assert!(
        message.contains("ImagePullBackOff")
            && message.contains("does-not-exist")
            && message.contains("docs/install/helm.md#images"),
        "{message}"
    );
    world.patch_spec(json!({ "image": { "tag": "1.2.3" } })).await;
    let fixed = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        pod.containers[0].image.as_deref() == Some("streamhouse/agent:1.2.3")
    };
    world.object_where::<Deployment>("main-agent", fixed).await;
    world.make_agents_ready().await;
    world.condition("Degraded", "False", "Healthy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_stays_ready_while_it_serves_whatever_else_is_wrong() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({ "agents": { "replicas": 3 } })).await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    world.condition("Stalled", "False", "NotStalled").await;

    // One of three agents is enough fewer: as many as a disruption leaves.
    let labels = ListParams::default().labels("app.kubernetes.io/component=agent");
    let pods = world.api_of::<Pod>().list(&labels).await.unwrap().items;
    let condition = json!([{ "type": "Ready", "status": "False" }]);
    let status = json!({ "status": { "phase": "Running", "conditions": condition } });
    for (pod, message) in pods
        .iter()
        .zip(["2 of 3 agents are available", "1 of 3 agents are available"])
    {
        world
            .api_of::<Pod>()
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
        world
            .until(message, || async {
                let conditions = world.cluster().await.status?.conditions;
                let ready = conditions
                    .into_iter()
                    .find(|condition| condition.type_ == "Ready")?;
                (ready.message == message).then_some(ready.status)
            })
            .await;
        let ready = if message.starts_with('2') { "True" } else { "False" };
        let reason = if message.starts_with('2') {
            "AgentsReady"
        } else {
            "AgentsNotReady"
        };
        world.condition("Ready", ready, reason).await;
    }
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;

    // What only the user can mend stalls the cluster; its agents serve on.
    world
        .patch_spec(json!({ "agents": { "settings": { "leaseTtl": "1ms" } } }))
        .await;
    world.condition("Stalled", "True", "InvalidSpec").await;
    world.condition("Ready", "True", "AgentsReady").await;
    let blocked = world
        .context
        .metrics
        .reconciles
        .with_label_values(&["StreamHouseCluster", "blocked"]);
    assert!(blocked.get() >= 1);
    world.patch_spec(json!({ "agents": { "settings": null } })).await;
    world.condition("Stalled", "False", "NotStalled").await;
    world.condition("Degraded", "False", "Healthy").await;

    // Partitions that nobody leads are not served.
    let store = connect(&world.database, &ConnectOptions::default())
        .await
        .unwrap();
    for agent in store.snapshot(None).await.unwrap().unwrap().agents {
        store.seal(agent.incarnation).await.unwrap();
    }
    let message = world.condition("Ready", "False", "PartitionsLeaderless").await;
    assert!(message.contains("3 of 3 agents are available"), "{message}");
    world.lead_partitions().await;
    world.condition("Ready", "True", "AgentsReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_is_an_error_for_the_alerts_and_is_asked_ever_less_often() {
    let world = ClusterTestEnvironment::new().await;
    world
        .write_secret("metadata", &[("uri", "postgres://u:p@127.0.0.1:1/nothing")])
        .await;
    world.create(json!({})).await;
    world
        .condition("MetadataReachable", "False", "MetadataUnreachable")
        .await;
    world.condition("Ready", "False", "MetadataUnreachable").await;
    world.condition("Stalled", "False", "NotStalled").await;
    let metrics = &world.context.metrics;
    let failing = metrics.failing.with_label_values(&["StreamHouseCluster"]);
    world
        .until("a failing cluster", || async {
            (failing.get() == 1).then_some(())
        })
        .await;
    world.wait_for_reconciles(3).await;
    let errors = metrics
        .reconciles
        .with_label_values(&["StreamHouseCluster", "error"]);
    assert!(errors.get() >= 3);
    let ok = metrics
        .reconciles
        .with_label_values(&["StreamHouseCluster", "ok"]);
    assert_eq!(ok.get(), 0);
    world.write_secret("metadata", &[("uri", &world.database)]).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world
        .until("no failing cluster", || async {
            (failing.get() == 0).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_cannot_be_is_named_and_agents_that_run_are_left_as_they_are() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    let before = world.deployment().await;
    world
        .patch_spec(json!({ "agents": { "settings": { "leaseTtl": "1ms" } } }))
        .await;
    let message = world.condition("Ready", "False", "InvalidSpec").await;
    assert!(message.contains("leaseTtl"), "{message}");
    assert_eq!(
        world.deployment().await.metadata.generation,
        before.metadata.generation
    );
    world.patch_spec(json!({ "agents": { "settings": null } })).await;
    world.condition("Ready", "False", "AgentsNotReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_noticed_when_it_comes() {
    let world = ClusterTestEnvironment::new().await;
    world
        .create(json!({ "postgresql": { "connectionSecret": { "name": "later", "key": "dsn" } } }))
        .await;
    let message = world
        .condition("MetadataReachable", "False", "SecretMissing")
        .await;
    assert!(message.contains("later"), "{message}");
    world.write_secret("later", &[("uri", &world.database)]).await;
    let message = world
        .until("a message that names the key", || async {
            let message = world
                .condition("MetadataReachable", "False", "SecretMissing")
                .await;
            message.contains("dsn").then_some(message)
        })
        .await;
    assert!(!message.contains("postgres://"), "{message}");
    world.write_secret("later", &[("dsn", &world.database)]).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_no_certificate_is_named_and_keeps_agents_from_starting() {
    let world = ClusterTestEnvironment::new().await;
    world.write_secret("authority", &[("ca.crt", "hunter2")]).await;
    let storage = json!({ "caSecret": { "name": "authority" } });
    world.create(json!({ "objectStorage": storage })).await;
    let message = world
        .condition("StorageReachable", "False", "InvalidSecret")
        .await;
    assert!(
        message.contains("Secret authority, key ca.crt") && !message.contains("hunter2"),
        "{message}"
    );
    world.condition("Stalled", "True", "InvalidSecret").await;
    world.wait_for_reconciles(1).await;
    let agents = world.api_of::<Deployment>().get_opt("main-agent").await;
    assert!(agents.unwrap().is_none());
    world
        .patch_spec(json!({ "objectStorage": { "caSecret": null } }))
        .await;
    world.deployment().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_is_told_without_its_password() {
    let world = ClusterTestEnvironment::new().await;
    world
        .write_secret(
            "metadata",
            &[("uri", "postgres://streamhouse:hunter2@127.0.0.1:1/nothing")],
        )
        .await;
    world.create(json!({})).await;
    let message = world
        .condition("MetadataReachable", "False", "MetadataUnreachable")
        .await;
    assert!(!message.contains("hunter2"), "{message}");
    let cluster = serde_json::to_string(&world.cluster().await).unwrap();
    assert!(!cluster.contains("hunter2"));
    // The agents are deployed all the same: they wait for the database as well.
    world.deployment().await;
    world.write_secret("metadata", &[("uri", &world.database)]).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_too_new_is_refused_and_running_agents_are_not_replaced() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    let before = world.deployment().await;
    world
        .sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', true, '\\x00', 0)")
        .await;
    let message = world
        .condition("MetadataReachable", "False", "SchemaTooNew")
        .await;
    assert!(message.contains("9999"), "{message}");
    world.patch_spec(json!({ "version": "1.2.2" })).await;
    world.condition("Ready", "False", "SchemaTooNew").await;
    world.wait_for_reconciles(1).await;
    assert_eq!(
        world.deployment().await.metadata.generation,
        before.metadata.generation
    );
    world
        .sql("DELETE FROM _sqlx_migrations WHERE version = 9999")
        .await;
    let rolled = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        pod.containers[0].image.as_deref() == Some("streamhouse/agent:1.2.2")
    };
    world.object_where::<Deployment>("main-agent", rolled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_cluster_is_refused_before_anything_in_it_is_changed() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    let ours = world.sql("SELECT cluster_id FROM cluster").await;
    let before = world.deployment().await;
    world
        .sql("UPDATE cluster SET cluster_id = 'another'; DELETE FROM _sqlx_migrations WHERE version > 1")
        .await;
    world.patch_spec(json!({ "version": "1.2.2" })).await;
    let message = world
        .condition("MetadataReachable", "False", "ClusterIdMismatch")
        .await;
    assert!(
        message.contains(&ours) && message.contains("another") && message.contains("spec.postgresql"),
        "{message}"
    );
    world.condition("Ready", "False", "ClusterIdMismatch").await;
    world.wait_for_reconciles(1).await;
    let migrations = world.sql("SELECT count(*)::text FROM _sqlx_migrations").await;
    assert_eq!(migrations, "1", "nothing was migrated");
    assert_eq!(
        world.deployment().await.metadata.generation,
        before.metadata.generation
    );
    let status = world.cluster().await.status.unwrap();
    assert_eq!(
        status.cluster_id,
        Some(ours.clone()),
        "the id in the status is kept"
    );
    world
        .sql("ALTER TABLE cluster RENAME TO away; ALTER TABLE _sqlx_migrations RENAME TO gone")
        .await;
    let message = world
        .until("an empty database is refused, too", || async {
            let message = world
                .condition("MetadataReachable", "False", "ClusterIdMismatch")
                .await;
            message.contains("is empty").then_some(message)
        })
        .await;
    assert!(message.contains(&ours), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_used_is_told_in_the_agents_words_and_checked_again_with_other_settings() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world
        .end_job(
            "main-preflight",
            false,
            "error: s3://records: access denied: check the credentials",
        )
        .await;
    let message = world
        .condition("StorageReachable", "False", "StorageUnreachable")
        .await;
    assert!(message.contains("access denied"), "{message}");
    world.condition("Degraded", "True", "StorageUnreachable").await;
    world
        .patch_spec(json!({ "objectStorage": { "region": "eu-central-1" } }))
        .await;
    world
        .condition("StorageReachable", "Unknown", "StorageCheckRunning")
        .await;
    world.end_job("main-preflight", true, "").await;
    world
        .condition("StorageReachable", "True", "StorageVerified")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_agent_whose_pod_has_ended_is_ended() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    let pod = world
        .until("a pod", || async {
            let labels = ListParams::default().labels("app.kubernetes.io/component=agent");
            let pods = world.api_of::<Pod>().list(&labels).await.unwrap().items;
            pods.into_iter().next()
        })
        .await;
    let store = connect(&world.database, &ConnectOptions::default())
        .await
        .unwrap();
    store
        .register_agent(&agent_registration(&pod.name_any()))
        .await
        .unwrap();
    let other = store
        .register_agent(&agent_registration("elsewhere"))
        .await
        .unwrap();
    let status = json!({ "status": { "phase": "Failed", "reason": "Evicted" } });
    world
        .api_of::<Pod>()
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    world
        .until("its incarnation is sealed", || async {
            let agents = store.snapshot(None).await.unwrap().unwrap().agents;
            let lives: Vec<_> = agents.iter().map(|agent| agent.incarnation).collect();
            (lives == [other.incarnation]).then_some(())
        })
        .await;
}

//! Upgrades of the metadata schema: what is migrated, what is waited for, and what is refused.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;
use streamhouse_metadata::{
    AgentRegistration, ConnectOptions, Incarnation, MetadataStore, MigrationRequest, SCHEMA_WINDOW,
    SchemaWindow, connect, migrate_to,
};
use streamhouse_operator::metadata_stores::{ClusterKey, StoreAccess};

use crate::environment::{ClusterTestEnvironment, agent_registration};

const OLDEST: i64 = SCHEMA_WINDOW.min;

impl ClusterTestEnvironment {
    /// Migrates the database as a build does that knows no later version.
    async fn migrate_to(&self, version: i64) {
        let request = MigrationRequest {
            to: Some(version),
            ..MigrationRequest::default()
        };
        migrate_to(&self.database, &ConnectOptions::default(), &request)
            .await
            .unwrap();
    }

    /// Registers an agent of a build that knows only the oldest version.
    async fn register_old_agent(&self) -> Incarnation {
        let old = ConnectOptions {
            schema: SchemaWindow {
                min: OLDEST,
                max: OLDEST,
            },
            ..ConnectOptions::default()
        };
        let store = connect(&self.database, &old).await.unwrap();
        let registered = store
            .register_agent(&AgentRegistration {
                version: "0.0.9".to_owned(),
                ..agent_registration("agent-old")
            })
            .await
            .unwrap();
        registered.incarnation
    }

    /// Waits until the status has this version of the schema.
    async fn schema_version(&self, version: i64) {
        self.until(&format!("schema version {version}"), || async {
            let status = self.cluster().await.status?;
            (status.schema_version == Some(version)).then_some(())
        })
        .await;
        let stored = self.sql("SELECT max(version)::text FROM _sqlx_migrations").await;
        assert_eq!(stored, version.to_string());
    }

    fn open_store(&self) -> Option<std::sync::Arc<dyn MetadataStore>> {
        match self.context.stores.get(&ClusterKey::new(&self.namespace, "main")) {
            Some(StoreAccess::Open(store)) => Some(store),
            _ => None,
        }
    }
}

fn image(deployment: &Deployment) -> String {
    let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    pod.containers[0].image.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_newer_than_the_operator_changes_nothing_and_topics_go_on() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    let before = world.deployment().await;
    world.patch_spec(json!({ "version": "1.3.0" })).await;
    let message = world.condition("Degraded", "True", "VersionTooNew").await;
    assert!(
        message.contains("1.3.0") && message.contains("1.2.3") && message.contains("upgrade the operator"),
        "{message}"
    );
    world.condition("Stalled", "True", "VersionTooNew").await;
    world.condition("Ready", "True", "AgentsReady").await;
    world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    world.wait_for_reconciles(1).await;
    let after = world.deployment().await;
    assert_eq!(after.metadata.generation, before.metadata.generation);
    world.open_store().unwrap().ping().await.unwrap();
    let status = world.cluster().await.status.unwrap();
    assert_eq!(status.schema_version, Some(SCHEMA_WINDOW.max));
    assert_eq!(
        status.version.as_deref(),
        Some("1.2.3"),
        "the status has a version that no agent runs"
    );
    let mut conditions = status.conditions.iter();
    let storage = conditions.find(|condition| condition.type_ == "StorageReachable");
    assert_eq!(
        storage.unwrap().status,
        "True",
        "the last check of the bucket is kept"
    );
    // An older release that runs on the same schema is rolled out.
    world.patch_spec(json!({ "version": "1.2.2" })).await;
    world
        .object_where::<Deployment>("main-agent", |now| image(now).ends_with(":1.2.2"))
        .await;
    world.make_agents_ready().await;
    world.condition("Degraded", "False", "Healthy").await;
    world.condition("Stalled", "False", "NotStalled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_version_is_not_rolled_out_when_the_database_goes_away() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({})).await;
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.patch_spec(json!({ "version": "1.3.0" })).await;
    world.condition("Stalled", "True", "VersionTooNew").await;
    let before = world.deployment().await;
    world
        .write_secret("metadata", &[("uri", "postgres://streamhouse@127.0.0.1:1/none")])
        .await;
    world
        .condition("MetadataReachable", "False", "MetadataUnreachable")
        .await;
    world.wait_for_reconciles(1).await;
    let after = world.deployment().await;
    assert_eq!(after.metadata.generation, before.metadata.generation);
    assert!(image(&after).ends_with(":1.2.3"), "{}", image(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_refused_also_while_the_database_is_down() {
    let world = ClusterTestEnvironment::new().await;
    world
        .write_secret("metadata", &[("uri", "postgres://streamhouse@127.0.0.1:1/none")])
        .await;
    for (version, reason) in [("1.3.0", "VersionTooNew"), ("0.0.9", "VersionNotSupported")] {
        if version == "1.3.0" {
            world.create(json!({ "version": version })).await;
        } else {
            world.patch_spec(json!({ "version": version })).await;
        }
        world.condition("Degraded", "True", reason).await;
        world.condition("Stalled", "True", reason).await;
        world
            .condition("MetadataReachable", "False", "MetadataUnreachable")
            .await;
        world.wait_for_reconciles(1).await;
        let agents = world.api_of::<Deployment>().get_opt("main-agent").await;
        assert!(agents.unwrap().is_none(), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_no_schema_suits_migrates_nothing() {
    let world = ClusterTestEnvironment::new().await;
    world.create(json!({ "version": "0.0.9" })).await;
    let message = world
        .condition("MetadataReachable", "False", "VersionNotSupported")
        .await;
    assert!(
        message.contains("0.0.9") && message.contains("spec.version"),
        "{message}"
    );
    world.condition("Ready", "False", "VersionNotSupported").await;
    world.condition("Stalled", "True", "VersionNotSupported").await;
    world.wait_for_reconciles(1).await;
    let stored = world
        .sql("SELECT (to_regclass('_sqlx_migrations') IS NULL)::text")
        .await;
    assert_eq!(stored, "true");
    assert!(
        world
            .api_of::<Deployment>()
            .get_opt("main-agent")
            .await
            .unwrap()
            .is_none()
    );
    world.patch_spec(json!({ "version": null })).await;
    world.schema_version(SCHEMA_WINDOW.max).await;
    world.deployment().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_migrated_when_the_last_old_agent_has_ended() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    world.migrate_to(OLDEST).await;
    let old = world.register_old_agent().await;
    world.start();
    world.create(json!({})).await;
    let message = world
        .condition("MetadataReachable", "True", "MetadataMigrated")
        .await;
    assert!(
        message.contains("schema version 5; version 6 follows") && message.contains("agent-old"),
        "{message}"
    );
    world.schema_version(OLDEST).await;
    // The new agents are rolled out meanwhile: they run on both.
    assert_eq!(image(&world.deployment().await), "streamhouse/agent:1.2.3");
    world.open_store().unwrap().seal(old).await.unwrap();
    world.schema_version(SCHEMA_WINDOW.max).await;
    assert_eq!(
        world.events("SchemaMigrated").await,
        [format!("metadata schema 5 -> {}", SCHEMA_WINDOW.max)]
    );
    world.open_store().unwrap().snapshot(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_keeps_the_way_back_open() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    world.migrate_to(OLDEST).await;
    let mut held = world.minimal_cluster(json!({}));
    held.annotations_mut()
        .insert("streamhouse.io/max-schema-version".to_owned(), OLDEST.to_string());
    world
        .api_of()
        .create(&kube::api::PostParams::default(), &held)
        .await
        .unwrap();
    world.start();
    world.schema_version(OLDEST).await;
    world.wait_for_reconciles(1).await;
    world.schema_version(OLDEST).await;
    world
        .annotate(json!({ "streamhouse.io/max-schema-version": null }))
        .await;
    world.schema_version(SCHEMA_WINDOW.max).await;
}

/// A schema that this operator does not run on, and an agent that runs on no later one.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_would_cut_a_live_agent_off_is_blocked() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    world.migrate_to(OLDEST - 1).await;
    world
        .sql(
            "INSERT INTO agents (agent_id, node_id, grpc_address, http_address, kafka_address, zone, version, lease_ttl_ms, \
             lease_expires_at) VALUES ('agent-old', 1, '', '', '', '', '0.0.9', 10000, now() + interval '1 h')",
        )
        .await;
    world.start();
    world.create(json!({})).await;
    let message = world
        .condition("Degraded", "True", "SchemaMigrationBlocked")
        .await;
    let window = format!("versions {OLDEST} to {}", SCHEMA_WINDOW.max);
    for part in ["agent-old", "version 4", window.as_str()] {
        assert!(message.contains(part), "{message}");
    }
    world.wait_for_reconciles(1).await;
    let stored = world.sql("SELECT max(version)::text FROM _sqlx_migrations").await;
    assert_eq!(stored, (OLDEST - 1).to_string(), "nothing was migrated");
    assert!(world.open_store().is_none());
    world.sql("UPDATE agents SET sealed_at = now()").await;
    world.schema_version(SCHEMA_WINDOW.max).await;
    world.deployment().await;
}

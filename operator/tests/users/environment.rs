//! A namespace with a cluster, its database and an operator that watches it. Every test has its
//! own.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use streamhouse_core::{
    security::{ScramCredential, ScramKeys},
    time::{system_clock, system_entropy},
};
use streamhouse_metadata::{ConnectOptions, MetadataStore, UserRows};
use streamhouse_operator::{
    apis::OptionalApis,
    conditions::find_condition,
    context::{ClusterDefaults, OperatorContext, WatchScope},
    crd::{ConditionType, FINALIZER, StreamHouseCluster, User, definition_documents},
    metadata_stores::{ClusterKey, MetadataStores, StoreAccess},
    metrics::OperatorMetrics,
    user,
};
use streamhouse_testkit::{KubeApi, Postgres};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    crash_points::{CrashPoint, CrashingStore},
    crashing_api::crashing_client,
};

/// Long enough for the slowest machine.
const EVENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Name of the cluster.
const CLUSTER: &str = "main";
/// A drift interval that no test reaches.
pub(crate) const LONG_DRIFT_INTERVAL: Duration = Duration::from_secs(86_400);
/// A drift interval for tests of changes that no watch reports.
pub(crate) const SHORT_DRIFT_INTERVAL: Duration = Duration::from_millis(500);

/// The environment of one test.
pub(crate) struct UserTestEnvironment {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) users: Api<User>,
    pub(crate) secrets: Api<Secret>,
    pub(crate) store: Arc<dyn MetadataStore>,
}

/// A running operator; dropping it aborts the operator, as if killed.
pub(crate) struct TestOperator {
    pub(crate) context: OperatorContext,
    task: JoinHandle<()>,
}

impl Drop for TestOperator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestOperator {
    /// Aborts the operator as a crash would, and waits for its end.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    /// Returns the sum of a counter over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}

fn shared() -> &'static KubeApi {
    static READY: OnceLock<&'static KubeApi> = OnceLock::new();
    READY.get_or_init(|| {
        let api = KubeApi::shared().unwrap();
        let documents = definition_documents().unwrap().into_iter();
        let texts: Vec<String> = documents.map(|(_, text)| text).collect();
        api.apply(&texts.join("\n---\n")).unwrap();
        let wait = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/users.streamhouse.io",
            "crd/streamhouseclusters.streamhouse.io",
        ];
        api.kubectl(&wait).unwrap();
        api
    })
}

impl UserTestEnvironment {
    /// Creates an environment with a cluster and its open metadata store.
    pub(crate) async fn new(name: &str) -> Self {
        let world = Self::without_cluster(name).await;
        world.create_cluster().await;
        world
    }

    pub(crate) async fn without_cluster(name: &str) -> Self {
        // The first test of the process installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = shared();
        let namespace = api.create_namespace(name).unwrap();
        let url = Postgres::shared().unwrap().create_database(&namespace).unwrap();
        let options = ConnectOptions {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(30),
            ..ConnectOptions::default()
        };
        streamhouse_metadata::migrate(&url, &options).await.unwrap();
        let store = streamhouse_metadata::connect(&url, &options).await.unwrap();
        let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        Self {
            users: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
            store,
        }
    }

    pub(crate) fn key(&self) -> ClusterKey {
        ClusterKey::new(&self.namespace, CLUSTER)
    }

    pub(crate) fn clusters(&self) -> Api<StreamHouseCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn create_cluster(&self) {
        let cluster = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
            "metadata": { "name": CLUSTER },
            "spec": {
                "postgresql": { "connectionSecret": { "name": "postgres" } },
                "objectStorage": { "bucket": "records" },
                "listeners": { "kafka": { "enabled": true } },
                "authentication": { "mechanisms": ["SCRAM-SHA-256"] }
            }
        });
        let cluster = serde_json::from_value(cluster).unwrap();
        let created = self.clusters().create(&PostParams::default(), &cluster).await;
        created.unwrap();
        self.set_kafka_address("main-kafka:9092").await;
    }

    /// Sets the address of the Kafka listener as the reconciliation of the cluster would.
    pub(crate) async fn set_kafka_address(&self, address: &str) {
        let listener =
            json!({ "name": "kafka", "type": "internal", "protocol": "kafka", "bootstrap": address });
        let patch = Patch::Merge(json!({ "status": { "listeners": [listener] } }));
        let how = PatchParams::default();
        let clusters = self.clusters();
        clusters.patch_status(CLUSTER, &how, &patch).await.unwrap();
    }

    /// Starts an operator with this access to the metadata store.
    pub(crate) fn start_operator_with(
        &self,
        access: Option<StoreAccess>,
        drift_interval: Duration,
    ) -> TestOperator {
        self.start_operator_by(self.client.clone(), access, drift_interval)
    }

    /// Starts an operator that stops at this point.
    pub(crate) fn start_crashing_operator(&self, point: &Arc<CrashPoint>) -> TestOperator {
        let store = CrashingStore::new(self.store.clone(), point.clone());
        let client = crashing_client(&self.client, point.clone());
        // Soon seen to rest, if it does.
        let drift_interval = Duration::from_millis(50);
        self.start_operator_by(client, Some(StoreAccess::Open(store)), drift_interval)
    }

    fn start_operator_by(
        &self,
        client: Client,
        access: Option<StoreAccess>,
        drift_interval: Duration,
    ) -> TestOperator {
        let stores = Arc::new(MetadataStores::default());
        if let Some(access) = access {
            stores.publish(&self.key(), access);
        }
        let context = OperatorContext {
            client,
            stores,
            apis: Arc::new(OptionalApis::default()),
            scope: WatchScope {
                namespaces: Some(vec![self.namespace.clone()]),
            },
            metrics: Arc::new(OperatorMetrics::new().unwrap()),
            defaults: Arc::new(ClusterDefaults {
                image: "example.invalid/agent".to_owned(),
                version: "0.1.0".to_owned(),
                cluster_domain: "cluster.local".to_owned(),
                monitoring_namespaces: Vec::new(),
            }),
            drift_interval,
            clock: system_clock(),
            entropy: system_entropy(),
            instance: Some("a-test".to_owned()),
        };
        let task = tokio::spawn(user::run(context.clone(), CancellationToken::new()));
        TestOperator { context, task }
    }

    pub(crate) fn open_access(&self) -> StoreAccess {
        StoreAccess::Open(self.store.clone())
    }

    pub(crate) fn start_operator(&self) -> TestOperator {
        self.start_operator_with(Some(self.open_access()), LONG_DRIFT_INTERVAL)
    }

    /// Acts like `kubectl apply --server-side`. Without `authentication` the User has that of a
    /// generated password.
    pub(crate) async fn try_apply(&self, name: &str, spec: Value) -> kube::Result<User> {
        let mut manifest = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "User", "metadata": { "name": name },
            "spec": { "clusterRef": { "name": CLUSTER }, "authentication": { "type": "scram" } }
        });
        for (key, value) in spec.as_object().unwrap() {
            manifest["spec"][key] = value.clone();
        }
        let how = PatchParams::apply("a-person");
        self.users.patch(name, &how, &Patch::Apply(manifest)).await
    }

    pub(crate) async fn apply(&self, name: &str, spec: Value) -> User {
        self.try_apply(name, spec).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Option<User> {
        self.users.get_opt(name).await.unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.users.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits for the Ready condition of the present spec.
    pub(crate) async fn until_ready_is(&self, name: &str, status: &str, reason: &str) -> User {
        let generation = self.get(name).await.unwrap().metadata.generation;
        let holds = |user: Option<&User>| {
            user.is_some_and(|user| {
                ready(user) == (status, reason)
                    && user.status.as_ref().unwrap().observed_generation >= generation
            })
        };
        let waiting = await_condition(self.users.clone(), name, holds);
        match tokio::time::timeout(EVENT_TIMEOUT, waiting).await {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => panic!("{name} is not {status} {reason}: {:#?}", self.get(name).await),
        }
    }

    pub(crate) async fn until_ready(&self, name: &str) -> User {
        self.until_ready_is(name, "True", "Reconciled").await
    }

    /// Waits until the User is deleted from the API server.
    pub(crate) async fn until_gone(&self, name: &str) {
        eventually(&format!("the end of {name}"), async || {
            self.get(name).await.is_none()
        })
        .await;
    }

    /// Returns the rows of a user that has an owner, with its owner.
    pub(crate) async fn owned(&self, user_name: &str) -> Option<(String, UserRows)> {
        let owned = self.store.list_owned_users("").await.unwrap();
        owned.into_iter().find(|(_, rows)| rows.user_name == user_name)
    }

    /// Returns the rows of a user that has an owner.
    pub(crate) async fn rows(&self, user_name: &str) -> Option<UserRows> {
        self.owned(user_name).await.map(|(_, rows)| rows)
    }

    /// Returns whether the password is that of the user for every mechanism.
    pub(crate) async fn accepts(&self, user_name: &str, password: &str) -> bool {
        let rows = self.rows(user_name).await;
        let credentials = rows.map(|rows| rows.credentials).unwrap_or_default();
        !credentials.is_empty()
            && credentials.iter().all(|row| {
                let keys = ScramKeys {
                    stored: row.stored_key.clone(),
                    server: row.server_key.clone(),
                };
                let iterations = u32::try_from(row.iterations).unwrap();
                let mechanism = row.mechanism.parse().unwrap();
                let credential = ScramCredential::from_keys(mechanism, row.salt.clone(), iterations, keys);
                credential.unwrap().is_password(password)
            })
    }

    /// Returns the content of a Secret.
    pub(crate) async fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let found = self.secrets.get_opt(name).await.unwrap()?;
        let data = found.data.unwrap_or_default().into_iter();
        Some(
            data.map(|(key, value)| (key, String::from_utf8(value.0).unwrap()))
                .collect(),
        )
    }

    /// Writes a Secret as a person would.
    pub(crate) async fn put_secret(&self, name: &str, data: Value) {
        let manifest =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        let how = PatchParams::apply("a-person").force();
        self.secrets
            .patch(name, &how, &Patch::Apply(manifest))
            .await
            .unwrap();
    }

    /// Returns the reasons and messages of the events on this User, oldest first.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut found = events.list(&ListParams::default()).await.unwrap().items;
        found.retain(|event| event.regarding.as_ref().unwrap().name.as_deref() == Some(name));
        found.sort_by(|a, b| a.event_time.cmp(&b.event_time));
        let text = |text: Option<String>| text.unwrap_or_default();
        found
            .into_iter()
            .map(|event| (text(event.reason), text(event.note)))
            .collect()
    }

    /// Waits for events with these reasons and asserts that there are no others.
    pub(crate) async fn until_events_are(&self, name: &str, reasons: &[&str]) {
        let what = format!("the events {reasons:?} of {name}");
        eventually(&what, async || self.events(name).await.len() >= reasons.len()).await;
        let events = self.events(name).await;
        let found: Vec<&str> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(found, reasons, "{events:?}");
    }

    /// Waits until the operators write nothing although each of them reads.
    pub(crate) async fn until_rest(&self, operators: &[&TestOperator]) {
        let sums = |name: &str| -> Vec<f64> { operators.iter().map(|operator| operator.sum(name)).collect() };
        let writes = || sums("streamhouse_operator_api_writes_total");
        let looks = || sums("streamhouse_operator_metadata_queries_total");
        eventually("rest", async || {
            let (before, seen) = (writes(), looks());
            let version = self.store.load_security().await.unwrap().version;
            eventually("three more looks", async || {
                looks().iter().zip(&seen).all(|(now, seen)| *now >= seen + 3.0)
            })
            .await;
            writes() == before && self.store.load_security().await.unwrap().version == version
        })
        .await;
    }
}

/// Returns the status and reason of the Ready condition.
pub(crate) fn ready(user: &User) -> (&str, &str) {
    let conditions = user.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find_condition(conditions, ConditionType::Ready).map_or(("", ""), |ready| (&ready.status, &ready.reason))
}

/// Returns the message of the Ready condition.
pub(crate) fn message(user: &User) -> &str {
    let conditions = user.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find_condition(conditions, ConditionType::Ready).map_or("", |ready| &ready.message)
}

pub(crate) fn has_finalizer(user: &User) -> bool {
    let mut finalizers = user.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == FINALIZER)
}

/// Polls until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut ask = tokio::time::interval(Duration::from_millis(20));
    let waited = tokio::time::timeout(EVENT_TIMEOUT, async {
        while !holds().await {
            ask.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come");
}

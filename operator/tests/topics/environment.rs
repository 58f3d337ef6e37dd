//! A namespace with a cluster, its database and an operator that watches it. Every test has its
//! own.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use streamhouse_core::time::{system_clock, system_entropy};
use streamhouse_metadata::{ConnectOptions, MetadataStore, NewTopic, TopicSummary, TopicsOverview};
use streamhouse_operator::{
    apis::OptionalApis,
    conditions::find_condition,
    context::{ClusterDefaults, OperatorContext, WatchScope},
    crd::{ConditionType, FINALIZER, Topic, definition_documents},
    metadata_stores::{ClusterKey, MetadataStores, StoreAccess},
    metrics::OperatorMetrics,
    topic,
};
use streamhouse_testkit::{KubeApi, Postgres};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for the slowest machine.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Name of the cluster.
pub(crate) const CLUSTER: &str = "main";
/// A drift interval that no test reaches.
pub(crate) const LONG_DRIFT_INTERVAL: Duration = Duration::from_secs(86_400);
/// A drift interval for tests without changes.
pub(crate) const SHORT_DRIFT_INTERVAL: Duration = Duration::from_millis(500);

/// The environment of one test.
pub(crate) struct TopicTestEnvironment {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) topics: Api<Topic>,
    pub(crate) store: Arc<dyn MetadataStore>,
}

/// A running operator; dropping it aborts the operator, as if killed.
pub(crate) struct TestOperator {
    pub(crate) context: OperatorContext,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for TestOperator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestOperator {
    /// Stops the operator as a signal would; its metrics can still be read.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }

    /// Aborts the operator as a crash would, and waits for its end.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Returns the sum of a counter over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub(crate) fn publish_access(&self, world: &TopicTestEnvironment, access: StoreAccess) {
        self.context.stores.publish(&world.key(), access);
    }
}

/// Creates a client of this server. Each runtime needs its own.
pub(crate) async fn client(api: &KubeApi) -> Client {
    // The first test of the process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Returns the shared API server with the definitions installed.
fn shared() -> &'static KubeApi {
    static READY: OnceLock<&'static KubeApi> = OnceLock::new();
    READY.get_or_init(|| {
        let api = KubeApi::shared().unwrap();
        install(api);
        api
    })
}

/// Installs the definitions as a user would and waits until they are served.
pub(crate) fn install(api: &KubeApi) {
    let definitions: Vec<String> = definition_documents()
        .unwrap()
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    api.apply(&definitions.join("\n---\n")).unwrap();
    api.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/topics.streamhouse.io",
        "crd/streamhouseclusters.streamhouse.io",
    ])
    .unwrap();
}

/// Creates an empty, migrated database on this server.
pub(crate) async fn database(postgres: &Postgres, name: &str) -> Arc<dyn MetadataStore> {
    let url = postgres.create_database(name).unwrap();
    let options = ConnectOptions {
        max_connections: 8,
        acquire_timeout: Duration::from_secs(30),
        ..ConnectOptions::default()
    };
    streamhouse_metadata::migrate(&url, &options).await.unwrap();
    streamhouse_metadata::connect(&url, &options).await.unwrap()
}

impl TopicTestEnvironment {
    /// Creates an environment with a cluster and its open metadata store.
    pub(crate) async fn new(name: &str) -> Self {
        let world = Self::without_cluster(name).await;
        world.create_cluster().await;
        world
    }

    pub(crate) async fn without_cluster(name: &str) -> Self {
        let namespace = shared().create_namespace(name).unwrap();
        let store = database(Postgres::shared().unwrap(), &namespace).await;
        Self::on(shared(), namespace, store).await
    }

    pub(crate) async fn on(api: &KubeApi, namespace: String, store: Arc<dyn MetadataStore>) -> Self {
        let client = client(api).await;
        Self {
            topics: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
            store,
        }
    }

    pub(crate) fn key(&self) -> ClusterKey {
        ClusterKey::new(&self.namespace, CLUSTER)
    }

    pub(crate) fn clusters(&self) -> Api<streamhouse_operator::crd::StreamHouseCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn create_cluster(&self) {
        let cluster = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
            "metadata": { "name": CLUSTER },
            "spec": {
                "postgresql": { "connectionSecret": { "name": "postgres" } },
                "objectStorage": { "bucket": "records" }
            }
        });
        let cluster = serde_json::from_value(cluster).unwrap();
        self.clusters()
            .create(&PostParams::default(), &cluster)
            .await
            .unwrap();
    }

    /// Starts an operator with this access to the metadata store.
    pub(crate) fn start_operator_with(
        &self,
        access: Option<StoreAccess>,
        drift_interval: Duration,
    ) -> TestOperator {
        let stores = Arc::new(MetadataStores::default());
        if let Some(access) = access {
            stores.publish(&self.key(), access);
        }
        let context = OperatorContext {
            client: self.client.clone(),
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
        let stop = CancellationToken::new();
        let task = tokio::spawn(topic::run(context.clone(), stop.clone()));
        TestOperator { context, task, stop }
    }

    pub(crate) fn open_access(&self) -> StoreAccess {
        StoreAccess::Open(self.store.clone())
    }

    pub(crate) fn start_operator(&self) -> TestOperator {
        self.start_operator_with(Some(self.open_access()), LONG_DRIFT_INTERVAL)
    }

    pub(crate) fn manifest(name: &str, spec: Value) -> Value {
        let mut manifest = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "Topic", "metadata": { "name": name },
            "spec": { "clusterRef": { "name": CLUSTER } }
        });
        for (key, value) in spec.as_object().unwrap() {
            manifest["spec"][key] = value.clone();
        }
        manifest
    }

    /// Acts like `kubectl apply --server-side`: fields that are no longer in the spec are removed.
    pub(crate) async fn try_apply(&self, name: &str, spec: Value) -> kube::Result<Topic> {
        let manifest = Patch::Apply(Self::manifest(name, spec));
        self.topics
            .patch(name, &PatchParams::apply("a-person"), &manifest)
            .await
    }

    pub(crate) async fn apply(&self, name: &str, spec: Value) -> Topic {
        self.try_apply(name, spec).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Topic> {
        self.topics.get_opt(name).await.unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.topics.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the Topic satisfies the predicate.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Topic) -> bool) -> Topic {
        let holds = |topic: Option<&Topic>| topic.is_some_and(&holds);
        let waited =
            tokio::time::timeout(EVENT_TIMEOUT, await_condition(self.topics.clone(), name, holds)).await;
        match waited {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => panic!("{name} is not {what}: {:#?}", self.get(name).await),
        }
    }

    /// Waits for the Ready condition of the present spec.
    pub(crate) async fn until_ready_is(&self, name: &str, status: &str, reason: &str) -> Topic {
        let generation = self.get(name).await.unwrap().metadata.generation;
        self.until(name, &format!("Ready={status} {reason}"), |topic| {
            ready(topic) == (status, reason)
                && topic.status.as_ref().unwrap().observed_generation >= generation
        })
        .await
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Topic {
        self.until_ready_is(name, "True", "Reconciled").await
    }

    /// Waits until the Topic is deleted from the API server.
    pub(crate) async fn until_gone(&self, name: &str) {
        eventually(&format!("the end of {name}"), async || {
            self.get(name).await.is_none()
        })
        .await;
    }

    pub(crate) async fn overview(&self) -> TopicsOverview {
        self.store.topics_overview().await.unwrap()
    }

    /// Returns the topic, if it exists.
    pub(crate) async fn topic_row(&self, name: &str) -> Option<TopicSummary> {
        self.overview().await.topics.remove(name)
    }

    /// Returns the name of the Topic that manages this topic.
    pub(crate) async fn owner_name(&self, name: &str) -> Option<String> {
        self.overview()
            .await
            .owners
            .remove(name)
            .map(|owner| owner.resource)
    }

    /// Creates a topic as a client of the agents would.
    pub(crate) async fn create_topic_row(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let config: BTreeMap<String, String> = config
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let name = name.to_owned();
        let new = NewTopic {
            name,
            partitions,
            config,
        };
        self.store.create_topic(&new).await.unwrap();
    }

    /// Returns the reasons and messages of the events on this Topic, oldest first.
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
    pub(crate) async fn until_events_are(&self, name: &str, reasons: &[&str]) -> Vec<(String, String)> {
        let what = format!("the events {reasons:?} of {name}");
        eventually(&what, async || self.events(name).await.len() >= reasons.len()).await;
        let events = self.events(name).await;
        let found: Vec<&str> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(found, reasons, "{events:?}");
        events
    }
}

/// Returns the status and reason of the Ready condition.
pub(crate) fn ready(topic: &Topic) -> (&str, &str) {
    let conditions = topic.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find_condition(conditions, ConditionType::Ready).map_or(("", ""), |ready| (&ready.status, &ready.reason))
}

/// Returns the message of the Ready condition.
pub(crate) fn message(topic: &Topic) -> &str {
    let conditions = topic.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find_condition(conditions, ConditionType::Ready).map_or("", |ready| &ready.message)
}

pub(crate) fn has_finalizer(topic: &Topic) -> bool {
    topic
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
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

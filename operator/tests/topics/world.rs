//! A namespace with a cluster, its database, and an operator that looks after it. Every test has its own.

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
use streamhouse_metadata::{ConnectOptions, MetadataStore, NewTopic, TopicOverview, TopicsOverview};
use streamhouse_operator::{
    apis::Apis,
    conditions::find,
    context::{Context, Defaults, Scope},
    crd::{ConditionType, FINALIZER, Topic, documents},
    metrics::Metrics,
    stores::{Access, ClusterKey, Stores},
    topic,
};
use streamhouse_testkit::{KubeApi, Postgres};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for the slowest machine; nobody waits longer than needed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The cluster of every world.
pub(crate) const CLUSTER: &str = "main";
/// So rarely that no test sees it.
pub(crate) const RARELY: Duration = Duration::from_secs(86_400);
/// For tests of what happens unasked.
pub(crate) const OFTEN: Duration = Duration::from_millis(500);

/// What a test has to itself.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) topics: Api<Topic>,
    pub(crate) store: Arc<dyn MetadataStore>,
}

/// An operator at work; it ends with this value, as if killed.
pub(crate) struct Operator {
    pub(crate) context: Context,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    /// Ends it as a signal would; what it counted can still be read.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }

    /// Ends it as a crash would, and waits until it is over.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// All values of a counter, whatever its labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let text = self.context.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub(crate) fn access(&self, world: &World, access: Access) {
        self.context.stores.publish(&world.key(), access);
    }
}

/// A client of this server. Each runtime needs its own.
pub(crate) async fn client(api: &KubeApi) -> Client {
    // The first test of the process does it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// The server of all tests that need none to themselves, with the definitions installed.
fn shared() -> &'static KubeApi {
    static READY: OnceLock<&'static KubeApi> = OnceLock::new();
    READY.get_or_init(|| {
        let api = KubeApi::shared().unwrap();
        install(api);
        api
    })
}

/// Installs the definitions as a person would, and waits until they are served.
pub(crate) fn install(api: &KubeApi) {
    let definitions: Vec<String> = documents().unwrap().into_iter().map(|(_, text)| text).collect();
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

/// An empty database on this server, migrated.
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

impl World {
    /// With a cluster and its open metadata store.
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

    /// An operator whose view of the metadata store is this.
    pub(crate) fn operator_with(&self, access: Option<Access>, drift_interval: Duration) -> Operator {
        let stores = Arc::new(Stores::default());
        if let Some(access) = access {
            stores.publish(&self.key(), access);
        }
        let context = Context {
            client: self.client.clone(),
            stores,
            apis: Arc::new(Apis::default()),
            scope: Scope {
                namespaces: Some(vec![self.namespace.clone()]),
            },
            metrics: Arc::new(Metrics::new().unwrap()),
            defaults: Arc::new(Defaults {
                image: "example.invalid/agent".to_owned(),
                version: "0.1.0".to_owned(),
            }),
            drift_interval,
            clock: system_clock(),
            entropy: system_entropy(),
            instance: Some("a-test".to_owned()),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(topic::run(context.clone(), stop.clone()));
        Operator { context, task, stop }
    }

    pub(crate) fn open(&self) -> Access {
        Access::Open(self.store.clone())
    }

    pub(crate) fn operator(&self) -> Operator {
        self.operator_with(Some(self.open()), RARELY)
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

    /// What `kubectl apply --server-side` does; what is no longer in the spec is removed.
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

    /// Waits until the Topic is as it should be.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Topic) -> bool) -> Topic {
        let holds = |topic: Option<&Topic>| topic.is_some_and(&holds);
        let waited = tokio::time::timeout(PATIENCE, await_condition(self.topics.clone(), name, holds)).await;
        match waited {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => panic!("{name} is not {what}: {:#?}", self.get(name).await),
        }
    }

    /// Waits for the Ready condition of the spec as it stands.
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

    /// Waits until the Topic is gone from the API server.
    pub(crate) async fn until_gone(&self, name: &str) {
        eventually(&format!("the end of {name}"), async || {
            self.get(name).await.is_none()
        })
        .await;
    }

    pub(crate) async fn overview(&self) -> TopicsOverview {
        self.store.topics_overview().await.unwrap()
    }

    /// The topic, if it exists.
    pub(crate) async fn row(&self, name: &str) -> Option<TopicOverview> {
        self.overview().await.topics.remove(name)
    }

    /// The name of the Topic that manages this topic.
    pub(crate) async fn owner(&self, name: &str) -> Option<String> {
        self.overview()
            .await
            .owners
            .remove(name)
            .map(|owner| owner.resource)
    }

    /// What a client of the agents can do.
    pub(crate) async fn create_row(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
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

    /// The reasons and messages of the events on this Topic, oldest first.
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

    /// Waits for events with these reasons, and finds no others.
    pub(crate) async fn until_events_are(&self, name: &str, reasons: &[&str]) -> Vec<(String, String)> {
        let what = format!("the events {reasons:?} of {name}");
        eventually(&what, async || self.events(name).await.len() >= reasons.len()).await;
        let events = self.events(name).await;
        let found: Vec<&str> = events.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(found, reasons, "{events:?}");
        events
    }
}

/// Status and reason of the Ready condition.
pub(crate) fn ready(topic: &Topic) -> (&str, &str) {
    let conditions = topic.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find(conditions, ConditionType::Ready).map_or(("", ""), |ready| (&ready.status, &ready.reason))
}

/// The message of the Ready condition.
pub(crate) fn message(topic: &Topic) -> &str {
    let conditions = topic.status.as_ref().map_or(&[][..], |status| &status.conditions);
    find(conditions, ConditionType::Ready).map_or("", |ready| &ready.message)
}

pub(crate) fn is_held(topic: &Topic) -> bool {
    topic
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Waits for something that nobody tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut ask = tokio::time::interval(Duration::from_millis(20));
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            ask.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come");
}

//! One namespace with an operator that watches it, and helpers to observe it. Used by the tests of
//! clusters.

mod kubelet;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Secret},
    },
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use streamhouse_core::time::{system_clock, system_entropy};
use streamhouse_operator::{
    apis::OptionalApis,
    cluster,
    context::{ClusterDefaults, OperatorContext, WatchScope},
    crd::{self, StreamHouseCluster},
    metadata_stores::MetadataStores,
    metrics::OperatorMetrics,
};
use streamhouse_testkit::{KubeApi, Postgres};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use kubelet::agent_registration;

/// How long a condition may take on a loaded machine.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(90);
/// Drift interval in these tests.
pub(crate) const DRIFT_INTERVAL: Duration = Duration::from_secs(2);

/// The environment of one test.
pub(crate) struct ClusterTestEnvironment {
    pub(crate) api: &'static KubeApi,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) context: OperatorContext,
    pub(crate) database: String,
    running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

/// Returns the API server with its controllers and the custom resource definitions, shared by all
/// tests of the process.
async fn api() -> &'static KubeApi {
    static ONCE: tokio::sync::OnceCell<&'static KubeApi> = tokio::sync::OnceCell::const_new();
    ONCE.get_or_init(|| async {
        tokio::task::spawn_blocking(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let api = KubeApi::shared().unwrap();
            api.start_controller_manager().unwrap();
            let definitions = crd::definitions()
                .iter()
                .map(|crd| serde_json::to_string(crd).unwrap())
                .collect::<Vec<_>>();
            api.apply(&definitions.join("\n---\n")).unwrap();
            for name in ["streamhouseclusters.streamhouse.io", "topics.streamhouse.io"] {
                api.kubectl(&[
                    "wait",
                    "--for=condition=Established",
                    "--timeout=60s",
                    &format!("crd/{name}"),
                ])
                .unwrap();
            }
            api
        })
        .await
        .unwrap()
    })
    .await
}

/// Returns a client with the identity of the kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

impl ClusterTestEnvironment {
    /// Creates a namespace with the Secrets of the minimal cluster and starts the operator.
    pub(crate) async fn new() -> Self {
        let mut world = Self::without_operator().await;
        world.start();
        world
    }

    pub(crate) async fn without_operator() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let api = api().await;
        let name = format!(
            "clusters_{}_{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let (namespace, database) = tokio::task::spawn_blocking(move || {
            (
                api.create_namespace("clusters-").unwrap(),
                Postgres::shared().unwrap().create_database(&name).unwrap(),
            )
        })
        .await
        .unwrap();
        let client = client(api.kubeconfig()).await;
        let context = context(client.clone(), &namespace);
        let world = Self {
            api,
            client,
            namespace,
            context,
            database,
            running: None,
        };
        world.write_secret("metadata", &[("uri", &world.database)]).await;
        world
            .write_secret(
                "bucket",
                &[("accessKeyId", "minio"), ("secretAccessKey", "very-secret")],
            )
            .await;
        world
    }

    pub(crate) fn start(&mut self) {
        let stop = CancellationToken::new();
        let (context, token) = (self.context.clone(), stop.clone());
        let task = tokio::spawn(async move {
            context.apis.discover(&context.client).await?;
            cluster::run(context, 4, token).await
        });
        self.running = Some((stop, task));
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }

    /// Replaces the operator by a new process without state.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.context = context(self.client.clone(), &self.namespace);
        self.start();
    }

    pub(crate) fn api_of<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Writes a Secret.
    pub(crate) async fn write_secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: serde_json::Map<_, _> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        let parameters = PatchParams::apply("test").force();
        self.api_of::<Secret>()
            .patch(name, &parameters, &Patch::Apply(&secret))
            .await
            .unwrap();
    }

    /// Returns the minimal cluster with these fields in its spec.
    pub(crate) fn minimal_cluster(&self, over: Value) -> StreamHouseCluster {
        let mut cluster = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
            "metadata": { "name": "main", "namespace": self.namespace },
            "spec": {
                "postgresql": { "connectionSecret": { "name": "metadata" } },
                "objectStorage": {
                    "bucket": "records", "endpoint": "http://minio:9000", "pathStyle": true,
                    "credentialsSecret": { "name": "bucket" }
                },
                "agents": { "replicas": 2 }
            }
        });
        merge(&mut cluster["spec"], over);
        serde_json::from_value(cluster).unwrap()
    }

    pub(crate) async fn create(&self, over: Value) -> StreamHouseCluster {
        let cluster = self.minimal_cluster(over);
        self.api_of()
            .create(&PostParams::default(), &cluster)
            .await
            .unwrap()
    }

    /// Changes fields of the spec; null removes one.
    pub(crate) async fn patch_spec(&self, spec: Value) -> StreamHouseCluster {
        let patch = json!({ "spec": spec });
        self.api_of()
            .patch("main", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap()
    }

    pub(crate) async fn cluster(&self) -> StreamHouseCluster {
        self.api_of().get("main").await.unwrap()
    }

    /// Polls until the condition returns a value.
    pub(crate) async fn until<T, F>(&self, what: &str, mut condition: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let end = Instant::now() + CONDITION_TIMEOUT;
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            if Instant::now() > end {
                let state = self.api_of::<StreamHouseCluster>().get_opt("main").await.unwrap();
                let status = state.map(|cluster| serde_json::to_string_pretty(&cluster.status).unwrap());
                panic!(
                    "{what} did not happen within {CONDITION_TIMEOUT:?}; the cluster's status: {}",
                    status.unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a condition of the cluster for the present spec and returns its message.
    pub(crate) async fn condition(&self, kind: &str, status: &str, reason: &str) -> String {
        let what = format!("{kind}={status} {reason}");
        self.until(&what, || async {
            let cluster = self.cluster().await;
            let generation = cluster.metadata.generation;
            let conditions = cluster.status?.conditions;
            let found = conditions.into_iter().find(|condition| condition.type_ == kind)?;
            let so =
                found.status == status && found.reason == reason && found.observed_generation == generation;
            so.then_some(found.message)
        })
        .await
    }

    /// Waits until an object exists.
    pub(crate) async fn object<K>(&self, name: &str) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.object_where(name, |_| true).await
    }

    /// Waits until an object satisfies the predicate.
    pub(crate) async fn object_where<K>(&self, name: &str, so: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let what = format!("{} {name} as expected", K::kind(&()));
        self.until(&what, || async {
            self.api_of::<K>()
                .get_opt(name)
                .await
                .unwrap()
                .filter(|object| so(object))
        })
        .await
    }

    /// Waits until an object is deleted.
    pub(crate) async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let what = format!("the end of {} {name}", K::kind(&()));
        self.until(&what, || async {
            self.api_of::<K>()
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    }

    /// Sets annotations of the cluster.
    pub(crate) async fn annotate(&self, annotations: Value) {
        let patch = json!({ "metadata": { "annotations": annotations } });
        self.api_of::<StreamHouseCluster>()
            .patch("main", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// Creates a cluster whose deletion with its data is confirmed, and waits for its agents.
    pub(crate) async fn create_confirmed(&self) {
        self.create(json!({ "deletionPolicy": "Delete" })).await;
        self.condition("MetadataReachable", "True", "MetadataMigrated")
            .await;
        self.deployment().await;
        self.annotate(json!({ "streamhouse.io/confirm-deletion": "main" }))
            .await;
    }

    /// Deletes the cluster.
    pub(crate) async fn delete(&self, parameters: &DeleteParams) {
        self.api_of::<StreamHouseCluster>()
            .delete("main", parameters)
            .await
            .unwrap();
    }

    /// Returns the agents' Deployment.
    pub(crate) async fn deployment(&self) -> Deployment {
        self.object("main-agent").await
    }

    /// Returns the messages of the cluster's events with this reason.
    pub(crate) async fn events(&self, reason: &str) -> Vec<String> {
        let events = self
            .api_of::<Event>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        events
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .map(|event| event.message.unwrap_or_default())
            .collect()
    }

    /// Returns the version of every object that the operator may have written in the namespace, by
    /// kind and name.
    pub(crate) async fn versions(&self) -> Vec<(String, String)> {
        let kinds = "serviceaccounts,configmaps,services,deployments,poddisruptionbudgets,networkpolicies,horizontalpodautoscalers,jobs,streamhouseclusters";
        let (api, namespace) = (self.api, self.namespace.clone());
        let listed = tokio::task::spawn_blocking(move || {
            let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,VERSION:.metadata.resourceVersion";
            api.kubectl(&["get", kinds, "-n", &namespace, "-o", columns, "--no-headers"])
                .unwrap()
        })
        .await
        .unwrap();
        let mut versions: Vec<_> = listed
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((
                    format!("{} {}", words.next()?, words.next()?),
                    words.next()?.to_owned(),
                ))
            })
            .collect();
        versions.sort();
        versions
    }

    /// Waits until the operator has finished this many further reconciliations.
    pub(crate) async fn wait_for_reconciles(&self, count: u64) {
        let done = || {
            let reconciles = &self.context.metrics.reconciles;
            let outcomes = ["ok", "waiting", "blocked", "error"];
            let number = |outcome| {
                reconciles
                    .with_label_values(&["StreamHouseCluster", outcome])
                    .get()
            };
            outcomes.into_iter().map(number).sum::<u64>()
        };
        // A reconciliation may be running that began before.
        let wanted = done() + count + 1;
        self.until("further reconciliations", || async {
            (done() >= wanted).then_some(())
        })
        .await;
    }

    /// Runs SQL in the cluster's database as its administrator.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        let (database, sql) = (
            self.database.rsplit('/').next().unwrap().to_owned(),
            sql.to_owned(),
        );
        tokio::task::spawn_blocking(move || Postgres::shared().unwrap().admin_sql(&database, &sql).unwrap())
            .await
            .unwrap()
    }
}

impl Drop for ClusterTestEnvironment {
    fn drop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.abort();
        }
    }
}

fn context(client: Client, namespace: &str) -> OperatorContext {
    OperatorContext {
        client,
        stores: Arc::new(MetadataStores::default()),
        apis: Arc::new(OptionalApis::default()),
        metrics: Arc::new(OperatorMetrics::new().unwrap()),
        defaults: Arc::new(ClusterDefaults {
            image: "streamhouse/agent".to_owned(),
            version: "1.2.3".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            monitoring_namespaces: Vec::new(),
        }),
        drift_interval: DRIFT_INTERVAL,
        clock: system_clock(),
        entropy: system_entropy(),
        instance: Some("operator-of-a-test".to_owned()),
        scope: WatchScope {
            namespaces: Some(vec![namespace.to_owned()]),
        },
    }
}

/// Merges `over` into `below`, field by field.
fn merge(below: &mut Value, over: Value) {
    match (below, over) {
        (Value::Object(below), Value::Object(over)) => {
            for (key, value) in over {
                merge(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, over) => *below = over,
    }
}

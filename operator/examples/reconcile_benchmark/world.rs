//! The API server, PostgreSQL and the resources, and the part of the nodes.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use streamhouse_metadata::{AgentRegistration, ConnectOptions, LeaseMove};
use streamhouse_operator::crd::{StreamHouseCluster, Topic, definition_documents};
use streamhouse_testkit::{KubeApi, Postgres};
use tokio_util::task::AbortOnDropHandle;

use crate::measure::RequestCounters;

/// Clusters per namespace.
const CLUSTERS_PER_NAMESPACE: usize = 20;
/// Clusters per PostgreSQL, whose connections are limited.
const CLUSTERS_PER_SERVER: usize = 40;
/// Concurrent requests of the benchmark.
const CONCURRENCY: usize = 16;
/// How long all resources may take to be observed after a change.
const CHANGE_LIMIT: Duration = Duration::from_secs(1200);
/// Interval of the part of the nodes.
const NODE_INTERVAL: Duration = Duration::from_secs(3);

/// The servers and what the benchmark knows of the resources.
pub(crate) struct BenchmarkEnvironment {
    api: KubeApi,
    servers: Vec<Postgres>,
    client: Client,
    namespaces: Vec<String>,
    clusters: usize,
    /// Requests of the benchmark itself: all, and those that write.
    own: Arc<[AtomicU64; 2]>,
}

impl BenchmarkEnvironment {
    /// Starts the servers and prepares a database and the Secrets of each cluster.
    pub(crate) async fn create(clusters: usize) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = KubeApi::start()?;
        let definitions: Vec<String> = definition_documents()?
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        api.apply(&definitions.join("\n---\n"))?;
        for name in ["topics", "streamhouseclusters"] {
            let crd = format!("crd/{name}.streamhouse.io");
            api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &crd])?;
        }
        let mut servers = Vec::new();
        for first in (0..clusters).step_by(CLUSTERS_PER_SERVER) {
            let postgres = Postgres::start()?;
            create_databases(&postgres, first..clusters.min(first + CLUSTERS_PER_SERVER)).await?;
            servers.push(postgres);
        }
        let kubeconfig = Kubeconfig::read_from(api.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let namespaces =
            (0..clusters.div_ceil(CLUSTERS_PER_NAMESPACE)).map(|_| api.create_namespace("bench"));
        let world = Self {
            client: Client::try_from(config)?,
            namespaces: namespaces.collect::<Result<_>>()?,
            api,
            servers,
            clusters,
            own: Arc::default(),
        };
        let secrets = (0..clusters).map(|cluster| {
            let server = world.servers.get(cluster / CLUSTERS_PER_SERVER);
            let url = server.map(|postgres| postgres.url(&format!("cluster_{cluster}")));
            json!({ "apiVersion": "v1", "kind": "Secret", "stringData": { "uri": url },
                "metadata": { "name": format!("metadata-{cluster}"), "namespace": world.namespace_of(cluster) } })
            .to_string()
        });
        world.api.apply(&secrets.collect::<Vec<_>>().join("\n---\n"))?;
        Ok(world)
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        self.api.kubeconfig()
    }

    fn namespace_of(&self, cluster: usize) -> &str {
        let at = cluster / CLUSTERS_PER_NAMESPACE;
        self.namespaces.get(at).map_or("default", String::as_str)
    }

    /// Returns the counters of the servers, without the benchmark's own requests.
    pub(crate) fn counters(&self) -> Result<RequestCounters> {
        let mut counters = RequestCounters::read(&self.api, &self.servers)?;
        let [requests, writes] = &*self.own;
        counters.requests -= requests.load(Ordering::Relaxed) as f64;
        counters.writes -= writes.load(Ordering::Relaxed) as f64;
        Ok(counters)
    }

    /// Counts for this time.
    pub(crate) async fn measure(&self, time: Duration) -> Result<RequestCounters> {
        let before = self.counters()?;
        tokio::time::sleep(time).await;
        let mut counted = self.counters()?.since(&before);
        counted.minutes = time.as_secs_f64() / 60.0;
        Ok(counted)
    }

    /// Creates the clusters, and the Topics evenly on them.
    pub(crate) async fn create_resources(&self, topics: usize) -> Result<()> {
        let clusters = (0..self.clusters).map(|cluster| {
            let spec = json!({
                "postgresql": { "connectionSecret": { "name": format!("metadata-{cluster}") } },
                "objectStorage": { "bucket": format!("records-{cluster}") },
                "agents": { "replicas": 3 }
            });
            (cluster, "StreamHouseCluster", format!("main-{cluster}"), spec)
        });
        let topics = (0..topics).map(|topic| {
            let cluster = topic % self.clusters;
            let spec = json!({ "clusterRef": { "name": format!("main-{cluster}") }, "partitions": 3,
                "config": { "segment.ms": 60_000 + topic } });
            (cluster, "Topic", format!("topic-{topic}"), spec)
        });
        self.apply_all(clusters.chain(topics)).await
    }

    /// Changes a setting of every cluster and of every Topic.
    pub(crate) async fn change_resources(&self) -> Result<()> {
        let mut all = Vec::new();
        for namespace in &self.namespaces {
            let clusters: Api<StreamHouseCluster> = Api::namespaced(self.client.clone(), namespace);
            let topics: Api<Topic> = Api::namespaced(self.client.clone(), namespace);
            self.count(2, false);
            for cluster in clusters.list(&ListParams::default()).await? {
                let spec = json!({ "agents": { "settings": { "flushInterval": "150ms" } } });
                all.push((namespace, "StreamHouseCluster", cluster.name_any(), spec));
            }
            for topic in topics.list(&ListParams::default()).await? {
                let spec = json!({ "config": { "retention.ms": 86_400_000 } });
                all.push((namespace, "Topic", topic.name_any(), spec));
            }
        }
        stream::iter(all)
            .map(|(namespace, kind, name, spec)| async move {
                let patch = Patch::Merge(json!({ "spec": spec }));
                self.untyped(namespace, kind)
                    .patch(&name, &PatchParams::default(), &patch)
                    .await?;
                self.count(1, true);
                Ok::<(), kube::Error>(())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// Waits until the status of every resource describes the present spec and is ready.
    pub(crate) async fn wait_until_observed(&self) -> Result<()> {
        let began = tokio::time::Instant::now();
        loop {
            let mut pending = 0;
            for namespace in &self.namespaces {
                for kind in ["StreamHouseCluster", "Topic"] {
                    let all = self.untyped(namespace, kind).list(&ListParams::default()).await?;
                    self.count(1, false);
                    pending += all.iter().filter(|one| !is_observed(one)).count();
                }
            }
            if pending == 0 {
                return Ok(());
            }
            ensure!(
                began.elapsed() < CHANGE_LIMIT,
                "{pending} resources are not observed"
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Plays the part of the nodes until the result is dropped.
    pub(crate) fn play_nodes(&self) -> AbortOnDropHandle<()> {
        let (client, namespaces, own) = (self.client.clone(), self.namespaces.clone(), self.own.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                for namespace in &namespaces {
                    if let Err(error) = finish_rollouts(&client, namespace, &own).await {
                        println!("the part of the nodes failed, retrying: {error:#}");
                    }
                }
                tokio::time::sleep(NODE_INTERVAL).await;
            }
        }))
    }

    fn untyped(&self, namespace: &str, kind: &str) -> Api<kube::api::DynamicObject> {
        let resource = match kind {
            "Topic" => kube::api::ApiResource::erase::<Topic>(&()),
            _ => kube::api::ApiResource::erase::<StreamHouseCluster>(&()),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    async fn apply_all(&self, all: impl Iterator<Item = (usize, &'static str, String, Value)>) -> Result<()> {
        stream::iter(all)
            .map(|(cluster, kind, name, spec)| async move {
                let manifest = json!({ "apiVersion": "streamhouse.io/v1alpha1", "kind": kind,
                    "metadata": { "name": name }, "spec": spec });
                let how = PatchParams::apply("benchmark");
                self.untyped(self.namespace_of(cluster), kind)
                    .patch(&name, &how, &Patch::Apply(manifest))
                    .await
                    .with_context(|| format!("cannot create {kind} {name}"))?;
                self.count(1, true);
                Ok(())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    fn count(&self, requests: u64, write: bool) {
        count(&self.own, requests, write);
    }
}

fn count(own: &[AtomicU64; 2], requests: u64, write: bool) {
    let [all, writes] = own;
    all.fetch_add(requests, Ordering::Relaxed);
    if write {
        writes.fetch_add(requests, Ordering::Relaxed);
    }
}

fn is_observed(resource: &kube::api::DynamicObject) -> bool {
    let status = resource.data.get("status");
    let observed = status.and_then(|status| status.get("observedGeneration")?.as_i64());
    let conditions = status.and_then(|status| status.get("conditions")?.as_array());
    let ready = conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.get("type") == Some(&json!("Ready")) && condition.get("status") == Some(&json!("True"))
        })
    });
    ready && observed == resource.metadata.generation
}

/// Creates the databases from one with a live agent, which leads every partition.
async fn create_databases(postgres: &Postgres, clusters: Range<usize>) -> Result<()> {
    let url = postgres.create_database("template")?;
    let options = ConnectOptions::default();
    streamhouse_metadata::migrate(&url, &options).await?;
    let store = streamhouse_metadata::connect(&url, &options).await?;
    let agent = store
        .register_agent(&AgentRegistration {
            agent_id: "benchmark".to_owned(),
            grpc_address: "127.0.0.1:1".to_owned(),
            http_address: String::new(),
            kafka_address: String::new(),
            zone: String::new(),
            version: String::new(),
            lease_ttl: Duration::from_secs(86_400),
        })
        .await?;
    let snapshot = store.snapshot(None).await?.unwrap_or_default();
    let partitions = snapshot.topics.iter().flat_map(|topic| &topic.partitions);
    let moves: Vec<LeaseMove> = partitions
        .filter(|partition| partition.holder.is_none())
        .map(|partition| LeaseMove {
            partition: partition.uid,
            from: None,
            epoch: partition.epoch,
            to: Some(agent.incarnation),
        })
        .collect();
    store.move_leases(&moves).await?;
    store.close().await?;
    for cluster in clusters {
        let sql = format!("CREATE DATABASE cluster_{cluster} TEMPLATE template OWNER streamhouse");
        postgres.admin_sql("postgres", &sql)?;
    }
    Ok(())
}

/// Reports every Deployment of a namespace as available and every Job as complete.
async fn finish_rollouts(client: &Client, namespace: &str, own: &[AtomicU64; 2]) -> Result<()> {
    let how = PatchParams::default();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    for deployment in deployments.list(&ListParams::default()).await? {
        let status = deployment.status.clone().unwrap_or_default();
        if status.observed_generation == deployment.metadata.generation {
            continue;
        }
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        let status = json!({ "status": { "observedGeneration": deployment.metadata.generation, "replicas": replicas,
            "readyReplicas": replicas, "availableReplicas": replicas, "updatedReplicas": replicas } });
        deployments
            .patch_status(&deployment.name_any(), &how, &Patch::Merge(status))
            .await?;
        count(own, 1, true);
    }
    for job in jobs.list(&ListParams::default()).await? {
        let done = job
            .status
            .as_ref()
            .is_some_and(|status| status.completion_time.is_some());
        if done {
            continue;
        }
        let now = Timestamp::from_second(Timestamp::now().as_second())?.to_string();
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
        let status = json!({ "status": { "startTime": now, "completionTime": now, "succeeded": 1,
            "conditions": [condition("SuccessCriteriaMet"), condition("Complete")] } });
        jobs.patch_status(&job.name_any(), &how, &Patch::Merge(status))
            .await?;
        count(own, 1, true);
    }
    count(own, 2, false);
    Ok(())
}

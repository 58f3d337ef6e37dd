//! The `streamhouse-operator diff` command: shows what the operator would change for the given
//! manifests. Called by `main`. Follows the steps of a reconciliation up to the first write: the
//! API server validates and completes each manifest in a dry run; then a cluster's objects are
//! built and compared with the existing ones, and the changes of a topic or user are computed.

mod manifests;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io::Write,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::http::{Method, Request, header};
use kube::{Api, Client, Resource, ResourceExt, core::NamespaceResourceScope};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use streamhouse_core::time::{system_clock, system_entropy};
use streamhouse_metadata::{ConnectOptions, MetadataStore, TopicsOverview};

use self::manifests::{Manifest, ManifestKind};
use crate::{
    apis::OptionalApis,
    cli::DiffArgs,
    cluster::preview,
    connect,
    context::{OperatorContext, WatchScope},
    crd::{FIELD_MANAGER, StreamHouseCluster, Topic, User},
    metadata_stores::ClusterKey,
    metrics::OperatorMetrics,
    topic::plan_topic,
    user::preview::preview_user,
};

/// Compares the manifests, writes the differences to `out` and returns whether there are any.
///
/// # Errors
///
/// Returns an error if a manifest cannot be read or is rejected, or if the API server or the
/// metadata store cannot be queried.
pub async fn run(arguments: &DiffArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
    let config = connect::infer_config().await?;
    let namespace = arguments
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let mut manifests = Vec::new();
    for file in &arguments.files {
        manifests.extend(manifests::read_manifests(file, &namespace)?);
    }
    ensure_unique(&manifests)?;
    // Clusters first: a Topic or User may reference a cluster in the same files.
    manifests.sort_by_key(|manifest| manifest.kind);
    let client = connect::new_client(config)?;
    let mut comparison = ManifestComparison::new(client, arguments)?;
    comparison
        .context
        .apis
        .discover(&comparison.context.client)
        .await
        .context("cannot query the API server")?;
    let mut differs = false;
    for manifest in &manifests {
        let what = format!(
            "{} {}/{}",
            manifest.kind.as_str(),
            manifest.namespace,
            manifest.name
        );
        let text = match manifest.kind {
            ManifestKind::StreamHouseCluster => comparison.diff_cluster(manifest).await,
            ManifestKind::Topic => comparison.diff_topic(manifest).await,
            ManifestKind::User => comparison.diff_user(manifest).await,
        };
        let text = text.with_context(|| what.clone())?;
        differs |= !text.is_empty();
        if !text.is_empty() {
            write!(out, "{what}\n{text}").context("cannot write the output")?;
        }
    }
    Ok(differs)
}

/// Rejects duplicates, which would be compared with the same existing resource.
fn ensure_unique(manifests: &[Manifest]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for manifest in manifests {
        if !seen.insert((manifest.kind, &manifest.namespace, &manifest.name)) {
            bail!(
                "{} {}/{} is specified twice",
                manifest.kind.as_str(),
                manifest.namespace,
                manifest.name
            );
        }
    }
    Ok(())
}

/// State of one comparison; caches what several manifests need.
struct ManifestComparison {
    context: OperatorContext,
    metadata_url: Option<String>,
    clusters: BTreeMap<ClusterKey, StreamHouseCluster>,
    stores: BTreeMap<ClusterKey, Arc<dyn MetadataStore>>,
    overviews: BTreeMap<ClusterKey, Arc<TopicsOverview>>,
}

impl ManifestComparison {
    fn new(client: Client, arguments: &DiffArgs) -> anyhow::Result<Self> {
        let context = OperatorContext {
            client,
            stores: Arc::default(),
            apis: Arc::new(OptionalApis::default().with_openshift(arguments.clusters.openshift)),
            scope: WatchScope::default(),
            metrics: Arc::new(OperatorMetrics::new()?),
            defaults: Arc::new(arguments.clusters.defaults()),
            drift_interval: Duration::MAX,
            clock: system_clock(),
            entropy: system_entropy(),
            instance: None,
        };
        Ok(Self {
            context,
            metadata_url: arguments.metadata_url.clone(),
            clusters: BTreeMap::new(),
            stores: BTreeMap::new(),
            overviews: BTreeMap::new(),
        })
    }

    /// Returns the differences in the objects of a cluster; empty if there are none.
    async fn diff_cluster(&mut self, manifest: &Manifest) -> anyhow::Result<String> {
        let cluster: StreamHouseCluster = self.complete_manifest(manifest).await?;
        let key = ClusterKey::new(&manifest.namespace, &manifest.name);
        self.clusters.insert(key, cluster.clone());
        if cluster.spec.paused {
            return Ok("! paused: nothing is changed\n".to_owned());
        }
        let preview = preview::preview_cluster(&self.context, &cluster).await?;
        let mut shown = String::new();
        for problem in &preview.problems {
            shown.push_str(&format!("! {problem}\n"));
        }
        for object in &preview.objects {
            let either = object.after.as_ref().or(object.before.as_ref());
            let (namespace, name) = either
                .map(|o| (o.namespace().unwrap_or_default(), o.name_any()))
                .unwrap_or_default();
            let title = format!("{} {namespace}/{name}", object.kind);
            let value = |side: &Option<_>| side.as_ref().map(serde_json::to_value).transpose();
            let (before, after) = (value(&object.before)?, value(&object.after)?);
            shown.extend(text::unified_diff(&title, before.as_ref(), after.as_ref())?);
        }
        Ok(shown)
    }

    /// Returns the differences in a topic; empty if there are none.
    async fn diff_topic(&mut self, manifest: &Manifest) -> anyhow::Result<String> {
        let topic: Topic = self.complete_manifest(manifest).await?;
        let key = ClusterKey::new(&manifest.namespace, &topic.spec.cluster_ref.name);
        let overview = self.load_overview(&key).await?;
        let plan = plan_topic(&topic, &overview);
        let mut shown = String::new();
        if topic.spec.paused && !plan.is_noop() {
            shown.push_str("! paused: nothing is changed until spec.paused is removed\n");
        }
        for change in &plan.changes {
            shown.push_str(&format!("~ {change}\n"));
        }
        for problem in &plan.problems {
            shown.push_str(&format!("! {}: {}\n", problem.reason, problem.message));
        }
        Ok(shown)
    }

    /// Returns the differences in a user; empty if there are none.
    async fn diff_user(&mut self, manifest: &Manifest) -> anyhow::Result<String> {
        let user: User = self.complete_manifest(manifest).await?;
        let key = ClusterKey::new(&manifest.namespace, &user.spec.cluster_ref.name);
        let cluster = self.find_cluster(&key).await?;
        let store = self.open_store(&key).await?;
        let preview = preview_user(&self.context, &*store, &cluster, &user).await?;
        let mut shown = String::new();
        if user.spec.paused && !preview.changes.is_empty() {
            shown.push_str("! paused: nothing is changed until spec.paused is removed\n");
        }
        for change in &preview.changes {
            shown.push_str(&format!("~ {change}\n"));
        }
        for problem in &preview.problems {
            shown.push_str(&format!("! {problem}\n"));
        }
        Ok(shown)
    }

    /// Opens the metadata store of a cluster, once.
    async fn open_store(&mut self, key: &ClusterKey) -> anyhow::Result<Arc<dyn MetadataStore>> {
        if let Some(known) = self.stores.get(key) {
            return Ok(known.clone());
        }
        let store = match &self.metadata_url {
            Some(url) => streamhouse_metadata::connect(url, &ConnectOptions::default())
                .await
                .context("cannot connect to the metadata store of --metadata-url")?,
            None => {
                let cluster = self.find_cluster(key).await?;
                preview::open_metadata(&self.context, &cluster).await?
            }
        };
        self.stores.insert(key.clone(), store.clone());
        Ok(store)
    }

    /// Returns all topics of a cluster, queried once.
    async fn load_overview(&mut self, key: &ClusterKey) -> anyhow::Result<Arc<TopicsOverview>> {
        if let Some(known) = self.overviews.get(key) {
            return Ok(known.clone());
        }
        let store = self.open_store(key).await?;
        let overview = store
            .topics_overview()
            .await
            .context("cannot query the metadata store")?;
        let overview = Arc::new(overview);
        self.overviews.insert(key.clone(), overview.clone());
        Ok(overview)
    }

    /// Returns a cluster from the given manifests, or else from the API server.
    async fn find_cluster(&mut self, key: &ClusterKey) -> anyhow::Result<StreamHouseCluster> {
        if let Some(given) = self.clusters.get(key) {
            return Ok(given.clone());
        }
        let api: Api<StreamHouseCluster> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let found = api
            .get_opt(&key.name)
            .await
            .context("cannot query the API server")?;
        found.with_context(|| {
            format!(
                "StreamHouseCluster {key} does not exist: add its manifest, or for Topics set --metadata-url"
            )
        })
    }

    /// Returns the resource as the API server would store it: validated, with defaults, and with
    /// the uid of the existing resource.
    async fn complete_manifest<K>(&self, manifest: &Manifest) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let client = &self.context.client;
        let api: Api<K> = Api::namespaced(client.clone(), &manifest.namespace);
        let live = api.get_opt(&manifest.name).await;
        let live = live.map_err(|error| classify_read_error(error, manifest.kind))?;
        let (method, url, body) = match &live {
            Some(live) => (
                Method::PUT,
                format!("{}/{}", api.resource_url(), manifest.name),
                overlay_manifest(live, manifest)?,
            ),
            None => (
                Method::POST,
                api.resource_url().to_owned(),
                manifest.value.clone(),
            ),
        };
        // Strict: a misspelled field is an error instead of being dropped.
        let request = Request::builder()
            .method(method)
            .uri(format!(
                "{url}?dryRun=All&fieldValidation=Strict&fieldManager={FIELD_MANAGER}-diff"
            ))
            .header(header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&body)?)?;
        match client.request(request).await {
            Ok(stored) => Ok(stored),
            Err(kube::Error::Api(status)) => bail!("the API server rejects it: {}", status.message),
            Err(error) => Err(error).context("cannot query the API server"),
        }
    }
}

/// Replaces spec, labels and annotations of the stored resource with those of the manifest.
fn overlay_manifest<K: Serialize>(live: &K, manifest: &Manifest) -> anyhow::Result<Value> {
    let mut body = serde_json::to_value(live)?;
    body["apiVersion"] = manifest.value["apiVersion"].clone();
    body["kind"] = manifest.value["kind"].clone();
    body["spec"] = manifest.value["spec"].clone();
    for field in ["labels", "annotations"] {
        let given = &manifest.value["metadata"][field];
        if !given.is_null() {
            body["metadata"][field] = given.clone();
        }
    }
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    // Unknown top-level fields of the manifest are kept for strict validation.
    for (name, value) in manifest.value.as_object().into_iter().flatten() {
        if body.get(name).is_none() {
            body[name.as_str()] = value.clone();
        }
    }
    Ok(body)
}

fn classify_read_error(error: kube::Error, kind: ManifestKind) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            anyhow::anyhow!(
                "{} is not installed: run streamhouse-operator crds | kubectl apply --server-side -f -",
                kind.as_str()
            )
        }
        error => anyhow::Error::new(error).context("cannot query the API server"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(value: Value) -> Manifest {
        Manifest {
            kind: ManifestKind::Topic,
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            value,
        }
    }

    #[test]
    fn the_spec_is_the_manifests_and_the_identity_is_what_is_stored() {
        let live = json!({ "metadata": { "name": "a", "uid": "1", "resourceVersion": "7", "managedFields": [],
            "labels": { "kept": "yes" } }, "spec": { "partitions": 4 }, "status": {} });
        let given = json!({ "apiVersion": "v", "kind": "Topic", "metadata": { "name": "a", "annotations": { "b": "c" } },
            "spec": { "clusterRef": { "name": "main" } }, "spce": {} });
        let body = overlay_manifest(&live, &manifest(given)).unwrap();
        assert_eq!(
            body["spec"],
            json!({ "clusterRef": { "name": "main" } }),
            "what is left out is unset"
        );
        let metadata = json!({ "name": "a", "uid": "1", "resourceVersion": "7", "labels": { "kept": "yes" },
            "annotations": { "b": "c" } });
        assert_eq!(body["metadata"], metadata);
        assert_eq!(
            body["spce"],
            json!({}),
            "a misspelled field reaches the validation"
        );
    }

    #[test]
    fn one_resource_is_given_once() {
        let one = manifest(json!({}));
        assert!(ensure_unique(std::slice::from_ref(&one)).is_ok());
        assert!(
            ensure_unique(&[one.clone(), one])
                .unwrap_err()
                .to_string()
                .contains("Topic default/a is specified twice")
        );
    }
}

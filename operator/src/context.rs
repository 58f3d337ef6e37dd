//! The state that every reconciliation shares: the API server's client, metadata stores, settings,
//! metrics and the clock. Created once by `run` (or a test).

use std::{fmt, sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    core::NamespaceResourceScope,
    runtime::watcher,
};
use streamhouse_core::time::{Clock, Entropy};

use crate::{apis::OptionalApis, metadata_stores::MetadataStores, metrics::OperatorMetrics};

/// What the operator's settings say about every cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDefaults {
    /// Image of the agents, without a tag.
    pub image: String,
    /// Version of the agents: the operator's own.
    pub version: String,
    /// Domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// Namespaces other than a cluster's own in which its monitoring objects may be created.
    pub monitoring_namespaces: Vec<String>,
}

/// The namespaces that the operator watches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchScope {
    /// Names of the namespaces; `None` for all.
    pub namespaces: Option<Vec<String>>,
}

impl WatchScope {
    /// Returns whether the operator watches this namespace.
    pub fn contains(&self, namespace: &str) -> bool {
        self.namespaces
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == namespace))
    }

    /// Returns the places that together cover all objects: each namespace, or `None` for all
    /// namespaces at once.
    pub fn places(&self) -> Vec<Option<&str>> {
        match &self.namespaces {
            None => vec![None],
            Some(names) => names.iter().map(|name| Some(name.as_str())).collect(),
        }
    }

    /// Splits the scope into one scope per watch: all namespaces together, or each namespace
    /// separately.
    pub fn per_watch(&self) -> Vec<Self> {
        match &self.namespaces {
            None => vec![self.clone()],
            Some(names) => names
                .iter()
                .map(|name| Self {
                    namespaces: Some(vec![name.clone()]),
                })
                .collect(),
        }
    }

    /// Returns the API handles that together cover all objects of a kind: one for all namespaces,
    /// or one per namespace.
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespaces {
            None => vec![Api::all(client.clone())],
            Some(names) => names
                .iter()
                .map(|name| Api::namespaced(client.clone(), name))
                .collect(),
        }
    }

    /// Like [`WatchScope::apis`], for a kind that is known only at run time.
    pub fn dynamic_apis(&self, client: &Client, kind: &ApiResource) -> Vec<Api<DynamicObject>> {
        match &self.namespaces {
            None => vec![Api::all_with(client.clone(), kind)],
            Some(names) => names
                .iter()
                .map(|name| Api::namespaced_with(client.clone(), name, kind))
                .collect(),
        }
    }
}

/// Returns whether the API server refuses a watch because the operator lacks the right to it.
pub(crate) fn is_forbidden(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code,
        watcher::Error::WatchError(status) => status.code,
        _ => return false,
    };
    code == 403
}

/// Shared by all reconciliations.
#[derive(Clone)]
pub struct OperatorContext {
    /// Client of the API server.
    pub client: Client,
    /// Open metadata stores.
    pub stores: Arc<MetadataStores>,
    /// Optional APIs that are installed.
    pub apis: Arc<OptionalApis>,
    /// Watched namespaces.
    pub scope: WatchScope,
    /// The operator's metrics.
    pub metrics: Arc<OperatorMetrics>,
    /// What the operator's settings say about every cluster.
    pub defaults: Arc<ClusterDefaults>,
    /// How often everything is compared with its spec without a change as the trigger.
    pub drift_interval: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Source of jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Reporting instance of events: the pod's name.
    pub instance: Option<String>,
}

impl fmt::Debug for OperatorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("defaults", &self.defaults)
            .field("drift_interval", &self.drift_interval)
            .finish_non_exhaustive()
    }
}

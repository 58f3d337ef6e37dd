//! What every reconciliation has at hand: the API server, the metadata stores, the operator's settings, metrics, the clock. Made once by
//! `main` (or a test) and shared.

use std::{fmt, sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    core::NamespaceResourceScope,
};
use streamhouse_core::time::{Clock, Entropy};

use crate::{apis::Apis, metrics::Metrics, stores::Stores};

/// What the operator uses where a cluster says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The agents' image, without a tag.
    pub image: String,
    /// The agents' version: the operator's own.
    pub version: String,
}

/// Which namespaces the operator looks after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// These only; all when `None`.
    pub namespaces: Option<Vec<String>>,
}

impl Scope {
    /// Whether the operator looks after this namespace.
    pub fn contains(&self, namespace: &str) -> bool {
        self.namespaces
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == namespace))
    }

    /// The scopes of one watch each: everything at once, or each namespace by itself.
    pub fn each(&self) -> Vec<Self> {
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

    /// The handles that together see every object of a kind: one over all namespaces, or one a namespace.
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

    /// The same for a kind that is known at run time only.
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

/// Shared by all reconciliations.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Open metadata stores.
    pub stores: Arc<Stores>,
    /// Which optional APIs are there.
    pub apis: Arc<Apis>,
    /// Which namespaces.
    pub scope: Scope,
    /// The operator's own metrics.
    pub metrics: Arc<Metrics>,
    /// Where a cluster says nothing.
    pub defaults: Arc<Defaults>,
    /// How often everything is compared with what it should be, unasked.
    pub drift_interval: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// The name under which events are reported: the pod's.
    pub instance: Option<String>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("defaults", &self.defaults)
            .field("drift_interval", &self.drift_interval)
            .finish_non_exhaustive()
    }
}

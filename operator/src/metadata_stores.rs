//! The open metadata stores, by cluster. The reconciliation of a cluster publishes its store, since
//! only it reads Secrets; the passes over Topics use the stores and are woken when one changes.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::RwLock;
use streamhouse_metadata::MetadataStore;
use tokio::sync::broadcast;

/// A cluster's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// The namespace.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
}

impl ClusterKey {
    /// Creates a key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Access to a cluster's metadata store.
#[derive(Clone, Debug)]
pub enum StoreAccess {
    /// The store can be used.
    Open(Arc<dyn MetadataStore>),
    /// The store cannot be used; contains the reason, without secrets.
    Closed(String),
}

/// Capacity of a subscriber's queue. A subscriber that lags must check all clusters.
const WAKE_QUEUE_CAPACITY: usize = 1024;

/// The metadata stores by cluster.
#[derive(Debug)]
pub struct MetadataStores {
    known: RwLock<HashMap<ClusterKey, StoreAccess>>,
    wakes: broadcast::Sender<ClusterKey>,
}

impl Default for MetadataStores {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            wakes: broadcast::channel(WAKE_QUEUE_CAPACITY).0,
        }
    }
}

impl MetadataStores {
    /// Returns the access to a cluster's store; `None` until its first reconciliation.
    pub fn get(&self, cluster: &ClusterKey) -> Option<StoreAccess> {
        self.known.read().get(cluster).cloned()
    }

    /// Publishes the access to a cluster's store. Notifies subscribers if it has changed.
    pub fn publish(&self, cluster: &ClusterKey, access: StoreAccess) {
        let before = self.known.write().insert(cluster.clone(), access.clone());
        let same = match (&before, &access) {
            (Some(StoreAccess::Open(old)), StoreAccess::Open(new)) => Arc::ptr_eq(old, new),
            (Some(StoreAccess::Closed(old)), StoreAccess::Closed(new)) => old == new,
            _ => false,
        };
        if !same {
            // Fails only without subscribers.
            let _ = self.wakes.send(cluster.clone());
        }
    }

    /// Removes a cluster that no longer exists.
    pub fn remove(&self, cluster: &ClusterKey) {
        if self.known.write().remove(cluster).is_some() {
            let _ = self.wakes.send(cluster.clone());
        }
    }

    /// Returns the clusters with a published store.
    pub fn clusters(&self) -> Vec<ClusterKey> {
        self.known.read().keys().cloned().collect()
    }

    /// Subscribes to clusters whose access changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ClusterKey> {
        self.wakes.subscribe()
    }
}

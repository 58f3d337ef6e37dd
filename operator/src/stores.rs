//! The metadata stores that are open: one for each cluster whose database answers and whose schema fits. The cluster's reconciliation
//! publishes them, since it alone reads Secrets; the topics' passes take them from here and are woken when one comes or goes.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::RwLock;
use streamhouse_metadata::MetadataStore;
use tokio::sync::broadcast;

/// A cluster by its place: namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// The namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl ClusterKey {
    /// The cluster of this name in this namespace.
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

/// What is known of a cluster's metadata store.
#[derive(Clone, Debug)]
pub enum Access {
    /// It can be used.
    Open(Arc<dyn MetadataStore>),
    /// It cannot; says why, without secrets.
    Closed(String),
}

/// Wakes are told to this many listeners' queues before the oldest is dropped; whoever lags looks at everything.
const WAKES: usize = 1024;

/// The stores by cluster.
#[derive(Debug)]
pub struct Stores {
    known: RwLock<HashMap<ClusterKey, Access>>,
    wakes: broadcast::Sender<ClusterKey>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            wakes: broadcast::channel(WAKES).0,
        }
    }
}

impl Stores {
    /// What is known of this cluster's store; `None` until its reconciliation has looked.
    pub fn get(&self, cluster: &ClusterKey) -> Option<Access> {
        self.known.read().get(cluster).cloned()
    }

    /// Says what became of a cluster's store. Wakes listeners when it opens, closes or is another one.
    pub fn publish(&self, cluster: &ClusterKey, access: Access) {
        let before = self.known.write().insert(cluster.clone(), access.clone());
        let same = match (&before, &access) {
            (Some(Access::Open(old)), Access::Open(new)) => Arc::ptr_eq(old, new),
            (Some(Access::Closed(old)), Access::Closed(new)) => old == new,
            _ => false,
        };
        if !same {
            // Nobody listening is nobody to wake.
            let _ = self.wakes.send(cluster.clone());
        }
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterKey) {
        if self.known.write().remove(cluster).is_some() {
            let _ = self.wakes.send(cluster.clone());
        }
    }

    /// The clusters that something is known of.
    pub fn clusters(&self) -> Vec<ClusterKey> {
        self.known.read().keys().cloned().collect()
    }

    /// Clusters whose store has come, gone or changed, from now on.
    pub fn wakes(&self) -> broadcast::Receiver<ClusterKey> {
        self.wakes.subscribe()
    }
}

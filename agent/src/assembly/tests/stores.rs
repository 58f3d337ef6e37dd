//! The two stores of a cluster, in memory and each behind its faults, and agents that start on them.

use std::path::PathBuf;

use streamhouse_metadata::MetadataStore;

use super::*;
use crate::{
    faulty_metadata::{FaultyMetadata, MetadataFault, MetadataFaultKind, Method},
    store::{fault::FaultStore, memory::MemoryStore},
};

/// What the agents of one cluster share.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStores {
    pub(crate) metadata: Arc<FaultyMetadata>,
    pub(crate) store: Arc<FaultStore>,
    /// What is really stored.
    pub(crate) objects: Arc<MemoryStore>,
}

impl FaultyStores {
    pub(crate) async fn new() -> Self {
        let objects = Arc::new(MemoryStore::default());
        Self {
            metadata: FaultyMetadata::in_memory().await,
            store: Arc::new(FaultStore::new(objects.clone(), system_entropy())),
            objects,
        }
    }

    /// An agent on these stores, ready; `more` are arguments of its command line.
    pub(crate) async fn agent(&self, id: &str, more: &[&str]) -> Agent {
        let agent = self.starting(id, more).await;
        until_ready(&agent).await;
        agent
    }

    /// An agent on these stores that becomes ready by itself.
    pub(crate) async fn starting(&self, id: &str, more: &[&str]) -> Agent {
        start_agent_on(id, more, self.metadata.clone(), self.store.clone()).await
    }
}

/// Starts an agent on any stores.
pub(crate) async fn start_agent_on(
    id: &str,
    more: &[&str],
    metadata: Arc<dyn MetadataStore>,
    store: Arc<dyn ObjectStore>,
) -> Agent {
    let late = Arc::new(Late::default());
    late.connected(metadata);
    // Nothing is kept in the folder.
    let settings = settings(&PathBuf::from("/nowhere"), id, more);
    Agent::start_with(settings, late, store, Traces::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_commit_lost_its_answer_acknowledges_once() {
    let stores = FaultyStores::new().await;
    let one = stores.agent("one", &[]).await;
    create(&one, "orders", 1).await;
    let lost = MetadataFault::new(MetadataFaultKind::LoseAfter, [Method::commit_object]).times(1);
    let lost = stores.metadata.add(lost);
    assert_eq!(produce(&one, "orders", 0, "a").await, Ok(0));
    assert_eq!(
        (lost.hits(), stores.metadata.calls(Method::commit_object)),
        (1, 2)
    );
    assert_eq!(produce(&one, "orders", 0, "b").await, Ok(1));
    assert_eq!(stores.objects.keys().len(), 2);
    one.drain().await;
}

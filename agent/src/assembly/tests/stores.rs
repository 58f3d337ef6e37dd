//! The two stores of a cluster, in memory and each with its faults, and agents that start on them.

use streamhouse_core::time::system_entropy;
use streamhouse_metadata::{GarbagePolicy, MetadataStore};

use super::{
    ledger::{PartitionName, user_partitions},
    *,
};
use crate::{
    faulty_metadata::{FaultyMetadataStore, MetadataFault, MetadataFaultKind, MetadataMethod},
    maintenance::{delete, roll, sweep},
    store::{fault::FaultStore, memory::MemoryStore},
};

/// The stores that the agents of one cluster share.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStores {
    pub(crate) metadata: Arc<FaultyMetadataStore>,
    pub(crate) store: Arc<FaultStore>,
    /// The objects that are really stored.
    pub(crate) objects: Arc<MemoryStore>,
    /// The agents' grace for objects, if not the default.
    grace: Option<Duration>,
}

/// Arguments of agents whose incarnations end only when they are sealed, and whose background jobs
/// run only when a test runs them.
pub(crate) const QUIET_ARGUMENTS: [&str; 2] = ["--lease-ttl=5m", "--maintenance-interval=1h"];

impl FaultyStores {
    pub(crate) async fn new() -> Self {
        let objects = Arc::new(MemoryStore::default());
        Self {
            metadata: FaultyMetadataStore::new_in_memory().await,
            store: Arc::new(FaultStore::new(objects.clone(), system_entropy())),
            objects,
            grace: None,
        }
    }

    /// Creates stores whose agents delete objects as soon as nothing references them.
    pub(crate) async fn without_graces() -> Self {
        Self {
            grace: Some(Duration::ZERO),
            ..Self::new().await
        }
    }

    /// Starts an agent on these stores and waits until it is ready; `more` are command line
    /// arguments.
    pub(crate) async fn start_ready_agent(&self, id: &str, more: &[&str]) -> Agent {
        let agent = self.start_agent(id, more).await;
        wait_ready(&agent).await;
        agent
    }

    /// Starts an agent on these stores, which becomes ready on its own.
    pub(crate) async fn start_agent(&self, id: &str, more: &[&str]) -> Agent {
        let (metadata, store) = (self.metadata.clone(), self.store.clone());
        let Some(grace) = self.grace else {
            return start_agent_on(id, more, metadata, store).await;
        };
        let mut settings = settings(Path::new("/nowhere"), id, more);
        settings.object_grace = grace;
        start_with_stores(settings, metadata, store).await
    }
}

/// Starts an agent on any stores.
pub(crate) async fn start_agent_on(
    id: &str,
    more: &[&str],
    metadata: Arc<dyn MetadataStore>,
    store: Arc<dyn ObjectStore>,
) -> Agent {
    // Nothing is stored in the directory.
    start_with_stores(settings(Path::new("/nowhere"), id, more), metadata, store).await
}

async fn start_with_stores(
    settings: AgentSettings,
    metadata: Arc<dyn MetadataStore>,
    store: Arc<dyn ObjectStore>,
) -> Agent {
    let deferred = Arc::new(DeferredMetadataStore::default());
    deferred.set_store(metadata);
    Agent::start_with_stores(settings, deferred, store, OptionalTracer::default())
        .await
        .unwrap()
}

/// Lets the metadata store drop ended incarnations, as it eventually does; before that they may be
/// swept once more.
pub(crate) async fn expire_ended_incarnations(stores: &FaultyStores) {
    let policy = GarbagePolicy {
        object_grace: Duration::ZERO,
        producer_expiry: Duration::from_secs(3600),
        offsets_retention: Duration::from_secs(3600),
        incarnation_retention: Duration::ZERO,
    };
    stores.metadata.inner().collect_garbage(&policy, 0).await.unwrap();
}

/// Returns a partition of a user topic.
pub(super) async fn user_partition(stores: &FaultyStores, topic: &str, partition: i32) -> PartitionName {
    let all = user_partitions(stores).await.into_iter();
    let mut found = all.filter(|log| log.topic == topic && log.partition == partition);
    found.next().unwrap()
}

/// Rolls everything that `node` leads, then deletes and sweeps until nothing is left to do. All
/// incarnations but those of running agents must have ended.
pub(super) async fn run_jobs_until_idle(stores: &FaultyStores, node: &AgentNode) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    loop {
        let session = node.session().expect("the agent is registered");
        let round = async {
            roll::roll_all(&node.maintenance(), &session).await?;
            delete::run(&node.maintenance()).await?;
            sweep::run(&node.maintenance(), &session).await
        };
        let done = round.await;
        let snapshot = stores.metadata.inner().snapshot(None).await.unwrap().unwrap();
        if done.is_ok() && snapshot.unswept.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "tidying does not end: {done:?}, {:?}",
            snapshot.unswept
        );
        // The sweep uses the directory, and belongs to the agent with the oldest incarnation.
        node.directory.refresh().await;
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_commit_lost_its_answer_acknowledges_once() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let lost =
        MetadataFault::new(MetadataFaultKind::LoseAfter, [MetadataMethod::commit_object]).with_limit(1);
    let lost = stores.metadata.add_fault(lost);
    assert_eq!(produce(&one, "orders", 0, "a").await, Ok(0));
    assert_eq!(
        (
            lost.hit_count(),
            stores.metadata.calls(MetadataMethod::commit_object)
        ),
        (1, 2)
    );
    assert_eq!(produce(&one, "orders", 0, "b").await, Ok(1));
    let written = stores.objects.keys();
    let written = written.iter().filter(|key| key.starts_with("_wal/"));
    assert_eq!(written.count(), 2);
    one.drain().await;
}

//! The background tasks of an agent: waits for both stores, then keeps leases and the directory,
//! and runs the maintenance jobs.

use std::sync::Arc;

use streamhouse_core::backoff::BackoffPolicy;
use streamhouse_metadata::MetadataStore;
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{node::AgentNode, settings::connect_options};
use crate::{
    deferred_metadata::DeferredMetadataStore,
    groups::GroupCoordinator,
    health::ReadinessCondition,
    leases::{LeaseDeps, LeaseKeeper, watch},
    maintenance,
    ownership::identity,
    security::{follow_agent_secret, follow_changes, follow_token_keys},
    store,
};

/// Back-off between attempts to reach a store.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3));
/// Time limit of one check of the object store.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the background tasks of the agent until the lease keeper has finished or `stop` is
/// cancelled.
pub(super) async fn run_background_tasks(
    node: Arc<AgentNode>,
    deferred: Arc<DeferredMetadataStore>,
    leases: Arc<LeaseDeps>,
    keeper: Arc<LeaseKeeper>,
    coordinator: Arc<GroupCoordinator>,
    stop: CancellationToken,
) {
    let every = node.settings.maintenance_interval;
    tokio::select! {
        () = stop.cancelled() => {}
        () = run_lease_keeper(node.clone(), deferred.clone(), keeper) => {}
        () = run_directory_watch(node.clone(), deferred, leases) => {}
        () = coordinator.run_reports() => {}
        () = follow_changes(node.security.clone(), node.directory.clone(), node.metadata.clone()) => {}
        () = follow_agent_secret(node.security.clone(), node.metadata.clone()) => {}
        () = follow_token_keys(node.security.clone()) => {}
        () = maintenance::run(node.maintenance(), every, stop.clone()) => {}
        () = recheck_object_store(&node) => {}
    }
}

/// Runs the lease keeper once both stores are usable: an agent that cannot store records must not
/// hold leases.
async fn run_lease_keeper(
    node: Arc<AgentNode>,
    deferred: Arc<DeferredMetadataStore>,
    keeper: Arc<LeaseKeeper>,
) {
    let proved = async {
        // Reads only: which cluster the bucket belongs to is known only after the metadata store is
        // reached.
        wait_for_object_store(&node, StoreProbe::Read).await;
        deferred.wait_connected().await;
        wait_for_object_store(&node, StoreProbe::ReadWrite).await;
        node.store_health.mark_proved();
    };
    tokio::select! {
        () = keeper.wait_stopped() => return,
        () = proved => {}
    }
    keeper.run().await;
}

/// Keeps the directory up to date once the metadata store is reached and verified to belong to this
/// bucket.
async fn run_directory_watch(
    node: Arc<AgentNode>,
    deferred: Arc<DeferredMetadataStore>,
    leases: Arc<LeaseDeps>,
) {
    if deferred.is_connected() {
        // Tests connect the store before the agent starts.
        node.ownership.wait_for_proof(deferred.as_ref()).await;
    } else {
        let metadata = connect_metadata(&node).await;
        node.health.set_met(ReadinessCondition::Metadata);
        node.ownership.wait_for_proof(metadata.as_ref()).await;
        deferred.set_store(metadata);
    }
    node.directory.request_refresh();
    watch::run(&leases).await;
}

/// Connects to the metadata store, however long that takes.
async fn connect_metadata(node: &AgentNode) -> Arc<dyn MetadataStore> {
    let options = connect_options(&node.settings);
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match streamhouse_metadata::connect(node.settings.metadata_url.expose(), &options).await {
            Ok(store) => return store,
            Err(error) => {
                tracing::warn!(%error, "cannot reach the metadata store yet; retrying");
                node.health
                    .set_unmet(ReadinessCondition::Metadata, error.to_string());
            }
        }
        sleep(backoff.next_delay(&*node.entropy)).await;
    }
}

/// Checks the object store again whenever there is a reason to doubt it; never returns. This is how
/// an agent without writes learns that the store works again.
async fn recheck_object_store(node: &AgentNode) {
    loop {
        node.store_health.wait_doubtful().await;
        wait_for_object_store(node, StoreProbe::ReadWrite).await;
        node.store_health.mark_proved();
    }
}

/// A check of the object store.
#[derive(Debug, Clone, Copy)]
enum StoreProbe {
    /// Whether it can be read.
    Read,
    /// Whether it supports all required operations, which needs write access.
    ReadWrite,
}

/// Repeats a check of the object store until it succeeds.
async fn wait_for_object_store(node: &AgentNode, question: StoreProbe) {
    let store = node.store.as_ref();
    let ask = async || match question {
        StoreProbe::Read => identity::read_identity(store)
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        StoreProbe::ReadWrite => store::check_store(store, node.entropy.as_ref())
            .await
            .map_err(|error| error.to_string()),
    };
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        let problem = match timeout(STORE_CHECK_TIMEOUT, ask()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {STORE_CHECK_TIMEOUT:?}"),
        };
        tracing::warn!(
            store = node.store.describe(),
            problem,
            "the object store cannot be used yet; retrying"
        );
        node.health.set_unmet(ReadinessCondition::ObjectStore, problem);
        sleep(backoff.next_delay(&*node.entropy)).await;
    }
}

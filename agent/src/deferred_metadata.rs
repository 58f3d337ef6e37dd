//! A [`MetadataStore`] whose connection is made later: until then every call returns `Unavailable`,
//! which all callers retry. This lets the agent bind its ports and answer `/health` while the
//! database is unavailable.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use streamhouse_metadata::{
    AgentIdentity, AgentRegistration, ClusterSnapshot, ClusterState, CommitOutcome, CommittedOffset, Error,
    GarbageBatch, GarbagePolicy, GroupLag, GroupQuery, GroupWrite, Incarnation, Lease, LeaseMove,
    LeaseMoveOutcome, LeaseRenewal, LogBounds, LogPosition, LogView, MetadataStore, NewSegment, NewTopic,
    ObjectCommit, OffsetCommit, OffsetCommitOutcome, PartitionUid, PersistedGroup, RecoveryOutcome,
    RecoveryRequest, Result, SegmentIntent, SilenceThreshold, Timeline, TopicChange, TopicEntry, TopicOwner,
    TopicsOverview,
};
use tokio_util::sync::CancellationToken;

/// A metadata store that is connected after it is handed out.
#[derive(Debug, Default)]
pub struct DeferredMetadataStore {
    store: OnceLock<Arc<dyn MetadataStore>>,
    connected: CancellationToken,
    /// While set, every call fails.
    #[cfg(test)]
    pub(crate) disconnected: std::sync::atomic::AtomicBool,
    /// Number of calls of each method.
    #[cfg(test)]
    pub(crate) calls: parking_lot::Mutex<std::collections::BTreeMap<&'static str, usize>>,
}

impl DeferredMetadataStore {
    /// Sends all further calls to this store. Only the first call of this method has an effect.
    pub fn set_store(&self, store: Arc<dyn MetadataStore>) {
        let _ = self.store.set(store);
        self.connected.cancel();
    }

    /// Returns whether the store is connected.
    pub fn is_connected(&self) -> bool {
        self.store.get().is_some()
    }

    /// Waits until the store is connected.
    pub async fn wait_connected(&self) {
        self.connected.cancelled().await;
    }

    fn store(&self) -> Result<&Arc<dyn MetadataStore>> {
        #[cfg(test)]
        if self.disconnected.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Error::Unavailable("disconnected by a test".to_owned()));
        }
        self.store
            .get()
            .ok_or_else(|| Error::Unavailable("this agent has not connected to it yet".to_owned()))
    }
}

/// Implements each method by forwarding it.
macro_rules! delegate_methods {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for DeferredMetadataStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                #[cfg(test)]
                {
                    *self.calls.lock().entry(stringify!($name)).or_default() += 1;
                }
                self.store()?.$name($($argument),*).await
            })*
        }
    };
}

delegate_methods! {
    ping() -> ();
    close() -> ();
    cluster_state() -> ClusterState;
    advance_timeline() -> Timeline;
    report_divergence() -> ();
    recover(recovery: &RecoveryRequest) -> RecoveryOutcome;
    unknown_objects(keys: &[String]) -> Vec<String>;
    register_agent(registration: &AgentRegistration) -> AgentIdentity;
    renew(incarnation: Incarnation) -> LeaseRenewal;
    drain(incarnation: Incarnation) -> ();
    seal(incarnation: Incarnation) -> ();
    seal_if_silent(incarnation: Incarnation, silence: SilenceThreshold) -> bool;
    snapshot(known: Option<u64>) -> Option<ClusterSnapshot>;
    move_leases(moves: &[LeaseMove]) -> Vec<LeaseMoveOutcome>;
    create_topic(topic: &NewTopic) -> TopicEntry;
    alter_topic(name: &str, change: &TopicChange) -> TopicEntry;
    delete_topic(name: &str) -> ();
    claim_topic(name: &str, owner: &TopicOwner) -> TopicOwner;
    release_topic(name: &str, uid: &str) -> bool;
    topics_overview() -> TopicsOverview;
    allocate_producer_id() -> i64;
    commit_object(commit: &ObjectCommit) -> CommitOutcome;
    read_log(partition: PartitionUid, from: LogPosition, limit: usize) -> LogView;
    bounds(partitions: &[PartitionUid]) -> Vec<(PartitionUid, LogBounds)>;
    begin_segment(lease: Lease, base_offset: i64) -> SegmentIntent;
    reassign_segment_key(lease: Lease, base_offset: i64, taken: &str) -> SegmentIntent;
    finish_segment(lease: Lease, segment: &NewSegment) -> ();
    advance_log_start(lease: Lease, log_start: i64) -> i64;
    collect_garbage(policy: &GarbagePolicy, limit: usize) -> GarbageBatch;
    confirm_deleted(keys: &[String]) -> ();
    orphans(incarnation: Incarnation, sequences: &[u64]) -> Vec<u64>;
    mark_swept(incarnation: Incarnation) -> ();
    groups(which: &GroupQuery) -> Vec<PersistedGroup>;
    put_group(lease: Lease, group: &GroupWrite) -> ();
    commit_offsets(lease: Lease, commit: &OffsetCommit) -> Vec<OffsetCommitOutcome>;
    group_lags(slots: &[i32], limit: usize) -> Vec<GroupLag>;
    fetch_offsets(group_id: &str) -> Vec<CommittedOffset>;
}

#[cfg(test)]
mod tests {
    use streamhouse_metadata::ConnectOptions;

    use super::*;

    #[tokio::test]
    async fn calls_wait_for_the_connection() {
        let deferred = DeferredMetadataStore::default();
        assert!(matches!(deferred.ping().await, Err(Error::Unavailable(_))));
        deferred.set_store(
            streamhouse_metadata::connect("sqlite::memory:", &ConnectOptions::default())
                .await
                .unwrap(),
        );
        deferred.wait_connected().await;
        deferred.ping().await.unwrap();
    }
}

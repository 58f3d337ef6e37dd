//! A [`MetadataStore`] whose connection is made later: until then every call returns `Unavailable`,
//! which all callers retry. This lets the agent bind its ports and answer `/health` while the
//! database is unavailable.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use streamhouse_metadata::{
    AgentRegistration, ClusterState, CommitOutcome, CommittedOffset, Error, Garbage, GarbagePolicy, GroupLag,
    GroupQuery, GroupRecord, GroupWrite, Incarnation, Lease, LeaseMove, LogBounds, LogPosition, LogView,
    MetadataStore, MoveOutcome, NewSegment, NewTopic, ObjectCommit, OffsetCommit, OffsetOutcome,
    PartitionUid, Recovered, Recovery, Registered, Renewed, Result, SegmentIntent, Silence, Snapshot,
    Timeline, TopicChange, TopicOwner, TopicRecord, TopicsOverview,
};
use tokio_util::sync::CancellationToken;

/// A metadata store that is connected after it is handed out.
#[derive(Debug, Default)]
pub struct Late {
    store: OnceLock<Arc<dyn MetadataStore>>,
    there: CancellationToken,
    /// While set, every call fails.
    #[cfg(test)]
    pub(crate) cut: std::sync::atomic::AtomicBool,
    /// Number of calls of each method.
    #[cfg(test)]
    pub(crate) calls: parking_lot::Mutex<std::collections::BTreeMap<&'static str, usize>>,
}

impl Late {
    /// Sends all further calls to this store. Only the first call of this method has an effect.
    pub fn connected(&self, store: Arc<dyn MetadataStore>) {
        let _ = self.store.set(store);
        self.there.cancel();
    }

    /// Returns whether the store is connected.
    pub fn is_connected(&self) -> bool {
        self.store.get().is_some()
    }

    /// Waits until the store is connected.
    pub async fn arrived(&self) {
        self.there.cancelled().await;
    }

    fn store(&self) -> Result<&Arc<dyn MetadataStore>> {
        #[cfg(test)]
        if self.cut.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Error::Unavailable("disconnected by a test".to_owned()));
        }
        self.store
            .get()
            .ok_or_else(|| Error::Unavailable("this agent has not connected to it yet".to_owned()))
    }
}

/// Implements each method by forwarding it.
macro_rules! hand_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for Late {
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

hand_on! {
    ping() -> ();
    close() -> ();
    cluster() -> ClusterState;
    advance_timeline() -> Timeline;
    report_divergence() -> ();
    recover(recovery: &Recovery) -> Recovered;
    unknown_objects(keys: &[String]) -> Vec<String>;
    register_agent(registration: &AgentRegistration) -> Registered;
    renew(incarnation: Incarnation) -> Renewed;
    drain(incarnation: Incarnation) -> ();
    seal(incarnation: Incarnation) -> ();
    seal_silent(incarnation: Incarnation, silence: Silence) -> bool;
    snapshot(known: Option<u64>) -> Option<Snapshot>;
    move_leases(moves: &[LeaseMove]) -> Vec<MoveOutcome>;
    create_topic(topic: &NewTopic) -> TopicRecord;
    alter_topic(name: &str, change: &TopicChange) -> TopicRecord;
    delete_topic(name: &str) -> ();
    claim_topic(name: &str, owner: &TopicOwner) -> TopicOwner;
    release_topic(name: &str, uid: &str) -> bool;
    topics_overview() -> TopicsOverview;
    allocate_producer_id() -> i64;
    commit_object(commit: &ObjectCommit) -> CommitOutcome;
    read_log(partition: PartitionUid, from: LogPosition, limit: usize) -> LogView;
    bounds(partitions: &[PartitionUid]) -> Vec<(PartitionUid, LogBounds)>;
    begin_segment(lease: Lease, base_offset: i64) -> SegmentIntent;
    avoid_segment(lease: Lease, base_offset: i64, taken: &str) -> SegmentIntent;
    finish_segment(lease: Lease, segment: &NewSegment) -> ();
    advance_log_start(lease: Lease, log_start: i64) -> i64;
    garbage(policy: &GarbagePolicy, limit: usize) -> Garbage;
    confirm_deleted(keys: &[String]) -> ();
    orphans(incarnation: Incarnation, sequences: &[u64]) -> Vec<u64>;
    mark_swept(incarnation: Incarnation) -> ();
    groups(which: &GroupQuery) -> Vec<GroupRecord>;
    put_group(lease: Lease, group: &GroupWrite) -> ();
    commit_offsets(lease: Lease, commit: &OffsetCommit) -> Vec<OffsetOutcome>;
    group_lags(slots: &[i32], limit: usize) -> Vec<GroupLag>;
    fetch_offsets(group_id: &str) -> Vec<CommittedOffset>;
}

#[cfg(test)]
mod tests {
    use streamhouse_metadata::ConnectOptions;

    use super::*;

    #[tokio::test]
    async fn calls_wait_for_the_connection() {
        let late = Late::default();
        assert!(matches!(late.ping().await, Err(Error::Unavailable(_))));
        late.connected(
            streamhouse_metadata::connect("sqlite::memory:", &ConnectOptions::default())
                .await
                .unwrap(),
        );
        late.arrived().await;
        late.ping().await.unwrap();
    }
}

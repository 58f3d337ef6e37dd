//! A metadata store with answers that cannot be true, like those of a store that lost its newest
//! commits.

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_metadata::*;

use super::*;
use crate::faulty_metadata::FaultyMetadataStore;

/// Changes the outcome of a commit.
type OutcomeChange = fn(&mut CommitOutcome);

/// A metadata store that changes the answers of another one.
#[derive(Debug)]
pub(crate) struct FalseMetadataStore {
    inner: Arc<FaultyMetadataStore>,
    /// Applied to the outcome of the next commit.
    pub(crate) commit: Mutex<Option<OutcomeChange>>,
    /// Number of records that the bounds leave out.
    pub(crate) behind: Mutex<i64>,
}

impl FalseMetadataStore {
    pub(crate) fn new(inner: Arc<FaultyMetadataStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            commit: Mutex::default(),
            behind: Mutex::default(),
        })
    }
}

macro_rules! delegate_truthful_methods {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for FalseMetadataStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.inner.$name($($argument),*).await
            })*

            async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
                let mut outcome = self.inner.commit_object(commit).await?;
                if let Some(lie) = self.commit.lock().take() {
                    lie(&mut outcome);
                }
                Ok(outcome)
            }

            async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
                let mut bounds = self.inner.bounds(partitions).await?;
                for (_, bounds) in &mut bounds {
                    bounds.high_watermark -= *self.behind.lock();
                }
                Ok(bounds)
            }
        }
    };
}

delegate_truthful_methods! {
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
    read_log(partition: PartitionUid, from: LogPosition, limit: usize) -> LogView;
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

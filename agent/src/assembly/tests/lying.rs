//! A metadata store with answers that cannot be true, like those of a store that lost its newest
//! commits.

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_metadata::*;

use super::*;
use crate::faulty_metadata::FaultyMetadata;

/// Changes the outcome of a commit.
type Lie = fn(&mut CommitOutcome);

/// A metadata store that changes the answers of another one.
#[derive(Debug)]
pub(crate) struct LyingMetadata {
    inner: Arc<FaultyMetadata>,
    /// Applied to the outcome of the next commit.
    pub(crate) commit: Mutex<Option<Lie>>,
    /// Number of records that the bounds leave out.
    pub(crate) behind: Mutex<i64>,
}

impl LyingMetadata {
    pub(crate) fn new(inner: Arc<FaultyMetadata>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            commit: Mutex::default(),
            behind: Mutex::default(),
        })
    }
}

macro_rules! hand_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for LyingMetadata {
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
    read_log(partition: PartitionUid, from: LogPosition, limit: usize) -> LogView;
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

//! A metadata store that does what a test says: it fails, it loses answers, or it stands still before a call for a group.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use streamhouse_metadata::*;
use tokio::sync::watch;

/// The store around the real one.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn MetadataStore>,
    /// Nothing happens, and the caller is told that nobody knows.
    pub(super) away: AtomicBool,
    /// Writes happen, and the caller is told that nobody knows.
    pub(super) mute: AtomicBool,
    /// Calls about the group (or slot, as its number) of this name wait before anything happens.
    held: watch::Sender<Option<String>>,
    /// How many wait.
    pub(super) waiting: watch::Sender<usize>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn MetadataStore>) -> Arc<Self> {
        let (held, waiting) = (watch::Sender::new(None), watch::Sender::new(0));
        Arc::new(Self {
            inner,
            away: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            held,
            waiting,
        })
    }

    pub(super) fn hold(&self, name: &str) {
        self.held.send_replace(Some(name.to_owned()));
    }

    pub(super) fn let_go(&self) {
        self.held.send_replace(None);
    }

    /// Resolves when a call stands still.
    pub(super) async fn one_waits(&self) {
        self.waiting
            .subscribe()
            .wait_for(|waiting| *waiting > 0)
            .await
            .unwrap();
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(super) fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    async fn before(&self, name: &str) -> Result<()> {
        if self.held.borrow().as_deref() == Some(name) {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.held
                .subscribe()
                .wait_for(|held| held.as_deref() != Some(name))
                .await
                .unwrap();
            self.waiting.send_modify(|waiting| *waiting -= 1);
        }
        if self.away.load(Ordering::SeqCst) {
            Err(unavailable())
        } else {
            Ok(())
        }
    }

    fn after<T>(&self, outcome: Result<T>) -> Result<T> {
        if self.mute.load(Ordering::SeqCst) {
            Err(unavailable())
        } else {
            outcome
        }
    }
}

fn unavailable() -> Error {
    Error::Unavailable("the test says so".to_owned())
}

macro_rules! hand_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for Faulty {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.inner.$name($($argument),*).await
            })*

            async fn groups(&self, which: &GroupQuery) -> Result<Vec<GroupRecord>> {
                let name = match which {
                    GroupQuery::Slot(slot) => slot.to_string(),
                    GroupQuery::All => String::new(),
                    GroupQuery::Id(id) => id.clone(),
                };
                self.before(&name).await?;
                self.inner.groups(which).await
            }

            async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
                self.before(&group.group_id).await?;
                self.after(self.inner.put_group(lease, group).await)
            }

            async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetOutcome>> {
                self.before(&commit.group_id).await?;
                self.after(self.inner.commit_offsets(lease, commit).await)
            }

            async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
                self.before("").await?;
                self.inner.group_lags(slots, limit).await
            }

            async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
                self.before(group_id).await?;
                self.inner.fetch_offsets(group_id).await
            }
        }
    };
}

hand_on! {
    ping() -> ();
    register_agent(registration: &AgentRegistration) -> Registered;
    renew(incarnation: Incarnation) -> Renewed;
    drain(incarnation: Incarnation) -> ();
    seal(incarnation: Incarnation) -> ();
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
    finish_segment(lease: Lease, segment: &NewSegment) -> ();
    advance_log_start(lease: Lease, log_start: i64) -> i64;
    garbage(policy: &GarbagePolicy, limit: usize) -> Garbage;
    confirm_deleted(keys: &[String]) -> ();
    orphans(incarnation: Incarnation, sequences: &[u64]) -> Vec<u64>;
    mark_swept(incarnation: Incarnation) -> ();
}

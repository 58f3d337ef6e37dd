//! The metadata store: who leads what, which bytes lie where, what was committed. One trait, [`MetadataStore`], with two
//! implementations held to one conformance suite: PostgreSQL for production, SQLite for the embedded default. Only this
//! crate speaks SQL; agents and the operator call it.
//!
//! The log of a partition, in offsets:
//!
//! ```text
//! 0          log_start                    rolled                 high_watermark
//! |--deleted--|--------- segments ---------|------ WAL ranges ------|  (nothing beyond exists)
//! ```
//!
//! `log_start <= high_watermark` and `rolled <= high_watermark`; every offset in `log_start..high_watermark` lies in exactly one
//! span. Spans are deleted whole, so the first one may begin before `log_start`; when that is a WAL range, `rolled`, its base
//! offset, lies before `log_start` too.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod connect;
mod decide;
pub mod error;
mod failure;
mod garbage;
pub mod inspect;
pub mod keys;
mod leases;
mod outcome;
mod postgres;
mod producers;
mod rows;
mod schema;
mod sqlite;
pub mod types;

#[cfg(test)]
mod tests;

use async_trait::async_trait;

pub use connect::{
    ConnectOptions, TlsMode, TlsOptions, backup, check_address, cluster_id, connect, drop_schema, live_agent,
    migrate, schema,
};
pub use error::{Error, Result};
pub use schema::{Migrated, SchemaState};
pub use types::*;

/// The store. Every method is one transaction: it happens wholly or not at all, also when the caller is cancelled. An
/// [`Error::Unavailable`] leaves the outcome open unless the method says that it may be repeated; all methods here may.
///
/// Every method answers within [`ConnectOptions::call_limit`], also when the database says nothing at all: then with
/// [`Error::Unavailable`]. Many reads at a time do not hold up writes, and neither holds up renewals.
///
/// Time is the database's: leases and grace periods never depend on an agent's clock.
#[async_trait]
pub trait MetadataStore: Send + Sync + std::fmt::Debug {
    /// Answers when the store is reachable and its schema is the one this build needs.
    async fn ping(&self) -> Result<()>;

    /// Ends every connection once the calls under way are done; calls that come later fail. A SQLite file is whole
    /// afterwards: everything stands in the one file.
    async fn close(&self) -> Result<()>;

    // ---- the cluster as a whole

    /// Which cluster this store is that of, and how far its history goes.
    async fn cluster(&self) -> Result<ClusterState>;

    /// Raises the timeline and returns the new one. [`Error::Diverged`] when a divergence was reported.
    async fn advance_timeline(&self) -> Result<Timeline>;

    /// Says that the bucket holds a mark of another copy of this store for a number that this store gave, or that this store
    /// lacks commits that it made before. From then on
    /// [`register_agent`](Self::register_agent) and [`advance_timeline`](Self::advance_timeline) are refused, until
    /// [`recover`](Self::recover).
    async fn report_divergence(&self) -> Result<()>;

    /// Lets this store go on where the bucket is ahead of it: incarnations, producer ids and the timeline continue beyond what
    /// the bucket shows, every topic gets a folder that no object has, intents of segments are dropped and lives that are
    /// over count as swept, so that no object that this store cannot explain is written again, adopted or deleted.
    /// [`Error::AgentLives`] while an agent holds its lease.
    async fn recover(&self, recovery: &Recovery) -> Result<Recovered>;

    /// Which of these keys, of WAL objects or segments, no row names.
    async fn unknown_objects(&self, keys: &[String]) -> Result<Vec<String>>;

    // ---- agents and leases

    /// Begins a new life of an agent. An older life with the same `agent_id` is sealed in the same transaction, and the timeline
    /// rises. [`Error::Diverged`] when a divergence was reported.
    async fn register_agent(&self, registration: &AgentRegistration) -> Result<Registered>;

    /// Renews the one lease that stands for everything `incarnation` holds, and seals agents whose lease has expired.
    /// [`Error::Sealed`] when this incarnation's life is over: it must stop at once.
    async fn renew(&self, incarnation: Incarnation) -> Result<Renewed>;

    /// Marks a life as draining, for the rest of it: it keeps its leases until it moves them, but is given no new ones, neither
    /// by [`create_topic`](Self::create_topic) nor by [`move_leases`](Self::move_leases) (the move is `Lost`).
    /// [`Error::Sealed`] when the life is over already.
    async fn drain(&self, incarnation: Incarnation) -> Result<()>;

    /// Ends a life: releases every partition still held, and fences whatever the incarnation tries later.
    async fn seal(&self, incarnation: Incarnation) -> Result<()>;

    /// Ends a life like [`seal`](Self::seal), but only while its lease has not been renewed for as long as `silence`
    /// says: the one who asks may be the one who is cut off. Returns whether the life is over.
    async fn seal_silent(&self, incarnation: Incarnation, silence: Silence) -> Result<bool>;

    /// Everything about agents, topics and leaders when it differs from version `known`, else `None`.
    async fn snapshot(&self, known: Option<u64>) -> Result<Option<Snapshot>>;

    /// Moves partitions between holders. A move happens only when the partition is still held as `from` says; the epoch
    /// rises with every move to another holder. Taking from a sealed holder is like taking from nobody.
    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<MoveOutcome>>;

    // ---- topics

    /// Creates a topic and spreads its partitions over the live agents. `TopicAlreadyExists`. A name that was used before gets a
    /// folder of its own, so that no object key is ever used twice; see [`keys::topic_folder`].
    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicRecord>;

    /// Grows the partitions or changes the settings. `UnknownTopic`, `InvalidPartitions` when it would shrink.
    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicRecord>;

    /// Marks a topic deleted: no more commits or reads; its name is free at once, its objects go later. When the last topic of the
    /// name is being deleted already, nothing happens.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// Makes `owner` the one that manages the topic of this name if nobody does, and returns the owner in force: it is ours when
    /// its `uid` is. Of many who claim at the same time exactly one wins. The topic need not exist; a claim neither makes it nor
    /// keeps anybody from changing it.
    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner>;

    /// Gives up a claim if it is that of `uid`; says whether it was. The topic stays.
    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool>;

    /// Every topic of users with its numbers, and every owner, at one moment and in one round trip. Reads the partitions of all
    /// topics: meant for a look every few seconds, not for the hot path.
    async fn topics_overview(&self) -> Result<TopicsOverview>;

    // ---- the log

    /// A producer id never given before; its epoch is 0.
    async fn allocate_producer_id(&self) -> Result<i64>;

    /// Commits one WAL object: for each partition checks the lease, checks producer sequences, assigns offsets from the
    /// high watermark, records the ranges, advances the high watermark. All in one transaction, with a result per batch;
    /// a refused partition or batch leaves the others alone. Idempotent by `(incarnation, sequence)`: asked again, it
    /// gives the first outcome. [`Error::Sealed`] when the incarnation's life is over.
    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome>;

    /// Where the records from a position on lie, in offset order, at most `limit` spans, with the partition's bounds.
    /// Empty at or after the high watermark. [`Error::UnknownPartition`] when it is gone.
    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView>;

    /// The bounds and sizes of partitions; those that are gone are left out.
    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>>;

    /// Records the intent to write the segment that begins at the partition's `rolled` offset, before its object is put.
    /// Returns the intent left by an earlier holder if there is one: its object may exist. Fenced by the lease.
    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent>;

    /// Gives the intent for the segment at the partition's `rolled` offset another key than `taken`, under which an object stands
    /// that is not this segment: under the topic's folder if that gives one, else under a new folder of the topic. The object
    /// under `taken` is not this partition's and is never deleted. Fenced by the lease.
    async fn avoid_segment(&self, lease: Lease, base_offset: i64, taken: &str) -> Result<SegmentIntent>;

    /// Replaces the WAL ranges that the segment covers by the segment, and drops the intent. Fenced by the lease and by
    /// the intent. WAL objects left without ranges are queued for deletion.
    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()>;

    /// Moves the log start forward (never back, never beyond the high watermark) and queues what lies wholly before it
    /// for deletion. Returns the log start in force. Fenced by the lease.
    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64>;

    // ---- garbage

    /// Takes a step at tidying (purging deleted topics, forgetting idle producers, expired group offsets and ended lives) and
    /// returns up to `limit` objects that nothing has referenced for at least the policy's grace. A segment that a life may have put
    /// after its intent was gone is named once more when that life has been over for the grace, and once more before the life is
    /// forgotten. No key that is named here is ever used again.
    async fn garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<Garbage>;

    /// Says that these objects are gone from the object store.
    async fn confirm_deleted(&self, keys: &[String]) -> Result<()>;

    /// Which of these WAL sequences of a sealed incarnation no row knows: they are orphans. `Error::NotSealed` while the
    /// incarnation lives.
    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>>;

    /// Says that no orphan of a sealed incarnation is left. Before [`garbage`](Self::garbage) forgets a life, it counts as not swept
    /// once more: an upload may have been on its way for longer than anybody thought.
    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()>;

    // ---- groups

    /// The groups of one coordinator slot (all slots when `None`), or one group.
    async fn groups(&self, which: &GroupQuery) -> Result<Vec<GroupRecord>>;

    /// Writes a group through, or with `state: None` deletes it and its offsets. Fenced by the slot's lease.
    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()>;

    /// Commits offsets. Fenced by the slot's lease and, unless `generation` is `None`, by the generation stored. A group
    /// without a row gets one (a consumer that assigns its partitions itself). A result per offset, in order.
    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetOutcome>>;

    /// How far the groups of these coordinator slots are behind, by group and topic: at most `limit` rows, those furthest
    /// behind first. Groups that never committed are left out, and partitions that one never committed for do not count.
    /// Reads every offset of the slots: meant for a look every few seconds.
    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>>;

    /// What a group has committed; all of it.
    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>>;
}

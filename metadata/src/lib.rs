//! The metadata store: agents, leases, topics, the location of every record, and committed offsets.
//!
//! One trait, [`MetadataStore`], has two implementations that pass one conformance suite:
//! PostgreSQL for production and SQLite as the embedded default. Only this crate speaks SQL; the
//! agent and the operator call it.
//!
//! The log of a partition, in offsets:
//!
//! ```text
//! 0          log_start                    rolled                 high_watermark
//! |--deleted--|--------- segments ---------|------ WAL ranges ------|  (nothing beyond exists)
//! ```
//!
//! `log_start <= high_watermark` and `rolled <= high_watermark`. Every offset in
//! `log_start..high_watermark` lies in exactly one span. Spans are deleted as a whole, so the first
//! one may begin before `log_start`. If that span is a WAL range, `rolled`, which is its base
//! offset, lies before `log_start` too.

mod commit_outcome;
mod commit_plan;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod connect;
pub mod error;
mod garbage_step;
pub mod inspect;
pub mod keys;
mod leases;
mod method_list;
mod options;
mod postgres;
mod producers;
mod rows;
mod schema;
mod schema_window;
mod security_plan;
mod segment_plan;
mod sqlite;
mod transaction;
pub mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;

pub use connect::{
    backup, check_address, cluster_id, connect, connect_existing, drop_schema, embedded_file, live_agent,
    migrate, migrate_to, overview, schema,
};
pub use error::{Error, Result};
pub use options::{ConnectOptions, TlsMode, TlsOptions};
pub use schema::{LiveAgent, MigrationOutcome, MigrationRequest, SchemaState, StoreOverview, list_agents};
pub use schema_window::{SCHEMA_WINDOW, SchemaWindow, compare_releases, release_window};
pub use security_plan::{
    MAX_ACLS, MAX_CLIENT_QUOTAS, MAX_SCRAM_CREDENTIALS, MAX_SCRAM_SALT_BYTES, MAX_SECURITY_CHANGES,
    MAX_SECURITY_NAME_BYTES, MAX_SECURITY_PRINCIPAL_BYTES,
};
pub use types::*;

/// Stores the metadata of one cluster.
///
/// Every method is one transaction: it takes effect completely or not at all, also when the caller
/// is cancelled. Every method may be repeated after [`Error::Unavailable`].
///
/// Every method returns within [`ConnectOptions::call_limit`], even when the database does not
/// respond. A flood of reads delays neither writes nor lease renewals, and writes do not delay
/// renewals.
///
/// All times are the database's: leases and grace periods never depend on the clock of an agent.
///
/// A store that wraps another one forwards its methods with [`for_each_metadata_method!`].
///
/// # Errors
///
/// Every method returns [`Error::Unavailable`] when the database does not answer in time; the call
/// may have taken effect. It returns [`Error::Inconsistent`] when a row cannot be read, and
/// [`Error::SchemaMismatch`] when a table is missing. Each method lists only its further errors.
#[async_trait]
pub trait MetadataStore: Send + Sync + std::fmt::Debug {
    /// Checks that the store is reachable.
    async fn ping(&self) -> Result<()>;

    /// Closes every connection once the calls in progress have finished. Later calls fail.
    ///
    /// Afterwards a SQLite database is complete in its one file, without a journal.
    async fn close(&self) -> Result<()>;

    // ---- the cluster as a whole

    /// Returns the id of the cluster and the timeline of this store.
    async fn cluster_state(&self) -> Result<ClusterState>;

    /// Raises the timeline and returns the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Diverged`] if a divergence was reported.
    async fn advance_timeline(&self) -> Result<Timeline>;

    /// Records that the bucket was written by another copy of this store, or that this store lost
    /// commits.
    ///
    /// Until [`recover`](Self::recover) is called, [`register_agent`](Self::register_agent) and
    /// [`advance_timeline`](Self::advance_timeline) are refused.
    async fn report_divergence(&self) -> Result<()>;

    /// Makes a store usable again when the bucket is ahead of it.
    ///
    /// Incarnations, producer ids and the timeline continue after the numbers found in the bucket.
    /// Every topic gets a folder that no object uses, all segment intents are dropped, and sealed
    /// incarnations count as swept. Therefore no object that this store does not know is
    /// overwritten, adopted or deleted.
    ///
    /// # Errors
    ///
    /// [`Error::AgentHoldsLease`] while an agent holds its lease.
    async fn recover(&self, recovery: &RecoveryRequest) -> Result<RecoveryOutcome>;

    /// Returns those of `keys`, of WAL objects and segments, that no row names.
    async fn unknown_objects(&self, keys: &[String]) -> Result<Vec<String>>;

    // ---- agents and leases

    /// Registers a new incarnation of an agent.
    ///
    /// Seals the previous incarnation of the same `agent_id` in the same transaction, and raises
    /// the timeline.
    ///
    /// # Errors
    ///
    /// [`Error::Diverged`] if a divergence was reported; [`Error::SchemaMismatch`] if the schema
    /// was migrated beyond the versions that this build runs on.
    async fn register_agent(&self, registration: &AgentRegistration) -> Result<AgentIdentity>;

    /// Renews the lease that covers everything `incarnation` holds, and seals agents whose lease
    /// has expired.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] if the incarnation is sealed: it must stop at once.
    async fn renew(&self, incarnation: Incarnation) -> Result<LeaseRenewal>;

    /// Marks an incarnation as draining until it is sealed.
    ///
    /// A draining incarnation keeps its leases until it moves them, but receives no new ones,
    /// neither from [`create_topic`](Self::create_topic) nor from
    /// [`move_leases`](Self::move_leases), which reports the move as `Lost`.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] if the incarnation is sealed.
    async fn drain(&self, incarnation: Incarnation) -> Result<()>;

    /// Seals an incarnation: releases every partition that it holds and fences its later calls.
    async fn seal(&self, incarnation: Incarnation) -> Result<()>;

    /// Seals an incarnation if its lease was not renewed for the time that `silence` gives, and
    /// returns whether it is sealed.
    ///
    /// The condition protects against a caller that is itself cut off from the network.
    async fn seal_if_silent(&self, incarnation: Incarnation, silence: SilenceThreshold) -> Result<bool>;

    /// Returns all agents, topics and leaders, or `None` if the version is still `known`.
    async fn snapshot(&self, known: Option<u64>) -> Result<Option<ClusterSnapshot>>;

    /// Moves leases between agents.
    ///
    /// A move takes effect only if the partition is still held as `from` and `epoch` say. The epoch
    /// rises with every move to another holder. A sealed holder counts as none.
    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<LeaseMoveOutcome>>;

    // ---- topics

    /// Creates a topic and distributes its partitions over the live agents.
    ///
    /// A name that was used before gets a new folder, so that no object key is ever used twice; see
    /// [`keys::topic_folder`].
    ///
    /// # Errors
    ///
    /// [`Error::TopicAlreadyExists`], or [`Error::InvalidPartitions`] without a partition.
    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicEntry>;

    /// Adds partitions to a topic or changes its settings.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], or [`Error::InvalidPartitions`] if the topic would shrink.
    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicEntry>;

    /// Marks a topic as deleted. It takes no more commits and reads, its name is free at once, and
    /// garbage collection deletes its objects.
    ///
    /// Does nothing if the last topic of this name is being deleted already.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`] if there is no topic of this name.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// Makes `owner` the owner of a topic name unless it has one, and returns the owner in force.
    ///
    /// The claim succeeded if the returned `uid` is that of `owner`. Of concurrent claims exactly
    /// one succeeds. The topic need not exist; a claim neither creates it nor protects it from
    /// changes.
    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner>;

    /// Releases the claim of `uid` and returns whether it existed. The topic stays.
    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool>;

    /// Returns every user topic with its totals and every owner, as of one moment, in one round
    /// trip.
    ///
    /// Reads the partitions of all topics: suitable every few seconds, not on the hot path.
    async fn topics_overview(&self) -> Result<TopicsOverview>;

    // ---- the log

    /// Returns a new producer id, whose epoch is 0. The id holds a number that rises, and the
    /// minute in which it was issued.
    async fn allocate_producer_id(&self) -> Result<i64>;

    /// Commits one WAL object.
    ///
    /// For each partition it checks the lease and the producer sequences, assigns offsets from the
    /// high watermark, stores the ranges and advances the high watermark. All of this is one
    /// transaction with a result per batch; a refused partition or batch does not affect the
    /// others. Idempotent by `(incarnation, sequence)`: a repeated call returns the first outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] if the incarnation is sealed and the object was not committed before.
    /// [`Error::OutcomeExpired`] if the object may have been committed but its outcome is no longer
    /// stored.
    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome>;

    /// Returns the spans from a position on, in offset order, at most `limit` of them, with the
    /// partition's bounds. There are none at or after the high watermark.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPartition`] if the partition does not exist.
    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView>;

    /// Returns the idempotent producers of a partition, those with the greatest ids first, at most
    /// `limit`. There are none of a partition that does not exist.
    async fn active_producers(&self, partition: PartitionUid, limit: usize) -> Result<Vec<ActiveProducer>>;

    /// Returns the bounds of partitions, without those that do not exist.
    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>>;

    /// Records the intent to write the segment that begins at the partition's `rolled` offset,
    /// before the object is put.
    ///
    /// Returns the existing intent if an earlier holder left one: its object may exist.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`], [`Error::Fenced`] or [`Error::UnknownPartition`] if the lease is not in
    /// force; [`Error::SegmentConflict`] if `base_offset` is not `rolled`.
    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent>;

    /// Gives the intent at the partition's `rolled` offset another key than `taken`, because an
    /// object under that key is not this segment.
    ///
    /// Uses the topic's current folder if that gives another key, otherwise a new folder. The
    /// object under `taken` does not belong to this partition and is never deleted.
    ///
    /// # Errors
    ///
    /// As [`begin_segment`](Self::begin_segment), and [`Error::SegmentConflict`] without an intent
    /// of this incarnation.
    async fn reassign_segment_key(
        &self,
        lease: Lease,
        base_offset: i64,
        taken: &str,
    ) -> Result<SegmentIntent>;

    /// Replaces the WAL ranges that the segment covers by the segment, and drops the intent. WAL
    /// objects without remaining ranges are queued for deletion.
    ///
    /// # Errors
    ///
    /// As [`begin_segment`](Self::begin_segment), and [`Error::SegmentConflict`] if the segment
    /// does not match its intent or the ranges.
    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()>;

    /// Advances the log start offset, never backwards and never beyond the high watermark, and
    /// queues the spans that lie completely before it for deletion. Returns the log start in force.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`], [`Error::Fenced`] or [`Error::UnknownPartition`] if the lease is not in
    /// force.
    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64>;

    // ---- garbage

    /// Runs one step of garbage collection and returns up to `limit` objects to delete.
    ///
    /// A step purges deleted topics and removes idle producers, expired group offsets and sealed
    /// incarnations. The returned objects have been unreferenced for at least the policy's grace,
    /// and their keys are never used again. A segment whose upload may have arrived after its
    /// intent was dropped is returned once more when its writer has been sealed for the grace, and
    /// again before the writer's row is deleted.
    async fn collect_garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<GarbageBatch>;

    /// Records that these objects were deleted from the object store.
    async fn confirm_deleted(&self, keys: &[String]) -> Result<()>;

    /// Returns those of the WAL sequences of a sealed incarnation that no row names: they are
    /// orphans.
    ///
    /// # Errors
    ///
    /// [`Error::NotSealed`] if the incarnation is not sealed or unknown.
    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>>;

    /// Records that a sealed incarnation has no orphans left.
    ///
    /// Before [`collect_garbage`](Self::collect_garbage) deletes the row of an incarnation, it
    /// requests one more sweep, because an upload may have been in flight for an unexpectedly long
    /// time.
    ///
    /// # Errors
    ///
    /// [`Error::NotSealed`] if the incarnation is not sealed or unknown.
    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()>;

    // ---- groups

    /// Returns the groups of one coordinator slot, all groups, or one group.
    async fn groups(&self, which: &GroupQuery) -> Result<Vec<PersistedGroup>>;

    /// Stores a group, or deletes it and its offsets if `state` is `None`.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] or [`Error::Fenced`] if the lease is not that of the group's slot;
    /// [`Error::IllegalGeneration`] if the stored generation is later.
    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()>;

    /// Commits offsets of a group and returns one result per offset, in order. A group without a
    /// row gets one if `generation` is `None`, as for a consumer that assigns its partitions
    /// itself.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] or [`Error::Fenced`] if the lease is not that of the group's slot;
    /// [`Error::IllegalGeneration`] if `generation` is given and is not the stored one.
    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetCommitOutcome>>;

    /// Deletes committed offsets of a group.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] or [`Error::Fenced`] if the lease is not that of the group's slot.
    async fn delete_offsets(&self, lease: Lease, deletion: &OffsetDeletion) -> Result<()>;

    /// Returns the lag of the groups of these coordinator slots by group and topic, the greatest
    /// first, at most `limit` rows.
    ///
    /// Partitions for which a group never committed do not count. Reads every offset of the slots:
    /// suitable every few seconds.
    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>>;

    /// Returns all committed offsets of a group.
    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>>;

    // ---- users, ACLs and quotas

    /// Returns the credentials, ACLs and quotas in force as of one moment.
    ///
    /// Reads three tables as a whole: whoever needs them keeps them, and loads them again when
    /// [`ClusterSnapshot::security_version`] is not that of the loaded ones. Empty, with version 0,
    /// while the schema has no such tables.
    async fn load_security(&self) -> Result<SecuritySnapshot>;

    /// Returns the secret by which agents prove to each other that they are agents; the first call
    /// makes it. It never changes, except by a recovery to a time before it was made.
    ///
    /// # Errors
    ///
    /// [`Error::SchemaMismatch`] on a schema without users.
    async fn agent_secret(&self) -> Result<AgentSecret>;

    /// Stores and deletes credentials of SCRAM by hand, and returns the outcome for each user.
    ///
    /// Either everything that is named of a user is done, or nothing. The credentials of a user
    /// with an owner are that owner's afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSecurityChange`] if a row is malformed, [`Error::SecurityLimit`] if there
    /// would be more than [`MAX_SCRAM_CREDENTIALS`]. [`Error::SchemaMismatch`] also on a schema
    /// without these tables, as with every change of users, ACLs and quotas.
    async fn alter_scram_credentials(
        &self,
        alteration: &ScramAlteration,
    ) -> Result<BTreeMap<String, ScramAlterationOutcome>>;

    /// Creates entries of access control lists by hand, and returns for each whether it is new.
    ///
    /// An entry that an owner has too stays in force when that owner goes.
    ///
    /// # Errors
    ///
    /// As [`alter_scram_credentials`](Self::alter_scram_credentials), with a limit of [`MAX_ACLS`].
    async fn create_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>>;

    /// Deletes entries of access control lists, whoever owns them, and returns for each whether it
    /// existed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSecurityChange`] if a row is malformed.
    async fn delete_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>>;

    /// Stores and removes quotas of clients by hand. A quota keeps its owner.
    ///
    /// # Errors
    ///
    /// As [`alter_scram_credentials`](Self::alter_scram_credentials), with a limit of
    /// [`MAX_CLIENT_QUOTAS`]; [`Error::InvalidSecurityChange`] also if a quota is named twice.
    async fn alter_client_quotas(&self, alteration: &QuotaAlteration) -> Result<()>;

    /// Gives `owner` exactly the rows of `user`, and returns whether that changed anything.
    ///
    /// Rows of the owner that `user` does not have are deleted, also those of another user that it
    /// had before. Of concurrent owners of one user exactly one succeeds. Another's entries of
    /// access control lists do not matter: each owner has its own.
    ///
    /// # Errors
    ///
    /// [`Error::OwnerConflict`] if the user or a quota belongs to another owner, or was made by
    /// hand and `unowned` refuses that. [`Error::InvalidSecurityChange`] if a row is malformed or
    /// named twice, [`Error::SecurityLimit`] if there would be too many.
    async fn apply_user(&self, owner: &str, user: &UserRows, unowned: UnownedRows) -> Result<bool>;

    /// Deletes everything that `owner` has, and returns whether that was anything.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSecurityChange`] if `owner` cannot be one.
    async fn delete_user(&self, owner: &str) -> Result<bool>;

    /// Returns the rows of `owner`, as of one moment; `None` if it has no user.
    async fn find_owned_user(&self, owner: &str) -> Result<Option<UserRows>>;

    /// Returns the rows of every owner whose name begins with `prefix`, as of one moment.
    async fn list_owned_users(&self, prefix: &str) -> Result<BTreeMap<String, UserRows>>;
}

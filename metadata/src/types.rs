//! The arguments and results of the transactions of [`MetadataStore`](crate::MetadataStore).
//!
//! Plain data: offset ranges are half-open (`base..end`), sizes are bytes, and times are
//! milliseconds since the Unix epoch by the database's clock.

mod cluster;
mod groups;
mod owners;
mod security;
mod security_values;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use streamhouse_core::ErrorCode;
pub use streamhouse_core::{Incarnation, PartitionUid};
use uuid::Uuid;

pub(crate) use self::cluster::SKIPPED_VERSIONS;
pub use self::{
    cluster::{ClusterState, RecoveryOutcome, RecoveryRequest, Timeline},
    groups::{
        CommittedOffset, GroupLag, GroupQuery, GroupWrite, OffsetCommit, OffsetCommitOutcome, OffsetDeletion,
        OffsetToCommit, PersistedGroup,
    },
    owners::{TopicOwner, TopicSummary, TopicsOverview},
    security::{
        AclRow, AgentSecret, ClientQuotaId, ClientQuotaRow, QuotaAlteration, ScramAlteration,
        ScramAlterationOutcome, ScramCredentialId, ScramCredentialRow, SecuritySnapshot, UnownedRows,
        UserRows,
    },
};

/// The internal topic whose partitions are the coordinator slots.
///
/// A group belongs to slot `hash(group) % GROUP_SLOTS`, and the leader of that partition
/// coordinates the group.
pub const GROUP_SLOT_TOPIC: &str = "__consumer_groups";
/// The number of coordinator slots; fixed when the store is created.
pub const GROUP_SLOTS: i32 = 16;

/// How long the state of an idempotent producer is kept after its last batch: Kafka's
/// `producer.id.expiration.ms`.
pub const PRODUCER_EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// The properties that an agent registers at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRegistration {
    /// The agent's name, stable across restarts (a pod's name).
    pub agent_id: String,
    /// The address for gRPC clients, as host:port.
    pub grpc_address: String,
    /// The address for HTTP, as host:port; empty for none.
    pub http_address: String,
    /// The address for Kafka clients, as host:port; empty for none.
    pub kafka_address: String,
    /// The availability zone; empty when unknown.
    pub zone: String,
    /// The version of the agent's build.
    pub version: String,
    /// How long the lease lasts without a renewal.
    pub lease_ttl: Duration,
}

/// The identity of a new incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The number of this incarnation.
    pub incarnation: Incarnation,
    /// A small number that no other live agent has: Kafka's broker id. An agent that registers
    /// again keeps it, unless another agent was given it meanwhile.
    pub node_id: i32,
    /// The timeline with which this incarnation begins.
    pub timeline: Timeline,
}

/// A renewed lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRenewal {
    /// The current version of the [`ClusterSnapshot`].
    pub version: u64,
    /// How many other agents this call sealed.
    pub sealed_others: u32,
}

/// How long a lease must be without renewal before another agent may seal its holder; measured by
/// the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceThreshold {
    /// At least this long.
    AtLeast(Duration),
    /// At least half of the lease's own duration. Agents renew after every third of it, so more
    /// than one renewal was missed.
    HalfLease,
}

/// All agents, topics and leaders as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterSnapshot {
    /// Rises with every change, also with that of [`security_version`](Self::security_version).
    pub version: u64,
    /// The version of [`SecuritySnapshot`], which
    /// [`load_security`](crate::MetadataStore::load_security) returns: whoever loaded another one
    /// loads again. 0 also while the schema has no users, ACLs and quotas.
    pub security_version: i64,
    /// The id of the cluster, created with the store.
    pub cluster_id: String,
    /// The agents that are not sealed.
    pub agents: Vec<AgentEntry>,
    /// The sealed incarnations whose orphans are not yet swept, with the time since they were
    /// sealed.
    pub unswept: Vec<(Incarnation, Duration)>,
    /// The topics that are not deleted, including the internal one.
    pub topics: Vec<TopicEntry>,
}

/// An agent that is not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEntry {
    /// Its current incarnation.
    pub incarnation: Incarnation,
    /// See [`AgentIdentity::node_id`].
    pub node_id: i32,
    /// See [`AgentRegistration`].
    pub agent_id: String,
    /// See [`AgentRegistration`].
    pub grpc_address: String,
    /// See [`AgentRegistration`].
    pub http_address: String,
    /// See [`AgentRegistration`].
    pub kafka_address: String,
    /// See [`AgentRegistration`].
    pub zone: String,
    /// See [`AgentRegistration`].
    pub version: String,
    /// Whether it hands over its leases and receives no new ones; see
    /// [`MetadataStore::drain`](crate::MetadataStore::drain).
    pub draining: bool,
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    /// The id of the topic, never used again.
    pub topic_id: Uuid,
    /// The name, unique among the topics that exist; free again as soon as the topic is deleted.
    pub name: String,
    /// The prefix of the keys of its new segments; see
    /// [`keys::topic_folder`](crate::keys::topic_folder). No other topic ever has the same.
    pub folder: String,
    /// Whether the topic belongs to the cluster itself and is hidden from listings.
    pub internal: bool,
    /// The settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// The time of creation.
    pub created_at_ms: i64,
    /// The partitions by number, without gaps.
    pub partitions: Vec<PartitionEntry>,
}

/// A partition and the holder of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionEntry {
    /// The id of the partition, never used again.
    pub uid: PartitionUid,
    /// The holder of the lease; `None` also when the holder is sealed.
    pub holder: Option<Incarnation>,
    /// The leader epoch; rises when the holder changes.
    pub epoch: i32,
}

/// A lease as its holder received it; the fence of every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The partition or coordinator slot.
    pub partition: PartitionUid,
    /// The holder.
    pub incarnation: Incarnation,
    /// The leader epoch in which the lease was granted.
    pub epoch: i32,
}

/// A request to move a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseMove {
    /// The partition.
    pub partition: PartitionUid,
    /// The expected holder; `None` if there is none or it is sealed.
    pub from: Option<Incarnation>,
    /// The expected epoch.
    pub epoch: i32,
    /// The new holder, which must be live; `None` releases the lease.
    pub to: Option<Incarnation>,
}

/// The outcome of a [`LeaseMove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseMoveOutcome {
    /// The lease moved: the new epoch and the bounds of the log, for the new holder.
    Moved {
        /// The epoch in force.
        epoch: i32,
        /// The bounds of the log at the moment of the move.
        bounds: LogBounds,
    },
    /// The holder or the epoch is another one by now, or the target is not live.
    Lost,
}

/// The offsets that bound a partition's log, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBounds {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The first offset that no segment covers.
    pub rolled: i64,
    /// The offset after the last record.
    pub high_watermark: i64,
    /// The stored bytes of the spans that do not lie completely before the log start.
    pub size_bytes: i64,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// The name, already validated.
    pub name: String,
    /// The number of partitions, at least 1.
    pub partitions: i32,
    /// The settings, already validated.
    pub config: BTreeMap<String, String>,
}

/// A change to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicChange {
    /// The new number of partitions, if it changes.
    pub partitions: Option<i32>,
    /// The changed settings: `Some` sets a value, `None` resets it to the default.
    pub config: BTreeMap<String, Option<String>>,
}

/// A WAL object that is stored and is to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCommit {
    /// The incarnation that wrote the object.
    pub incarnation: Incarnation,
    /// The number of the object within the incarnation; both together are the idempotency key.
    pub sequence: u64,
    /// The size of the object.
    pub size_bytes: u64,
    /// The parts of the object by partition, each partition at most once.
    pub partitions: Vec<PartitionCommit>,
}

/// The part of a WAL object for one partition: consecutive batches from `position` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCommit {
    /// The partition.
    pub partition: PartitionUid,
    /// The leader epoch in which the batches were accepted.
    pub epoch: i32,
    /// The position of the first batch in the object.
    pub position: u64,
    /// The batches in order, without gaps between them.
    pub batches: Vec<BatchMetadata>,
}

/// The properties of a batch that a commit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMetadata {
    /// The length of the batch.
    pub size_bytes: u32,
    /// The number of offsets it takes (last offset delta + 1).
    pub records: i32,
    /// The greatest timestamp in it.
    pub max_timestamp: i64,
    /// The idempotent producer and its sequence; `None` for other producers.
    pub producer: Option<ProducerBatch>,
}

/// The producer id, epoch and sequence of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// The producer id; see
    /// [`MetadataStore::allocate_producer_id`](crate::MetadataStore::allocate_producer_id).
    pub id: i64,
    /// The producer epoch, which the producer raises after an unresolved failure.
    pub epoch: i16,
    /// The sequence of its first record.
    pub first_sequence: i32,
}

/// The outcome of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOutcome {
    /// One outcome per partition, in the order of [`ObjectCommit::partitions`].
    pub partitions: Vec<PartitionOutcome>,
}

/// The outcome of a commit for one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionOutcome {
    /// The lease was in force.
    Committed {
        /// One outcome per batch, in order.
        batches: Vec<BatchOutcome>,
        /// The new high watermark.
        high_watermark: i64,
        /// The log start in force.
        log_start: i64,
    },
    /// The lease is held by another agent or the partition does not exist: nothing was committed.
    Fenced,
}

/// The outcome of a commit for one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// The batch was appended.
    Appended {
        /// The offset of its first record.
        base_offset: i64,
    },
    /// The batch was appended before; a success for the producer.
    Duplicate {
        /// The offset of its first record.
        base_offset: i64,
    },
    /// The batch was refused: `OutOfOrderSequenceNumber`, `DuplicateSequenceNumber` (too old to
    /// return its offset), `InvalidProducerEpoch`, `StorageCorrupt` (the stored producer state
    /// cannot be read).
    Refused {
        /// The [`ErrorCode::number`] of the reason.
        code: i32,
    },
}

impl BatchOutcome {
    /// Returns a refusal for this reason.
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code: code.number() }
    }
}

/// The position at which a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPosition {
    /// The span that holds this offset; offsets before the log start read from the log start.
    Offset(i64),
    /// The first span whose greatest timestamp is at or after this time.
    Timestamp(i64),
    /// The first span with the greatest timestamp, of those that end after this offset.
    GreatestTimestamp(i64),
}

/// An idempotent producer of a partition, whose state has not expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// The producer id.
    pub producer_id: i64,
    /// The producer epoch.
    pub epoch: i16,
    /// The sequence of the last record.
    pub last_sequence: i32,
    /// The time of the last batch, to the minute.
    pub last_used_ms: i64,
}

/// The result of [`MetadataStore::read_log`](crate::MetadataStore::read_log).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// The bounds of the partition at the same moment.
    pub bounds: LogBounds,
    /// The spans in offset order, without gaps.
    pub spans: Vec<LogSpan>,
    /// The database's current time. Retention measures ages by it, so that no agent's clock can
    /// expire a record.
    pub now_ms: i64,
}

/// A run of offsets and the location of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSpan {
    /// The first offset.
    pub base_offset: i64,
    /// The offset after the last one.
    pub end_offset: i64,
    /// The greatest timestamp in it.
    pub max_timestamp: i64,
    /// The time of the commit for a WAL range, of the roll for a segment.
    pub stored_at_ms: i64,
    /// The leader epoch to write into the batches of a WAL range. Segments contain it already.
    pub epoch: i32,
    /// The location of the bytes.
    pub place: SpanLocation,
}

/// The location of a span's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanLocation {
    /// A range of a WAL object: consecutive batches whose base offsets must be assigned from
    /// `base_offset` on.
    Wal {
        /// The incarnation that wrote the object.
        incarnation: Incarnation,
        /// The number of the object within the incarnation.
        sequence: u64,
        /// The position of the first byte.
        position: u64,
        /// The number of bytes.
        length: u64,
    },
    /// A segment object.
    Segment {
        /// The key of the object.
        key: String,
        /// The size of the object.
        size_bytes: u64,
    },
}

/// The intent to write a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIntent {
    /// The key of the object to write.
    pub key: String,
    /// Whether an earlier intent for the same key exists: the object may exist too.
    pub inherited: bool,
}

/// A segment whose object is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSegment {
    /// The key from the intent.
    pub key: String,
    /// The first offset: the partition's `rolled`.
    pub base_offset: i64,
    /// The offset after the last one: the end of a WAL range.
    pub end_offset: i64,
    /// The greatest timestamp in it.
    pub max_timestamp: i64,
    /// The size of the object.
    pub size_bytes: u64,
}

/// How long garbage collection keeps what is no longer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GarbagePolicy {
    /// Unreferenced objects; must exceed the duration of the longest read.
    pub object_grace: Duration,
    /// Producer state since the last batch.
    pub producer_expiry: Duration,
    /// Committed offsets of groups without members.
    pub offsets_retention: Duration,
    /// Rows of sealed and swept incarnations, kept for troubleshooting.
    pub incarnation_retention: Duration,
}

/// The result of one step of garbage collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GarbageBatch {
    /// The objects to delete now. Confirm their deletion with
    /// [`MetadataStore::confirm_deleted`](crate::MetadataStore::confirm_deleted).
    pub keys: Vec<String>,
    /// The number of objects whose grace has not passed.
    pub waiting: u64,
    /// Whether another step has work to do.
    pub more: bool,
}

//! What goes into and comes out of the transactions. Plain data; offsets are half-open (`base..end`), sizes bytes, times
//! milliseconds since the Unix epoch by the database's clock.

mod cluster;
mod groups;
mod owners;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use streamhouse_core::ErrorCode;
pub use streamhouse_core::{Incarnation, PartitionUid};
use uuid::Uuid;

pub use self::{
    cluster::{ClusterState, Recovered, Recovery, Timeline},
    groups::{
        CommittedOffset, GroupLag, GroupQuery, GroupRecord, GroupWrite, OffsetCommit, OffsetOutcome,
        OffsetToCommit,
    },
    owners::{TopicOverview, TopicOwner, TopicsOverview},
};

/// The internal topic whose partitions are the coordinator slots: a group belongs to slot `hash(group) % GROUP_SLOTS`,
/// and whoever leads that partition coordinates the group.
pub const GROUP_SLOT_TOPIC: &str = "__consumer_groups";
/// How many coordinator slots there are; fixed when the store is created.
pub const GROUP_SLOTS: i32 = 16;

/// What an agent says of itself when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRegistration {
    /// Stable across restarts (a pod's name).
    pub agent_id: String,
    /// host:port for gRPC clients.
    pub grpc_address: String,
    /// host:port for HTTP; empty for none.
    pub http_address: String,
    /// host:port for Kafka clients; empty for none.
    pub kafka_address: String,
    /// Availability zone; empty when unknown.
    pub zone: String,
    /// The build's version.
    pub version: String,
    /// How long the lease lasts without renewal.
    pub lease_ttl: Duration,
}

/// The identity of the new life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// This life.
    pub incarnation: Incarnation,
    /// A small number, stable for the `agent_id`: Kafka's broker id.
    pub node_id: i32,
    /// The point of the history at which this life began.
    pub timeline: Timeline,
}

/// A renewed lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// The current version of [`Snapshot`].
    pub version: u64,
    /// How many other agents this call sealed.
    pub sealed_others: u32,
}

/// How long a lease must not have been renewed before others may end the life early; by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// So long.
    For(Duration),
    /// Half of the lease's own time: more than one renewal was missed, since agents renew every third.
    HalfLease,
}

/// Agents, topics and leaders at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Rises with every change.
    pub version: u64,
    /// The cluster's id, made when the store was created.
    pub cluster_id: String,
    /// Agents that are not sealed.
    pub agents: Vec<AgentRecord>,
    /// Sealed lives whose orphans are not yet swept, with how long they have been sealed.
    pub unswept: Vec<(Incarnation, Duration)>,
    /// Topics that are not deleted, the internal one included.
    pub topics: Vec<TopicRecord>,
}

/// A live agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its current life.
    pub incarnation: Incarnation,
    /// See [`Registered::node_id`].
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
    /// It hands its leases over and takes no new ones; see [`MetadataStore::drain`](crate::MetadataStore::drain).
    pub draining: bool,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// Unique for ever.
    pub topic_id: Uuid,
    /// Unique among topics that exist; free again as soon as the topic is deleted.
    pub name: String,
    /// What the keys of its new segments begin with; see [`keys::topic_folder`](crate::keys::topic_folder). Never another topic's.
    pub folder: String,
    /// The cluster's own, hidden from listings.
    pub internal: bool,
    /// The settings that were set.
    pub config: BTreeMap<String, String>,
    /// When it was created.
    pub created_at_ms: i64,
    /// By partition number, without gaps.
    pub partitions: Vec<PartitionRecord>,
}

/// A partition and its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Unique for ever.
    pub uid: PartitionUid,
    /// Who holds the lease; `None` also when the holder is sealed.
    pub holder: Option<Incarnation>,
    /// The leader epoch; rises when the holder changes.
    pub epoch: i32,
}

/// A lease as its holder knows it; what fences a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The partition (or coordinator slot).
    pub partition: PartitionUid,
    /// The holder.
    pub incarnation: Incarnation,
    /// The epoch it was given.
    pub epoch: i32,
}

/// One wish to move a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseMove {
    /// Which.
    pub partition: PartitionUid,
    /// Held by whom, in which epoch: `None` for nobody or a sealed holder.
    pub from: Option<Incarnation>,
    /// The epoch seen.
    pub epoch: i32,
    /// To whom; `None` releases it. Must be live.
    pub to: Option<Incarnation>,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveOutcome {
    /// Done: the new epoch and the log's bounds, for the new holder.
    Moved {
        /// The epoch in force.
        epoch: i32,
        /// The log as the new holder finds it.
        bounds: LogBounds,
    },
    /// Somebody was faster, or the target is not live.
    Lost,
}

/// A partition's log in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBounds {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The first offset that no segment covers.
    pub rolled: i64,
    /// The offset after the last record.
    pub high_watermark: i64,
    /// Stored bytes of spans not wholly before the log start.
    pub size_bytes: i64,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Already checked to be legal.
    pub name: String,
    /// At least 1.
    pub partitions: i32,
    /// Already checked.
    pub config: BTreeMap<String, String>,
}

/// A change of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicChange {
    /// The new partition count, if it changes.
    pub partitions: Option<i32>,
    /// `Some` sets, `None` resets to the default.
    pub config: BTreeMap<String, Option<String>>,
}

/// One WAL object, stored already, to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCommit {
    /// Whose object it is.
    pub incarnation: Incarnation,
    /// Its number within the incarnation; with it the idempotency key.
    pub sequence: u64,
    /// Its size.
    pub size_bytes: u64,
    /// Per partition, each at most once.
    pub partitions: Vec<PartitionCommit>,
}

/// One partition's part of a WAL object: batches back to back from `position` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCommit {
    /// Which.
    pub partition: PartitionUid,
    /// The epoch in which they were taken.
    pub epoch: i32,
    /// Where in the object its first batch begins.
    pub position: u64,
    /// The batches, in order and contiguous.
    pub batches: Vec<BatchMeta>,
}

/// What the commit needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    /// Its length.
    pub size_bytes: u32,
    /// Offsets it takes (last offset delta + 1).
    pub records: i32,
    /// Its greatest timestamp.
    pub max_timestamp: i64,
    /// The idempotent producer and its sequence; `None` for others.
    pub producer: Option<ProducerBatch>,
}

/// The idempotent producer's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// See [`MetadataStore::allocate_producer_id`](crate::MetadataStore::allocate_producer_id).
    pub id: i64,
    /// Raised by the producer after an unresolved failure.
    pub epoch: i16,
    /// Sequence of its first record.
    pub first_sequence: i32,
}

/// What became of each partition, in the order asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOutcome {
    /// In the order of [`ObjectCommit::partitions`].
    pub partitions: Vec<PartitionOutcome>,
}

/// What became of a partition's batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionOutcome {
    /// The lease was this agent's: a result per batch, in order.
    Committed {
        /// One each.
        batches: Vec<BatchOutcome>,
        /// The new high watermark.
        high_watermark: i64,
        /// The log start in force.
        log_start: i64,
    },
    /// The lease is another's or the partition is gone: nothing of it was committed.
    Fenced,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// Stored with this base offset.
    Appended {
        /// Of its first record.
        base_offset: i64,
    },
    /// It was stored before, with this base offset: success for the producer.
    Duplicate {
        /// Of its first record.
        base_offset: i64,
    },
    /// Refused: `OutOfOrderSequenceNumber`, `DuplicateSequenceNumber` (too old to name its offset), `InvalidProducerEpoch`,
    /// `StorageCorrupt` (what the store remembers of the producer cannot be read).
    Refused {
        /// [`ErrorCode::number`] of the reason.
        code: i32,
    },
}

impl BatchOutcome {
    /// A refusal for this reason.
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code: code.number() }
    }
}

/// Where to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPosition {
    /// From the span that holds this offset on; offsets before the log start read from the log start.
    Offset(i64),
    /// From the first span whose greatest timestamp is at or after this.
    Timestamp(i64),
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// The partition's bounds at the same moment.
    pub bounds: LogBounds,
    /// In offset order, without gaps.
    pub spans: Vec<LogSpan>,
    /// The database's time of day: what retention measures ages by, so that no agent's clock can expire a record.
    pub now_ms: i64,
}

/// A run of offsets and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSpan {
    /// First offset.
    pub base_offset: i64,
    /// Offset after the last.
    pub end_offset: i64,
    /// Greatest timestamp in it.
    pub max_timestamp: i64,
    /// When it was stored as it is now: the commit of a WAL range, the roll of a segment.
    pub stored_at_ms: i64,
    /// The leader epoch to stamp into its batches (WAL ranges; segments are stamped).
    pub epoch: i32,
    /// Where.
    pub place: Place,
}

/// Where a span's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a WAL object: batches back to back whose base offsets are still to be stamped from `base_offset` on.
    Wal {
        /// Whose object.
        incarnation: Incarnation,
        /// Its number.
        sequence: u64,
        /// First byte.
        position: u64,
        /// How many bytes.
        length: u64,
    },
    /// In a segment object.
    Segment {
        /// Its key.
        key: String,
        /// Its size.
        size_bytes: u64,
    },
}

/// An intent to write a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIntent {
    /// The key to write.
    pub key: String,
    /// True when an earlier intent for the same key was left behind: an object may be there.
    pub inherited: bool,
}

/// A segment whose object is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSegment {
    /// From the intent.
    pub key: String,
    /// First offset: the partition's `rolled`.
    pub base_offset: i64,
    /// Offset after the last: the end of a WAL range.
    pub end_offset: i64,
    /// Greatest timestamp in it.
    pub max_timestamp: i64,
    /// Its size.
    pub size_bytes: u64,
}

/// How long things are kept after nothing needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GarbagePolicy {
    /// Objects: longer than the longest read.
    pub object_grace: Duration,
    /// Producer state without a batch.
    pub producer_expiry: Duration,
    /// Offsets of groups without members.
    pub offsets_retention: Duration,
    /// Lives of agents that ended and left nothing: for people who look into what happened.
    pub lives_retention: Duration,
}

/// What a step of tidying found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Objects to delete now; say so with [`MetadataStore::confirm_deleted`](crate::MetadataStore::confirm_deleted).
    pub keys: Vec<String>,
    /// Objects that wait for their grace.
    pub waiting: u64,
    /// Whether there was more than one step could do.
    pub more: bool,
}

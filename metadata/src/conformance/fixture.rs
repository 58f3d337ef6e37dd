//! The fixtures of the scenarios: agents, topics, and a partition's log with its holder.

use std::{sync::Arc, time::Duration};

use crate::{
    AgentIdentity, AgentRegistration, BatchMetadata, BatchOutcome, ClusterSnapshot, CommitOutcome,
    GROUP_SLOT_TOPIC, GarbageBatch, GarbagePolicy, Incarnation, Lease, LeaseMove, LeaseMoveOutcome,
    LogPosition, LogView, MetadataStore, NewSegment, NewTopic, ObjectCommit, PartitionCommit,
    PartitionOutcome, PartitionUid, ProducerBatch, TopicEntry, TopicOwner,
};

/// A store under test.
pub type SharedStore = Arc<dyn MetadataStore>;

/// Keeps everything for longer than any test runs.
pub const KEEP_EVERYTHING: GarbagePolicy = GarbagePolicy {
    object_grace: Duration::from_secs(86_400),
    producer_expiry: Duration::from_secs(86_400),
    offsets_retention: Duration::from_secs(86_400),
    incarnation_retention: Duration::from_secs(86_400),
};
/// Returns unreferenced objects at once, and keeps everything else.
pub const NO_GRACE: GarbagePolicy = GarbagePolicy {
    object_grace: Duration::ZERO,
    ..KEEP_EVERYTHING
};

pub fn registration(agent_id: &str, lease_ttl: Duration) -> AgentRegistration {
    AgentRegistration {
        agent_id: agent_id.to_owned(),
        grpc_address: format!("{agent_id}:50051"),
        http_address: format!("{agent_id}:8080"),
        kafka_address: format!("{agent_id}:9092"),
        zone: "a".to_owned(),
        version: "0.1.0".to_owned(),
        lease_ttl,
    }
}

/// Registers an incarnation whose lease lasts longer than any test.
pub async fn register_agent(store: &SharedStore, agent_id: &str) -> AgentIdentity {
    store
        .register_agent(&registration(agent_id, Duration::from_secs(3600)))
        .await
        .unwrap()
}

/// Returns an owner of this name in the namespace `default`.
pub fn owner(resource: &str) -> TopicOwner {
    TopicOwner {
        uid: format!("uid-of-{resource}"),
        namespace: "default".to_owned(),
        resource: resource.to_owned(),
    }
}

pub fn new_topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions,
        config: std::collections::BTreeMap::new(),
    }
}

pub async fn create_topic(store: &SharedStore, name: &str, partitions: i32) -> TopicEntry {
    store.create_topic(&new_topic(name, partitions)).await.unwrap()
}

pub async fn snapshot(store: &SharedStore) -> ClusterSnapshot {
    store.snapshot(None).await.unwrap().unwrap()
}

/// Returns the leases of a topic's partitions, all of which must be held.
pub fn leases(topic: &TopicEntry) -> Vec<Lease> {
    let lease = |partition: &crate::PartitionEntry| Lease {
        partition: partition.uid,
        incarnation: partition.holder.unwrap(),
        epoch: partition.epoch,
    };
    topic.partitions.iter().map(lease).collect()
}

/// Moves a lease to another incarnation; returns `None` if the move was lost.
pub async fn take_lease(store: &SharedStore, lease: Lease, to: Incarnation) -> Option<Lease> {
    let lease_move = LeaseMove {
        partition: lease.partition,
        from: Some(lease.incarnation),
        epoch: lease.epoch,
        to: Some(to),
    };
    match store.move_leases(&[lease_move]).await.unwrap()[0] {
        LeaseMoveOutcome::Moved { epoch, .. } => Some(Lease {
            incarnation: to,
            epoch,
            ..lease
        }),
        LeaseMoveOutcome::Lost => None,
    }
}

/// Gives the free lease of coordinator slot `take_slot_lease` to `holder`.
pub async fn take_slot_lease(store: &SharedStore, slot: usize, holder: Incarnation) -> Lease {
    let topics = snapshot(store).await.topics;
    let slots = topics
        .iter()
        .find(|topic| topic.name == GROUP_SLOT_TOPIC)
        .unwrap();
    let record = slots.partitions[slot];
    let lease_move = LeaseMove {
        partition: record.uid,
        from: record.holder,
        epoch: record.epoch,
        to: Some(holder),
    };
    match store.move_leases(&[lease_move]).await.unwrap()[0] {
        LeaseMoveOutcome::Moved { epoch, .. } => Lease {
            partition: record.uid,
            incarnation: holder,
            epoch,
        },
        LeaseMoveOutcome::Lost => panic!("the slot was not free"),
    }
}

/// Returns a batch of `records` records of 10 bytes each.
pub fn batch(records: i32) -> BatchMetadata {
    BatchMetadata {
        size_bytes: records.unsigned_abs() * 10,
        records,
        max_timestamp: 1000,
        producer: None,
    }
}

/// Returns a batch of an idempotent producer in epoch 0.
pub fn sequenced_batch(producer: i64, first_sequence: i32, records: i32) -> BatchMetadata {
    BatchMetadata {
        producer: Some(ProducerBatch {
            id: producer,
            epoch: 0,
            first_sequence,
        }),
        ..batch(records)
    }
}

/// Returns an object with these batches, one after the other.
pub fn object_commit(
    incarnation: Incarnation,
    sequence: u64,
    parts: &[(Lease, &[BatchMetadata])],
) -> ObjectCommit {
    let mut position = 0;
    let mut partitions = Vec::new();
    for (lease, batches) in parts {
        partitions.push(PartitionCommit {
            partition: lease.partition,
            epoch: lease.epoch,
            position,
            batches: batches.to_vec(),
        });
        position += batches
            .iter()
            .map(|batch| u64::from(batch.size_bytes))
            .sum::<u64>();
    }
    ObjectCommit {
        incarnation,
        sequence,
        size_bytes: position,
        partitions,
    }
}

/// Returns the outcomes of the batches of one partition; panics if it was fenced.
pub fn batch_outcomes(outcome: &CommitOutcome, partition: usize) -> Vec<BatchOutcome> {
    match &outcome.partitions[partition] {
        PartitionOutcome::Committed { batches, .. } => batches.clone(),
        PartitionOutcome::Fenced => panic!("partition {partition} of the commit was fenced"),
    }
}

/// A partition's log, its holder, and the sequence of the holder's next object.
pub struct TestLog {
    pub store: SharedStore,
    pub lease: Lease,
    pub sequence: u64,
}

impl TestLog {
    /// Creates a topic with one partition, held by a new agent.
    pub async fn new(store: &SharedStore) -> Self {
        register_agent(store, "agent-0").await;
        Self::with_lease(store, leases(&create_topic(store, "orders", 1).await)[0])
    }

    pub fn with_lease(store: &SharedStore, lease: Lease) -> Self {
        Self {
            store: store.clone(),
            lease,
            sequence: 0,
        }
    }

    /// Commits one object with these batches.
    pub async fn commit(&mut self, batches: &[BatchMetadata]) -> crate::Result<CommitOutcome> {
        let commit = object_commit(self.lease.incarnation, self.sequence, &[(self.lease, batches)]);
        self.sequence += 1;
        self.store.commit_object(&commit).await
    }

    /// Appends one batch as an object of its own; returns its base offset.
    pub async fn append(&mut self, records: i32) -> i64 {
        self.append_at(records, 1000).await
    }

    /// Appends one batch with a timestamp.
    pub async fn append_at(&mut self, records: i32, max_timestamp: i64) -> i64 {
        let outcome = self
            .commit(&[BatchMetadata {
                max_timestamp,
                ..batch(records)
            }])
            .await
            .unwrap();
        match batch_outcomes(&outcome, 0)[0] {
            BatchOutcome::Appended { base_offset } => base_offset,
            other => panic!("the batch was not appended: {other:?}"),
        }
    }

    pub async fn read(&self, from: i64) -> LogView {
        self.store
            .read_log(self.lease.partition, LogPosition::Offset(from), 1000)
            .await
            .unwrap()
    }

    /// Rolls all ranges up to `end_offset` into a segment; returns its key.
    pub async fn roll(&self, end_offset: i64) -> String {
        let base_offset = self.read(0).await.bounds.rolled;
        let intent = self.store.begin_segment(self.lease, base_offset).await.unwrap();
        let segment = NewSegment {
            key: intent.key.clone(),
            base_offset,
            end_offset,
            max_timestamp: 1000,
            size_bytes: 77,
        };
        self.store.finish_segment(self.lease, &segment).await.unwrap();
        intent.key
    }
}

/// Runs garbage collection until there is no more to do; returns all keys to delete.
pub async fn collect_garbage(store: &SharedStore, policy: GarbagePolicy) -> Vec<String> {
    let mut keys = collect_garbage_step(store, policy).await.keys;
    keys.sort();
    keys
}

/// Runs garbage collection until there is no more to do; returns the result of the last step.
pub async fn collect_garbage_step(store: &SharedStore, policy: GarbagePolicy) -> GarbageBatch {
    for _ in 0..1000 {
        let found = store.collect_garbage(&policy, 100_000).await.unwrap();
        if !found.more {
            return found;
        }
    }
    panic!("garbage never comes to an end");
}

/// Checks the invariants of any log: ordered bounds, and spans without gap or overlap.
pub async fn check_log(store: &SharedStore, uid: PartitionUid) {
    let view = store.read_log(uid, LogPosition::Offset(0), 10_000).await.unwrap();
    let bounds = view.bounds;
    assert!(
        0 <= bounds.log_start && bounds.log_start <= bounds.high_watermark,
        "{bounds:?}"
    );
    assert!(
        0 <= bounds.rolled && bounds.rolled <= bounds.high_watermark,
        "{bounds:?}"
    );
    let mut next = view
        .spans
        .first()
        .map_or(bounds.high_watermark, |span| span.base_offset);
    assert!(
        next <= bounds.log_start,
        "the log start lies in no span: {bounds:?}, {:?}",
        view.spans
    );
    for span in &view.spans {
        assert_eq!(span.base_offset, next, "a gap or an overlap: {:?}", view.spans);
        assert!(span.end_offset > span.base_offset);
        let in_segment = matches!(span.place, crate::SpanLocation::Segment { .. });
        assert_eq!(
            in_segment,
            span.end_offset <= bounds.rolled,
            "{bounds:?}: {span:?}"
        );
        next = span.end_offset;
    }
    assert_eq!(next, bounds.high_watermark);
    let stored: u64 = view
        .spans
        .iter()
        .map(|span| match span.place {
            crate::SpanLocation::Wal { length, .. } => length,
            crate::SpanLocation::Segment { size_bytes, .. } => size_bytes,
        })
        .sum();
    assert_eq!(u64::try_from(bounds.size_bytes).unwrap(), stored);
}

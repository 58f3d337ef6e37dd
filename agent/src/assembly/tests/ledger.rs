//! Records what was acknowledged and what was read, and checks the invariants between the two, each
//! by its name. Uses its own code to read, and looks at the stores without their faults.

#![allow(clippy::needless_update)] // messages get new fields

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use streamhouse_core::{
    PartitionUid,
    batch::{BatchIter, DecodedRecords},
};
use streamhouse_metadata::{LogPosition, SpanLocation, keys};

use super::{stores::FaultyStores, *};
use crate::{fetch, invariant::Invariant};

/// Fails the test and names the violated invariant.
macro_rules! panic_violated {
    ($invariant:ident, $($what:tt)*) => { panic!("{} violated: {}", Invariant::$invariant, format!($($what)*)) };
}

/// A partition by name and by its unique id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PartitionName {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) uid: PartitionUid,
}

/// One partition's log, as producers and consumers know it.
#[derive(Debug, Default)]
struct PartitionLedger {
    /// Values sent to agents, acknowledged or not, in each producer's order.
    sent: Vec<String>,
    /// The value acknowledged at each offset.
    acked: BTreeMap<i64, String>,
    /// The values that consumers read.
    seen: BTreeMap<i64, String>,
}

/// Everything acknowledged and read.
#[derive(Debug, Default)]
pub(super) struct RecordLedger {
    logs: HashMap<PartitionUid, PartitionLedger>,
    /// The incarnation that committed in each epoch of a partition.
    committers: HashMap<(PartitionUid, i32), Incarnation>,
    pub(super) acks: u64,
}

impl RecordLedger {
    /// Records a value that is sent for the first time.
    pub(super) fn record_sent(&mut self, log: &PartitionName, value: &str) {
        self.logs.entry(log.uid).or_default().sent.push(value.to_owned());
    }

    /// Records an acknowledgement.
    pub(super) fn record_acked(&mut self, log: &PartitionName, offset: i64, value: &str) {
        self.acks += 1;
        let ledger = self.logs.entry(log.uid).or_default();
        if let Some(other) = ledger.acked.insert(offset, value.to_owned()) {
            panic_violated!(P2, "{log:?}: offset {offset} was given to {other} and to {value}");
        }
        if let Some(seen) = ledger.seen.get(&offset).filter(|seen| *seen != value) {
            panic_violated!(
                P1,
                "{log:?}: {value} was acknowledged at {offset}, which holds {seen}"
            );
        }
    }

    /// Checks records that a consumer received for `offset`. Returns the next offset to
    /// read.
    fn record_read(&mut self, log: &PartitionName, offset: i64, records: &[(i64, String)]) -> i64 {
        let ledger = self.logs.entry(log.uid).or_default();
        let mut next = offset;
        for (at, value) in records.iter().skip_while(|(at, _)| *at < offset) {
            if *at != next {
                panic_violated!(P2, "{log:?}: a reader at {next} was given {at}");
            }
            let seen = ledger.seen.entry(next).or_insert_with(|| value.clone());
            if seen != value {
                panic_violated!(F1, "{log:?}: offset {next} held {seen}, and now {value}");
            }
            if let Some(acked) = ledger.acked.get(&next).filter(|acked| *acked != value) {
                panic_violated!(
                    P1,
                    "{log:?}: {acked} was acknowledged at {next}, which holds {value}"
                );
            }
            if !ledger.sent.contains(value) {
                panic_violated!(
                    F1,
                    "{log:?}: offset {next} holds {value}, which no producer sent to it"
                );
            }
            next += 1;
        }
        next
    }

    /// Compares a log that was read to its end with what was acknowledged.
    pub(super) fn check_whole(&self, log: &PartitionName, high_watermark: i64) {
        let Some(ledger) = self.logs.get(&log.uid) else {
            return;
        };
        for (offset, value) in &ledger.acked {
            if ledger.seen.get(offset) != Some(value) {
                panic_violated!(
                    P1,
                    "{log:?}: {value} was acknowledged at {offset} and is not there"
                );
            }
        }
        let offsets: Vec<i64> = ledger.seen.keys().copied().collect();
        if offsets != (0..high_watermark).collect::<Vec<_>>() {
            panic_violated!(P2, "{log:?}: read {offsets:?} of 0..{high_watermark}");
        }
        let order: HashMap<&String, usize> = ledger.sent.iter().zip(0..).collect();
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut stored = BTreeSet::new();
        for value in ledger.seen.values() {
            if !stored.insert(value) {
                panic_violated!(P3, "{log:?}: {value} is stored twice");
            }
            // Values are "producer.sequence".
            let producer = value.split('.').next().unwrap_or_default();
            let at = order[value];
            if last.insert(producer, at).is_some_and(|before| before > at) {
                panic_violated!(P4, "{log:?}: {value} stands after a value that was sent later");
            }
        }
    }
}

/// Fetches from `offset` on, and returns the values with their offsets.
pub(super) async fn fetch_values(
    node: &AgentNode,
    log: &PartitionName,
    offset: i64,
    max_bytes: u32,
) -> Result<Vec<(i64, String)>, streamhouse_core::Error> {
    let wanted = v1::PartitionFetch {
        topic: log.topic.clone(),
        partition: log.partition,
        offset,
        max_bytes,
        ..Default::default()
    };
    let request = v1::FetchRequest {
        partitions: vec![wanted],
        max_bytes,
        ..Default::default()
    };
    let (mut response, _memory) = fetch::fetch(&node.fetch(), request).await?;
    let part = response.partitions.remove(0);
    if let Some(error) = part.error {
        return Err(error.into());
    }
    Ok(decode_values(&part.records))
}

fn decode_values(records: &Bytes) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in BatchIter::owned(records) {
        let (_, batch) = batch.unwrap();
        for record in DecodedRecords::decode(batch, 1 << 20).unwrap() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            values.push((record.offset, value));
        }
    }
    values
}

/// Reads once, as any consumer would, and checks the records. Returns the next offset to read.
pub(super) async fn read_and_check(
    stores: &FaultyStores,
    ledger: &parking_lot::Mutex<RecordLedger>,
    node: &AgentNode,
    log: &PartitionName,
    offset: i64,
) -> Result<i64, streamhouse_core::Error> {
    let records = fetch_values(node, log, offset, 4096).await;
    let records = records.inspect_err(|error| {
        if error.code() == ErrorCode::StorageCorrupt {
            panic_violated!(G1, "{log:?} from {offset} on cannot be read: {error}");
        }
    })?;
    let next = ledger.lock().record_read(log, offset, &records);
    let bounds = stores.metadata.inner().bounds(&[log.uid]).await.unwrap();
    if let Some((_, bounds)) = bounds.first()
        && bounds.high_watermark < next
    {
        let committed = bounds.high_watermark;
        panic_violated!(
            F1,
            "{log:?}: a reader was given {next} records of {committed} committed"
        );
    }
    Ok(next)
}

/// Returns the partitions of all user topics.
pub(super) async fn user_partitions(stores: &FaultyStores) -> Vec<PartitionName> {
    let snapshot = stores.metadata.inner().snapshot(None).await.unwrap().unwrap();
    let topics = snapshot.topics.iter().filter(|topic| !topic.internal);
    topics
        .flat_map(|topic| {
            (0_i32..)
                .zip(&topic.partitions)
                .map(|(partition, record)| PartitionName {
                    topic: topic.name.clone(),
                    partition,
                    uid: record.uid,
                })
        })
        .collect()
}

/// Returns the keys that rows reference, and checks which incarnation committed in each epoch.
pub(super) async fn referenced_keys(
    stores: &FaultyStores,
    ledger: &parking_lot::Mutex<RecordLedger>,
) -> BTreeSet<String> {
    let mut referenced = BTreeSet::new();
    for log in user_partitions(stores).await {
        let from = LogPosition::Offset(0);
        let Ok(view) = stores.metadata.inner().read_log(log.uid, from, 100_000).await else {
            continue;
        };
        for span in view.spans {
            referenced.insert(match span.place {
                SpanLocation::Segment { key, .. } => key,
                SpanLocation::Wal {
                    incarnation,
                    sequence,
                    ..
                } => {
                    let mut ledger = ledger.lock();
                    let first = *ledger
                        .committers
                        .entry((log.uid, span.epoch))
                        .or_insert(incarnation);
                    if first != incarnation {
                        panic_violated!(
                            L1,
                            "{log:?}: {first} and {incarnation} committed in epoch {}",
                            span.epoch
                        );
                    }
                    keys::wal_key(incarnation, sequence)
                }
            });
        }
    }
    referenced
}

/// Compares the bucket with the metadata. With `quiet`, nothing is in flight: no unreferenced
/// object may be stored either.
pub(super) async fn check_objects(
    stores: &FaultyStores,
    ledger: &parking_lot::Mutex<RecordLedger>,
    quiet: bool,
) {
    let referenced = referenced_keys(stores, ledger).await;
    let stored = stores.objects.keys().into_iter();
    // Other keys with this prefix are internal.
    let stored: BTreeSet<String> = stored
        .filter(|key| !key.starts_with('_') || key.starts_with(keys::WAL_PREFIX))
        .collect();
    // Rows may have been deleted since they were read, but not in a quiet cluster.
    let missing: Vec<&String> = referenced.difference(&stored).collect();
    if quiet && !missing.is_empty() {
        panic_violated!(G1, "rows reference {missing:?}, which are not stored");
    }
    let leaked: Vec<&String> = stored.difference(&referenced).collect();
    if quiet && !leaked.is_empty() {
        panic_violated!(G2, "{leaked:?} are stored and nothing references them");
    }
}

/// A producer that numbers the values it sends to one partition.
#[derive(Debug)]
pub(super) struct TestProducer {
    pub(super) log: PartitionName,
    pub(super) id: i64,
    pub(super) sequence: i32,
}

impl TestProducer {
    pub(super) async fn new(stores: &FaultyStores, log: &PartitionName) -> Self {
        let id = stores.metadata.inner().allocate_producer_id().await.unwrap();
        let log = log.clone();
        Self { log, id, sequence: 0 }
    }

    /// Returns the value of a sequence number: "producer.sequence".
    pub(super) fn value(&self, sequence: i32) -> String {
        format!("{}.{sequence}", self.id)
    }

    /// Sends one batch to an agent; its outcome is awaited separately, so that several can be in
    /// flight.
    pub(super) async fn begin_send(&self, node: &AgentNode, sequence: i32) -> handler::PendingProduce {
        let mut batch = BatchBuilder::new(Compression::None);
        batch.set_producer(self.id, 0, sequence);
        let value = self.value(sequence);
        batch
            .append::<&str, &str>(0, None, Some(value.as_bytes()), &[])
            .unwrap();
        let part = v1::PartitionProduce {
            topic: self.log.topic.clone(),
            partition: self.log.partition,
            records: batch.finish().unwrap(),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            request_id: 1,
            partitions: vec![part],
            ..Default::default()
        };
        handler::accept(&node.produce(), request).await
    }

    /// Sends the next value to this agent; the sequence advances only when it is acknowledged.
    pub(super) async fn send(
        &mut self,
        ledger: &parking_lot::Mutex<RecordLedger>,
        node: &AgentNode,
    ) -> Result<i64, streamhouse_core::Error> {
        let value = self.value(self.sequence);
        ledger.lock().record_sent(&self.log, &value);
        let pending = self.begin_send(node, self.sequence).await;
        let offset = single_offset(pending.finish(&node.produce()).await)?;
        ledger.lock().record_acked(&self.log, offset, &value);
        self.sequence += 1;
        Ok(offset)
    }
}

/// Returns the offset of a request's only batch.
pub(super) fn single_offset(mut response: v1::ProduceResponse) -> Result<i64, streamhouse_core::Error> {
    let result = response.partitions.remove(0);
    result
        .error
        .map_or(Ok(result.base_offset), |error| Err(error.into()))
}

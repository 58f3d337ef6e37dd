//! The model: what a metadata store must answer, by a second and simpler implementation of the
//! rules.

mod commit;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{BatchSpec, ModelOperation, NAMES};
use crate::{
    CommitOutcome, Error, Incarnation, Lease, LeaseMove, LeaseMoveOutcome, LogPosition, NewSegment,
    ObjectCommit, PartitionUid, SpanLocation, TopicOwner,
    conformance::fixture::{
        NO_GRACE, SharedStore, check_log, collect_garbage, create_topic, owner, register_agent, snapshot,
    },
    keys::{parse_wal_key, segment_key, wal_key},
};

/// A run of offsets in an object (`Ok`) or a segment (`Err`).
#[derive(Debug, Clone, PartialEq)]
struct ModelSpan {
    base: i64,
    end: i64,
    place: Result<(Incarnation, u64), String>,
}

/// An epoch and everything stored in it: first and last sequence, base offset.
type ModelProducerState = (i16, Vec<(i32, i32, i64)>);
/// Whether an error is the expected one.
type ErrorPredicate = fn(&Error) -> bool;

#[derive(Debug)]
struct ModelPartition {
    uid: PartitionUid,
    holder: Option<Incarnation>,
    epoch: i32,
    log_start: i64,
    end: i64,
    spans: Vec<ModelSpan>,
    /// By producer id.
    producers: HashMap<i64, ModelProducerState>,
    /// The incarnation that began each segment, by base offset.
    intents: BTreeMap<i64, Incarnation>,
}

impl ModelPartition {
    fn rolled(&self) -> i64 {
        self.spans
            .iter()
            .find(|span| span.place.is_ok())
            .map_or(self.end, |span| span.base)
    }
}

pub(super) struct StoreModel {
    store: SharedStore,
    /// The latest incarnation of each agent id.
    incarnations: Vec<Option<Incarnation>>,
    sealed: BTreeSet<Incarnation>,
    parts: Vec<ModelPartition>,
    commits: Vec<(ObjectCommit, CommitOutcome)>,
    /// Objects whose rows exist.
    objects: BTreeSet<(Incarnation, u64)>,
    forgotten: HashMap<Incarnation, u64>,
    /// Segments that an incarnation may still upload, and whether they were queued for deletion
    /// because it was sealed.
    abandoned: BTreeMap<(Incarnation, String), bool>,
    deletions: BTreeSet<String>,
    owners: BTreeMap<String, TopicOwner>,
}

impl StoreModel {
    pub(super) async fn new(store: &SharedStore, agents: usize, partitions: usize) -> Self {
        let record = create_topic(store, "orders", i32::try_from(partitions).unwrap()).await;
        let part = |uid| ModelPartition {
            uid,
            holder: None,
            epoch: 0,
            log_start: 0,
            end: 0,
            spans: Vec::new(),
            producers: HashMap::new(),
            intents: BTreeMap::new(),
        };
        Self {
            store: store.clone(),
            incarnations: vec![None; agents],
            sealed: BTreeSet::new(),
            parts: record
                .partitions
                .iter()
                .map(|partition| part(partition.uid))
                .collect(),
            commits: Vec::new(),
            objects: BTreeSet::new(),
            forgotten: HashMap::new(),
            abandoned: BTreeMap::new(),
            deletions: BTreeSet::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Makes the call to the store and the model, and compares the results.
    pub(super) async fn step(&mut self, op: &ModelOperation) {
        match op {
            ModelOperation::Register(n) => self.register(*n).await,
            ModelOperation::Seal(n) => self.seal(*n).await,
            ModelOperation::Move { partition, to, stale } => self.move_lease(*partition, *to, *stale).await,
            ModelOperation::Commit { agent, parts } => self.commit(*agent, parts).await,
            ModelOperation::CommitAgain(n) => self.commit_again(*n).await,
            ModelOperation::Begin { agent, partition } => drop(self.begin(*agent, *partition).await),
            ModelOperation::Finish {
                agent,
                partition,
                ranges,
            } => self.finish(*agent, *partition, *ranges).await,
            ModelOperation::Advance { agent, partition, by } => self.advance(*agent, *partition, *by).await,
            ModelOperation::Garbage { confirm } => self.garbage(*confirm).await,
            ModelOperation::Claim { name, owner } => self.claim(NAMES[*name], *owner).await,
            ModelOperation::Release { name, owner } => self.release(NAMES[*name], *owner).await,
            ModelOperation::Overview => self.overview().await,
        }
    }

    async fn register(&mut self, n: usize) {
        let new = register_agent(&self.store, &format!("agent-{n}"))
            .await
            .incarnation;
        if let Some(old) = self.incarnations[n].replace(new) {
            self.end_incarnation(old);
        }
    }

    async fn seal(&mut self, n: usize) {
        let Some(incarnation) = self.incarnations[n] else {
            return;
        };
        self.store.seal(incarnation).await.unwrap();
        self.end_incarnation(incarnation);
    }

    fn end_incarnation(&mut self, incarnation: Incarnation) {
        self.sealed.insert(incarnation);
        for part in &mut self.parts {
            part.holder = part.holder.filter(|holder| *holder != incarnation);
        }
    }

    async fn move_lease(&mut self, partition: usize, to: Option<usize>, stale: bool) {
        let part = &mut self.parts[partition];
        let to = match to.map(|n| self.incarnations[n]) {
            Some(None) => return,
            Some(Some(incarnation)) => Some(incarnation),
            None => None,
        };
        let epoch = part.epoch + i32::from(stale);
        let lease_move = LeaseMove {
            partition: part.uid,
            from: part.holder,
            epoch,
            to,
        };
        let outcome = self.store.move_leases(&[lease_move]).await.unwrap()[0];
        if stale || to.is_some_and(|incarnation| self.sealed.contains(&incarnation)) {
            assert_eq!(outcome, LeaseMoveOutcome::Lost);
            return;
        }
        if to.is_some() && to != part.holder {
            part.epoch += 1;
        }
        part.holder = to;
        let LeaseMoveOutcome::Moved { epoch, bounds } = outcome else {
            panic!("{lease_move:?} was lost")
        };
        assert_eq!(
            (epoch, bounds.high_watermark, bounds.rolled),
            (part.epoch, part.end, part.rolled())
        );
    }

    /// Returns the lease that agent `n` uses, and the expected error if it is not in force.
    fn lease(&self, n: usize, partition: usize) -> Option<(Lease, Option<ErrorPredicate>)> {
        let incarnation = self.incarnations[n]?;
        let part = &self.parts[partition];
        let refusal: Option<ErrorPredicate> = if self.sealed.contains(&incarnation) {
            Some(|error| matches!(error, Error::Sealed(_)))
        } else if part.holder != Some(incarnation) {
            Some(|error| matches!(error, Error::Fenced(_)))
        } else {
            None
        };
        Some((
            Lease {
                partition: part.uid,
                incarnation,
                epoch: part.epoch,
            },
            refusal,
        ))
    }

    async fn begin(&mut self, n: usize, partition: usize) -> Option<(Lease, String)> {
        let (lease, refusal) = self.lease(n, partition)?;
        let base = self.parts[partition].rolled();
        let answer = self.store.begin_segment(lease, base).await;
        if let Some(refused) = refusal {
            assert!(answer.as_ref().is_err_and(refused), "{answer:?}");
            return None;
        }
        let intent = answer.unwrap();
        let former = self.parts[partition].intents.insert(base, lease.incarnation);
        assert_eq!(intent.inherited, former.is_some());
        let key = segment_key("orders", i32::try_from(partition).unwrap(), base);
        assert_eq!(intent.key, key);
        if let Some(former) = former.filter(|former| *former != lease.incarnation) {
            self.abandoned.insert((former, key), false);
        }
        Some((lease, intent.key))
    }

    async fn finish(&mut self, n: usize, partition: usize, ranges: usize) {
        let Some((lease, key)) = self.begin(n, partition).await else {
            return;
        };
        let part = &mut self.parts[partition];
        let base = part.rolled();
        let end = part
            .spans
            .iter()
            .filter(|span| span.place.is_ok())
            .nth(ranges)
            .map(|span| span.end);
        let segment = NewSegment {
            key: key.clone(),
            base_offset: base,
            end_offset: end.unwrap_or(part.end + 1),
            max_timestamp: 5,
            size_bytes: 7,
        };
        let answer = self.store.finish_segment(lease, &segment).await;
        let Some(end) = end else {
            assert!(matches!(answer, Err(Error::SegmentConflict(_))), "{answer:?}");
            return;
        };
        answer.unwrap();
        part.spans.retain(|span| span.place.is_err() || span.end > end);
        part.spans.push(ModelSpan {
            base,
            end,
            place: Err(key),
        });
        part.spans.sort_by_key(|span| span.base);
        part.intents.remove(&base);
    }

    async fn advance(&mut self, n: usize, partition: usize, by: i64) {
        let Some((lease, refusal)) = self.lease(n, partition) else {
            return;
        };
        let asked = self.parts[partition].log_start + by;
        let answer = self.store.advance_log_start(lease, asked).await;
        if let Some(refused) = refusal {
            assert!(answer.as_ref().is_err_and(refused), "{answer:?}");
            return;
        }
        let part = &mut self.parts[partition];
        part.log_start = part.log_start.max(asked.min(part.end));
        assert_eq!(answer.unwrap(), part.log_start);
        let (gone, kept): (Vec<ModelSpan>, Vec<ModelSpan>) =
            part.spans.drain(..).partition(|span| span.end <= part.log_start);
        part.spans = kept;
        self.deletions
            .extend(gone.into_iter().filter_map(|span| span.place.err()));
        let rolled = part.rolled();
        let number = i32::try_from(partition).unwrap();
        let live = part.intents.split_off(&rolled);
        for (base, incarnation) in std::mem::replace(&mut part.intents, live) {
            let key = segment_key("orders", number, base);
            self.deletions.insert(key.clone());
            self.abandoned.insert((incarnation, key), false);
        }
    }

    /// Returns the keys of segments that the log contains or is about to contain.
    fn used_keys(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for (number, part) in (0..).zip(&self.parts) {
            used.extend(part.spans.iter().filter_map(|span| span.place.clone().err()));
            used.extend(
                part.intents
                    .keys()
                    .map(|base| segment_key("orders", number, *base)),
            );
        }
        used
    }

    async fn garbage(&mut self, confirm: bool) {
        let live: BTreeSet<(Incarnation, u64)> = self
            .parts
            .iter()
            .flat_map(|part| part.spans.iter().filter_map(|span| span.place.clone().ok()))
            .collect();
        let used = self.used_keys();
        for ((incarnation, key), queued) in &mut self.abandoned {
            if !*queued && self.sealed.contains(incarnation) && !used.contains(key) {
                *queued = true;
                self.deletions.insert(key.clone());
            }
        }
        let mut expected: Vec<String> = self.deletions.iter().cloned().collect();
        expected.extend(
            self.objects
                .difference(&live)
                .map(|(incarnation, sequence)| wal_key(*incarnation, *sequence)),
        );
        expected.sort();
        assert_eq!(collect_garbage(&self.store, NO_GRACE).await, expected);
        if !confirm {
            return;
        }
        self.store.confirm_deleted(&expected).await.unwrap();
        self.deletions.clear();
        for (incarnation, sequence) in expected.iter().filter_map(|key| parse_wal_key(key)) {
            self.objects.remove(&(incarnation, sequence));
            let greatest = self.forgotten.entry(incarnation).or_default();
            *greatest = sequence.max(*greatest);
        }
    }

    async fn claim(&mut self, name: &str, n: usize) {
        let claimant = owner(&format!("resource-{n}"));
        let answer = self.store.claim_topic(name, &claimant).await.unwrap();
        assert_eq!(answer, *self.owners.entry(name.to_owned()).or_insert(claimant));
    }

    async fn release(&mut self, name: &str, n: usize) {
        let uid = owner(&format!("resource-{n}")).uid;
        let ours = self.owners.get(name).is_some_and(|owner| owner.uid == uid);
        assert_eq!(self.store.release_topic(name, &uid).await.unwrap(), ours);
        if ours {
            self.owners.remove(name);
        }
    }

    async fn overview(&self) {
        let overview = self.store.topics_overview().await.unwrap();
        assert_eq!(overview.owners, self.owners);
        assert_eq!(overview.topics.keys().collect::<Vec<_>>(), ["orders"]);
        let orders = &overview.topics["orders"];
        assert_eq!(usize::try_from(orders.partitions).unwrap(), self.parts.len());
        let sum = |offset: fn(&ModelPartition) -> i64| self.parts.iter().map(offset).sum::<i64>();
        assert_eq!(
            (orders.high_watermark, orders.log_start),
            (sum(|part| part.end), sum(|part| part.log_start))
        );
    }

    /// Compares everything that can be read.
    pub(super) async fn compare_all(&self) {
        self.overview().await;
        let topics = snapshot(&self.store).await.topics;
        let orders = topics.iter().find(|topic| topic.name == "orders").unwrap();
        for (part, record) in self.parts.iter().zip(&orders.partitions) {
            assert_eq!(
                (record.uid, record.holder, record.epoch),
                (part.uid, part.holder, part.epoch)
            );
            check_log(&self.store, part.uid).await;
            let view = self
                .store
                .read_log(part.uid, LogPosition::Offset(0), 1000)
                .await
                .unwrap();
            let bounds = (
                view.bounds.log_start,
                view.bounds.rolled,
                view.bounds.high_watermark,
            );
            assert_eq!(bounds, (part.log_start, part.rolled(), part.end));
            let spans: Vec<ModelSpan> = view
                .spans
                .into_iter()
                .map(|span| ModelSpan {
                    base: span.base_offset,
                    end: span.end_offset,
                    place: match span.place {
                        SpanLocation::Wal {
                            incarnation,
                            sequence,
                            ..
                        } => Ok((incarnation, sequence)),
                        SpanLocation::Segment { key, .. } => Err(key),
                    },
                })
                .collect();
            assert_eq!(spans, part.spans);
        }
    }
}

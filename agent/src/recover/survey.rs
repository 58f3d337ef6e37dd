//! Compares the whole bucket with the whole metadata: what each contains that the other does not
//! know. Reads only.

use std::collections::{BTreeMap, HashSet};

use streamhouse_core::Incarnation;
use streamhouse_metadata::{LogPosition, MetadataStore, PartitionUid, SpanLocation, keys};

use crate::store::{DELETE_BATCH, ObjectMeta, ObjectStore, RetryPolicy};

/// Maximum number of objects per kind that are named in the report.
const MAX_NAMED_OBJECTS: usize = 10;
/// Spans of a log read at once.
const SPANS_PER_READ: usize = 1000;

/// Unknown objects of one kind.
#[derive(Debug, Default)]
struct UnknownObjects {
    objects: u64,
    bytes: u64,
    named: Vec<String>,
}

impl UnknownObjects {
    fn add(&mut self, object: &ObjectMeta) {
        self.objects += 1;
        self.bytes += object.size;
        if self.named.len() < MAX_NAMED_OBJECTS {
            self.named.push(object.key.clone());
        }
    }

    fn report(&self, what: &str, say: &impl Fn(&str)) {
        if self.objects == 0 {
            return;
        }
        say(&format!("  {} {what}, {} bytes:", self.objects, self.bytes));
        for key in &self.named {
            say(&format!("    {key}"));
        }
        if self.objects > self.named.len() as u64 {
            say("    ...");
        }
    }
}

/// Records that the metadata places in a missing object.
#[derive(Debug)]
struct MissingRange {
    topic: String,
    partition: i32,
    base_offset: i64,
    end_offset: i64,
}

/// The differences between the two stores.
#[derive(Debug)]
pub(super) struct RecoverySurvey {
    /// The greatest incarnation that has objects.
    pub(super) incarnation: Incarnation,
    /// The greatest number in the segment folders of each topic name.
    pub(super) names: BTreeMap<String, u64>,
    wal: UnknownObjects,
    segments: UnknownObjects,
    missing: Vec<MissingRange>,
}

impl RecoverySurvey {
    /// Lists all objects, and reads the places of all partitions' records.
    pub(super) async fn collect(
        store: &dyn ObjectStore,
        metadata: &dyn MetadataStore,
    ) -> anyhow::Result<Self> {
        let mut survey = Self {
            incarnation: Incarnation(0),
            names: BTreeMap::new(),
            wal: UnknownObjects::default(),
            segments: UnknownObjects::default(),
            missing: Vec::new(),
        };
        let mut there = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let what = after.as_deref().unwrap_or("the first objects");
            let retry = RetryPolicy::default();
            let listed = retry.run("list", what, || store.list("", after.as_deref(), DELETE_BATCH));
            let page = listed.await?;
            survey.add(metadata, &page).await?;
            there.extend(page.iter().map(|object| object.key.clone()));
            if page.len() < DELETE_BATCH {
                break;
            }
            after = page.last().map(|object| object.key.clone());
        }
        survey.find_missing_ranges(metadata, &there).await?;
        Ok(survey)
    }

    async fn add(&mut self, metadata: &dyn MetadataStore, page: &[ObjectMeta]) -> anyhow::Result<()> {
        let mut ours = Vec::new();
        for object in page {
            if let Some((incarnation, _)) = keys::parse_wal_key(&object.key) {
                self.incarnation = self.incarnation.max(incarnation);
                ours.push(object.key.clone());
            } else if let Some((folder, _, _)) = keys::parse_segment_key(&object.key) {
                if let Some((name, uses)) = keys::parse_topic_folder(folder) {
                    let most = self.names.entry(name.to_owned()).or_default();
                    *most = uses.max(*most);
                }
                ours.push(object.key.clone());
            }
        }
        let unknown: HashSet<String> = metadata.unknown_objects(&ours).await?.into_iter().collect();
        for object in page.iter().filter(|object| unknown.contains(&object.key)) {
            if keys::parse_wal_key(&object.key).is_some() {
                self.wal.add(object);
            } else {
                self.segments.add(object);
            }
        }
        Ok(())
    }

    async fn find_missing_ranges(
        &mut self,
        metadata: &dyn MetadataStore,
        there: &HashSet<String>,
    ) -> anyhow::Result<()> {
        let snapshot = metadata.snapshot(None).await?.unwrap_or_default();
        for topic in &snapshot.topics {
            for (number, partition) in (0..).zip(&topic.partitions) {
                for (base_offset, end_offset) in missing_ranges(metadata, partition.uid, there).await? {
                    self.missing.push(MissingRange {
                        topic: topic.name.clone(),
                        partition: number,
                        base_offset,
                        end_offset,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reports the differences.
    pub(super) fn report(&self, say: &impl Fn(&str)) {
        if self.wal.objects + self.segments.objects > 0 {
            say("in the object store, and not known to the metadata store (kept, and not served):");
            self.wal.report("WAL objects", say);
            self.segments.report("segments", say);
        }
        if !self.missing.is_empty() {
            say("known to the metadata store, and not in the object store (reading these records fails):");
        }
        for hole in &self.missing {
            say(&format!(
                "  topic {} partition {}: offsets {} to {}",
                hole.topic,
                hole.partition,
                hole.base_offset,
                hole.end_offset - 1
            ));
        }
    }
}

/// Returns the ranges of a partition's log whose objects are missing.
async fn missing_ranges(
    metadata: &dyn MetadataStore,
    uid: PartitionUid,
    there: &HashSet<String>,
) -> anyhow::Result<Vec<(i64, i64)>> {
    let mut holes: Vec<(i64, i64)> = Vec::new();
    let mut from = 0;
    loop {
        let view = metadata
            .read_log(uid, LogPosition::Offset(from), SPANS_PER_READ)
            .await?;
        for span in &view.spans {
            let is_there = match &span.place {
                SpanLocation::Wal {
                    incarnation,
                    sequence,
                    ..
                } => there.contains(&keys::wal_key(*incarnation, *sequence)),
                SpanLocation::Segment { key, .. } => there.contains(key),
            };
            let base_offset = span.base_offset.max(view.bounds.log_start);
            match holes.last_mut() {
                _ if is_there => {}
                Some(last) if last.1 == base_offset => last.1 = span.end_offset,
                _ => holes.push((base_offset, span.end_offset)),
            }
        }
        match view.spans.last() {
            Some(last) if view.spans.len() == SPANS_PER_READ => from = last.end_offset,
            _ => return Ok(holes),
        }
    }
}

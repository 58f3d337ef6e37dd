//! Decides without I/O what the transactions of segments change: which key an intent gets, whether
//! a segment fits its intent and the log, and what a deletion of spans releases.

use std::collections::BTreeMap;

use crate::{
    Error, Lease, NewSegment, Result, SegmentIntent,
    keys::segment_key,
    rows::{BoundsRow, LeasedPartitionRow},
};

/// A stored segment intent.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct SegmentIntentRow {
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

/// A segment that its writer can no longer finish but may still upload.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct AbandonedSegmentRow {
    pub(crate) partition_id: i64,
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

/// Checks that the segment continues the previous one and that its intent belongs to the lease
/// holder.
pub(crate) fn check_segment(
    lease: Lease,
    row: &LeasedPartitionRow,
    intent: Option<SegmentIntentRow>,
    segment: &NewSegment,
) -> Result<()> {
    let bounds = row.bounds;
    check_segment_base(bounds, segment.base_offset)?;
    if segment.end_offset <= segment.base_offset || segment.end_offset > bounds.high_watermark {
        let message = format!(
            "it ends at offset {}, but the high watermark is {}",
            segment.end_offset, bounds.high_watermark
        );
        return Err(Error::SegmentConflict(message));
    }
    match intent {
        Some(intent) if intent.key == segment.key && intent.incarnation == lease.incarnation.0 => Ok(()),
        Some(_) => Err(Error::SegmentConflict("another agent owns the intent".to_owned())),
        None => Err(Error::SegmentConflict(
            "there is no segment intent; begin the segment first".to_owned(),
        )),
    }
}

/// A deleted WAL range.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct DeletedRangeRow {
    pub(crate) end_offset: i64,
    pub(crate) incarnation: i64,
    pub(crate) sequence: i64,
    pub(crate) length: i64,
}

/// The sums over deleted ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeletedRanges {
    /// The number of stored bytes.
    pub(crate) bytes: i64,
    /// The greatest end offset, if there was a range.
    pub(crate) end_offset: Option<i64>,
    /// (incarnation, sequence, number of ranges) in the order in which rows are locked.
    pub(crate) objects: Vec<(i64, i64, i32)>,
}

impl DeletedRanges {
    /// Checks that the deleted ranges end where the segment that replaces them ends.
    pub(crate) fn check_end(&self, segment: &NewSegment) -> Result<()> {
        if self.end_offset == Some(segment.end_offset) {
            return Ok(());
        }
        Err(Error::SegmentConflict(format!(
            "offset {} is not the end of a WAL range",
            segment.end_offset
        )))
    }

    /// Returns the first offset without a segment after the deletion; `rolled` is the one before.
    pub(crate) fn rolled_after(&self, rolled: i64) -> i64 {
        self.end_offset.unwrap_or(0).max(rolled)
    }
}

/// Sums deleted ranges.
pub(crate) fn sum_deleted_ranges(ranges: &[DeletedRangeRow]) -> DeletedRanges {
    let mut objects: BTreeMap<(i64, i64), i32> = BTreeMap::new();
    let mut freed = DeletedRanges::default();
    for range in ranges {
        freed.bytes += range.length;
        freed.end_offset = freed.end_offset.max(Some(range.end_offset));
        *objects.entry((range.incarnation, range.sequence)).or_default() += 1;
    }
    freed.objects = objects
        .into_iter()
        .map(|((incarnation, sequence), count)| (incarnation, sequence, count))
        .collect();
    freed
}

/// An intent to store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IntentPlan {
    /// The intent for the caller.
    pub(crate) intent: SegmentIntent,
    /// The segment of the earlier holder whose intent is taken over, if it was another incarnation.
    pub(crate) abandoned: Option<AbandonedSegmentRow>,
}

/// Plans the intent at `base_offset`. `left` is the intent that an earlier attempt left there.
pub(crate) fn plan_intent(
    lease: Lease,
    row: &LeasedPartitionRow,
    base_offset: i64,
    left: Option<SegmentIntentRow>,
) -> Result<IntentPlan> {
    check_segment_base(row.bounds, base_offset)?;
    let Some(left) = left else {
        let key = segment_key(&row.folder, row.partition, base_offset);
        let inherited = false;
        return Ok(IntentPlan {
            intent: SegmentIntent { key, inherited },
            abandoned: None,
        });
    };
    let abandoned = (left.incarnation != lease.incarnation.0).then(|| AbandonedSegmentRow {
        partition_id: lease.partition.0,
        base_offset: left.base_offset,
        key: left.key.clone(),
        incarnation: left.incarnation,
    });
    Ok(IntentPlan {
        intent: SegmentIntent {
            key: left.key,
            inherited: true,
        },
        abandoned,
    })
}

/// Plans another key than `taken` for the intent at `base_offset`: that of the topic's current
/// folder, or `None` if the topic needs a new folder.
pub(crate) fn plan_reassigned_key(
    lease: Lease,
    row: &LeasedPartitionRow,
    base_offset: i64,
    intent: Option<SegmentIntentRow>,
    taken: &str,
) -> Result<Option<String>> {
    let own = intent.is_some_and(|intent| intent.incarnation == lease.incarnation.0);
    if base_offset != row.bounds.rolled || !own {
        let message = format!("this agent has no segment intent at offset {base_offset}");
        return Err(Error::SegmentConflict(message));
    }
    let key = segment_key(&row.folder, row.partition, base_offset);
    Ok((key != taken).then_some(key))
}

/// Returns whether a repeated call finds its segment stored. `stored` is the base offset and key of
/// the segment with the same end offset.
pub(crate) fn is_stored(stored: Option<(i64, String)>, segment: &NewSegment) -> bool {
    stored.is_some_and(|(base_offset, key)| base_offset == segment.base_offset && key == segment.key)
}

/// Returns the log start to store; `None` if it does not advance.
pub(crate) fn plan_log_start(bounds: BoundsRow, log_start: i64) -> Option<i64> {
    let log_start = log_start.min(bounds.high_watermark);
    (log_start > bounds.log_start).then_some(log_start)
}

/// Checks that a segment continues the previous one.
fn check_segment_base(bounds: BoundsRow, base_offset: i64) -> Result<()> {
    if base_offset == bounds.rolled {
        return Ok(());
    }
    Err(Error::SegmentConflict(format!(
        "it begins at offset {base_offset}, but {} is the first offset without a segment",
        bounds.rolled
    )))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{Incarnation, PartitionUid};

    const LEASE: Lease = Lease {
        partition: PartitionUid(7),
        incarnation: Incarnation(2),
        epoch: 1,
    };

    /// Returns the row of partition 3 of `orders`, whose log has the offsets 10 to 50, with
    /// segments up to 20.
    fn row() -> LeasedPartitionRow {
        LeasedPartitionRow {
            holder: Some(2),
            epoch: 1,
            deleted: false,
            bounds: BoundsRow {
                log_start: 10,
                rolled: 20,
                high_watermark: 50,
                size_bytes: 0,
            },
            partition: 3,
            topic_id: Uuid::nil(),
            topic: "orders".to_owned(),
            folder: "orders".to_owned(),
        }
    }

    fn intent(incarnation: i64) -> SegmentIntentRow {
        SegmentIntentRow {
            base_offset: 20,
            key: "orders@1/3/segment".to_owned(),
            incarnation,
        }
    }

    fn assert_conflict<T: std::fmt::Debug>(outcome: Result<T>) {
        assert!(matches!(outcome, Err(Error::SegmentConflict(_))), "{outcome:?}");
    }

    #[test]
    fn a_new_intent_begins_at_the_first_offset_without_a_segment() {
        let plan = plan_intent(LEASE, &row(), 20, None).unwrap();
        assert_eq!(plan.intent.key, segment_key("orders", 3, 20));
        assert!(!plan.intent.inherited);
        assert_eq!(plan.abandoned, None);
        assert_conflict(plan_intent(LEASE, &row(), 21, None));
    }

    #[test]
    fn an_intent_of_another_incarnation_keeps_its_key_and_leaves_an_abandoned_segment() {
        let own = plan_intent(LEASE, &row(), 20, Some(intent(2))).unwrap();
        assert!(own.intent.inherited);
        assert_eq!(own.abandoned, None);
        let taken_over = plan_intent(LEASE, &row(), 20, Some(intent(1))).unwrap();
        assert_eq!(taken_over.intent, own.intent);
        let abandoned = taken_over.abandoned.unwrap();
        assert_eq!((abandoned.partition_id, abandoned.incarnation), (7, 1));
        assert_eq!(abandoned.key, own.intent.key);
    }

    #[test]
    fn a_taken_key_is_reassigned_only_for_the_own_intent() {
        let current = segment_key("orders", 3, 20);
        let reassign = |intent, taken: &str| plan_reassigned_key(LEASE, &row(), 20, intent, taken);
        assert_eq!(
            reassign(Some(intent(2)), "another").unwrap(),
            Some(current.clone())
        );
        assert_eq!(reassign(Some(intent(2)), &current).unwrap(), None);
        assert_conflict(reassign(Some(intent(1)), &current));
        assert_conflict(reassign(None, &current));
    }

    #[test]
    fn the_log_start_advances_up_to_the_high_watermark() {
        assert_eq!(plan_log_start(row().bounds, 10), None);
        assert_eq!(plan_log_start(row().bounds, 11), Some(11));
        assert_eq!(plan_log_start(row().bounds, 99), Some(50));
    }
}

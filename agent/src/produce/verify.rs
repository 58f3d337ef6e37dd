//! Verifies the metadata store's answer to a commit against what this agent knows of its
//! partitions. In each epoch one agent commits to a partition, in order, so an outcome must
//! continue exactly where the previous one ended: anything else means that the metadata went back
//! in time, that another agent commits as well, or a bug. Called by the committer before anything
//! is published or acknowledged.

use std::collections::HashMap;

use streamhouse_core::PartitionUid;
use streamhouse_metadata::{
    BatchMetadata, BatchOutcome, CommitOutcome, ObjectCommit, PartitionCommit, PartitionOutcome,
};

use super::buffer::OpenWalObject;
use crate::invariant::Invariant;

/// Producer sequences count from 0 to `i32::MAX` and then wrap to 0.
const SEQUENCE_MODULUS: i64 = i32::MAX as i64 + 1;

/// An outcome that contradicts the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokenOutcome {
    pub(super) partition: PartitionUid,
    pub(super) invariant: Invariant,
    /// Whether the metadata store lacks commits that it made before.
    pub(super) lost_commits: bool,
    /// Description for the log.
    pub(super) description: String,
}

/// Verifies the outcome of a whole object.
pub(super) fn verify_outcome(
    object: &OpenWalObject,
    commit: &ObjectCommit,
    outcome: &CommitOutcome,
) -> Result<(), BrokenOutcome> {
    let parts = commit.partitions.iter().zip(object.partitions.values());
    let mut outcomes = outcome.partitions.iter();
    for (part, appends) in parts {
        let published = appends
            .first()
            .map_or(0, |append| append.partition.tail.lock().end());
        let outcome = outcomes.next();
        verify_partition(part, published, outcome).map_err(|(invariant, what)| BrokenOutcome {
            partition: part.partition,
            invariant,
            lost_commits: has_lost_commits(published, outcome),
            description: what,
        })?;
    }
    Ok(())
}

/// Returns whether the outcome assigns offsets a second time, or shows a log that ends before what
/// was published.
fn has_lost_commits(published: i64, outcome: Option<&PartitionOutcome>) -> bool {
    let Some(PartitionOutcome::Committed {
        batches,
        high_watermark,
        ..
    }) = outcome
    else {
        return false;
    };
    let again = |batch: &BatchOutcome| matches!(*batch, BatchOutcome::Appended { base_offset } if base_offset < published);
    *high_watermark < published || batches.iter().any(again)
}

/// Verifies one partition's outcome; `published` is the end of the log as this agent published it.
fn verify_partition(
    part: &PartitionCommit,
    published: i64,
    outcome: Option<&PartitionOutcome>,
) -> Result<(), (Invariant, String)> {
    let (batches, high_watermark) = match outcome {
        Some(PartitionOutcome::Fenced) => return Ok(()),
        Some(PartitionOutcome::Committed {
            batches,
            high_watermark,
            ..
        }) if batches.len() == part.batches.len() => (batches, *high_watermark),
        _ => return Err((Invariant::P1, "a batch has no outcome".to_owned())),
    };
    let mut next = published;
    let mut sequences = HashMap::new();
    for (batch, outcome) in part.batches.iter().zip(batches) {
        match *outcome {
            BatchOutcome::Appended { base_offset } if base_offset != next => {
                let what = format!("a batch got offset {base_offset} instead of {next}");
                return Err((Invariant::P2, what));
            }
            BatchOutcome::Appended { .. } => {
                next += i64::from(batch.records);
                check_producer_order(batch, &mut sequences)?;
            }
            BatchOutcome::Duplicate { base_offset } => {
                let end = base_offset.saturating_add(batch.records.into());
                if base_offset < 0 || end > high_watermark {
                    let what = format!(
                        "a repeated batch has offset {base_offset}, but the log ends at {high_watermark}"
                    );
                    return Err((Invariant::P3, what));
                }
            }
            BatchOutcome::Refused { .. } => {}
        }
    }
    if high_watermark < published {
        let what = format!("the log ends at {high_watermark}, but was published up to {published}");
        return Err((Invariant::P2, what));
    }
    if high_watermark < next {
        let what = format!("offsets up to {next} were assigned, but the log ends at {high_watermark}");
        return Err((Invariant::P1, what));
    }
    if high_watermark > next {
        let what = format!("the log ends at {high_watermark}, but this agent's commits end at {next}");
        return Err((Invariant::L1, what));
    }
    Ok(())
}

/// Verifies that the appended batches of a producer follow each other.
fn check_producer_order(
    batch: &BatchMetadata,
    next: &mut HashMap<i64, (i16, i64)>,
) -> Result<(), (Invariant, String)> {
    let Some(producer) = batch.producer else {
        return Ok(());
    };
    let first = i64::from(producer.first_sequence);
    let after = (first + i64::from(batch.records)).rem_euclid(SEQUENCE_MODULUS);
    match next.insert(producer.id, (producer.epoch, after)) {
        Some((epoch, expected)) if epoch == producer.epoch && expected != first => {
            let what = format!(
                "producer {} sent sequence {first} instead of {expected}",
                producer.id
            );
            Err((Invariant::P4, what))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_metadata::ProducerBatch;

    use super::*;

    fn batch(records: i32, first_sequence: Option<i32>) -> BatchMetadata {
        BatchMetadata {
            size_bytes: 10,
            records,
            max_timestamp: 0,
            producer: first_sequence.map(|first_sequence| ProducerBatch {
                id: 7,
                epoch: 0,
                first_sequence,
            }),
        }
    }

    fn appended(base_offset: i64) -> BatchOutcome {
        BatchOutcome::Appended { base_offset }
    }

    /// Returns the invariant that is violated when these batches, after offset 100, get these
    /// outcomes.
    fn broken(
        batches: &[BatchMetadata],
        outcomes: &[BatchOutcome],
        high_watermark: i64,
    ) -> Option<Invariant> {
        let part = PartitionCommit {
            partition: PartitionUid(1),
            epoch: 1,
            position: 0,
            batches: batches.to_vec(),
        };
        let outcome = PartitionOutcome::Committed {
            batches: outcomes.to_vec(),
            high_watermark,
            log_start: 0,
        };
        verify_partition(&part, 100, Some(&outcome))
            .err()
            .map(|(invariant, _)| invariant)
    }

    #[test]
    fn an_outcome_that_continues_the_log_is_believed() {
        let two = [batch(5, Some(0)), batch(3, Some(5))];
        assert_eq!(broken(&two, &[appended(100), appended(105)], 108), None);
        let duplicate = BatchOutcome::Duplicate { base_offset: 90 };
        assert_eq!(broken(&two, &[duplicate, appended(100)], 103), None);
        let refused = BatchOutcome::Refused { code: 45 };
        assert_eq!(broken(&two, &[refused, refused], 100), None);
        // The sequences of a producer wrap around.
        let round = [batch(2, Some(i32::MAX)), batch(1, Some(1))];
        assert_eq!(broken(&round, &[appended(100), appended(102)], 103), None);
        let part = PartitionCommit {
            partition: PartitionUid(1),
            epoch: 1,
            position: 0,
            batches: two.to_vec(),
        };
        assert_eq!(
            verify_partition(&part, 100, Some(&PartitionOutcome::Fenced)),
            Ok(())
        );
    }

    #[test]
    fn a_store_that_lacks_commits_is_told_from_other_lies() {
        let outcome = |batches: &[BatchOutcome], high_watermark| PartitionOutcome::Committed {
            batches: batches.to_vec(),
            high_watermark,
            log_start: 0,
        };
        let duplicate = BatchOutcome::Duplicate { base_offset: 3 };
        for (batches, high_watermark, expected) in [
            (&[appended(99)] as &[_], 104, true),
            (&[duplicate], 99, true),
            (&[duplicate], 100, false),
            (&[appended(100)], 105, false),
            (&[appended(101)], 106, false),
        ] {
            let outcome = outcome(batches, high_watermark);
            assert_eq!(has_lost_commits(100, Some(&outcome)), expected, "{outcome:?}");
        }
        assert!(!has_lost_commits(100, Some(&PartitionOutcome::Fenced)));
        assert!(!has_lost_commits(100, None));
    }

    #[test]
    fn each_lie_breaks_an_invariant_of_its_own() {
        let one = [batch(5, Some(0))];
        let two = [batch(5, Some(0)), batch(3, Some(9))];
        let duplicate = |base_offset| BatchOutcome::Duplicate { base_offset };
        type FalseOutcome<'a> = (&'a str, &'a [BatchMetadata], &'a [BatchOutcome], i64, Invariant);
        let lies: [FalseOutcome<'_>; 10] = [
            ("no outcome", &one, &[], 100, Invariant::P1),
            (
                "acknowledged beyond the log",
                &one,
                &[appended(100)],
                104,
                Invariant::P1,
            ),
            ("given out twice", &one, &[appended(99)], 104, Invariant::P2),
            ("a gap", &one, &[appended(101)], 106, Invariant::P2),
            ("gone back", &one, &[duplicate(3)], 99, Invariant::P2),
            (
                "a gap inside",
                &two,
                &[appended(100), appended(106)],
                109,
                Invariant::P2,
            ),
            (
                "a duplicate of nothing",
                &one,
                &[duplicate(98)],
                100,
                Invariant::P3,
            ),
            (
                "a duplicate of nowhere",
                &one,
                &[duplicate(-1)],
                100,
                Invariant::P3,
            ),
            (
                "a sequence left out",
                &two,
                &[appended(100), appended(105)],
                108,
                Invariant::P4,
            ),
            ("another committer", &one, &[appended(100)], 110, Invariant::L1),
        ];
        for (what, batches, outcomes, high_watermark, invariant) in lies {
            assert_eq!(
                broken(batches, outcomes, high_watermark),
                Some(invariant),
                "{what}"
            );
        }
    }
}

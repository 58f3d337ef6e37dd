//! The state of an idempotent producer in one partition, and Kafka's rules for its next batch.
//!
//! Used by [`plan_commit`](crate::commit_plan::plan_commit). Both stores store the state as an
//! epoch and a few bytes.

use std::collections::VecDeque;

use streamhouse_core::ErrorCode;

use crate::{ActiveProducer, BatchOutcome, Error, PRODUCER_EXPIRY, PartitionUid, ProducerBatch, Result};

/// The number of remembered batches: Kafka's limit of in-flight requests.
pub(crate) const MAX_REMEMBERED_BATCHES: usize = 5;
/// The number of sequences: they count from 0 to `i32::MAX` and then from 0 again.
const SEQUENCE_MODULUS: i64 = i32::MAX as i64 + 1;

/// The bits of a producer id that count; those above are the minute in which it was issued. Both
/// together stay below 2^53, which every client can represent.
const COUNTER_BITS: u32 = 28;
/// The first minute, of the year 2020, in milliseconds since the Unix epoch.
const FIRST_MINUTE_MS: i64 = 1_577_836_800_000;
const MINUTE_MS: i64 = 60_000;

/// Returns the producer id with this number that is issued now. Its age shows whether a partition
/// that does not know it has forgotten it.
pub(crate) fn new_producer_id(number: i64, now_ms: i64) -> i64 {
    let minute = (now_ms - FIRST_MINUTE_MS).max(0) / MINUTE_MS;
    (minute << COUNTER_BITS) | producer_number(number)
}

/// Returns the part of a producer id that counts.
pub(crate) fn producer_number(id: i64) -> i64 {
    id & ((1 << COUNTER_BITS) - 1)
}

/// Returns when a producer id was issued; `None` for those of earlier versions.
fn issued_at_ms(id: i64) -> Option<i64> {
    let minute = id >> COUNTER_BITS;
    (minute > 0).then_some(FIRST_MINUTE_MS.saturating_add(minute.saturating_mul(MINUTE_MS)))
}

/// Returns whether the age of a producer id is known.
pub(crate) fn has_known_age(id: i64) -> bool {
    issued_at_ms(id).is_some()
}

/// Returns whether a producer id is so old that a partition may have forgotten it.
pub(crate) fn may_have_expired(id: i64, now_ms: i64) -> bool {
    let expiry = i64::try_from(PRODUCER_EXPIRY.as_millis()).unwrap_or(i64::MAX);
    issued_at_ms(id).is_some_and(|issued_at| now_ms.saturating_sub(issued_at) >= expiry)
}

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredBatch {
    /// The sequence of its first record.
    pub(crate) first: i32,
    /// The sequence of its last record.
    pub(crate) last: i32,
    /// The offset of its first record.
    pub(crate) base_offset: i64,
}

/// The last batches of one producer in one partition, oldest first.
///
/// Never empty when stored. Empty means that the stored bytes cannot be read: repeated batches
/// cannot be recognized, so all batches of this epoch are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProducerState {
    /// The producer epoch of all batches.
    pub(crate) epoch: i16,
    /// At most [`MAX_REMEMBERED_BATCHES`] batches.
    pub(crate) batches: VecDeque<StoredBatch>,
}

impl ProducerState {
    /// Returns the state of a producer that the partition may have forgotten: it goes on with any
    /// sequence, as in Kafka.
    pub(crate) fn forgotten() -> Self {
        Self {
            epoch: -1,
            batches: VecDeque::new(),
        }
    }

    /// Encodes the state for the stores: 16 bytes for each batch.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.batches.len() * 16);
        for batch in &self.batches {
            bytes.extend_from_slice(&batch.first.to_be_bytes());
            bytes.extend_from_slice(&batch.last.to_be_bytes());
            bytes.extend_from_slice(&batch.base_offset.to_be_bytes());
        }
        bytes
    }

    /// Returns the state of a row. If the row cannot be read, only this producer's epoch in this
    /// partition is affected.
    pub(crate) fn from_stored(partition: PartitionUid, id: i64, epoch: i16, bytes: &[u8]) -> Self {
        Self::decode(epoch, bytes).unwrap_or_else(|error| {
            tracing::error!(
                %partition, producer = id, %error,
                "a row of the table producer_state is damaged: batches of the producer are refused until it begins a new epoch"
            );
            Self {
                epoch,
                batches: VecDeque::new(),
            }
        })
    }

    /// Decodes the bytes of [`ProducerState::encode`].
    fn decode(epoch: i16, bytes: &[u8]) -> Result<Self> {
        let (rows, rest) = bytes.as_chunks::<16>();
        if !rest.is_empty() || rows.is_empty() {
            return Err(Error::Inconsistent(format!(
                "a producer state of {} bytes is invalid",
                bytes.len()
            )));
        }
        let batches = rows.iter().map(|row| {
            let number = u128::from_be_bytes(*row);
            // The fields in the order of `encode`; each cast selects its bits.
            StoredBatch {
                first: (number >> 96) as i32,
                last: (number >> 64) as i32,
                base_offset: number as i64,
            }
        });
        Ok(Self {
            epoch,
            batches: batches.collect(),
        })
    }

    fn push_batch(&mut self, batch: StoredBatch) {
        if self.batches.len() >= MAX_REMEMBERED_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }
}

/// A row of a producer: its id and epoch, the encoded batches, and the time of the last one.
pub(crate) type ActiveProducerRow = (i64, i16, Vec<u8>, i64);

/// Returns the producers of a partition's rows.
pub(crate) fn active_producers(partition: PartitionUid, rows: Vec<ActiveProducerRow>) -> Vec<ActiveProducer> {
    let producer = |(producer_id, epoch, batches, last_used_ms): ActiveProducerRow| {
        let state = ProducerState::from_stored(partition, producer_id, epoch, &batches);
        ActiveProducer {
            producer_id,
            epoch,
            last_sequence: state.batches.back().map_or(-1, |batch| batch.last),
            last_used_ms,
        }
    };
    rows.into_iter().map(producer).collect()
}

/// Evaluates a batch of `records` records that would be appended at `base_offset`, and adds it to
/// `state` if it is accepted. `state` is `None` for a producer that the partition does not know.
pub(crate) fn evaluate_batch(
    state: &mut Option<ProducerState>,
    batch: ProducerBatch,
    records: i32,
    base_offset: i64,
) -> BatchOutcome {
    if batch.first_sequence < 0 || batch.epoch < 0 || batch.id < 0 {
        return BatchOutcome::refused(ErrorCode::InvalidRecord);
    }
    let new = StoredBatch {
        first: batch.first_sequence,
        last: add_to_sequence(batch.first_sequence, records - 1),
        base_offset,
    };
    let Some(known) = state else {
        if batch.first_sequence != 0 {
            return BatchOutcome::refused(ErrorCode::UnknownProducerId);
        }
        *state = Some(ProducerState {
            epoch: batch.epoch,
            batches: VecDeque::from([new]),
        });
        return BatchOutcome::Appended { base_offset };
    };
    if batch.epoch < known.epoch {
        return BatchOutcome::refused(ErrorCode::InvalidProducerEpoch);
    }
    if batch.epoch > known.epoch {
        let is_forgotten = known.epoch < 0;
        if batch.first_sequence != 0 && !is_forgotten {
            return BatchOutcome::refused(ErrorCode::OutOfOrderSequenceNumber);
        }
        *known = ProducerState {
            epoch: batch.epoch,
            batches: VecDeque::from([new]),
        };
        return BatchOutcome::Appended { base_offset };
    }
    if let Some(stored) = known
        .batches
        .iter()
        .find(|stored| (stored.first, stored.last) == (new.first, new.last))
    {
        return BatchOutcome::Duplicate {
            base_offset: stored.base_offset,
        };
    }
    let (Some(oldest), Some(newest)) = (known.batches.front(), known.batches.back()) else {
        return BatchOutcome::refused(ErrorCode::StorageCorrupt);
    };
    if new.first == add_to_sequence(newest.last, 1) {
        known.push_batch(new);
        return BatchOutcome::Appended { base_offset };
    }
    if sequence_distance(oldest.first, new.first) < 0 {
        return BatchOutcome::refused(ErrorCode::DuplicateSequenceNumber);
    }
    BatchOutcome::refused(ErrorCode::OutOfOrderSequenceNumber)
}

/// Returns the sequence `by` after `sequence`.
fn add_to_sequence(sequence: i32, by: i32) -> i32 {
    // The modulus keeps it in 0..=i32::MAX, so the cast is exact.
    (i64::from(sequence) + i64::from(by)).rem_euclid(SEQUENCE_MODULUS) as i32
}

/// Returns the distance from `from` to `to` modulo the number of sequences; negative if `to` lies
/// before.
fn sequence_distance(from: i32, to: i32) -> i64 {
    let ahead = (i64::from(to) - i64::from(from)).rem_euclid(SEQUENCE_MODULUS);
    if ahead >= SEQUENCE_MODULUS / 2 {
        ahead - SEQUENCE_MODULUS
    } else {
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first_sequence: i32) -> ProducerBatch {
        ProducerBatch {
            id: 7,
            epoch,
            first_sequence,
        }
    }

    /// Returns the state after `count` batches of two records each, at offsets 0, 2, 4...
    fn state_after(count: i32) -> Option<ProducerState> {
        let mut state = None;
        for n in 0..count {
            let base_offset = i64::from(n * 2);
            assert_eq!(
                evaluate_batch(&mut state, batch(1, n * 2), 2, base_offset),
                BatchOutcome::Appended { base_offset }
            );
        }
        state
    }

    fn assert_refused(state: &Option<ProducerState>, batch: ProducerBatch, code: ErrorCode) {
        let mut after = state.clone();
        assert_eq!(
            evaluate_batch(&mut after, batch, 2, 100),
            BatchOutcome::refused(code)
        );
        assert_eq!(&after, state, "a refused batch leaves no trace");
    }

    #[test]
    fn each_of_the_last_five_batches_is_known_again_by_its_first_offset() {
        let mut state = state_after(7);
        for n in 2..7 {
            assert_eq!(
                evaluate_batch(&mut state, batch(1, n * 2), 2, 100),
                BatchOutcome::Duplicate {
                    base_offset: i64::from(n * 2)
                }
            );
        }
    }

    #[test]
    fn a_retry_older_than_the_window_is_refused_as_a_duplicate() {
        assert_refused(&state_after(7), batch(1, 2), ErrorCode::DuplicateSequenceNumber);
    }

    #[test]
    fn a_gap_and_a_batch_cut_otherwise_are_out_of_order() {
        assert_refused(&state_after(3), batch(1, 8), ErrorCode::OutOfOrderSequenceNumber);
        assert_refused(&state_after(3), batch(1, 3), ErrorCode::OutOfOrderSequenceNumber);
    }

    #[test]
    fn an_old_epoch_is_fenced_and_a_new_one_begins_at_zero() {
        assert_refused(&state_after(2), batch(0, 4), ErrorCode::InvalidProducerEpoch);
        assert_refused(&state_after(2), batch(2, 4), ErrorCode::OutOfOrderSequenceNumber);
        let mut state = state_after(2);
        assert_eq!(
            evaluate_batch(&mut state, batch(2, 0), 2, 50),
            BatchOutcome::Appended { base_offset: 50 }
        );
        assert_eq!(
            evaluate_batch(&mut state, batch(2, 0), 2, 99),
            BatchOutcome::Duplicate { base_offset: 50 }
        );
        assert_refused(&state, batch(1, 4), ErrorCode::InvalidProducerEpoch);
    }

    #[test]
    fn an_unknown_producer_begins_at_zero() {
        assert_refused(&None, batch(0, 1), ErrorCode::UnknownProducerId);
        assert_eq!(
            evaluate_batch(&mut None, batch(0, 0), 1, 9),
            BatchOutcome::Appended { base_offset: 9 }
        );
    }

    #[test]
    fn a_forgotten_producer_goes_on_with_any_sequence() {
        let mut state = Some(ProducerState::forgotten());
        assert_eq!(
            evaluate_batch(&mut state, batch(3, 70), 2, 9),
            BatchOutcome::Appended { base_offset: 9 }
        );
        assert_eq!(
            evaluate_batch(&mut state, batch(3, 72), 2, 11),
            BatchOutcome::Appended { base_offset: 11 }
        );
        assert_refused(&state, batch(3, 80), ErrorCode::OutOfOrderSequenceNumber);
    }

    #[test]
    fn a_producer_id_tells_its_age() {
        const NOW_MS: i64 = 1_800_000_000_000;
        let day = i64::try_from(PRODUCER_EXPIRY.as_millis()).unwrap();
        let ids = [NOW_MS, NOW_MS + 60_000].map(|now| new_producer_id(7, now));
        assert!(ids[0] < ids[1] && ids[1] < 1 << 53, "{ids:?}");
        assert_eq!(ids.map(producer_number), [7, 7]);
        assert!(!may_have_expired(ids[0], NOW_MS + day - 60_000));
        assert!(may_have_expired(ids[0], NOW_MS + day));
        // Of earlier versions, and of a clock before the first minute.
        for id in [7, new_producer_id(7, 0)] {
            assert!(!has_known_age(id) && !may_have_expired(id, i64::MAX));
        }
    }

    #[test]
    fn a_damaged_state_refuses_its_epoch_and_takes_the_next() {
        let mut state = Some(ProducerState::from_stored(PartitionUid(1), 7, 1, &[0; 17]));
        assert_refused(&state, batch(1, 0), ErrorCode::StorageCorrupt);
        assert_refused(&state, batch(0, 0), ErrorCode::InvalidProducerEpoch);
        assert_eq!(
            evaluate_batch(&mut state, batch(2, 0), 2, 50),
            BatchOutcome::Appended { base_offset: 50 }
        );
    }

    #[test]
    fn negative_numbers_are_invalid() {
        assert_refused(&None, batch(0, -1), ErrorCode::InvalidRecord);
        assert_refused(&None, batch(-1, 0), ErrorCode::InvalidRecord);
        assert_refused(
            &None,
            ProducerBatch {
                id: -1,
                epoch: 0,
                first_sequence: 0,
            },
            ErrorCode::InvalidRecord,
        );
    }

    #[test]
    fn sequences_wrap_from_the_greatest_to_zero() {
        let last = StoredBatch {
            first: i32::MAX - 4,
            last: i32::MAX - 1,
            base_offset: 0,
        };
        let mut state = Some(ProducerState {
            epoch: 0,
            batches: VecDeque::from([last]),
        });
        // Sequences MAX, 0, 1.
        assert_eq!(
            evaluate_batch(&mut state, batch(0, i32::MAX), 3, 4),
            BatchOutcome::Appended { base_offset: 4 }
        );
        assert_eq!(
            evaluate_batch(&mut state, batch(0, 2), 1, 7),
            BatchOutcome::Appended { base_offset: 7 }
        );
        assert_eq!(
            evaluate_batch(&mut state, batch(0, i32::MAX), 3, 9),
            BatchOutcome::Duplicate { base_offset: 4 }
        );
        assert_refused(&state, batch(0, i32::MAX - 9), ErrorCode::DuplicateSequenceNumber);
        assert_refused(&state, batch(0, 9), ErrorCode::OutOfOrderSequenceNumber);
    }

    #[test]
    fn the_stored_bytes_lead_back_to_the_state() {
        let state = state_after(7).unwrap();
        assert_eq!(ProducerState::decode(1, &state.encode()).unwrap(), state);
        assert!(ProducerState::decode(1, &[]).is_err());
        assert!(ProducerState::decode(1, &[0; 17]).is_err());
    }
}

//! The model's commits: a second implementation of Kafka's rules for producers.

use streamhouse_core::ErrorCode;

use super::{BatchSpec, ModelPartition, ModelSpan, StoreModel};
use crate::{
    BatchMetadata, BatchOutcome, CommitOutcome, Error, Incarnation, ObjectCommit, PartitionCommit,
    PartitionOutcome, ProducerBatch,
};

impl StoreModel {
    /// Returns the batch that `send` describes, and its expected outcome.
    fn evaluate_batch(part: &mut ModelPartition, send: &BatchSpec) -> (BatchMetadata, BatchOutcome) {
        let size_bytes = send.records.unsigned_abs() * 10;
        let mut meta = BatchMetadata {
            size_bytes,
            records: send.records,
            max_timestamp: 5,
            producer: None,
        };
        let appended = BatchOutcome::Appended {
            base_offset: part.end,
        };
        let Some(id) = send.producer else {
            return (meta, appended);
        };
        let (epoch, stored) = part.producers.get(&id).cloned().unwrap_or_default();
        let next = stored.last().map_or(0, |(_, last, _)| last + 1);
        let epoch = epoch + i16::from(send.raise_epoch);
        let first = match usize::try_from(send.back) {
            Ok(0) => next,
            // A retry of the batch that was stored `back` batches ago, if there is one.
            Ok(back) if back <= stored.len() => stored[stored.len() - back].0,
            _ => next + 1,
        };
        let first = if send.raise_epoch && send.back == 0 {
            0
        } else {
            first
        };
        if let Some((from, to, _)) = stored.iter().find(|batch| batch.0 == first && !send.raise_epoch) {
            meta.records = to - from + 1;
            meta.size_bytes = meta.records.unsigned_abs() * 10;
        }
        let last = first + meta.records - 1;
        meta.producer = Some(ProducerBatch {
            id,
            epoch,
            first_sequence: first,
        });
        let window = &stored[stored.len().saturating_sub(5)..];
        let outcome = if stored.is_empty() {
            if first == 0 {
                appended
            } else {
                BatchOutcome::refused(ErrorCode::UnknownProducerId)
            }
        } else if send.raise_epoch {
            if first == 0 {
                appended
            } else {
                BatchOutcome::refused(ErrorCode::OutOfOrderSequenceNumber)
            }
        } else if let Some((_, _, base_offset)) =
            window.iter().find(|batch| (batch.0, batch.1) == (first, last))
        {
            BatchOutcome::Duplicate {
                base_offset: *base_offset,
            }
        } else if first == next {
            appended
        } else if first < window[0].0 {
            BatchOutcome::refused(ErrorCode::DuplicateSequenceNumber)
        } else {
            BatchOutcome::refused(ErrorCode::OutOfOrderSequenceNumber)
        };
        if outcome == appended {
            let kept = part.producers.entry(id).or_default();
            if send.raise_epoch || kept.1.is_empty() {
                *kept = (epoch, Vec::new());
            }
            kept.1.push((first, last, part.end));
        }
        (meta, outcome)
    }

    /// Returns what a commit of the incarnation `incarnation` appends to a partition, and its
    /// expected outcome.
    fn append(
        part: &mut ModelPartition,
        incarnation: Incarnation,
        sequence: u64,
        sends: &[BatchSpec],
    ) -> (Vec<BatchMetadata>, PartitionOutcome) {
        if part.holder != Some(incarnation) {
            let any = BatchMetadata {
                size_bytes: 10,
                records: 1,
                max_timestamp: 5,
                producer: None,
            };
            return (vec![any; sends.len()], PartitionOutcome::Fenced);
        }
        let (mut metas, mut batches, mut open) = (Vec::new(), Vec::new(), false);
        for send in sends {
            let (meta, result) = Self::evaluate_batch(part, send);
            if let BatchOutcome::Appended { base_offset } = result {
                part.end = base_offset + i64::from(meta.records);
                let span = ModelSpan {
                    base: base_offset,
                    end: part.end,
                    place: Ok((incarnation, sequence)),
                };
                match part.spans.last_mut().filter(|_| open) {
                    Some(last) => last.end = part.end,
                    None => part.spans.push(span),
                }
            }
            open = matches!(result, BatchOutcome::Appended { .. });
            metas.push(meta);
            batches.push(result);
        }
        let (high_watermark, log_start) = (part.end, part.log_start);
        (
            metas,
            PartitionOutcome::Committed {
                batches,
                high_watermark,
                log_start,
            },
        )
    }

    pub(super) async fn commit(&mut self, n: usize, parts: &[(usize, Vec<BatchSpec>)]) {
        let Some(incarnation) = self.incarnations[n] else {
            return;
        };
        let sequence = u64::try_from(self.commits.len()).unwrap();
        let mut commit = ObjectCommit {
            incarnation,
            sequence,
            size_bytes: 0,
            partitions: Vec::new(),
        };
        let mut outcome = CommitOutcome {
            partitions: Vec::new(),
        };
        for (index, sends) in parts {
            let part = &mut self.parts[*index];
            let (batches, result) = Self::append(part, incarnation, sequence, sends);
            let length: u64 = batches.iter().map(|batch| u64::from(batch.size_bytes)).sum();
            let (partition, epoch, position) = (part.uid, part.epoch, commit.size_bytes);
            commit.partitions.push(PartitionCommit {
                partition,
                epoch,
                position,
                batches,
            });
            commit.size_bytes += length;
            outcome.partitions.push(result);
        }
        let answer = self.store.commit_object(&commit).await;
        if self.sealed.contains(&incarnation) {
            assert!(matches!(answer, Err(Error::Sealed(_))), "{answer:?}");
            return;
        }
        assert_eq!(answer.unwrap(), outcome, "{commit:?}");
        self.objects.insert((incarnation, sequence));
        self.commits.push((commit, outcome));
    }

    pub(super) async fn commit_again(&mut self, n: usize) {
        let Some((commit, outcome)) = self.commits.iter().rev().nth(n) else {
            return;
        };
        let answer = self.store.commit_object(commit).await;
        if self.objects.contains(&(commit.incarnation, commit.sequence)) {
            assert_eq!(&answer.unwrap(), outcome);
        } else {
            // Also for a sealed incarnation: an error that claims no side effects would be wrong.
            assert!(self.forgotten[&commit.incarnation] >= commit.sequence);
            assert!(matches!(answer, Err(Error::OutcomeExpired(_))), "{answer:?}");
        }
    }
}

//! The committer: takes uploaded objects in order, commits each in one metadata transaction, makes
//! the records readable, and answers the producers. The only place that answers a produce ticket
//! with an offset.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use opentelemetry::KeyValue;
use streamhouse_core::{
    Error, ErrorCode,
    backoff::{BackoffJitter, BackoffPolicy},
    batch,
    trace::{SampledSpan, log_span},
};
use streamhouse_metadata::{
    BatchOutcome, CommitOutcome, Error as MetadataError, ObjectCommit, PartitionCommit, PartitionOutcome,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant, sleep},
};
use tracing::Instrument;

use super::{
    OldestWrite, WriterState,
    buffer::{AppendRequest, AppendedPosition, OpenWalObject, not_leader_error},
    flush::FlushedObject,
    unknown_outcome_error,
    verify::{self, BrokenOutcome},
};
use crate::{
    failpoint::FailPoint,
    metrics::WriteStage,
    ownership,
    partition::{LedPartition, tail::TailRun},
    traces,
};

/// Time limit for reporting lost commits: producers wait for it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Back-off while the metadata store is unavailable.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(20), Duration::from_secs(1))
    .with_jitter(BackoffJitter::Around(0.5));

/// Runs until the flusher has ended and everything it flushed is answered.
pub(super) async fn run_committer(
    shared: Arc<WriterState>,
    mut queue: mpsc::UnboundedReceiver<FlushedObject>,
) {
    let mut committer = WalCommitter {
        shared,
        last_done: None,
        has_stopped: false,
    };
    while let Some(flushed) = queue.recv().await {
        committer.commit_flushed(flushed).await;
        committer.shared.set_oldest(None);
        committer.last_done = Some(Instant::now());
    }
}

struct WalCommitter {
    shared: Arc<WriterState>,
    /// When the previous object was done.
    last_done: Option<Instant>,
    /// A commit's outcome is unknown: no later object may be committed.
    has_stopped: bool,
}

impl WalCommitter {
    /// Commits one object once it is stored, and answers its appends.
    async fn commit_flushed(&mut self, flushed: FlushedObject) {
        let FlushedObject {
            sequence,
            object,
            body,
            commits,
            traced,
            upload_started_at: begun,
            uploaded,
        } = flushed;
        let shared = &*self.shared.clone();
        let bytes = body.len();
        let no_progress_since = self.last_done.map_or(begun, |last| last.max(begun));
        shared.set_oldest(Some(OldestWrite {
            stage: WriteStage::Upload,
            since: begun,
            no_progress_since,
            bytes,
        }));
        if self.has_stopped
            || shared.give_up_cause.get().is_some()
            || !wait_until_stored(shared, uploaded).await
        {
            return end_session_and_fail(shared, object, &shared.session_ended_error());
        }
        shared.set_oldest(Some(OldestWrite::new_commit(bytes)));
        let commit = ObjectCommit {
            incarnation: shared.session.incarnation,
            sequence,
            size_bytes: bytes as u64,
            partitions: commits,
        };
        let mut span = shared
            .deps
            .traces
            .start_commit(&traced, sequence, commit.partitions.len());
        let log = log_span(span.as_ref().map(SampledSpan::context));
        let committed = async {
            shared.deps.failpoints.reach(FailPoint::BeforeCommit).await;
            commit_object(shared, &commit, &mut span).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = committed.instrument(log.clone()) => Some(outcome),
            () = shared.wait_commit_abandoned() => None,
        };
        let Some(outcome) = outcome else {
            self.has_stopped = true;
            tracing::warn!(
                sequence,
                "the outcome of a commit is unknown; its producers receive a retryable error"
            );
            let reported = fail_span_with_unknown_outcome(shared, span);
            return end_session_and_fail(shared, object, &reported);
        };
        finish_commit_span(span, &outcome);
        shared.set_oldest(None);
        shared.deps.failpoints.reach(FailPoint::AfterCommit).await;
        self.apply_outcome(&commit, body, object, outcome, &log).await;
    }

    /// Applies the outcome of a commit.
    async fn apply_outcome(
        &mut self,
        commit: &ObjectCommit,
        body: Bytes,
        object: OpenWalObject,
        outcome: Result<CommitOutcome, MetadataError>,
        log: &tracing::Span,
    ) {
        let shared = &*self.shared.clone();
        match outcome {
            Ok(outcome) => match verify::verify_outcome(&object, commit, &outcome) {
                Ok(()) => publish_and_answer(shared, commit, body, object, outcome),
                Err(broken) => {
                    // Later objects must not be committed after this one.
                    self.has_stopped = true;
                    if broken.lost_commits {
                        // Before the incarnation ends, since the next one would begin.
                        report_lost_commits(shared).instrument(log.clone()).await;
                    }
                    let _logged = log.enter();
                    reject_outcome(shared, commit, object, &broken);
                }
            },
            Err(error) => {
                let _logged = log.enter();
                tracing::warn!(sequence = commit.sequence, %error, "a commit was refused; this incarnation ends");
                let reported = if matches!(error, MetadataError::Sealed(_)) {
                    shared.session_ended_error()
                } else {
                    error.into()
                };
                end_session_and_fail(shared, object, &reported);
            }
        }
    }
}

/// Ends the incarnation, and answers every append of the object with this error.
fn end_session_and_fail(shared: &WriterState, object: OpenWalObject, reported: &Error) {
    shared.close(&shared.session_ended_error());
    shared.add_answered(object.fail_all(reported));
}

/// Waits until the object is stored. Returns `false` also if the incarnation ends before the
/// outcome is known: the object is never committed then.
async fn wait_until_stored(shared: &WriterState, uploaded: oneshot::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        stored = uploaded => stored.unwrap_or(false),
        () = shared.session.ended.cancelled() => false,
    }
}

/// Ends the commit's span and returns the error for producers whose commit has an unknown outcome.
/// If they send the same batches again, these are stored once.
fn fail_span_with_unknown_outcome(shared: &WriterState, span: Option<SampledSpan>) -> Error {
    let reported = match shared.give_up_cause.get() {
        Some(cause) if cause.code() == ErrorCode::MetadataUnavailable => cause.clone(),
        _ => Error::new(
            ErrorCode::MetadataUnavailable,
            "the metadata store does not answer, so it is unknown whether the records are committed; try again",
        ),
    };
    if let Some(mut span) = span {
        span.set_error(reported.code().name(), reported.to_string());
    }
    reported
}

/// Commits an object, retrying while the store does not answer: producers are answered only once
/// the outcome is known. Giving up would leave it open, so only the store ends the retries, with an
/// outcome or with the end of the incarnation; or the caller, some time after the incarnation has
/// ended.
async fn commit_object(
    shared: &WriterState,
    commit: &ObjectCommit,
    span: &mut Option<SampledSpan>,
) -> Result<CommitOutcome, MetadataError> {
    let started = Instant::now();
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match shared.deps.metadata.commit_object(commit).await {
            Err(MetadataError::Unavailable(reason)) => {
                tracing::warn!(
                    sequence = commit.sequence,
                    reason,
                    "the commit has to wait for the metadata store"
                );
                traces::record_retry(span.as_mut(), &reason);
                sleep(backoff.next_delay(&*shared.deps.entropy)).await;
            }
            outcome => {
                shared
                    .deps
                    .metrics
                    .commit_duration
                    .observe(started.elapsed().as_secs_f64());
                return outcome;
            }
        }
    }
}

/// Ends the commit's span: with the error, or with the number of partitions that had moved to
/// another agent.
fn finish_commit_span(span: Option<SampledSpan>, outcome: &Result<CommitOutcome, MetadataError>) {
    let Some(mut span) = span else { return };
    match outcome {
        Ok(outcome) => {
            let fenced = |outcome: &&PartitionOutcome| matches!(outcome, PartitionOutcome::Fenced);
            let fenced = outcome.partitions.iter().filter(fenced).count();
            if fenced > 0 {
                let count = i64::try_from(fenced).unwrap_or(i64::MAX);
                span.add_event("fenced", vec![KeyValue::new("streamhouse.partitions", count)]);
            }
        }
        Err(error) => span.set_error(error.code().name(), error.to_string()),
    }
}

/// Ends the incarnation: the metadata store's answer contradicts the log that this agent leads.
/// None of it is published or acknowledged; the next incarnation starts from what the store has.
fn reject_outcome(
    shared: &WriterState,
    commit: &ObjectCommit,
    object: OpenWalObject,
    broken: &BrokenOutcome,
) {
    shared.deps.metrics.record_violation(broken.invariant);
    tracing::error!(
        sequence = commit.sequence,
        partition = %broken.partition,
        "a commit's outcome does not continue the log: {}; this incarnation ends",
        broken.description
    );
    shared.close(&shared.session_ended_error());
    let reported = unknown_outcome_error(
        "the metadata store's answer contradicts the log; it is unknown whether the records are stored: send them again",
    );
    shared.add_answered(object.fail_all(&reported));
}

/// Records in the metadata store that it lacks commits which it made before: a standby without them
/// was promoted, or a backup restored while agents ran. From then on no agent starts an incarnation
/// on it, and nothing is deleted, until `recover` was run; otherwise objects of acknowledged
/// records would be taken for objects that were never committed.
async fn report_lost_commits(shared: &WriterState) {
    if ownership::report_divergence(&*shared.deps.metadata, REPORT_TIMEOUT, "lost commits").await {
        tracing::error!(
            "the metadata store lost commits of acknowledged records; run `streamhouse-agent recover` to see which"
        );
    }
}

/// Publishes what was committed, then answers.
fn publish_and_answer(
    shared: &WriterState,
    commit: &ObjectCommit,
    body: Bytes,
    object: OpenWalObject,
    outcome: CommitOutcome,
) {
    let mut kept = Vec::with_capacity(commit.partitions.len());
    let body = shared.deps.tails.count(stamp_body(body, commit, &outcome));
    let outcomes = commit.partitions.iter().zip(outcome.partitions);
    for ((part, outcome), appends) in outcomes.zip(object.partitions.into_values()) {
        let count = appends.len() as u64;
        match outcome {
            PartitionOutcome::Committed {
                batches,
                high_watermark,
                log_start,
            } => {
                if let Some(partition) = appends.first().map(|append| append.partition.clone()) {
                    publish_to_tail(&partition, commit.sequence, part, &body, &batches);
                    count_appended(shared, &partition, part, &batches);
                    partition.advance_log_start(log_start);
                    partition.advance_high_watermark(high_watermark);
                    kept.push(partition);
                }
                send_results(shared, appends, &batches, log_start);
            }
            PartitionOutcome::Fenced => {
                shared.session.partitions.remove(part.partition, part.epoch);
                for append in appends {
                    let _ = append.ticket.send(Err(not_leader_error()));
                }
            }
        }
        shared.add_answered(count);
    }
    shared.deps.tails.add(commit.sequence, body.len(), kept);
}

/// Stamps the batches that got offsets: once, for all readers. The upload has ended, so the body is
/// not copied.
fn stamp_body(body: Bytes, commit: &ObjectCommit, outcome: &CommitOutcome) -> Bytes {
    let mut body = body
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    for (part, outcome) in commit.partitions.iter().zip(&outcome.partitions) {
        let PartitionOutcome::Committed { batches, .. } = outcome else {
            continue;
        };
        let mut position = part.position as usize;
        for (batch, outcome) in part.batches.iter().zip(batches) {
            if let (BatchOutcome::Appended { base_offset }, Some(bytes)) = (outcome, body.get_mut(position..))
            {
                batch::stamp(bytes, *base_offset, part.epoch);
            }
            position += batch.size_bytes as usize;
        }
    }
    body.freeze()
}

/// Counts the batches that got offsets.
fn count_appended(
    shared: &WriterState,
    partition: &LedPartition,
    part: &PartitionCommit,
    outcomes: &[BatchOutcome],
) {
    let metrics = &shared.deps.metrics;
    let (mut records, mut bytes) = (0, 0);
    for (batch, outcome) in part.batches.iter().zip(outcomes) {
        if matches!(outcome, BatchOutcome::Appended { .. }) {
            let size = (
                u64::from(batch.records.unsigned_abs()),
                u64::from(batch.size_bytes),
            );
            metrics.record_batch(size.0, size.1);
            records += size.0;
            bytes += size.1;
        }
    }
    partition.traffic(metrics).record_produced(records, bytes);
}

/// Adds the batches that got offsets to the partition's tail, as contiguous runs.
fn publish_to_tail(
    partition: &LedPartition,
    sequence: u64,
    part: &PartitionCommit,
    body: &Bytes,
    outcomes: &[BatchOutcome],
) {
    let mut run: Option<(i64, i64, u64, u64)> = None; // offsets and positions: [base, end) and [start, stop)
    let mut position = part.position;
    let mut tail = partition.tail.lock();
    let mut flush = |run: Option<(i64, i64, u64, u64)>| {
        if let Some((base_offset, end_offset, start, stop)) = run {
            let bytes = body.slice(start as usize..stop as usize);
            partition.record_append(base_offset..end_offset, bytes.len());
            tail.push(TailRun {
                base_offset,
                end_offset,
                bytes,
                sequence,
            });
        }
    };
    for (batch, outcome) in part.batches.iter().zip(outcomes) {
        let stop = position + u64::from(batch.size_bytes);
        if let BatchOutcome::Appended { base_offset } = *outcome {
            let end_offset = base_offset + i64::from(batch.records);
            run = match run {
                Some((base, end, start, _)) if end == base_offset => Some((base, end_offset, start, stop)),
                earlier => {
                    flush(earlier);
                    Some((base_offset, end_offset, position, stop))
                }
            };
        } else {
            flush(run.take());
        }
        position = stop;
    }
    flush(run);
}

/// Answers every append of a committed partition: with its first offset, or with the error of its
/// first refused batch.
fn send_results(
    shared: &WriterState,
    appends: Vec<AppendRequest>,
    outcomes: &[BatchOutcome],
    log_start: i64,
) {
    let mut outcomes = outcomes.iter();
    for append in appends {
        let mine: Vec<BatchOutcome> = outcomes.by_ref().take(append.batches.len()).copied().collect();
        let refused = mine.iter().find_map(|outcome| match outcome {
            BatchOutcome::Refused { code } => Some(refusal_error(ErrorCode::from_number(*code))),
            _ => None,
        });
        let ack = match (refused, mine.first()) {
            (Some(error), _) => Err(error),
            (
                None,
                Some(BatchOutcome::Appended { base_offset } | BatchOutcome::Duplicate { base_offset }),
            ) => Ok(AppendedPosition {
                base_offset: *base_offset,
                log_start,
            }),
            (None, _) => Err(Error::new(
                ErrorCode::Unknown,
                "the commit left a batch without an outcome",
            )),
        };
        shared
            .deps
            .metrics
            .write_latency
            .observe(append.received_at.elapsed().as_secs_f64());
        let _ = append.ticket.send(ack);
    }
}

/// Returns the error for a refused batch.
fn refusal_error(code: ErrorCode) -> Error {
    let message = match code {
        ErrorCode::OutOfOrderSequenceNumber => "a batch before this one is missing; send it first",
        ErrorCode::DuplicateSequenceNumber => "the batch was stored before, too long ago to name its offset",
        ErrorCode::InvalidProducerEpoch => {
            "a newer producer uses this producer id; start over with a new producer id"
        }
        ErrorCode::UnknownProducerId => {
            "the partition does not know the producer, and this is not its first batch; start over with a new producer id"
        }
        _ => "the batch was refused",
    };
    Error::new(code, message)
}

//! The committer: takes uploaded objects in order, commits each in one metadata transaction, makes
//! the records readable, and answers the producers. The only place that answers a produce ticket
//! with an offset.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::KeyValue;
use streamhouse_core::{
    Error, ErrorCode,
    trace::{Span, log_span},
};
use streamhouse_metadata::{
    BatchOutcome, CommitOutcome, Error as MetadataError, ObjectCommit, PartitionCommit, PartitionOutcome,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant, sleep, timeout},
};
use tracing::Instrument;

use super::{
    OldestWrite, Shared,
    buffer::{Append, Appended, OpenObject, handed_over},
    flush::Flushed,
    outcome_unknown,
    verify::{self, BrokenOutcome},
};
use crate::{failpoint::FailPoint, fetch::tail::TailRun, metrics::WriteStage, partition::Partition, traces};

/// Back-off while the metadata store is unavailable: first and longest delay, doubling in between.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Time limit for reporting lost commits to the metadata store.
const REPORT: Duration = Duration::from_secs(5);

/// Runs until the flusher has ended and everything it flushed is answered.
pub(super) async fn run(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Flushed>) {
    let mut committer = Committer {
        shared,
        last_done: None,
        gave_up: false,
    };
    while let Some(flushed) = queue.recv().await {
        committer.take(flushed).await;
        committer.shared.oldest_is(None);
        committer.last_done = Some(Instant::now());
    }
}

struct Committer {
    shared: Arc<Shared>,
    /// When the previous object was done.
    last_done: Option<Instant>,
    /// A commit's outcome is unknown: no later object may be committed.
    gave_up: bool,
}

impl Committer {
    /// Commits one object once it is stored, and answers its appends.
    async fn take(&mut self, flushed: Flushed) {
        let Flushed {
            sequence,
            object,
            body,
            commits,
            traced,
            begun,
            uploaded,
        } = flushed;
        let shared = &*self.shared.clone();
        let bytes = body.len();
        let no_progress_since = self.last_done.map_or(begun, |last| last.max(begun));
        shared.oldest_is(Some(OldestWrite {
            stage: WriteStage::Upload,
            since: begun,
            no_progress_since,
            bytes,
        }));
        if self.gave_up || shared.cause.get().is_some() || !is_stored(shared, uploaded).await {
            return refuse(shared, object, &shared.life_over());
        }
        shared.oldest_is(Some(OldestWrite::commits_now(bytes)));
        let commit = ObjectCommit {
            incarnation: shared.deps.incarnation,
            sequence,
            size_bytes: bytes as u64,
            partitions: commits,
        };
        let mut span = shared
            .deps
            .traces
            .commit(&traced, sequence, commit.partitions.len());
        let log = log_span(span.as_ref().map(Span::context));
        let committed = async {
            shared.deps.failpoints.reach(FailPoint::BeforeCommit).await;
            commit_object(shared, &commit, &mut span).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = committed.instrument(log.clone()) => Some(outcome),
            () = shared.last_answer() => None,
        };
        let Some(outcome) = outcome else {
            self.gave_up = true;
            tracing::warn!(
                sequence,
                "the outcome of a commit is unknown; its producers receive a retryable error"
            );
            let told = unknown_outcome(shared, span);
            return refuse(shared, object, &told);
        };
        note(span, &outcome);
        shared.oldest_is(None);
        shared.deps.failpoints.reach(FailPoint::AfterCommit).await;
        self.conclude(&commit, &body, object, outcome, &log).await;
    }

    /// Applies the outcome of a commit.
    async fn conclude(
        &mut self,
        commit: &ObjectCommit,
        body: &Bytes,
        object: OpenObject,
        outcome: Result<CommitOutcome, MetadataError>,
        log: &tracing::Span,
    ) {
        let shared = &*self.shared.clone();
        match outcome {
            Ok(outcome) => match verify::verify(&object, commit, &outcome) {
                Ok(()) => apply(shared, commit, body, object, outcome),
                Err(broken) => {
                    // Later objects must not be committed after this one.
                    self.gave_up = true;
                    if broken.went_back {
                        // Before the incarnation ends, since the next one would begin.
                        report_lost_commits(shared).instrument(log.clone()).await;
                    }
                    let _logged = log.enter();
                    distrust(shared, commit, object, &broken);
                }
            },
            Err(error) => {
                let _logged = log.enter();
                tracing::warn!(sequence = commit.sequence, %error, "a commit was refused; this incarnation ends");
                let told = if matches!(error, MetadataError::Sealed(_)) {
                    shared.life_over()
                } else {
                    error.into()
                };
                refuse(shared, object, &told);
            }
        }
    }
}

/// Ends the incarnation, and answers every append of the object with this error.
fn refuse(shared: &Shared, object: OpenObject, told: &Error) {
    shared.close(&shared.life_over());
    shared.answered(object.fail(told));
}

/// Waits until the object is stored. Returns `false` also if the incarnation ends before the
/// outcome is known: the object is never committed then.
async fn is_stored(shared: &Shared, uploaded: oneshot::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        stored = uploaded => stored.unwrap_or(false),
        () = shared.deps.over.cancelled() => false,
    }
}

/// Ends the commit's span and returns the error for producers whose commit has an unknown outcome.
/// If they send the same batches again, these are stored once.
fn unknown_outcome(shared: &Shared, span: Option<Span>) -> Error {
    let told = match shared.cause.get() {
        Some(cause) if cause.code() == ErrorCode::MetadataUnavailable => cause.clone(),
        _ => Error::new(
            ErrorCode::MetadataUnavailable,
            "the metadata store does not answer, so it is unknown whether the records are committed; try again",
        ),
    };
    if let Some(mut span) = span {
        span.fail(told.code().name(), told.to_string());
    }
    told
}

/// Commits an object, retrying while the store does not answer: producers are answered only once
/// the outcome is known. Giving up would leave it open, so only the store ends the retries, with an
/// outcome or with the end of the incarnation; or the caller, some time after the incarnation has
/// ended.
async fn commit_object(
    shared: &Shared,
    commit: &ObjectCommit,
    span: &mut Option<Span>,
) -> Result<CommitOutcome, MetadataError> {
    let started = Instant::now();
    let mut pause = RETRY.0;
    loop {
        match shared.deps.metadata.commit_object(commit).await {
            Err(MetadataError::Unavailable(reason)) => {
                tracing::warn!(
                    sequence = commit.sequence,
                    reason,
                    "the commit has to wait for the metadata store"
                );
                traces::retry(span.as_mut(), &reason);
                sleep(pause.mul_f64(0.5 + shared.deps.entropy.fraction())).await;
                pause = (pause * 2).min(RETRY.1);
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
fn note(span: Option<Span>, outcome: &Result<CommitOutcome, MetadataError>) {
    let Some(mut span) = span else { return };
    match outcome {
        Ok(outcome) => {
            let fenced = |outcome: &&PartitionOutcome| matches!(outcome, PartitionOutcome::Fenced);
            let fenced = outcome.partitions.iter().filter(fenced).count();
            if fenced > 0 {
                let count = i64::try_from(fenced).unwrap_or(i64::MAX);
                span.event("fenced", vec![KeyValue::new("streamhouse.partitions", count)]);
            }
        }
        Err(error) => span.fail(error.code().name(), error.to_string()),
    }
}

/// Ends the incarnation: the metadata store's answer contradicts the log that this agent leads.
/// None of it is published or acknowledged; the next incarnation starts from what the store has.
fn distrust(shared: &Shared, commit: &ObjectCommit, object: OpenObject, broken: &BrokenOutcome) {
    shared.deps.metrics.violated(broken.invariant);
    tracing::error!(
        sequence = commit.sequence,
        partition = %broken.partition,
        "a commit's outcome does not continue the log: {}; this incarnation ends",
        broken.what
    );
    shared.close(&shared.life_over());
    let told = outcome_unknown(
        "the metadata store's answer contradicts the log; it is unknown whether the records are stored: send them again",
    );
    shared.answered(object.fail(&told));
}

/// Records in the metadata store that it lacks commits which it made before: a standby without them
/// was promoted, or a backup restored while agents ran. From then on no agent starts an incarnation
/// on it, and nothing is deleted, until `recover` was run; otherwise objects of acknowledged
/// records would be taken for objects that were never committed.
async fn report_lost_commits(shared: &Shared) {
    match timeout(REPORT, shared.deps.metadata.report_divergence()).await {
        Ok(Ok(())) => tracing::error!(
            "the metadata store lost commits of acknowledged records; run `streamhouse-agent recover` to see which"
        ),
        Ok(Err(error)) => {
            tracing::error!(%error, "the metadata store could not record that it lost commits")
        }
        Err(_) => tracing::error!("the metadata store did not record in time that it lost commits"),
    }
}

/// Publishes what was committed, then answers.
fn apply(shared: &Shared, commit: &ObjectCommit, body: &Bytes, object: OpenObject, outcome: CommitOutcome) {
    let mut kept = Vec::with_capacity(commit.partitions.len());
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
                    publish(&partition, commit.sequence, part, body, &batches);
                    measure(shared, &partition, part, &batches);
                    partition.advance_log_start(log_start);
                    partition.advance_high_watermark(high_watermark);
                    kept.push(partition);
                }
                answer(shared, appends, &batches, log_start);
            }
            PartitionOutcome::Fenced => {
                shared.deps.held.remove(part.partition, part.epoch);
                for append in appends {
                    let _ = append.ticket.send(Err(handed_over()));
                }
            }
        }
        shared.answered(count);
    }
    shared.deps.tails.add(commit.sequence, body.len(), kept);
}

/// Counts the batches that got offsets.
fn measure(shared: &Shared, partition: &Partition, part: &PartitionCommit, outcomes: &[BatchOutcome]) {
    let (mut batches, mut records, mut bytes) = (0, 0, 0);
    for (batch, outcome) in part.batches.iter().zip(outcomes) {
        if matches!(outcome, BatchOutcome::Appended { .. }) {
            batches += 1;
            records += u64::from(batch.records.unsigned_abs());
            bytes += u64::from(batch.size_bytes);
        }
    }
    let metrics = &shared.deps.metrics;
    metrics.produced_batches.inc_by(batches);
    metrics.produced_records.inc_by(records);
    metrics.produced_bytes.inc_by(bytes);
    partition.traffic(metrics).produced(records, bytes);
}

/// Adds the batches that got offsets to the partition's tail, as contiguous runs.
fn publish(
    partition: &Partition,
    sequence: u64,
    part: &PartitionCommit,
    body: &Bytes,
    outcomes: &[BatchOutcome],
) {
    let epoch = part.epoch;
    let mut run: Option<(i64, i64, u64, u64)> = None; // offsets and positions: [base, end) and [start, stop)
    let mut position = part.position;
    let mut tail = partition.tail.lock();
    let mut flush = |run: Option<(i64, i64, u64, u64)>| {
        if let Some((base_offset, end_offset, start, stop)) = run {
            let bytes = body.slice(start as usize..stop as usize);
            partition.appended(base_offset..end_offset, bytes.len());
            tail.push(TailRun {
                base_offset,
                end_offset,
                epoch,
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
fn answer(shared: &Shared, appends: Vec<Append>, outcomes: &[BatchOutcome], log_start: i64) {
    let mut outcomes = outcomes.iter();
    for append in appends {
        let mine: Vec<BatchOutcome> = outcomes.by_ref().take(append.batches.len()).copied().collect();
        let refused = mine.iter().find_map(|outcome| match outcome {
            BatchOutcome::Refused { code } => Some(refusal(ErrorCode::from_number(*code))),
            _ => None,
        });
        let ack = match (refused, mine.first()) {
            (Some(error), _) => Err(error),
            (
                None,
                Some(BatchOutcome::Appended { base_offset } | BatchOutcome::Duplicate { base_offset }),
            ) => Ok(Appended {
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
            .observe(append.since.elapsed().as_secs_f64());
        let _ = append.ticket.send(ack);
    }
}

/// Returns the error for a refused batch.
fn refusal(code: ErrorCode) -> Error {
    let message = match code {
        ErrorCode::OutOfOrderSequenceNumber => "a batch before this one is missing; send it first",
        ErrorCode::DuplicateSequenceNumber => "the batch was stored before, too long ago to name its offset",
        ErrorCode::InvalidProducerEpoch => {
            "a newer producer uses this producer id; start over with a new producer id"
        }
        ErrorCode::UnknownProducerId => "the producer's state has expired; start over with a new producer id",
        _ => "the batch was refused",
    };
    Error::new(code, message)
}

//! Retention: moves log start offsets forward by age and by size. Only the offsets move here;
//! garbage collection deletes the objects. Removes whole spans only: a little more than configured
//! may be kept, never less.

use streamhouse_metadata::{LogPosition, LogSpan, LogView, SpanLocation};

use super::{JobError, MaintenanceDeps};
use crate::{partition::LedPartition, session::AgentSession};

/// Spans read in one step.
const SPANS_PER_STEP: usize = 500;

/// Runs one round over the partitions that this incarnation leads.
///
/// # Errors
/// The first failure; the other partitions are processed nevertheless.
pub async fn run(deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
    let view = deps.directory.view();
    let mut outcome = Ok(());
    for partition in life.partitions.all() {
        let Some((topic, _)) = view.partition_name(partition.uid()) else {
            continue;
        };
        let config = &topic.config;
        let limits = RetentionLimits {
            age_ms: config.retention_ms.filter(|_| config.deletes_records),
            bytes: config.retention_bytes.filter(|_| config.deletes_records),
        };
        let too_large = limits.bytes.is_some_and(|limit| partition.size_bytes() > limit);
        if partition.log_start() < partition.high_watermark() && (limits.age_ms.is_some() || too_large) {
            // A failure of one partition must not stop retention of the others.
            let shortened = apply_retention(deps, &partition, limits).await;
            if let Err(error) = &shortened {
                let (topic, partition) = (&*partition.topic, partition.index);
                tracing::debug!(topic, partition, %error, "retention of a partition failed; it is retried");
            }
            outcome = shortened.and(outcome);
        }
    }
    outcome
}

/// The limits of a topic; `None` means unlimited.
#[derive(Debug, Clone, Copy)]
struct RetentionLimits {
    age_ms: Option<i64>,
    bytes: Option<i64>,
}

async fn apply_retention(
    deps: &MaintenanceDeps,
    partition: &LedPartition,
    limits: RetentionLimits,
) -> Result<(), JobError> {
    loop {
        let known = partition.high_watermark();
        let from = LogPosition::Offset(partition.log_start());
        let view = deps
            .metadata
            .read_log(partition.uid(), from, SPANS_PER_STEP)
            .await?;
        deps.log.adopt_bounds(partition, known, &view.bounds)?;
        partition.set_size(view.bounds.size_bytes);
        let Some(log_start) = new_log_start(&view, limits) else {
            return Ok(());
        };
        let log_start = deps
            .metadata
            .advance_log_start(partition.lease, log_start)
            .await?;
        partition.advance_log_start(log_start);
        tracing::info!(
            topic = &*partition.topic,
            partition = partition.index,
            log_start,
            "retention moved the log start"
        );
        if view.spans.last().is_none_or(|last| last.end_offset > log_start) {
            return Ok(());
        }
    }
}

/// Returns the end of the last span that may be removed, if there is one.
fn new_log_start(view: &LogView, limits: RetentionLimits) -> Option<i64> {
    let oldest = limits.age_ms.map(|age| view.now_ms.saturating_sub(age));
    let mut excess = limits
        .bytes
        .map_or(0, |limit| view.bounds.size_bytes.saturating_sub(limit));
    let mut log_start = None;
    for span in &view.spans {
        let size = span_size(span);
        let expired = oldest.is_some_and(|oldest| age_timestamp(span) < oldest);
        if !expired && excess < size {
            break;
        }
        excess = excess.saturating_sub(size);
        log_start = Some(span.end_offset);
    }
    log_start
}

/// Returns the time that a span's age counts from: its greatest timestamp, as in Kafka. A timestamp
/// later than the time the span was stored is wrong and must not keep what follows; -1 and 0 mean
/// that there is none. In these cases the age counts from the time of storing.
fn age_timestamp(span: &LogSpan) -> i64 {
    if span.max_timestamp > 0 {
        span.max_timestamp.min(span.stored_at_ms)
    } else {
        span.stored_at_ms
    }
}

fn span_size(span: &LogSpan) -> i64 {
    let bytes = match &span.place {
        SpanLocation::Wal { length, .. } => *length,
        SpanLocation::Segment { size_bytes, .. } => *size_bytes,
    };
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use streamhouse_metadata::{Incarnation, LogBounds};

    use super::*;

    fn view(sizes: &[u64], age_step: i64) -> LogView {
        let spans: Vec<LogSpan> = (0_i64..)
            .zip(sizes)
            .map(|(n, &length)| LogSpan {
                base_offset: n * 10,
                end_offset: n * 10 + 10,
                max_timestamp: (n + 1) * age_step,
                stored_at_ms: (n + 1) * age_step,
                epoch: 1,
                place: SpanLocation::Wal {
                    incarnation: Incarnation(1),
                    sequence: n as u64,
                    position: 0,
                    length,
                },
            })
            .collect();
        let bounds = LogBounds {
            log_start: 0,
            rolled: 0,
            high_watermark: 10 * sizes.len() as i64,
            size_bytes: sizes.iter().sum::<u64>() as i64,
        };
        LogView {
            bounds,
            spans,
            now_ms: (sizes.len() as i64 + 1) * age_step,
        }
    }

    #[test]
    fn nothing_moves_without_limits() {
        assert_eq!(
            new_log_start(
                &view(&[5, 5], 1000),
                RetentionLimits {
                    age_ms: None,
                    bytes: None
                }
            ),
            None
        );
    }

    #[test]
    fn age_takes_whole_spans_and_keeps_what_is_young_enough() {
        let log = view(&[5, 5, 5, 5], 1000); // spans aged 4, 3, 2, 1 s
        assert_eq!(
            new_log_start(
                &log,
                RetentionLimits {
                    age_ms: Some(2500),
                    bytes: None
                }
            ),
            Some(20)
        );
        assert_eq!(
            new_log_start(
                &log,
                RetentionLimits {
                    age_ms: Some(0),
                    bytes: None
                }
            ),
            Some(40)
        );
        assert_eq!(
            new_log_start(
                &log,
                RetentionLimits {
                    age_ms: Some(4000),
                    bytes: None
                }
            ),
            None
        );
    }

    #[test]
    fn no_timestamp_keeps_a_log_for_ever_or_expires_it_at_once() {
        let starts = |max_timestamp, age_ms| {
            let mut log = view(&[5, 5, 5], 1000); // stored 3, 2 and 1 s ago
            log.spans[0].max_timestamp = max_timestamp;
            let limits = RetentionLimits {
                age_ms: Some(age_ms),
                bytes: None,
            };
            new_log_start(&log, limits)
        };
        for nonsense in [-1, 0, 4_000_000, i64::MAX] {
            assert_eq!(
                starts(nonsense, 2500),
                Some(10),
                "{nonsense}: by the time of storing"
            );
            assert_eq!(starts(nonsense, 1500), Some(20), "{nonsense}: and what follows");
            assert_eq!(starts(nonsense, 3500), None, "{nonsense}: not before its time");
        }
        assert_eq!(
            starts(400, 3500),
            Some(10),
            "an old record expires by its own time"
        );
    }

    proptest! {
        #[test]
        fn size_never_keeps_less_than_asked(sizes in prop::collection::vec(1_u64..1000, 0..50), limit in 0_i64..20_000) {
            let log = view(&sizes, 1);
            let start = new_log_start(&log, RetentionLimits { age_ms: None, bytes: Some(limit) }).unwrap_or(0);
            let kept: i64 = log.spans.iter().filter(|span| span.base_offset >= start).map(span_size).sum();
            prop_assert!(kept >= limit.min(log.bounds.size_bytes));
            let first = log.spans.iter().find(|span| span.base_offset >= start).map_or(0, span_size);
            prop_assert!(kept - first < limit || limit == 0 || first == 0, "one more span could have gone");
        }
    }
}

//! Measurements of a benchmark: [`BenchLatencies`] in an HDR histogram, counters shared by tasks
//! ([`ProgressCounters`]), and the progress line.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    command_error::{CommandError, CommandResult},
    output::group_digits,
};

/// The largest latency recorded; larger ones count as this.
const MAX_LATENCY: Duration = Duration::from_secs(600);

/// A histogram of latencies, in microseconds with three significant digits.
#[derive(Debug, Clone)]
pub(super) struct BenchLatencies(Histogram<u64>);

impl BenchLatencies {
    pub(super) fn new() -> CommandResult<Self> {
        let longest = u64::try_from(MAX_LATENCY.as_micros()).unwrap_or(u64::MAX);
        let histogram = Histogram::new_with_bounds(1, longest, 3)
            .map_err(|error| CommandError::failed(format!("cannot make a histogram: {error}")))?;
        Ok(Self(histogram))
    }

    /// Records this latency for `count` records.
    pub(super) fn record(&mut self, latency: Duration, count: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(micros.max(1), count);
    }

    /// Adds the measurements of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        // Cannot fail, since both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// Returns the percentiles, `None` if nothing was measured.
    pub(super) fn percentiles(&self) -> Option<LatencyPercentiles> {
        if self.0.is_empty() {
            return None;
        }
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Some(LatencyPercentiles {
            mean: (self.0.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.0.max() as f64 / 1000.0,
        })
    }
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct LatencyPercentiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

/// Counters of all tasks since the start, for the progress line.
#[derive(Debug, Default)]
pub(super) struct ProgressCounters {
    pub(super) sent: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) received: AtomicU64,
}

impl ProgressCounters {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Returns the current counts.
    pub(super) fn snapshot(&self) -> ProgressSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Results are read before `sent`, so that the number in flight is never negative.
        let (received, acked, failed) = (get(&self.received), get(&self.acked), get(&self.failed));
        ProgressSnapshot {
            sent: get(&self.sent),
            acked,
            failed,
            received,
        }
    }
}

/// A reading of [`ProgressCounters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProgressSnapshot {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) failed: u64,
    pub(super) received: u64,
}

/// Returns the progress line of one second.
pub(super) fn progress_line(
    second: u64,
    before: ProgressSnapshot,
    now: ProgressSnapshot,
    record_size: usize,
) -> String {
    let mut parts = vec![format!("{second:>4}s")];
    let mut rate = |name: &str, count: u64| {
        let megabytes = count as f64 * record_size as f64 / 1e6;
        parts.push(format!(
            "{name} {:>9} records/s {megabytes:>7.1} MB/s",
            group_digits(count)
        ));
    };
    if now.sent > 0 {
        rate("acked", now.acked - before.acked);
    }
    if now.received > 0 {
        rate("received", now.received - before.received);
    }
    if now.sent > 0 {
        parts.push(format!(
            "in flight {}",
            group_digits(now.sent.saturating_sub(now.acked + now.failed))
        ));
    }
    if now.failed > 0 {
        parts.push(format!("failed {}", group_digits(now.failed)));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds_and_merge() {
        let mut a = BenchLatencies::new().unwrap();
        assert_eq!(a.percentiles(), None);
        a.record(Duration::from_millis(1), 990);
        let mut b = BenchLatencies::new().unwrap();
        b.record(Duration::from_millis(100), 9);
        b.record(Duration::from_secs(3600), 1);
        a.merge(&b);
        let found = a.percentiles().unwrap();
        let near = |value: f64, expected: f64| (value - expected).abs() <= expected * 0.002;
        assert!(near(found.p50, 1.0) && near(found.p99, 1.0), "{found:?}");
        assert!(near(found.p99_9, 100.0), "{found:?}");
        assert!(
            near(found.max, 600_000.0),
            "a latency past the bound counts as the bound: {found:?}"
        );
    }

    #[test]
    fn a_line_shows_only_what_happens() {
        let before = ProgressSnapshot {
            sent: 10,
            acked: 5,
            ..ProgressSnapshot::default()
        };
        let now = ProgressSnapshot {
            sent: 2_010,
            acked: 1_005,
            ..ProgressSnapshot::default()
        };
        assert_eq!(
            progress_line(3, before, now, 100),
            "   3s  acked     1,000 records/s     0.1 MB/s  in flight 1,005"
        );
        let reading = ProgressSnapshot {
            received: 50,
            ..ProgressSnapshot::default()
        };
        assert_eq!(
            progress_line(12, ProgressSnapshot::default(), reading, 1000),
            "  12s  received        50 records/s     0.1 MB/s"
        );
    }
}

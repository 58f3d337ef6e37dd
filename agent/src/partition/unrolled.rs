//! Counts the bytes of a log that no segment covers yet, by offset. Rolling and deletion remove a
//! prefix of offsets, whatever its compressed size, so the count cannot drift from the log.

use std::{collections::VecDeque, ops::Range};

/// Neighbouring commits share one entry up to this many bytes: a thousand small commits do not need
/// a thousand entries.
const MERGE_BELOW_BYTES: i64 = 64 << 10;

/// Bytes of a run of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OffsetRun {
    base: i64,
    end: i64,
    bytes: i64,
}

impl OffsetRun {
    /// Returns the bytes at or after `from`, assuming that they are evenly spread over the offsets.
    fn bytes_from(&self, from: i64) -> i64 {
        if from <= self.base {
            return self.bytes;
        }
        let part = i128::from(self.end.saturating_sub(from).max(0)) * i128::from(self.bytes);
        let whole = i128::from(self.end.saturating_sub(self.base).max(1));
        i64::try_from(part / whole).unwrap_or(i64::MAX)
    }
}

/// The committed bytes that are not rolled.
#[derive(Debug)]
pub(super) struct UnrolledBytes {
    /// In offset order, without gaps.
    runs: VecDeque<OffsetRun>,
    /// Offsets committed by earlier leaders, not counted yet.
    inherited: Option<Range<i64>>,
}

impl UnrolledBytes {
    /// Creates the count for a log as a new leader finds it.
    pub(super) fn new(rolled: i64, high_watermark: i64) -> Self {
        Self {
            runs: VecDeque::new(),
            inherited: (rolled < high_watermark).then_some(rolled..high_watermark),
        }
    }

    /// Counts newly committed offsets.
    pub(super) fn add(&mut self, base: i64, end: i64, bytes: i64) {
        match self.runs.back_mut() {
            Some(last) if last.end == base && last.bytes < MERGE_BELOW_BYTES => {
                last.end = end;
                last.bytes = last.bytes.saturating_add(bytes);
            }
            _ => self.runs.push_back(OffsetRun { base, end, bytes }),
        }
    }

    /// Drops what lies before `from`.
    pub(super) fn drop_before(&mut self, from: i64) {
        while self.runs.front().is_some_and(|run| run.end <= from) {
            self.runs.pop_front();
        }
        if let Some(first) = self.runs.front_mut().filter(|run| run.base < from) {
            first.bytes = first.bytes_from(from);
            first.base = from;
        }
        if let Some(inherited) = &mut self.inherited {
            inherited.start = inherited.start.max(from);
            if inherited.is_empty() {
                self.inherited = None;
            }
        }
    }

    /// Returns the bytes at or after `from`, as far as they are counted.
    pub(super) fn bytes(&self, from: i64) -> i64 {
        let runs = self.runs.iter().map(|run| run.bytes_from(from));
        runs.fold(0, i64::saturating_add)
    }

    /// Returns the offsets that are not counted yet.
    pub(super) fn inherited(&self) -> Option<Range<i64>> {
        self.inherited.clone()
    }

    /// Counts the inherited offsets: runs in offset order, each `(base, end, bytes)`.
    pub(super) fn count_inherited(&mut self, runs: &[(i64, i64, i64)]) {
        let Some(inherited) = self.inherited.take() else {
            return;
        };
        let mut counted = Self {
            runs: VecDeque::new(),
            inherited: None,
        };
        for &(base, end, bytes) in runs {
            if base < inherited.end && end > inherited.start {
                let bytes = OffsetRun { base, end, bytes }.bytes_from(inherited.start);
                counted.add(base.max(inherited.start), end, bytes);
            }
        }
        counted.runs.append(&mut self.runs);
        self.runs = counted.runs;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_inherited_is_counted_once_and_from_where_nothing_is_rolled() {
        let mut unrolled = UnrolledBytes::new(10, 30);
        unrolled.add(30, 40, 100);
        assert_eq!((unrolled.inherited(), unrolled.bytes(0)), (Some(10..30), 100));
        unrolled.drop_before(20);
        // A log view starts with the range that holds the offset, and includes later commits.
        let read = [(15, 25, 1000), (25, 30, 50), (30, 40, 100)];
        unrolled.count_inherited(&read);
        assert_eq!((unrolled.inherited(), unrolled.bytes(0)), (None, 500 + 50 + 100));
        unrolled.count_inherited(&read);
        assert_eq!(unrolled.bytes(0), 650);
        unrolled.drop_before(40);
        assert_eq!(unrolled.bytes(0), 0);
        assert_eq!(UnrolledBytes::new(30, 30).inherited(), None);
    }

    proptest! {
        /// After commits and rolls in any order, the count differs from the log by at most one
        /// entry.
        #[test]
        fn the_count_never_drifts(steps in prop::collection::vec((1_i64..200_000, 1_i64..50, any::<bool>()), 1..200)) {
            let mut unrolled = UnrolledBytes::new(0, 0);
            let mut log: Vec<OffsetRun> = Vec::new();
            let mut end = 0;
            for (bytes, records, roll) in steps {
                log.push(OffsetRun { base: end, end: end + records, bytes });
                unrolled.add(end, end + records, bytes);
                end += records;
                if roll {
                    let rolled = log[log.len() / 2].end;
                    log.retain(|run| run.end > rolled);
                    unrolled.drop_before(rolled);
                }
                let exact: i64 = log.iter().map(|run| run.bytes).sum();
                prop_assert!((unrolled.bytes(0) - exact).abs() <= 200_000 + MERGE_BELOW_BYTES);
            }
            unrolled.drop_before(end);
            prop_assert_eq!(unrolled.bytes(0), 0);
        }
    }
}

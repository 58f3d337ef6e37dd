//! [`LineRanges`]: the input lines whose records were not acknowledged, as ranges, so that just
//! these can be sent again.

use std::{collections::BTreeMap, fmt};

/// Maximum number of ranges printed for people; JSON output has all.
const MAX_SHOWN_RANGES: usize = 20;

/// Line numbers as ranges, each with its first and last line.
#[derive(Debug, Clone, Default)]
pub(super) struct LineRanges(BTreeMap<u64, u64>);

impl LineRanges {
    /// Adds a line, in any order.
    pub(super) fn add(&mut self, line: u64) {
        let before = self
            .0
            .range(..=line)
            .next_back()
            .map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= line) {
            return;
        }
        let first = match before {
            Some((first, last)) if last + 1 == line => first,
            _ => line,
        };
        let last = self.0.remove(&(line + 1)).unwrap_or(line);
        self.0.insert(first, last);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first and last line of each range.
    pub(super) fn pairs(&self) -> Vec<[u64; 2]> {
        self.0.iter().map(|(first, last)| [*first, *last]).collect()
    }
}

impl fmt::Display for LineRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().take(MAX_SHOWN_RANGES).enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        match self.0.len().saturating_sub(MAX_SHOWN_RANGES) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges; -o json names them all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        let mut lines = LineRanges::default();
        [7, 3, 5, 4, 4, 9].into_iter().for_each(|line| lines.add(line));
        assert_eq!(lines.to_string(), "3-5, 7, 9");
        (100..200).step_by(2).for_each(|line| lines.add(line));
        assert!(
            lines
                .to_string()
                .ends_with(", 132 and 33 more ranges; -o json names them all"),
            "{lines}"
        );
    }

    proptest! {
        #[test]
        fn the_ranges_hold_the_lines_that_were_added(added in proptest::collection::vec(1_u64..60, 0..60)) {
            let mut lines = LineRanges::default();
            added.iter().for_each(|line| lines.add(*line));
            let held: Vec<u64> = lines.pairs().iter().flat_map(|[first, last]| *first..=*last).collect();
            let expected: Vec<u64> = added.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(held, expected);
            let apart = lines.pairs().windows(2).all(|pair| pair[0][1] + 1 < pair[1][0]);
            prop_assert!(apart);
        }
    }
}

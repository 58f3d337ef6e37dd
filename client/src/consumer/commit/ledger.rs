//! [`CommitLedger`]: the newest commit that took effect, for each partition.

use std::collections::BTreeMap;

use streamhouse_core::TopicPartition;

/// Locked by the commit in progress.
#[derive(Debug, Default)]
pub(in crate::consumer) struct CommitLedger {
    newest: BTreeMap<TopicPartition, u64>,
}

impl CommitLedger {
    /// Returns whether a newer commit took effect already, which this one must not undo.
    pub(super) fn is_superseded(&self, partition: &TopicPartition, serial: u64) -> bool {
        self.newest.get(partition).is_some_and(|newest| *newest > serial)
    }

    /// Records that the commit with this serial took effect.
    pub(super) fn mark_applied(&mut self, partition: &TopicPartition, serial: u64) {
        let newest = self.newest.entry(partition.clone()).or_default();
        *newest = serial.max(*newest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Commits of rising offsets that run in any order leave the newest offset.
        #[test]
        fn whatever_the_order_of_turns_the_newest_commit_stays(
            turns in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle(),
            failing in proptest::collection::btree_set(0..20_u64, 0..5),
        ) {
            let key = TopicPartition::new("t", 0);
            let mut ledger = CommitLedger::default();
            let mut stored = None;
            for serial in turns {
                if ledger.is_superseded(&key, serial) || failing.contains(&serial) {
                    continue;
                }
                stored = Some(serial);
                ledger.mark_applied(&key, serial);
            }
            let newest = (0..20).filter(|serial| !failing.contains(serial)).max();
            prop_assert_eq!(stored, newest);
        }
    }
}

//! Partitions whose `on_assigned` callback has not completed: their positions can be set, but they
//! are not fetched yet.

use streamhouse_core::TopicPartition;

use super::Assignment;
use crate::metrics::ConsumerMetrics;

impl Assignment {
    /// Adds partitions that are not fetched before [`Assignment::release`]. Those already assigned
    /// are unchanged.
    pub(in crate::consumer) fn add_held_back(
        &mut self,
        partitions: &[TopicPartition],
        metrics: &ConsumerMetrics,
    ) {
        for key in partitions {
            if !self.held.contains_key(key) {
                self.add(std::slice::from_ref(key), metrics);
                if let Some(held) = self.held.get_mut(key) {
                    held.held_back = true;
                }
            }
        }
    }

    pub(in crate::consumer) fn release(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            if let Some(held) = self.held.get_mut(key) {
                held.held_back = false;
            }
        }
    }
}

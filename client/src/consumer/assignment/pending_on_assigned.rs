//! Partitions whose `on_assigned` callback has not completed: their positions can be set, but they
//! are not fetched yet.

use streamhouse_core::TopicPartition;

use super::AssignmentState;
use crate::metrics::ConsumerMetrics;

impl AssignmentState {
    /// Adds partitions that are not fetched before [`AssignmentState::enable_fetching`]. Those
    /// already assigned are unchanged.
    pub(in crate::consumer) fn add_pending_on_assigned(
        &mut self,
        partitions: &[TopicPartition],
        metrics: &ConsumerMetrics,
    ) {
        for key in partitions {
            if !self.assigned.contains_key(key) {
                self.add(std::slice::from_ref(key), metrics);
                if let Some(held) = self.assigned.get_mut(key) {
                    held.pending_on_assigned = true;
                }
            }
        }
    }

    pub(in crate::consumer) fn enable_fetching(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            if let Some(held) = self.assigned.get_mut(key) {
                held.pending_on_assigned = false;
            }
        }
    }
}

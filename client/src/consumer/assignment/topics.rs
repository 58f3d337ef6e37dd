//! Which topic a partition's position belongs to. A topic that is deleted and made anew under its name has another id, and the
//! offsets of the one mean nothing in the other.

use std::sync::Arc;

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

use super::{Assignment, Wanted};
use crate::error::Error;

impl Assignment {
    /// What is asked for is asked for in the topic with this id from now on, unless one was named before.
    pub(in crate::consumer) fn bind(&mut self, wanted: &mut Wanted, topic_id: &Arc<str>) {
        if !wanted.topic_id.is_empty() {
            return;
        }
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.topic_id = topic_id.clone();
            wanted.topic_id = topic_id.clone();
        }
    }

    /// The id of the topic that the partition's position belongs to; empty while it is not known.
    pub(in crate::consumer) fn topic_id(&self, key: &TopicPartition) -> Arc<str> {
        let held = self.held.get(key);
        held.map_or_else(|| Arc::from(""), |held| held.topic_id.clone())
    }

    /// The name is another topic's by now. A partition that was read before stands still: its position says nothing of the other
    /// topic. One that was not yet read only had an old id, and is asked for again.
    pub(in crate::consumer) fn topic_changed(&mut self, wanted: &Wanted, error: Error, not_before: Instant) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            if held.confirmed {
                held.error = Some(error);
            } else {
                held.topic_id = Arc::from("");
                held.not_before = Some(not_before);
            }
        }
    }
}

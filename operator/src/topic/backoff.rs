//! Back-off of Topics. A Topic that fails waits longer each time, with jitter, without delaying
//! others; a change of the Topic ends its wait. Owned by the state of one cluster's passes.

use std::collections::{HashMap, HashSet};

use streamhouse_core::time::Entropy;
use tokio::time::Instant;

use crate::{backoff::RECONCILE_BACKOFF, crd::Topic};

/// The parts of a Topic whose change ends its wait. A Topic with an unchanged fingerprint needs no
/// pass either, since all other parts are written by the operator itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicFingerprint {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    finalizers: Option<Vec<String>>,
}

impl TopicFingerprint {
    /// Returns the fingerprint of a Topic.
    pub(super) fn from_topic(topic: &Topic) -> Self {
        let metadata = &topic.metadata;
        Self {
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone(),
        }
    }
}

/// The waiting Topics of one cluster, by uid.
#[derive(Debug, Default)]
pub(super) struct TopicBackoff {
    topics: HashMap<String, BackoffEntry>,
}

#[derive(Debug)]
struct BackoffEntry {
    failures: u32,
    due: Instant,
    fingerprint: TopicFingerprint,
}

impl TopicBackoff {
    /// Returns until when this Topic waits, if it does.
    pub(super) fn waits_until(&self, uid: &str, topic: &Topic, now: Instant) -> Option<Instant> {
        let wait = self.topics.get(uid)?;
        (wait.due > now && wait.fingerprint == TopicFingerprint::from_topic(topic)).then_some(wait.due)
    }

    /// Records a failure and returns the time of the next attempt.
    pub(super) fn record_failure(
        &mut self,
        uid: &str,
        topic: &Topic,
        now: Instant,
        entropy: &dyn Entropy,
    ) -> Instant {
        let failures = self
            .topics
            .get(uid)
            .map_or(0, |wait| wait.failures)
            .saturating_add(1);
        let due = now + RECONCILE_BACKOFF.delay_after(failures, entropy);
        let of = TopicFingerprint::from_topic(topic);
        self.topics.insert(
            uid.to_owned(),
            BackoffEntry {
                failures,
                due,
                fingerprint: of,
            },
        );
        due
    }

    /// Records a success.
    pub(super) fn record_success(&mut self, uid: &str) {
        self.topics.remove(uid);
    }

    /// Drops the Topics that no longer exist.
    pub(super) fn retain(&mut self, there: &HashSet<&str>) {
        self.topics.retain(|uid, _| there.contains(uid.as_str()));
    }

    /// Ends all waits, because their common cause has changed.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backoff::tests::FixedEntropy, crd::Topic};

    fn topic(generation: i64) -> Topic {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "Topic",
            "metadata": { "name": "orders", "uid": "1", "generation": generation },
            "spec": { "clusterRef": { "name": "main" } }
        }))
        .unwrap()
    }

    #[test]
    fn a_change_of_the_topic_ends_its_wait() {
        let (mut waiting, now) = (TopicBackoff::default(), Instant::now());
        let due = waiting.record_failure("1", &topic(1), now, &FixedEntropy(0));
        assert_eq!(waiting.waits_until("1", &topic(1), now), Some(due));
        assert_eq!(waiting.waits_until("1", &topic(1), due), None);
        assert_eq!(waiting.waits_until("1", &topic(2), now), None);
        assert_eq!(waiting.waits_until("2", &topic(1), now), None);
        assert!(waiting.record_failure("1", &topic(1), now, &FixedEntropy(0)) > due);
        waiting.record_success("1");
        assert_eq!(waiting.waits_until("1", &topic(1), now), None);
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let (mut waiting, now) = (TopicBackoff::default(), Instant::now());
        waiting.record_failure("1", &topic(1), now, &FixedEntropy(0));
        waiting.retain(&HashSet::from(["2"]));
        assert!(waiting.topics.is_empty());
    }
}

//! Which topic a partition's position belongs to, and which topics are subscribed. A topic that is
//! deleted and recreated under its name has a new id, and offsets of one are meaningless in the
//! other. Partitions that are added while a topic is subscribed are read from their first record.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

use super::{AssignmentState, FetchPosition, PartitionRequest, errors::PartitionErrorState};
use crate::{error::Error, metrics::ConsumerMetrics};

/// The subscribed topics.
#[derive(Debug, Default)]
pub(super) struct SubscribedTopics {
    topics: BTreeMap<Arc<str>, SubscribedTopic>,
    /// Whether all their partitions are read, because there is no group to share them with.
    all_partitions: bool,
    /// Whether the subscription changed since the fetcher last looked at it.
    changed: bool,
}

#[derive(Debug, Default)]
struct SubscribedTopic {
    first: Option<TopicObservation>,
    last: Option<TopicObservation>,
}

/// Metadata of a topic at one point in time: its id and number of partitions; 0 for a missing
/// topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct TopicObservation {
    pub(in crate::consumer) id: Arc<str>,
    pub(in crate::consumer) partitions: i32,
}

/// Deletion and recreation of a topic, as a partition of it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct TopicRecreation {
    pub(in crate::consumer) former_id: Arc<str>,
    /// The position in the former topic.
    pub(in crate::consumer) position: i64,
}

impl AssignmentState {
    /// Binds a request to the topic with this id, unless it is bound already.
    pub(in crate::consumer) fn bind_topic_id(&mut self, wanted: &mut PartitionRequest, topic_id: &Arc<str>) {
        if !wanted.topic_id.is_empty() {
            return;
        }
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.topic_id = topic_id.clone();
            wanted.topic_id = topic_id.clone();
        }
    }

    /// Returns the id of the topic that an offset to commit belongs to, empty while it is not
    /// known. An offset beyond the position in a recreated topic belongs to the former topic, for
    /// which nothing can be committed any more.
    pub(in crate::consumer) fn topic_id(&self, key: &TopicPartition, offset: i64) -> Arc<str> {
        let Some(held) = self.assigned.get(key) else {
            return Arc::from("");
        };
        match (&held.former_topic_id, held.position) {
            (Some(former), FetchPosition::At(position)) if offset > position => former.clone(),
            (Some(former), FetchPosition::Committed | FetchPosition::Lookup(_)) => former.clone(),
            _ => held.topic_id.clone(),
        }
    }

    /// Handles the answer that another topic has the name now, for which the position is
    /// meaningless. With `restart`, the partition is read like a new one, which is returned as a
    /// change; otherwise it fails until a seek. If it has no position yet, or that of a seek at
    /// which nothing was read, only its topic id was outdated, and it is requested again.
    pub(in crate::consumer) fn handle_topic_recreated(
        &mut self,
        wanted: &PartitionRequest,
        error: Error,
        not_before: Instant,
        restart: bool,
    ) -> Option<TopicRecreation> {
        let serial = self.allocate_serial();
        self.may_have_errors = true;
        let held = self.get_current(&wanted.key, wanted.serial)?;
        held.in_flight = false;
        let position = match held.position {
            // Reading on at the offset of a seek could skip records.
            FetchPosition::At(position) if held.confirmed || restart => position,
            FetchPosition::At(_) | FetchPosition::Committed | FetchPosition::Lookup(_) => {
                held.topic_id = Arc::from("");
                held.not_before = Some(not_before);
                return None;
            }
        };
        if !restart {
            held.error_state = Some(PartitionErrorState::until_seek(error));
            return None;
        }
        held.restart_at(serial, FetchPosition::Committed);
        held.not_before = Some(not_before);
        let former_id = std::mem::replace(&mut held.topic_id, Arc::from(""));
        held.former_topic_id = Some(former_id.clone());
        held.confirmed = false;
        held.high_watermark = None;
        held.committed = None;
        self.drop_stale();
        Some(TopicRecreation { former_id, position })
    }

    /// Replaces the subscription. With `all_partitions`, all partitions of the topics are read, see
    /// [`AssignmentState::observe_topic`].
    pub(in crate::consumer) fn subscribe(&mut self, topics: &[String], all_partitions: bool) {
        let mut before = std::mem::take(&mut self.topics.topics);
        let followed = topics.iter().map(|topic| {
            before
                .remove_entry(topic.as_str())
                .unwrap_or((topic.as_str().into(), SubscribedTopic::default()))
        });
        self.topics = SubscribedTopics {
            topics: followed.collect(),
            all_partitions,
            changed: true,
        };
    }

    /// Replaces the subscription with the topics that match a pattern now. Topics that did not
    /// match at the last check are new.
    pub(in crate::consumer) fn subscribe_matches(&mut self, topics: &[String]) {
        let before = self.subscribed_topics();
        self.subscribe(topics, false);
        for (topic, followed) in &mut self.topics.topics {
            if !before.contains(topic) {
                followed.first = Some(TopicObservation {
                    id: Arc::from(""),
                    partitions: 0,
                });
            }
        }
    }

    /// Returns whether topics are subscribed.
    pub(in crate::consumer) fn is_subscribed(&self) -> bool {
        !self.topics.topics.is_empty()
    }

    /// Returns whether the subscription changed since the last call.
    pub(in crate::consumer) fn take_subscription_changed(&mut self) -> bool {
        std::mem::take(&mut self.topics.changed)
    }

    /// Returns the subscribed topics.
    pub(in crate::consumer) fn subscribed_topics(&self) -> Vec<Arc<str>> {
        self.topics.topics.keys().cloned().collect()
    }

    /// Merges the metadata of a subscribed topic. Returns whether it changed.
    pub(in crate::consumer) fn observe_topic(
        &mut self,
        topic: &str,
        now: &TopicObservation,
        metrics: &ConsumerMetrics,
    ) -> bool {
        let whole = self.topics.all_partitions;
        let Some(followed) = self.topics.topics.get_mut(topic) else {
            return false;
        };
        if followed.last.as_ref() == Some(now) {
            return false;
        }
        followed.first.get_or_insert_with(|| now.clone());
        let before = followed.last.replace(now.clone());
        if whole && now.partitions > 0 {
            let of = |partition| TopicPartition::new(topic, partition);
            if before.is_some_and(|before| before.id != now.id) {
                let gone = |key: &&TopicPartition| key.topic == topic && key.partition >= now.partitions;
                let gone: Vec<_> = self.assigned.keys().filter(gone).cloned().collect();
                self.remove(&gone);
            }
            let all: Vec<_> = (0..now.partitions).map(of).collect();
            self.add(&all, metrics);
        }
        true
    }

    /// Returns whether a partition was added while its topic was subscribed, so that it has no
    /// records from before.
    pub(in crate::consumer) fn is_new_partition(&self, wanted: &PartitionRequest) -> bool {
        let made_anew = |key| {
            self.assigned
                .get(key)
                .is_some_and(|held| held.former_topic_id.is_some())
        };
        let followed = self.topics.topics.get(wanted.key.topic.as_str());
        let grown = followed
            .and_then(|topic| topic.first.as_ref())
            .is_some_and(|first| {
                let other = !wanted.topic_id.is_empty() && first.id != wanted.topic_id;
                other || wanted.key.partition >= first.partitions
            });
        grown || made_anew(&wanted.key)
    }
}

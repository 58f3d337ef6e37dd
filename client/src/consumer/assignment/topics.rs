//! Which topic a partition's position belongs to, and which topics are read as a whole. A topic that is deleted and made anew
//! under its name has another id, and the offsets of the one mean nothing in the other. Partitions that come up while a topic
//! is followed are new to their reader from their first record on.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

use super::{Assignment, Position, Wanted, trouble::Trouble};
use crate::{error::Error, metrics::ConsumerMetrics};

/// The topics that are subscribed.
#[derive(Debug, Default)]
pub(super) struct FollowedTopics {
    topics: BTreeMap<Arc<str>, FollowedTopic>,
    /// Every partition of theirs is read: there is no group to share them with.
    whole: bool,
    /// They are others than before, and nothing was taken in of them yet.
    changed: bool,
}

#[derive(Debug, Default)]
struct FollowedTopic {
    first: Option<TopicSight>,
    last: Option<TopicSight>,
}

/// A topic as the cluster told of it: its id and how many partitions it had. One that did not exist had none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct TopicSight {
    pub(in crate::consumer) id: Arc<str>,
    pub(in crate::consumer) partitions: i32,
}

/// A partition whose topic was deleted and made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct TopicChange {
    pub(in crate::consumer) former_id: Arc<str>,
    /// Where the former one was read.
    pub(in crate::consumer) position: i64,
}

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

    /// The id of the topic that an offset to commit belongs to; empty while it is not known. An offset beyond what was
    /// returned of a topic made anew is one of the former topic, for which nothing can be committed any more.
    pub(in crate::consumer) fn topic_id(&self, key: &TopicPartition, offset: i64) -> Arc<str> {
        let Some(held) = self.held.get(key) else {
            return Arc::from("");
        };
        match (&held.former_topic, held.position) {
            (Some(former), Position::At(position)) if offset > position => former.clone(),
            (Some(former), Position::Committed | Position::Lookup(_)) => former.clone(),
            _ => held.topic_id.clone(),
        }
    }

    /// The name is another topic's by now, and the position says nothing of that one. With `restart` the partition is read
    /// from where a new one is, which is returned as a change; else it stands still. One that has no position yet, or only
    /// that of a seek which nothing was read at, merely had an old id, and is asked for again.
    pub(in crate::consumer) fn topic_changed(
        &mut self,
        wanted: &Wanted,
        error: Error,
        not_before: Instant,
        restart: bool,
    ) -> Option<TopicChange> {
        let serial = self.serial();
        self.troubled = true;
        let held = self.current(&wanted.key, wanted.serial)?;
        held.busy = false;
        let position = match held.position {
            // To read on at the offset of a seek could leave records out.
            Position::At(position) if held.confirmed || restart => position,
            Position::At(_) | Position::Committed | Position::Lookup(_) => {
                held.topic_id = Arc::from("");
                held.not_before = Some(not_before);
                return None;
            }
        };
        if !restart {
            held.trouble = Some(Trouble::lasting(error));
            return None;
        }
        held.start_anew(serial, Position::Committed);
        held.not_before = Some(not_before);
        let former_id = std::mem::replace(&mut held.topic_id, Arc::from(""));
        held.former_topic = Some(former_id.clone());
        held.confirmed = false;
        held.high_watermark = None;
        held.committed = None;
        self.drop_stale();
        Some(TopicChange { former_id, position })
    }

    /// Follows these topics instead of those before; with `whole` it reads all their partitions, see [`Assignment::sight`].
    pub(in crate::consumer) fn follow(&mut self, topics: &[String], whole: bool) {
        let mut before = std::mem::take(&mut self.topics.topics);
        let followed = topics.iter().map(|topic| {
            before
                .remove_entry(topic.as_str())
                .unwrap_or((topic.as_str().into(), FollowedTopic::default()))
        });
        self.topics = FollowedTopics {
            topics: followed.collect(),
            whole,
            changed: true,
        };
    }

    /// Follows all topics that match a pattern now: those that were not there when it was asked before came up since.
    pub(in crate::consumer) fn follow_matches(&mut self, topics: &[String]) {
        let before = self.followed();
        self.follow(topics, false);
        for (topic, followed) in &mut self.topics.topics {
            if !before.contains(topic) {
                followed.first = Some(TopicSight {
                    id: Arc::from(""),
                    partitions: 0,
                });
            }
        }
    }

    /// Whether topics are subscribed.
    pub(in crate::consumer) fn follows(&self) -> bool {
        !self.topics.topics.is_empty()
    }

    /// Whether other topics are subscribed than when this was asked last.
    pub(in crate::consumer) fn follows_others(&mut self) -> bool {
        std::mem::take(&mut self.topics.changed)
    }

    /// The topics that are subscribed.
    pub(in crate::consumer) fn followed(&self) -> Vec<Arc<str>> {
        self.topics.topics.keys().cloned().collect()
    }

    /// Takes in what the cluster tells of a followed topic; says whether that is news.
    pub(in crate::consumer) fn sight(
        &mut self,
        topic: &str,
        now: &TopicSight,
        metrics: &ConsumerMetrics,
    ) -> bool {
        let whole = self.topics.whole;
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
                let gone: Vec<_> = self.held.keys().filter(gone).cloned().collect();
                self.remove(&gone);
            }
            let all: Vec<_> = (0..now.partitions).map(of).collect();
            self.add(&all, metrics);
        }
        true
    }

    /// Whether all of a partition came up while it was followed, so that nothing of it was there to be left out.
    pub(in crate::consumer) fn is_new(&self, wanted: &Wanted) -> bool {
        let made_anew = |key| self.held.get(key).is_some_and(|held| held.former_topic.is_some());
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

//! What the members subscribe to: follows topics that are created, deleted or get partitions.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ConsumerGroup, MemberId,
    catalog::{TopicCatalog, TopicShape},
};

impl ConsumerGroup {
    /// Returns whether the catalog may have other topics for the group than those it knows.
    pub(super) fn has_outdated_topics(&self, now: i64, catalog: &dyn TopicCatalog) -> bool {
        self.topics_version != Some(catalog.version())
            || self
                .patterns
                .is_outdated(now, self.rules.pattern_interval_ms, catalog)
    }

    /// Takes the subscribed topics from the catalog. Returns whether they have changed.
    pub(super) fn refresh_topics(&mut self, now: i64, catalog: &dyn TopicCatalog) -> bool {
        let stored = self.topics_version.is_none();
        if stored
            || self
                .patterns
                .is_outdated(now, self.rules.pattern_interval_ms, catalog)
        {
            let members = self.members.values();
            let subscribed = members.filter_map(|entry| entry.member.pattern.as_ref());
            self.patterns.refresh(now, subscribed, catalog);
        }
        self.topics_version = Some(catalog.version());
        let topics = self.subscribed_topics(catalog);
        if topics == self.topics {
            return false;
        }
        self.topics = topics;
        true
    }

    /// Returns the topics that members subscribe to and that exist.
    fn subscribed_topics(&self, catalog: &dyn TopicCatalog) -> BTreeMap<Arc<str>, TopicShape> {
        let mut topics = BTreeMap::new();
        let mut last: Option<&Arc<[Arc<str>]>> = None;
        for entry in self.members.values() {
            let member = &entry.member;
            let matching = self.patterns.topics(member.pattern.as_ref());
            // Members have the same topics most of the time.
            let named = Some(&member.topics).filter(|named| last != Some(*named));
            for name in named.into_iter().flat_map(|named| named.iter()).chain(matching) {
                if !topics.contains_key(name)
                    && let Some(shape) = catalog.topic(name)
                {
                    topics.insert(name.clone(), shape);
                }
            }
            last = Some(&member.topics);
        }
        topics
    }

    /// Forgets regular expressions that no member has.
    pub(super) fn retain_patterns(&mut self) {
        let members = &self.members;
        self.patterns.retain(|pattern| {
            let has = |entry: &super::MemberEntry| entry.member.pattern.as_ref() == Some(pattern);
            members.values().any(has)
        });
    }

    /// Returns the bytes of all subscriptions but that of `but`.
    pub(super) fn subscription_bytes(&self, but: &MemberId) -> usize {
        let others = self.members.iter().filter(|(id, _)| *id != but);
        others.map(|(_, entry)| entry.member.subscription_bytes()).sum()
    }
}

//! What the members subscribe to: follows topics that are created, deleted or get partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ConsumerGroup, MemberId,
    catalog::{TopicCatalog, TopicShape},
};

impl ConsumerGroup {
    /// Returns whether the catalog may have other topics for the group than those it knows.
    pub(super) fn has_outdated_topics(&self, now: i64, catalog: &dyn TopicCatalog) -> bool {
        self.topics_version.is_none_or(|known| known < catalog.version())
            || self
                .patterns
                .is_outdated(now, self.rules.pattern_interval_ms, catalog)
    }

    /// Takes the subscribed topics from the catalog. Returns whether they have changed.
    pub(super) fn refresh_topics(&mut self, now: i64, catalog: &dyn TopicCatalog) -> bool {
        // Those of a group that was stored were never searched for here.
        let mut patterns = self
            .members
            .values()
            .filter_map(|entry| entry.member.pattern.as_ref());
        if patterns.any(|pattern| !self.patterns.is_resolved(pattern))
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

    /// Returns the names of the topics that members subscribe to.
    pub fn subscribed_names(&self) -> BTreeSet<String> {
        // Before the first heartbeat at this coordinator, only the topics tell what patterns match.
        let mut names: BTreeSet<String> = self.topics.keys().map(|name| name.to_string()).collect();
        names.extend(self.named_topics().iter().map(|name| name.to_string()));
        names
    }

    /// Forgets what only members that are gone subscribed to.
    pub(super) fn forget_subscriptions(&mut self) {
        self.retain_patterns();
        // Before the first heartbeat at this coordinator, patterns are not resolved.
        if self.topics_version.is_some() {
            let named = self.named_topics();
            self.topics.retain(|name, _| named.contains(name));
        }
    }

    /// Returns the topics that members name or whose names match, whether they exist or not.
    fn named_topics(&self) -> BTreeSet<Arc<str>> {
        let mut topics = BTreeSet::new();
        let mut last: Option<&Arc<[Arc<str>]>> = None;
        for entry in self.members.values() {
            let member = &entry.member;
            // Members have the same topics most of the time.
            if last != Some(&member.topics) {
                topics.extend(member.topics.iter().cloned());
            }
            last = Some(&member.topics);
        }
        topics.extend(self.patterns.all_topics().cloned());
        topics
    }

    /// Returns the topics that members subscribe to and that exist.
    fn subscribed_topics(&self, catalog: &dyn TopicCatalog) -> BTreeMap<Arc<str>, TopicShape> {
        let shape = |name: Arc<str>| Some((name.clone(), catalog.topic(&name)?));
        self.named_topics().into_iter().filter_map(shape).collect()
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

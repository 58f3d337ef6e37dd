//! The target assignment: which partitions each member should have in the current group epoch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    ConsumerGroup,
    assignor::{AssignorMember, ServerAssignor},
    catalog::TopicShape,
};

impl ConsumerGroup {
    /// Computes the targets if the group epoch is newer than theirs, unless they were computed just
    /// before. Returns whether they were.
    pub(super) fn update_targets(&mut self, now: i64) -> bool {
        let interval = self.rules.assignment_interval_ms;
        let recent = |assigned_at: i64| now < assigned_at.saturating_add(interval);
        if self.epoch <= self.assignment_epoch || self.assigned_at.is_some_and(recent) {
            return false;
        }
        let topics: Vec<TopicShape> = self.topics.values().copied().collect();
        let index: HashMap<Uuid, usize> = topics
            .iter()
            .enumerate()
            .map(|(index, shape)| (shape.id, index))
            .collect();
        let described = self.members.values().map(|entry| {
            let subscribed = self.subscribed_ids(&entry.member);
            AssignorMember {
                instance: entry.member.instance.as_ref(),
                topics: subscribed
                    .iter()
                    .filter_map(|id| index.get(id).copied())
                    .collect(),
                previous: &entry.member.target,
            }
        });
        let described: Vec<AssignorMember<'_>> = described.collect();
        let targets = self.preferred_assignor().assign(&topics, &described);
        for (entry, target) in self.members.values_mut().zip(targets) {
            if *entry.member.target != target {
                Arc::make_mut(&mut entry.member).target = Arc::new(target);
            }
        }
        self.assignment_epoch = self.epoch;
        self.assigned_at = Some(now);
        true
    }

    /// Returns the assignor that most members prefer, the default one if none does.
    pub(super) fn preferred_assignor(&self) -> ServerAssignor {
        let mut votes: BTreeMap<ServerAssignor, usize> = BTreeMap::new();
        for entry in self.members.values() {
            if let Some(assignor) = entry.member.assignor {
                *votes.entry(assignor).or_default() += 1;
            }
        }
        // `max_by_key` returns the last of equals: the default one.
        let preferred = votes.into_iter().rev().max_by_key(|(_, votes)| *votes);
        preferred.map_or(ServerAssignor::Uniform, |(assignor, _)| assignor)
    }
}

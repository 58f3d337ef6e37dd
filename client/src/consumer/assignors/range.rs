//! Kafka's range assignor: consecutive partitions topic by topic; the first members get the
//! remainder.

use std::collections::BTreeMap;

use super::{
    GroupAssignment, MemberSubscription, empty_assignment, partitions_of, sorted_members, wanted_topics,
};

pub(super) fn assign(members: &[MemberSubscription], topics: &BTreeMap<String, i32>) -> GroupAssignment {
    let mut assignment = empty_assignment(members);
    for topic in wanted_topics(members) {
        let takers: Vec<_> = sorted_members(members)
            .into_iter()
            .filter(|member| member.topics.iter().any(|t| t == topic))
            .collect();
        let partitions: Vec<_> = partitions_of(topic, topics).collect();
        let (share, rest) = (partitions.len() / takers.len(), partitions.len() % takers.len());
        let mut partitions = partitions.into_iter();
        for (at, member) in takers.iter().enumerate() {
            let take = share + usize::from(at < rest);
            assignment
                .entry(member.id.clone())
                .or_default()
                .extend(partitions.by_ref().take(take));
        }
    }
    assignment
}

//! The `range` assignor: each member gets consecutive partitions of each topic, the same ones of
//! topics with the same subscribers and number of partitions.

use super::{AssignorMember, subscribers};
use crate::groups::consumer::{catalog::TopicShape, partitions::PartitionSet};

pub(super) fn assign(topics: &[TopicShape], members: &[AssignorMember<'_>]) -> Vec<PartitionSet> {
    let mut assigned = vec![PartitionSet::new(); members.len()];
    for (shape, mut readers) in topics.iter().zip(subscribers(topics, members)) {
        // Static members first, by their instance ids; the others are in the order of member ids.
        readers.sort_by_key(|reader| {
            let instance = members[*reader].instance;
            (instance.is_none(), instance)
        });
        let Ok(count) = i32::try_from(readers.len()) else {
            continue;
        };
        let mut next = 0;
        for (reader, index) in readers.into_iter().zip(0..count) {
            let share = shape.partitions / count + i32::from(index < shape.partitions % count);
            assigned[reader].extend((next..next + share).map(|partition| (shape.id, partition)));
            next += share;
        }
    }
    assigned
}

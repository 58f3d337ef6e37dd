//! Properties of the assignors.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::groups::consumer::partitions::PartitionKey;

fn shapes(partitions: &[i32]) -> Vec<TopicShape> {
    let numbered = (1..).zip(partitions);
    numbered
        .map(|(id, partitions)| TopicShape {
            id: Uuid::from_u128(id),
            partitions: *partitions,
        })
        .collect()
}

fn assign(
    assignor: ServerAssignor,
    topics: &[TopicShape],
    subscribed: &[Vec<usize>],
    previous: &[PartitionSet],
) -> Vec<PartitionSet> {
    let members = subscribed.iter().zip(previous);
    let members: Vec<AssignorMember<'_>> = members
        .map(|(topics, previous)| AssignorMember {
            instance: None,
            topics: topics.clone(),
            previous,
        })
        .collect();
    assignor.assign(topics, &members)
}

/// Checks that each partition with subscribers has one owner, who subscribes to it.
fn check_complete(topics: &[TopicShape], subscribed: &[Vec<usize>], assigned: &[PartitionSet]) {
    for (index, shape) in topics.iter().enumerate() {
        let read = subscribed.iter().any(|topics| topics.contains(&index));
        for partition in 0..shape.partitions {
            let key: PartitionKey = (shape.id, partition);
            let owners: Vec<usize> = (0..assigned.len())
                .filter(|member| assigned[*member].contains(&key))
                .collect();
            assert_eq!(owners.len(), usize::from(read), "{key:?}");
            assert!(owners.iter().all(|owner| subscribed[*owner].contains(&index)));
        }
    }
    let known = |key: &PartitionKey| {
        topics
            .iter()
            .any(|shape| shape.id == key.0 && key.1 < shape.partitions)
    };
    assert!(assigned.iter().flatten().all(known));
}

/// Checks that no partition can move so that the members become more even.
fn check_even(topics: &[TopicShape], subscribed: &[Vec<usize>], assigned: &[PartitionSet]) {
    for (giver, has) in assigned.iter().enumerate() {
        for (taker, gets) in assigned.iter().enumerate() {
            let movable = has.iter().any(|key| {
                let topic = topics.iter().position(|shape| shape.id == key.0);
                topic.is_some_and(|topic| subscribed[taker].contains(&topic))
            });
            assert!(!movable || has.len() <= gets.len() + 1, "{giver} to {taker}");
        }
    }
}

fn any_subscription(topics: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(0..topics.max(1), 0..=topics)
        .prop_map(move |chosen| chosen.into_iter().filter(|topic| *topic < topics).collect())
}

fn any_group() -> impl Strategy<Value = (Vec<i32>, Vec<Vec<usize>>)> {
    prop::collection::vec(0..20_i32, 0..6).prop_flat_map(|partitions| {
        let subscriptions = prop::collection::vec(any_subscription(partitions.len()), 1..8);
        (Just(partitions), subscriptions)
    })
}

proptest! {
    #[test]
    fn every_partition_has_one_subscriber((partitions, subscribed) in any_group()) {
        let topics = shapes(&partitions);
        let nothing = vec![PartitionSet::new(); subscribed.len()];
        for assignor in ServerAssignor::ALL {
            let assigned = assign(assignor, &topics, &subscribed, &nothing);
            check_complete(&topics, &subscribed, &assigned);
        }
        let assigned = assign(ServerAssignor::Uniform, &topics, &subscribed, &nothing);
        check_even(&topics, &subscribed, &assigned);
        // Computed again, it stays.
        prop_assert_eq!(&assign(ServerAssignor::Uniform, &topics, &subscribed, &assigned), &assigned);
    }

    #[test]
    fn uniform_is_even_and_keeps_what_it_can((partitions, mut subscribed) in any_group(), more in any::<bool>()) {
        let topics = shapes(&partitions);
        let nothing = vec![PartitionSet::new(); subscribed.len()];
        let before = assign(ServerAssignor::Uniform, &topics, &subscribed, &nothing);
        let mut previous = before;
        if more {
            subscribed.push((0..topics.len()).collect());
            previous.push(PartitionSet::new());
        } else if subscribed.len() > 1 {
            subscribed.remove(0);
            previous.remove(0);
        }
        let after = assign(ServerAssignor::Uniform, &topics, &subscribed, &previous);
        check_complete(&topics, &subscribed, &after);
        check_even(&topics, &subscribed, &after);
    }

    #[test]
    fn equal_members_differ_by_at_most_one_and_few_partitions_move(
        partitions in prop::collection::vec(0..20_i32, 1..6),
        members in 1..8_usize,
        joins in any::<bool>(),
    ) {
        let topics = shapes(&partitions);
        let everything: Vec<usize> = (0..topics.len()).collect();
        let subscribed = vec![everything.clone(); members];
        let before = assign(ServerAssignor::Uniform, &topics, &subscribed, &vec![PartitionSet::new(); members]);
        let mut previous = before.clone();
        if joins {
            previous.push(PartitionSet::new());
        } else if members > 1 {
            previous.pop();
        }
        let subscribed = vec![everything; previous.len()];
        let after = assign(ServerAssignor::Uniform, &topics, &subscribed, &previous);
        let total: usize = after.iter().map(PartitionSet::len).sum();
        let share = total / after.len();
        prop_assert!(after.iter().all(|has| (share..=share + 1).contains(&has.len())));
        let kept: usize = previous.iter().zip(&after).map(|(old, new)| old.intersection(new).count()).sum();
        let had: usize = previous.iter().map(PartitionSet::len).sum();
        // Only what the new member gets moves.
        let moved = if joins { after.last().map_or(0, PartitionSet::len) } else { 0 };
        prop_assert_eq!(had - kept, moved);
    }
}

#[test]
fn range_gives_consecutive_partitions() {
    let topics = shapes(&[7, 3]);
    let subscribed = vec![vec![0, 1]; 3];
    let assigned = assign(
        ServerAssignor::Range,
        &topics,
        &subscribed,
        &vec![PartitionSet::new(); 3],
    );
    let numbers = |member: usize, topic: usize| -> Vec<i32> {
        let of_topic = assigned[member].iter().filter(|key| key.0 == topics[topic].id);
        of_topic.map(|key| key.1).collect()
    };
    assert_eq!(
        [numbers(0, 0), numbers(1, 0), numbers(2, 0)],
        [vec![0, 1, 2], vec![3, 4], vec![5, 6]]
    );
    assert_eq!(
        [numbers(0, 1), numbers(1, 1), numbers(2, 1)],
        [vec![0], vec![1], vec![2]]
    );
}

#[test]
fn range_orders_static_members_by_their_instances() {
    let topics = shapes(&[2]);
    let (first, second): (Arc<str>, Arc<str>) = ("1".into(), "2".into());
    let nothing = PartitionSet::new();
    let member = |instance| AssignorMember {
        instance,
        topics: vec![0],
        previous: &nothing,
    };
    let members = [member(Some(&second)), member(Some(&first))];
    let assigned = ServerAssignor::Range.assign(&topics, &members);
    assert!(assigned[0].contains(&(topics[0].id, 1)) && assigned[1].contains(&(topics[0].id, 0)));
}

#[test]
fn assignors_have_kafkas_names() {
    assert_eq!(
        ServerAssignor::from_name("uniform"),
        Some(ServerAssignor::Uniform)
    );
    assert_eq!(ServerAssignor::from_name("range"), Some(ServerAssignor::Range));
    assert_eq!(ServerAssignor::from_name("sticky"), None);
}

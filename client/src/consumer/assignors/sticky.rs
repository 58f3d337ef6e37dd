//! The sticky assignor: members keep their partitions, unowned ones go to the member with the
//! fewest, and only as many partitions move as balance requires. An assignment is balanced if no
//! partition could move to a subscribed member that has at least two fewer.

use std::collections::{BTreeMap, BTreeSet};

use streamhouse_core::TopicPartition;

use super::{GroupAssignment, MemberSubscription, partitions_of, sorted_members, wanted_topics};

pub(super) fn assign(members: &[MemberSubscription], topics: &BTreeMap<String, i32>) -> GroupAssignment {
    let order = sorted_members(members);
    let takers: BTreeMap<&str, Vec<usize>> = wanted_topics(members)
        .into_iter()
        .map(|topic| {
            let wants = |at: &usize| order[*at].topics.iter().any(|t| t == topic);
            (topic, (0..order.len()).filter(wants).collect())
        })
        .collect();
    let mut shares = retained_partitions(&order, topics, &takers);
    assign_unowned(&mut shares, topics, &takers);
    while let Some((from, partition, to)) = best_move(&shares, &takers) {
        shares[from].remove(&partition);
        shares[to].insert(partition);
    }
    order
        .iter()
        .zip(shares)
        .map(|(member, share)| (member.id.clone(), share.into_iter().collect()))
        .collect()
}

/// Returns what each member keeps at first: the partitions it owns, still subscribes to, and that
/// no member owned in a later generation.
fn retained_partitions(
    order: &[&MemberSubscription],
    topics: &BTreeMap<String, i32>,
    takers: &BTreeMap<&str, Vec<usize>>,
) -> Vec<BTreeSet<TopicPartition>> {
    let mut claims: BTreeMap<&TopicPartition, (i32, Vec<usize>)> = BTreeMap::new();
    for (at, member) in order.iter().enumerate() {
        let generation = member.generation.unwrap_or(-1);
        for partition in &member.owned {
            let exists =
                (0..topics.get(&partition.topic).copied().unwrap_or(0)).contains(&partition.partition);
            if !exists
                || !takers
                    .get(&*partition.topic)
                    .is_some_and(|takers| takers.contains(&at))
            {
                continue;
            }
            let claim = claims.entry(partition).or_insert((generation, Vec::new()));
            if generation > claim.0 {
                *claim = (generation, Vec::new());
            }
            if generation == claim.0 && !claim.1.contains(&at) {
                claim.1.push(at);
            }
        }
    }
    let mut shares = vec![BTreeSet::new(); order.len()];
    for (partition, (_, claimants)) in claims {
        // Two claims of one generation contradict each other: neither counts.
        if let [only] = claimants[..] {
            shares[only].insert(partition.clone());
        }
    }
    shares
}

/// Assigns unowned partitions to the members with the fewest; topics with the fewest subscribers
/// first.
fn assign_unowned(
    shares: &mut [BTreeSet<TopicPartition>],
    topics: &BTreeMap<String, i32>,
    takers: &BTreeMap<&str, Vec<usize>>,
) {
    let taken: BTreeSet<TopicPartition> = shares.iter().flatten().cloned().collect();
    let mut by_takers: Vec<_> = takers.iter().collect();
    by_takers.sort_by_key(|(topic, takers)| (takers.len(), **topic));
    for (topic, takers) in by_takers {
        for partition in partitions_of(topic, topics).filter(|partition| !taken.contains(partition)) {
            if let Some(least) = takers.iter().min_by_key(|at| (shares[**at].len(), **at)) {
                shares[*least].insert(partition);
            }
        }
    }
}

/// Finds a move to a member with at least two partitions fewer, from the member with the most
/// partitions that has one.
fn best_move(
    shares: &[BTreeSet<TopicPartition>],
    takers: &BTreeMap<&str, Vec<usize>>,
) -> Option<(usize, TopicPartition, usize)> {
    let least: BTreeMap<&str, usize> = takers
        .iter()
        .filter_map(|(topic, takers)| {
            Some((
                *topic,
                *takers.iter().min_by_key(|at| (shares[**at].len(), **at))?,
            ))
        })
        .collect();
    let mut fullest: Vec<usize> = (0..shares.len()).collect();
    fullest.sort_by_key(|at| (std::cmp::Reverse(shares[*at].len()), *at));
    for from in fullest {
        // Start with the last partitions, so that those assigned last move first.
        let found = shares[from].iter().rev().filter_map(|partition| {
            let to = *least.get(&*partition.topic)?;
            (shares[to].len() + 2 <= shares[from].len()).then_some((partition, to))
        });
        if let Some((partition, to)) = found.min_by_key(|(_, to)| shares[*to].len()) {
            return Some((from, partition.clone(), to));
        }
    }
    None
}

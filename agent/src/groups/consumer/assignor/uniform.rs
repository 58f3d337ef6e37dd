//! The `uniform` assignor: members have as many partitions as each other, as far as their
//! subscriptions allow, and keep what they had unless it must move for that.
//!
//! Each member first keeps what it had and still subscribes to. What is left goes to the members
//! with the fewest partitions, topics with few subscribers first. Then single partitions move from
//! members with more to members with fewer, until no move makes the group more even: members with
//! the same subscriptions differ by at most one.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::{AssignorMember, subscribers};
use crate::groups::consumer::{catalog::TopicShape, partitions::PartitionSet};

/// Rounds over all topics; a few suffice, and the limit bounds the work for odd subscriptions.
const MAX_ROUNDS: usize = 64;

pub(super) fn assign(topics: &[TopicShape], members: &[AssignorMember<'_>]) -> Vec<PartitionSet> {
    let mut balance = PartitionBalance::keep_previous(topics, members);
    let mut order: Vec<usize> = (0..topics.len()).collect();
    order.sort_by_key(|topic| balance.topics[*topic].subscribers.len());
    for topic in &order {
        balance.place_unassigned(*topic);
    }
    for _ in 0..MAX_ROUNDS {
        let moves: usize = order.iter().map(|topic| balance.level_topic(*topic)).sum();
        if moves == 0 {
            break;
        }
    }
    balance.into_assignments(topics)
}

/// The partitions of one topic.
struct TopicBalance {
    subscribers: Vec<usize>,
    /// The partitions of each subscriber, in the order of `subscribers`.
    owned: Vec<Vec<i32>>,
    unassigned: Vec<i32>,
}

struct PartitionBalance {
    topics: Vec<TopicBalance>,
    /// The number of partitions of each member.
    loads: Vec<usize>,
}

impl PartitionBalance {
    fn keep_previous(topics: &[TopicShape], members: &[AssignorMember<'_>]) -> Self {
        let mut loads = vec![0; members.len()];
        let index: HashMap<Uuid, usize> = topics
            .iter()
            .enumerate()
            .map(|(index, shape)| (shape.id, index))
            .collect();
        let mut free: Vec<BTreeSet<i32>> = topics
            .iter()
            .map(|shape| (0..shape.partitions).collect())
            .collect();
        let mut balances: Vec<TopicBalance> = subscribers(topics, members)
            .into_iter()
            .map(|subscribers| TopicBalance {
                owned: vec![Vec::new(); subscribers.len()],
                subscribers,
                unassigned: Vec::new(),
            })
            .collect();
        for (member, described) in members.iter().enumerate() {
            for (id, partition) in described.previous {
                let Some(topic) = index.get(id).copied() else {
                    continue;
                };
                // Subscribers are in ascending order.
                let Ok(place) = balances[topic].subscribers.binary_search(&member) else {
                    continue;
                };
                if free[topic].remove(partition) {
                    balances[topic].owned[place].push(*partition);
                    loads[member] += 1;
                }
            }
        }
        for (balance, free) in balances.iter_mut().zip(free) {
            balance.unassigned.extend(free);
        }
        Self {
            topics: balances,
            loads,
        }
    }

    /// Gives the topic's unassigned partitions to its subscribers with the fewest partitions.
    fn place_unassigned(&mut self, topic: usize) {
        let balance = &mut self.topics[topic];
        if balance.unassigned.is_empty() {
            return;
        }
        let places = balance.subscribers.iter().enumerate();
        let mut takers: BTreeSet<(usize, usize)> = places
            .map(|(place, member)| (self.loads[*member], place))
            .collect();
        for partition in std::mem::take(&mut balance.unassigned) {
            let Some((load, place)) = takers.pop_first() else {
                return;
            };
            balance.owned[place].push(partition);
            self.loads[balance.subscribers[place]] += 1;
            takers.insert((load + 1, place));
        }
    }

    /// Moves partitions of the topic from subscribers with more to those with fewer, as long as
    /// that makes them more even. Returns the number of moves.
    fn level_topic(&mut self, topic: usize) -> usize {
        let balance = &mut self.topics[topic];
        let load = |place: usize| self.loads[balance.subscribers[place]];
        let places = 0..balance.subscribers.len();
        let mut takers: BTreeSet<(usize, usize)> = places.clone().map(|place| (load(place), place)).collect();
        let mut givers: BTreeSet<(usize, usize)> = places
            .filter(|place| !balance.owned[*place].is_empty())
            .map(|place| (load(place), place))
            .collect();
        let mut moves = 0;
        while let (Some((most, giver)), Some((least, taker))) =
            (givers.last().copied(), takers.first().copied())
        {
            if most <= least + 1 {
                break;
            }
            // The last one: what the member got in this round moves before what it had.
            let Some(partition) = balance.owned[giver].pop() else {
                givers.remove(&(most, giver));
                continue;
            };
            balance.owned[taker].push(partition);
            self.loads[balance.subscribers[giver]] -= 1;
            self.loads[balance.subscribers[taker]] += 1;
            takers.remove(&(most, giver));
            takers.insert((most - 1, giver));
            takers.remove(&(least, taker));
            takers.insert((least + 1, taker));
            givers.remove(&(most, giver));
            if !balance.owned[giver].is_empty() {
                givers.insert((most - 1, giver));
            }
            givers.remove(&(least, taker));
            givers.insert((least + 1, taker));
            moves += 1;
        }
        moves
    }

    fn into_assignments(self, topics: &[TopicShape]) -> Vec<PartitionSet> {
        let mut assigned = vec![PartitionSet::new(); self.loads.len()];
        for (shape, balance) in topics.iter().zip(self.topics) {
            for (member, partitions) in balance.subscribers.into_iter().zip(balance.owned) {
                assigned[member].extend(partitions.into_iter().map(|partition| (shape.id, partition)));
            }
        }
        assigned
    }
}

//! The assignment of leases to agents, as a pure function of the snapshot. Every agent computes the
//! same whole plan and carries out its own part: it takes unowned leases planned for it, and hands
//! over leases planned for another agent.
//!
//! The plan balances to within one lease per agent with as few moves as possible, leaves no lease
//! unowned, and is empty if there is nothing to balance. Draining agents are planned to hold
//! nothing. It depends on the snapshot only: moves are conditional, so agents that plan from
//! snapshots of different age merely lose moves, and agree once they see the same one.

use std::collections::BTreeMap;

use streamhouse_metadata::{ClusterSnapshot, Incarnation, LeaseMove, PartitionEntry, PartitionUid};

/// An agent that may hold leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseCandidate {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Whether it should hold nothing.
    pub draining: bool,
}

/// A lease to place: of a partition or of a coordinator slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseClaim {
    /// The partition's unique id.
    pub uid: PartitionUid,
    /// An index of its topic: an agent gives away from the topic of which it holds most.
    pub topic: usize,
    /// The holder; `None` if there is none or it is not alive.
    pub holder: Option<Incarnation>,
    /// The epoch in the snapshot.
    pub epoch: i32,
}

impl LeaseClaim {
    fn move_to(&self, to: Option<Incarnation>) -> LeaseMove {
        LeaseMove {
            partition: self.uid,
            from: self.holder,
            epoch: self.epoch,
            to,
        }
    }
}

/// The two kinds of leases, which are balanced independently.
#[derive(Debug, Default)]
pub struct ClaimsByKind {
    /// Partitions of topics.
    pub data: Vec<LeaseClaim>,
    /// Coordinator slots.
    pub slots: Vec<LeaseClaim>,
}

impl ClaimsByKind {
    /// Collects all leases of the snapshot.
    pub fn from_snapshot(snapshot: &ClusterSnapshot) -> Self {
        let mut claims = Self::default();
        for (topic, record) in snapshot.topics.iter().enumerate() {
            let kind = if record.internal {
                &mut claims.slots
            } else {
                &mut claims.data
            };
            kind.extend(
                record
                    .partitions
                    .iter()
                    .map(|partition| lease_claim(topic, partition)),
            );
        }
        claims
    }
}

fn lease_claim(topic: usize, partition: &PartitionEntry) -> LeaseClaim {
    LeaseClaim {
        uid: partition.uid,
        topic,
        holder: partition.holder,
        epoch: partition.epoch,
    }
}

/// Returns the agents of the snapshot.
pub fn lease_candidates(snapshot: &ClusterSnapshot) -> Vec<LeaseCandidate> {
    let agents = snapshot.agents.iter();
    agents
        .map(|agent| LeaseCandidate {
            incarnation: agent.incarnation,
            draining: agent.draining,
        })
        .collect()
}

/// Returns the moves of one kind that `me` carries out: takes (unowned, `to` is `me`) and gives
/// (held by `me`). A draining agent without any other agent releases its leases.
pub fn plan_moves(agents: &[LeaseCandidate], claims: &[LeaseClaim], me: Incarnation) -> Vec<LeaseMove> {
    let mine =
        |planned: &LeaseMove| planned.from == Some(me) || (planned.from.is_none() && planned.to == Some(me));
    plan_all_moves(agents, claims).into_iter().filter(mine).collect()
}

/// Returns the minimum number of leases of an agent once all is balanced.
pub fn fair_share(agents: &[LeaseCandidate], claims: &[LeaseClaim]) -> usize {
    let takers = agents.iter().filter(|agent| !agent.draining).count();
    claims.len().checked_div(takers).unwrap_or(0)
}

/// Returns the whole plan: the moves of all agents.
pub fn plan_all_moves(agents: &[LeaseCandidate], claims: &[LeaseClaim]) -> Vec<LeaseMove> {
    let mut holdings: BTreeMap<Incarnation, Vec<LeaseClaim>> =
        agents.iter().map(|a| (a.incarnation, Vec::new())).collect();
    let mut unowned = Vec::new();
    for claim in claims {
        match claim.holder.and_then(|holder| holdings.get_mut(&holder)) {
            Some(held) => held.push(*claim),
            None => unowned.push(LeaseClaim {
                holder: None,
                ..*claim
            }),
        }
    }
    unowned.sort_by_key(|claim| claim.uid);
    let quotas = compute_quotas(agents, &holdings, claims.len());
    if quotas.is_empty() {
        // There is no taker: draining agents release their leases, the rest stays unowned.
        return holdings
            .into_values()
            .flatten()
            .map(|claim| claim.move_to(None))
            .collect();
    }
    let mut rooms: Vec<(Incarnation, usize)> = Vec::new();
    let mut pool = unowned;
    for (agent, held) in holdings {
        let quota = quotas.get(&agent).copied().unwrap_or(0);
        if held.len() > quota {
            pool.extend(take_excess(held, quota));
        } else if held.len() < quota {
            rooms.push((agent, quota - held.len()));
        }
    }
    assign_leases(pool, rooms)
}

/// Computes the number of leases of each taker. Those that hold most keep one more, which saves
/// moves.
fn compute_quotas(
    agents: &[LeaseCandidate],
    holdings: &BTreeMap<Incarnation, Vec<LeaseClaim>>,
    total: usize,
) -> BTreeMap<Incarnation, usize> {
    let held = |agent: &Incarnation| holdings.get(agent).map_or(0, Vec::len);
    let mut takers: Vec<Incarnation> = agents
        .iter()
        .filter(|a| !a.draining)
        .map(|a| a.incarnation)
        .collect();
    takers.sort_by_key(|agent| (std::cmp::Reverse(held(agent)), *agent));
    takers.dedup();
    let count = takers.len();
    let quota = |rank: usize| total / count + usize::from(rank < total % count);
    takers
        .into_iter()
        .enumerate()
        .map(|(rank, agent)| (agent, quota(rank)))
        .collect()
}

/// Picks the leases above `quota`: from the topic of which most are held, so that each topic stays
/// spread.
fn take_excess(held: Vec<LeaseClaim>, quota: usize) -> Vec<LeaseClaim> {
    let surplus = held.len().saturating_sub(quota);
    let mut topics: BTreeMap<usize, Vec<LeaseClaim>> = BTreeMap::new();
    for claim in held {
        topics.entry(claim.topic).or_default().push(claim);
    }
    for claims in topics.values_mut() {
        claims.sort_by_key(|claim| claim.uid);
    }
    // By the number held, the most last; the topic index makes the order the same on every agent.
    let mut by_count: std::collections::BTreeSet<(usize, usize)> = topics
        .iter()
        .map(|(topic, claims)| (claims.len(), *topic))
        .collect();
    let mut gone = Vec::with_capacity(surplus);
    while gone.len() < surplus {
        let Some((_, topic)) = by_count.pop_last() else {
            break;
        };
        let Some(claims) = topics.get_mut(&topic) else {
            break;
        };
        gone.extend(claims.pop());
        by_count.insert((claims.len(), topic));
    }
    gone
}

/// Assigns the pool to the agents with room, round robin, so that the leases of one topic spread
/// over agents.
fn assign_leases(pool: Vec<LeaseClaim>, mut rooms: Vec<(Incarnation, usize)>) -> Vec<LeaseMove> {
    let mut moves = Vec::with_capacity(pool.len());
    let mut turn = 0;
    for claim in pool {
        if rooms.is_empty() {
            break;
        }
        turn %= rooms.len();
        let (agent, left) = &mut rooms[turn];
        moves.push(claim.move_to(Some(*agent)));
        *left -= 1;
        if *left == 0 {
            rooms.remove(turn);
        } else {
            turn += 1;
        }
    }
    moves
}

#[cfg(test)]
mod tests;

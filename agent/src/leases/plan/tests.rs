//! Properties of the plan, checked against a model of the metadata store's conditional moves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Agents and leases as the metadata store would hold them.
#[derive(Debug, Clone)]
struct LeaseModel {
    agents: Vec<LeaseCandidate>,
    claims: Vec<LeaseClaim>,
}

impl LeaseModel {
    /// Creates a model in which `holders[i]` is the number of the agent that holds lease `i`; an
    /// unknown number means none.
    fn new(agents: usize, holders: &[usize]) -> Self {
        let agents: Vec<LeaseCandidate> = (0..agents)
            .map(|n| LeaseCandidate {
                incarnation: incarnation(n),
                draining: false,
            })
            .collect();
        let claims = holders.iter().enumerate().map(|(index, &holder)| LeaseClaim {
            uid: PartitionUid(index as i64),
            topic: index % 3,
            holder: (holder < agents.len()).then(|| incarnation(holder)),
            epoch: 0,
        });
        Self {
            claims: claims.collect(),
            agents,
        }
    }

    fn apply(&mut self, moves: &[LeaseMove]) -> usize {
        let live: BTreeSet<Incarnation> = self
            .agents
            .iter()
            .filter(|a| !a.draining)
            .map(|a| a.incarnation)
            .collect();
        let mut done = 0;
        for wish in moves {
            let claim = self
                .claims
                .iter_mut()
                .find(|claim| claim.uid == wish.partition)
                .unwrap();
            let fits = claim.holder == wish.from && claim.epoch == wish.epoch;
            if fits && wish.to.is_none_or(|to| live.contains(&to)) {
                claim.holder = wish.to;
                claim.epoch += i32::from(wish.to.is_some());
                done += 1;
            }
        }
        done
    }

    fn remove_agent(&mut self, agent: Incarnation) {
        self.agents.retain(|candidate| candidate.incarnation != agent);
        for claim in self.claims.iter_mut().filter(|claim| claim.holder == Some(agent)) {
            claim.holder = None;
        }
    }

    fn counts(&self) -> BTreeMap<Incarnation, usize> {
        let takers = self.agents.iter().filter(|a| !a.draining);
        let count = |agent| {
            self.claims
                .iter()
                .filter(|claim| claim.holder == Some(agent))
                .count()
        };
        takers.map(|a| (a.incarnation, count(a.incarnation))).collect()
    }

    fn assert_even(&self) {
        let counts = self.counts();
        if counts.is_empty() {
            return;
        }
        assert_eq!(
            counts.values().sum::<usize>(),
            self.claims.len(),
            "every lease has a holder"
        );
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert!(most - least <= 1, "{counts:?}");
        assert_eq!(*least, fair_share(&self.agents, &self.claims));
        assert_eq!(
            plan_all_moves(&self.agents, &self.claims),
            [],
            "what is even stays"
        );
    }

    /// Lets every agent in turn see the newest snapshot and carry out its part.
    fn run_all_agents(&mut self) -> usize {
        let mut done = 0;
        for _ in 0..3 {
            for agent in self.agents.clone() {
                let moves = plan_moves(&self.agents, &self.claims, agent.incarnation);
                done += self.apply(&moves);
            }
        }
        done
    }

    /// Returns the minimum number of moves that balance the leases.
    fn fewest_moves(&self) -> usize {
        let mut counts: Vec<usize> = self.counts().into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let Some(agents) = (!counts.is_empty()).then_some(counts.len()) else {
            return 0;
        };
        let total = self.claims.len();
        let quota = |rank: usize| total / agents + usize::from(rank < total % agents);
        counts
            .iter()
            .enumerate()
            .map(|(rank, count)| quota(rank).saturating_sub(*count))
            .sum()
    }
}

fn incarnation(number: usize) -> Incarnation {
    Incarnation(number as i64 + 1)
}

fn clusters() -> impl Strategy<Value = LeaseModel> {
    (1_usize..9).prop_flat_map(|agents| {
        proptest::collection::vec(0..agents + 2, 0..80)
            .prop_map(move |holders| LeaseModel::new(agents, &holders))
    })
}

proptest! {
    #[test]
    fn one_round_of_all_agents_evens_out_with_the_fewest_moves(mut cluster in clusters()) {
        let fewest = cluster.fewest_moves();
        let moves = plan_all_moves(&cluster.agents, &cluster.claims);
        prop_assert_eq!(moves.len(), fewest);
        prop_assert_eq!(cluster.apply(&moves), fewest);
        cluster.assert_even();
    }

    #[test]
    fn the_parts_of_the_agents_are_the_plan(cluster in clusters()) {
        let mut parts: Vec<LeaseMove> = Vec::new();
        for agent in &cluster.agents {
            parts.extend(plan_moves(&cluster.agents, &cluster.claims, agent.incarnation));
        }
        let mut whole = plan_all_moves(&cluster.agents, &cluster.claims);
        parts.sort_by_key(|part| part.partition);
        whole.sort_by_key(|part| part.partition);
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn the_order_of_the_snapshot_does_not_matter(cluster in clusters(), seed in any::<u64>()) {
        let mut shuffled = cluster.clone();
        shuffled.agents.sort_by_key(|agent| agent.incarnation.0.wrapping_mul(seed as i64 | 1));
        shuffled.claims.sort_by_key(|claim| claim.uid.0.wrapping_mul(seed as i64 | 1));
        let sorted = |mut moves: Vec<LeaseMove>| { moves.sort_by_key(|planned| planned.partition); moves };
        prop_assert_eq!(
            sorted(plan_all_moves(&cluster.agents, &cluster.claims)),
            sorted(plan_all_moves(&shuffled.agents, &shuffled.claims))
        );
    }

    #[test]
    fn agents_with_snapshots_of_different_age_agree_in_the_end(
        mut cluster in clusters(),
        steps in proptest::collection::vec((0_usize..9, any::<bool>()), 0..60),
    ) {
        // Each agent plans from the snapshot it saw last; others have changed the state since.
        let mut seen: Vec<LeaseModel> = vec![cluster.clone(); cluster.agents.len()];
        for (agent, looks) in steps {
            let agent = agent % cluster.agents.len();
            if looks {
                seen[agent] = cluster.clone();
            } else {
                let moves = plan_moves(&seen[agent].agents, &seen[agent].claims, incarnation(agent));
                cluster.apply(&moves);
            }
        }
        cluster.run_all_agents();
        cluster.assert_even();
    }

    #[test]
    fn a_join_moves_only_the_newcomers_share(agents in 1_usize..9, leases in 0_usize..200) {
        let mut cluster = LeaseModel::new(agents, &vec![usize::MAX; leases]);
        cluster.run_all_agents();
        cluster.assert_even();
        let newcomer = incarnation(agents);
        cluster.agents.push(LeaseCandidate { incarnation: newcomer, draining: false });
        let moves = plan_all_moves(&cluster.agents, &cluster.claims);
        prop_assert!(moves.iter().all(|planned| planned.to == Some(newcomer)));
        prop_assert_eq!(moves.len(), leases / (agents + 1));
        cluster.run_all_agents();
        cluster.assert_even();
    }

    #[test]
    fn a_crash_moves_only_what_the_dead_agent_held(agents in 2_usize..9, leases in 0_usize..200, dead in 0_usize..9) {
        let mut cluster = LeaseModel::new(agents, &vec![usize::MAX; leases]);
        cluster.run_all_agents();
        let dead = incarnation(dead % agents);
        let held = cluster.counts()[&dead];
        cluster.remove_agent(dead);
        let moves = plan_all_moves(&cluster.agents, &cluster.claims);
        prop_assert!(moves.iter().all(|planned| planned.from.is_none()));
        prop_assert_eq!(moves.len(), held);
        cluster.run_all_agents();
        cluster.assert_even();
    }

    #[test]
    fn who_drains_gives_everything_to_the_others(agents in 2_usize..9, leases in 0_usize..200, who in 0_usize..9) {
        let mut cluster = LeaseModel::new(agents, &vec![usize::MAX; leases]);
        cluster.run_all_agents();
        let who = incarnation(who % agents);
        let held = cluster.claims.iter().filter(|claim| claim.holder == Some(who)).count();
        for agent in cluster.agents.iter_mut().filter(|agent| agent.incarnation == who) {
            agent.draining = true;
        }
        prop_assert_eq!(plan_moves(&cluster.agents, &cluster.claims, who).len(), held);
        prop_assert_eq!(cluster.run_all_agents(), held, "nothing comes back while it drains");
        cluster.assert_even();
    }
}

#[test]
fn the_last_agent_releases_what_it_holds_when_it_drains() {
    let mut cluster = LeaseModel::new(1, &[0, 0, 9]);
    cluster.agents[0].draining = true;
    let moves = plan_moves(&cluster.agents, &cluster.claims, incarnation(0));
    assert_eq!(moves.len(), 2);
    assert!(
        moves
            .iter()
            .all(|planned| planned.from == Some(incarnation(0)) && planned.to.is_none())
    );
}

#[test]
fn a_newcomer_gets_a_part_of_every_topic() {
    let mut cluster = LeaseModel::new(1, &[0; 24]);
    cluster.agents.push(LeaseCandidate {
        incarnation: incarnation(1),
        draining: false,
    });
    cluster.run_all_agents();
    for topic in 0..3 {
        let moved = cluster
            .claims
            .iter()
            .filter(|claim| claim.topic == topic && claim.holder == Some(incarnation(1)));
        assert_eq!(moved.count(), 4);
    }
}

#[test]
fn slots_and_partitions_are_told_apart() {
    let record = |internal, uids: &[i64]| streamhouse_metadata::TopicEntry {
        topic_id: uuid::Uuid::nil(),
        name: String::new(),
        folder: String::new(),
        internal,
        config: BTreeMap::new(),
        created_at_ms: 0,
        partitions: uids
            .iter()
            .map(|&uid| PartitionEntry {
                uid: PartitionUid(uid),
                holder: None,
                epoch: 0,
            })
            .collect(),
    };
    let snapshot = ClusterSnapshot {
        topics: vec![record(true, &[1, 2]), record(false, &[3])],
        ..ClusterSnapshot::default()
    };
    let claims = ClaimsByKind::from_snapshot(&snapshot);
    assert_eq!((claims.slots.len(), claims.data.len()), (2, 1));
}

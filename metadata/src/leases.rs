//! Decides without I/O whether a lease may move and which agents get the partitions of a new topic.
//! Both stores call it after they locked the rows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
};

use crate::{Incarnation, LeaseMove, LeaseMoveOutcome, LogBounds, PartitionUid, rows::BoundsRow};

/// The locked row of a partition, as a move needs it.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct PartitionLeaseRow {
    id: i64,
    holder: Option<i64>,
    epoch: i32,
    #[sqlx(flatten)]
    bounds: BoundsRow,
}

/// The lease of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionLease {
    /// `None` also when the holder is sealed.
    pub(crate) holder: Option<Incarnation>,
    pub(crate) epoch: i32,
    bounds: LogBounds,
}

/// Everything that moves of leases change.
#[derive(Debug, Default)]
pub(crate) struct MovePlan {
    /// The outcomes in the order of the request.
    pub(crate) outcomes: Vec<LeaseMoveOutcome>,
    /// The leases to store.
    pub(crate) changed: BTreeMap<PartitionUid, PartitionLease>,
}

/// Plans moves. `agents` are the incarnations that are not sealed, with whether they are draining;
/// `rows` are the partitions that exist.
pub(crate) fn plan_moves(
    moves: &[LeaseMove],
    agents: &[(i64, bool)],
    rows: Vec<PartitionLeaseRow>,
) -> MovePlan {
    let live: HashSet<i64> = agents.iter().map(|(incarnation, _)| *incarnation).collect();
    let eligible = agents.iter().filter(|(_, draining)| !draining);
    let eligible: HashSet<Incarnation> = eligible.map(|agent| Incarnation(agent.0)).collect();
    let mut leases: HashMap<PartitionUid, PartitionLease> = HashMap::with_capacity(rows.len());
    for row in rows {
        let lease = PartitionLease {
            holder: row.holder.filter(|holder| live.contains(holder)).map(Incarnation),
            epoch: row.epoch,
            bounds: row.bounds.into(),
        };
        leases.insert(PartitionUid(row.id), lease);
    }
    let mut plan = MovePlan::default();
    for lease_move in moves {
        let Some(lease) = leases.get_mut(&lease_move.partition) else {
            plan.outcomes.push(LeaseMoveOutcome::Lost);
            continue;
        };
        let before = (lease.holder, lease.epoch);
        plan.outcomes.push(apply_move(lease, lease_move, &eligible));
        if (lease.holder, lease.epoch) != before {
            plan.changed.insert(lease_move.partition, *lease);
        }
    }
    plan
}

/// Decides one move and applies it to `lease`.
///
/// A repeated move returns the same outcome, because only that move leads from one epoch to the
/// next; so a call with an unknown outcome may be repeated. `eligible` are the incarnations that
/// may receive leases: neither sealed nor draining.
fn apply_move(
    lease: &mut PartitionLease,
    lease_move: &LeaseMove,
    eligible: &HashSet<Incarnation>,
) -> LeaseMoveOutcome {
    if lease_move.to.is_some_and(|to| !eligible.contains(&to)) {
        return LeaseMoveOutcome::Lost;
    }
    let raised = lease_move.epoch.checked_add(1);
    let done_before = match lease_move.to {
        Some(to) => {
            lease.holder == Some(to)
                && (Some(lease.epoch) == raised
                    || (lease.epoch == lease_move.epoch && lease_move.from == lease_move.to))
        }
        None => lease.holder.is_none() && lease.epoch == lease_move.epoch,
    };
    if done_before {
        return LeaseMoveOutcome::Moved {
            epoch: lease.epoch,
            bounds: lease.bounds,
        };
    }
    let (true, Some(raised)) = (
        lease.holder == lease_move.from && lease.epoch == lease_move.epoch,
        raised,
    ) else {
        return LeaseMoveOutcome::Lost;
    };
    lease.holder = lease_move.to;
    if lease_move.to.is_some() {
        lease.epoch = raised;
    }
    LeaseMoveOutcome::Moved {
        epoch: lease.epoch,
        bounds: lease.bounds,
    }
}

/// Returns a holder for each of `count` new partitions: always the one with the fewest partitions,
/// the older incarnation first among equals. Returns `None`s if there is no live agent. `loads` are
/// the eligible incarnations with the numbers of their partitions.
pub(crate) fn assign_holders(count: usize, loads: Vec<(i64, i64)>) -> Vec<Option<i64>> {
    let mut heap: BinaryHeap<_> = loads
        .into_iter()
        .map(|(agent, load)| Reverse((load, agent)))
        .collect();
    (0..count)
        .map(|_| {
            let Reverse((load, agent)) = heap.pop()?;
            heap.push(Reverse((load + 1, agent)));
            Some(agent)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn row(holder: Option<Incarnation>, epoch: i32) -> PartitionLease {
        PartitionLease {
            holder,
            epoch,
            bounds: LogBounds::default(),
        }
    }

    fn lease_move(from: Option<Incarnation>, epoch: i32, to: Option<Incarnation>) -> LeaseMove {
        LeaseMove {
            partition: crate::PartitionUid(1),
            from,
            epoch,
            to,
        }
    }

    fn epoch_after(mut row: PartitionLease, lease_move: LeaseMove) -> Option<i32> {
        match apply_move(&mut row, &lease_move, &HashSet::from([A, B])) {
            LeaseMoveOutcome::Moved { epoch, .. } => Some(epoch),
            LeaseMoveOutcome::Lost => None,
        }
    }

    #[test]
    fn a_move_needs_the_holder_and_the_epoch_that_it_names() {
        assert_eq!(
            epoch_after(row(Some(A), 3), lease_move(Some(A), 3, Some(B))),
            Some(4)
        );
        assert_eq!(
            epoch_after(row(Some(A), 3), lease_move(Some(A), 2, Some(B))),
            None
        );
        assert_eq!(epoch_after(row(Some(A), 3), lease_move(None, 3, Some(B))), None);
        assert_eq!(epoch_after(row(None, 0), lease_move(None, 0, Some(A))), Some(1));
    }

    #[test]
    fn a_release_keeps_the_epoch_and_the_next_holder_raises_it() {
        assert_eq!(
            epoch_after(row(Some(A), 3), lease_move(Some(A), 3, None)),
            Some(3)
        );
        assert_eq!(epoch_after(row(None, 3), lease_move(None, 3, Some(A))), Some(4));
    }

    #[test]
    fn a_move_asked_for_again_gives_the_same_answer() {
        assert_eq!(
            epoch_after(row(Some(B), 4), lease_move(Some(A), 3, Some(B))),
            Some(4)
        );
        assert_eq!(
            epoch_after(row(Some(A), 4), lease_move(Some(A), 3, Some(B))),
            None
        );
        assert_eq!(epoch_after(row(None, 3), lease_move(Some(A), 3, None)), Some(3));
    }

    #[test]
    fn a_move_to_the_holder_itself_keeps_the_epoch() {
        assert_eq!(
            epoch_after(row(Some(A), 3), lease_move(Some(A), 3, Some(A))),
            Some(3)
        );
    }

    #[test]
    fn nothing_moves_to_a_life_that_is_over_or_beyond_the_last_epoch() {
        assert_eq!(
            epoch_after(row(Some(A), 3), lease_move(Some(A), 3, Some(Incarnation(9)))),
            None
        );
        assert_eq!(
            epoch_after(row(Some(A), i32::MAX), lease_move(Some(A), i32::MAX, Some(B))),
            None
        );
    }

    #[test]
    fn partitions_go_to_the_least_loaded() {
        assert_eq!(
            assign_holders(4, vec![(A.0, 2), (B.0, 0)]),
            vec![Some(B.0), Some(B.0), Some(A.0), Some(B.0)]
        );
        assert_eq!(assign_holders(2, vec![]), vec![None, None]);
    }
}

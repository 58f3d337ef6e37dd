//! Decides without I/O whether a lease may move and which agents get the partitions of a new topic.
//! Both stores call it after they locked the rows.

use std::{cmp::Reverse, collections::BinaryHeap, collections::HashSet};

use crate::{Incarnation, LeaseMove, LeaseMoveOutcome, LogBounds};

/// The locked row of a partition, as a move needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionLeaseRow {
    /// `None` also when the holder is sealed.
    pub(crate) holder: Option<Incarnation>,
    pub(crate) epoch: i32,
    pub(crate) bounds: LogBounds,
}

/// Decides one move and applies it to `row`.
///
/// A repeated move returns the same outcome, because only that move leads from one epoch to the
/// next; so a call with an unknown outcome may be repeated. `eligible` are the incarnations that
/// may receive leases: neither sealed nor draining.
pub(crate) fn apply_move(
    row: &mut PartitionLeaseRow,
    lease_move: &LeaseMove,
    eligible: &HashSet<Incarnation>,
) -> LeaseMoveOutcome {
    if lease_move.to.is_some_and(|to| !eligible.contains(&to)) {
        return LeaseMoveOutcome::Lost;
    }
    let raised = lease_move.epoch.checked_add(1);
    let done_before = match lease_move.to {
        Some(to) => {
            row.holder == Some(to)
                && (Some(row.epoch) == raised
                    || (row.epoch == lease_move.epoch && lease_move.from == lease_move.to))
        }
        None => row.holder.is_none() && row.epoch == lease_move.epoch,
    };
    if done_before {
        return LeaseMoveOutcome::Moved {
            epoch: row.epoch,
            bounds: row.bounds,
        };
    }
    let (true, Some(raised)) = (
        row.holder == lease_move.from && row.epoch == lease_move.epoch,
        raised,
    ) else {
        return LeaseMoveOutcome::Lost;
    };
    row.holder = lease_move.to;
    if lease_move.to.is_some() {
        row.epoch = raised;
    }
    LeaseMoveOutcome::Moved {
        epoch: row.epoch,
        bounds: row.bounds,
    }
}

/// Returns a holder for each of `count` new partitions: always the one with the fewest partitions,
/// the older incarnation first among equals. Returns `None`s if there is no live agent.
pub(crate) fn assign_holders(count: usize, loads: Vec<(Incarnation, i64)>) -> Vec<Option<Incarnation>> {
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

    fn row(holder: Option<Incarnation>, epoch: i32) -> PartitionLeaseRow {
        PartitionLeaseRow {
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

    fn epoch_after(mut row: PartitionLeaseRow, lease_move: LeaseMove) -> Option<i32> {
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
            assign_holders(4, vec![(A, 2), (B, 0)]),
            vec![Some(B), Some(B), Some(A), Some(B)]
        );
        assert_eq!(assign_holders(2, vec![]), vec![None, None]);
    }
}

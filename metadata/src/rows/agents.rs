//! Rows of `agents`.

use std::{collections::BTreeSet, time::Duration};

use super::{millis, to_unsigned};
use crate::{AgentEntry, Error, Incarnation, Result, SilenceThreshold};

/// An incarnation that is not sealed.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct AgentRow {
    incarnation: i64,
    node_id: i32,
    agent_id: String,
    grpc_address: String,
    http_address: String,
    kafka_address: String,
    zone: String,
    version: String,
    draining: bool,
}

impl From<AgentRow> for AgentEntry {
    fn from(row: AgentRow) -> Self {
        Self {
            incarnation: Incarnation(row.incarnation),
            node_id: row.node_id,
            agent_id: row.agent_id,
            grpc_address: row.grpc_address,
            http_address: row.http_address,
            kafka_address: row.kafka_address,
            zone: row.zone,
            version: row.version,
            draining: row.draining,
        }
    }
}

/// Returns the smallest node id, counted from 1, that is not taken.
pub(crate) fn smallest_free_node_id(taken: &[i32]) -> i32 {
    let taken: BTreeSet<i32> = taken.iter().copied().collect();
    // One more number than there are ids, so one of them is free.
    let numbers = 1..=i32::try_from(taken.len()).unwrap_or(i32::MAX - 1) + 1;
    numbers.into_iter().find(|id| !taken.contains(id)).unwrap_or(1)
}

/// Converts rows of sealed incarnations with the milliseconds since they were sealed.
pub(crate) fn unswept_incarnations(rows: Vec<(i64, i64)>) -> Result<Vec<(Incarnation, Duration)>> {
    let convert = |(incarnation, sealed_for)| {
        let sealed_for = Duration::from_millis(to_unsigned("a time", sealed_for)?);
        Ok((Incarnation(incarnation), sealed_for))
    };
    rows.into_iter().map(convert).collect()
}

/// Returns the milliseconds without a renewal after which an incarnation may be sealed; `None` for
/// half of its lease.
pub(crate) fn silence_ms(silence: SilenceThreshold) -> Option<i64> {
    match silence {
        SilenceThreshold::AtLeast(duration) => Some(millis(duration)),
        SilenceThreshold::HalfLease => None,
    }
}

/// Returns whether an incarnation must be marked as draining. `draining` is `None` if it is sealed
/// or unknown.
pub(crate) fn needs_drain(incarnation: Incarnation, draining: Option<bool>) -> Result<bool> {
    match draining {
        Some(draining) => Ok(!draining),
        None => Err(Error::Sealed(incarnation)),
    }
}

/// Checks that an incarnation is sealed. `sealed` is `None` if it is unknown.
pub(crate) fn check_sealed(incarnation: Incarnation, sealed: Option<bool>) -> Result<()> {
    if sealed == Some(true) {
        Ok(())
    } else {
        Err(Error::NotSealed(incarnation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_free_node_id_fills_the_first_gap() {
        for (taken, free) in [
            (&[][..], 1),
            (&[1, 2, 3], 4),
            (&[3, 1], 2),
            (&[2, 3], 1),
            (&[57, 1], 2),
            (&[-4, 0, 1], 2),
            (&[1, 1, 2], 3),
        ] {
            assert_eq!(smallest_free_node_id(taken), free, "{taken:?}");
        }
    }
}

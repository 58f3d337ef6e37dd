//! The row of `cluster`.

use super::to_unsigned;
use crate::{ClusterState, Error, Incarnation, Result, Timeline};

/// Converts the number of the timeline and the greatest numbers allocated so far.
pub(crate) fn timeline(number: i64, incarnation: i64, producer_id: i64) -> Result<Timeline> {
    Ok(Timeline {
        number: to_unsigned("the timeline", number)?,
        incarnation: Incarnation(incarnation),
        producer_id,
    })
}

/// Converts the id of the cluster, whether a divergence was reported, and whether a user topic
/// exists.
pub(crate) fn cluster_state(
    (cluster_id, diverged, has_topics): (String, bool, bool),
    timeline: Timeline,
) -> ClusterState {
    ClusterState {
        cluster_id,
        timeline,
        diverged,
        in_use: has_topics || timeline.incarnation.0 > 0,
    }
}

/// Refuses a store with a reported divergence.
pub(crate) fn check_not_diverged(diverged: bool) -> Result<()> {
    if diverged { Err(Error::Diverged) } else { Ok(()) }
}

//! Rows as both stores read them, and the rules that depend only on rows: lease checks, the
//! assembly of topics, the conversion to the types of the trait. No SQL and no I/O.
//!
//! A row type is named after its table or its use; its fields are the columns of the statements.

mod agents;
mod cluster;
mod groups;
mod log;
mod partitions;
mod security;
mod topics;

use std::time::Duration;

pub(crate) use self::{
    agents::{AgentRow, check_sealed, needs_drain, silence_ms, smallest_free_node_id, unswept_incarnations},
    cluster::{check_not_diverged, cluster_state, timeline},
    groups::{
        CommittedOffsetRow, GroupColumns, check_commit_generation, check_put_generation, check_slot,
        group_lag, offset_outcome, persisted_group,
    },
    log::{MAX_SPANS, SpanRow},
    partitions::{BoundsRow, LeasedPartitionRow, check_lease},
    security::{
        OwnedRow, SecurityColumns, StoredSecurity, acl_rows, agent_secret, entity_name_text, quota_rows,
    },
    topics::{
        OverviewRow, TopicPartitionRow, TopicRow, assemble_topics, build_overview, config_json,
        initial_partition_count, plan_topic_change, topic_owner, topic_to_delete,
    },
};
use crate::{Error, Result};

/// The longest duration that is stored, in milliseconds: a hundred years.
const MAX_DURATION_MS: i64 = 100 * 365 * 86_400_000;

/// Converts a duration to whole milliseconds, limited so that adding it to a time cannot overflow.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(MAX_DURATION_MS)
        .min(MAX_DURATION_MS)
}

/// Converts a number for the database.
pub(crate) fn to_signed(what: &str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is too large to store")))
}

/// Converts a number of the database back; the inverse of [`to_signed`].
pub(crate) fn to_unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is negative")))
}

/// Converts the maximum number of rows that a caller wants.
pub(crate) fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

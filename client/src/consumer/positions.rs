//! Looks up positions: the group's committed offset first, then by `auto_offset_reset` or as a seek
//! requested.

use std::{collections::BTreeMap, time::Duration};

use super::{
    AutoOffsetReset, ConsumerShared,
    assignment::{FetchPosition, PartitionRequest},
};
use crate::{
    error::{Error, Result},
    queries::{CommittedOffset, OffsetSpec, fetch_offsets_each, list_offsets_each},
    retry::Deadline,
};

/// Result of a lookup: a position and, if it is the group's, the committed offset.
pub(super) struct PositionLookup {
    pub(super) wanted: PartitionRequest,
    pub(super) found: Result<(FetchPosition, Option<i64>)>,
}

/// Returns the position that `auto_offset_reset` selects.
pub(super) fn reset_position(reset: AutoOffsetReset) -> Option<FetchPosition> {
    match reset {
        AutoOffsetReset::Earliest => Some(FetchPosition::Lookup(OffsetSpec::Earliest)),
        AutoOffsetReset::Latest => Some(FetchPosition::Lookup(OffsetSpec::Latest)),
        AutoOffsetReset::None => None,
    }
}

/// Looks up positions, each independently of the others' errors.
pub(super) async fn look_up_positions(
    shared: &ConsumerShared,
    wanted: Vec<PartitionRequest>,
) -> Vec<PositionLookup> {
    let (by_commit, by_offset): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|wanted| wanted.position == FetchPosition::Committed);
    let mut lookups = look_up_committed(shared, by_commit).await;
    lookups.extend(look_up_offsets(shared, by_offset).await);
    lookups
}

async fn look_up_committed(shared: &ConsumerShared, wanted: Vec<PartitionRequest>) -> Vec<PositionLookup> {
    let asked: Vec<_> = wanted
        .iter()
        .map(|wanted| (wanted.key.clone(), wanted.topic_id.to_string()))
        .collect();
    let committed = match &shared.config.group {
        Some(group) if !asked.is_empty() => {
            fetch_offsets_each(&shared.client, group, &asked, shared.api_deadline()).await
        }
        _ => Ok(BTreeMap::new()),
    };
    let found = |wanted: PartitionRequest| {
        let found = match &committed {
            Err(error) => Err(error.clone()),
            Ok(committed) => match committed.get(&wanted.key).cloned().transpose() {
                Ok(committed) => initial_position(shared, &wanted, committed.as_ref()),
                Err(error) => Err(error.into()),
            },
        };
        PositionLookup { wanted, found }
    };
    wanted.into_iter().map(found).collect()
}

/// Returns the committed offset; otherwise, for a partition added while its topic was subscribed,
/// the beginning; otherwise the position by `auto_offset_reset`.
fn initial_position(
    shared: &ConsumerShared,
    wanted: &PartitionRequest,
    committed: Option<&CommittedOffset>,
) -> Result<(FetchPosition, Option<i64>)> {
    if let Some(committed) = committed {
        return Ok((FetchPosition::At(committed.offset), Some(committed.offset)));
    }
    match reset_position(shared.config.auto_offset_reset) {
        Some(_) if shared.assignment.lock().is_new_partition(wanted) => {
            Ok((FetchPosition::Lookup(OffsetSpec::Earliest), None))
        }
        Some(position) => Ok((position, None)),
        None => Err(Error::NoOffset {
            partition: wanted.key.clone(),
        }),
    }
}

/// The end of a partition.
pub(super) struct PartitionEnd {
    pub(super) wanted: PartitionRequest,
    pub(super) end: i64,
}

/// Finds the ends of partitions, as far as possible within the time limit.
pub(super) async fn find_ends(
    shared: &ConsumerShared,
    wanted: Vec<PartitionRequest>,
    within: Duration,
) -> Vec<PartitionEnd> {
    let query = |wanted: &PartitionRequest| {
        let id = wanted.topic_id.to_string();
        (wanted.key.clone(), (OffsetSpec::Latest, id))
    };
    let queries = wanted.iter().map(query).collect();
    match list_offsets_each(&shared.client, queries, Deadline::after(within)).await {
        Ok(ends) => {
            let found = wanted.into_iter().filter_map(|wanted| {
                let end = ends.get(&wanted.key)?.as_ref().ok()?.offset;
                Some(PartitionEnd { wanted, end })
            });
            found.collect()
        }
        Err(error) => {
            tracing::debug!(%error, "cannot find the ends of partitions that are not fetched; their lag is not updated");
            Vec::new()
        }
    }
}

async fn look_up_offsets(shared: &ConsumerShared, wanted: Vec<PartitionRequest>) -> Vec<PositionLookup> {
    let query = |wanted: &PartitionRequest| match wanted.position {
        FetchPosition::Lookup(at) => (wanted.key.clone(), (at, wanted.topic_id.to_string())),
        // Not requested here: the answer is ignored.
        FetchPosition::At(_) | FetchPosition::Committed => (
            wanted.key.clone(),
            (OffsetSpec::Latest, wanted.topic_id.to_string()),
        ),
    };
    if wanted.is_empty() {
        return Vec::new();
    }
    let answer = list_offsets_each(
        &shared.client,
        wanted.iter().map(query).collect(),
        shared.api_deadline(),
    )
    .await;
    let found = |wanted: PartitionRequest| {
        let found = match &answer {
            Err(error) => Err(error.clone()),
            Ok(offsets) => match offsets.get(&wanted.key) {
                Some(Ok(at)) => Ok((FetchPosition::At(at.offset), None)),
                Some(Err(error)) => Err(error.clone().into()),
                None => Err(Error::State("the partition is missing in the answer".into())),
            },
        };
        PositionLookup { wanted, found }
    };
    wanted.into_iter().map(found).collect()
}

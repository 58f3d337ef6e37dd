//! Consumer groups for the console: all of them with their lag, and one with its members and its
//! progress in every partition.
//!
//! The lag of the list covers the partitions with a committed offset; the page of one group also
//! counts assigned partitions without a committed offset, as `streamhouse group describe` does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State, http::Uri};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use streamhouse_core::{
    Error, PartitionUid,
    consumer_protocol::{ConsumerAssignment, PROTOCOL_TYPE},
    protocol::v1,
};
use streamhouse_metadata::{CommittedOffset, LogBounds};

use super::{
    CACHE_TTL, ConsoleDeps, ConsoleState,
    api::{ApiResult, PageRange, name_contains, parse_query},
    clients::SoftwareDirectory,
    new_cache,
    ttl_cache::TtlCache,
};

/// Rows of groups in one response, default and maximum: each costs a query.
const GROUP_ROWS: (usize, usize) = (25, 50);
/// Rows of partitions in one response, default and maximum.
const PARTITION_ROWS: (usize, usize) = (50, 200);
/// Maximum number of members shown of one group.
const MAX_MEMBERS_SHOWN: usize = 200;
/// Groups whose offsets are read concurrently.
const CONCURRENT_OFFSET_READS: usize = 4;

/// Responses that concurrent requests share.
#[derive(Debug)]
pub(super) struct GroupPageCache {
    listing: TtlCache<(), Vec<v1::GroupListing>>,
    /// By filter and range.
    pages: TtlCache<(String, PageRange), GroupListPage>,
    details: TtlCache<String, GroupWithProgress>,
}

impl Default for GroupPageCache {
    fn default() -> Self {
        Self {
            listing: new_cache(CACHE_TTL),
            pages: new_cache(CACHE_TTL),
            details: new_cache(CACHE_TTL),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupListQuery {
    #[serde(default)]
    filter: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupListPage {
    total: usize,
    matched: usize,
    #[serde(flatten)]
    part: PageRange,
    groups: Vec<GroupRow>,
}

#[derive(Debug, Serialize)]
struct GroupRow {
    group_id: String,
    /// The protocol of its members.
    protocol: String,
    state: String,
    members: u32,
    /// Partitions with a committed offset.
    partitions: usize,
    /// Records behind, summed over those partitions.
    lag: i64,
    /// `None` if the group never committed.
    last_commit_ms: Option<i64>,
}

pub(super) async fn list_groups(
    State(console): State<Arc<ConsoleState>>,
    uri: Uri,
) -> ApiResult<Arc<GroupListPage>> {
    let wanted: GroupListQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, GROUP_ROWS.0, GROUP_ROWS.1);
    let key = (wanted.filter, part);
    let page = console
        .groups
        .pages
        .get_or_fetch(&key, load_group_page(&console, &key.0, part));
    Ok(Json(page.await?))
}

async fn load_group_page(
    console: &ConsoleState,
    filter: &str,
    part: PageRange,
) -> Result<GroupListPage, Error> {
    let ask = async {
        let mut groups = console.deps.coordinator.list_groups().await?.groups;
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(groups)
    };
    let all = console.groups.listing.get_or_fetch(&(), ask).await?;
    let matched = || all.iter().filter(|group| name_contains(&group.group_id, filter));
    let store = &console.deps.metadata;
    let shown = stream::iter(part.select(matched().cloned()))
        .map(|group| async move {
            let offsets = store.fetch_offsets(&group.group_id).await?;
            Ok::<_, Error>((group, offsets))
        })
        .buffered(CONCURRENT_OFFSET_READS)
        .try_collect::<Vec<_>>()
        .await?;
    let committed = shown.iter().flat_map(|(_, offsets)| offsets);
    let bounds = read_bounds(&console.deps, committed.map(|offset| offset.uid)).await?;
    let groups = shown.iter().map(|(group, offsets)| GroupRow {
        group_id: group.group_id.clone(),
        protocol: group.group_type.clone(),
        state: group.state.clone(),
        members: group.members,
        partitions: offsets.len(),
        lag: offsets
            .iter()
            .map(|at| compute_lag(bounds.get(&at.uid), Some(at.offset)))
            .sum(),
        last_commit_ms: offsets.iter().map(|offset| offset.committed_at_ms).max(),
    });
    Ok(GroupListPage {
        total: all.len(),
        matched: matched().count(),
        part,
        groups: groups.collect(),
    })
}

async fn read_bounds(
    deps: &ConsoleDeps,
    partitions: impl Iterator<Item = PartitionUid>,
) -> Result<HashMap<PartitionUid, LogBounds>, Error> {
    let partitions: BTreeSet<PartitionUid> = partitions.collect();
    let partitions: Vec<PartitionUid> = partitions.into_iter().collect();
    if partitions.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(deps.metadata.bounds(&partitions).await?.into_iter().collect())
}

/// Returns the number of records between the group's next offset and the high watermark; 0 if the
/// partition was deleted.
fn compute_lag(bounds: Option<&LogBounds>, committed: Option<i64>) -> i64 {
    let Some(bounds) = bounds else { return 0 };
    let next = committed.unwrap_or(bounds.log_start).max(bounds.log_start);
    (bounds.high_watermark - next).max(0)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupDetailsQuery {
    id: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

/// A group with its progress in all partitions.
#[derive(Debug)]
struct GroupWithProgress {
    group: v1::GroupDescription,
    places: Vec<PartitionProgress>,
}

/// The progress of a group in one partition.
#[derive(Debug, Clone, Serialize)]
struct PartitionProgress {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    committed_at_ms: Option<i64>,
    /// `None` if the partition was deleted.
    high_watermark: Option<i64>,
    lag: i64,
    /// The member that the partition is assigned to; empty if there is none.
    member_id: String,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupDetails {
    group_id: String,
    /// The protocol of its members.
    protocol: String,
    state: String,
    generation: i32,
    assignor: String,
    /// Empty while no agent coordinates the group.
    coordinator: String,
    lag: i64,
    members_total: usize,
    members: Vec<GroupMemberRow>,
    /// Total number of partitions.
    total: usize,
    #[serde(flatten)]
    part: PageRange,
    partitions: Vec<PartitionProgress>,
}

#[derive(Debug, Serialize)]
struct GroupMemberRow {
    member_id: String,
    group_instance_id: String,
    client_id: String,
    client_host: String,
    /// Name and version of a Kafka client; empty if it is not connected to the serving agent.
    software: String,
    partitions: usize,
}

pub(super) async fn get_group(State(console): State<Arc<ConsoleState>>, uri: Uri) -> ApiResult<GroupDetails> {
    let wanted: GroupDetailsQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, PARTITION_ROWS.0, PARTITION_ROWS.1);
    let whole = console
        .groups
        .details
        .get_or_fetch(&wanted.id, load_group(&console, &wanted.id))
        .await?;
    let GroupWithProgress { group, places } = whole.as_ref();
    let software = SoftwareDirectory::new(&console.deps.metrics);
    let members = group
        .members
        .iter()
        .take(MAX_MEMBERS_SHOWN)
        .map(|member| GroupMemberRow {
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            software: software.find(&member.client_id, &member.client_host),
            partitions: decode_assignment(group, member).partitions.len(),
        });
    Ok(Json(GroupDetails {
        group_id: group.group_id.clone(),
        protocol: group.group_type.clone(),
        state: group.state.clone(),
        generation: group.generation,
        assignor: group.protocol_name.clone(),
        coordinator: group
            .coordinator
            .as_ref()
            .map(|leader| leader.agent_id.clone())
            .unwrap_or_default(),
        lag: places.iter().map(|place| place.lag).sum(),
        members_total: group.members.len(),
        members: members.collect(),
        total: places.len(),
        part,
        partitions: part.select(places.iter().cloned()),
    }))
}

/// Decodes a member's assignment; empty if the group uses an unknown protocol type.
fn decode_assignment(group: &v1::GroupDescription, member: &v1::GroupMember) -> ConsumerAssignment {
    if group.protocol_type != PROTOCOL_TYPE {
        return ConsumerAssignment::default();
    }
    ConsumerAssignment::decode(member.assignment.clone()).unwrap_or_default()
}

/// A partition of a group before its log bounds are read.
#[derive(Debug, Default)]
struct GroupPartition {
    /// `None` if the partition does not exist.
    uid: Option<PartitionUid>,
    committed: Option<CommittedOffset>,
    reader: String,
}

async fn load_group(console: &ConsoleState, id: &str) -> Result<GroupWithProgress, Error> {
    let group = console.deps.coordinator.describe_or_load(id).await?;
    let committed = console.deps.metadata.fetch_offsets(id).await?;
    let view = console.deps.directory.view();
    let mut partitions: BTreeMap<(String, i32), GroupPartition> = BTreeMap::new();
    for offset in committed {
        let found = GroupPartition {
            uid: Some(offset.uid),
            reader: String::new(),
            committed: Some(offset.clone()),
        };
        partitions.insert((offset.topic, offset.partition), found);
    }
    for member in &group.members {
        for assigned in decode_assignment(&group, member).partitions {
            let record = view.partition(&assigned.topic, assigned.partition);
            let found = partitions
                .entry((assigned.topic, assigned.partition))
                .or_insert_with(|| GroupPartition {
                    uid: record.map(|record| record.uid),
                    ..GroupPartition::default()
                });
            found.reader.clone_from(&member.member_id);
        }
    }
    let bounds = read_bounds(&console.deps, partitions.values().filter_map(|found| found.uid)).await?;
    let places = partitions.into_iter().map(|((topic, partition), found)| {
        let bounds = found.uid.and_then(|uid| bounds.get(&uid));
        let committed = found.committed.as_ref();
        PartitionProgress {
            topic,
            partition,
            lag: compute_lag(bounds, committed.map(|at| at.offset)),
            committed: committed.map(|at| at.offset),
            committed_at_ms: committed.map(|at| at.committed_at_ms),
            high_watermark: bounds.map(|bounds| bounds.high_watermark),
            member_id: found.reader,
        }
    });
    Ok(GroupWithProgress {
        group,
        places: places.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_what_can_still_be_read() {
        let bounds = LogBounds {
            log_start: 10,
            high_watermark: 25,
            ..LogBounds::default()
        };
        for (committed, behind) in [
            (None, 15),
            (Some(0), 15),
            (Some(12), 13),
            (Some(25), 0),
            (Some(99), 0),
        ] {
            assert_eq!(compute_lag(Some(&bounds), committed), behind, "{committed:?}");
        }
        assert_eq!(compute_lag(None, Some(3)), 0);
    }
}

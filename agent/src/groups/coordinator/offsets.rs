//! Commits and fetches offsets. Offsets live in the store only; it checks lease and generation in
//! the transaction that writes them (INV-C1).

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode, protocol::v1};
use streamhouse_metadata::{CommittedOffset, OffsetCommit, OffsetCommitOutcome, OffsetToCommit};

use super::{
    GroupCoordinator,
    change::rebalance_in_progress,
    slot::{CoordinatorSlot, GroupEntry, GroupWriteError},
};
use crate::groups::{any_group::AnyGroup, consumer::PartitionKey, limits};

/// How often a commit of a member of the consumer protocol is tried while the group epoch rises.
const COMMIT_ATTEMPTS: usize = 5;

/// Offsets of a request, with the results of those that cannot be committed already set.
pub(super) struct ResolvedOffsets {
    results: Vec<v1::CommitOffsetResult>,
    /// With their indexes in `results`.
    offsets: Vec<(usize, OffsetToCommit)>,
}

impl ResolvedOffsets {
    /// Returns the offsets that can be committed.
    pub(super) fn offsets_to_commit(&self) -> Vec<OffsetToCommit> {
        self.offsets.iter().map(|(_, offset)| offset.clone()).collect()
    }

    /// Returns the results, given the store's outcomes.
    pub(super) fn into_results(mut self, outcomes: &[OffsetCommitOutcome]) -> Vec<v1::CommitOffsetResult> {
        for ((place, _), outcome) in self.offsets.iter().zip(outcomes) {
            if *outcome == OffsetCommitOutcome::UnknownPartition {
                self.results[*place].error = Some(unknown_partition().into());
            }
        }
        self.results
    }
}

impl GroupCoordinator {
    /// Commits offsets for a member, or, with generation -1 and no member id, for a consumer
    /// without membership.
    ///
    /// # Errors
    /// ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID or REBALANCE_IN_PROGRESS if the caller may not commit.
    /// Each offset has a result of its own.
    pub async fn commit_offsets(
        &self,
        request: v1::CommitOffsetsRequest,
    ) -> Result<v1::CommitOffsetsResponse, Error> {
        limits::check_group_id(&request.group_id)?;
        let slot = self.serving_slot(&request.group_id)?;
        let resolved = self.resolve_offsets(&request.offsets).await?;
        let cell = slot.get_or_create_entry(&request.group_id);
        let offsets = resolved.offsets_to_commit();
        // Runs on a task of its own: a later commit must not overtake this one, even if the caller
        // is cancelled.
        let commit = tokio::spawn(async move { commit_in_order(&slot, &cell, &request, offsets).await });
        let outcomes = commit.await.map_err(|_| unexpected_failure())??;
        Ok(v1::CommitOffsetsResponse {
            offsets: resolved.into_results(&outcomes),
        })
    }

    /// Returns the committed offsets of a group: for the named partitions, or all. Any agent can
    /// answer.
    ///
    /// # Errors
    /// Fails if the group id is invalid, too many partitions are named, or the metadata store
    /// fails.
    pub async fn fetch_offsets(
        &self,
        request: &v1::FetchOffsetsRequest,
    ) -> Result<v1::FetchOffsetsResponse, Error> {
        limits::check_group_id(&request.group_id)?;
        self.deps().limits.check_offset_count(request.partitions.len())?;
        let committed = self.deps().store.fetch_offsets(&request.group_id).await?;
        if request.partitions.is_empty() {
            return Ok(v1::FetchOffsetsResponse {
                offsets: committed.into_iter().map(to_committed_offset).collect(),
            });
        }
        let committed: std::collections::HashMap<(String, i32), CommittedOffset> = committed
            .into_iter()
            .map(|offset| ((offset.topic.clone(), offset.partition), offset))
            .collect();
        let meant = self.check_topic_ids(&request.partitions).await;
        let wanted = request.partitions.iter().zip(meant).map(|(wanted, other)| {
            let key = (wanted.topic.clone(), wanted.partition);
            match (other, committed.get(&key)) {
                (None, Some(offset)) => to_committed_offset(offset.clone()),
                (error, _) => v1::CommittedOffset {
                    error: error.map(Into::into),
                    ..no_committed_offset(wanted)
                },
            }
        });
        Ok(v1::FetchOffsetsResponse {
            offsets: wanted.collect(),
        })
    }

    /// Returns for each partition the error if its topic id is not that of the current topic of
    /// this name.
    async fn check_topic_ids(&self, wanted: &[v1::TopicPartition]) -> Vec<Option<Error>> {
        let cluster = &self.deps().cluster;
        let other = |wanted: &v1::TopicPartition| {
            if wanted.topic_id.is_empty() {
                return None;
            }
            let found = cluster.resolve_partition(&wanted.topic, &wanted.topic_id, wanted.partition);
            found
                .err()
                .filter(|error| error.code() == ErrorCode::UnknownTopicId)
        };
        if wanted.iter().any(|wanted| other(wanted).is_some()) {
            cluster.refresh().await;
        }
        wanted.iter().map(other).collect()
    }

    /// Resolves the partitions, refreshing the metadata once for unknown ones, and checks each
    /// offset.
    pub(super) async fn resolve_offsets(
        &self,
        offsets: &[v1::CommitOffset],
    ) -> Result<ResolvedOffsets, Error> {
        let (cluster, limits) = (&self.deps().cluster, &self.deps().limits);
        limits.check_offset_count(offsets.len())?;
        if offsets.iter().any(|offset| {
            cluster
                .resolve_partition(&offset.topic, &offset.topic_id, offset.partition)
                .is_err()
        }) {
            cluster.refresh().await;
        }
        let mut resolved = ResolvedOffsets {
            results: Vec::with_capacity(offsets.len()),
            offsets: Vec::new(),
        };
        for (place, offset) in offsets.iter().enumerate() {
            let checked = limits
                .check_offset(offset)
                .and_then(|()| cluster.resolve_partition(&offset.topic, &offset.topic_id, offset.partition));
            let error = match checked {
                Ok(partition) => {
                    let to_commit = OffsetToCommit {
                        partition,
                        offset: offset.offset,
                        leader_epoch: offset.leader_epoch,
                        metadata: offset.metadata.clone(),
                    };
                    resolved.offsets.push((place, to_commit));
                    None
                }
                Err(error) => Some(error.into()),
            };
            let (topic, partition) = (offset.topic.clone(), offset.partition);
            resolved.results.push(v1::CommitOffsetResult {
                topic,
                partition,
                error,
            });
        }
        Ok(resolved)
    }
}

async fn commit_in_order(
    slot: &Arc<CoordinatorSlot>,
    cell: &Arc<GroupEntry>,
    request: &v1::CommitOffsetsRequest,
    offsets: Vec<OffsetToCommit>,
) -> Result<Vec<OffsetCommitOutcome>, Error> {
    let _turn = cell.commits.lock().await;
    let mut commit = OffsetCommit {
        group_id: cell.id.to_string(),
        slot: slot.number,
        generation: None,
        offsets,
    };
    for _ in 0..COMMIT_ATTEMPTS {
        commit.generation = check_commit(slot, cell, request).await?;
        if commit.offsets.is_empty() {
            return Ok(Vec::new());
        }
        match slot.write_offsets(&commit).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(GroupWriteError::Refused(error)) => return Err(error),
            Err(GroupWriteError::Generation { given, stored }) => {
                slot.check_stored_generation(&cell.id, given, stored);
                let mut state = cell.state.lock().await;
                slot.catch_up(cell, &mut state, stored);
                let current = state.group.as_ref().map_or(stored, AnyGroup::generation);
                // The group moved on while this commit was under way: a classic member joins again
                // and reads these records again.
                tracing::debug!(
                    group_id = &*cell.id,
                    given,
                    stored,
                    current,
                    "refused a commit of an old generation"
                );
                if state.group.as_mut().and_then(AnyGroup::consumer).is_none() {
                    return Err(rebalance_in_progress());
                }
                // The group epoch rises without the members: this one may still be in its own.
            }
        }
    }
    Err(Error::new(
        ErrorCode::CoordinatorNotAvailable,
        "the group is changing; try again",
    ))
}

/// Checks whether the caller may commit, and returns the generation that the store must check.
async fn check_commit(
    slot: &Arc<CoordinatorSlot>,
    cell: &Arc<GroupEntry>,
    request: &v1::CommitOffsetsRequest,
) -> Result<Option<i32>, Error> {
    let mut state = cell.state.lock().await;
    slot.ensure_serving()?;
    let instance = limits::parse_instance_id(&request.group_instance_id)?;
    let mut empty = None;
    let group = match &mut state.group {
        Some(group) => group,
        None => empty.insert(AnyGroup::new(&slot.shared.deps.limits)),
    };
    match group {
        AnyGroup::Classic(group) => group.check_commit(
            slot.shared.now_ms(),
            request.generation,
            &request.member_id,
            instance,
        ),
        AnyGroup::Consumer(group) => {
            let partitions = partition_keys(slot, &request.offsets);
            group.check_commit(&request.member_id, request.generation, partitions)
        }
    }
}

/// Returns the partitions of offsets; `None` for those that do not exist.
fn partition_keys(
    slot: &CoordinatorSlot,
    offsets: &[v1::CommitOffset],
) -> impl Iterator<Item = Option<PartitionKey>> {
    let catalog = slot.shared.deps.cluster.catalog();
    let key = move |offset: &v1::CommitOffset| Some((catalog.topic(&offset.topic)?.id, offset.partition));
    offsets.iter().map(key)
}

impl CoordinatorSlot {
    /// Writes offsets under the slot's lease and, for members, the generation.
    pub(super) async fn write_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<OffsetCommitOutcome>, GroupWriteError> {
        self.run_transaction(self.shared.deps.store.commit_offsets(self.lease, commit))
            .await
    }
}

fn to_committed_offset(offset: CommittedOffset) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: offset.topic,
        partition: offset.partition,
        error: None,
        offset: offset.offset,
        leader_epoch: offset.leader_epoch,
        metadata: offset.metadata,
        committed_at_ms: offset.committed_at_ms,
    }
}

fn no_committed_offset(wanted: &v1::TopicPartition) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: wanted.topic.clone(),
        partition: wanted.partition,
        offset: -1,
        leader_epoch: -1,
        ..Default::default()
    }
}

fn unknown_partition() -> Error {
    Error::new(
        ErrorCode::UnknownTopicOrPartition,
        "the topic or partition does not exist; its offset was not committed",
    )
}

pub(super) fn unexpected_failure() -> Error {
    Error::new(
        ErrorCode::Unknown,
        "an unexpected failure; the agent's log has the cause",
    )
}

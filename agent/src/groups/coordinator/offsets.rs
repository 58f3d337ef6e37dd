//! Commits and fetches offsets. Offsets live in the store only; it checks lease and generation in
//! the transaction that writes them (INV-C1).

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode, protocol::v1};
use streamhouse_metadata::{CommittedOffset, OffsetCommit, OffsetOutcome, OffsetToCommit};

use super::{
    Coordinator,
    change::rebalancing,
    slot::{Cell, Slot, WriteError},
};
use crate::groups::{limits, state::Group};

/// Offsets of a request, with the results of those that cannot be committed already set.
pub(super) struct Resolved {
    results: Vec<v1::CommitOffsetResult>,
    /// With their indexes in `results`.
    offsets: Vec<(usize, OffsetToCommit)>,
}

impl Resolved {
    /// Returns the offsets that can be committed.
    pub(super) fn to_commit(&self) -> Vec<OffsetToCommit> {
        self.offsets.iter().map(|(_, offset)| offset.clone()).collect()
    }

    /// Returns the results, given the store's outcomes.
    pub(super) fn finish(mut self, outcomes: &[OffsetOutcome]) -> Vec<v1::CommitOffsetResult> {
        for ((place, _), outcome) in self.offsets.iter().zip(outcomes) {
            if *outcome == OffsetOutcome::UnknownPartition {
                self.results[*place].error = Some(unknown_partition().into());
            }
        }
        self.results
    }
}

impl Coordinator {
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
        limits::group_id(&request.group_id)?;
        let slot = self.slot(&request.group_id)?;
        let resolved = self.resolve(&request.offsets).await?;
        let cell = slot.cell(&request.group_id);
        let offsets = resolved.to_commit();
        // Runs on a task of its own: a later commit must not overtake this one, even if the caller
        // is cancelled.
        let commit = tokio::spawn(async move { commit(&slot, &cell, &request, offsets).await });
        let outcomes = commit.await.map_err(|_| unexpected())??;
        Ok(v1::CommitOffsetsResponse {
            offsets: resolved.finish(&outcomes),
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
        limits::group_id(&request.group_id)?;
        self.parts().limits.offsets(request.partitions.len())?;
        let committed = self.parts().store.fetch_offsets(&request.group_id).await?;
        if request.partitions.is_empty() {
            return Ok(v1::FetchOffsetsResponse {
                offsets: committed.into_iter().map(found).collect(),
            });
        }
        let committed: std::collections::HashMap<(String, i32), CommittedOffset> = committed
            .into_iter()
            .map(|offset| ((offset.topic.clone(), offset.partition), offset))
            .collect();
        let meant = self.other_topics(&request.partitions).await;
        let wanted = request.partitions.iter().zip(meant).map(|(wanted, other)| {
            let key = (wanted.topic.clone(), wanted.partition);
            match (other, committed.get(&key)) {
                (None, Some(offset)) => found(offset.clone()),
                (error, _) => v1::CommittedOffset {
                    error: error.map(Into::into),
                    ..nothing(wanted)
                },
            }
        });
        Ok(v1::FetchOffsetsResponse {
            offsets: wanted.collect(),
        })
    }

    /// Returns for each partition the error if its topic id is not that of the current topic of
    /// this name.
    async fn other_topics(&self, wanted: &[v1::TopicPartition]) -> Vec<Option<Error>> {
        let cluster = &self.parts().cluster;
        let other = |wanted: &v1::TopicPartition| {
            if wanted.topic_id.is_empty() {
                return None;
            }
            let found = cluster.uid(&wanted.topic, &wanted.topic_id, wanted.partition);
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
    pub(super) async fn resolve(&self, offsets: &[v1::CommitOffset]) -> Result<Resolved, Error> {
        let (cluster, limits) = (&self.parts().cluster, &self.parts().limits);
        limits.offsets(offsets.len())?;
        if offsets.iter().any(|offset| {
            cluster
                .uid(&offset.topic, &offset.topic_id, offset.partition)
                .is_err()
        }) {
            cluster.refresh().await;
        }
        let mut resolved = Resolved {
            results: Vec::with_capacity(offsets.len()),
            offsets: Vec::new(),
        };
        for (place, offset) in offsets.iter().enumerate() {
            let checked = limits
                .offset(offset)
                .and_then(|()| cluster.uid(&offset.topic, &offset.topic_id, offset.partition));
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

async fn commit(
    slot: &Arc<Slot>,
    cell: &Arc<Cell>,
    request: &v1::CommitOffsetsRequest,
    offsets: Vec<OffsetToCommit>,
) -> Result<Vec<OffsetOutcome>, Error> {
    let _turn = cell.commits.lock().await;
    let generation = {
        let mut state = cell.state.lock().await;
        slot.check()?;
        let instance = limits::instance(&request.group_instance_id)?;
        let mut empty = Group::new(slot.shared.parts.limits.rules(), 0);
        let group = state.group.as_mut().unwrap_or(&mut empty);
        group.check_commit(
            slot.shared.now(),
            request.generation,
            &request.member_id,
            instance,
        )?
    };
    if offsets.is_empty() {
        return Ok(Vec::new());
    }
    match slot.commit(&cell.id, generation, offsets).await {
        Ok(outcomes) => Ok(outcomes),
        Err(WriteError::Refused(error)) => Err(error),
        Err(WriteError::Generation { given, stored }) => {
            slot.distrust_older(&cell.id, given, stored);
            let mut state = cell.state.lock().await;
            slot.catch_up(cell, &mut state, stored);
            let current = state.group.as_ref().map_or(stored, Group::generation);
            // The group moved on while this commit was under way: its member joins again and reads
            // these records again.
            tracing::debug!(
                group_id = &*cell.id,
                given,
                stored,
                current,
                "refused a commit of an old generation"
            );
            Err(rebalancing())
        }
    }
}

impl Slot {
    /// Writes offsets under the slot's lease and, for members, the generation.
    pub(super) async fn commit(
        &self,
        group_id: &str,
        generation: Option<i32>,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Vec<OffsetOutcome>, WriteError> {
        let commit = OffsetCommit {
            group_id: group_id.to_owned(),
            slot: self.number,
            generation,
            offsets,
        };
        self.write(self.shared.parts.store.commit_offsets(self.lease, &commit))
            .await
    }
}

fn found(offset: CommittedOffset) -> v1::CommittedOffset {
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

fn nothing(wanted: &v1::TopicPartition) -> v1::CommittedOffset {
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

pub(super) fn unexpected() -> Error {
    Error::new(
        ErrorCode::Unknown,
        "an unexpected failure; the agent's log has the cause",
    )
}

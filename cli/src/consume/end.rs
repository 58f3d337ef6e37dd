//! [`ConsumeEnd`]: determines when `--exit-at-end` may stop.
//!
//! The end offsets are the high watermarks at the start. Without a group, the consumer stops once
//! every position has reached them. In a group that would be wrong: while a partition is moving
//! between members, its new owner might already have left, and its remaining records would not be
//! read. So a member commits its positions, and leaves only when the group has committed all end
//! offsets.

use std::collections::BTreeMap;

use futures::FutureExt;
use streamhouse_client::{Consumer, TopicPartition};

use crate::command_error::CommandResult;

/// The offsets at which a consumer may stop.
#[derive(Debug)]
pub(super) struct ConsumeEnd {
    offsets: BTreeMap<TopicPartition, i64>,
    in_group: bool,
}

impl ConsumeEnd {
    /// Takes the current high watermarks. Empty partitions are left out.
    pub(super) async fn at_high_watermarks(
        consumer: &Consumer,
        partitions: &[TopicPartition],
        in_group: bool,
    ) -> CommandResult<Self> {
        let starts = consumer.beginning_offsets(partitions).await?;
        let mut offsets = consumer.end_offsets(partitions).await?;
        offsets.retain(|partition, end| starts.get(partition).is_none_or(|start| start < end));
        Ok(Self { offsets, in_group })
    }

    /// Returns whether the consumer may stop. In a group, commits positions, which lets the other
    /// members stop too.
    pub(super) async fn is_reached(&mut self, consumer: &Consumer) -> CommandResult<bool> {
        let assigned = consumer.assignment();
        let mut done = Vec::with_capacity(assigned.len());
        for partition in assigned {
            // A position that is not known yet, or a partition that is being revoked, has not
            // reached its end.
            let Some(Ok(position)) = consumer.position(&partition).now_or_never() else {
                return Ok(false);
            };
            if self.offsets.get(&partition).is_some_and(|end| position < *end) {
                return Ok(false);
            }
            done.push((partition, position));
        }
        if !self.in_group {
            return Ok(true);
        }
        self.is_group_done(consumer, done).await
    }

    async fn is_group_done(
        &mut self,
        consumer: &Consumer,
        done: Vec<(TopicPartition, i64)>,
    ) -> CommandResult<bool> {
        let mine: Vec<_> = done
            .into_iter()
            .filter(|(partition, _)| self.offsets.contains_key(partition))
            .collect();
        if !mine.is_empty()
            && let Err(error) = consumer.commit_offsets(mine).await
        {
            // The group is rebalancing or has removed this member; the partition's next owner
            // commits instead.
            tracing::debug!(%error, "cannot commit; trying again after the next poll");
            return Ok(false);
        }
        // A committed end offset cannot move back, so it is not checked again.
        let open: Vec<_> = self.offsets.keys().cloned().collect();
        let committed = match consumer.committed(&open).await {
            Ok(committed) => committed,
            Err(error) if error.is_retryable() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.offsets
            .retain(|partition, end| committed.get(partition).is_none_or(|at| at.offset < *end));
        Ok(self.offsets.is_empty())
    }
}

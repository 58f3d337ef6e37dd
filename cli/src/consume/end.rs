//! [`End`]: when `--exit-at-end` is reached.
//!
//! The end are the high watermarks at the start. Without a group it is reached when every position is there. In a group,
//! a member that left as soon as its own partitions are done could be the last to leave while a partition is on its way
//! from one member to another, and nobody would read that one's rest. So a member commits what it has done, and leaves
//! only when the group has committed everything up to the end: whoever finishes early stands by for the others.

use std::collections::BTreeMap;

use futures::FutureExt;
use streamhouse_client::{Consumer, TopicPartition};

use crate::failure::Outcome;

/// The offsets at which a consumer may stop.
#[derive(Debug)]
pub(super) struct End {
    offsets: BTreeMap<TopicPartition, i64>,
    in_group: bool,
}

impl End {
    /// The high watermarks now; partitions that hold nothing are left out.
    pub(super) async fn at_high_watermarks(
        consumer: &Consumer,
        partitions: &[TopicPartition],
        in_group: bool,
    ) -> Outcome<Self> {
        let starts = consumer.beginning_offsets(partitions).await?;
        let mut offsets = consumer.end_offsets(partitions).await?;
        offsets.retain(|partition, end| starts.get(partition).is_none_or(|start| start < end));
        Ok(Self { offsets, in_group })
    }

    /// Whether the consumer may stop. Commits, in a group, what makes the others stop too.
    pub(super) async fn is_reached(&mut self, consumer: &Consumer) -> Outcome<bool> {
        let assigned = consumer.assignment();
        let mut done = Vec::with_capacity(assigned.len());
        for partition in assigned {
            // A position that is not known yet, or a partition that is just being taken away, is not at its end.
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
        self.group_is_done(consumer, done).await
    }

    async fn group_is_done(
        &mut self,
        consumer: &Consumer,
        done: Vec<(TopicPartition, i64)>,
    ) -> Outcome<bool> {
        let mine: Vec<_> = done
            .into_iter()
            .filter(|(partition, _)| self.offsets.contains_key(partition))
            .collect();
        if !mine.is_empty()
            && let Err(error) = consumer.commit_offsets(mine).await
        {
            // The group rebalances, or went on without us: whoever has the partition next does the same.
            tracing::debug!(%error, "cannot commit; trying again after the next poll");
            return Ok(false);
        }
        // What is committed up to the end stays so: it need not be asked for again.
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

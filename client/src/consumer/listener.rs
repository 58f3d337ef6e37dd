//! [`RebalanceListener`]: callbacks for assigned, revoked and lost partitions.

use futures::future::BoxFuture;
use streamhouse_core::TopicPartition;

use super::{commit::OffsetCommitter, handle::ConsumerHandle};

/// Callbacks of a rebalance. They run within `poll` (and `close`) on the caller's task, while
/// heartbeats continue in the background. If the future of `poll` is dropped during a callback, the
/// next poll calls it again. The default methods do nothing.
///
/// # Examples
///
/// ```
/// use futures::future::BoxFuture;
/// use streamhouse_client::{TopicPartition, consumer::{Committer, RebalanceListener}};
///
/// struct Log;
/// impl RebalanceListener for Log {
///     fn on_revoked<'a>(&'a self, partitions: &'a [TopicPartition], commits: &'a Committer) -> BoxFuture<'a, ()> {
///         Box::pin(async move {
///             println!("giving up {partitions:?}");
///             let _ = commits.commit().await;
///         })
///     }
/// }
/// ```
pub trait RebalanceListener: Send + Sync + 'static {
    /// Called before partitions are given up: the last chance to commit offsets for them.
    fn on_revoked<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        commits: &'a OffsetCommitter,
    ) -> BoxFuture<'a, ()> {
        let _ = (partitions, commits);
        Box::pin(async {})
    }

    /// Called after partitions were assigned to this consumer. None of their records is fetched
    /// before the callback ends, so it may seek to positions stored elsewhere, or pause partitions.
    fn on_assigned<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        consumer: &'a ConsumerHandle,
    ) -> BoxFuture<'a, ()> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }

    /// Called when partitions are lost without a chance to commit, because the group removed this
    /// member. From the moment of the loss, `poll` returns none of their records and nothing is
    /// committed for them.
    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        let _ = partitions;
        Box::pin(async {})
    }
}

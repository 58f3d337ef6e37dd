//! [`RebalanceListener`]: callbacks for assigned, revoked and lost partitions.

use std::pin::Pin;

use streamhouse_core::TopicPartition;

use super::{commit::OffsetCommitter, handle::ConsumerHandle};

/// The future of a [`RebalanceListener`]'s callback, boxed.
pub type ListenerFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Callbacks of a rebalance. They run within `poll` (and `close`) on the caller's task, while
/// heartbeats continue in the background. If the future of `poll` is dropped during a callback, the
/// next poll calls it again. The default methods do nothing.
///
/// # Examples
///
/// ```
/// use streamhouse_client::TopicPartition;
/// use streamhouse_client::consumer::{ListenerFuture, OffsetCommitter, RebalanceListener};
///
/// struct RebalanceLog;
///
/// impl RebalanceListener for RebalanceLog {
///     fn on_revoked<'a>(
///         &'a self,
///         partitions: &'a [TopicPartition],
///         committer: &'a OffsetCommitter,
///     ) -> ListenerFuture<'a> {
///         Box::pin(async move {
///             println!("giving up {partitions:?}");
///             let _ = committer.commit().await;
///         })
///     }
/// }
/// ```
pub trait RebalanceListener: Send + Sync + 'static {
    /// Called before partitions are given up: the last chance to commit offsets for them.
    fn on_revoked<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        committer: &'a OffsetCommitter,
    ) -> ListenerFuture<'a> {
        let _ = (partitions, committer);
        Box::pin(async {})
    }

    /// Called after partitions were assigned to this consumer. None of their records is fetched
    /// before the callback ends, so it may seek to positions stored elsewhere, or pause partitions.
    fn on_assigned<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        consumer: &'a ConsumerHandle,
    ) -> ListenerFuture<'a> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }

    /// Called when partitions are lost without a chance to commit, because the group removed this
    /// member. From the moment of the loss, `poll` returns none of their records and nothing is
    /// committed for them.
    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        let _ = partitions;
        Box::pin(async {})
    }
}

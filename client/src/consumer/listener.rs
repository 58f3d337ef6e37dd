//! [`RebalanceListener`]: how an application hears of partitions that come and go.

use futures::future::BoxFuture;
use streamhouse_core::TopicPartition;

use super::{commit::Committer, handle::ConsumerHandle};

/// Called within `poll` (and `close`), on the caller's task, while heartbeats go on. A poll that is cut off in a call calls again.
/// Every method does nothing by default.
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
    /// Before these are given up: the last moment to commit for them.
    fn on_revoked<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        commits: &'a Committer,
    ) -> BoxFuture<'a, ()> {
        let _ = (partitions, commits);
        Box::pin(async {})
    }

    /// After these were given to this consumer. None of their records is fetched before this ends, so this is where to seek to
    /// positions that are kept elsewhere, or to pause.
    fn on_assigned<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        consumer: &'a ConsumerHandle,
    ) -> BoxFuture<'a, ()> {
        let _ = (partitions, consumer);
        Box::pin(async {})
    }

    /// These are gone without a chance to commit: the group went on without this member. Nothing of them is returned by
    /// `poll` or committed any more, from the moment of the loss.
    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        let _ = partitions;
        Box::pin(async {})
    }
}

//! [`ConsumerHandle`]: access to a consumer from outside its polling task, such as a processing
//! task, a signal handler or the rebalance listener.

use std::sync::{Arc, atomic::Ordering};

use streamhouse_core::TopicPartition;
use tokio::time::timeout;

use super::{
    ConsumerShared,
    assignment::FetchPosition,
    commit::{OffsetAndMetadata, OffsetCommitter},
};
use crate::{
    error::{Error, Result},
    queries::OffsetSpec,
};

/// A handle that seeks, pauses, commits and wakes a consumer from other tasks. Cheap to clone.
/// After the consumer is closed or dropped, every call fails with [`Error::Closed`].
///
/// # Examples
///
/// ```
/// use streamhouse_client::TopicPartition;
/// use streamhouse_client::consumer::{ConsumerHandle, ListenerFuture, RebalanceListener};
///
/// /// Seeks to offsets that are stored with the results of the records.
/// struct DatabaseOffsets;
///
/// impl RebalanceListener for DatabaseOffsets {
///     fn on_assigned<'a>(
///         &'a self,
///         partitions: &'a [TopicPartition],
///         consumer: &'a ConsumerHandle,
///     ) -> ListenerFuture<'a> {
///         Box::pin(async move {
///             for partition in partitions {
///                 let next = 42; // Looked up in the database.
///                 let _ = consumer.seek(partition, next);
///             }
///         })
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    shared: Arc<ConsumerShared>,
}

impl ConsumerHandle {
    pub(super) fn new(shared: Arc<ConsumerShared>) -> Self {
        Self { shared }
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Returns the partitions that are assigned to the consumer.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().partitions()
    }

    /// Returns the paused partitions.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().paused()
    }

    /// Makes the current or next waiting poll return at once without records.
    pub fn wakeup(&self) {
        self.shared.woken.store(true, Ordering::Release);
        self.shared.poll_notifier.notify_one();
    }

    /// Moves the position of a partition to `offset`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::Closed`]; [`Error::Config`] for a negative offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        if offset < 0 {
            return Err(Error::config(
                "cannot seek to a negative offset; use seek_to_beginning or seek_to_end",
            ));
        }
        self.seek_to_position(partition, FetchPosition::At(offset))
    }

    /// Moves to the oldest record of these partitions, or of all assigned partitions if
    /// `partitions` is empty.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_all(partitions, FetchPosition::Lookup(OffsetSpec::Earliest))
    }

    /// Moves to the end of these partitions, or of all assigned partitions if `partitions` is
    /// empty.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.seek_all(partitions, FetchPosition::Lookup(OffsetSpec::Latest))
    }

    /// Moves to the first record with this timestamp (milliseconds since the Unix epoch) or a later
    /// one in these partitions, or in all assigned partitions if `partitions` is empty. Partitions
    /// without such a record move to their end.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_timestamp(&self, partitions: &[TopicPartition], timestamp_ms: i64) -> Result<()> {
        self.seek_all(
            partitions,
            FetchPosition::Lookup(OffsetSpec::Timestamp(timestamp_ms)),
        )
    }

    fn seek_all(&self, partitions: &[TopicPartition], to: FetchPosition) -> Result<()> {
        let all = if partitions.is_empty() {
            self.assignment()
        } else {
            partitions.to_vec()
        };
        all.iter()
            .try_for_each(|partition| self.seek_to_position(partition, to))
    }

    fn seek_to_position(&self, partition: &TopicPartition, to: FetchPosition) -> Result<()> {
        self.check_open()?;
        self.shared.assignment.lock().seek(partition, to)?;
        self.shared.fetcher_wake.notify_one();
        Ok(())
    }

    /// Returns the next offset that `poll` returns. Waits until it is known, for at most
    /// `api_timeout`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::Closed`]; [`Error::Timeout`]; the error that keeps the
    /// partition from being read.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64> {
        let deadline = self.shared.api_deadline();
        loop {
            let news = self.shared.poll_notifier.notified_others();
            tokio::pin!(news);
            // Register first, so that no notification is missed after the checks below.
            news.as_mut().enable();
            self.check_open()?;
            if let Some(offset) = self.shared.assignment.lock().position(partition)? {
                return Ok(offset);
            }
            if timeout(deadline.remaining(), news).await.is_err() {
                let cause = self.shared.client.unreachable_cause();
                return Err(Error::timeout("finding the position", deadline.timeout(), cause));
            }
        }
    }

    /// Pauses these partitions: `poll` returns no records of them until [`ConsumerHandle::resume`].
    /// They stay assigned.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Resumes paused partitions.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, false)?;
        self.shared.fetcher_wake.notify_one();
        // Records fetched before the pause may be ready: wake `poll`.
        self.shared.poll_notifier.notify_one();
        Ok(())
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        self.check_open()?;
        let mut assignment = self.shared.assignment.lock();
        partitions
            .iter()
            .try_for_each(|partition| assignment.pause(partition, paused))
    }

    /// Commits the positions after the records that `poll` has returned so far.
    ///
    /// # Errors
    /// As [`OffsetCommitter::commit_offsets`].
    pub async fn commit(&self) -> Result<()> {
        self.committer().commit().await
    }

    /// Commits these offsets. Each is the offset of the next record to read, with or without
    /// metadata.
    ///
    /// # Errors
    /// As [`OffsetCommitter::commit_offsets`].
    pub async fn commit_offsets<O: Into<OffsetAndMetadata>>(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, O)>,
    ) -> Result<()> {
        self.committer().commit_offsets(offsets).await
    }

    /// Commits the current positions in the background and calls `callback` with the result.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        self.committer().commit_async(callback);
    }

    fn committer(&self) -> OffsetCommitter {
        OffsetCommitter::new(self.shared.clone())
    }
}

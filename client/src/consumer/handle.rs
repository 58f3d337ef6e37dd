//! [`ConsumerHandle`]: a consumer for those who do not poll it, such as a task that processes its records, a signal handler or
//! the rebalance listener.

use std::sync::{Arc, atomic::Ordering};

use streamhouse_core::TopicPartition;
use tokio::time::timeout;

use super::{
    Shared,
    assignment::Position,
    commit::{Committer, OffsetAndMetadata},
};
use crate::{
    admin::OffsetAt,
    error::{Error, Result},
};

/// Seeks, pauses, commits and wakes a consumer from elsewhere. Cheap to clone. After the consumer was closed or dropped every
/// call fails with [`Error::Closed`].
///
/// ```
/// use futures::future::BoxFuture;
/// use streamhouse_client::{TopicPartition, consumer::{ConsumerHandle, RebalanceListener}};
///
/// /// Offsets that are kept beside the results of the records.
/// struct FromDatabase;
///
/// impl RebalanceListener for FromDatabase {
///     fn on_assigned<'a>(
///         &'a self,
///         partitions: &'a [TopicPartition],
///         consumer: &'a ConsumerHandle,
///     ) -> BoxFuture<'a, ()> {
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
    shared: Arc<Shared>,
}

impl ConsumerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// The partitions that the consumer reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().partitions()
    }

    /// The paused partitions.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().paused()
    }

    /// Makes the poll that waits, or the next one that would wait, return at once without records.
    pub fn wakeup(&self) {
        self.shared.woken.store(true, Ordering::Release);
        self.shared.news.notify_one();
    }

    /// Reads on at this offset.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], [`Error::Closed`], and [`Error::Config`] for a negative offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        if offset < 0 {
            return Err(Error::config(
                "cannot seek to a negative offset; use seek_to_beginning or seek_to_end",
            ));
        }
        self.move_to(partition, Position::At(offset))
    }

    /// Reads on at the oldest record of these partitions; of all that are read when none is named.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.move_all(partitions, Position::Lookup(OffsetAt::Earliest))
    }

    /// Reads on after the newest record of these partitions; of all that are read when none is named.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.move_all(partitions, Position::Lookup(OffsetAt::Latest))
    }

    /// Reads on at the first record whose timestamp (milliseconds since the Unix epoch) is this or later, in these
    /// partitions; in all that are read when none is named. Where no record is that late: at the end.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_timestamp(&self, partitions: &[TopicPartition], timestamp_ms: i64) -> Result<()> {
        self.move_all(partitions, Position::Lookup(OffsetAt::Timestamp(timestamp_ms)))
    }

    fn move_all(&self, partitions: &[TopicPartition], to: Position) -> Result<()> {
        let all = if partitions.is_empty() {
            self.assignment()
        } else {
            partitions.to_vec()
        };
        all.iter().try_for_each(|partition| self.move_to(partition, to))
    }

    fn move_to(&self, partition: &TopicPartition, to: Position) -> Result<()> {
        self.check_open()?;
        self.shared.assignment.lock().seek(partition, to)?;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The next offset that `poll` returns. Waits until it is known, at most `api_timeout`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], [`Error::Closed`], [`Error::Timeout`], and why the partition cannot be read.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64> {
        let deadline = self.shared.api_deadline();
        loop {
            let news = self.shared.news.for_others();
            tokio::pin!(news);
            // From here on no news is missed.
            news.as_mut().enable();
            self.check_open()?;
            if let Some(offset) = self.shared.assignment.lock().position(partition)? {
                return Ok(offset);
            }
            if timeout(deadline.left(), news).await.is_err() {
                let cause = self.shared.client.unreachable_cause();
                return Err(Error::timeout("finding the position", deadline.allowed(), cause));
            }
        }
    }

    /// Returns no more records of these partitions until [`ConsumerHandle::resume`]; they stay assigned.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Undoes [`ConsumerHandle::pause`].
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, false)?;
        self.shared.changed.notify_one();
        // What was fetched before the pause is ready.
        self.shared.news.notify_one();
        Ok(())
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        self.check_open()?;
        let mut assignment = self.shared.assignment.lock();
        partitions
            .iter()
            .try_for_each(|partition| assignment.pause(partition, paused))
    }

    /// Commits the positions after the records that `poll` returned so far.
    ///
    /// # Errors
    /// As [`Committer::commit_offsets`].
    pub async fn commit(&self) -> Result<()> {
        self.committer().commit().await
    }

    /// Commits these offsets: each the next to read, alone or with metadata.
    ///
    /// # Errors
    /// As [`Committer::commit_offsets`].
    pub async fn commit_offsets<O: Into<OffsetAndMetadata>>(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, O)>,
    ) -> Result<()> {
        self.committer().commit_offsets(offsets).await
    }

    /// [`ConsumerHandle::commit`] in the background, of the positions at the call; the callback gets the outcome.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        self.committer().commit_async(callback);
    }

    fn committer(&self) -> Committer {
        Committer::new(self.shared.clone())
    }
}

//! The operations of [`Consumer`] besides `poll`: subscriptions, seeks, pauses, commits and
//! queries.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::TopicPartition;
use tokio::time::timeout;

use super::{
    Consumer, ConsumerHandle, ConsumerStats, PartitionLag,
    commit::{OffsetAndMetadata, OffsetCommitter},
    membership::TopicPattern,
};
use crate::{
    error::{Error, Result},
    queries::{CommittedOffset, OffsetSpec, PartitionOffset, fetch_offsets, list_offsets},
    reachability::CoordinatorOutage,
};

impl Consumer {
    /// Subscribes to these topics, in place of the current subscription or assignment. The consumer
    /// reads the group's share of them; without a group, all their partitions.
    ///
    /// A member stays in its group, keeps the partitions it still wants, and gives up the others in
    /// the next poll. An empty list is the same as [`Consumer::unsubscribe`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn subscribe<T: Into<String>>(&mut self, topics: impl IntoIterator<Item = T>) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        if topics.is_empty() {
            self.release_all().await;
        } else {
            self.change_subscription(topics).await;
        }
        Ok(())
    }

    /// Subscribes to all topics whose whole name matches a regular expression, now and in the
    /// future; matching topics that are created or deleted are noticed within seconds. Internal
    /// topics never match.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::NoGroup`]; [`Error::Config`] for an invalid pattern; errors of
    /// [`Admin::list_topics`](crate::Admin::list_topics).
    pub async fn subscribe_pattern(&mut self, pattern: &str) -> Result<()> {
        self.check_open()?;
        if self.shared.config.group.is_none() {
            return Err(Error::no_group("subscribing to a pattern"));
        }
        let pattern = TopicPattern::new(pattern)?;
        let topics = pattern
            .clone()
            .matching_topics(self.shared.client.clone())
            .await?;
        *self.shared.pattern.lock() = Some(pattern);
        self.change_subscription(topics).await;
        Ok(())
    }

    /// Changes the subscription without leaving the group.
    async fn change_subscription(&mut self, topics: Vec<String>) {
        if !self.shared.member.lock().is_subscribed() {
            self.release_all().await;
        }
        self.subscribe_topics(topics);
    }

    /// Assigns exactly these partitions, in place of the current subscription or assignment.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        self.release_all().await;
        self.assign_partitions(partitions.into_iter().collect());
        Ok(())
    }

    /// Stops reading: commits (with automatic commits) and leaves the group.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        self.release_all().await;
        Ok(())
    }

    /// Commits (with automatic commits), waits for commits in progress, calls the rebalance
    /// listener, leaves the group and ends. Later calls fail with [`Error::Closed`].
    ///
    /// If the future is dropped, calling `close` again continues; once it has completed, further
    /// calls do nothing.
    ///
    /// # Errors
    /// None at present. Offsets that could not be committed are logged; their records are read
    /// again by the next owner of the partition.
    pub async fn close(&mut self) -> Result<()> {
        self.closed = true;
        self.release_all().await;
        self.shared.close();
        Ok(())
    }

    /// Like [`Consumer::close`], with a time limit. Closing again continues; if the consumer is
    /// dropped instead, the group removes the member after the session time-out.
    ///
    /// # Errors
    /// [`Error::Timeout`] if closing takes longer than `within`.
    pub async fn close_within(&mut self, within: Duration) -> Result<()> {
        match timeout(within, self.close()).await {
            Ok(closed) => closed,
            Err(_) => Err(Error::timeout("closing the consumer", within, None)),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// Returns a handle to this consumer for other tasks and for the rebalance listener.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::new(self.shared.clone())
    }

    /// Returns the partitions that are assigned to this consumer.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().partitions()
    }

    /// Returns the subscribed topics; none with manual assignment.
    pub fn subscription(&self) -> Vec<String> {
        match self.shared.config.group {
            Some(_) => self.shared.member.lock().topics().to_vec(),
            None => {
                let followed = self.shared.assignment.lock().subscribed_topics();
                followed.iter().map(|topic| topic.to_string()).collect()
            }
        }
    }

    /// Returns the member id; empty if the consumer is not in a group.
    pub fn member_id(&self) -> String {
        self.shared.member.lock().member_id().to_owned()
    }

    /// Returns the outage of the group's coordinator; `None` while it answers, and without a group.
    pub fn coordinator_outage(&self) -> Option<CoordinatorOutage> {
        let group = self.shared.config.group.as_deref()?;
        self.shared.client.reachability().coordinator_outage(group)
    }

    /// Returns the group generation that the consumer belongs to; -1 if it is not a member.
    pub fn generation(&self) -> i32 {
        self.shared.member.lock().generation()
    }

    /// Commits the positions after the records returned so far.
    ///
    /// # Errors
    /// As [`OffsetCommitter::commit_offsets`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Consumer, Result};
    /// # async fn example(mut consumer: Consumer) -> Result<()> {
    /// # use std::time::Duration;
    /// for record in &consumer.poll(Duration::from_secs(1)).await? {
    ///     println!("{:?}", record.value);
    /// }
    /// consumer.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit(&self) -> Result<()> {
        self.check_open()?;
        self.committer().commit().await
    }

    /// Commits these offsets. Each is the offset of the next record to read, with or without
    /// metadata.
    ///
    /// # Errors
    /// As [`OffsetCommitter::commit_offsets`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Consumer, Result};
    /// # async fn example(consumer: Consumer) -> Result<()> {
    /// use streamhouse_client::TopicPartition;
    ///
    /// consumer.commit_offsets([(TopicPartition::new("orders", 0), 42_i64)]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit_offsets<O: Into<OffsetAndMetadata>>(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, O)>,
    ) -> Result<()> {
        self.check_open()?;
        self.committer().commit_offsets(offsets).await
    }

    /// Commits the current positions in the background and calls `callback` with the result.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        match self.check_open() {
            Ok(()) => self.committer().commit_async(callback),
            Err(error) => callback(Err(error)),
        }
    }

    /// Returns a handle that commits for this consumer from elsewhere, such as a task that
    /// processes its records.
    pub fn committer(&self) -> OffsetCommitter {
        OffsetCommitter::new(self.shared.clone())
    }

    /// Moves the position of a partition to `offset`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::Closed`]; [`Error::Config`] for a negative offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        self.check_open()?;
        self.handle().seek(partition, offset)
    }

    /// Moves to the oldest record of these partitions, or of all assigned partitions if
    /// `partitions` is empty.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_beginning(partitions)
    }

    /// Moves to the end of these partitions, or of all assigned partitions if `partitions` is
    /// empty.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_end(partitions)
    }

    /// Moves to the first record with this timestamp (milliseconds since the Unix epoch) or a later
    /// one in these partitions, or in all assigned partitions if `partitions` is empty. Partitions
    /// without such a record move to their end.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn seek_to_timestamp(&self, partitions: &[TopicPartition], timestamp_ms: i64) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_timestamp(partitions, timestamp_ms)
    }

    /// Returns the next offset that `poll` returns. Waits until it is known, for at most
    /// `api_timeout`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::Closed`]; [`Error::Timeout`]; the error that keeps the
    /// partition from being read.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64> {
        self.check_open()?;
        self.handle().position(partition).await
    }

    /// Returns the group's committed offsets for these partitions, without those that have none.
    ///
    /// # Errors
    /// [`Error::NoGroup`]; the error of the first partition that fails; [`Error::Cluster`] and
    /// [`Error::Timeout`].
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        let group = self.shared.config.group.as_deref();
        let group = group.ok_or_else(|| Error::no_group("reading committed offsets"))?;
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        fetch_offsets(&self.shared.client, group, partitions, self.shared.api_deadline()).await
    }

    /// Returns, for each partition, the offset of the first record with the given timestamp
    /// (milliseconds since the Unix epoch) or a later one; the high watermark, with timestamp -1,
    /// if there is none.
    ///
    /// # Errors
    /// As [`Admin::list_offsets`](crate::Admin::list_offsets).
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        self.offsets(
            times
                .into_iter()
                .map(|(partition, time)| (partition, OffsetSpec::Timestamp(time))),
        )
        .await
    }

    /// Returns the offsets of the oldest records of these partitions.
    ///
    /// # Errors
    /// As [`Admin::list_offsets`](crate::Admin::list_offsets).
    pub async fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let offsets = self
            .offsets(partitions.iter().map(|p| (p.clone(), OffsetSpec::Earliest)))
            .await?;
        Ok(offsets
            .into_iter()
            .map(|(partition, at)| (partition, at.offset))
            .collect())
    }

    /// Returns the offsets after the newest records of these partitions.
    ///
    /// # Errors
    /// As [`Admin::list_offsets`](crate::Admin::list_offsets).
    pub async fn end_offsets(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>> {
        let offsets = self
            .offsets(partitions.iter().map(|p| (p.clone(), OffsetSpec::Latest)))
            .await?;
        Ok(offsets
            .into_iter()
            .map(|(partition, at)| (partition, at.offset))
            .collect())
    }

    async fn offsets(
        &self,
        queries: impl Iterator<Item = (TopicPartition, OffsetSpec)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        list_offsets(&self.shared.client, queries.collect(), self.shared.api_deadline()).await
    }

    /// Pauses these partitions: `poll` returns no records of them until [`Consumer::resume`]. They
    /// stay assigned.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().pause(partitions)
    }

    /// Resumes paused partitions.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().resume(partitions)
    }

    /// Returns the paused partitions.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().paused()
    }

    /// Returns the lag of each partition as of its last fetch. Partitions that were not fetched yet
    /// are omitted.
    pub fn lags(&self) -> BTreeMap<TopicPartition, PartitionLag> {
        self.shared.assignment.lock().lags(self.shared.client.now_ms())
    }

    /// Returns the lag of a partition; `None` before its first fetch.
    pub fn lag(&self, partition: &TopicPartition) -> Option<PartitionLag> {
        self.lags().remove(partition)
    }

    /// Returns the consumer's totals.
    pub fn metrics(&self) -> ConsumerStats {
        let assignment = self.shared.assignment.lock();
        ConsumerStats {
            buffered_bytes: assignment.buffered() as u64,
            ..assignment.stats()
        }
    }
}

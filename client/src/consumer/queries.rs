//! What an application asks a consumer besides records: what it reads, where it stands, how far behind it is; and the
//! seeks, pauses and commits.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::TopicPartition;
use tokio::time::timeout;

use super::{
    Consumer, ConsumerHandle, ConsumerStats, Lag,
    commit::{Committer, OffsetAndMetadata},
    membership::TopicPattern,
};
use crate::{
    admin::{CommittedOffset, OffsetAt, PartitionOffset, fetch_offsets, list_offsets},
    error::{Error, Result},
    reachability::CoordinatorOutage,
};

impl Consumer {
    /// Reads the group's share of these topics from now on, or without a group all of them, instead of what it read before. A
    /// member stays in its group, keeps what it still wants and gives up the rest with the next poll. No topics: as
    /// [`Consumer::unsubscribe`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn subscribe<T: Into<String>>(&mut self, topics: impl IntoIterator<Item = T>) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        if topics.is_empty() {
            self.give_up_all().await;
        } else {
            self.switch_to(topics).await;
        }
        Ok(())
    }

    /// [`Consumer::subscribe`] to all topics whose whole names match a regular expression, as of now and from then on: topics
    /// that come or go are noticed within seconds. The cluster's own topics never match.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::NoGroup`], [`Error::Config`] for a pattern that is none, and why the topics cannot be listed.
    pub async fn subscribe_pattern(&mut self, pattern: &str) -> Result<()> {
        self.check_open()?;
        if self.shared.config.group.is_none() {
            return Err(Error::no_group("subscribing to a pattern"));
        }
        let pattern = TopicPattern::new(pattern)?;
        let topics = pattern.clone().topics(self.shared.client.clone()).await?;
        *self.shared.pattern.lock() = Some(pattern);
        self.switch_to(topics).await;
        Ok(())
    }

    /// Shares these topics from now on; a member stays one.
    async fn switch_to(&mut self, topics: Vec<String>) {
        if !self.shared.member.lock().is_subscribed() {
            self.give_up_all().await;
        }
        self.join(topics);
    }

    /// Reads exactly these partitions from now on, instead of what it read before.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        self.give_up_all().await;
        self.take(partitions.into_iter().collect());
        Ok(())
    }

    /// Reads nothing any more: commits (in automatic mode) and leaves the group.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.check_open()?;
        *self.shared.pattern.lock() = None;
        self.give_up_all().await;
        Ok(())
    }

    /// Commits (in automatic mode), waits for commits under way, tells the listener, leaves the group and ends. Later calls
    /// fail with [`Error::Closed`]. A close that was cut off goes on when it is called again; after that it does nothing.
    ///
    /// # Errors
    /// None at present: what could not be committed is logged, and read again by the next reader.
    pub async fn close(&mut self) -> Result<()> {
        self.closed = true;
        self.give_up_all().await;
        self.shared.close();
        Ok(())
    }

    /// [`Consumer::close`] that takes no longer than this. What is left to do is done when it is closed again; when it is
    /// dropped, the group goes on by the session time-out.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub async fn close_within(&mut self, within: Duration) -> Result<()> {
        match timeout(within, self.close()).await {
            Ok(closed) => closed,
            Err(_) => Err(Error::timeout("closing the consumer", within, None)),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// This consumer for other tasks and for the rebalance listener.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::new(self.shared.clone())
    }

    /// The partitions it reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().partitions()
    }

    /// The topics that are subscribed; none with `assign`.
    pub fn subscription(&self) -> Vec<String> {
        match self.shared.config.group {
            Some(_) => self.shared.member.lock().topics().to_vec(),
            None => {
                let followed = self.shared.assignment.lock().followed();
                followed.iter().map(|topic| topic.to_string()).collect()
            }
        }
    }

    /// Its id in the group; empty outside of one.
    pub fn member_id(&self) -> String {
        self.shared.member.lock().member_id().to_owned()
    }

    /// Returns how long the coordinator of its group has not answered; `None` while it does, and outside of a group.
    pub fn coordinator_outage(&self) -> Option<CoordinatorOutage> {
        let group = self.shared.config.group.as_deref()?;
        self.shared.client.coordinator_outage(group)
    }

    /// The group's generation that it belongs to; -1 outside of one.
    pub fn generation(&self) -> i32 {
        self.shared.member.lock().generation()
    }

    /// Commits the positions after the records returned so far. Fails when the group goes on without this member.
    ///
    /// # Errors
    /// As [`Committer::commit_offsets`].
    pub async fn commit(&self) -> Result<()> {
        self.check_open()?;
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
        self.check_open()?;
        self.committer().commit_offsets(offsets).await
    }

    /// [`Consumer::commit`] in the background, of the positions at the call; the callback gets the outcome.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        match self.check_open() {
            Ok(()) => self.committer().commit_async(callback),
            Err(error) => callback(Err(error)),
        }
    }

    /// Commits for this consumer from elsewhere, such as a task that processes its records.
    pub fn committer(&self) -> Committer {
        Committer::new(self.shared.clone())
    }

    /// Reads on at this offset.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], [`Error::Closed`], and [`Error::Config`] for a negative offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        self.check_open()?;
        self.handle().seek(partition, offset)
    }

    /// Reads on at the oldest record of these partitions; of all it reads when none is named.
    ///
    /// # Errors
    /// As [`Consumer::seek`].
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_beginning(partitions)
    }

    /// Reads on after the newest record of these partitions; of all it reads when none is named.
    ///
    /// # Errors
    /// As [`Consumer::seek`].
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_end(partitions)
    }

    /// Reads on at the first record whose timestamp (milliseconds since the Unix epoch) is this or later, in these
    /// partitions; in all it reads when none is named. Where no record is that late: at the end.
    ///
    /// # Errors
    /// As [`Consumer::seek`].
    pub fn seek_to_timestamp(&self, partitions: &[TopicPartition], timestamp_ms: i64) -> Result<()> {
        self.check_open()?;
        self.handle().seek_to_timestamp(partitions, timestamp_ms)
    }

    /// The next offset `poll` returns. Waits until it is known, at most `api_timeout`.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], [`Error::Closed`], [`Error::Timeout`], and why the partition cannot be read.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64> {
        self.check_open()?;
        self.handle().position(partition).await
    }

    /// What the group has committed for these partitions; those without a commit are left out.
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

    /// For each partition the offset of the first record at or after the timestamp (milliseconds since the Unix epoch);
    /// the high watermark, with timestamp -1, where no record is that late.
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        self.offsets(
            times
                .into_iter()
                .map(|(partition, time)| (partition, OffsetAt::Timestamp(time))),
        )
        .await
    }

    /// The offsets of the oldest records kept.
    pub async fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let offsets = self
            .offsets(partitions.iter().map(|p| (p.clone(), OffsetAt::Earliest)))
            .await?;
        Ok(offsets
            .into_iter()
            .map(|(partition, at)| (partition, at.offset))
            .collect())
    }

    /// The offsets after the newest records.
    pub async fn end_offsets(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>> {
        let offsets = self
            .offsets(partitions.iter().map(|p| (p.clone(), OffsetAt::Latest)))
            .await?;
        Ok(offsets
            .into_iter()
            .map(|(partition, at)| (partition, at.offset))
            .collect())
    }

    async fn offsets(
        &self,
        queries: impl Iterator<Item = (TopicPartition, OffsetAt)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        list_offsets(&self.shared.client, queries.collect(), self.shared.api_deadline()).await
    }

    /// Returns no more records of these partitions until [`Consumer::resume`]; they stay assigned.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().pause(partitions)
    }

    /// Undoes [`Consumer::pause`].
    ///
    /// # Errors
    /// [`Error::NotAssigned`] and [`Error::Closed`].
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_open()?;
        self.handle().resume(partitions)
    }

    /// The paused partitions.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().paused()
    }

    /// How far each partition is behind, as of its last fetch; partitions not fetched yet are left out.
    pub fn lags(&self) -> BTreeMap<TopicPartition, Lag> {
        self.shared.assignment.lock().lags(self.shared.client.now_ms())
    }

    /// How far a partition is behind; `None` before its first fetch.
    pub fn lag(&self, partition: &TopicPartition) -> Option<Lag> {
        self.lags().remove(partition)
    }

    /// What it has done so far.
    pub fn metrics(&self) -> ConsumerStats {
        let assignment = self.shared.assignment.lock();
        ConsumerStats {
            buffered_bytes: assignment.buffered() as u64,
            ..assignment.stats()
        }
    }
}

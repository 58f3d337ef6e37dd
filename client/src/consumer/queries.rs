//! What an application asks a consumer besides records: what it reads, where it stands, how far behind it is; and the
//! seeks, pauses and commits.

use std::collections::BTreeMap;

use streamhouse_core::TopicPartition;
use tokio::time::timeout;

use super::{Consumer, ConsumerStats, Lag, assignment::Position, commit::Committer};
use crate::{
    admin::{CommittedOffset, OffsetAt, PartitionOffset, fetch_offsets, list_offsets},
    error::{Error, Result},
};

impl Consumer {
    /// Reads the group's share of these topics from now on, or without a group all of them, instead of what it read before.
    pub async fn subscribe<T: Into<String>>(&mut self, topics: impl IntoIterator<Item = T>) -> Result<()> {
        self.unsubscribe().await?;
        self.join(topics.into_iter().map(Into::into).collect());
        Ok(())
    }

    /// Reads exactly these partitions from now on, instead of what it read before.
    pub async fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        self.unsubscribe().await?;
        self.take(partitions.into_iter().collect());
        Ok(())
    }

    /// Reads nothing any more: commits (in automatic mode) and leaves the group.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.shared.assignment.lock().follow(&[], false);
        let committed = self.give_up_all().await;
        if let Some(membership) = self.membership.take() {
            membership.leave(&self.shared).await;
        }
        committed
    }

    /// Commits (in automatic mode), tells the listener, leaves the group and ends. Later calls fail with
    /// [`Error::Closed`]; closing again does nothing.
    pub async fn close(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        self.unsubscribe().await
    }

    /// The partitions it reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.assignment.lock().partitions()
    }

    /// The topics that are subscribed; none with `assign`.
    pub fn subscription(&self) -> Vec<String> {
        match &self.membership {
            Some(membership) => membership.topics().to_vec(),
            None => {
                let followed = self.shared.assignment.lock().followed();
                followed.iter().map(|topic| topic.to_string()).collect()
            }
        }
    }

    /// Its id in the group; empty outside of one.
    pub fn member_id(&self) -> String {
        self.shared.identity.lock().member_id.clone()
    }

    /// The group's generation that it belongs to; -1 outside of one.
    pub fn generation(&self) -> i32 {
        self.shared.identity.lock().generation
    }

    /// Commits the positions after the records returned so far. Fails when the group goes on without this member.
    pub async fn commit(&self) -> Result<()> {
        self.committer().commit().await
    }

    /// Commits these offsets: each the next to read.
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<()> {
        self.committer().commit_offsets(offsets).await
    }

    /// [`Consumer::commit`] in the background; the callback gets the outcome.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        let committer = self.committer();
        let offsets = committer.positions();
        tokio::spawn(async move { callback(committer.commit_offsets(offsets).await) });
    }

    /// Commits for this consumer from elsewhere, such as a task that processes its records.
    pub fn committer(&self) -> Committer {
        Committer::new(self.shared.clone())
    }

    /// Reads on at this offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        if offset < 0 {
            return Err(Error::config(
                "cannot seek to a negative offset; use seek_to_beginning or seek_to_end",
            ));
        }
        self.move_to(partition, Position::At(offset))
    }

    /// Reads on at the oldest record of these partitions; of all it reads when none is named.
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.move_all(partitions, Position::Lookup(OffsetAt::Earliest))
    }

    /// Reads on after the newest record of these partitions; of all it reads when none is named.
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.move_all(partitions, Position::Lookup(OffsetAt::Latest))
    }

    /// Reads on at the first record whose timestamp (milliseconds since the Unix epoch) is this or later, in these
    /// partitions; in all it reads when none is named. Where no record is that late: at the end.
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
        self.shared.assignment.lock().seek(partition, to)?;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The next offset `poll` returns. Waits until it is known, at most `api_timeout`.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64> {
        let deadline = self.shared.api_deadline();
        loop {
            let news = self.shared.news.notified();
            if let Some(offset) = self.shared.assignment.lock().position(partition)? {
                return Ok(offset);
            }
            if timeout(deadline.left(), news).await.is_err() {
                return Err(Error::timeout("finding the position", deadline.allowed(), None));
            }
        }
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        let group = self.shared.config.group.as_deref().ok_or_else(|| {
            Error::State("a consumer without a group has no committed offsets; set group".into())
        })?;
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
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        partitions
            .iter()
            .try_for_each(|partition| self.shared.assignment.lock().pause(partition, true))
    }

    /// Undoes [`Consumer::pause`].
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        partitions
            .iter()
            .try_for_each(|partition| self.shared.assignment.lock().pause(partition, false))?;
        self.shared.changed.notify_one();
        Ok(())
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

//! [`OffsetCommitter`]: commits offsets for a consumer's group, one commit after the other.
//!
//! The content of a commit is fixed at the call: its offsets, its serial, and the ownership epoch
//! of each partition. An older commit that runs after a newer one leaves out what the newer one
//! covered, and nothing is committed for a partition that was revoked or lost since the call. Each
//! commit runs in its own task, so it keeps its place even if the caller's future is dropped.

mod ledger;

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::{Error as ClusterError, TopicPartition, protocol::v1};
use tokio::time::{Instant, timeout};

pub(super) use self::ledger::CommitLedger;
use super::{
    ConsumerShared,
    assignment::AssignmentState,
    membership::{CommitPermit, CommitVerdict, MemberIdentity},
};
use crate::{
    connection::{self, item_error},
    error::{Error, Result},
    retry::Deadline,
};

/// An offset to commit, with metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OffsetAndMetadata {
    /// Offset of the next record to read.
    pub offset: i64,
    /// Metadata stored with the offset;
    /// [`Consumer::committed`](super::Consumer::committed) returns it.
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// Creates an offset with metadata.
    pub fn new(offset: i64, metadata: impl Into<String>) -> Self {
        Self {
            offset,
            metadata: metadata.into(),
        }
    }
}

impl From<i64> for OffsetAndMetadata {
    fn from(offset: i64) -> Self {
        Self::new(offset, "")
    }
}

/// One offset of a commit.
#[derive(Debug, Clone)]
struct CommitEntry {
    at: OffsetAndMetadata,
    /// Ownership epoch of the partition at the call; `None` if it was not assigned, or is assigned
    /// manually.
    ownership_epoch: Option<u64>,
    /// Id of the topic that the offset belongs to, empty while it is not known.
    topic_id: Arc<str>,
}

/// Content of a commit, as of the call.
#[derive(Debug)]
pub(super) struct CommitSnapshot {
    /// Place in the order of all commits.
    serial: u64,
    entries: BTreeMap<TopicPartition, CommitEntry>,
    /// Whether a group member commits for its assigned partitions; otherwise, the assignment is
    /// manual.
    by_member: bool,
    /// Whether the group had removed the member.
    membership_lost: bool,
}

/// Commits offsets for a consumer. Cheap to clone. After the consumer is closed or dropped, every
/// commit fails.
#[derive(Debug, Clone)]
pub struct OffsetCommitter {
    shared: Arc<ConsumerShared>,
}

impl OffsetCommitter {
    pub(super) fn new(shared: Arc<ConsumerShared>) -> Self {
        Self { shared }
    }

    /// Commits the positions after the records that `poll` has returned so far.
    ///
    /// # Errors
    /// As [`OffsetCommitter::commit_offsets`].
    pub async fn commit(&self) -> Result<()> {
        self.check_open()?;
        let commit = self.snapshot_of_all();
        self.commit_until(commit, self.shared.api_deadline()).await
    }

    /// Commits these offsets. Each is the offset of the next record to read, with or without
    /// metadata. During a rebalance in which the consumer keeps its partitions, the commit waits.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] for a partition that is not assigned to the consumer; the other
    /// partitions are committed all the same. [`Error::NotMember`], REBALANCE_IN_PROGRESS or
    /// ILLEGAL_GENERATION if the group has removed the member; the next `poll` joins again.
    /// [`Error::NoGroup`] without a group, [`Error::Config`] for a negative offset,
    /// [`Error::Closed`] after the consumer's end, [`Error::Timeout`] after `api_timeout`.
    pub async fn commit_offsets<O: Into<OffsetAndMetadata>>(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, O)>,
    ) -> Result<()> {
        self.check_open()?;
        let offsets = offsets.into_iter().map(|(key, at)| (key, at.into())).collect();
        let commit = self.snapshot(|_| offsets);
        self.commit_until(commit, self.shared.api_deadline()).await
    }

    /// Commits the current positions in the background and calls `callback` with the result.
    /// Whatever the order in which commits run, one never undoes a newer one.
    pub fn commit_async(&self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        if let Err(error) = self.check_open() {
            return callback(Err(error));
        }
        let running = self.start(self.snapshot_of_all(), self.shared.api_deadline());
        tokio::spawn(async move { callback(running.await.unwrap_or(Err(Error::Closed))) });
    }

    /// Commits the current positions. A failure is left to the next automatic commit.
    pub(super) fn commit_in_background(&self, deadline: Deadline) {
        let commit = self.snapshot_of_all();
        if commit.entries.is_empty() {
            return;
        }
        let running = self.start(commit, deadline);
        tokio::spawn(async move {
            if let Ok(Err(error)) = running.await {
                tracing::debug!(%error, "an automatic commit failed; the next one includes its offsets");
            }
        });
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Returns the positions that are not committed.
    pub(super) fn snapshot_of_all(&self) -> CommitSnapshot {
        self.snapshot(positions)
    }

    /// Returns the positions of these partitions that are not committed.
    pub(super) fn snapshot_of(&self, partitions: &[TopicPartition]) -> CommitSnapshot {
        self.snapshot(|assignment| {
            let mut positions = positions(assignment);
            positions.retain(|key, _| partitions.contains(key));
            positions
        })
    }

    /// Returns the offsets with everything they are bound to now.
    fn snapshot(
        &self,
        offsets: impl FnOnce(&AssignmentState) -> BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> CommitSnapshot {
        let member = self.shared.member.lock();
        let assignment = self.shared.assignment.lock();
        let entry = |(key, at): (TopicPartition, OffsetAndMetadata)| {
            let entry = CommitEntry {
                ownership_epoch: member.ownership_epoch(&key),
                topic_id: assignment.topic_id(&key, at.offset),
                at,
            };
            (key, entry)
        };
        let offsets = offsets(&assignment);
        CommitSnapshot {
            serial: self.shared.next_commit_serial(),
            entries: offsets.into_iter().map(entry).collect(),
            by_member: member.is_subscribed(),
            membership_lost: member.has_lost_partitions(),
        }
    }

    pub(super) async fn commit_until(&self, commit: CommitSnapshot, deadline: Deadline) -> Result<()> {
        self.start(commit, deadline).await.unwrap_or(Err(Error::Closed))
    }

    fn start(&self, commit: CommitSnapshot, deadline: Deadline) -> tokio::task::JoinHandle<Result<()>> {
        let shared = self.shared.clone();
        let pending = PendingCommitGuard::new(&shared, commit.serial);
        tokio::spawn(async move {
            let _pending = pending;
            run_commit(&shared, commit, deadline).await
        })
    }
}

fn positions(assignment: &AssignmentState) -> BTreeMap<TopicPartition, OffsetAndMetadata> {
    let positions = assignment.uncommitted();
    positions.into_iter().map(|(key, at)| (key, at.into())).collect()
}

/// Registers a commit as pending until it is dropped.
struct PendingCommitGuard {
    shared: Arc<ConsumerShared>,
    serial: u64,
}

impl PendingCommitGuard {
    fn new(shared: &Arc<ConsumerShared>, serial: u64) -> Self {
        shared.pending_commits.send_modify(|pending| {
            pending.insert(serial);
        });
        Self {
            shared: shared.clone(),
            serial,
        }
    }
}

impl Drop for PendingCommitGuard {
    fn drop(&mut self) {
        self.shared.pending_commits.send_modify(|pending| {
            pending.remove(&self.serial);
        });
    }
}

async fn run_commit(shared: &ConsumerShared, mut commit: CommitSnapshot, deadline: Deadline) -> Result<()> {
    if shared.config.group.is_none() {
        return Err(Error::no_group("committing offsets"));
    }
    if commit.membership_lost {
        return Err(Error::NotMember);
    }
    if let Some((partition, entry)) = commit.entries.iter().find(|(_, entry)| entry.at.offset < 0) {
        return Err(Error::Config(format!(
            "cannot commit offset {} for {partition}; use 0 or more",
            entry.at.offset
        )));
    }
    if commit.entries.is_empty() {
        return Ok(());
    }
    let late = || Error::timeout("waiting for the commits before", deadline.timeout(), None);
    let mut ledger = timeout(deadline.remaining(), shared.commits.lock())
        .await
        .map_err(|_| late())?;
    let mut changes = shared.member_changes.subscribe();
    let mut gone = None;
    loop {
        changes.borrow_and_update();
        commit
            .entries
            .retain(|key, _| !ledger.is_superseded(key, commit.serial));
        let identity = {
            let member = shared.member.lock();
            if commit.by_member {
                commit.entries.retain(|key, entry| {
                    let held = entry.ownership_epoch.is_some()
                        && member.ownership_epoch(key) == entry.ownership_epoch;
                    if !held && gone.is_none() {
                        gone = Some(rejection_error(key, member.has_lost_partitions()));
                    }
                    held
                });
                member.commit_permit()
            } else {
                CommitPermit::Send(MemberIdentity {
                    member_id: String::new(),
                    generation: -1,
                })
            }
        };
        if commit.entries.is_empty() {
            return gone.map_or(Ok(()), Err);
        }
        if let CommitPermit::Send(identity) = identity {
            match send_commit(shared, &commit, &identity, deadline, &mut ledger).await {
                Ok(()) => return gone.map_or(Ok(()), Err),
                Err(error) if !is_stale_rejection(shared, &identity, &error) => return Err(error),
                Err(_) => {}
            }
            changes.borrow_and_update();
            if shared.member.lock().commit_permit() != CommitPermit::Send(identity) {
                continue;
            }
        }
        if timeout(deadline.remaining(), changes.changed()).await.is_err() {
            return Err(Error::timeout(
                "waiting for the group to rebalance",
                deadline.timeout(),
                None,
            ));
        }
    }
}

fn rejection_error(partition: &TopicPartition, lost: bool) -> Error {
    if lost {
        return Error::NotMember;
    }
    Error::NotAssigned {
        partition: partition.clone(),
    }
}

/// Returns whether a rejection is obsolete, because the member has moved on since the request.
fn is_stale_rejection(shared: &ConsumerShared, sent: &MemberIdentity, error: &Error) -> bool {
    match error {
        Error::Cluster(error) => {
            let verdict =
                shared.update_member(|member| member.handle_commit_rejection(sent, error, Instant::now()));
            verdict == CommitVerdict::Retry
        }
        _ => false,
    }
}

/// Sends the remaining offsets of a commit, and records those that were committed.
async fn send_commit(
    shared: &ConsumerShared,
    commit: &CommitSnapshot,
    identity: &MemberIdentity,
    deadline: Deadline,
    ledger: &mut CommitLedger,
) -> Result<()> {
    let request = commit_request(shared, commit, identity);
    let answer = shared
        .client
        .call_coordinator(shared.group(), "committing offsets", deadline, |channel| {
            let request = request.clone();
            async move { connection::group_client(channel).commit_offsets(request).await }
        })
        .await?;
    let mut failed: Option<ClusterError> = None;
    for result in answer.offsets {
        let key = TopicPartition::new(result.topic, result.partition);
        match item_error(result.error) {
            Some(error) => failed = Some(error),
            None => {
                let Some(entry) = commit.entries.get(&key) else {
                    continue;
                };
                ledger.mark_applied(&key, commit.serial);
                let member = shared.member.lock();
                if !commit.by_member || member.ownership_epoch(&key) == entry.ownership_epoch {
                    shared.assignment.lock().mark_committed(&key, entry.at.offset);
                }
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn commit_request(
    shared: &ConsumerShared,
    commit: &CommitSnapshot,
    identity: &MemberIdentity,
) -> v1::CommitOffsetsRequest {
    let offset = |(key, entry): (&TopicPartition, &CommitEntry)| v1::CommitOffset {
        topic: key.topic.clone(),
        partition: key.partition,
        offset: entry.at.offset,
        leader_epoch: -1,
        metadata: entry.at.metadata.clone(),
        topic_id: entry.topic_id.to_string(),
    };
    let instance = shared.config.group_instance_id.clone();
    v1::CommitOffsetsRequest {
        group_id: shared.group().to_owned(),
        generation: identity.generation,
        member_id: identity.member_id.clone(),
        group_instance_id: instance.filter(|_| commit.by_member).unwrap_or_default(),
        offsets: commit.entries.iter().map(offset).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Consumer, metrics::MetricsRegistry};

    #[tokio::test]
    async fn a_commit_waits_for_those_before_it_no_longer_than_it_may() {
        let consumer = Consumer::builder()
            .bootstrap("127.0.0.1:1")
            .metrics_registry(MetricsRegistry::new())
            .group("g")
            .build()
            .await
            .unwrap();
        let committer = consumer.committer();
        let turn = consumer.shared.commits.lock().await;
        let commit = committer.snapshot(|_| [(TopicPartition::new("t", 0), 1.into())].into());
        let deadline = Deadline::after(Duration::from_millis(20));
        let error = committer.commit_until(commit, deadline).await.unwrap_err();
        let expected = Error::timeout("waiting for the commits before", deadline.timeout(), None);
        assert_eq!(error, expected);
        drop(turn);
    }
}

//! [`Committer`]: commits offsets for a consumer's group, one commit after the other, so that an older one never
//! overtakes a newer one.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::{ErrorCode, TopicPartition, protocol::v1};

use super::Shared;
use crate::{
    connection::{self, item_error},
    error::{Error, Result},
    retry::Deadline,
};

/// Who the consumer is in its group, shared by its tasks.
#[derive(Debug, Clone)]
pub(super) struct MemberIdentity {
    /// Whether topics are subscribed: then only a member may commit.
    pub(super) subscribed: bool,
    pub(super) member_id: String,
    /// -1 while not a member.
    pub(super) generation: i32,
    /// The group rebalances, or should.
    pub(super) rejoin: bool,
    /// The group went on without this member: what it held is somebody else's.
    pub(super) lost: bool,
    /// The membership cannot go on: why.
    pub(super) fatal: Option<streamhouse_core::Error>,
    pub(super) last_poll: tokio::time::Instant,
    pub(super) polling: bool,
}

impl Default for MemberIdentity {
    fn default() -> Self {
        Self {
            subscribed: false,
            member_id: String::new(),
            generation: -1,
            rejoin: false,
            lost: false,
            fatal: None,
            last_poll: tokio::time::Instant::now(),
            polling: false,
        }
    }
}

impl MemberIdentity {
    /// Takes in what an error says about the membership.
    pub(super) fn learn(&mut self, error: &streamhouse_core::Error) {
        match error.code() {
            ErrorCode::RebalanceInProgress => self.rejoin = true,
            ErrorCode::IllegalGeneration => self.lost = true,
            ErrorCode::UnknownMemberId => {
                self.lost = true;
                self.member_id.clear();
            }
            ErrorCode::FencedInstanceId => {
                self.lost = true;
                self.fatal = Some(error.clone());
            }
            _ => {}
        }
    }
}

/// Commits offsets for a consumer. Cheap to clone; works as long as its consumer lives.
#[derive(Debug, Clone)]
pub struct Committer {
    shared: Arc<Shared>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Commits the positions after the records that `poll` returned so far.
    pub async fn commit(&self) -> Result<()> {
        self.commit_offsets(self.positions()).await
    }

    /// Commits these offsets: each the next to read. Fails with REBALANCE_IN_PROGRESS, ILLEGAL_GENERATION or
    /// UNKNOWN_MEMBER_ID when the group changes: the next `poll` joins again.
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<()> {
        self.commit_until(offsets.into_iter().collect(), self.shared.api_deadline())
            .await
    }

    /// The positions that are not committed yet.
    pub(super) fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.shared.assignment.lock().uncommitted()
    }

    pub(super) async fn commit_until(
        &self,
        offsets: BTreeMap<TopicPartition, i64>,
        deadline: Deadline,
    ) -> Result<()> {
        let group = self
            .shared
            .config
            .group
            .clone()
            .ok_or_else(|| Error::State("a consumer without a group cannot commit; set group".into()))?;
        if offsets.is_empty() {
            return Ok(());
        }
        if let Some((partition, offset)) = offsets.iter().find(|(_, offset)| **offset < 0) {
            return Err(Error::Config(format!(
                "cannot commit offset {offset} for {partition}; take 0 or more"
            )));
        }
        let _turn = self.shared.commits.lock().await;
        let request = self.request(group.clone(), &offsets)?;
        let answer = self
            .shared
            .client
            .call_coordinator(&group, "committing offsets", deadline, |channel| {
                let request = request.clone();
                async move { connection::group(channel).commit_offsets(request).await }
            });
        let answer = answer.await.inspect_err(|error| self.learn(error))?;
        let mut failed = None;
        for result in answer.offsets {
            let key = TopicPartition::new(result.topic, result.partition);
            match item_error(result.error) {
                Some(error) => failed = Some(error),
                None => {
                    if let Some(offset) = offsets.get(&key) {
                        self.shared.assignment.lock().committed(&key, *offset);
                    }
                }
            }
        }
        match failed.map(Error::from) {
            Some(error) => {
                self.learn(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn request(
        &self,
        group_id: String,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<v1::CommitOffsetsRequest> {
        let offsets = {
            let assignment = self.shared.assignment.lock();
            let offset = |(key, offset): (&TopicPartition, &i64)| v1::CommitOffset {
                topic: key.topic.clone(),
                partition: key.partition,
                offset: *offset,
                leader_epoch: -1,
                metadata: String::new(),
                topic_id: assignment.topic_id(key, *offset).to_string(),
            };
            offsets.iter().map(offset).collect()
        };
        let identity = self.shared.identity.lock();
        if identity.subscribed && (identity.generation < 0 || identity.lost) {
            return Err(Error::State(
                "the consumer is no member of its group at the moment; poll to join".into(),
            ));
        }
        Ok(v1::CommitOffsetsRequest {
            group_id,
            generation: if identity.subscribed {
                identity.generation
            } else {
                -1
            },
            member_id: if identity.subscribed {
                identity.member_id.clone()
            } else {
                String::new()
            },
            group_instance_id: match &self.shared.config.group_instance_id {
                Some(id) if identity.subscribed => id.clone(),
                _ => String::new(),
            },
            offsets,
        })
    }

    fn learn(&self, error: &Error) {
        if let Error::Cluster(error) = error {
            self.shared.identity.lock().learn(error);
            self.shared.news.notify_one();
        }
    }
}

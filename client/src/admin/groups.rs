//! Consumer groups: list, describe, delete; read and reset their committed offsets.

use std::collections::{BTreeMap, HashMap};

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition, protocol::v1};

use super::{Admin, GroupInfo, GroupListing, GroupOffset, OffsetReset};
use crate::{
    connection::{self, item_error},
    error::Result,
    queries::{CommittedOffset, OffsetSpec, PartitionOffset, fetch_offsets, list_offsets_each},
};

impl Admin {
    /// Returns all groups, sorted by name.
    ///
    /// # Errors
    /// [`Error::Cluster`](crate::Error::Cluster) and [`Error::Timeout`](crate::Error::Timeout).
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let (answer, _) = self
            .client
            .call_any_agent(
                "listing groups",
                self.client.api_deadline(),
                |channel| async move {
                    connection::group_client(channel)
                        .list_groups(v1::ListGroupsRequest {})
                        .await
                },
            )
            .await?;
        let mut groups: Vec<_> = answer
            .groups
            .into_iter()
            .map(GroupListing::from_protocol)
            .collect();
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(groups)
    }

    /// Returns a group with its members and their assignments.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if there is no such group; [`Error::Cluster`](crate::Error::Cluster) and
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub async fn describe_group(&self, group: &str) -> Result<GroupInfo> {
        let deadline = self.client.api_deadline();
        let answer =
            self.client
                .call_coordinator(group, "describing the group", deadline, |channel| async move {
                    connection::group_client(channel)
                        .describe_group(v1::DescribeGroupRequest {
                            group_id: group.to_owned(),
                        })
                        .await
                });
        Ok(GroupInfo::from_protocol(answer.await?))
    }

    /// Deletes a group and its committed offsets. The group must have no members.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP if the group has members, GROUP_ID_NOT_FOUND if there is no such group;
    /// [`Error::Cluster`](crate::Error::Cluster) and [`Error::Timeout`](crate::Error::Timeout).
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let deadline = self.client.api_deadline();
        let answer =
            self.client
                .call_coordinator(group, "deleting the group", deadline, |channel| async move {
                    connection::group_client(channel)
                        .delete_group(v1::DeleteGroupRequest {
                            group_id: group.to_owned(),
                        })
                        .await
                });
        answer.await.map(|_| ())
    }

    /// Returns a group's committed offsets for these partitions, or for all partitions if
    /// `partitions` is empty. Partitions without a committed offset are omitted.
    ///
    /// # Errors
    /// The error of the first partition that fails; [`Error::Cluster`](crate::Error::Cluster) and
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub async fn fetch_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        fetch_offsets(&self.client, group, partitions, self.client.api_deadline()).await
    }

    /// Returns a group's progress, with its lag in records, for every partition that it has
    /// committed an offset for or that is assigned to a member.
    ///
    /// # Errors
    /// As [`Admin::describe_group`], [`Admin::fetch_offsets`] and [`Admin::list_offsets`].
    pub async fn group_offsets(&self, group: &str) -> Result<Vec<GroupOffset>> {
        let info = self.describe_group(group).await?;
        let committed = self.fetch_offsets(group, &[]).await?;
        let mut readers = HashMap::new();
        for member in &info.members {
            for partition in &member.assignment {
                readers.insert(partition.clone(), member);
            }
        }
        let mut partitions: Vec<_> = committed.keys().chain(readers.keys()).cloned().collect();
        partitions.sort();
        partitions.dedup();
        let starts = self.offsets_of(&partitions, OffsetSpec::Earliest).await?;
        let ends = self.offsets_of(&partitions, OffsetSpec::Latest).await?;
        let progress = partitions.into_iter().map(|partition| {
            // The committed offsets of a deleted topic remain for a while; such a partition has no
            // lag.
            let (start, end) = (starts.get(&partition).copied(), ends.get(&partition).copied());
            let (start, end) = (start.unwrap_or(0), end.unwrap_or(0));
            let committed = committed.get(&partition).cloned();
            let next = committed.as_ref().map_or(start, |at| at.offset.max(start));
            let reader = readers.get(&partition);
            GroupOffset {
                committed,
                log_start_offset: start,
                high_watermark: end,
                lag: (end - next).max(0),
                member_id: reader.map(|member| member.member_id.clone()).unwrap_or_default(),
                client_id: reader.map(|member| member.client_id.clone()).unwrap_or_default(),
                partition,
            }
        });
        Ok(progress.collect())
    }

    /// Returns an offset of each of these partitions, without those that no longer exist.
    async fn offsets_of(
        &self,
        partitions: &[TopicPartition],
        at: OffsetSpec,
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let queries = partitions
            .iter()
            .map(|partition| (partition.clone(), (at, String::new())))
            .collect();
        let found = list_offsets_each(&self.client, queries, self.client.api_deadline()).await?;
        let offset = |(partition, found): (_, Result<PartitionOffset, ClusterError>)| match found {
            Ok(at) => Some(Ok((partition, at.offset))),
            Err(error) if error.code() == ErrorCode::UnknownTopicOrPartition => None,
            Err(error) => Some(Err(error.into())),
        };
        found.into_iter().filter_map(offset).collect()
    }

    /// Sets the committed offsets of a group that has no members. With `dry_run`, only checks
    /// whether that is possible.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP if the group has members; the error of the first partition that fails;
    /// [`Error::Cluster`](crate::Error::Cluster) and [`Error::Timeout`](crate::Error::Timeout).
    pub async fn reset_offsets(&self, group: &str, offsets: &[OffsetReset], dry_run: bool) -> Result<()> {
        let request = v1::ResetOffsetsRequest {
            group_id: group.to_owned(),
            offsets: offsets
                .iter()
                .map(|reset| v1::CommitOffset {
                    topic: reset.partition.topic.clone(),
                    partition: reset.partition.partition,
                    offset: reset.offset,
                    leader_epoch: -1,
                    metadata: String::new(),
                    topic_id: String::new(),
                })
                .collect(),
            validate_only: dry_run,
        };
        let deadline = self.client.api_deadline();
        let answer = self
            .client
            .call_coordinator(group, "resetting offsets", deadline, |channel| {
                let request = request.clone();
                async move { connection::group_client(channel).reset_offsets(request).await }
            });
        match answer
            .await?
            .offsets
            .into_iter()
            .find_map(|offset| item_error(offset.error))
        {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

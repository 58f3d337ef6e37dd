//! Topics: create, list, describe, alter, delete, and records deleted from their start.

use std::time::Duration;

use streamhouse_core::{ErrorCode, TopicPartition, protocol::v1};

use super::{Admin, NewTopic, TopicChange, TopicInfo, TopicListing};
use crate::{
    connection,
    error::{Error, Result},
    retry::Deadline,
};

impl Admin {
    /// Creates a topic. A retry that finds its own first try succeeded is a success.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo> {
        let request = v1::CreateTopicRequest {
            name: topic.name.clone(),
            partitions: topic.partitions,
            config: topic.config.into_iter().collect(),
            validate_only: topic.validate_only,
        };
        let answer = self
            .client
            .try_any("creating the topic", self.client.api_deadline(), |channel| {
                let request = request.clone();
                async move { connection::admin(channel).create_topic(request).await }
            })
            .await;
        match answer {
            Ok((description, _)) => Ok(description.into()),
            Err((error, true)) if error.code() == ErrorCode::TopicAlreadyExists => {
                self.describe_topic(&topic.name).await
            }
            Err((error, _)) => Err(error),
        }
    }

    /// All topics, by name; the cluster's own only when asked for.
    pub async fn list_topics(&self, include_internal: bool) -> Result<Vec<TopicListing>> {
        let (answer, _) = self
            .client
            .call_any(
                "listing topics",
                self.client.api_deadline(),
                |channel| async move {
                    connection::admin(channel)
                        .list_topics(v1::ListTopicsRequest { include_internal })
                        .await
                },
            )
            .await?;
        let mut topics: Vec<_> = answer.topics.into_iter().map(TopicListing::from).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// A topic with its settings and partitions. One that does not exist is an error at once.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicInfo> {
        self.describe_until(name, self.client.api_deadline()).await
    }

    async fn describe_until(&self, name: &str, deadline: Deadline) -> Result<TopicInfo> {
        let answer = self
            .client
            .try_any("describing the topic", deadline, |channel| async move {
                settle_missing(
                    connection::admin(channel)
                        .describe_topic(v1::DescribeTopicRequest {
                            name: name.to_owned(),
                        })
                        .await,
                )
            });
        let (answer, _) = answer.await.map_err(|(error, _)| error)?;
        match answer {
            Ok(description) => Ok(description.into()),
            Err(status) => Err(status.into()),
        }
    }

    /// Changes a topic and returns what it is now.
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            partitions: change.partitions.unwrap_or(0),
            set_config: change.set.into_iter().collect(),
            reset_config: change.reset,
            validate_only: change.validate_only,
        };
        let (answer, _) = self
            .client
            .call_any("altering the topic", self.client.api_deadline(), |channel| {
                let request = request.clone();
                async move { settle_missing(connection::admin(channel).alter_topic(request).await) }
            })
            .await?;
        Ok(answer?.into())
    }

    /// Deletes a topic. A retry that finds its own first try succeeded is a success.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let (answer, unsure) = self
            .client
            .call_any(
                "deleting the topic",
                self.client.api_deadline(),
                |channel| async move {
                    settle_missing(
                        connection::admin(channel)
                            .delete_topic(v1::DeleteTopicRequest {
                                name: name.to_owned(),
                            })
                            .await,
                    )
                },
            )
            .await?;
        match answer {
            Ok(_) => Ok(()),
            Err(_) if unsure => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// Deletes a partition's records before an offset; `None` deletes all up to the high watermark. Returns the new
    /// first offset.
    pub async fn delete_records(&self, partition: &TopicPartition, before: Option<i64>) -> Result<i64> {
        if before.is_some_and(|offset| offset < 0) {
            return Err(Error::config(
                "the offset to delete before is negative; take 0 or more",
            ));
        }
        let request = v1::DeleteRecordsRequest {
            topic: partition.topic.clone(),
            partition: partition.partition,
            before_offset: before.unwrap_or(-1),
        };
        let (answer, _) = self
            .client
            .call_any("deleting records", self.client.api_deadline(), |channel| {
                let request = request.clone();
                async move { settle_missing(connection::admin(channel).delete_records(request).await) }
            })
            .await?;
        Ok(answer?.log_start_offset)
    }

    /// Waits until a topic exists and every partition has a leader, so that nothing sent to it has to wait.
    pub async fn wait_for_topic(&self, name: &str, timeout: Duration) -> Result<TopicInfo> {
        let deadline = Deadline::after(timeout);
        let mut backoff = self.client.backoff();
        loop {
            let last = match self.describe_until(name, deadline).await {
                Ok(topic) if topic.partitions.iter().all(|p| !p.leader_address.is_empty()) => {
                    return Ok(topic);
                }
                Ok(_) => None,
                Err(Error::Cluster(error)) if error.is_retryable() => Some(error),
                Err(error) => return Err(error),
            };
            if deadline.is_over() {
                return Err(Error::timeout(
                    format!("waiting for the topic {name:?}"),
                    timeout,
                    last,
                ));
            }
            tokio::time::sleep(backoff.next(Duration::ZERO).min(deadline.left())).await;
        }
    }
}

/// "No such topic" is worth a retry where one was just created; a person who asks for one wants to know now.
fn settle_missing<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<tonic::Response<Result<T, tonic::Status>>, tonic::Status> {
    match answer {
        Ok(response) => Ok(response.map(Ok)),
        Err(status)
            if streamhouse_core::Error::from(status.clone()).code() == ErrorCode::UnknownTopicOrPartition =>
        {
            Ok(tonic::Response::new(Err(status)))
        }
        Err(status) => Err(status),
    }
}

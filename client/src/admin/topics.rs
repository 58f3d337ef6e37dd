//! Topics: create, list, describe, alter, delete; delete records from the start of a partition.

use std::time::Duration;

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition, protocol::v1};

use super::{Admin, NewTopic, TopicChange, TopicInfo, TopicListing};
use crate::{
    connection,
    error::{Error, Result},
    queries::list_topics,
    retry::Deadline,
};

impl Admin {
    /// Creates a topic. A retry succeeds if an earlier attempt of the same call has created the
    /// topic.
    ///
    /// # Errors
    /// TOPIC_ALREADY_EXISTS, INVALID_TOPIC or INVALID_CONFIG; other [`Error::Cluster`] errors and
    /// [`Error::Timeout`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Admin, Result};
    /// # async fn example(admin: Admin) -> Result<()> {
    /// use streamhouse_client::admin::NewTopic;
    ///
    /// let topic = admin.create_topic(NewTopic::new("orders", 6)).await?;
    /// assert_eq!(topic.partitions.len(), 6);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo> {
        let request = v1::CreateTopicRequest {
            name: topic.name.clone(),
            partitions: topic.partitions,
            config: topic.config.into_iter().collect(),
            validate_only: topic.validate_only,
        };
        let answer = self
            .client
            .try_any_agent("creating the topic", self.client.api_deadline(), |channel| {
                let request = request.clone();
                async move { connection::admin_client(channel).create_topic(request).await }
            })
            .await;
        match answer {
            Ok((description, _)) => Ok(TopicInfo::from_protocol(description)),
            Err((error, true)) if error.code() == ErrorCode::TopicAlreadyExists => {
                self.describe_topic(&topic.name).await
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Returns all topics, sorted by name; internal topics only if `include_internal` is true.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn list_topics(&self, include_internal: bool) -> Result<Vec<TopicListing>> {
        let deadline = self.client.api_deadline();
        let topics = list_topics(&self.client, include_internal, deadline).await?;
        Ok(topics.into_iter().map(TopicListing::from_protocol).collect())
    }

    /// Returns a topic with its settings and partitions.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION, without a retry, if there is no such topic; other
    /// [`Error::Cluster`] errors and [`Error::Timeout`].
    pub async fn describe_topic(&self, name: &str) -> Result<TopicInfo> {
        self.describe_topic_until(name, self.client.api_deadline()).await
    }

    async fn describe_topic_until(&self, name: &str, deadline: Deadline) -> Result<TopicInfo> {
        let answer = self
            .client
            .try_any_agent("describing the topic", deadline, |channel| async move {
                fail_fast_when_missing(
                    connection::admin_client(channel)
                        .describe_topic(v1::DescribeTopicRequest {
                            name: name.to_owned(),
                        })
                        .await,
                )
            });
        let (answer, _) = answer.await.map_err(|(error, _)| error)?;
        match answer {
            Ok(description) => Ok(TopicInfo::from_protocol(description)),
            Err(status) => Err(Error::from_status(status)),
        }
    }

    /// Changes a topic and returns its new description.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS or INVALID_CONFIG; other [`Error::Cluster`]
    /// errors and [`Error::Timeout`].
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            partitions: change.partitions.unwrap_or(0),
            set_config: change.set.into_iter().collect(),
            reset_config: change.reset,
            validate_only: change.validate_only,
        };
        let (answer, _) =
            self.client
                .call_any_agent("altering the topic", self.client.api_deadline(), |channel| {
                    let request = request.clone();
                    async move {
                        fail_fast_when_missing(connection::admin_client(channel).alter_topic(request).await)
                    }
                })
                .await?;
        answer.map(TopicInfo::from_protocol).map_err(Error::from_status)
    }

    /// Deletes a topic. A retry succeeds if an earlier attempt of the same call has deleted the
    /// topic.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION if there is no such topic; other [`Error::Cluster`] errors and
    /// [`Error::Timeout`].
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let (answer, unsure) = self
            .client
            .call_any_agent(
                "deleting the topic",
                self.client.api_deadline(),
                |channel| async move {
                    fail_fast_when_missing(
                        connection::admin_client(channel)
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
            Err(status) => Err(Error::from_status(status)),
        }
    }

    /// Deletes a partition's records before an offset, or all records up to the high watermark if
    /// `before` is `None`. Returns the new log start offset.
    ///
    /// # Errors
    /// [`Error::Config`] for a negative offset, OFFSET_OUT_OF_RANGE for one beyond the high
    /// watermark; other [`Error::Cluster`] errors and [`Error::Timeout`].
    pub async fn delete_records(&self, partition: &TopicPartition, before: Option<i64>) -> Result<i64> {
        if before.is_some_and(|offset| offset < 0) {
            return Err(Error::config(
                "the offset to delete before is negative; use 0 or more",
            ));
        }
        let request = v1::DeleteRecordsRequest {
            topic: partition.topic.clone(),
            partition: partition.partition,
            before_offset: before.unwrap_or(-1),
        };
        let (answer, _) = self
            .client
            .call_any_agent("deleting records", self.client.api_deadline(), |channel| {
                let request = request.clone();
                async move {
                    fail_fast_when_missing(connection::admin_client(channel).delete_records(request).await)
                }
            })
            .await?;
        answer
            .map(|answer| answer.log_start_offset)
            .map_err(Error::from_status)
    }

    /// Waits until a topic exists and all its partitions have a leader, so that records sent to it
    /// need not wait.
    ///
    /// # Errors
    /// [`Error::Timeout`] if that takes longer than `timeout`; UNKNOWN_TOPIC_OR_PARTITION, without
    /// a retry, if there is no such topic; other [`Error::Cluster`] errors.
    pub async fn wait_for_topic(&self, name: &str, timeout: Duration) -> Result<TopicInfo> {
        let deadline = Deadline::after(timeout);
        let mut backoff = self.client.backoff();
        loop {
            let last = match self.describe_topic_until(name, deadline).await {
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
            tokio::time::sleep(backoff.next_delay(Duration::ZERO).min(deadline.remaining())).await;
        }
    }
}

/// Makes UNKNOWN_TOPIC_OR_PARTITION final for this call. It is retryable because a topic may just
/// have been created, but a caller that names a missing topic should see the error at once.
fn fail_fast_when_missing<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<tonic::Response<Result<T, tonic::Status>>, tonic::Status> {
    match answer {
        Ok(response) => Ok(response.map(Ok)),
        Err(status) if ClusterError::from(status.clone()).code() == ErrorCode::UnknownTopicOrPartition => {
            Ok(tonic::Response::new(Err(status)))
        }
        Err(status) => Err(status),
    }
}

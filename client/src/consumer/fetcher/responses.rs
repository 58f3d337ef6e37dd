//! Results of fetches and lookups: adds records to the assignment, changes positions, and retries
//! errors with growing delays or lets `poll` return them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use streamhouse_core::{
    Error as ClusterError, ErrorCode, TopicPartition,
    batch::{BatchHeader, BatchIter},
    protocol::v1,
};
use tokio::time::Instant;

use super::{FetchTaskOutcome, Fetcher, fetch_offset};
use crate::{
    connection::item_error,
    consumer::{
        AutoOffsetReset, GAP_LOG_TARGET,
        assignment::{FetchPosition, PartitionRequest, TopicRecreation},
        positions::{PositionLookup, reset_position},
    },
    error::Error,
};

/// Longest delay before a missing or unreadable partition is requested again.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Number of consecutive unknown errors before `poll` returns the error.
const MAX_UNKNOWN_FAILURES: u32 = 5;

impl Fetcher {
    pub(super) fn handle_outcome(&mut self, done: FetchTaskOutcome) {
        match done {
            FetchTaskOutcome::Lookup(lookups) => self.finish_lookups(lookups),
            FetchTaskOutcome::Ends(ends) => {
                let now_ms = self.shared.client.now_ms();
                let mut assignment = self.shared.assignment.lock();
                ends.iter()
                    .for_each(|found| assignment.update_end(&found.wanted, found.end, now_ms));
            }
            FetchTaskOutcome::Fetch {
                uri,
                asked,
                reserved,
                answer,
            } => {
                self.reserved -= reserved;
                self.finish_fetch(&uri, asked, answer);
            }
        }
        self.shared.poll_notifier.notify_one();
    }

    fn finish_lookups(&mut self, lookups: Vec<PositionLookup>) {
        let now = Instant::now();
        for PositionLookup { wanted, found } in lookups {
            match found {
                Ok((position, committed)) => {
                    let mut assignment = self.shared.assignment.lock();
                    assignment.complete_lookup(&wanted, position, committed);
                }
                Err(error @ Error::NoOffset { .. }) => {
                    self.shared.assignment.lock().fail_until_seek(&wanted, error)
                }
                Err(Error::Cluster(error)) => self.handle_read_error(&wanted, error, now),
                Err(error) => {
                    tracing::warn!(partition = %wanted.key, %error, "cannot look up the position; retrying");
                    let mut assignment = self.shared.assignment.lock();
                    let failures = assignment.count_failure(&wanted);
                    let pause = self.shared.client.backoff().delay_after(failures, Duration::ZERO);
                    assignment.retry_after(&wanted, Some(now + pause));
                }
            }
        }
    }

    fn finish_fetch(
        &mut self,
        uri: &Arc<str>,
        asked: Vec<PartitionRequest>,
        answer: Result<v1::FetchResponse, ClusterError>,
    ) {
        let now = Instant::now();
        let Some(agent) = self.agents.get_mut(uri) else {
            return;
        };
        agent.in_flight = agent.in_flight.saturating_sub(1);
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let pause = agent
                    .backoff
                    .next_delay(Duration::from_millis(error.retry_after_ms().into()));
                agent.not_before = Some(now + pause);
                tracing::debug!(agent = %uri, %error, "a fetch failed; retrying with another agent");
                self.metadata.request();
                for wanted in asked {
                    if error.is_retryable() {
                        self.shared.assignment.lock().retry_after(&wanted, None);
                    } else {
                        self.handle_read_error(&wanted, error.clone(), now);
                    }
                }
                return;
            }
        };
        agent.backoff.reset();
        agent.not_before =
            (response.throttle_ms > 0).then(|| now + Duration::from_millis(response.throttle_ms.into()));
        let mut results: HashMap<TopicPartition, v1::PartitionFetchResult> = HashMap::new();
        for result in response.partitions {
            results.insert(
                TopicPartition::new(result.topic.clone(), result.partition),
                result,
            );
        }
        for wanted in asked {
            match results.remove(&wanted.key) {
                Some(result) => self.finish_partition(&wanted, result, now),
                // An agent may omit partitions that no longer fit into the answer.
                None => self.shared.assignment.lock().retry_after(&wanted, None),
            }
        }
    }

    fn finish_partition(
        &self,
        wanted: &PartitionRequest,
        mut result: v1::PartitionFetchResult,
        now: Instant,
    ) {
        let cache = self.shared.client.cache();
        cache.apply_leader_hint(&wanted.key.topic, wanted.key.partition, result.leader.as_ref());
        let now_ms = self.shared.client.now_ms();
        if let Some(error) = item_error(result.error.take()) {
            if result.high_watermark >= 0 {
                let mut assignment = self.shared.assignment.lock();
                assignment.update_end(wanted, result.high_watermark, now_ms);
            }
            if error.code() == ErrorCode::OffsetOutOfRange {
                self.handle_out_of_range(wanted, result.log_start_offset, result.high_watermark);
            } else {
                self.handle_read_error(wanted, error, now);
            }
            return;
        }
        let (batches, damage) = split_batches(&result.records);
        let mut assignment = self.shared.assignment.lock();
        match damage {
            Some(reason) if batches.is_empty() => {
                let (partition, offset) = (wanted.key.clone(), fetch_offset(wanted));
                let error = Error::Corrupt {
                    partition,
                    offset,
                    next_offset: offset.saturating_add(1),
                    reason,
                };
                assignment.fail_until_seek(wanted, error);
            }
            // Batches before the damage are valid; the next fetch starts at the damage.
            _ => assignment.add_fetched(wanted, batches, result.high_watermark, now_ms),
        }
    }

    /// Handles an offset outside the log. Before the start, only the deleted records are skipped;
    /// beyond the end, `auto_offset_reset` applies.
    fn handle_out_of_range(&self, wanted: &PartitionRequest, log_start: i64, high_watermark: i64) {
        let (key, from) = (&wanted.key, fetch_offset(wanted));
        let policy = self.shared.config.auto_offset_reset;
        let mut assignment = self.shared.assignment.lock();
        let Some(position) = reset_position(policy) else {
            let partition = key.clone();
            return assignment.fail_until_seek(wanted, Error::NoOffset { partition });
        };
        if from < log_start {
            let count = log_start - from;
            tracing::warn!(
                target: GAP_LOG_TARGET, partition = %key, from, to = log_start, count,
                "records were deleted before they were read; continuing at the oldest record"
            );
            return assignment.advance_to_log_start(wanted, log_start);
        }
        if high_watermark < 0 {
            tracing::warn!(target: GAP_LOG_TARGET, partition = %key, from, ?policy, "the offset is out of range; resetting it by auto_offset_reset");
            return assignment.reset_position(wanted, position);
        }
        let to = match policy {
            AutoOffsetReset::Earliest => log_start,
            AutoOffsetReset::Latest | AutoOffsetReset::None => high_watermark,
        };
        tracing::warn!(
            target: GAP_LOG_TARGET, partition = %key, from, to, count = from - to, ?policy,
            "the offset is beyond the end of the partition; resetting it by auto_offset_reset"
        );
        assignment.reset_position(wanted, FetchPosition::At(to));
    }

    /// Handles a failed fetch or lookup: retries it with a growing delay, or lets `poll` return the
    /// error.
    fn handle_read_error(&self, wanted: &PartitionRequest, error: ClusterError, now: Instant) {
        let asked = Duration::from_millis(error.retry_after_ms().into());
        let failures = self.shared.assignment.lock().count_failure(wanted);
        let backoff = self.shared.client.backoff();
        let soon = now + backoff.delay_after(failures, asked);
        let late = now
            + backoff
                .with_max_delay(MAX_RETRY_PAUSE)
                .delay_after(failures, asked);
        match error.code() {
            ErrorCode::UnknownTopicId => self.handle_topic_recreated(wanted, error, soon),
            ErrorCode::UnknownTopicOrPartition => self.handle_missing_partition(wanted, &error, late, now),
            code if error.is_retryable()
                || (code == ErrorCode::Unknown && failures < MAX_UNKNOWN_FAILURES) =>
            {
                self.metadata.request();
                tracing::debug!(partition = %wanted.key, %error, failures, "cannot read a partition; retrying");
                self.shared.assignment.lock().retry_after(wanted, Some(soon));
            }
            _ => {
                let error = match wanted.position {
                    FetchPosition::At(offset) => Error::Unreadable {
                        partition: wanted.key.clone(),
                        offset,
                        next_offset: error.next_offset(),
                        error: Box::new(error),
                    },
                    FetchPosition::Committed | FetchPosition::Lookup(_) => error.into(),
                };
                tracing::warn!(partition = %wanted.key, %error, "a partition cannot be read; other partitions are not affected");
                self.shared
                    .assignment
                    .lock()
                    .fail_until_retry(wanted, error, late);
            }
        }
    }

    /// Handles a missing partition: its topic was deleted, or is not known to all agents yet.
    fn handle_missing_partition(
        &self,
        wanted: &PartitionRequest,
        error: &ClusterError,
        not_before: Instant,
        now: Instant,
    ) {
        self.metadata.request();
        let mut assignment = self.shared.assignment.lock();
        let since = assignment.missing_for(wanted, now);
        let patience = self.shared.config.missing_topic_timeout;
        if patience.is_none_or(|patience| since < patience) {
            tracing::debug!(partition = %wanted.key, %error, "the partition does not exist; retrying");
            return assignment.retry_after(wanted, Some(not_before));
        }
        let message = format!(
            "{} does not exist any more ({}); recreate its topic, or read another one",
            wanted.key,
            error.message()
        );
        let error = ClusterError::new(ErrorCode::UnknownTopicOrPartition, message);
        assignment.fail_until_retry(wanted, error.into(), not_before);
    }

    /// Handles a topic that was deleted and recreated.
    fn handle_topic_recreated(&self, wanted: &PartitionRequest, error: ClusterError, not_before: Instant) {
        self.metadata.request();
        let restart = reset_position(self.shared.config.auto_offset_reset).is_some();
        let mut assignment = self.shared.assignment.lock();
        let changed = assignment.handle_topic_recreated(wanted, error.into(), not_before, restart);
        if let Some(TopicRecreation { former_id, position }) = changed {
            tracing::warn!(
                target: GAP_LOG_TARGET, partition = %wanted.key, %former_id, position,
                "the topic was deleted and recreated; reading the new one from its beginning"
            );
        }
    }
}

/// Splits an answer into its batches, each a slice of it, and the reason why the rest is invalid.
fn split_batches(records: &Bytes) -> (Vec<(BatchHeader, Bytes)>, Option<String>) {
    let mut batches = Vec::new();
    for batch in BatchIter::owned(records) {
        match batch {
            Ok(batch) => batches.push(batch),
            Err(error) => return (batches, Some(error.to_string())),
        }
    }
    (batches, None)
}

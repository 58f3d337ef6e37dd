//! Results of fetches and lookups: adds records to the assignment, changes positions, and retries
//! errors with growing delays or lets `poll` return them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use streamhouse_core::{
    Error as CoreError, ErrorCode, TopicPartition,
    batch::{BatchHeader, Batches},
    protocol::v1,
};
use tokio::time::Instant;

use super::{Done, Fetcher, offset_of};
use crate::{
    admin::OffsetAt,
    connection::item_error,
    consumer::{
        AutoOffsetReset, GAPS,
        assignment::{Position, TopicChange, Wanted},
        positions::Lookup,
    },
    error::Error,
};

/// Longest delay before a missing or unreadable partition is requested again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Number of consecutive unknown errors before `poll` returns the error.
const CHANCES: u32 = 5;

impl Fetcher {
    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Lookup(lookups) => self.finish_lookups(lookups),
            Done::Ends(ends) => {
                let now_ms = self.shared.client.now_ms();
                let mut assignment = self.shared.assignment.lock();
                ends.iter()
                    .for_each(|found| assignment.ends_at(&found.wanted, found.end, now_ms));
            }
            Done::Fetch {
                uri,
                asked,
                reserved,
                answer,
            } => {
                self.reserved -= reserved;
                self.finish_fetch(&uri, asked, answer);
            }
        }
        self.shared.news.notify_one();
    }

    fn finish_lookups(&mut self, lookups: Vec<Lookup>) {
        let now = Instant::now();
        for Lookup { wanted, found } in lookups {
            match found {
                Ok((position, committed)) => {
                    let mut assignment = self.shared.assignment.lock();
                    assignment.found(&wanted, position, committed);
                }
                Err(error @ Error::NoOffset { .. }) => self.shared.assignment.lock().failed(&wanted, error),
                Err(Error::Cluster(error)) => self.cannot_read(&wanted, error, now),
                Err(error) => {
                    tracing::warn!(partition = %wanted.key, %error, "cannot look up the position; retrying");
                    let mut assignment = self.shared.assignment.lock();
                    let failures = assignment.count_failure(&wanted);
                    let pause = self.shared.client.backoff().after(failures, Duration::ZERO);
                    assignment.again(&wanted, Some(now + pause));
                }
            }
        }
    }

    fn finish_fetch(
        &mut self,
        uri: &Arc<str>,
        asked: Vec<Wanted>,
        answer: Result<v1::FetchResponse, CoreError>,
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
                    .next(Duration::from_millis(error.retry_after_ms().into()));
                agent.not_before = Some(now + pause);
                tracing::debug!(agent = %uri, %error, "a fetch failed; retrying with another agent");
                self.metadata.wish();
                for wanted in asked {
                    if error.is_retryable() {
                        self.shared.assignment.lock().again(&wanted, None);
                    } else {
                        self.cannot_read(&wanted, error.clone(), now);
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
                None => self.shared.assignment.lock().again(&wanted, None),
            }
        }
    }

    fn finish_partition(&self, wanted: &Wanted, mut result: v1::PartitionFetchResult, now: Instant) {
        let cache = self.shared.client.cache();
        cache.hint(&wanted.key.topic, wanted.key.partition, result.leader.as_ref());
        let now_ms = self.shared.client.now_ms();
        if let Some(error) = item_error(result.error.take()) {
            if result.high_watermark >= 0 {
                let mut assignment = self.shared.assignment.lock();
                assignment.ends_at(wanted, result.high_watermark, now_ms);
            }
            if error.code() == ErrorCode::OffsetOutOfRange {
                self.out_of_range(wanted, result.log_start_offset, result.high_watermark);
            } else {
                self.cannot_read(wanted, error, now);
            }
            return;
        }
        let (batches, damage) = split(&result.records);
        let mut assignment = self.shared.assignment.lock();
        match damage {
            Some(reason) if batches.is_empty() => {
                let (partition, offset) = (wanted.key.clone(), offset_of(wanted));
                let error = Error::Corrupt {
                    partition,
                    offset,
                    next_offset: offset.saturating_add(1),
                    reason,
                };
                assignment.failed(wanted, error);
            }
            // Batches before the damage are valid; the next fetch starts at the damage.
            _ => assignment.fetched(wanted, batches, result.high_watermark, now_ms),
        }
    }

    /// Handles an offset outside the log. Before the start, only the deleted records are skipped;
    /// beyond the end, `auto_offset_reset` applies.
    fn out_of_range(&self, wanted: &Wanted, log_start: i64, high_watermark: i64) {
        let (key, from) = (&wanted.key, offset_of(wanted));
        let policy = self.shared.config.auto_offset_reset;
        let mut assignment = self.shared.assignment.lock();
        let Some(position) = reset_position(policy) else {
            let partition = key.clone();
            return assignment.failed(wanted, Error::NoOffset { partition });
        };
        if from < log_start {
            let count = log_start - from;
            tracing::warn!(
                target: GAPS, partition = %key, from, to = log_start, count,
                "records were deleted before they were read; continuing at the oldest record"
            );
            return assignment.begins_at(wanted, log_start);
        }
        if high_watermark < 0 {
            tracing::warn!(target: GAPS, partition = %key, from, ?policy, "the offset is out of range; resetting it by auto_offset_reset");
            return assignment.reset(wanted, position);
        }
        let to = match policy {
            AutoOffsetReset::Earliest => log_start,
            AutoOffsetReset::Latest | AutoOffsetReset::None => high_watermark,
        };
        tracing::warn!(
            target: GAPS, partition = %key, from, to, count = from - to, ?policy,
            "the offset is beyond the end of the partition; resetting it by auto_offset_reset"
        );
        assignment.reset(wanted, Position::At(to));
    }

    /// Handles a failed fetch or lookup: retries it with a growing delay, or lets `poll` return the
    /// error.
    fn cannot_read(&self, wanted: &Wanted, error: CoreError, now: Instant) {
        let asked = Duration::from_millis(error.retry_after_ms().into());
        let failures = self.shared.assignment.lock().count_failure(wanted);
        let backoff = self.shared.client.backoff();
        let soon = now + backoff.after(failures, asked);
        let late = now + backoff.up_to(LONGEST_PAUSE).after(failures, asked);
        match error.code() {
            ErrorCode::UnknownTopicId => self.topic_changed(wanted, error, soon),
            ErrorCode::UnknownTopicOrPartition => self.missing(wanted, &error, late, now),
            code if error.is_retryable() || (code == ErrorCode::Unknown && failures < CHANCES) => {
                self.metadata.wish();
                tracing::debug!(partition = %wanted.key, %error, failures, "cannot read a partition; retrying");
                self.shared.assignment.lock().again(wanted, Some(soon));
            }
            _ => {
                let error = match wanted.position {
                    Position::At(offset) => Error::Unreadable {
                        partition: wanted.key.clone(),
                        offset,
                        next_offset: error.next_offset(),
                        error: Box::new(error),
                    },
                    Position::Committed | Position::Lookup(_) => error.into(),
                };
                tracing::warn!(partition = %wanted.key, %error, "a partition cannot be read; other partitions are not affected");
                self.shared.assignment.lock().failing(wanted, error, late);
            }
        }
    }

    /// Handles a missing partition: its topic was deleted, or is not known to all agents yet.
    fn missing(&self, wanted: &Wanted, error: &CoreError, not_before: Instant, now: Instant) {
        self.metadata.wish();
        let mut assignment = self.shared.assignment.lock();
        let since = assignment.missing_for(wanted, now);
        let patience = self.shared.config.missing_topic_timeout;
        if patience.is_none_or(|patience| since < patience) {
            tracing::debug!(partition = %wanted.key, %error, "the partition does not exist; retrying");
            return assignment.again(wanted, Some(not_before));
        }
        let message = format!(
            "{} does not exist any more ({}); recreate its topic, or read another one",
            wanted.key,
            error.message()
        );
        let error = CoreError::new(ErrorCode::UnknownTopicOrPartition, message);
        assignment.failing(wanted, error.into(), not_before);
    }

    /// Handles a topic that was deleted and recreated.
    fn topic_changed(&self, wanted: &Wanted, error: CoreError, not_before: Instant) {
        self.metadata.wish();
        let restart = reset_position(self.shared.config.auto_offset_reset).is_some();
        let mut assignment = self.shared.assignment.lock();
        let changed = assignment.topic_changed(wanted, error.into(), not_before, restart);
        if let Some(TopicChange { former_id, position }) = changed {
            tracing::warn!(
                target: GAPS, partition = %wanted.key, %former_id, position,
                "the topic was deleted and recreated; reading the new one from its beginning"
            );
        }
    }
}

/// Returns the position that `auto_offset_reset` selects.
pub(in crate::consumer) fn reset_position(reset: AutoOffsetReset) -> Option<Position> {
    match reset {
        AutoOffsetReset::Earliest => Some(Position::Lookup(OffsetAt::Earliest)),
        AutoOffsetReset::Latest => Some(Position::Lookup(OffsetAt::Latest)),
        AutoOffsetReset::None => None,
    }
}

/// Splits an answer into its batches, each a slice of it, and the reason why the rest is invalid.
fn split(records: &Bytes) -> (Vec<(BatchHeader, Bytes)>, Option<String>) {
    let mut batches = Vec::new();
    for batch in Batches::of(records) {
        match batch {
            Ok(batch) => batches.push(batch),
            Err(error) => return (batches, Some(error.to_string())),
        }
    }
    (batches, None)
}

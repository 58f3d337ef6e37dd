//! What fetches and lookups bring back: records into the assignment, positions that have to change, and errors that are
//! tried again, with pauses that grow, or told by `poll`.

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

/// The longest pause before a partition is asked for again that is not there, or whose records cannot be read.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An agent that fails for an unknown reason is given so many chances before `poll` says so.
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
                    tracing::warn!(partition = %wanted.key, %error, "cannot find where to read; trying again");
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
                tracing::debug!(agent = %uri, %error, "a fetch failed; trying again elsewhere");
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
                // An agent may leave out what did not fit any more.
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
            // What stands before the damage is fine; the next fetch begins with it.
            _ => assignment.fetched(wanted, batches, result.high_watermark, now_ms),
        }
    }

    /// The offset is not in the log. Records that were deleted are left out, and nothing else; beyond the end the policy
    /// decides.
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
                "records were deleted before they were read; going on with the oldest one that is kept"
            );
            return assignment.begins_at(wanted, log_start);
        }
        if high_watermark < 0 {
            tracing::warn!(target: GAPS, partition = %key, from, ?policy, "the offset is out of range; reading on by the policy");
            return assignment.reset(wanted, position);
        }
        let to = match policy {
            AutoOffsetReset::Earliest => log_start,
            AutoOffsetReset::Latest | AutoOffsetReset::None => high_watermark,
        };
        tracing::warn!(
            target: GAPS, partition = %key, from, to, count = from - to, ?policy,
            "the offset is beyond the end of the partition; going back by the policy"
        );
        assignment.reset(wanted, Position::At(to));
    }

    /// A fetch or a lookup of a partition failed: it is asked for again, later with every failure, or `poll` says so.
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
                tracing::debug!(partition = %wanted.key, %error, failures, "cannot read; trying again");
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
                tracing::warn!(partition = %wanted.key, %error, "a partition cannot be read; the others go on");
                self.shared.assignment.lock().failing(wanted, error, late);
            }
        }
    }

    /// The partition is not there: its topic was deleted, or it is not known everywhere yet.
    fn missing(&self, wanted: &Wanted, error: &CoreError, not_before: Instant, now: Instant) {
        self.metadata.wish();
        let mut assignment = self.shared.assignment.lock();
        let since = assignment.missing_for(wanted, now);
        let patience = self.shared.config.missing_topic_timeout;
        if patience.is_none_or(|patience| since < patience) {
            tracing::debug!(partition = %wanted.key, %error, "there is no such partition; asking again");
            return assignment.again(wanted, Some(not_before));
        }
        let message = format!(
            "{} is gone ({}); create its topic again, or read something else",
            wanted.key,
            error.message()
        );
        let error = CoreError::new(ErrorCode::UnknownTopicOrPartition, message);
        assignment.failing(wanted, error.into(), not_before);
    }

    /// The topic was deleted and made anew.
    fn topic_changed(&self, wanted: &Wanted, error: CoreError, not_before: Instant) {
        self.metadata.wish();
        let restart = reset_position(self.shared.config.auto_offset_reset).is_some();
        let mut assignment = self.shared.assignment.lock();
        let changed = assignment.topic_changed(wanted, error.into(), not_before, restart);
        if let Some(TopicChange { former_id, position }) = changed {
            tracing::warn!(
                target: GAPS, partition = %wanted.key, %former_id, position,
                "the topic was deleted and made anew; reading the new one from its beginning"
            );
        }
    }
}

/// Where `auto_offset_reset` reads on.
pub(in crate::consumer) fn reset_position(reset: AutoOffsetReset) -> Option<Position> {
    match reset {
        AutoOffsetReset::Earliest => Some(Position::Lookup(OffsetAt::Earliest)),
        AutoOffsetReset::Latest => Some(Position::Lookup(OffsetAt::Latest)),
        AutoOffsetReset::None => None,
    }
}

/// The batches of an answer, each a slice of it, and what is wrong with what follows them.
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

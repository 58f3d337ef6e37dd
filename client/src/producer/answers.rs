//! The dispatcher's handling of agents' answers, and of streams that end without one.

use std::time::Duration;

use streamhouse_core::{Error as CoreError, ErrorCode, protocol::v1, trace::Span};
use tokio::time::Instant;

use super::{
    dispatcher::Dispatcher,
    lane::{Flight, Verdict},
    link::Sent,
};
use crate::connection::item_error;

/// Smallest limit on requests, however large a request was that an agent refused.
const LEAST_REQUEST: usize = 64 << 10;
/// Shortest time between two log messages about the same problem.
const COMPLAINTS: Duration = Duration::from_secs(10);

impl Dispatcher {
    /// Handles an agent's answer to a request.
    pub(super) fn answered(&mut self, link: usize, stream: u64, response: v1::ProduceResponse) {
        let now = Instant::now();
        let Some(from) = self.links.get_mut(link).filter(|link| link.stream == stream) else {
            return;
        };
        let Some(mut sent) = from.in_flight.remove(&response.request_id) else {
            return;
        };
        from.backoff.reset();
        if response.throttle_ms > 0 {
            from.pause(now, Duration::from_millis(response.throttle_ms.into()));
        }
        let took = now.saturating_duration_since(sent.at);
        let mut results: Vec<Option<v1::PartitionProduceResult>> =
            response.partitions.into_iter().map(Some).collect();
        for (at, (lane, flight)) in sent.batches.into_iter().enumerate() {
            let result = self.take_result(&mut results, at, lane);
            note_failure(sent.span.as_mut(), result.as_ref());
            self.lanes[lane].topic.metrics.flushed(took);
            self.result(link, lane, flight, result);
            self.schedule(lane);
        }
    }

    /// Returns the result for a lane: at its index, or wherever the agent put it.
    fn take_result(
        &self,
        results: &mut [Option<v1::PartitionProduceResult>],
        at: usize,
        lane: usize,
    ) -> Option<v1::PartitionProduceResult> {
        let partition = &self.lanes[lane].partition;
        let matches = |result: &Option<v1::PartitionProduceResult>| {
            result
                .as_ref()
                .is_some_and(|r| r.partition == partition.index && *r.topic == *partition.topic)
        };
        let place = if results.get(at).is_some_and(matches) {
            Some(at)
        } else {
            results.iter().position(matches)
        };
        place.and_then(|place| results[place].take())
    }

    fn result(
        &mut self,
        link: usize,
        lane: usize,
        flight: Flight,
        result: Option<v1::PartitionProduceResult>,
    ) {
        let Some(result) = result else {
            let error = CoreError::new(
                ErrorCode::NetworkException,
                "the agent left the partition out of its answer",
            );
            return self.failed(lane, flight, error);
        };
        if let Some(error) = item_error(result.error) {
            let partition = self.lanes[lane].partition.clone();
            let cache = self.shared.client.cache();
            let news = cache.hint(&partition.topic, partition.index, result.leader.as_ref());
            if !news && wants_refresh(error.code()) {
                cache.request_refresh();
            }
            let leader = cache.leader(&partition.topic, partition.index);
            let elsewhere = leader.is_some_and(|leader| leader.uri != self.links[link].uri);
            let before = self.lanes[lane].not_before;
            self.failed(lane, flight, error);
            if elsewhere {
                // Another agent leads: retry there without a delay.
                self.lanes[lane].not_before = before;
            }
            return;
        }
        if let Verdict::Settled(settled) = self.lanes[lane].lane.stored(flight, result.base_offset) {
            self.settle(lane, *settled);
        }
    }

    /// Handles a batch that was not acknowledged.
    pub(super) fn failed(&mut self, lane: usize, flight: Flight, error: CoreError) {
        if error.code() == ErrorCode::MessageTooLarge && self.send_in_parts(lane, flight) {
            return;
        }
        let sequence = matches!(
            error.code(),
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId
        );
        let asked = Duration::from_millis(error.retry_after_ms().into());
        let unstored = matches!(
            error.code(),
            ErrorCode::StorageUnavailable | ErrorCode::MetadataUnavailable
        )
        .then(|| error.to_string());
        match self.lanes[lane].lane.failed(flight, error) {
            Verdict::Settled(settled) => self.settle(lane, *settled),
            Verdict::Stale => {}
            Verdict::Retry => {
                if let Some(problem) = unstored {
                    self.complain(&problem);
                }
                let entry = &mut self.lanes[lane];
                // A batch rejected only because an earlier one failed does not delay the lane
                // longer than that one.
                if sequence && entry.lane.in_flight() > 0 {
                    return;
                }
                let pause = self.shared.client.backoff().after(entry.lane.tries(), asked);
                let until = Instant::now() + pause;
                entry.not_before = Some(entry.not_before.map_or(until, |at| at.max(until)));
            }
        }
    }

    /// Logs from time to time why records wait, long before they time out.
    fn complain(&mut self, problem: &str) {
        let now = Instant::now();
        let lately = |at: Instant| now.saturating_duration_since(at) < COMPLAINTS;
        if !self.complained.is_some_and(lately) {
            self.complained = Some(now);
            tracing::error!(problem, "the cluster cannot store records; retrying");
        }
    }

    /// Handles the end of a stream.
    pub(super) fn broken(&mut self, link: usize, stream: u64, error: &CoreError) {
        if self.links.get(link).is_some_and(|link| link.stream == stream) {
            tracing::debug!(agent = %self.links[link].uri, %error, "a produce stream ended");
            self.reopen(link, error);
        }
    }

    /// Handles an agent that took too long to answer.
    pub(super) fn timed_out(&mut self, link: usize, waited: Duration) {
        tracing::warn!(agent = %self.links[link].uri, ?waited, "an agent does not answer; reconnecting");
        let error = CoreError::new(ErrorCode::RequestTimedOut, format!("no answer in {waited:?}"));
        self.reopen(link, &error);
    }

    /// Closes the link's stream and sends the batches in flight again. Whether they were stored is
    /// unknown, whatever the error.
    fn reopen(&mut self, link: usize, error: &CoreError) {
        let pause = self.links[link]
            .backoff
            .next(Duration::from_millis(error.retry_after_ms().into()));
        self.links[link].pause(Instant::now(), pause);
        let too_large = error.code() == ErrorCode::MessageTooLarge;
        let lost = CoreError::new(
            // An agent answers the requests it accepted before it reports this, and accepts none
            // after.
            if too_large {
                ErrorCode::ShuttingDown
            } else {
                ErrorCode::NetworkException
            },
            format!("the produce stream ended: {error}"),
        );
        let mut sent = self.links[link].close();
        self.shared.client.cache().request_refresh();
        for span in sent.iter_mut().filter_map(|sent| sent.span.as_mut()) {
            span.fail(error.code().name(), error.to_string());
        }
        if too_large {
            self.too_large(link, &mut sent, error, &lost);
        }
        let lanes: Vec<_> = sent
            .into_iter()
            .flat_map(|Sent { batches, .. }| batches)
            .collect();
        for (lane, flight) in &lanes {
            match self.lanes[*lane].lane.failed(*flight, lost.clone()) {
                Verdict::Settled(settled) => self.settle(*lane, *settled),
                Verdict::Retry | Verdict::Stale => {}
            }
        }
        for (lane, _) in lanes {
            self.schedule(lane);
        }
    }
}

impl Dispatcher {
    /// Handles a stream that the agent ended because a request was too large: the first one not
    /// answered. Lowers the link's request size; a batch that was alone in the request is split, or
    /// fails.
    fn too_large(&mut self, link: usize, sent: &mut Vec<Sent>, error: &CoreError, again: &CoreError) {
        if sent.is_empty() {
            return;
        }
        let refused = sent.remove(0);
        let half = (refused.bytes / 2).max(LEAST_REQUEST);
        let most = self.links[link].most_bytes.min(half);
        self.links[link].most_bytes = most;
        tracing::warn!(
            agent = %self.links[link].uri, bytes = refused.bytes, most,
            "the agent rejected a request as too large; sending smaller requests"
        );
        let alone = refused.batches.len() == 1;
        for (lane, flight) in refused.batches {
            if !alone {
                self.failed(lane, flight, again.clone());
            } else if !self.send_in_parts_of(lane, flight, most) {
                self.failed(lane, flight, error.clone());
            }
            self.schedule(lane);
        }
    }
}

/// Records in a request's span that a part of it was not acknowledged.
fn note_failure(span: Option<&mut Span>, result: Option<&v1::PartitionProduceResult>) {
    let error = result.and_then(|result| result.error.as_ref());
    let error = error.filter(|error| error.code != ErrorCode::None.number());
    if let (Some(span), Some(error)) = (span, error) {
        span.fail(ErrorCode::from_number(error.code).name(), error.message.clone());
    }
}

/// Returns whether this error means that the cached leader is outdated.
fn wants_refresh(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::ShuttingDown
            | ErrorCode::NetworkException
    )
}

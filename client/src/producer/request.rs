//! Composition of requests: as many as a link has room for, with one batch of each lane in its
//! queue, up to the request size.

use std::time::Duration;

use opentelemetry::trace::SpanContext;
use streamhouse_core::{protocol::v1, trace::MAX_LINKS};
use tokio::time::Instant;

use super::{
    batch_content::BatchContent,
    dispatcher::Dispatcher,
    encode::restamp,
    partition_buffer::{OpenBatch, PullState},
    partition_sender::{NextSend, PartitionSender, SendAttempt},
    rebatch,
    traces::RequestTrace,
};

impl Dispatcher {
    /// Sends requests while the link has room.
    pub(super) fn send_ready(&mut self, link: usize, now: Instant) {
        while self.links[link].has_room(now, self.shared.config.max_in_flight) {
            let (partitions, batches) = self.fill_request(link, now);
            if partitions.is_empty() {
                return;
            }
            let lanes: Vec<usize> = batches.iter().map(|(lane, _)| *lane).collect();
            let room = self.shared.config.max_in_flight;
            self.links[link].open(&self.shared.client, link, room, &self.events);
            // If the stream has ended already, its event is in the inbox and returns the batches.
            let trace = self.request_trace(link, &batches);
            let _ = self.links[link].send(partitions, batches, trace);
            for lane in lanes {
                self.schedule(lane);
            }
        }
    }

    /// Takes one batch of each lane in the link's queue, up to the size of a request.
    fn fill_request(
        &mut self,
        link: usize,
        now: Instant,
    ) -> (Vec<v1::PartitionProduce>, Vec<(usize, SendAttempt)>) {
        let linger = self.linger();
        let most = self
            .shared
            .config
            .max_request_size
            .min(self.links[link].max_request_bytes);
        let (mut partitions, mut batches, mut size) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.links[link].ready_lanes.len() {
            let Some(&lane) = self.links[link].ready_lanes.front() else {
                break;
            };
            let next = match self.lanes[lane].sender.next_send() {
                NextSend::Resend(size) => size,
                _ => match self.lanes[lane].partition.pull_state(now, linger) {
                    PullState::Batch(size) => size,
                    _ => 0,
                },
            };
            if !partitions.is_empty() && size + next > most {
                break;
            }
            self.links[link].ready_lanes.pop_front();
            self.lanes[lane].queued = false;
            if let Some((flight, produce)) = self.take_batch(lane, link, now, linger) {
                size += produce.records.len();
                partitions.push(produce);
                batches.push((lane, flight));
            } else {
                self.schedule(lane);
            }
        }
        (partitions, batches)
    }

    /// Takes the next batch of a lane and marks it as sent; `None` if there is none, or if the lane
    /// has another leader by now.
    fn take_batch(
        &mut self,
        lane: usize,
        link: usize,
        now: Instant,
        linger: Duration,
    ) -> Option<(SendAttempt, v1::PartitionProduce)> {
        let entry = &mut self.lanes[lane];
        let leader = self
            .shared
            .client
            .cache()
            .leader(&entry.partition.topic, entry.partition.index)?;
        if self.links[link].uri != leader.uri {
            return None;
        }
        let (flight, records) = match entry.sender.next_send() {
            NextSend::Resend(_) => {
                let (flight, records) = entry.sender.resend_next()?;
                if flight.is_retry() {
                    self.shared
                        .counters
                        .batches_retried
                        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                (flight, records)
            }
            NextSend::New => {
                let open = entry.partition.pull(now, linger)?;
                self.seal(lane, link, open)?
            }
            NextSend::Blocked | NextSend::NeedsIdentity(_) => return None,
        };
        let partition = &self.lanes[lane].partition;
        Some((
            flight,
            v1::PartitionProduce {
                topic: partition.topic.to_string(),
                partition: partition.index,
                records,
                // If the name belongs to another topic by now, the agent stores nothing of this.
                topic_id: partition.topic_id.to_string(),
            },
        ))
    }

    /// Seals a batch and marks it as sent. If it is too large, splits it and marks the first part.
    fn seal(&mut self, lane: usize, link: usize, open: OpenBatch) -> Option<(SendAttempt, bytes::Bytes)> {
        let entry = &mut self.lanes[lane];
        let size = open.encoder.size();
        entry.topic.metrics.record_batch(open.encoder.records(), size);
        let (identity, sequence) = entry.sender.next_stamp();
        let content = self.shared.seal(&entry.topic, open, identity, sequence)?;
        entry.topic.observe_compression(size, content.bytes.len());
        let limit = entry
            .topic
            .max_message_bytes()
            .min(self.links[link].max_request_bytes);
        if content.bytes.len() > limit && content.records > 1 {
            return self.seal_in_parts(lane, content, limit);
        }
        let bytes = content.bytes.clone();
        Some((self.lanes[lane].sender.send_new(content), bytes))
    }

    /// Splits a batch that is larger than topic or agent allow, and queues the parts in order; the
    /// first is marked as sent.
    fn seal_in_parts(
        &mut self,
        lane: usize,
        whole: BatchContent,
        limit: usize,
    ) -> Option<(SendAttempt, bytes::Bytes)> {
        let entry = &self.lanes[lane];
        let mut parts = rebatch::split_batch(&self.shared, &entry.partition, whole, limit).into_iter();
        let mut first = parts.next()?;
        let lane = &mut self.lanes[lane].sender;
        let stamp = |lane: &PartitionSender, part: &mut BatchContent| {
            let (identity, sequence) = lane.next_stamp();
            part.bytes = restamp(&part.bytes, identity, sequence);
        };
        stamp(lane, &mut first);
        let bytes = first.bytes.clone();
        let flight = lane.send_new(first);
        for mut part in parts {
            stamp(lane, &mut part);
            lane.queue_new(part);
        }
        Some((flight, bytes))
    }

    /// Returns the trace context of a request with these batches.
    fn request_trace(&self, link: usize, batches: &[(usize, SendAttempt)]) -> RequestTrace {
        let traces = &self.shared.traces;
        if !traces.is_on() {
            return RequestTrace::default();
        }
        let traced = batches
            .iter()
            .flat_map(|(lane, flight)| self.lanes[*lane].sender.traced(*flight));
        let traced: Vec<SpanContext> = traced.take(1 + MAX_LINKS).cloned().collect();
        traces.start_request_trace(&self.links[link].uri, &traced, batches.len())
    }
}

//! How requests are made: what a link has room for, one batch of each lane in its queue, up to the size of a request.

use std::time::Duration;

use opentelemetry::trace::SpanContext;
use streamhouse_core::{protocol::v1, trace::MAX_LINKS};
use tokio::time::Instant;

use super::{
    dispatcher::Dispatcher,
    lane::{Flight, NewBatch, Next},
    partition::{OpenBatch, Pullable},
    traces::RequestTrace,
};

impl Dispatcher {
    /// Sends what a link has room for.
    pub(super) fn pump(&mut self, link: usize, now: Instant) {
        while self.links[link].has_room(now, self.shared.config.max_in_flight) {
            let (partitions, batches) = self.fill_request(link, now);
            if partitions.is_empty() {
                return;
            }
            let lanes: Vec<usize> = batches.iter().map(|(lane, _)| *lane).collect();
            let room = self.shared.config.max_in_flight;
            self.links[link].open(&self.shared.client, link, room, &self.events);
            // Were the stream over already, its end is in the inbox and brings the batches back.
            let trace = self.trace(link, &batches);
            let _ = self.links[link].send(partitions, batches, trace);
            for lane in lanes {
                self.schedule(lane);
            }
        }
    }

    /// One batch of each lane in the link's queue, up to the size of a request.
    fn fill_request(
        &mut self,
        link: usize,
        now: Instant,
    ) -> (Vec<v1::PartitionProduce>, Vec<(usize, Flight)>) {
        let linger = self.linger();
        let (mut partitions, mut batches, mut size) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.links[link].ready.len() {
            let Some(&lane) = self.links[link].ready.front() else {
                break;
            };
            let next = match self.lanes[lane].lane.next() {
                Next::Again(size) => size,
                _ => match self.lanes[lane].partition.pullable(now, linger) {
                    Pullable::Batch(size) => size,
                    _ => 0,
                },
            };
            if !partitions.is_empty() && size + next > self.shared.config.max_request_size {
                break;
            }
            self.links[link].ready.pop_front();
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

    /// The next batch of a lane, marked as sent; none where it has none or its leader is another by now.
    fn take_batch(
        &mut self,
        lane: usize,
        link: usize,
        now: Instant,
        linger: Duration,
    ) -> Option<(Flight, v1::PartitionProduce)> {
        let entry = &mut self.lanes[lane];
        let leader = self
            .shared
            .client
            .cache()
            .leader(&entry.partition.topic, entry.partition.index)?;
        if self.links[link].uri != leader.uri {
            return None;
        }
        let (flight, records) = match entry.lane.next() {
            Next::Again(_) => {
                self.shared
                    .counters
                    .batches_retried
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                entry.lane.send_again()?
            }
            Next::New => {
                let open = entry.partition.pull(now, linger)?;
                self.seal(lane, open)?
            }
            Next::Blocked | Next::NeedsIdentity(_) => return None,
        };
        let partition = &self.lanes[lane].partition;
        let (topic, partition) = (partition.topic.to_string(), partition.index);
        // Of the topic that has the name now: where it was made anew, what the old one did not take goes to the new one.
        let topic_id = self.shared.client.cache().topic_id(&topic).to_string();
        Some((
            flight,
            v1::PartitionProduce {
                topic,
                partition,
                records,
                topic_id,
            },
        ))
    }

    /// Seals a batch and marks it as sent.
    fn seal(&mut self, lane: usize, open: OpenBatch) -> Option<(Flight, bytes::Bytes)> {
        let entry = &mut self.lanes[lane];
        let OpenBatch {
            mut encoder,
            ticket,
            opened,
            reserved,
            traced,
        } = open;
        let records = encoder.records();
        entry.topic.metrics.batch(records, encoder.size());
        let (identity, sequence) = entry.lane.stamp();
        let sealed = encoder.seal(identity, sequence);
        self.shared.recycle(encoder);
        match sealed {
            Ok(bytes) => {
                let new = NewBatch {
                    bytes: bytes.clone(),
                    records,
                    ticket,
                    opened,
                    reserved,
                    traced: traced.into(),
                };
                Some((entry.lane.send_new(new), bytes))
            }
            Err(error) => {
                let topic = entry.topic.clone();
                self.count_failure(&topic, records, &error.clone().into());
                self.shared.release(&topic, &ticket, records, reserved);
                ticket.failed(error.into());
                None
            }
        }
    }

    /// What a request with these batches says of its trace.
    fn trace(&self, link: usize, batches: &[(usize, Flight)]) -> RequestTrace {
        let traces = &self.shared.traces;
        if !traces.is_on() {
            return RequestTrace::default();
        }
        let traced = batches
            .iter()
            .flat_map(|(lane, flight)| self.lanes[*lane].lane.traced(*flight));
        let traced: Vec<SpanContext> = traced.take(1 + MAX_LINKS).cloned().collect();
        traces.request(&self.links[link].uri, &traced, batches.len())
    }
}

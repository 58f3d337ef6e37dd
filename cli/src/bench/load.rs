//! The sending side of a benchmark: [`run_send_loop`] keeps to a schedule, [`DeliveryCollector`]
//! collects the deliveries.
//!
//! The load is open-loop: at a given rate, latency counts from a record's intended send time even
//! if the loop was late, so that a stall counts for every record it delays (no coordinated
//! omission). Without a rate, latency counts from just before the send. The clock is read once per
//! chunk, not for every record.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures::FutureExt;
use streamhouse_client::{Delivery, Error, Producer, RecordRef, TopicHandle};
use tokio::{sync::mpsc, time::Instant};

use super::{
    payload::{self, PayloadPool, STAMP_SIZE},
    stats::{BenchLatencies, ProgressCounters},
};
use crate::command_error::{CommandError, CommandResult};

/// Records sent between two readings of the clock.
const CHUNK_RECORDS: usize = 128;
/// Resolution of the schedule at a given rate.
const SCHEDULE_TICK: Duration = Duration::from_millis(1);

/// What one producer sends.
#[derive(Debug, Clone)]
pub(super) struct SendPlan {
    /// Common time origin of the run, from which stamps count.
    pub(super) epoch: Instant,
    /// Nothing is measured before this time.
    pub(super) measure_from: Instant,
    /// Number of measured records to send; `None` if only `until` ends the run.
    pub(super) records: Option<u64>,
    /// When to stop; `None` if only `records` ends the run.
    pub(super) until: Option<Instant>,
    /// Records per second; `None` for as fast as possible.
    pub(super) rate: Option<f64>,
    /// Id of an end-to-end run, which is written into its records.
    pub(super) run: Option<u64>,
    /// Index of the first payload, so that producers do not send the same records.
    pub(super) first: u64,
}

/// Records sent with the same time stamp.
#[derive(Debug)]
pub(super) struct SentChunk {
    stamp: Instant,
    deliveries: Vec<Delivery>,
}

/// Sends until the plan is fulfilled or `stop` is cancelled. Returns how many measured records it
/// sent.
pub(super) async fn run_send_loop(
    producer: &Producer,
    topic: &TopicHandle,
    payload: &PayloadPool,
    plan: &SendPlan,
    progress: &ProgressCounters,
    sent: mpsc::Sender<SentChunk>,
    stop: &tokio_util::sync::CancellationToken,
) -> CommandResult<u64> {
    let mut loop_state = SendLoop {
        producer,
        topic,
        payload,
        plan,
        number: plan.first,
        scratch: Vec::new(),
    };
    let mut measured = 0;
    let mut schedule = plan.rate.map(|rate| SendSchedule {
        rate,
        start: plan.epoch,
        sent: 0,
    });
    while !stop.is_cancelled() {
        let (stamp, due) = match &mut schedule {
            Some(schedule) => schedule.next_tick().await,
            None => (Instant::now(), CHUNK_RECORDS as u64),
        };
        if plan.until.is_some_and(|until| stamp >= until) {
            break;
        }
        let counts = stamp >= plan.measure_from;
        let due = match plan.records {
            Some(records) if counts => due.min(records - measured),
            _ => due,
        };
        let mut left = due;
        while left > 0 {
            let count = left.min(CHUNK_RECORDS as u64);
            loop_state
                .send_chunk(stamp, count, schedule.is_some(), &sent)
                .await?;
            ProgressCounters::add(&progress.sent, count);
            left -= count;
        }
        if counts {
            measured += due;
            if plan.records == Some(measured) {
                break;
            }
        }
    }
    Ok(measured)
}

/// Computes how many records are due at each tick of a constant rate.
#[derive(Debug)]
struct SendSchedule {
    rate: f64,
    start: Instant,
    sent: u64,
}

impl SendSchedule {
    /// Waits for the next tick at which records are due. A late loop receives the missed ticks one
    /// by one.
    async fn next_tick(&mut self) -> (Instant, u64) {
        let (tick, count) = self.advance();
        if tick > Instant::now() {
            tokio::time::sleep_until(tick).await;
        }
        (tick, count)
    }

    /// Returns the next tick at which records are due, and how many.
    fn advance(&mut self) -> (Instant, u64) {
        // A record belongs to the first tick at or after the end of its interval.
        let ticks = ((self.sent + 1) as f64 / self.rate / SCHEDULE_TICK.as_secs_f64() - 1e-9)
            .ceil()
            .max(1.0);
        let due = (ticks * SCHEDULE_TICK.as_secs_f64() * self.rate + 1e-9).floor() as u64;
        let count = due.saturating_sub(self.sent).max(1);
        self.sent += count;
        (self.start + SCHEDULE_TICK.mul_f64(ticks), count)
    }
}

struct SendLoop<'a> {
    producer: &'a Producer,
    topic: &'a TopicHandle,
    payload: &'a PayloadPool,
    plan: &'a SendPlan,
    number: u64,
    scratch: Vec<u8>,
}

impl SendLoop<'_> {
    /// Sends `count` records with the same time stamp. Without a schedule, the stamp is renewed
    /// after waiting for buffer space.
    async fn send_chunk(
        &mut self,
        mut stamp: Instant,
        count: u64,
        scheduled: bool,
        sent: &mpsc::Sender<SentChunk>,
    ) -> CommandResult {
        let mut deliveries = Vec::with_capacity(usize::try_from(count).unwrap_or(CHUNK_RECORDS));
        for _ in 0..count {
            let mut value = self.payload.record(self.number);
            self.number += 1;
            if let Some(run) = self.plan.run {
                self.scratch.clear();
                self.scratch.extend_from_slice(value);
                let micros = stamp.saturating_duration_since(self.plan.epoch).as_micros();
                payload::write_stamp(&mut self.scratch, run, u64::try_from(micros).unwrap_or(u64::MAX));
                value = &self.scratch;
            }
            let record = RecordRef::new(value);
            let delivery = match self.producer.try_send_ref(self.topic, record) {
                Ok(delivery) => delivery,
                Err(Error::BufferFull) => {
                    let full = std::mem::take(&mut deliveries);
                    send_to_collector(
                        sent,
                        SentChunk {
                            stamp,
                            deliveries: full,
                        },
                    )
                    .await?;
                    if !scheduled {
                        stamp = Instant::now();
                    }
                    self.producer.send_ref(self.topic, record).await?
                }
                Err(error) => return Err(error.into()),
            };
            deliveries.push(delivery);
        }
        send_to_collector(sent, SentChunk { stamp, deliveries }).await
    }
}

async fn send_to_collector(sent: &mpsc::Sender<SentChunk>, chunk: SentChunk) -> CommandResult {
    let gone = |_| CommandError::failed("the bench ended while it was sending");
    sent.send(chunk).await.map_err(gone)
}

/// Results of one producer's records.
#[derive(Debug)]
pub(super) struct DeliveryTotals {
    pub(super) latencies: BenchLatencies,
    /// Measured records that were acknowledged.
    pub(super) acked: u64,
    /// Records that failed, measured or not.
    pub(super) failed: u64,
    pub(super) first_error: Option<Error>,
    /// When the last measured record was acknowledged.
    pub(super) last_ack: Option<Instant>,
}

/// Awaits deliveries in order per partition, without a task for each.
#[derive(Debug)]
pub(super) struct DeliveryCollector {
    progress: Arc<ProgressCounters>,
    measure_from: Instant,
    /// Deliveries by partition: they complete in order within a partition, but not across
    /// partitions.
    waiting: Vec<VecDeque<(Instant, Delivery)>>,
    collected: DeliveryTotals,
}

impl DeliveryCollector {
    pub(super) fn new(progress: Arc<ProgressCounters>, measure_from: Instant) -> CommandResult<Self> {
        let collected = DeliveryTotals {
            latencies: BenchLatencies::new()?,
            acked: 0,
            failed: 0,
            first_error: None,
            last_ack: None,
        };
        Ok(Self {
            progress,
            measure_from,
            waiting: Vec::new(),
            collected,
        })
    }

    /// Collects until the sender has finished and all deliveries are complete.
    pub(super) async fn run(mut self, mut sent: mpsc::Receiver<SentChunk>) -> DeliveryTotals {
        let mut open = true;
        while open || !self.is_empty() {
            tokio::select! {
                chunk = sent.recv(), if open => match chunk {
                    Some(chunk) => self.add_chunk(chunk),
                    None => open = false,
                },
                () = std::future::poll_fn(|task| self.poll_settled(task)) => {}
            }
        }
        self.collected
    }

    /// Returns the results collected so far.
    pub(super) fn into_totals(self) -> DeliveryTotals {
        self.collected
    }

    fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    fn add_chunk(&mut self, chunk: SentChunk) {
        for delivery in chunk.deliveries {
            let partition = usize::try_from(delivery.partition()).unwrap_or(0);
            if partition >= self.waiting.len() {
                self.waiting.resize_with(partition + 1, VecDeque::new);
            }
            self.waiting[partition].push_back((chunk.stamp, delivery));
        }
    }

    /// Takes completed deliveries from the front of each partition's queue. Ready if there was any.
    fn poll_settled(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        let mut now = None;
        for queue in &mut self.waiting {
            while let Some((stamp, delivery)) = queue.front_mut() {
                let Poll::Ready(outcome) = delivery.poll_unpin(task) else {
                    break;
                };
                let now = *now.get_or_insert_with(Instant::now);
                let measured = *stamp >= self.measure_from;
                match outcome {
                    Ok(_) => {
                        ProgressCounters::add(&self.progress.acked, 1);
                        if measured {
                            self.collected.acked += 1;
                            self.collected.last_ack = Some(now);
                            self.collected
                                .latencies
                                .record(now.saturating_duration_since(*stamp), 1);
                        }
                    }
                    Err(error) => {
                        ProgressCounters::add(&self.progress.failed, 1);
                        self.collected.failed += 1;
                        self.collected.first_error.get_or_insert(error);
                    }
                }
                queue.pop_front();
            }
        }
        if now.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Returns whether a record of this size can carry a stamp.
pub(super) fn can_be_stamped(record_size: usize) -> bool {
    record_size >= STAMP_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_schedule_gives_every_record_its_tick() {
        for (rate, ticks) in [
            (1_000.0, 1_000),
            (2_500.0, 1_000),
            (10.0, 10),
            (333.0, 333),
            (1_234_567.0, 1_000),
        ] {
            let start = Instant::now();
            let mut schedule = SendSchedule { rate, start, sent: 0 };
            let mut count = 0;
            let mut last = start;
            for _ in 0..ticks {
                let (tick, due) = schedule.advance();
                assert!(tick > last && due > 0, "{rate}");
                last = tick;
                count += due;
            }
            let expected = (last - start).as_secs_f64() * rate;
            assert!(
                (count as f64 - expected).abs() <= 1.0,
                "{rate}: {count} records, {expected} expected"
            );
        }
    }

    #[tokio::test]
    async fn a_late_loop_gets_the_ticks_it_missed_with_their_own_times() {
        let start = Instant::now() - Duration::from_secs(1);
        let mut schedule = SendSchedule {
            rate: 5_000.0,
            start,
            sent: 0,
        };
        let mut ticks = Vec::new();
        for _ in 0..100 {
            ticks.push(schedule.next_tick().await);
        }
        assert_eq!(ticks[0], (start + SCHEDULE_TICK, 5));
        assert_eq!(ticks[99], (start + SCHEDULE_TICK * 100, 5));
    }
}

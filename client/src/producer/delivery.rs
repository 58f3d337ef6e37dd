//! [`Delivery`], the future of one record's outcome, and [`BatchTicket`], which all records of a
//! batch share.
//!
//! A ticket is completed exactly once, by the owner of the batch. When the producer ends, it
//! completes all remaining tickets, so no delivery waits forever and no callback is lost. If a
//! batch is split, its ticket completes with the batches that its records moved to. Panics of
//! callbacks are caught.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::record::RecordMetadata;
use crate::error::{Error, Result};

/// Called once with the outcome of a record, on the producer's task, so it must not block. A panic
/// in it is logged and does not affect other records.
pub type DeliveryCallback = Box<dyn FnOnce(Result<RecordMetadata>) + Send>;

/// Outcome of a batch.
#[derive(Debug, Clone)]
enum BatchOutcome {
    /// Stored; with the offset of its first record, or -1 if it is no longer known.
    Stored(i64),
    /// Not stored, or of unknown outcome.
    Failed(Error),
    /// Its records have moved to other batches, which have their outcomes; with the new location of
    /// each.
    Moved(Box<[RecordLocation]>),
}

/// Location of a record of a split batch: the batch it moved to, and its index there.
pub(crate) type RecordLocation = (Arc<BatchTicket>, u32);

/// The shared completion of a batch's records.
pub(crate) struct BatchTicket {
    id: u64,
    topic: Arc<str>,
    partition: i32,
    /// Set once the batch is closed.
    records: AtomicU32,
    /// Whether an attempt to send the batch may have been stored.
    maybe_stored: AtomicBool,
    outcome: OnceLock<BatchOutcome>,
    waiters: Mutex<TicketWaiters>,
}

#[derive(Default)]
struct TicketWaiters {
    wakers: Vec<Option<Waker>>,
    callbacks: Vec<(u32, i64, DeliveryCallback)>,
    /// Where the records moved; empty unless the batch was split.
    locations: Vec<RecordLocation>,
    /// Number of batches in `locations` that are not settled.
    unsettled_batches: usize,
    /// Split batches with records in this one.
    origins: Vec<Arc<BatchTicket>>,
    /// Whether the outcome is set and the callbacks were called.
    finished: bool,
}

impl BatchTicket {
    pub(crate) fn new(id: u64, topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self {
            id,
            topic,
            partition,
            records: AtomicU32::new(0),
            maybe_stored: AtomicBool::new(false),
            outcome: OnceLock::new(),
            waiters: Mutex::default(),
        })
    }

    /// Returns the id, unique within the producer and rising.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Completes the batch as stored, with its first record at `base_offset`.
    pub(crate) fn complete_stored(&self, base_offset: i64) {
        self.complete(BatchOutcome::Stored(base_offset));
    }

    /// Completes the batch as failed.
    pub(crate) fn complete_failed(&self, error: Error) {
        self.complete(BatchOutcome::Failed(error));
    }

    /// Sets the number of records when the batch is closed.
    pub(crate) fn set_records(&self, records: u32) {
        self.records.store(records, Ordering::Relaxed);
    }

    /// Returns the number of records, see [`BatchTicket::set_records`].
    pub(crate) fn records(&self) -> u32 {
        self.records.load(Ordering::Relaxed)
    }

    /// Sets whether an attempt to send the batch may have been stored.
    pub(crate) fn set_maybe_stored(&self, unsure: bool) {
        self.maybe_stored.store(unsure, Ordering::Relaxed);
    }

    /// Returns whether the batch may be stored, see [`BatchTicket::set_maybe_stored`].
    pub(crate) fn is_maybe_stored(&self) -> bool {
        self.maybe_stored.load(Ordering::Relaxed)
    }

    /// Moves the records, in order, to these locations, because the batch was split. The ticket
    /// completes when all of those batches have.
    pub(crate) fn move_records(self: &Arc<Self>, places: Vec<RecordLocation>) {
        let mut batches: Vec<Arc<Self>> = places.iter().map(|(ticket, _)| ticket.clone()).collect();
        batches.sort_unstable_by_key(|ticket| ticket.id);
        batches.dedup_by_key(|ticket| ticket.id);
        {
            let mut waiters = self.waiters.lock();
            if self.is_complete() {
                return;
            }
            waiters.locations = places;
            // One more than the number of batches, so that the ticket cannot complete before all
            // are registered.
            waiters.unsettled_batches = batches.len() + 1;
        }
        for batch in batches {
            if !batch.add_origin(self) {
                self.settle_moved_batch();
            }
        }
        self.settle_moved_batch();
    }

    /// Returns whether the batch was split, so that other batches complete the ticket.
    pub(crate) fn is_moved(&self) -> bool {
        !self.waiters.lock().locations.is_empty()
    }

    /// Registers `origin` for this batch's completion. Returns false if it is complete already.
    fn add_origin(&self, origin: &Arc<Self>) -> bool {
        let mut waiters = self.waiters.lock();
        if self.is_complete() {
            return false;
        }
        waiters.origins.push(origin.clone());
        true
    }

    fn settle_moved_batch(&self) {
        let places = {
            let mut waiters = self.waiters.lock();
            waiters.unsettled_batches = waiters.unsettled_batches.saturating_sub(1);
            if waiters.unsettled_batches > 0 {
                return;
            }
            std::mem::take(&mut waiters.locations)
        };
        self.complete(BatchOutcome::Moved(places.into()));
    }

    /// Returns whether the outcome is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Calls `callback` on completion with the outcome of record `index`; at once if complete
    /// already.
    pub(crate) fn on_completion(&self, index: u32, timestamp: i64, callback: DeliveryCallback) {
        {
            let mut waiters = self.waiters.lock();
            if !self.is_complete() {
                waiters.callbacks.push((index, timestamp, callback));
                return;
            }
        }
        if let Some(outcome) = self.outcome.get() {
            invoke_callback(callback, self.record_result(outcome, index, timestamp));
        }
    }

    fn complete(&self, outcome: BatchOutcome) {
        let (callbacks, origins) = {
            // Set under the lock, so that no waiter is registered in between.
            let mut waiters = self.waiters.lock();
            if self.outcome.set(outcome).is_err() {
                return;
            }
            (
                std::mem::take(&mut waiters.callbacks),
                std::mem::take(&mut waiters.origins),
            )
        };
        if let Some(outcome) = self.outcome.get() {
            for (index, timestamp, callback) in callbacks {
                invoke_callback(callback, self.record_result(outcome, index, timestamp));
            }
        }
        let wakers = {
            let mut waiters = self.waiters.lock();
            waiters.finished = true;
            std::mem::take(&mut waiters.wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
        for origin in origins {
            origin.settle_moved_batch();
        }
    }

    fn record_result(&self, outcome: &BatchOutcome, index: u32, timestamp: i64) -> Result<RecordMetadata> {
        let base = match outcome {
            BatchOutcome::Stored(base) => *base,
            BatchOutcome::Failed(error) => return Err(error.clone()),
            BatchOutcome::Moved(places) => {
                let place = places.get(index as usize);
                let found = place.and_then(|(ticket, at)| Some((ticket, *at, ticket.outcome.get()?)));
                return match found {
                    Some((ticket, at, outcome)) => ticket.record_result(outcome, at, timestamp),
                    None => Err(Error::Closed),
                };
            }
        };
        let offset = if base < 0 { -1 } else { base + i64::from(index) };
        Ok(RecordMetadata {
            topic: self.topic.clone(),
            partition: self.partition,
            offset,
            timestamp,
        })
    }

    /// Waits until the outcome of the whole batch is known and its callbacks were called.
    pub(crate) async fn wait_complete(&self) {
        poll_fn(|cx| {
            let mut waiters = self.waiters.lock();
            if waiters.finished {
                return Poll::Ready(());
            }
            waiters.wakers.push(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl fmt::Debug for BatchTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchTicket")
            .field("id", &self.id)
            .field("outcome", &self.outcome.get())
            .finish_non_exhaustive()
    }
}

/// Calls a callback, and catches its panics.
fn invoke_callback(callback: DeliveryCallback, result: Result<RecordMetadata>) {
    if catch_unwind(AssertUnwindSafe(|| callback(result))).is_err() {
        tracing::error!("a delivery callback panicked; the producer continues");
    }
}

/// The outcome of a sent record, as a future. Dropping it does not cancel the record.
///
/// After [`Error::Timeout`] and [`Error::OutcomeUnknown`] the record may be stored, or may still
/// become stored; after every other error it is not stored.
///
/// # Examples
///
/// ```no_run
/// # use streamhouse_client::{Producer, Result};
/// # async fn example(producer: Producer) -> Result<()> {
/// use streamhouse_client::Record;
///
/// let delivery = producer.send(Record::new("orders", "tea")).await?;
/// match delivery.await {
///     Ok(stored) => println!("stored at offset {}", stored.offset),
///     Err(error) => eprintln!("not acknowledged: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a record counts as stored only once its delivery says so"]
pub struct Delivery {
    ticket: Arc<BatchTicket>,
    index: u32,
    timestamp: i64,
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(ticket: Arc<BatchTicket>, index: u32, timestamp: i64) -> Self {
        Self {
            ticket,
            index,
            timestamp,
            slot: None,
        }
    }

    /// Returns the outcome if it is known already.
    pub fn try_result(&self) -> Option<Result<RecordMetadata>> {
        self.ticket
            .outcome
            .get()
            .map(|outcome| self.ticket.record_result(outcome, self.index, self.timestamp))
    }

    /// Returns the partition chosen for the record. If the topic is recreated before the record is
    /// stored, the record may go to another one: [`RecordMetadata::partition`] is authoritative.
    pub fn partition(&self) -> i32 {
        self.ticket.partition
    }

    /// Registers a callback for the outcome without consuming the delivery.
    pub(crate) fn add_callback(&self, callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static) {
        self.ticket
            .on_completion(self.index, self.timestamp, Box::new(callback));
    }

    /// Calls `callback` with the outcome, in place of awaiting the delivery.
    pub fn on_completion(self, callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static) {
        self.add_callback(callback);
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_result() {
            return Poll::Ready(result);
        }
        let ticket = self.ticket.clone();
        let mut waiters = ticket.waiters.lock();
        if let Some(result) = self.try_result() {
            return Poll::Ready(result);
        }
        match self.slot.and_then(|slot| waiters.wakers.get_mut(slot)) {
            Some(Some(waker)) if waker.will_wake(cx.waker()) => {}
            Some(waker) => *waker = Some(cx.waker().clone()),
            None => {
                self.slot = Some(waiters.wakers.len());
                waiters.wakers.push(Some(cx.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        if let Some(waker) = self.ticket.waiters.lock().wakers.get_mut(slot) {
            *waker = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn every_delivery_of_a_batch_gets_its_own_offset() {
        let ticket = BatchTicket::new(1, "t".into(), 3);
        let deliveries: Vec<_> = (0..3).map(|i| Delivery::new(ticket.clone(), i, 7)).collect();
        let waiting = tokio::spawn(async move {
            let mut offsets = Vec::new();
            for delivery in deliveries {
                offsets.push(delivery.await.unwrap().offset);
            }
            offsets
        });
        tokio::task::yield_now().await;
        ticket.complete_stored(100);
        assert_eq!(waiting.await.unwrap(), [100, 101, 102]);
    }

    #[tokio::test]
    async fn a_ticket_is_completed_once_and_callbacks_run_once() {
        let ticket = BatchTicket::new(1, "t".into(), 0);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = calls.clone();
            move |result: Result<RecordMetadata>| {
                assert_eq!(result.unwrap().offset, 5);
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        Delivery::new(ticket.clone(), 0, 0).on_completion(count(&calls));
        ticket.complete_stored(5);
        ticket.complete_failed(Error::Closed);
        ticket.complete_stored(9);
        Delivery::new(ticket.clone(), 0, 0).on_completion(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_callback_that_panics_harms_no_other_record() {
        let ticket = BatchTicket::new(1, "t".into(), 0);
        let called = Arc::new(AtomicUsize::new(0));
        Delivery::new(ticket.clone(), 0, 0).on_completion(|_| panic!("on purpose"));
        let count = called.clone();
        Delivery::new(ticket.clone(), 1, 0).on_completion(move |result| {
            count.fetch_add(usize::from(result.is_ok()), Ordering::SeqCst);
        });
        ticket.complete_stored(5);
        ticket.wait_complete().await;
        assert_eq!(called.load(Ordering::SeqCst), 1);
        // The outcome is known: the callback is called at once.
        Delivery::new(ticket, 1, 0).on_completion(|_| panic!("on purpose"));
    }

    #[tokio::test]
    async fn records_of_a_batch_that_was_taken_apart_have_the_outcomes_of_where_they_went() {
        let [whole, left, right] = [1, 2, 3].map(|id| BatchTicket::new(id, "t".into(), id as i32));
        let deliveries: Vec<_> = (0..4).map(|at| Delivery::new(whole.clone(), at, 7)).collect();
        right.complete_failed(Error::Closed);
        whole.move_records(vec![
            (left.clone(), 1),
            (right.clone(), 0),
            (left.clone(), 0),
            (left.clone(), 2),
        ]);
        assert!(whole.is_moved() && !whole.is_complete());
        left.complete_stored(100);
        let mut results = Vec::new();
        for delivery in deliveries {
            results.push(delivery.await.map(|stored| (stored.partition, stored.offset)));
        }
        assert_eq!(
            results,
            [Ok((2, 101)), Err(Error::Closed), Ok((2, 100)), Ok((2, 102))]
        );
        assert_eq!(Arc::strong_count(&whole), 1, "nothing keeps it any more");
    }

    #[tokio::test]
    async fn an_unknown_offset_stays_unknown_for_every_record() {
        let ticket = BatchTicket::new(1, "t".into(), 0);
        ticket.complete_stored(-1);
        assert_eq!(Delivery::new(ticket, 4, 0).await.unwrap().offset, -1);
    }
}

//! [`Delivery`]: the future of one record, and the [`Ticket`] that all records of a batch share.
//!
//! A ticket is completed exactly once, by whoever owns the batch; a batch that is dropped completes its ticket with
//! [`Error::Closed`], so no delivery waits for ever and no callback is lost.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::record::RecordMetadata;
use crate::error::{Error, Result};

/// Called once with what became of a record. It runs on the producer's own task: it must not block.
pub type Callback = Box<dyn FnOnce(Result<RecordMetadata>) + Send>;

/// What became of a batch.
#[derive(Debug, Clone)]
enum Outcome {
    /// Stored; the offset of its first record, or -1 where it is not known any more.
    Stored(i64),
    /// Not stored, or nobody knows.
    Failed(Error),
}

/// The shared completion of a batch's records.
pub(crate) struct Ticket {
    id: u64,
    topic: Arc<str>,
    partition: i32,
    outcome: OnceLock<Outcome>,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    wakers: Vec<Option<Waker>>,
    callbacks: Vec<(u32, i64, Callback)>,
    /// The outcome is known and the callbacks were called.
    finished: bool,
}

impl Ticket {
    pub(crate) fn new(id: u64, topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self {
            id,
            topic,
            partition,
            outcome: OnceLock::new(),
            waiters: Mutex::default(),
        })
    }

    /// Unique within the producer, rising.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The batch is stored, its first record at `base_offset`.
    pub(crate) fn stored(&self, base_offset: i64) {
        self.complete(Outcome::Stored(base_offset));
    }

    /// The batch failed for good.
    pub(crate) fn failed(&self, error: Error) {
        self.complete(Outcome::Failed(error));
    }

    /// Whether the batch's fate is known.
    pub(crate) fn is_done(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Calls `callback` on completion for record `index`; at once when that was already.
    pub(crate) fn on_completion(&self, index: u32, timestamp: i64, callback: Callback) {
        {
            let mut waiters = self.waiters.lock();
            if !self.is_done() {
                waiters.callbacks.push((index, timestamp, callback));
                return;
            }
        }
        if let Some(outcome) = self.outcome.get() {
            callback(self.result(outcome, index, timestamp));
        }
    }

    fn complete(&self, outcome: Outcome) {
        let callbacks = {
            // Set under the lock, so that no waiter registers between the two.
            let mut waiters = self.waiters.lock();
            if self.outcome.set(outcome).is_err() {
                return;
            }
            std::mem::take(&mut waiters.callbacks)
        };
        if let Some(outcome) = self.outcome.get() {
            for (index, timestamp, callback) in callbacks {
                callback(self.result(outcome, index, timestamp));
            }
        }
        let wakers = {
            let mut waiters = self.waiters.lock();
            waiters.finished = true;
            std::mem::take(&mut waiters.wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn result(&self, outcome: &Outcome, index: u32, timestamp: i64) -> Result<RecordMetadata> {
        let base = match outcome {
            Outcome::Stored(base) => *base,
            Outcome::Failed(error) => return Err(error.clone()),
        };
        let offset = if base < 0 { -1 } else { base + i64::from(index) };
        Ok(RecordMetadata {
            topic: self.topic.clone(),
            partition: self.partition,
            offset,
            timestamp,
        })
    }

    /// Waits until the fate of the whole batch is known and its callbacks were called.
    pub(crate) async fn done(&self) {
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

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .field("outcome", &self.outcome.get())
            .finish_non_exhaustive()
    }
}

/// What will become of a sent record: await it, or drop it (the record is sent all the same).
#[derive(Debug)]
#[must_use = "a record counts as stored only once its delivery says so"]
pub struct Delivery {
    ticket: Arc<Ticket>,
    index: u32,
    timestamp: i64,
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(ticket: Arc<Ticket>, index: u32, timestamp: i64) -> Self {
        Self {
            ticket,
            index,
            timestamp,
            slot: None,
        }
    }

    /// The result, when it is known already.
    pub fn try_result(&self) -> Option<Result<RecordMetadata>> {
        self.ticket
            .outcome
            .get()
            .map(|outcome| self.ticket.result(outcome, self.index, self.timestamp))
    }

    /// The partition the record went to.
    pub fn partition(&self) -> i32 {
        self.ticket.partition
    }

    /// Calls `callback` with the result as well.
    pub(crate) fn observe(&self, callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static) {
        self.ticket
            .on_completion(self.index, self.timestamp, Box::new(callback));
    }

    /// Calls `callback` with the result instead.
    pub fn on_completion(self, callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static) {
        self.observe(callback);
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
        let ticket = Ticket::new(1, "t".into(), 3);
        let deliveries: Vec<_> = (0..3).map(|i| Delivery::new(ticket.clone(), i, 7)).collect();
        let waiting = tokio::spawn(async move {
            let mut offsets = Vec::new();
            for delivery in deliveries {
                offsets.push(delivery.await.unwrap().offset);
            }
            offsets
        });
        tokio::task::yield_now().await;
        ticket.stored(100);
        assert_eq!(waiting.await.unwrap(), [100, 101, 102]);
    }

    #[tokio::test]
    async fn a_ticket_is_completed_once_and_callbacks_run_once() {
        let ticket = Ticket::new(1, "t".into(), 0);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = calls.clone();
            move |result: Result<RecordMetadata>| {
                assert_eq!(result.unwrap().offset, 5);
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        Delivery::new(ticket.clone(), 0, 0).on_completion(count(&calls));
        ticket.stored(5);
        ticket.failed(Error::Closed);
        ticket.stored(9);
        Delivery::new(ticket.clone(), 0, 0).on_completion(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_unknown_offset_stays_unknown_for_every_record() {
        let ticket = Ticket::new(1, "t".into(), 0);
        ticket.stored(-1);
        assert_eq!(Delivery::new(ticket, 4, 0).await.unwrap().offset, -1);
    }
}

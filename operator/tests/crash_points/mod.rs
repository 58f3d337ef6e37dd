//! Crashes of an operator between any two of its writes. Shared by the tests of Topics and of
//! Users: each operator of a test has one [`CrashPoint`], through which it writes the metadata
//! store ([`CrashingStore`]) and, where a test asks for it, the API server. An operator that is
//! killed at that point has done exactly the writes before it. Reads leave nothing behind, so that
//! the states between writes are all states that a crash can leave.

mod store;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::store::CrashingStore;

/// Where the last write is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopPoint {
    Before,
    After,
}

/// Passes a number of writes and suspends the next one, before or after it has taken effect, and
/// all that follow.
#[derive(Debug)]
pub(crate) struct CrashPoint {
    writes_before_stop: AtomicI64,
    stop: StopPoint,
    reached: Mutex<String>,
    stopped: Notify,
}

impl CrashPoint {
    pub(crate) fn new(writes: i64, stop: StopPoint) -> Arc<Self> {
        Arc::new(Self {
            writes_before_stop: AtomicI64::new(writes),
            stop,
            reached: Mutex::default(),
            stopped: Notify::new(),
        })
    }

    /// Resolves when a write has been suspended, to its name.
    pub(crate) async fn stopped(&self) -> String {
        self.stopped.notified().await;
        self.reached.lock().clone()
    }

    /// Performs a write, or never returns.
    pub(crate) async fn write<T>(&self, name: &str, call: impl Future<Output = T>) -> T {
        let left = self.writes_before_stop.fetch_sub(1, Ordering::AcqRel);
        if left > 0 {
            return call.await;
        }
        if left == 0 {
            if self.stop == StopPoint::After {
                // The next operator has to find out whether it succeeded.
                drop(call.await);
            }
            name.clone_into(&mut self.reached.lock());
            self.stopped.notify_one();
        }
        std::future::pending().await
    }
}

//! Monotonic time as a trait, so that tests can simulate clocks of different speeds. Used by the
//! elector and the fence.

use std::fmt;

use async_trait::async_trait;
use tokio::time::Instant;

/// A monotonic clock with timers.
#[async_trait]
pub trait MonotonicTimer: Send + Sync + fmt::Debug {
    /// Returns the current time.
    fn now(&self) -> Instant;

    /// Returns at this time, or immediately if it has passed.
    async fn sleep_until(&self, at: Instant);
}

/// The monotonic clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemTimer;

#[async_trait]
impl MonotonicTimer for SystemTimer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}

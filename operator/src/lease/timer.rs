//! The seam for monotonic time, so that the election can be simulated with clocks that run at different speeds. Called by the elector
//! and the fence.

use std::fmt;

use async_trait::async_trait;
use tokio::time::Instant;

/// A clock that only goes forward, and waiting for it.
#[async_trait]
pub trait Timer: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Instant;

    /// Returns at that moment, or at once if it is past.
    async fn sleep_until(&self, at: Instant);
}

/// The computer's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemTimer;

#[async_trait]
impl Timer for SystemTimer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}

//! Interfaces for the wall clock and for randomness. All code takes them as parameters, so that a
//! seeded simulation can replace them; lints reject other sources. Durations and time-outs use
//! `tokio::time`, which tests can pause.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A source of the wall-clock time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// A source of random bits.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Returns 64 fresh random bits.
    fn next_u64(&self) -> u64;

    /// Returns a random fraction in `0.0..1.0`, for jitter.
    fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one permitted source
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The operating system's random number generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[allow(clippy::disallowed_methods)] // the one permitted source
    fn next_u64(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().1 ^ uuid::Uuid::new_v4().as_u64_pair().0
    }
}

/// Returns the operating system's clock.
pub fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// Returns the operating system's random number generator.
pub fn system_entropy() -> Arc<dyn Entropy> {
    Arc::new(SystemEntropy)
}

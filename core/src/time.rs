//! The seams for wall clock and entropy. Everything that asks for the time of day or for randomness takes one of these,
//! so that a seeded simulation can stand in; the lints refuse any other source. Durations and time-outs are measured with
//! `tokio::time`, which tests can pause.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Tells the time of day.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// Gives random bits.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// 64 fresh random bits.
    fn next_u64(&self) -> u64;

    /// A fraction in `0.0..1.0`, for jitter.
    fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The computer's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the seam itself
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[allow(clippy::disallowed_methods)] // the seam itself
    fn next_u64(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().1 ^ uuid::Uuid::new_v4().as_u64_pair().0
    }
}

/// The real clock.
pub fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The real randomness.
pub fn system_entropy() -> Arc<dyn Entropy> {
    Arc::new(SystemEntropy)
}

//! [`Backoff`], the growing, jittered delays between attempts, and [`Deadline`], the time limit for
//! a call with all its attempts.

use std::{sync::Arc, time::Duration};

use streamhouse_core::{
    backoff::{BackoffJitter, BackoffPolicy, BackoffState},
    time::Entropy,
};
use tokio::time::Instant;

use crate::config::ClientConfig;

/// The delays of the configuration, each shortened by up to a fifth, so that clients do not retry
/// in lockstep.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    delays: BackoffState,
    entropy: Arc<dyn Entropy>,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let policy = BackoffPolicy::new(config.retry_backoff, config.retry_backoff_max);
        Self {
            delays: policy.with_jitter(BackoffJitter::Below(0.2)).start(),
            entropy: config.entropy.clone(),
        }
    }

    /// Returns the delay after one more failure, at least `asked`, the delay that the agent
    /// requested.
    pub(crate) fn next_delay(&mut self, asked: Duration) -> Duration {
        self.delays.next_delay(&*self.entropy).max(asked)
    }

    /// Returns the delay after `tries` failures, for callers that count failures themselves.
    pub(crate) fn delay_after(&self, tries: u32, asked: Duration) -> Duration {
        let policy = self.delays.policy();
        policy.delay_after(tries, &*self.entropy).max(asked)
    }

    /// Raises the maximum delay to `max`, for requests that should be repeated less often.
    pub(crate) fn with_max_delay(mut self, max: Duration) -> Self {
        let policy = *self.delays.policy();
        self.delays = policy.with_max_delay(policy.max_delay().max(max)).start();
        self
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.delays.reset();
    }
}

/// Time limit of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    end: Instant,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration) -> Self {
        let start = Instant::now();
        // Cap at a century, so that `Duration::MAX` does not overflow the clock.
        let allowed = allowed.min(Duration::from_secs(3_153_600_000));
        Self {
            start,
            end: start + allowed,
        }
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.end - self.start
    }
}

/// Converts a duration into whole milliseconds for the protocol, saturating at `u32::MAX`.
pub(crate) fn wire_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_respect_what_was_asked() {
        let mut backoff = Backoff::new(&ClientConfig::new("a:1"));
        let pauses: Vec<_> = (0..6).map(|_| backoff.next_delay(Duration::ZERO)).collect();
        assert!(pauses[0] <= Duration::from_millis(100) && pauses[0] >= Duration::from_millis(80));
        assert!(pauses[5] <= Duration::from_secs(1) && pauses[5] >= Duration::from_millis(800));
        assert_eq!(backoff.next_delay(Duration::from_secs(9)), Duration::from_secs(9));
        backoff.reset();
        assert!(backoff.next_delay(Duration::ZERO) <= Duration::from_millis(100));
    }
}

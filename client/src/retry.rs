//! [`Backoff`]: growing, jittered pauses between tries; and [`Deadline`], which bounds a call with all its tries.

use std::{sync::Arc, time::Duration};

use streamhouse_core::time::Entropy;
use tokio::time::Instant;

use crate::config::Settings;

/// Pauses that double up to a bound, each shortened by up to a fifth so that clients do not march in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
    entropy: Arc<dyn Entropy>,
}

impl Backoff {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            first: settings.retry_backoff,
            most: settings.retry_backoff_max,
            tries: 0,
            entropy: settings.entropy.clone(),
        }
    }

    /// The pause after one more failure; never shorter than what the agent asked for.
    pub(crate) fn next(&mut self, asked: Duration) -> Duration {
        let pause = self.first.saturating_mul(1 << self.tries.min(16)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        pause.mul_f64(1.0 - 0.2 * self.entropy.fraction()).max(asked)
    }

    /// The pause after so many failures, for what counts them itself.
    pub(crate) fn after(&self, tries: u32, asked: Duration) -> Duration {
        Self {
            tries: tries.saturating_sub(1),
            ..self.clone()
        }
        .next(asked)
    }

    /// With longer pauses, for what is not worth asking for often.
    pub(crate) fn up_to(mut self, most: Duration) -> Self {
        self.most = self.most.max(most);
        self
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// When a call must end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    end: Instant,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration) -> Self {
        let start = Instant::now();
        // A century for whoever says "for ever".
        let allowed = allowed.min(Duration::from_secs(3_153_600_000));
        Self {
            start,
            end: start + allowed,
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    pub(crate) fn allowed(&self) -> Duration {
        self.end - self.start
    }
}

/// A duration in whole milliseconds for the wire, bounded by its type.
pub(crate) fn wire_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_respect_what_was_asked() {
        let mut backoff = Backoff::new(&Settings::new("a:1"));
        let pauses: Vec<_> = (0..6).map(|_| backoff.next(Duration::ZERO)).collect();
        assert!(pauses[0] <= Duration::from_millis(100) && pauses[0] >= Duration::from_millis(80));
        assert!(pauses[5] <= Duration::from_secs(1) && pauses[5] >= Duration::from_millis(800));
        assert_eq!(backoff.next(Duration::from_secs(9)), Duration::from_secs(9));
        backoff.reset();
        assert!(backoff.next(Duration::ZERO) <= Duration::from_millis(100));
    }
}

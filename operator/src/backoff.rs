//! Exponential back-off for failed reconciliations of clusters and Topics.

use std::time::Duration;

use streamhouse_core::time::Entropy;

/// Delay after the first failure.
const INITIAL_DELAY: Duration = Duration::from_secs(1);
/// Upper bound of the delay.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Returns the delay after `failures` consecutive failures: doubled with each failure, with jitter
/// between half and all of it.
pub(crate) fn backoff_delay(failures: u32, entropy: &dyn Entropy) -> Duration {
    let doubled = INITIAL_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(MAX_DELAY).mul_f64(0.5 + entropy.fraction() / 2.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Entropy that always returns the same number.
    #[derive(Debug)]
    pub(crate) struct FixedEntropy(pub(crate) u64);

    impl Entropy for FixedEntropy {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn waits_grow_to_a_limit_and_are_never_shorter_than_half() {
        let (low, high) = (FixedEntropy(0), FixedEntropy(u64::MAX));
        assert_eq!(backoff_delay(1, &low), INITIAL_DELAY / 2);
        assert_eq!(backoff_delay(3, &low), INITIAL_DELAY * 2);
        assert!(backoff_delay(u32::MAX, &high) <= MAX_DELAY);
        assert_eq!(backoff_delay(u32::MAX, &low), MAX_DELAY / 2);
    }
}

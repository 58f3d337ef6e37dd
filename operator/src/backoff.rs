//! Back-off after failed reconciliations of clusters and Topics.

use std::time::Duration;

use streamhouse_core::backoff::{BackoffJitter, BackoffPolicy};

/// Delays after consecutive failures of one resource. Half of each delay is random, so that
/// resources that failed together are not reconciled together.
pub(crate) const RECONCILE_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60))
        .with_jitter(BackoffJitter::Below(0.5));

#[cfg(test)]
pub(crate) mod tests {
    use streamhouse_core::time::Entropy;

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
    fn delays_grow_from_a_second_to_a_minute_and_are_never_shorter_than_half() {
        let (low, high) = (FixedEntropy(0), FixedEntropy(u64::MAX));
        let delay = |failures, entropy: &FixedEntropy| RECONCILE_BACKOFF.delay_after(failures, entropy);
        assert_eq!(delay(1, &low), Duration::from_millis(500));
        assert_eq!(delay(3, &low), Duration::from_secs(2));
        assert!(delay(u32::MAX, &high) <= Duration::from_secs(60));
        assert_eq!(delay(u32::MAX, &low), Duration::from_secs(30));
    }
}

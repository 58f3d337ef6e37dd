//! Exponential back-off for failed reconciliations of clusters and Topics.

use std::time::Duration;

use streamhouse_core::time::Entropy;

/// Delay after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Upper bound of the delay.
const LONGEST: Duration = Duration::from_secs(60);

/// Returns the delay after `failures` consecutive failures: doubled with each failure, with jitter
/// between half and all of it.
pub(crate) fn delay(failures: u32, entropy: &dyn Entropy) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(0.5 + entropy.fraction() / 2.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Entropy that always returns the same number.
    #[derive(Debug)]
    pub(crate) struct Fixed(pub(crate) u64);

    impl Entropy for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn waits_grow_to_a_limit_and_are_never_shorter_than_half() {
        let (low, high) = (Fixed(0), Fixed(u64::MAX));
        assert_eq!(delay(1, &low), FIRST / 2);
        assert_eq!(delay(3, &low), FIRST * 2);
        assert!(delay(u32::MAX, &high) <= LONGEST);
        assert_eq!(delay(u32::MAX, &low), LONGEST / 2);
    }
}

//! Exponential back-off: how long to wait before an attempt is repeated.
//!
//! [`BackoffPolicy`] holds the numbers and computes a delay from a count of failures;
//! [`BackoffState`] counts the failures for a loop. Neither reads a clock nor sleeps, and all
//! randomness comes from the caller's [`Entropy`], so that the delays of a seeded simulation are
//! reproducible. Every retry loop of the workspace takes its delays from here.

use std::time::Duration;

use crate::time::Entropy;

/// How a delay is randomized, so that callers that failed together do not retry together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum BackoffJitter {
    /// Not at all.
    None,
    /// The delay is shortened by up to this fraction: `0.5` results in 50 % to 100 % of it.
    Below(f64),
    /// The delay is shortened or lengthened by up to this fraction: `0.5` results in 50 % to 150 %
    /// of it.
    Around(f64),
}

/// The delays between attempts: the first one, doubled with each failure up to a maximum, then
/// randomized.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use streamhouse_core::{
///     backoff::{BackoffJitter, BackoffPolicy},
///     time::SystemEntropy,
/// };
///
/// const POLICY: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(1))
///     .with_jitter(BackoffJitter::Below(0.2));
///
/// let mut backoff = POLICY.start();
/// let first = backoff.next_delay(&SystemEntropy);
/// assert!(first >= Duration::from_millis(80) && first <= Duration::from_millis(100));
/// assert_eq!(POLICY.base_delay(2), Duration::from_millis(200));
/// assert_eq!(POLICY.base_delay(9), Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    initial: Duration,
    max: Duration,
    jitter: BackoffJitter,
}

impl BackoffPolicy {
    /// Creates a policy without jitter: `initial` after the first failure, doubled with each
    /// further one up to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            jitter: BackoffJitter::None,
        }
    }

    /// Randomizes the delays.
    #[must_use]
    pub const fn with_jitter(mut self, jitter: BackoffJitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Replaces the maximum delay.
    #[must_use]
    pub const fn with_max_delay(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// Returns the maximum delay before jitter.
    pub const fn max_delay(&self) -> Duration {
        self.max
    }

    /// Returns the delay after this number of consecutive failures without jitter. Zero failures
    /// count as one.
    pub fn base_delay(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Returns the delay after this number of consecutive failures. Takes one number from `entropy`
    /// if the policy has jitter, else none.
    pub fn delay_after(&self, failures: u32, entropy: &dyn Entropy) -> Duration {
        let base = self.base_delay(failures);
        let factor = match self.jitter {
            BackoffJitter::None => return base,
            BackoffJitter::Below(part) => 1.0 - part + part * entropy.fraction(),
            BackoffJitter::Around(part) => 1.0 - part + 2.0 * part * entropy.fraction(),
        };
        Duration::try_from_secs_f64(base.as_secs_f64() * factor).unwrap_or(base)
    }

    /// Returns the state of a loop without failures.
    pub const fn start(self) -> BackoffState {
        BackoffState {
            policy: self,
            failures: 0,
        }
    }
}

/// The consecutive failures of a loop and the delays that follow from them.
#[derive(Debug, Clone, PartialEq)]
pub struct BackoffState {
    policy: BackoffPolicy,
    failures: u32,
}

impl BackoffState {
    /// Returns the policy.
    pub const fn policy(&self) -> &BackoffPolicy {
        &self.policy
    }

    /// Counts a failure and returns the delay after it.
    pub fn next_delay(&mut self, entropy: &dyn Entropy) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.policy.delay_after(self.failures, entropy)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// Returns the same number always, and counts how often.
    #[derive(Debug)]
    struct CountedEntropy {
        number: u64,
        draws: AtomicU64,
    }

    impl CountedEntropy {
        fn new(number: u64) -> Self {
            Self {
                number,
                draws: AtomicU64::new(0),
            }
        }

        fn draws(&self) -> u64 {
            self.draws.load(Ordering::Relaxed)
        }
    }

    impl Entropy for CountedEntropy {
        fn next_u64(&self) -> u64 {
            self.draws.fetch_add(1, Ordering::Relaxed);
            self.number
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_start_over_after_a_reset() {
        let entropy = CountedEntropy::new(7);
        let mut backoff = BackoffPolicy::new(millis(100), millis(1000)).start();
        let delays: Vec<_> = (0..6).map(|_| backoff.next_delay(&entropy)).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(millis));
        backoff.reset();
        assert_eq!(backoff.next_delay(&entropy), millis(100));
        assert_eq!(
            entropy.draws(),
            0,
            "without jitter nothing is drawn from the entropy"
        );
    }

    #[test]
    fn jitter_shortens_or_surrounds_the_delay() {
        let (low, high) = (CountedEntropy::new(0), CountedEntropy::new(u64::MAX));
        let plain = BackoffPolicy::new(millis(100), millis(1000));
        let below = plain.with_jitter(BackoffJitter::Below(0.2));
        assert_eq!(below.delay_after(1, &low), millis(80));
        assert!(below.delay_after(1, &high) > millis(99) && below.delay_after(1, &high) <= millis(100));
        let around = plain.with_jitter(BackoffJitter::Around(0.5));
        assert_eq!(around.delay_after(2, &low), millis(100));
        assert!(around.delay_after(2, &high) > millis(299) && around.delay_after(2, &high) <= millis(300));
        assert_eq!((low.draws(), high.draws()), (2, 4));
    }

    #[test]
    fn a_maximum_can_be_replaced() {
        let policy = BackoffPolicy::new(millis(100), millis(1000)).with_max_delay(millis(5000));
        assert_eq!(policy.max_delay(), millis(5000));
        assert_eq!(policy.base_delay(6), millis(3200));
    }

    fn jitters() -> impl Strategy<Value = (BackoffJitter, f64, f64)> {
        prop_oneof![
            Just((BackoffJitter::None, 1.0, 1.0)),
            (0.0..=1.0).prop_map(|part| (BackoffJitter::Below(part), 1.0 - part, 1.0)),
            (0.0..=1.0).prop_map(|part| (BackoffJitter::Around(part), 1.0 - part, 1.0 + part)),
        ]
    }

    proptest! {
        #[test]
        fn every_delay_is_the_jittered_base_delay_which_never_shrinks(
            initial in 1_u64..100_000,
            longer in 0_u64..100_000_000,
            (jitter, lowest, highest) in jitters(),
            failures: u32,
            number: u64,
        ) {
            let (first, max) = (millis(initial), millis(initial + longer));
            let policy = BackoffPolicy::new(first, max).with_jitter(jitter);
            let base = policy.base_delay(failures);
            prop_assert!(first <= base && base <= max);
            prop_assert!(base <= policy.base_delay(failures.saturating_add(1)));
            prop_assert_eq!(policy.base_delay(u32::MAX), max);

            let delay = policy.delay_after(failures, &CountedEntropy::new(number));
            let nanosecond = Duration::from_nanos(1);
            prop_assert!(delay + nanosecond >= base.mul_f64(lowest), "{delay:?} of {base:?}");
            prop_assert!(delay <= base.mul_f64(highest) + nanosecond, "{delay:?} of {base:?}");
            prop_assert_eq!(delay, policy.delay_after(failures, &CountedEntropy::new(number)));
        }

        #[test]
        fn the_nth_delay_of_a_loop_is_that_after_n_failures(
            initial in 1_u64..10_000,
            longer in 0_u64..10_000_000,
            (jitter, ..) in jitters(),
            number: u64,
        ) {
            let policy = BackoffPolicy::new(millis(initial), millis(initial + longer)).with_jitter(jitter);
            let entropy = CountedEntropy::new(number);
            let mut backoff = policy.start();
            for failures in 1..40 {
                prop_assert_eq!(backoff.next_delay(&entropy), policy.delay_after(failures, &entropy));
            }
        }

        #[test]
        fn no_duration_overflows(initial: Duration, max: Duration, failures: u32, number: u64) {
            for jitter in [BackoffJitter::None, BackoffJitter::Below(0.5), BackoffJitter::Around(1.0)] {
                let policy = BackoffPolicy::new(initial, max).with_jitter(jitter);
                policy.delay_after(failures, &CountedEntropy::new(number));
            }
        }
    }
}

//! Measures what a client does against its limit, and says how long to throttle it.

use std::time::Duration;

/// The largest rate in a second; more is no limit.
const MAX_RATE: f64 = 1e18;

/// How fast a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenRate {
    per_second: f64,
    burst: Duration,
    max_delay: Duration,
}

impl TokenRate {
    /// Returns a rate in a second. A client that was idle may spend at once what it gets in
    /// `burst`. It is never throttled longer than `max_delay` at a time.
    pub fn new(per_second: f64, burst: Duration, max_delay: Duration) -> Self {
        let per_second = if per_second.is_nan() { 0.0 } else { per_second };
        Self {
            per_second: per_second.clamp(f64::MIN_POSITIVE, MAX_RATE),
            burst,
            max_delay,
        }
    }

    fn capacity(&self) -> f64 {
        self.per_second * self.burst.as_secs_f64()
    }

    /// Returns the tokens of a client whose debt takes the longest time.
    fn floor(&self) -> f64 {
        -self.per_second * self.max_delay.as_secs_f64()
    }
}

/// The tokens of the clients that share a limit. As in Kafka, nothing is refused: what was done is
/// recorded even if it exceeds the limit, and the client is throttled until the debt is paid. A
/// debt is at most what is paid in the longest delay; what exceeds it is forgiven.
///
/// Times are those of a monotonic clock since any fixed moment.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use streamhouse_core::security::{TokenBucket, TokenRate};
///
/// let second = Duration::from_secs(1);
/// let mut bucket = TokenBucket::new(TokenRate::new(1000.0, second, 30 * second), Duration::ZERO);
/// assert_eq!(bucket.record(1000.0, Duration::ZERO), Duration::ZERO);
/// assert_eq!(bucket.record(500.0, Duration::ZERO), second / 2);
/// ```
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: TokenRate,
    /// Below zero if the clients are in debt.
    tokens: f64,
    updated: Duration,
}

impl TokenBucket {
    /// Returns a full bucket.
    pub fn new(rate: TokenRate, now: Duration) -> Self {
        Self {
            rate,
            tokens: rate.capacity(),
            updated: now,
        }
    }

    /// Returns the rate.
    pub fn rate(&self) -> TokenRate {
        self.rate
    }

    /// Returns whether clients could do as much as if they had never done anything.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens >= self.rate.capacity()
    }

    /// Records that clients did something, and returns how long to throttle the one that did.
    pub fn record(&mut self, amount: f64, now: Duration) -> Duration {
        self.refill(now);
        self.spend(amount);
        self.delay()
    }

    /// Takes back what was recorded and not done.
    pub fn refund(&mut self, amount: f64) {
        self.spend(-amount);
    }

    /// Returns how long a client is to be throttled that does nothing more.
    pub fn throttle_time(&mut self, now: Duration) -> Duration {
        self.refill(now);
        self.delay()
    }

    /// Returns whether clients are in debt, for limits that refuse what exceeds them instead of
    /// delaying the next request.
    pub fn is_exhausted(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens < 0.0
    }

    /// Changes the rate. A debt stays, and is paid at the new rate.
    pub fn set_rate(&mut self, rate: TokenRate, now: Duration) {
        self.refill(now);
        self.rate = rate;
        self.spend(0.0);
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        self.spend(-self.rate.per_second * elapsed.as_secs_f64());
    }

    fn spend(&mut self, amount: f64) {
        let tokens = self.tokens - amount;
        self.tokens = tokens.max(self.rate.floor()).min(self.rate.capacity());
    }

    fn delay(&self) -> Duration {
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        let delay = Duration::try_from_secs_f64(-self.tokens / self.rate.per_second);
        let longest = self.rate.max_delay;
        delay.map_or(longest, |delay| delay.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(per_second: f64) -> TokenBucket {
        TokenBucket::new(TokenRate::new(per_second, SECOND, 30 * SECOND), Duration::ZERO)
    }

    #[test]
    fn a_client_is_delayed_until_its_debt_is_paid() {
        let mut bucket = bucket(100.0);
        assert_eq!(bucket.record(100.0, Duration::ZERO), Duration::ZERO, "the burst");
        assert!(!bucket.is_exhausted(Duration::ZERO));
        assert_eq!(bucket.record(50.0, Duration::ZERO), SECOND / 2);
        assert!(bucket.is_exhausted(Duration::ZERO));
        assert_eq!(bucket.throttle_time(SECOND / 4), SECOND / 4);
        assert_eq!(bucket.record(100.0, SECOND / 2), SECOND);
        assert_eq!(bucket.throttle_time(SECOND), SECOND / 2);
        bucket.refund(50.0);
        assert_eq!(bucket.throttle_time(SECOND), Duration::ZERO);
        assert!(!bucket.is_full(SECOND) && bucket.is_full(2 * SECOND));
    }

    #[test]
    fn delays_and_bursts_are_bounded() {
        let mut bucket = bucket(100.0);
        assert_eq!(bucket.record(1e9, Duration::ZERO), 30 * SECOND);
        assert_eq!(bucket.throttle_time(30 * SECOND), Duration::ZERO);
        let later = 3600 * SECOND;
        assert_eq!(
            bucket.record(200.0, later),
            SECOND,
            "no more than a burst is saved"
        );
        assert_eq!(
            bucket.throttle_time(later - SECOND),
            SECOND,
            "time does not go back"
        );
        bucket.refund(1e9);
        assert_eq!(bucket.record(101.0, later), SECOND / 100);
    }

    #[test]
    fn a_debt_is_paid_at_the_new_rate() {
        let mut bucket = bucket(100.0);
        bucket.record(1100.0, Duration::ZERO);
        bucket.set_rate(TokenRate::new(1000.0, SECOND, 30 * SECOND), Duration::ZERO);
        assert_eq!(bucket.throttle_time(Duration::ZERO), SECOND);
        bucket.set_rate(TokenRate::new(1.0, SECOND, 30 * SECOND), Duration::ZERO);
        assert_eq!(bucket.throttle_time(Duration::ZERO), 30 * SECOND);
    }

    #[test]
    fn rates_without_sense_neither_panic_nor_lift_the_limit() {
        for rate in [0.0, -1.0, f64::NAN, f64::MIN_POSITIVE] {
            assert_eq!(bucket(rate).record(1.0, Duration::ZERO), 30 * SECOND, "{rate}");
        }
        assert_eq!(bucket(f64::INFINITY).record(1e12, SECOND), Duration::ZERO);
        let never = TokenRate::new(1.0, Duration::ZERO, Duration::MAX);
        let mut bucket = TokenBucket::new(never, Duration::MAX);
        bucket.record(f64::NAN, Duration::MAX);
        bucket.record(f64::MAX, Duration::ZERO);
        assert!(bucket.is_exhausted(Duration::MAX));
    }

    proptest! {
        #[test]
        fn clients_that_wait_as_told_keep_to_the_rate(
            amounts in prop::collection::vec(0.0_f64..500.0, 1..50),
            pauses in prop::collection::vec(0_u64..2000, 50),
        ) {
            let mut bucket = bucket(100.0);
            let mut now = Duration::ZERO;
            let mut spent = 0.0;
            for (amount, pause) in amounts.into_iter().zip(pauses) {
                now += Duration::from_millis(pause);
                spent += amount;
                now += bucket.record(amount, now);
                // The burst, and what was gained in the time.
                prop_assert!(spent <= 100.0 + 100.0 * now.as_secs_f64() + 1e-3, "{spent} after {now:?}");
            }
        }
    }
}

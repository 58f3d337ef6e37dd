//! How long to wait before something that failed is tried again: per object, longer each time, with full jitter, so that many objects
//! that failed together do not come back together. Called by the reconciliations. Holds a bounded number of objects: over that, the
//! one whose last failure is the oldest is forgotten and starts anew.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use streamhouse_core::time::Entropy;

/// No wait is shorter: a wait of nothing would be a busy loop.
const LEAST: Duration = Duration::from_millis(50);

/// How fast waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The longest wait after the first failure; doubles with each further one.
    pub first: Duration,
    /// The longest wait ever.
    pub most: Duration,
    /// How many objects are remembered.
    pub capacity: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(300),
            capacity: 10_000,
        }
    }
}

/// The failures of objects by key.
pub struct Backoff<K> {
    policy: Policy,
    entropy: Arc<dyn Entropy>,
    failures: Mutex<Failures<K>>,
}

struct Failures<K> {
    by_key: HashMap<K, Failed>,
    /// Grows with each failure, to know the oldest.
    sequence: u64,
}

#[derive(Clone, Copy)]
struct Failed {
    times: u32,
    last: u64,
}

impl<K> fmt::Debug for Backoff<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Backoff<K> {
    /// Nothing has failed yet.
    pub fn new(policy: Policy, entropy: Arc<dyn Entropy>) -> Self {
        let failures = Mutex::new(Failures {
            by_key: HashMap::new(),
            sequence: 0,
        });
        Self {
            policy,
            entropy,
            failures,
        }
    }

    /// It failed once more: how long to wait.
    pub fn failed(&self, key: &K) -> Duration {
        let times = self.count(key);
        let doubled = self
            .policy
            .first
            .saturating_mul(1_u32.checked_shl(times - 1).unwrap_or(u32::MAX));
        let longest = doubled.min(self.policy.most);
        longest.mul_f64(self.entropy.fraction()).max(LEAST)
    }

    /// It succeeded, or is gone: the next failure is a first one.
    pub fn forget(&self, key: &K) {
        self.failures.lock().by_key.remove(key);
    }

    /// How many objects have failed and not succeeded since.
    pub fn len(&self) -> usize {
        self.failures.lock().by_key.len()
    }

    /// Whether nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts a failure; gives how many there were in a row, this one included.
    fn count(&self, key: &K) -> u32 {
        let mut failures = self.failures.lock();
        failures.sequence += 1;
        let last = failures.sequence;
        if let Some(failed) = failures.by_key.get_mut(key) {
            failed.times = failed.times.saturating_add(1);
            failed.last = last;
            return failed.times;
        }
        if failures.by_key.len() >= self.policy.capacity.max(1) {
            let oldest = failures.by_key.iter().min_by_key(|(_, failed)| failed.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                failures.by_key.remove(&oldest);
            }
        }
        failures.by_key.insert(key.clone(), Failed { times: 1, last });
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bits for ever.
    #[derive(Debug)]
    struct Fixed(u64);

    impl Entropy for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    fn backoff(bits: u64, capacity: usize) -> Backoff<&'static str> {
        let policy = Policy {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
            capacity,
        };
        Backoff::new(policy, Arc::new(Fixed(bits)))
    }

    #[test]
    fn the_longest_wait_doubles_up_to_the_most() {
        let backoff = backoff(u64::MAX, 10);
        let waits: Vec<u64> = (0..10)
            .map(|_| backoff.failed(&"a").as_secs_f64().round() as u64)
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn a_thousand_failures_overflow_nothing() {
        let backoff = backoff(u64::MAX, 10);
        for _ in 0..1000 {
            assert!(backoff.failed(&"a") <= Duration::from_secs(60));
        }
    }

    #[test]
    fn the_jitter_is_full_but_never_a_busy_loop() {
        assert_eq!(backoff(0, 10).failed(&"a"), LEAST);
        let half = backoff(1 << 63, 10);
        half.failed(&"a");
        assert_eq!(
            half.failed(&"a"),
            Duration::from_secs(1),
            "half of the second wait"
        );
    }

    #[test]
    fn success_starts_anew() {
        let backoff = backoff(u64::MAX, 10);
        backoff.failed(&"a");
        backoff.failed(&"a");
        backoff.forget(&"a");
        assert!(backoff.is_empty());
        assert!(backoff.failed(&"a") <= Duration::from_secs(1));
    }

    #[test]
    fn objects_wait_on_their_own() {
        let backoff = backoff(u64::MAX, 10);
        backoff.failed(&"a");
        backoff.failed(&"a");
        assert!(backoff.failed(&"b") <= Duration::from_secs(1));
    }

    #[test]
    fn over_the_capacity_the_oldest_is_forgotten() {
        let backoff = backoff(u64::MAX, 2);
        backoff.failed(&"a");
        backoff.failed(&"b");
        backoff.failed(&"a");
        backoff.failed(&"c");
        assert_eq!(backoff.len(), 2);
        assert!(
            backoff.failed(&"a") > Duration::from_secs(3),
            "a failed after b, so b was forgotten"
        );
    }
}

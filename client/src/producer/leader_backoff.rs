//! [`LeaderLookupBackoff`]: how often metadata is requested for partitions without a leader.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::Backoff;

/// Throttles metadata requests for partitions without a leader: one for all of them together, with
/// a delay that grows until one of them has a leader.
#[derive(Debug)]
pub(super) struct LeaderLookupBackoff {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl LeaderLookupBackoff {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            not_before: None,
        }
    }

    /// Returns whether to request metadata now, and when to check again.
    pub(super) fn next_lookup(&mut self, now: Instant) -> (bool, Instant) {
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return (false, at);
        }
        let at = now + self.backoff.next_delay(Duration::ZERO);
        self.not_before = Some(at);
        (true, at)
    }

    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientConfig;

    #[test]
    fn pauses_grow_while_nobody_leads_and_start_over_when_somebody_does() {
        let mut leaderless = LeaderLookupBackoff::new(Backoff::new(&ClientConfig::new("a:1")));
        let mut asked = 0;
        let start = Instant::now();
        let mut now = start;
        while now < start + Duration::from_secs(60) {
            let (asks, again) = leaderless.next_lookup(now);
            // Every lane checks, but only one requests metadata.
            assert_eq!(leaderless.next_lookup(now), (false, again));
            asked += usize::from(asks);
            now = again;
        }
        assert!((60..90).contains(&asked), "asked {asked} times in a minute");
        leaderless.reset();
        let (asks, again) = leaderless.next_lookup(now);
        assert!(asks && again <= now + Duration::from_millis(100));
    }
}

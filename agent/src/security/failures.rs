//! Bounds how fast one address may try passwords, and how much of it is logged.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode};
use tokio::time::{Duration, Instant};

/// Failed attempts of one address within [`WINDOW`] after which further ones are refused unread.
const MAX_FAILURES: u32 = 20;
/// How long failures count.
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses that are counted; with more, all others share one count.
const MAX_ADDRESSES: usize = 10_000;
/// Log lines about failures within [`WINDOW`].
const MAX_LOGGED: u32 = 50;

/// The failed attempts of a window.
#[derive(Debug)]
pub(super) struct FailureLimiter(Mutex<FailureWindow>);

#[derive(Debug)]
struct FailureWindow {
    since: Instant,
    /// `None` is for clients without an address, and for those that there is no room for.
    counts: HashMap<Option<IpAddr>, u32>,
    logged: u32,
}

impl Default for FailureLimiter {
    fn default() -> Self {
        Self(Mutex::new(FailureWindow {
            since: Instant::now(),
            counts: HashMap::new(),
            logged: 0,
        }))
    }
}

impl FailureWindow {
    fn advance(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self {
                since: now,
                counts: HashMap::new(),
                logged: 0,
            };
        }
    }

    fn key(&self, host: Option<IpAddr>) -> Option<IpAddr> {
        host.filter(|_| self.counts.contains_key(&host) || self.counts.len() < MAX_ADDRESSES)
    }
}

impl FailureLimiter {
    /// Checks whether an address may try again.
    ///
    /// # Errors
    /// `ResourceExhausted` if it failed too often.
    pub(super) fn check(&self, host: Option<IpAddr>, now: Instant) -> Result<(), Error> {
        let mut window = self.0.lock();
        window.advance(now);
        let failures = window.counts.get(&window.key(host)).copied();
        if failures.unwrap_or_default() < MAX_FAILURES {
            return Ok(());
        }
        let left = WINDOW.saturating_sub(now.saturating_duration_since(window.since));
        let message = format!("{MAX_FAILURES} authentications of this address failed; try again later");
        Err(Error::new(ErrorCode::ResourceExhausted, message)
            .with_retry_after_ms(u32::try_from(left.as_millis()).unwrap_or(u32::MAX)))
    }

    /// Counts an attempt as failed.
    pub(super) fn count(&self, host: Option<IpAddr>, now: Instant) {
        let mut window = self.0.lock();
        window.advance(now);
        let key = window.key(host);
        *window.counts.entry(key).or_default() += 1;
    }

    /// Takes back that an attempt was counted: it has succeeded.
    pub(super) fn forgive(&self, host: Option<IpAddr>) {
        let mut window = self.0.lock();
        let key = window.key(host);
        if let Some(count) = window.counts.get_mut(&key) {
            *count = count.saturating_sub(1);
        }
    }

    /// Returns whether to log another failure.
    pub(super) fn may_log(&self, now: Instant) -> bool {
        let mut window = self.0.lock();
        window.advance(now);
        window.logged += 1;
        window.logged <= MAX_LOGGED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_often_has_to_wait_and_others_do_not() {
        let (limiter, now) = (FailureLimiter::default(), Instant::now());
        let [guesser, other] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().ok());
        for _ in 0..MAX_FAILURES {
            limiter.check(guesser, now).unwrap();
            limiter.count(guesser, now);
        }
        let refused = limiter.check(guesser, now).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        assert!((1..=10_000).contains(&refused.retry_after_ms()));
        limiter.check(other, now).unwrap();
        limiter.check(guesser, now + WINDOW).unwrap();
    }

    #[test]
    fn neither_memory_nor_log_grows_with_the_number_of_addresses() {
        let (limiter, now) = (FailureLimiter::default(), Instant::now());
        let addresses = (0..MAX_ADDRESSES as u32 + 100).map(|number| IpAddr::from(number.to_be_bytes()));
        let logged = addresses.filter(|address| {
            limiter.count(Some(*address), now);
            limiter.may_log(now)
        });
        assert_eq!(logged.count(), MAX_LOGGED as usize);
        assert_eq!(limiter.0.lock().counts.len(), MAX_ADDRESSES + 1);
    }
}

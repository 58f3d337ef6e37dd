//! Waits for a condition with a deadline. The only module of this crate that reads the clock.

use std::time::{Duration, Instant};

/// How long servers may take to start or stop. Generous, since CI machines are slow and no test
/// waits longer than needed.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `condition` every 10 ms until it returns a value; `Ok(None)` means "not yet".
///
/// # Errors
///
/// Fails with the error of `condition`, or with one that names `what` once `limit` has passed.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if now() >= end {
            anyhow::bail!("{what} did not happen within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "real processes are waited for in real time"
)]
fn now() -> Instant {
    Instant::now()
}

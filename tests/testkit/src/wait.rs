//! Waiting for a condition with a deadline, the only place of this crate that reads a clock.

use std::time::{Duration, Instant};

/// How long servers get to start or stop. Generous: a loaded CI machine is slow, and nobody waits longer than needed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `condition` every 10 ms until it gives a value; an error that names `what` once `limit` has passed.
///
/// An error from `condition` ends the waiting at once: return `Ok(None)` for "not yet".
pub fn until<T>(
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

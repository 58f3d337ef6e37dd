//! Keeps the memory of a process, which has passwords and keys, out of core dumps.

use std::io;

/// The largest core dump. Linux writes none that is smaller than a page, and pipes none to a
/// program if the limit is exactly 1; with 0 it would.
const LIMIT_BYTES: u64 = 1;

/// Turns core dumps of this process and of those that it starts off.
///
/// # Errors
///
/// Fails if the system refuses it, which it does for no process.
///
/// # Examples
///
/// ```
/// streamhouse_core::core_dumps::disable()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn disable() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let limit = Rlimit {
        current: Some(LIMIT_BYTES),
        maximum: Some(LIMIT_BYTES),
    };
    Ok(setrlimit(Resource::Core, limit)?)
}

//! Free ports on 127.0.0.1, reserved for as long as their server may be started again.
//!
//! Guarantees: no two live values in any test process of this user have the same port (enforced
//! with file locks), and ports lie below the range from which the kernel assigns ports to outgoing
//! connections. Otherwise a client that reconnects to a stopped server could take the server's
//! port, or even connect to itself.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;

use anyhow::Context;

const FIRST_PORT: u16 = 15_000;
const PORT_COUNT: u16 = 17_000;

/// A port on which no process listens and that no other [`ReservedPort`] reserves.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _lock: File,
}

impl ReservedPort {
    /// Reserves a free port until the value is dropped.
    ///
    /// # Errors
    ///
    /// Fails if all ports are taken.
    pub fn reserve() -> anyhow::Result<ReservedPort> {
        let start = RandomState::new().build_hasher().finish();
        for step in 0..u64::from(PORT_COUNT) {
            let number = FIRST_PORT + u16::try_from(start.wrapping_add(step) % u64::from(PORT_COUNT))?;
            if let Some(port) = ReservedPort::try_reserve(number)? {
                return Ok(port);
            }
        }
        anyhow::bail!("no free port from {FIRST_PORT} on: end some of the servers that run here")
    }

    fn try_reserve(number: u16) -> anyhow::Result<Option<ReservedPort>> {
        let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
        let folder = std::env::temp_dir().join(format!("streamhouse-ports-{user}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(number.to_string());
        let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let free = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(free.then_some(ReservedPort { number, _lock: lock }))
    }

    /// Returns the port number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Returns `127.0.0.1` with this port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::ReservedPort;

    #[test]
    fn a_held_port_is_not_given_out_again() {
        let held: Vec<ReservedPort> = (0..50).map(|_| ReservedPort::reserve().unwrap()).collect();
        let distinct: std::collections::BTreeSet<u16> = held.iter().map(ReservedPort::number).collect();
        assert_eq!(distinct.len(), held.len());
        for port in &held {
            assert!(ReservedPort::try_reserve(port.number()).unwrap().is_none());
        }
    }
}

//! A TCP proxy that can fall silent, like a network that drops packets or a server that hangs.
//!
//! Called by tests of time-outs. Placed in front of any server on 127.0.0.1, it forwards
//! connections until the test silences them. It never changes a byte; a silenced connection stays
//! open and discards what it receives.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

/// The proxy. It closes all connections when it is dropped.
#[derive(Debug)]
pub struct SilentProxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
}

#[derive(Debug)]
struct ProxyState {
    target: SocketAddr,
    /// Whether new connections are closed at once.
    refusing: AtomicBool,
    /// Whether new connections are silent from the start.
    silent: AtomicBool,
    stopped: AtomicBool,
    accepted: AtomicUsize,
    connections: Mutex<Vec<ProxiedConnection>>,
}

/// A connection through the proxy.
#[derive(Debug)]
struct ProxiedConnection {
    near: TcpStream,
    far: TcpStream,
    silenced: Arc<SilencedDirections>,
}

/// The directions that are silent.
#[derive(Debug, Default)]
struct SilencedDirections {
    requests: AtomicBool,
    answers: AtomicBool,
}

impl SilentProxy {
    /// Starts a proxy in front of the server on this port.
    pub fn start(port: u16) -> anyhow::Result<SilentProxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ProxyState {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            refusing: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            connections: Mutex::default(),
        });
        let serving = shared.clone();
        spawn_thread(move || serving.accept(&listener));
        Ok(SilentProxy { address, shared })
    }

    /// Returns the port on which the proxy listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns a server's URL with its port replaced by the proxy's.
    pub fn url(&self, url: &str) -> String {
        url.replace(
            &format!("127.0.0.1:{}", self.shared.target.port()),
            &format!("127.0.0.1:{}", self.port()),
        )
    }

    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Silences the existing connections in both directions; new ones work.
    pub fn silence_established(&self) {
        for link in self.shared.lock().iter() {
            link.silenced.requests.store(true, Ordering::SeqCst);
            link.silenced.answers.store(true, Ordering::SeqCst);
        }
    }

    /// Silences the responses of the existing connections, which still carry requests; new ones
    /// work.
    pub fn silence_responses(&self) {
        for link in self.shared.lock().iter() {
            link.silenced.answers.store(true, Ordering::SeqCst);
        }
    }

    /// Sets whether new connections are silent from the start.
    pub fn silence_new(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse_new(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Closes the existing connections.
    pub fn close_all(&self) {
        for link in self.shared.lock().drain(..) {
            link.close();
        }
    }
}

impl Drop for SilentProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.close_all();
        // Wakes the listener, which then stops.
        let _ = TcpStream::connect(self.address);
    }
}

impl ProxiedConnection {
    fn close(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }
}

impl ProxyState {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ProxiedConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, listener: &TcpListener) {
        for near in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(near) = near else { continue };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            if self.refusing.load(Ordering::SeqCst) {
                continue;
            }
            // An unreachable server looks like one that closes the connection.
            let _ = self.forward(near);
        }
    }

    fn forward(&self, near: TcpStream) -> std::io::Result<()> {
        let far = TcpStream::connect(self.target)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let quiet = Arc::new(SilencedDirections::default());
        let silent = self.silent.load(Ordering::SeqCst);
        quiet.requests.store(silent, Ordering::SeqCst);
        quiet.answers.store(silent, Ordering::SeqCst);
        let (from, to, way) = (near.try_clone()?, far.try_clone()?, quiet.clone());
        spawn_thread(move || copy_until_closed(from, to, &way.requests));
        let (from, to, way) = (far.try_clone()?, near.try_clone()?, quiet.clone());
        spawn_thread(move || copy_until_closed(from, to, &way.answers));
        self.lock().push(ProxiedConnection {
            near,
            far,
            silenced: quiet,
        });
        Ok(())
    }
}

/// Forwards bytes in one direction until either end closes.
fn copy_until_closed(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if silent.load(Ordering::SeqCst) && read > 0 {
            continue;
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this crate blocks, so that sync and async tests use it alike"
)]
fn spawn_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a server that echoes what it receives.
    fn start_echo_server() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn_thread(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let back = stream.try_clone().unwrap();
                spawn_thread(move || copy_until_closed(stream, back, &AtomicBool::new(false)));
            }
        });
        port
    }

    fn exchange_byte(stream: &mut TcpStream) -> Option<u8> {
        stream.write_all(b"x").unwrap();
        let mut heard = [0; 1];
        matches!(stream.read(&mut heard), Ok(1)).then_some(heard[0])
    }

    #[test]
    fn established_connections_fall_silent_and_new_ones_work() {
        let proxy = SilentProxy::start(start_echo_server()).unwrap();
        let connect = || TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let mut old = connect();
        assert_eq!(exchange_byte(&mut old), Some(b'x'));
        proxy.silence_established();
        assert_eq!(exchange_byte(&mut connect()), Some(b'x'));
        old.set_nonblocking(true).unwrap();
        old.write_all(b"x").unwrap();
        assert_eq!(exchange_byte(&mut connect()), Some(b'x'));
        assert!(old.read(&mut [0; 1]).is_err(), "it answered");
        proxy.refuse_new(true);
        assert_eq!(exchange_byte(&mut connect()), None);
        assert_eq!(proxy.accepted(), 4);
    }
}

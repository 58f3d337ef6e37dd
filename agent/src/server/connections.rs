//! Accepts the connections of a port: a bounded number at once, each with TCP_NODELAY, and with TLS
//! where the port has a certificate. Over the limit, new connections wait in the operating system's
//! queue until one closes; nothing here grows with the number of clients. A connection of an
//! address that has too many is closed at once. A handshake occupies a slot like a connection and
//! has a time limit, so that a client cannot occupy slots without using them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use prometheus::{IntCounter, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Duration, Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{
    address_limit::{AddressLimit, AddressSlot},
    plain_text,
};
use crate::metrics::ListenerTraffic;

/// Back-off after the operating system refused to accept a connection (out of file descriptors).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Maximum number of concurrent handshakes: each costs a signature.
const MAX_CONCURRENT_HANDSHAKES: usize = 64;

/// Policy of the connections of a port.
pub struct ConnectionPolicy {
    /// Maximum number of connections.
    pub limit: usize,
    /// Maximum number of connections of one address; 0 for any number.
    pub limit_per_address: usize,
    /// Gauge of open connections.
    pub open_connections: IntGauge,
    /// Counts the bytes of the port.
    pub traffic: ListenerTraffic,
    /// TLS of the port; plain text if `None`.
    pub security: Option<ConnectionSecurity>,
    /// Number of bytes with which every client of this protocol begins.
    pub preface_bytes: usize,
    /// How long a client may take for the handshake, and then for its preface.
    pub handshake_timeout: Duration,
}

/// TLS of the connections of a port.
#[derive(Clone)]
pub struct ConnectionSecurity {
    /// Performs the handshakes.
    pub acceptor: TlsAcceptor,
    /// Counts failed handshakes.
    pub failures: IntCounter,
}

/// Accepts connections under this policy. TLS connections are returned in the order in which their
/// handshakes complete.
pub fn accept(
    listener: TcpListener,
    rules: ConnectionPolicy,
) -> impl Stream<Item = io::Result<ClientConnection>> {
    let port = ConnectionAcceptor {
        listener,
        permits: Arc::new(Semaphore::new(rules.limit)),
        addresses: AddressLimit::new(rules.limit_per_address),
        rules,
        handshakes: JoinSet::new(),
    };
    stream::unfold(port, |mut port| async move {
        let connection = port.accept_next().await?;
        Some((Ok(connection), port))
    })
}

struct ConnectionAcceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    addresses: AddressLimit,
    rules: ConnectionPolicy,
    /// Handshakes in progress; they end with the port.
    handshakes: JoinSet<Option<(ConnectionTransport, ConnectionSlot)>>,
}

impl ConnectionAcceptor {
    async fn accept_next(&mut self) -> Option<ClientConnection> {
        let (stream, place) = self.accept_transport().await?;
        Some(ClientConnection {
            stream,
            preface: PrefaceDeadline::from_policy(self.rules.preface_bytes, self.rules.handshake_timeout),
            traffic: self.rules.traffic.clone(),
            _place: place,
        })
    }

    async fn accept_transport(&mut self) -> Option<(ConnectionTransport, ConnectionSlot)> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(secured)) = done {
                        return Some(secured);
                    }
                }
                admitted = accept_with_permit(&self.listener, &self.permits, &self.addresses), if self.handshakes.len() < MAX_CONCURRENT_HANDSHAKES => {
                    let (stream, permits) = admitted?;
                    let place = ConnectionSlot::new(permits, self.rules.open_connections.clone());
                    match self.rules.security.clone() {
                        None => return Some((ConnectionTransport::Plain(stream), place)),
                        Some(security) => {
                            self.handshakes.spawn(run_handshake(stream, place, security, self.rules.handshake_timeout));
                        }
                    }
                }
            }
        }
    }
}

async fn accept_with_permit(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    addresses: &AddressLimit,
) -> Option<(TcpStream, (OwnedSemaphorePermit, AddressSlot))> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    loop {
        let (stream, address) = accept_one(listener).await;
        match addresses.count(address.ip()) {
            Some(slot) => return Some((stream, (permit, slot))),
            // Any client can cause this, so it is not logged at a higher level.
            None => tracing::debug!(%address, "closed a connection of an address that has too many"),
        }
    }
}

async fn accept_one(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Otherwise small responses wait for the acknowledgement of the previous one.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return (stream, address);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; retrying");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn run_handshake(
    mut stream: TcpStream,
    place: ConnectionSlot,
    security: ConnectionSecurity,
    patience: Duration,
) -> Option<(ConnectionTransport, ConnectionSlot)> {
    let secured = async {
        if stream.peek(&mut [0]).await? == 0 {
            // A port probe connects and closes at once.
            return Ok(None);
        }
        if plain_text::refuse_plain_text(&mut stream).await? {
            return Err(io::Error::other("the client does not speak TLS"));
        }
        security.acceptor.accept(stream).await.map(Some)
    };
    let problem = match timeout(patience, secured).await {
        Ok(Ok(None)) => return None,
        Ok(Ok(Some(stream))) => return Some((ConnectionTransport::Secure(Box::new(stream)), place)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the handshake took longer than {patience:?}"),
    };
    security.failures.inc();
    // Any client that reaches the port can cause this, so it is not logged per connection at a
    // higher level.
    tracing::debug!(problem, "a TLS handshake failed");
    None
}

/// One of the port's connection slots, released when dropped.
#[derive(Debug)]
struct ConnectionSlot {
    _permits: (OwnedSemaphorePermit, AddressSlot),
    open: IntGauge,
}

impl ConnectionSlot {
    fn new(permits: (OwnedSemaphorePermit, AddressSlot), open: IntGauge) -> Self {
        open.inc();
        Self {
            _permits: permits,
            open,
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[derive(Debug)]
enum ConnectionTransport {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// The first bytes of a connection, which must arrive by the deadline.
#[derive(Debug)]
struct PrefaceDeadline {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl PrefaceDeadline {
    fn from_policy(preface: usize, patience: Duration) -> Option<Self> {
        (preface > 0).then(|| Self {
            missing: preface,
            deadline: Box::pin(sleep(patience)),
        })
    }
}

/// An open connection; releases its slot when dropped.
#[derive(Debug)]
pub struct ClientConnection {
    stream: ConnectionTransport,
    /// `None` once the preface has arrived.
    preface: Option<PrefaceDeadline>,
    traffic: ListenerTraffic,
    _place: ConnectionSlot,
}

impl ClientConnection {
    /// Counts bytes of the preface. Fails when the preface is not complete by the deadline.
    fn track_preface(&mut self, read: Option<usize>, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(beginning) = &mut self.preface else {
            return Ok(());
        };
        match read {
            Some(bytes) if bytes >= beginning.missing => self.preface = None,
            Some(bytes) => beginning.missing -= bytes,
            None if beginning.deadline.as_mut().poll(cx).is_ready() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => {}
        }
        Ok(())
    }
}

impl ClientConnection {
    fn count_sent(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.traffic.sent.inc_by(*bytes as u64);
        }
    }
}

impl Connected for ClientConnection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.stream {
            ConnectionTransport::Plain(stream) => stream.connect_info(),
            ConnectionTransport::Secure(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

/// Calls the same method on either kind of stream.
macro_rules! delegate_to_transport {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match &mut $self.stream {
            ConnectionTransport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            ConnectionTransport::Secure(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = delegate_to_transport!(self.poll_read(cx, buf));
        let read = polled.is_ready().then(|| buf.filled().len() - before);
        self.traffic.received.inc_by(read.unwrap_or_default() as u64);
        self.track_preface(read, cx)?;
        polled
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = delegate_to_transport!(self.poll_write(cx, buf));
        self.count_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = delegate_to_transport!(self.poll_write_vectored(cx, bufs));
        self.count_sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            ConnectionTransport::Plain(stream) => stream.is_write_vectored(),
            ConnectionTransport::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate_to_transport!(self.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate_to_transport!(self.poll_shutdown(cx))
    }
}

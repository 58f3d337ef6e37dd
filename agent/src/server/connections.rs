//! Accepts the connections of a port: a bounded number at once, each with TCP_NODELAY, and with TLS
//! where the port has a certificate. Over the limit, new connections wait in the operating system's
//! queue until one closes; nothing here grows with the number of clients. A handshake occupies a
//! slot like a connection and has a time limit, so that a client cannot occupy slots without using
//! them.

use std::{
    future::Future,
    io,
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

use super::plain;

/// Back-off after the operating system refused to accept a connection (out of file descriptors).
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// Maximum number of concurrent handshakes: each costs a signature.
const HANDSHAKES: usize = 64;

/// Policy of the connections of a port.
pub struct Rules {
    /// Maximum number of connections.
    pub limit: usize,
    /// Gauge of open connections.
    pub open: IntGauge,
    /// TLS of the port; plain text if `None`.
    pub security: Option<Security>,
    /// Number of bytes with which every client of this protocol begins.
    pub preface: usize,
    /// How long a client may take for the handshake, and then for its preface.
    pub patience: Duration,
}

/// TLS of the connections of a port.
#[derive(Clone)]
pub struct Security {
    /// Performs the handshakes.
    pub acceptor: TlsAcceptor,
    /// Counts failed handshakes.
    pub failures: IntCounter,
}

/// Accepts connections under this policy. TLS connections are returned in the order in which their
/// handshakes complete.
pub fn accept(listener: TcpListener, rules: Rules) -> impl Stream<Item = io::Result<Connection>> {
    let port = Port {
        listener,
        permits: Arc::new(Semaphore::new(rules.limit)),
        rules,
        handshakes: JoinSet::new(),
    };
    stream::unfold(port, |mut port| async move {
        let connection = port.next().await?;
        Some((Ok(connection), port))
    })
}

struct Port {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    rules: Rules,
    /// Handshakes in progress; they end with the port.
    handshakes: JoinSet<Option<(Transport, Place)>>,
}

impl Port {
    async fn next(&mut self) -> Option<Connection> {
        let (stream, place) = self.next_transport().await?;
        Some(Connection {
            stream,
            beginning: Beginning::of(self.rules.preface, self.rules.patience),
            _place: place,
        })
    }

    async fn next_transport(&mut self) -> Option<(Transport, Place)> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(secured)) = done {
                        return Some(secured);
                    }
                }
                admitted = admit(&self.listener, &self.permits), if self.handshakes.len() < HANDSHAKES => {
                    let (stream, permit) = admitted?;
                    let place = Place::new(permit, self.rules.open.clone());
                    match self.rules.security.clone() {
                        None => return Some((Transport::Plain(stream), place)),
                        Some(security) => {
                            self.handshakes.spawn(handshake(stream, place, security, self.rules.patience));
                        }
                    }
                }
            }
        }
    }
}

async fn admit(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    Some((accept_one(listener).await, permit))
}

async fn accept_one(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Otherwise small responses wait for the acknowledgement of the previous one.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; retrying");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn handshake(
    mut stream: TcpStream,
    place: Place,
    security: Security,
    patience: Duration,
) -> Option<(Transport, Place)> {
    let secured = async {
        if stream.peek(&mut [0]).await? == 0 {
            // A port probe connects and closes at once.
            return Ok(None);
        }
        if plain::refused(&mut stream).await? {
            return Err(io::Error::other("the client does not speak TLS"));
        }
        security.acceptor.accept(stream).await.map(Some)
    };
    let problem = match timeout(patience, secured).await {
        Ok(Ok(None)) => return None,
        Ok(Ok(Some(stream))) => return Some((Transport::Secure(Box::new(stream)), place)),
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
struct Place {
    _permit: OwnedSemaphorePermit,
    open: IntGauge,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, open: IntGauge) -> Self {
        open.inc();
        Self {
            _permit: permit,
            open,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// The first bytes of a connection, which must arrive by the deadline.
#[derive(Debug)]
struct Beginning {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Beginning {
    fn of(preface: usize, patience: Duration) -> Option<Self> {
        (preface > 0).then(|| Self {
            missing: preface,
            deadline: Box::pin(sleep(patience)),
        })
    }
}

/// An open connection; releases its slot when dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    /// `None` once the preface has arrived.
    beginning: Option<Beginning>,
    _place: Place,
}

impl Connection {
    /// Counts bytes of the preface. Fails when the preface is not complete by the deadline.
    fn begin(&mut self, read: Option<usize>, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(beginning) = &mut self.beginning else {
            return Ok(());
        };
        match read {
            Some(bytes) if bytes >= beginning.missing => self.beginning = None,
            Some(bytes) => beginning.missing -= bytes,
            None if beginning.deadline.as_mut().poll(cx).is_ready() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => {}
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.stream {
            Transport::Plain(stream) => stream.connect_info(),
            Transport::Secure(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

/// Calls the same method on either kind of stream.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match &mut $self.stream {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Secure(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = delegate!(self.poll_read(cx, buf));
        let read = polled.is_ready().then(|| buf.filled().len() - before);
        self.begin(read, cx)?;
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_shutdown(cx))
    }
}

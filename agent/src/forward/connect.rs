//! Opens connections to the gRPC listeners of other agents, with TLS if this agent's own gRPC
//! listener has it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use streamhouse_core::{Error, ErrorCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Duration, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::{
    codegen::Service,
    transport::{Channel, Endpoint},
};

use crate::tls::ListenerCertificate;

/// How long opening a connection may take, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Keepalive: how long a connection may be silent before it is pinged, and how long the answer may
/// take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// HTTP/2 flow-control window of answers.
const ANSWER_WINDOW: u32 = 1 << 20;

/// Returns a channel to the agent at this address. It connects on first use, and again whenever the
/// connection has broken.
pub(super) fn open_channel(address: &str, tls: Option<&Arc<ListenerCertificate>>) -> Result<Channel, Error> {
    // TLS is the connector's: the files that it uses may change between two connections.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        let message = format!("the leader's address {address:?} cannot be used: {error}");
        Error::new(ErrorCode::LeaderNotAvailable, message)
    })?;
    let connector = PeerConnector {
        address: address.into(),
        tls: tls.cloned(),
    };
    Ok(endpoint
        .initial_stream_window_size(ANSWER_WINDOW)
        .initial_connection_window_size(ANSWER_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .connect_with_connector_lazy(connector))
}

/// Connects to one address.
#[derive(Debug, Clone)]
struct PeerConnector {
    address: Arc<str>,
    tls: Option<Arc<ListenerCertificate>>,
}

/// A connection, secure or not.
trait PeerConnection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerConnection for T {}

type ConnectedPeer = TokioIo<Box<dyn PeerConnection>>;

impl Service<Uri> for PeerConnector {
    type Response = ConnectedPeer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ConnectedPeer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match timeout(CONNECT_TIMEOUT, connector.connect()).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

impl PeerConnector {
    async fn connect(&self) -> io::Result<Box<dyn PeerConnection>> {
        let stream = TcpStream::connect(&*self.address).await?;
        stream.set_nodelay(true)?;
        let Some(certificate) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let config = certificate.peer_config().map_err(io::Error::other)?;
        let name = ServerName::try_from(host_of(&self.address).to_owned()).map_err(io::Error::other)?;
        let secured = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Box::new(secured))
    }
}

/// Returns the host of an address, an IPv6 address without its brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_has_neither_port_nor_brackets() {
        assert_eq!(host_of("agents.shop.svc:50051"), "agents.shop.svc");
        assert_eq!(host_of("[fd00::7]:50051"), "fd00::7");
    }
}

//! The connections of the gRPC port: at most so many at once, each without delay and with keep-alive. Over the limit, new
//! ones wait in the operating system's queue until one closes; nothing here grows with the number of clients.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long to wait after the operating system refused a connection (out of file descriptors).
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Accepts connections, at most `limit` at once; `open` says how many there are.
pub fn accept(
    listener: TcpListener,
    limit: usize,
    open: IntGauge,
) -> impl Stream<Item = io::Result<Connection>> {
    let permits = Arc::new(Semaphore::new(limit));
    stream::unfold(
        (listener, permits, open),
        |(listener, permits, open)| async move {
            let permit = permits.clone().acquire_owned().await.ok()?;
            let stream = accept_one(&listener).await;
            open.inc();
            let connection = Connection {
                stream,
                _permit: permit,
                open: open.clone(),
            };
            Some((Ok(connection), (listener, permits, open)))
        },
    )
}

async fn accept_one(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, small answers wait for the acknowledgement of the one before.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// An open connection; gives its place back when dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    open: IntGauge,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_for_a_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = IntGauge::new("open", "test").unwrap();
        let mut accepted = Box::pin(accept(listener, 1, open.clone()));
        let _one = TcpStream::connect(address).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert!(first.connect_info().remote_addr().is_some());
        let _two = TcpStream::connect(address).await.unwrap();
        assert!(accepted.next().now_or_never().is_none());
        assert_eq!(open.get(), 1);
        drop(first);
        let _second = accepted.next().await.unwrap().unwrap();
        assert_eq!(open.get(), 1);
    }
}

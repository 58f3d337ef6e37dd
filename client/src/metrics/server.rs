//! HTTP server for `/metrics` and `/health` of a process with producers or consumers.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use prometheus::{Encoder, TextEncoder};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::MetricsRegistry;
use crate::error::{Error, Result};

/// A running metrics server. Dropping it stops the server.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Serves a registry's metrics over HTTP at an address, `host:port`. Port 0 selects a free port.
///
/// # Errors
/// [`Error::Config`] if the address cannot be bound.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use streamhouse_client::metrics;
///
/// let server = metrics::serve("0.0.0.0:9090", Default::default()).await?;
/// println!("metrics at http://{}/metrics", server.address());
/// server.close().await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(address: impl Into<String>, registry: MetricsRegistry) -> Result<MetricsServer> {
    let refuse = |error: std::io::Error| {
        Error::Config(format!(
            "cannot serve metrics: {error}; choose another address or a free port"
        ))
    };
    let listener = TcpListener::bind(address.into()).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    let stop = CancellationToken::new();
    let app = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/health", get(async || "ok\n"))
        .with_state(registry);
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
            tracing::warn!(%error, "the metrics server failed");
        }
    });
    Ok(MetricsServer {
        address,
        stop,
        task: Some(task),
    })
}

impl MetricsServer {
    /// Returns the address the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server after it has answered the requests in progress.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve_metrics(State(registry): State<MetricsRegistry>) -> impl IntoResponse {
    let mut out = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.prometheus().gather(), &mut out) {
        tracing::warn!(%error, "cannot encode some metrics");
    }
    ([(CONTENT_TYPE, TextEncoder::new().format_type().to_owned())], out)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get_text(address: SocketAddr, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let registry = MetricsRegistry::new();
        super::super::ProducerMetrics::new(&registry)
            .for_topic("t")
            .record_failed(3);
        let server = serve("127.0.0.1:0", registry).await.unwrap();
        let metrics = get_text(server.address(), "/metrics").await;
        assert!(
            metrics.contains("streamhouse_producer_send_errors_total{topic=\"t\"} 3"),
            "{metrics}"
        );
        assert!(
            get_text(server.address(), "/health")
                .await
                .starts_with("HTTP/1.1 200")
        );
        server.close().await;
    }
}

//! Serves HTTP: `GET /health` (the process runs), `GET /ready` (the agent has joined the cluster,
//! holds its share of leases and is not draining; otherwise 503 with the reasons), `GET /metrics`
//! (Prometheus text). Everything that a client can make large or slow is bounded: connections,
//! headers, and the time that either may take.

use std::{future::Future, io, pin::pin, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{Stream, StreamExt};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Duration, sleep, timeout},
};
use tonic::transport::server::Connected;

use super::{ServerDeps, connections::ClientConnection};
use crate::console::ClientAddress;

/// Content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Maximum number of concurrent connections: probes, a few Prometheus servers, people.
pub const MAX_HTTP_CONNECTIONS: usize = 128;
/// Limits of one request's headers, in bytes and in number.
const MAX_HTTP_HEADERS: (usize, usize) = (16 << 10, 64);
/// How long a request's headers may take to arrive, and a connection may wait for its next request.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection older than this ends with its current response, so that one whose client does not
/// read ends as well.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);
/// How long the current response may still take then.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the routes of the three pages.
pub fn status_router(deps: Arc<ServerDeps>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(deps)
}

/// Serves the router to connections until `stop` resolves and the responses in flight are complete.
/// See [`HEADER_READ_TIMEOUT`] for `headers`.
///
/// # Errors
/// If accepting connections fails.
pub async fn serve_http(
    connections: impl Stream<Item = io::Result<ClientConnection>>,
    router: Router,
    headers: Duration,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> io::Result<()> {
    let mut connections = pin!(connections);
    let mut serving = JoinSet::new();
    let mut stopped = pin!(stop.clone());
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(_) = serving.join_next() => {}
            Some(connection) = connections.next() => {
                serving.spawn(serve_connection(connection?, router.clone(), headers, stop.clone()));
            }
        }
    }
    while serving.join_next().await.is_some() {}
    Ok(())
}

/// Serves one connection until it ends or reaches its maximum age.
async fn serve_connection(
    connection: ClientConnection,
    router: Router,
    headers: Duration,
    stop: impl Future<Output = ()>,
) {
    let address = connection.connect_info().remote_addr();
    // An IPv4 client of a port on `[::]` has a mapped address.
    let address = ClientAddress(address.map(|address| address.ip().to_canonical()));
    let router = router.layer(Extension(address));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_buf_size(MAX_HTTP_HEADERS.0)
        .max_headers(MAX_HTTP_HEADERS.1);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = &mut connection => Ok(ended),
        () = async { tokio::select! { () = stop => {}, () = sleep(MAX_CONNECTION_AGE) => {} } } => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_RESPONSE_TIMEOUT, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an HTTP connection failed");
    }
}

async fn health() -> &'static str {
    "ok\n"
}

async fn ready(State(deps): State<Arc<ServerDeps>>) -> Response {
    let reasons = deps.health.reasons();
    if reasons.is_empty() {
        let mut answer = json!({ "ready": true });
        let warnings = deps.security.warnings();
        if !warnings.is_empty() {
            answer["warnings"] = json!(warnings);
        }
        return (StatusCode::OK, Json(answer)).into_response();
    }
    let reasons: Vec<_> = reasons
        .iter()
        .map(|(what, why)| json!({ "condition": what.name(), "reason": why }))
        .collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({ "ready": false, "reasons": reasons })),
    )
        .into_response()
}

async fn metrics(State(deps): State<Arc<ServerDeps>>) -> Response {
    deps.gauges.update();
    match deps.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
